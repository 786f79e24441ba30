from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from reasoning_guard.errors import ConfigurationError, ReasoningGuardWarning
from reasoning_guard.problems import Problem, load_problems

CHAT = [{"role": "user", "content": "2 + 2 = ?"}]


def test_ids_come_from_the_prompt_and_survive_reloading() -> None:
    problem = Problem(prompt="2 + 2 = ?")
    assert problem.id == hashlib.sha256(b'"2 + 2 = ?"').hexdigest()[:12]
    assert Problem(prompt=tuple(CHAT)).id == Problem(prompt=[{"content": "2 + 2 = ?", "role": "user"}]).id  # type: ignore[arg-type]
    assert problem.id != Problem(prompt="2 + 2 = ? ").id
    assert Problem(prompt="2 + 2 = ?", id="mine").id == "mine"


def test_problems_are_values() -> None:
    one, other = (Problem(prompt=tuple(CHAT), answer="4") for _ in range(2))
    assert one == other
    assert len({one, other}) == 1


@pytest.mark.parametrize("prompt", ["prompt", "question", "problem"])
@pytest.mark.parametrize("answer", ["answer", "solution", "target", "ground_truth"])
def test_columns_are_found_by_name(prompt: str, answer: str) -> None:
    problem = load_problems([{prompt: "2 + 2 = ?", answer: 4, "set": "ood", "id": 7, "other": None}])[0]
    assert (problem.prompt, problem.answer, problem.set, problem.id) == ("2 + 2 = ?", "4", "ood", "7")


def test_columns_can_be_named() -> None:
    row = {"prompt": "2 + 2 = ?", "question": "no", "a": "4", "answer": "no", "o": ["4", "5"], "i": "x", "s": "hard"}
    names = {"prompt": "prompt", "answer": "a", "options": "o", "id": "i", "set": "s"}
    problem = load_problems([row], **{f"{what}_column": name for what, name in names.items()})[0]  # type: ignore[arg-type]
    assert problem == Problem(prompt="2 + 2 = ?", answer="4", options=("4", "5"), id="x", set="hard")


def test_chat_messages() -> None:
    assert load_problems([{"messages": CHAT, "answer": "4"}])[0].prompt == tuple(CHAT)


def test_jsonl_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"{n} + 1 = ?\u2028", "answer": str(n + 1)} for n in range(3)]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert load_problems(path) == load_problems(str(path)) == load_problems(rows)


def test_problems_pass_through() -> None:
    problems = [Problem(prompt="1?"), Problem(prompt="2?", answer="2")]
    assert load_problems(problems) == problems


def test_datasets() -> None:
    datasets = pytest.importorskip("datasets", reason="datasets comes with the extras trl and demo")
    rows = [{"question": "1?", "answer": "a"}, {"question": "2?", "answer": None}]
    assert load_problems(datasets.Dataset.from_list(rows)) == load_problems(rows)
    with pytest.raises(ConfigurationError, match="choose one split"):
        load_problems(datasets.DatasetDict(train=datasets.Dataset.from_list(rows)))


@pytest.mark.parametrize("format", ["gsm8k", "think", "plain", "boxed"])
@pytest.mark.parametrize("solution", ["2 + 2 = <<2+2=4>>4\n#### 4", "So it is \\boxed{4}.", "4"])
def test_worked_solutions_are_reduced(format: str, solution: str) -> None:
    rows = [{"question": "2 + 2 = ?", "answer": solution}]
    assert load_problems(rows, format=format)[0].answer == "4"
    assert load_problems(rows)[0].answer == solution


@pytest.mark.parametrize(
    ("answer", "options", "expected"),
    [
        (1, ["Paris", "Rome"], "B"),
        ("Rome", ["Paris", "Rome"], "B"),
        ("B", ["Paris", "Rome"], "B"),
        ("Rome", {"text": ["Paris", "Rome"], "label": ["A", "B"]}, "B"),
        (7, ["6", "7"], "B"),
    ],
)
def test_choices_become_letters_where_letters_are_asked(answer: object, options: object, expected: str) -> None:
    rows = [{"question": "?", "answer": answer, "choices": options}]
    assert load_problems(rows, format="choice")[0].answer == expected


def test_texts_of_options_stay_texts_elsewhere() -> None:
    rows = [{"question": "?", "answer": "Rome", "choices": ["Paris", "Rome"]}]
    assert load_problems(rows, format="plain")[0].answer == "Rome"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one problem"),
        ([{"q": "1?", "answer": "1"}], "no prompt column named .*'q', 'answer'.*load_problems"),
        ([{"question": "1?"}], r"no answer column named .*load_problems\(rows, answer_column"),
        ([{"question": "1?", "answer": "1"}, {"question": " ", "answer": "1"}], "row 1 .*prompt is empty"),
        ([{"question": "1?", "answer": "1"}, {"question": "2?", "answer": ""}], "row 1 .*answer is empty"),
        ([{"question": "1?", "answer": "1"}] * 2, "rows 0 and 1 have the same id"),
        ([{"question": 3, "answer": "1"}], "row 0: expected a prompt"),
        ([{"question": [{"role": "user"}], "answer": "1"}], "row 0: expected a prompt"),
        ([{"question": [], "answer": "1"}], "row 0 .*prompt is empty"),
        ([{"messages": [*CHAT, {"role": "assistant", "content": "4"}], "answer": "4"}], "last message"),
        ([{"question": "?", "answer": 1, "options": ["1", "2"]}], "both the index and the text"),
        (["text"], "row 0: expected a mapping"),
        (3, "expected rows"),
        ("nowhere.jsonl", "there is no file"),
    ],
)
def test_what_is_refused(rows: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_problems(rows)  # type: ignore[arg-type]


def test_a_named_column_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match="'gold' is not there; the columns are 'question', 'answer'"):
        load_problems([{"question": "1?", "answer": "1"}], answer_column="gold")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "1?", "answer": "1"}\n{"question"\n')
    with pytest.raises(ConfigurationError, match="line 2"):
        load_problems(path)


@pytest.mark.parametrize("empty", ["", None, float("nan")])
def test_an_empty_cell_names_no_set(empty: object) -> None:
    """One called nothing could not be told from the first."""
    [problem] = load_problems([{"prompt": "1 + 1?", "answer": "2", "set": empty}])
    assert problem.set == "id"


def test_of_several_known_columns_the_first_counts() -> None:
    """MATH has a worked solution beside its answer."""
    [problem] = load_problems([{"problem": "1 + 1?", "solution": "1 + 1 = 2, so it is 2.", "answer": "2"}])
    assert (problem.prompt, problem.answer) == ("1 + 1?", "2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("tools", [{"name": "add"}]),
        ("tools", np.array([{"name": "add"}, {"name": "multiply"}])),
    ],
)
def test_columns_that_training_renders_into_a_prompt_and_we_do_not_are_said(name: str, value: object) -> None:
    rows = [{"prompt": CHAT, "answer": "4", name: value}]
    with pytest.warns(ReasoningGuardWarning, match=f"column '{name}', which is not read"):
        load_problems(rows)


def test_columns_that_change_no_prompt_are_not_spoken_of(recwarn: pytest.WarningsRecorder) -> None:
    load_problems([{"prompt": "2 + 2 = ?", "answer": "4", "tools": [{"name": "add"}]}])
    load_problems([{"prompt": CHAT, "answer": "4", "tools": None, "chat_template_kwargs": {}}])
    assert not recwarn.list
