"""What a cell says: tables with holes, cells of other types, texts cut in the middle of a character."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

import two_checkpoints
from in_fork import in_fork
from reasoning_guard.cli.app import main
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.offline import load_saved_traces, write_curated
from reasoning_guard.offline.curation import Choice
from reasoning_guard.problems import Problem, load_problems

NAN = float("nan")
CUT = "a\ud83d"


def one(**cells: Any) -> Problem:
    [problem] = load_problems([{"question": "?", "answer": "4", **cells}])
    return problem


def refusal(of: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        of()
    return str(refused.value)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (10.0, "10"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        (10**30, str(10**30)),
        (np.int64(10), "10"),
        (np.float64(10), "10"),
        (np.float32(0.1), "0.1"),
        (np.str_("ten"), "ten"),
        (Decimal("10.00"), "10"),
        (Fraction(1, 2), "1/2"),
        ("10.0", "10.0"),
    ],
)
def test_a_number_is_written_as_a_model_would_write_it(cell: Any, text: str) -> None:
    problem = one(id=cell, set=cell, options=["4", cell, "text"])
    assert (problem.id, problem.set, problem.options[1]) == (text, text, text)
    assert one(answer=cell).answer == text
    assert {type(each) for each in (problem.id, problem.set, *problem.options)} == {str}


@pytest.mark.parametrize("empty", [None, NAN, np.float32("nan"), Decimal("nan")], ids=repr)
def test_an_empty_cell_is_empty_whatever_stands_for_it(empty: Any) -> None:
    problem = one(answer=empty, id=empty, set=empty, options=empty, documents=empty)
    assert problem == Problem(prompt="?")


def test_a_table_of_pandas_with_holes_says_what_it_said_before() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas comes with datasets, in the extras trl and demo")
    whole = [{"question": str(n), "answer": n, "id": n, "set": "far", "options": ["7", "8", "9"]} for n in range(3)]
    holes = [*whole, {"question": "hole"}]
    table = pandas.DataFrame(holes)
    assert load_problems(table.to_dict("records"))[:3] == load_problems(whole)
    assert load_problems(table.to_dict("records"))[3] == Problem(prompt="hole")
    assert load_problems(table.convert_dtypes().to_dict("records"))[3] == Problem(prompt="hole")
    assert one(answer=pandas.NaT, set=pandas.NA) == one(answer=None)


def test_lists_that_came_as_arrays_are_lists() -> None:
    problem = one(
        question=np.array([{"role": "user", "content": "?"}]), options=np.array(["x", "y"]), answer=np.int64(1)
    )
    assert problem.prompt == ({"role": "user", "content": "?"},)
    assert problem.options == ("x", "y")
    assert problem.answer == "B"


def test_an_index_is_one_as_a_float_too_and_a_text_of_an_option_stays_its_text() -> None:
    assert one(answer=1.0, options=["x", "y"]).answer == "B"
    assert one(answer=7.0, options=["6.0", "7.0"]).answer == "7.0"
    assert one(answer=0.5, options=["0.5", "1.5"]).answer == "0.5"
    assert "both the index and the text" in refusal(lambda: one(answer=1.0, options=["1.0", "2.0"]))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"answer": ["4"]}, "row 1: expected the answer as a text or a number; got list ['4']. Give a text"),
        ({"answer": {"value": "4"}}, "row 1: expected the answer as a text or a number; got dict {'value': '4'}"),
        ({"answer": True}, "got bool True. Give a text with the word that stands for it, such as 'yes'"),
        ({"answer": np.True_}, "with the word that stands for it"),
        ({"answer": b"4"}, "got bytes b'4'"),
        ({"answer": np.array(["4"])}, "got list ['4']"),
        ({"answer": 10**5000}, "row 1: the answer is a number of too many digits"),
        ({"answer": ["x" * 500]}, "xxx…. Give a text"),
        ({"id": ["1"]}, "row 1: expected the id as"),
        ({"set": {"a": 1}}, "row 1: expected the set as"),
        ({"options": "x;y"}, "row 1: expected the options as a list of texts; got str 'x;y'"),
        ({"options": {"A": "x", "C": "y"}}, "row 1: expected the options as a list of texts; got dict"),
        ({"options": 5}, "row 1: expected the options as a list of texts; got int 5"),
        ({"options": ["x", None, "z"]}, "row 1: options[1] is empty; leave it out, or give its text"),
        ({"options": [["x"], ["y"]]}, "row 1: expected each option as a text or a number; got list ['x']"),
        ({"documents": {"title": "x"}}, "row 1: expected the documents as a list of texts; got dict"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row(cells: dict[str, Any], said: str) -> None:
    rows = [{"question": "1?", "answer": "4"}, {"question": "2?", "answer": "4", **cells}]
    assert said in refusal(lambda: load_problems(rows))


def test_what_tables_and_other_libraries_make_of_a_row_is_taken() -> None:
    assert one(answer="B", options=["x", "y", None, float("nan")]).options == ("x", "y")
    assert one(answer="B", options={"A": "x", "B": "y"}).options == ("x", "y")
    assert one(documents=[{"title": "t", "text": "u"}, "v"]).documents == ("{'title': 't', 'text': 'u'}", "v")
    assert one(answer=np.array(4)).answer == "4"
    assert one(answer=Decimal("NaN"), options=["x", "y"]).answer is None
    made = one(id=UUID(int=5), set=date(2024, 5, 1))
    assert (made.id, made.set) == ("00000000-0000-0000-0000-000000000005", "2024-05-01")


def test_problems_made_by_hand_are_held_to_the_same() -> None:
    assert Problem(prompt="?", documents="one text").documents == ("one text",)  # type: ignore[arg-type]
    assert "`options` as a list of texts; got the text 'x;y'" in refusal(lambda: Problem(prompt="?", options="x;y"))  # type: ignore[arg-type]
    assert "row 0" in refusal(lambda: load_problems([Problem(prompt="?", answer=4)]))  # type: ignore[arg-type]


def test_a_text_as_documents_is_one_document() -> None:
    assert one(documents="one text").documents == ("one text",)
    assert one(documents=["one", None, "two"]).documents == ("one", "two")
    assert one(documents="").documents == ()


def test_half_a_character_becomes_a_mark_wherever_a_text_comes_from() -> None:
    problem = one(question=CUT, answer=CUT, options=[CUT, "b"], id=CUT, set=CUT, documents=CUT)
    marked = "a\ufffd"
    assert problem == Problem(
        prompt=marked, answer=marked, options=(marked, "b"), id=marked, set=marked, documents=(marked,)
    )
    chat = [{"role": "user", "content": CUT}]
    assert one(question=chat).prompt == ({"role": "user", "content": marked},)
    assert Problem(prompt=CUT).id == Problem(prompt=marked).id
    assert Problem(prompt="\ud83d\ude00 \ude00").prompt == "\U0001f600 \ufffd", "halves that belong together are joined"


def test_half_a_character_in_a_saved_trace_is_read_and_written_as_a_mark(tmp_path: Path) -> None:
    marked = "a\ufffd"
    written = {"role": "assistant", "content": f"{CUT}\n#### 4"}
    rows = [
        {"id": CUT, "completion": f"{CUT}\n#### 4"},
        {"question": CUT, "answer": "4", "completion": f"{CUT}\n#### 4"},
        {"messages": [{"role": "user", "content": CUT}, written]},
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    saved = load_saved_traces(path, [Problem(prompt=CUT, answer="4", id=CUT)])
    assert [trace.completion for trace in saved.traces] == [f"{marked}\n#### 4"] * 3
    assert [trace.problem.id for trace in saved.traces] == [marked] * 3
    assert saved.traces[2].problem.prompt == ({"role": "user", "content": marked},)
    assert load_saved_traces(rows[1:2]).traces[0].problem.prompt == marked
    choices = [Choice(line=0, id="", weakest=1.0), Choice(line=1, id="", weakest=0.0, why=("no",))]
    for file in write_curated(tmp_path, [trace.record for trace in saved.traces], choices):
        assert json.loads(file.read_text(encoding="utf-8"))["completion"] == f"{marked}\n#### 4"


def test_the_command_line_scores_a_trace_with_half_a_character(tmp_path: Path) -> None:
    two_checkpoints.save_all(tmp_path)
    first, *others = (tmp_path / "traces.jsonl").read_text().splitlines()[:16]
    cut = {**json.loads(first), "completion": f"{CUT} {json.loads(first)['completion']}"}
    (tmp_path / "cut.jsonl").write_text("\n".join([json.dumps(cut), *others]))
    done = in_fork(main, ("score", "cut.jsonl", "--model", "base", "--problems", "held_out.jsonl", "--json"), tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["traces"] == 16


def test_cells_of_saved_traces_are_read_as_those_of_problems() -> None:
    problems = [Problem(prompt="?", answer="4", id="10")]
    [trace] = load_saved_traces([{"problem_id": NAN, "id": 10.0, "completion": "#### 4"}], problems).traces
    assert trace.problem.id == "10"
    rows = [{"question": str(n // 2), "answer": ["4"] if n > 2 else 4.0, "completion": "#### 4"} for n in range(6)]
    assert "row 4: expected the answer" in refusal(lambda: load_saved_traces(rows))
    assert "row 0: expected a mapping of column to value; got str" in refusal(lambda: load_saved_traces(["text"]))  # type: ignore[list-item]
