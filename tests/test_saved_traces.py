"""Saved traces and chat logs: which problem a line answers, what the model read, what it wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from reasoning_guard import Problem, Row, TraceFormat
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.format_file import read_format
from reasoning_guard.offline import curate, load_effects, load_saved_traces, save_effects, write_curated
from reasoning_guard.offline.store import ScoreFile
from reasoning_guard.offline.summary import summarise
from reasoning_guard.problems import load_problems
from reasoning_guard.rules import EFFECTS

QUESTION = "2 + 2 = ?"
PROBLEMS = [Problem(prompt=QUESTION, answer="4", id="sum"), Problem(prompt="1 + 2 = ?", answer="3", id="other")]
USER = {"role": "user", "content": QUESTION}
SHAPES: dict[str, dict[str, Any]] = {
    "by id": {"id": "sum", "completion": "#### 4"},
    "by problem id, which goes before id": {"id": "other", "problem_id": "sum", "response": "#### 4"},
    "by prompt": {"prompt": QUESTION, "output": "#### 4"},
    "a chat": {"messages": [USER, {"role": "assistant", "content": "#### 4"}]},
    "a chat with its system prompt": {
        "messages": [{"role": "system", "content": "Think."}, USER, {"role": "assistant", "content": "#### 4"}]
    },
    "the other dialect": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "#### 4"}]},
    "content in parts": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "#### 4"}]}],
    },
    "a completion of messages": {"prompt": [USER], "completion": [{"role": "assistant", "content": "#### 4"}]},
}


@pytest.mark.parametrize("row", SHAPES.values(), ids=list(SHAPES))
def test_every_shape_of_a_log_leads_to_its_problem(row: dict[str, Any]) -> None:
    found = load_saved_traces([row], PROBLEMS)
    assert found.format.name == "gsm8k"
    [trace] = found.traces
    assert (trace.problem.id, trace.problem.answer, trace.completion) == ("sum", "4", "#### 4")
    assert trace.record is row


def test_what_the_model_read_is_the_prompt_of_the_log() -> None:
    [trace] = load_saved_traces([SHAPES["a chat with its system prompt"]], PROBLEMS).traces
    assert trace.problem.prompt == ({"role": "system", "content": "Think."}, USER)


def test_reasoning_that_a_server_keeps_apart_is_put_back_between_its_tags() -> None:
    message = {"role": "assistant", "content": "The answer is 4.", "reasoning_content": "2 and 2 make 4."}
    found = load_saved_traces([{"messages": [USER, message]}], PROBLEMS)
    assert found.format.name == "think"
    assert found.traces[0].completion == "<think>\n2 and 2 make 4.\n</think>\n\nThe answer is 4."


def test_a_trace_that_was_cut_off_says_so() -> None:
    rows = [{"id": "sum", "completion": "#### 4", "finish_reason": reason} for reason in ("stop", "length")]
    assert [trace.finished for trace in load_saved_traces(rows, PROBLEMS).traces] == [True, False]


def test_without_problems_the_rows_hold_them_each_once() -> None:
    rows = [{"question": QUESTION, "answer": "2 + 2 = 4\n#### 4", "completion": f"#### {n}"} for n in (4, 5)]
    found = load_saved_traces(rows)
    assert [trace.problem.answer for trace in found.traces] == ["4", "4"]
    assert len({trace.problem.id for trace in found.traces}) == 1


@pytest.mark.parametrize(
    ("rows", "problems", "said"),
    [
        ([], PROBLEMS, "the source holds none"),
        ([{"id": "sum"}], PROBLEMS, "row 0: expected what the model wrote in completion"),
        ([{"id": "nobody", "completion": "#### 4"}], PROBLEMS, "no problem has the id 'nobody'"),
        ([{"completion": "#### 4"}], PROBLEMS, "nothing says which problem it answers"),
        ([{"id": "sum", "completion": "four"}], PROBLEMS, "the first ends in 'four'"),
        ([{"prompt": QUESTION, "completion": "#### 4"}], None, "no row holds a reference answer"),
        ([{"answer": "4", "completion": "#### 4"}], None, "it holds no prompt"),
        (
            [{"id": "sum", "prompt": "1 + 2 = ?", "completion": "#### 4"}],
            PROBLEMS,
            "its id 'sum' is that of problem 'sum', its prompt that of problem",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_row(rows: list[Any], problems: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_saved_traces(rows, problems)


def test_what_is_no_text_in_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text('{"id": "sum", "completion": "é"}', encoding="utf-16")
    for read in (lambda: load_saved_traces(path, PROBLEMS), lambda: load_problems(path)):
        with pytest.raises(ConfigurationError, match=r"traces.jsonl is no text in UTF-8"):
            read()


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [("cue", 5, "a text"), ("answer", ["a"], "a text"), ("stop", "x", "texts"), ("mathematical", "no", "true or false"),
     ("name", None, "a text")],
)  # fmt: skip
def test_a_format_of_other_types_is_refused(tmp_path: Path, field: str, value: Any, kind: str) -> None:
    path = tmp_path / "format.json"
    whole = {"name": "mine", "cue": " #", "answer": "# (.+)", "terminator": None, "stop": [";"], "mathematical": False}
    path.write_text(json.dumps(whole))
    assert read_format(str(path)).stop == (";",)
    path.write_text(json.dumps({**whole, field: value}))
    with pytest.raises(ConfigurationError, match=f"expected {kind} as '{field}'"):
        read_format(str(path))


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "sum", "completion": "#### 4"}\n[1]\n')
    with pytest.raises(ConfigurationError, match="line 2: expected a JSON object; got list"):
        load_saved_traces(tmp_path / "t.jsonl", PROBLEMS)


def test_a_format_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    mine = TraceFormat(name="mine", cue=" #", answer=r"# (\S+)", step_end=";", stop=("!",))
    (tmp_path / "mine.json").write_text(json.dumps(mine.to_dict()))
    assert read_format(str(tmp_path / "mine.json")) == mine
    (tmp_path / "odd.json").write_text('{"name": "odd", "cue": "#", "answer": "(.)", "stepend": ";"}')
    with pytest.raises(ConfigurationError, match="got answer, cue, name, stepend"):
        read_format(str(tmp_path / "odd.json"))
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_format(str(tmp_path / "none.json"))


SOUND = {"accuracy": 1.0, "n_steps": 2.0, "info_gain": 3.0, "placebo_gain": 2.0, "pre_commitment": 1.0}


@pytest.mark.parametrize(
    ("values", "answer", "why"),
    [
        ({}, "4", ()),
        ({"pre_commitment": math.nan}, "4", ()),
        ({"accuracy": 0.0, "info_gain": 0.0}, "5", ("its answer is wrong",)),
        ({}, None, ("it states no answer",)),
        ({"n_steps": 0.0, "info_gain": 0.0}, "4", ("it has no steps",)),
        ({"info_gain": 0.05}, "4", ("the answer is known without the steps",)),
        ({"placebo_gain": 0.0}, "4", ("another trace's steps do as well",)),
        ({"pre_commitment": -1.0}, "4", ("what stands before the answer does not lead to it",)),
        ({"early_answering_aoc": math.nan}, "4", ("asked after its full chain, the model gives another answer",)),
        ({"placebo_gain": math.nan}, "4", ("placebo_gain can't be told: no donor",)),
    ],
)
def test_a_trace_is_kept_only_if_every_link_holds(values: dict[str, float], answer: str | None, why: Any) -> None:
    reasons = {"placebo_gain": "no donor"}
    if "early_answering_aoc" in values:
        reasons["early_answering_aoc"] = why[0]
    row = Row(id="p", values={**SOUND, **values}, answer=answer, reasons=reasons)
    [choice] = curate([row])
    assert choice.why == why
    assert choice.kept == (not why)


def test_kept_traces_come_as_they_were_best_first(tmp_path: Path) -> None:
    gains = (0.5, 0.7, 0.0, 0.9)
    rows = [Row(id=str(gain), values={**SOUND, "placebo_gain": gain}, answer="4") for gain in gains]
    records = [{"completion": f"{gain} é", "other": [1, None]} for gain in gains]
    choices = curate([*rows])
    kept, rejected = write_curated(tmp_path, records, choices)
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [records[3], records[1], records[0]]
    [out] = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert out == {**records[2], "rejected": {"why": ["another trace's steps do as well"], "weakest": 0.0}}


def test_scores_of_other_settings_are_never_mixed(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "s.jsonl", {"weights": "a"})
    assert file.begin() == set()
    file.add(0, [{"line": 1}, {"line": 0}])
    with (tmp_path / "s.jsonl.part-0").open("ab") as part:
        part.write(b'{"line": 2')
    assert ScoreFile(tmp_path / "s.jsonl", {"weights": "a"}).begin() == {0, 1}
    with pytest.raises(ConfigurationError, match="weights: a then, b now"):
        ScoreFile(tmp_path / "s.jsonl", {"weights": "b"}).begin()
    (tmp_path / "theirs.jsonl").write_text("{}\n")
    with pytest.raises(ConfigurationError, match="holds no scores of ours"):
        ScoreFile(tmp_path / "theirs.jsonl", {}).begin()


def test_whether_scores_may_go_on_is_known_as_far_as_their_settings_are(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "s.jsonl", {"traces": "a", "weights": "b"})
    file.check({"traces": "a"})
    file.begin()
    file.check({"traces": "a"})
    with pytest.raises(ConfigurationError, match="traces: a then, c now"):
        file.check({"traces": "c"})
    with pytest.raises(ConfigurationError, match="weights: b then, None now"):
        ScoreFile(tmp_path / "s.jsonl", {"traces": "a"}).begin()
    for foreign in ("[1]", "words"):
        (tmp_path / "s.jsonl.run.json").write_text(foreign)
        with pytest.raises(ConfigurationError, match=r"s\.jsonl\.run\.json holds no settings of ours"):
            file.begin()


@pytest.mark.parametrize("row", [{"id": "sum"}, {"prompt": QUESTION}, {"prompt": [USER]}])
def test_a_prompt_in_parts_is_known_by_its_text(row: dict[str, Any]) -> None:
    parts = [{**USER, "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    [found] = load_saved_traces(
        [{**row, "completion": "#### 4"}], [{"id": "sum", "prompt": parts, "answer": "4"}]
    ).traces
    assert found.problem.answer == "4"


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "traces[1].jsonl", {})
    file.begin()
    file.add(0, [{"line": 0}])
    assert ScoreFile(tmp_path / "traces[1].jsonl", {}).begin() == {0}


@pytest.mark.parametrize("foreign", ['{"mine": 1}\n', "[1]\n", "words\n"])
def test_a_file_that_took_the_scores_place_is_refused(tmp_path: Path, foreign: str) -> None:
    ScoreFile(tmp_path / "s.jsonl", {}).begin()
    (tmp_path / "s.jsonl").write_text(foreign)
    with pytest.raises(ConfigurationError, match="holds something else than scores of ours"):
        ScoreFile(tmp_path / "s.jsonl", {}).begin()


def test_several_samples_of_a_problem_count_as_one() -> None:
    rows = [Row(id=name, values={"accuracy": right}) for name, right in (("a", 1.0), ("a", 0.0), ("b", 1.0))]
    rows.append(Row(id="c", values={"accuracy": math.nan}))
    [found] = summarise(rows)
    assert found.estimate is not None
    assert (found.estimate.mean, found.estimate.n, found.unscored) == (0.75, 2, 1)


def test_effects_survive_the_disk(tmp_path: Path) -> None:
    save_effects(tmp_path / "e.json", EFFECTS)
    assert load_effects(tmp_path / "e.json") == EFFECTS
    (tmp_path / "e.json").write_text('{"accuracy": {"relativ": 1}}')
    with pytest.raises(ConfigurationError, match="expected a JSON object such as"):
        load_effects(tmp_path / "e.json")
