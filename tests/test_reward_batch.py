"""What a trainer hands over, read as traces: on its own prompts, with answers or without, over several processes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from reasoning_guard.errors import ConfigurationError, ReasoningGuardWarning
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.rewards import InfoGainReward
from reasoning_guard.rewards import batch as batches
from reasoning_guard.rewards.batch import Batch, gathered, read_batch
from reward_tasks import FORMAT, SETTINGS, TOKENIZER, adder, batch, exercises, honest, some

READER = TraceReader(TOKENIZER, FORMAT)


@pytest.fixture(scope="module")
def model() -> Any:
    return adder()


def handed(rows: dict[str, Any]) -> Batch:
    rest = {name: values for name, values in rows.items() if name not in ("prompts", "completions")}
    return Batch.of(rows["prompts"], rows["completions"], rest)


def test_completions_are_read_behind_the_prompt_as_the_host_tokenises_it() -> None:
    of = exercises(2)
    rows = batch([(of[0], honest(of[0])), (of[0], "# 1"), (of[1], honest(of[1]))])
    asked: list[Problem] = []

    def prompt_ids(problem: Problem) -> tuple[int, ...]:
        asked.append(problem)
        return (7, *READER.prompt_ids(problem), len(asked))

    traces = read_batch(handed(rows), READER, "solution", prompt_ids)
    assert [problem.prompt for problem in asked] == [of[0].prompt(0), of[1].prompt(0)], "once a prompt"
    assert [trace.prompt_ids for trace in traces] == [
        (7, *READER.prompt_ids(asked[i]), number) for i, number in ((0, 1), (0, 1), (1, 2))
    ]
    plain = read_batch(handed(rows), READER, "solution")
    assert [trace.prompt_ids for trace in plain] == [READER.prompt_ids(trace.problem) for trace in plain]
    assert [trace.cuts[0] - len(trace.prompt_ids) for trace in traces] == [
        trace.cuts[0] - len(trace.prompt_ids) for trace in plain
    ]


@pytest.mark.parametrize("blank", [None, "", " \n", "\u2003"])
def test_a_blank_answer_is_none_and_nothing_is_said_about_it(blank: str | None) -> None:
    rows = some(2)
    rows["solution"] = [blank, rows["solution"][1]]
    with warnings.catch_warnings(action="error"):
        traces = read_batch(handed(rows), READER, "solution")
    assert [trace.problem.answer for trace in traces] == [None, rows["solution"][1]]


@pytest.mark.filterwarnings("default")
def test_an_answer_that_cannot_be_asked_for_is_none_and_is_told_of() -> None:
    rows = some(2)
    rows["solution"] = ["unheard-of", rows["solution"][1]]
    with pytest.warns(ReasoningGuardWarning, match="a row is not graded.*unheard-of"):
        traces = read_batch(handed(rows), READER, "solution")
    assert [trace.problem.answer for trace in traces] == [None, rows["solution"][1]]


@pytest.mark.filterwarnings("default")
def test_each_reward_tells_of_a_row_that_it_cannot_read() -> None:
    rows = some(2)
    rows["solution"] = [["18"], rows["solution"][1]]
    for reader in (TraceReader(TOKENIZER, FORMAT), TraceReader(TOKENIZER, FORMAT)):
        with pytest.warns(ReasoningGuardWarning, match="a row is not graded.*list"):
            read_batch(handed(rows), reader, "solution")


@pytest.mark.parametrize(
    ("changes", "came"),
    [
        ({"prompts": "a", "completions": "b"}, "`prompts` must be a list.*got the text 'a'"),
        ({"completions": ["# 1"] * 3}, "`prompts` must be a list with one entry for each.*got 2 for 3 completions"),
        ({"solution": ["1"]}, "`solution` must be a list.*got 1 for 2"),
        ({"solution": "18"}, "`solution` must be a list.*got the text '18'"),
        ({"completion_ids": [[5]]}, "`completion_ids` must be a list.*got 1 for 2"),
        ({"options": []}, "`options` must be a list.*got 0 for 2"),
    ],
)
def test_what_is_not_one_entry_for_each_completion_is_refused(changes: dict[str, Any], came: str, model: Any) -> None:
    reward = InfoGainReward(format=FORMAT, scorer=model, tokenizer=TOKENIZER)
    with pytest.raises(ConfigurationError, match=came):
        reward(**{**some(2), **changes})


def test_without_a_column_of_answers_there_is_none() -> None:
    assert [trace.problem.answer for trace in read_batch(handed(some(2)), READER, None)] == [None, None]


class Third:
    """The third of four processes; the others hold two items, one and three."""

    rank = 2

    def gather(self, mine: list[Any]) -> list[list[Any]]:
        first, second, last = (mine[:1] * n for n in (2, 1, 3))
        return [first, second, mine, last]


def test_what_is_gathered_stands_in_the_order_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches.Team, "of_run", classmethod(lambda _: Third()))
    everyone, first = gathered(["a", "b"])
    assert everyone == ["a", "a", "a", "a", "b", "a", "a", "a"]
    assert everyone[first : first + 2] == ["a", "b"]
    assert first == 3


def test_each_process_withholds_its_own_lucky_ones(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two processes: what the first holds stands before its own completions."""

    class Second:
        rank = 1

        def gather(self, mine: list[Any]) -> list[list[Any]]:
            return [mine[2:3], mine]

    of, other = exercises(2)
    rows = batch([(of, f"# {of.answer}"), (of, "# 12"), (other, "# 12"), (other, "# 12")])
    reward = InfoGainReward(scorer=model, withhold_lucky=True, **SETTINGS)
    assert reward(**rows) == [None, 0.0, 0.0, 0.0]
    monkeypatch.setattr(batches.Team, "of_run", classmethod(lambda _: Second()))
    assert reward(**rows) == [None, 0.0, 0.0, 0.0]
    assert reward.lucky(**rows) == [True, False, False, False]


def test_each_batch_serves_each_use_once_anew(model: Any) -> None:
    """Where nobody says at which step it is; two batches one after the other, each asked for twice."""
    reward, read = InfoGainReward(scorer=model, **SETTINGS), []
    look = reward._look
    reward._look = lambda *each: (read.append(1), look(*each))[1]  # type: ignore[method-assign]
    for rows in (some(2), some(3)):
        reward.lucky(**rows)
        reward(**rows)
    assert len(read) == 2


def test_an_answer_that_opens_the_last_step_is_not_stated_early(model: Any) -> None:
    def early(text: str, of: Any) -> float:
        metrics: dict[str, float] = {}
        InfoGainReward(scorer=model, **SETTINGS)(**batch([(of, text)]), log_metric=metrics.__setitem__)
        return metrics["info_gain/stated_early"]

    of = next(each for each in exercises(50) if str(each.answer) not in each.prompt(0).split())
    assert early(f"b = c ? ; {of.answer} ? ; # {of.answer}", of) == 0.0
    assert early(f"{of.answer} ? ; b = c ? ; # {of.answer}", of) == 1.0
    assert early(f"{of.answer} ? ; # {of.answer}", of) == 0.0
    assert early(f"# {of.answer}", of) == 0.0
