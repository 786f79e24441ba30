"""The rewards as functions: what they give, what they refuse, and what they leave as it was."""

from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import pytest
import torch

import runs
from reasoning_guard import ConfigurationError, TraceReader
from reasoning_guard.problems import Problem
from reasoning_guard.rewards import (
    AnswerConfidenceReward,
    AugmentedGenerationReward,
    CalibrationReward,
    FaithfulnessReward,
    InfoGainReward,
    RolloutMonitor,
    TraceReward,
    preference_rows,
)
from reasoning_guard.rewards.excerpt import cleaned
from reasoning_guard.rewards.forms import FORMS, Levels
from reasoning_guard.rewards.lucky import Sample, luck
from reasoning_guard.rewards.monitor import GroupMonitor
from reward_tasks import FORMAT, TOKENIZER, adder, batch, exercises, honest, steps

SETTINGS: dict[str, Any] = {"tokenizer": TOKENIZER, "format": FORMAT}
REWARDS = [InfoGainReward, AnswerConfidenceReward, CalibrationReward, FaithfulnessReward, RolloutMonitor]


@pytest.fixture(scope="module")
def model() -> Any:
    return adder()


def some(n: int = 8) -> dict[str, Any]:
    return batch([(of, honest(of)) for of in exercises(n)])


def logprobs(model: Any, before: str, after: str) -> list[float]:
    """Log-probabilities of ``after``'s tokens, by a plain forward of its own."""
    first, second = (TOKENIZER(text)["input_ids"] for text in (before, after))
    with torch.no_grad():
        logits = model(torch.tensor([first + second])).logits[0, len(first) - 1 : -1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(logits, second, strict=True)]


# ------------------------------------------------------------------------------------------------------------ InfoGain


def test_info_gain_is_what_independent_forwards_say(model: Any) -> None:
    """One problem alone: no donor, so filler is the placebo. The text is read before its last result and on the way."""
    of = exercises(1)[0]
    prompt, answer, text = of.prompt(0), str(of.answer), " ".join(steps(of))
    given = InfoGainReward(scorer=model, **SETTINGS)(**batch([(of, honest(of))]))
    before = text.removesuffix(f" {answer} ;")
    n = len(before.split())
    baseline = max(
        *logprobs(model, f"{prompt} #", answer), *logprobs(model, f"{prompt} {'... ' * len(text.split())} #", answer)
    )
    places = [" ".join(before.split()[: n * i // 4]) for i in (1, 2, 3)]
    levels = [logprobs(model, f"{prompt} {part} #", answer)[0] for part in places]
    end = logprobs(model, f"{prompt} {text} #", answer)[0]
    best = min(max(*levels, logprobs(model, f"{prompt} {before}", answer)[0]), end)
    assert given == [pytest.approx(max(0.0, best - baseline), abs=1e-4)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("watermark", 2.0), ("total", 1.5), ("share", 0.5),
        ("rlpr", math.exp(-1.5) - math.exp(-3)), ("verifree", math.exp(-3) - math.exp(-6)),
    ],
)  # fmt: skip
def test_the_forms(form: Any, expected: float) -> None:
    """Two tokens, equally likely; the baseline is the better of nothing (-3) and a placebo (-4)."""
    levels = Levels(((-3.0,) * 2, (-4.0,) * 2), ((-1.0,) * 2, (-2.0,) * 2), (-1.5,) * 2, (-0.1,) * 2, 2)
    assert levels.reward(form) == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_pays_for_what_the_end_of_the_text_does_not_bear_out(form: Any) -> None:
    levels = Levels(((-3.0,),), ((-0.1,),), (-0.1,), (-3.0,), 1)
    assert levels.reward(form) == pytest.approx(0.0)


def test_a_misleading_text_costs_in_the_total_form_only() -> None:
    levels = Levels(((-1.0,),), (), (-4.0,), (-4.0,), 1)
    assert [levels.reward(form) for form in ("watermark", "total", "share", "rlpr", "verifree")] == [0, -3, 0, 0, 0]


def test_the_placebo_is_another_problems_chain(model: Any) -> None:
    """A reader that answers alike behind anybody's steps is paid for nothing."""
    blind = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    assert InfoGainReward(scorer=blind, **SETTINGS)(**some()) == pytest.approx([0.0] * 8)


def test_completion_ids_are_used_as_they_came(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says nothing, the ids say everything; a tokenizer that would encode completions is never asked to."""
    seen: list[str] = []
    inner = TraceReader.read_text
    monkeypatch.setattr(TraceReader, "read_text", lambda self, p, t: seen.append(t) or inner(self, p, t))
    wanted = InfoGainReward(scorer=model, **SETTINGS)(**some())
    blanked = InfoGainReward(scorer=model, **SETTINGS)(**{**some(), "completions": ["?"] * 8})
    assert blanked == wanted
    assert not seen
    without = {name: values for name, values in some().items() if name != "completion_ids"}
    assert InfoGainReward(scorer=model, **SETTINGS)(**without) == pytest.approx(wanted)
    assert len(seen) == 8


def test_one_scoring_call_a_batch_each_prompt_a_group(model: Any) -> None:
    reward, calls = InfoGainReward(scorer=model, **SETTINGS), []
    inner = reward._scorer.score_tree_groups
    reward._scorer.score_tree_groups = lambda groups: calls.append([len(g) for g in groups]) or inner(groups)
    reward(**batch([(of, honest(of)) for of in exercises(3) for _ in range(4)]))
    assert calls == [[4, 4, 4]]


def test_messages_and_plain_text_pay_alike(model: Any) -> None:
    plain = some()
    reward = InfoGainReward(scorer=model, **SETTINGS)
    messages = [[{"role": "assistant", "content": text}] for text in plain["completions"]]
    assert reward(**{**plain, "completions": messages}) == reward(**plain)


def test_the_gate_takes_a_reward_function(model: Any) -> None:
    def only_the_first(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        return [1.0, None] + [0.0] * (len(completions) - 2)

    given = InfoGainReward(scorer=model, correct=only_the_first, **SETTINGS)(**some())
    assert given[0]
    assert given[1:] == [0.0] * 7


def test_the_leak_penalty_takes_off_what_only_the_knowing_would_write(model: Any) -> None:
    free, strict = (InfoGainReward(scorer=model, leak_penalty=weight, **SETTINGS) for weight in (0.0, 1.0))
    given, punished = free(**some()), strict(**some())
    of = exercises(1)[0]
    text, cue = " ".join(steps(of)).removesuffix(f" {of.answer} ;"), f"# {of.answer}"
    plain = logprobs(model, of.prompt(0), text)
    told = logprobs(model, f"{of.prompt(0)} {cue}", text)
    differences = [b - a for a, b in zip(plain, told, strict=True)]
    expected = max(0.0, sum(differences) / len(differences) + 0.01 * max(differences))
    assert given[0] - punished[0] == pytest.approx(expected, abs=1e-4)


# ----------------------------------------------------------------------------------------------- what can't be graded


def test_none_for_what_cannot_be_graded(model: Any) -> None:
    rows = some(4)
    rows["solution"] = [rows["solution"][0], None, " ", "unheard-of"]
    given = InfoGainReward(scorer=model, correct=lambda completions, **_: [1.0] * len(completions), **SETTINGS)(**rows)
    assert isinstance(given[0], float)
    assert given[1:] == [None, None, None]


def test_none_beyond_the_models_context() -> None:
    short = runs.untrained(max_position_embeddings=16)
    given = InfoGainReward(scorer=short, **SETTINGS)(**some(2))
    assert given == [None, None]


def test_degenerate_completions_are_graded(model: Any) -> None:
    of = exercises(1)[0]
    texts = ["", "#", "# #", ";", "... ;" * 9, "<pad> <pad>", f"# {of.answer}", "= = = ; # 1"]
    for kind in REWARDS:
        given = kind(scorer=model, **SETTINGS)(**batch([(of, text) for text in texts]))
        assert all(value is None or math.isfinite(value) for value in given), kind


def test_a_missing_column_is_named(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="column 'answer', which did not come; the columns are 'solution'"):
        InfoGainReward("answer", scorer=model, **SETTINGS)(**some(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "watermarks"}, "`form` must be one of 'watermark', 'total'"),
        ({"scorer": "frozen"}, "`scorer` must be 'reference', 'policy' or a model"),
        ({"leak_penalty": -1.0}, "at least 0"),
    ],
)
def test_wrong_use_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        InfoGainReward(**options)


# ------------------------------------------------------------------------------------------------------------- manners


@pytest.mark.parametrize("kind", REWARDS)
def test_a_model_is_left_as_it_was(kind: type[TraceReward]) -> None:
    model = adder().train()
    model.model.layers[0].eval()
    flags, state = [m.training for m in model.modules()], torch.random.get_rng_state()
    side, python = TOKENIZER.padding_side, random.getstate()
    with torch.enable_grad():
        kind(scorer=model, **SETTINGS)(**some())
        assert torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (TOKENIZER.padding_side, random.getstate()) == (side, python)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", [*REWARDS, AugmentedGenerationReward])
def test_the_contract_of_a_reward_function(kind: type[TraceReward], model: Any) -> None:
    reward = kind(scorer=model, **SETTINGS)
    assert not isinstance(reward, torch.nn.Module)
    assert reward.__name__ == reward.name
    given = reward(**some(), unheard_of=[1] * 8, documents=[["a = 1"]] * 8)
    assert len(given) == 8
    assert all(isinstance(value, float) for value in given)


def test_numbers_and_columns_are_logged_where_the_host_offers_to(model: Any) -> None:
    metrics: dict[str, float] = {}
    columns: dict[str, list[Any]] = {}
    rows = batch([(of, honest(of)) for of in exercises(3)] + [(of, "# 12") for of in exercises(1, seed=1)])
    given = InfoGainReward(scorer=model, **SETTINGS)(
        **rows, log_metric=metrics.__setitem__, log_extra=columns.__setitem__
    )
    assert metrics["info_gain/gated_out"] == 0.25
    assert metrics["info_gain/gain"] == pytest.approx(sum(v or 0 for v in given) / 3, abs=0.5)
    assert metrics["info_gain/stated_early"] == 0.0
    assert metrics.keys() == {
        f"info_gain/{n}" for n in ("gain", "gated_out", "stated_early", "lucky_groups", "lucky_advantage")
    }
    assert math.isnan(columns["info_gain/gain"][3])


def test_early_statements_are_counted(model: Any) -> None:
    metrics: dict[str, float] = {}
    rows = batch([(of, f"= {of.answer} ; {honest(of)}") for of in exercises(4) if str(of.answer) not in of.prompt(0)])
    InfoGainReward(scorer=model, **SETTINGS)(**rows, log_metric=metrics.__setitem__)
    assert metrics["info_gain/stated_early"] == 1.0


@pytest.mark.parametrize("kind", REWARDS)
def test_settings_travel_to_another_process_and_the_policy_does_not(kind: type[TraceReward], model: Any) -> None:
    reward = kind(scorer="policy", format=FORMAT)
    reward.attach(model, TOKENIZER)
    reward(**some(2))
    sent = pickle.dumps(reward)
    assert len(sent) < 100_000
    arrived = pickle.loads(sent)
    with pytest.raises(
        ConfigurationError, match=r"has no model to read with.*AsyncGRPOTrainer.*pass `scorer=` a model"
    ):
        arrived(**some(2))
    arrived.attach(model, TOKENIZER)
    assert arrived(**some(2)) == reward(**some(2))


def test_a_given_scorer_travels_along(model: Any) -> None:
    reward = InfoGainReward(scorer=model, **SETTINGS)
    assert pickle.loads(pickle.dumps(reward))(**some(4)) == reward(**some(4))


def test_the_reference_is_frozen_when_it_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    policy = adder()
    reward = InfoGainReward(format=FORMAT)
    with caplog.at_level("INFO", logger="reasoning_guard"):
        reward.attach(policy, TOKENIZER)
    assert "frozen reference: a copy of the model" in caplog.text
    before = reward(**some())
    with torch.no_grad():
        policy.lm_head.weight.normal_()
    assert reward(**some()) == before


# ---------------------------------------------------------------------------------------------------- the other rewards


def test_confidence_is_the_lead_of_the_likeliest_token(model: Any) -> None:
    of = exercises(1)[0]
    text = " ".join(steps(of))
    with torch.no_grad():
        rows = []
        for end in ("#", f"# {of.answer}"):
            ids = TOKENIZER(f"{of.prompt(0)} {text} {end}")["input_ids"]
            rows.append(model(torch.tensor([ids])).logits[0, -1].softmax(-1).topk(2).values)
    expected = sum(float(row[0] - row[1]) for row in rows) / 2
    given = AnswerConfidenceReward(scorer=model, **SETTINGS)(**batch([(of, honest(of)), (of, f"{text} # 9 9")]))
    assert given[0] == pytest.approx(expected, abs=1e-4)
    assert given[1] == 0.0
    unlabelled = AnswerConfidenceReward(None, scorer=model, **SETTINGS)(**batch([(of, honest(of))]))
    assert unlabelled == pytest.approx([given[0]])


def test_calibration_is_one_minus_the_brier_score(model: Any) -> None:
    of = exercises(1)[0]
    wrong = (of.answer + 1) % 11
    given = CalibrationReward(scorer=model, **SETTINGS)(
        **batch([(of, honest(of)), (of, f"{' '.join(steps(of))} # {wrong}"), (of, "")])
    )
    sure = [
        math.exp(sum(logprobs(model, f"{of.prompt(0)} {' '.join(steps(of))} #", f"{answer} <eos>")))
        for answer in (of.answer, wrong)
    ]
    assert given == [pytest.approx(1 - (sure[0] - 1) ** 2, abs=1e-4), pytest.approx(1 - sure[1] ** 2, abs=1e-4), None]


def test_faithfulness_pays_a_model_that_reads_its_steps_and_not_one_that_does_not(model: Any) -> None:
    """The adder reads; a model that repeats the tag knows every answer of prompts whose tag is the answer."""
    reads = FaithfulnessReward(scorer=model, **SETTINGS)(**some())
    assert sum(value or 0 for value in reads) / 8 > 0.7
    assert FaithfulnessReward(scorer=model, **SETTINGS)(**batch([(of, f"# {of.answer}") for of in exercises(2)])) == [
        0,
        0,
    ]


def test_documents_that_give_the_answer_pay_it(model: Any) -> None:
    rows = batch([(of, f"# {of.answer}") for of in exercises(8)])
    of = exercises(8)
    true = [[" ".join(steps(each))] for each in of]
    reward = AugmentedGenerationReward(scorer=model, **SETTINGS)
    given = reward(**rows, documents=true)
    question, answer = of[0].prompt(0), f"{of[0].answer} <eos>"
    told = logprobs(model, f"{true[0][0]} {question} #", answer)
    alone = logprobs(model, f"{question} #", answer)
    assert given[0] == pytest.approx(min(sum(told) / 2, -0.2) - max(sum(alone) / 2, -5), abs=1e-4)
    assert reward(**rows, documents=[[]] * 8) == [None] * 8


def test_preference_rows_pair_the_ranks_from_outside_in() -> None:
    rows = [{"prompt": "p", "completions": ["a", "b", "c", "d", "e"], "worth": [1.0, 5.0, 3.0, None, 3.0]}]

    def worth(completions: Any, worth: Any, **_: Any) -> list[float | None]:
        return [column[i] for i, column in enumerate(worth)]

    pairs = preference_rows(rows, worth)
    assert [(p["chosen"], p["rejected"], p["margin"]) for p in pairs] == [("b", "a", 4.0)]
    assert preference_rows(rows, worth, min_margin=4.0) == []
    halved = preference_rows(rows, [worth, worth], reward_weights=[0.5, 0.0])
    assert halved[0]["margin"] == 2.0
    with pytest.raises(ConfigurationError, match="one weight a reward function"):
        preference_rows(rows, worth, reward_weights=[1.0, 2.0])


# ---------------------------------------------------------------------------------------------------------------- luck


def test_luck_is_a_lone_success_without_a_gain() -> None:
    def group(name: str, right: int, gain: float) -> list[Sample]:
        return [Sample(problem=name, right=i < right, gain=gain if i < right else math.nan) for i in range(8)]

    samples = group("guess", 1, 0.05) + group("found", 1, 2.0) + group("two", 2, 0.0) + group("unknown", 1, math.nan)
    found = luck(samples)
    one, two = math.sqrt(7), 2 * math.sqrt(3)
    assert (found.problems, found.lucky, found.groups) == (("guess",), (0,), 4)
    assert found.advantage == pytest.approx(one / (3 * one + two))
    assert luck([]).advantage == luck(group("all", 8, 0.0)).advantage == 0.0


def test_the_monitor_speaks_once_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    monitor = GroupMonitor()
    lucky = luck([Sample(problem="a", right=i == 0, gain=0.0) for i in range(8)])
    sound = luck([Sample(problem="a", right=i < 4, gain=2.0) for i in range(8)])
    for step in range(3):
        monitor.look(lucky, step)
    assert monitor.alert is not None
    assert (monitor.alert.since, monitor.alert.step, monitor.alert.open) == (0, 2, True)
    assert caplog.text.count("NOTICE lucky_success") == 1
    for step in range(3, 20):
        monitor.look(sound, step)
    assert not monitor.alert.open


def test_lucky_successes_can_be_withheld_from_all_rewards(model: Any) -> None:
    """Eight guesses, one right; and a second group whose chain is honest."""
    one, two = exercises(2)
    rows = batch(
        [(one, f"# {(one.answer + i) % 11}") for i in range(8)] + [(two, honest(two))] * 2 + [(two, "# 12")] * 6
    )
    calls = []

    def accuracy(completions: Any, solution: Any, **_: Any) -> list[float]:
        return [float(text.split()[-1] == answer) for text, answer in zip(completions, solution, strict=True)]

    gain = InfoGainReward(scorer=model, withhold_lucky=True, **SETTINGS)
    inner = gain._scorer.score_tree_groups
    gain._scorer.score_tree_groups = lambda groups: calls.append(1) or inner(groups)
    wrapped = gain.without_lucky(accuracy)
    given = wrapped(**rows), gain(**rows)
    assert wrapped.__name__ == "accuracy"
    assert [each[0] for each in given] == [None, None]
    assert given[0][1:] == accuracy(**rows)[1:]
    assert None not in given[1][1:]
    assert len(calls) == 1
    kept = InfoGainReward(scorer=model, **SETTINGS)
    assert kept(**rows)[0] == 0.0
    assert kept.monitor.latest is not None
    assert kept.monitor.latest.lucky == (0,)


def test_a_cleaned_trace_keeps_its_own_tokens() -> None:
    reader = TraceReader(TOKENIZER, FORMAT)
    problem = Problem(prompt="3 : a = 1 ; b = a + 2 ; ?", answer="8")
    text = "b = 1 + 2 = 3 ; ... ; b = 1 + 2 = 3 ; 5 , 7 8 9 ; # 8".replace(" ,", "")
    trace = reader.read(problem, TOKENIZER(text)["input_ids"])
    clean = cleaned(trace, TOKENIZER)
    assert TOKENIZER.decode(clean.completion_ids) == "b = 1 + 2 = 3 ; 5 7 8 9 ;"
    assert TOKENIZER.decode(clean.ids[clean.cuts[0] : clean.statement]) == "b = 1 + 2 = 3 ;"
    plain = reader.read(problem, TOKENIZER("b = 1 + 2 = 3 ; # 8")["input_ids"])
    assert cleaned(plain, TOKENIZER) is plain


def test_the_rollout_monitor_reports_what_the_probes_say_and_pays_nothing(model: Any) -> None:
    metrics: dict[str, float] = {}
    monitor = RolloutMonitor(scorer=model, every=2, **SETTINGS)
    assert monitor(**some(12), log_metric=metrics.__setitem__) == [0.0] * 12
    assert metrics["rollout/accuracy"] == 1.0
    assert metrics["rollout/placebo_gain"] > 1
    assert "rollout/mistake_changed" not in metrics
    metrics.clear()
    monitor(**some(12), log_metric=metrics.__setitem__)
    assert not metrics
