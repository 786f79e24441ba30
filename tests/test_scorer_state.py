"""What is known of a model holds for the state that it was learnt in, and learning it changes nothing else."""

from __future__ import annotations

import gc
import random
import types
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, MistralForCausalLM, modeling_utils

from benchmarks.architectures import plain_loop
from reasoning_guard import selftest_twin
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.exactness import largest_difference
from reasoning_guard.head import head_of
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import reading
from reasoning_guard.model_parts import forward_identity
from reasoning_guard.selftest import confirm, verdict_of
from reasoning_guard.selftest_twin import verdict_of_twin
from reasoning_guard.tree import Branch, BranchScore, TraceTree
from reasoning_guard.twins import build_twin
from reasoning_guard.verdict import Verdict
from tiny_models import tiny_model


def a_tree(length: int = 30, scored: int = 4) -> TraceTree:
    rng = random.Random(0)
    ids = tuple(rng.randrange(3, 60) for _ in range(length + scored + 1))
    asked = ids[length:]
    return TraceTree(ids[:length], tuple(Branch(length * k // 3, asked, (1, 1 + scored)) for k in range(1, 4)))


TREE = a_tree()


def assert_exact(model: Any, scorer: BranchScorer) -> None:
    [scores] = scorer.score_trees([TREE])
    model.eval()
    assert [p for score in scores for p in score.logprobs] == pytest.approx(plain_loop(model, TREE), abs=1e-4)


def test_a_forward_in_the_place_of_a_freed_one_is_another() -> None:
    model, known, places = tiny_model("llama"), [], []
    for _ in range(20):
        model.forward = types.MethodType(lambda self, *args, **kwargs: None, model)
        identity = forward_identity(model)
        assert identity == forward_identity(model)
        assert identity not in known
        known.append(identity)
        places.append(id(model.forward.__func__))
        del model.forward
    assert len(set(places)) < len(places), "otherwise none took a freed one's place"


def test_a_cap_that_is_set_later_is_seen() -> None:
    model = tiny_model("gemma2", final_logit_softcapping=None)
    scorer = BranchScorer(model)
    assert_exact(model, scorer)
    model.config.final_logit_softcapping = 2.0
    assert_exact(model, scorer)


def test_a_window_that_is_set_later_is_seen() -> None:
    model = tiny_model("mistral", sliding_window=9)
    scorer = BranchScorer(model)
    assert_exact(model, scorer)
    model.config.sliding_window = 5
    assert_exact(model, scorer)


def test_formats_and_adapters_are_states_of_their_own() -> None:
    model: Any = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"], r=2))
    model.add_adapter("other", LoraConfig(target_modules=["v_proj"], r=2))
    scorer, verdicts = BranchScorer(model), []

    def judged() -> None:
        scorer.score_trees([TREE])
        verdicts.append(scorer.verdict)

    judged()
    judged()
    assert verdicts[1] is verdicts[0]
    model.set_adapter("other")
    judged()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        judged()
    with torch.autocast("cpu", dtype=torch.float16):
        judged()
    model.bfloat16()
    judged()
    model.forward = types.MethodType(lambda self, *args, **inputs: type(self).forward(self, *args, **inputs), model)
    judged()
    model.get_base_model().set_attn_implementation("eager")
    judged()
    assert len({id(verdict) for verdict in verdicts}) == 7


@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_what_a_twin_shows_does_not_depend_on_a_hosts_autocast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in float32 lest a wrong mask hide in rounding; what the first test finds is kept for the process."""
    monkeypatch.setattr(selftest_twin, "_twins", {})
    model = tiny_model(name).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = verdict_of_twin(model)
    monkeypatch.setattr(selftest_twin, "_twins", {})
    assert first == verdict_of_twin(model)
    assert first.plan or first.forks


def test_a_mixture_that_balances_its_experts_shares_its_trunk() -> None:
    """The loss for it, which `output_router_logits` asks for, fails under a mask; reading has no use for it."""
    model = tiny_model("mixtral", output_router_logits=True)
    whole = TREE.branches[2]
    tree = TraceTree(TREE.trunk, (whole, replace(whole, hide=(0, 9), against=whole)))
    scorer = BranchScorer(model)
    [[_, found]] = scorer.score_trees([tree])
    assert scorer.verdict is not None
    assert scorer.verdict.plan is not None
    assert len(found.kl) == 4
    assert model.config.output_router_logits is True
    [[_, expected]] = BranchScorer(tiny_model("mixtral")).score_trees([tree])
    assert found == expected


def test_a_trace_of_which_nothing_is_asked_tests_nothing() -> None:
    scorer, silent = BranchScorer(tiny_model("llama")), TraceTree(TREE.trunk[:2], ())
    assert scorer.score_trees([silent]) == [[]]
    assert scorer.verdict is None
    assert [len(scores) for scores in scorer.score_trees([silent, TREE, silent])] == [0, 3, 0]


def test_twins_differ_in_more_than_their_kinds_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Falcon adds biases by distance or rotates by position: a setting, not a kind of layer."""
    monkeypatch.setattr(selftest_twin, "_twins", {})
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
    verdicts = []
    for alibi in (False, True):
        config = AutoConfig.for_model("falcon", alibi=alibi, **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with reading(model):
            verdicts.append(verdict_of_twin(model))
    assert verdicts[0].plan is not None
    assert verdicts[1].plan is None
    config = AutoConfig.for_model("falcon", alibi=True, **{**sizes, "num_hidden_layers": 3, "hidden_size": 128})
    with reading(AutoModelForCausalLM.from_config(config, dtype=torch.float32)) as larger:
        assert verdict_of_twin(larger) is verdicts[1], "sizes are no difference"


def test_what_is_known_of_a_model_keeps_it_in_no_memory() -> None:
    model = tiny_model("llama")
    BranchScorer(model).score_trees([TREE])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_twins_are_tested_with_the_models_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass with a table in the mask's place is for one kind of attention only."""
    monkeypatch.setattr(selftest_twin, "_twins", {})
    model, found = tiny_model("llama"), {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with reading(model):
            found[attention] = verdict_of_twin(model).at_once
    assert found == {"eager": False, "sdpa": True}


class Deaf(LlamaForCausalLM):
    """A forward that lets no mask through: right where a branch sees all of the trunk."""

    def forward(self, attention_mask: Any = None, **rest: Any) -> Any:  # type: ignore[override]
        return super().forward(**rest)


class Barring(MistralForCausalLM):
    """A forward that rules a token out by the least number of its format."""

    def forward(self, **inputs: Any) -> Any:  # type: ignore[override]
        output = super().forward(**inputs)
        output.logits = output.logits.index_fill(-1, torch.tensor([63]), torch.finfo(torch.float32).min)
        return output


def test_a_model_is_tried_on_branches_that_part_where_it_is_asked_at_the_end_alone() -> None:
    model, end = tiny_model("llama"), TraceTree(TREE.trunk, TREE.branches[-1:])
    with reading(model):
        assert confirm(model, Verdict(MaskPlan(), ""), [end]).plan == MaskPlan()
        model.__class__ = Deaf
        assert confirm(model, Verdict(MaskPlan(), ""), [end]).plan is None


def test_a_token_that_cannot_come_leaves_no_room_for_other_differences() -> None:
    """Of a window that the plan knows nothing of, say."""
    model, barred = tiny_model("mistral"), Branch(20, (5, 63, 7), (1, 3))
    model.__class__ = Barring
    trees = [TraceTree(TREE.trunk, (*TREE.branches, barred))]
    with reading(model):
        assert confirm(model, Verdict(MaskPlan(), ""), trees).plan is None


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_are_read_one_sequence_at_a_time(kind: str) -> None:
    """Among them are factors that are chosen by the longest sequence of a batch, silently."""
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 6, "long_factor": [3.0] * 6, "original_max_position_embeddings": 40}
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=160)
    trees, scorer = [a_tree(30), a_tree(50)], BranchScorer(model)
    found = scorer.score_trees(trees)
    assert scorer.verdict is not None
    assert (scorer.verdict.plan, scorer.verdict.forks, scorer.verdict.pads) == (None, False, False)
    assert f"its {kind} RoPE depends on the total length" in scorer.verdict.reason
    model.eval()
    truth = [p for tree in trees for p in plain_loop(model, tree)]
    assert [p for scores in found for score in scores for p in score.logprobs] == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "dynamic"},
                "sliding_attention": {"rope_type": "default"},
            }
        },
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "dynamic"}},
    ],
)
def test_a_rotation_is_known_under_all_its_names(settings: dict[str, Any]) -> None:
    assert "dynamic" in selftest_twin._rope_types(types.SimpleNamespace(**settings))


def test_no_random_state_of_any_device_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` seeds every accelerator, and only those that a model lies on would be put back."""
    model = tiny_model("llama")

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "manual_seed", refuse)
    before = torch.get_rng_state()
    twins = [build_twin(model), build_twin(model)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*(twin.parameters() for twin in twins), strict=True))


def test_a_twin_is_never_shared_out_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3 Transformers partitions whatever it builds; one process alone must have the whole twin."""
    model = tiny_model("llama")
    monkeypatch.setattr(modeling_utils, "is_deepspeed_zero3_enabled", lambda: True)
    assert all(parameter.numel() for parameter in build_twin(model).parameters())


def test_tokens_without_an_embedding_are_refused_before_they_are_fed() -> None:
    model = tiny_model("llama")
    model.register_forward_pre_hook(lambda *_: pytest.fail("it was fed"))
    against = Branch(20, (5, 64), (1, 2))
    for tree in (
        TraceTree((*TREE.trunk, 64), TREE.branches),
        TraceTree(TREE.trunk, (Branch(20, (5, 64), (1, 2)),)),
        TraceTree(TREE.trunk, (Branch(20, (5, 6), (1, 2), against=against),)),
    ):
        with pytest.raises(ValueError, match=r"below 64.* has 64\..*resize_token_embeddings"):
            BranchScorer(model).score_trees([tree])


def test_a_model_that_reads_ahead_is_found_out_by_single_tokens_too() -> None:
    config = AutoConfig.for_model(
        "bert", is_decoder=False, vocab_size=64, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    with reading(model), pytest.raises(ConfigurationError, match="expected a causal language model"):
        verdict_of(model, [a_tree(scored=1)])


def test_all_of_the_context_may_be_used_and_nothing_behind_what_is_scored_counts() -> None:
    """Positions that are learnt have no entry for one more, which on a GPU is the end of the process."""
    model, trunk = tiny_model("gpt2", n_positions=64), tuple(range(3, 51)) * 2
    for branch in (Branch(63, (5, 6), (1, 2)), Branch(62, (5, 6, 7, 8, 9), (1, 3))):
        [[found]] = BranchScorer(model).score_trees([TraceTree(trunk, (branch,))])
        start, stop = branch.scored
        ids = torch.tensor([*trunk[: branch.at], *branch.ids[:stop]])
        with torch.no_grad():
            logprobs = model.eval()(ids[None, :-1]).logits[0].log_softmax(-1)
        truth = logprobs[branch.at + start - 1 :].gather(1, ids[branch.at + start :, None])[:, 0]
        assert list(found.logprobs) == pytest.approx(truth.tolist(), abs=1e-4)
    beyond = Branch(20, (5, 6), (1, 2), against=Branch(64, (5, 6), (1, 2)))
    [[found]] = BranchScorer(model).score_trees([TraceTree(trunk, (beyond,))])
    assert found.total != found.total, "compared with what the model cannot read"


def test_a_default_device_is_not_the_models() -> None:
    tree, model = TraceTree(tuple(range(3, 40)), (Branch(10, (5, 6), (1, 2)), Branch(20, (5, 6), (0, 2)))), "llama"
    expected = BranchScorer(tiny_model(model)).score_trees([tree])
    other = tiny_model(model)
    with torch.device("meta"):
        assert BranchScorer(other).score_trees([tree]) == expected
        assert head_of(other.eval()).splits


def test_tokens_that_cannot_come_are_no_difference() -> None:
    never = BranchScore((-float("inf"), -1.0), (False, True), (0.0, 0.0), (0.0, 0.0))
    near = BranchScore((-float("inf"), -1.5), (False, True), (0.0, 0.0), (0.0, 0.0))
    assert largest_difference([[never]], [[near]]) == 0.5
