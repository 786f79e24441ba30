"""What all rewards share: what they refuse, what they log, and what they leave as it was."""

from __future__ import annotations

import math
import pickle
import random
import warnings
from typing import Any

import pytest
import torch

import runs
from reasoning_guard import ConfigurationError, Problem, ReasoningGuardWarning
from reasoning_guard.reader import TraceReader
from reasoning_guard.rewards import (
    AnswerConfidenceReward,
    AugmentedGenerationReward,
    CalibrationReward,
    FaithfulnessReward,
    InfoGainReward,
    RolloutMonitor,
    TraceReward,
)
from reasoning_guard.rewards.unread import PATIENCE, Unread
from reward_tasks import FORMAT, SETTINGS, TOKENIZER, adder, batch, exercises, honest, some


@pytest.fixture(scope="module")
def model() -> Any:
    return adder()


REWARDS = [InfoGainReward, AnswerConfidenceReward, CalibrationReward, FaithfulnessReward, RolloutMonitor]


def test_none_for_what_cannot_be_graded(model: Any) -> None:
    rows = some(4)
    rows["solution"] = [rows["solution"][0], None, " ", "unheard-of"]
    given = InfoGainReward(scorer=model, correct=lambda completions, **_: [1.0] * len(completions), **SETTINGS)(**rows)
    assert isinstance(given[0], float)
    assert given[1:] == [None, None, None]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [{"role": "user", "content": "1 : a = 1 ; ?"}, {"role": "assistant", "content": "b ="}],
        [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "3"}],
    ],
)
def test_a_prompt_that_no_problem_may_have_is_not_graded_and_ends_no_training(prompt: Any, model: Any) -> None:
    words = runs.tokenizer()
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    rows = some(3)
    rows["prompts"] = [prompt, *rows["prompts"][1:]]
    for kind in REWARDS[:-1]:
        reward = kind(scorer=model, **{**SETTINGS, "tokenizer": words})
        with warnings.catch_warnings(action="ignore"):
            given = reward(**rows)
        assert given[0] is None
        assert given[1:] == pytest.approx(reward(**{name: values[1:] for name, values in rows.items()}), abs=1e-5)


def test_parts_of_a_message_are_read_as_its_text(model: Any) -> None:
    """As multimodal chats have them; nothing but the text in them is said."""
    rows = some(2)
    parts = [{"type": "image"}, {"type": "text", "text": rows["completions"][0]}]
    rows["completions"] = [[{"role": "assistant", "content": parts}], rows["completions"][1]]
    rows.pop("completion_ids", None)
    for kind in REWARDS[:-1]:
        reward = kind(scorer=model, **SETTINGS)
        assert reward(**rows) == reward(**{**rows, "completions": [parts[1]["text"], rows["completions"][1]]})


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


def _calls(reward: TraceReward, text: str, n: int) -> list[str]:
    """What ``n`` calls with a completion that ends so warn of."""
    rows = {**some(2), "completions": [f" a = 1 ; {text}"] * 2, "completion_ids": None}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(n):
            reward(**rows)
    return [str(each.message) for each in said]


@pytest.mark.parametrize("kind", REWARDS)
def test_a_format_that_reads_no_answer_is_said_once_with_the_one_that_does(kind: type[TraceReward], model: Any) -> None:
    reward = kind(scorer=model, tokenizer=TOKENIZER, format="boxed")
    assert _calls(reward, "#### 5", 9) == []
    (said,) = _calls(reward, "#### 5", 30)
    assert said.startswith(f"{reward.name}: in 10 calls in a row no completion states an answer in format 'boxed'")
    assert "format='gsm8k' reads an answer" in said


def test_where_no_preset_fits_the_completion_is_shown(model: Any) -> None:
    reward = InfoGainReward(scorer=model, tokenizer=TOKENIZER, format="boxed")
    (said,) = _calls(reward, "so be it", 10)
    assert "no preset (think, gsm8k, " in said
    assert "a = 1 ; so be it'" in said


def test_one_stated_answer_begins_the_count_anew(model: Any) -> None:
    reward = InfoGainReward(scorer=model, **SETTINGS)
    for _ in range(2):
        assert _calls(reward, "so be it", 9) == []
        assert _calls(reward, "# 5", 1) == []


def test_a_reward_in_the_place_of_a_freed_one_speaks_for_itself() -> None:
    """As in a search over settings, which makes one after the other."""
    reader = TraceReader(TOKENIZER, "boxed")
    silent, places = [reader.read_text(Problem(prompt="a = 1", answer="1", id="a"), "so be it")], set[int]()
    for i in range(20):
        unread = Unread(f"reward {i}")
        places.add(id(unread))
        for _ in range(PATIENCE - 1):
            unread.look(silent, ["so be it"], reader.format)
        with pytest.warns(ReasoningGuardWarning, match=f"reward {i}: in {PATIENCE} calls"):
            unread.look(silent, ["so be it"], reader.format)
        del unread
    assert len(places) < 20, "otherwise none took a freed one's place"


def test_the_main_process_alone_says_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoning_guard.rewards.unread.is_main_process", lambda: False)
    assert _calls(InfoGainReward(scorer=model, tokenizer=TOKENIZER, format="boxed"), "#### 5", 12) == []


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


def test_rows_without_an_answer_are_not_gated_out(model: Any) -> None:
    metrics: dict[str, float] = {}
    rows = some(4)
    rows["solution"] = [None, *rows["solution"][1:]]
    InfoGainReward(scorer=model, **SETTINGS)(**rows, log_metric=metrics.__setitem__)
    assert metrics["info_gain/gated_out"] == 0.0


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
