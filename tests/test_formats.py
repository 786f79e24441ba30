from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.format_inference import infer_format, solutions
from reasoning_guard.formats import PRESETS, TraceFormat, boxed_statement, get_format
from reasoning_guard.problems import Problem


def steps(format: str | TraceFormat, text: str) -> list[str]:
    layout = get_format(format).parse(text)
    return [text[a:b] for a, b in zip((layout.start, *layout.ends), layout.ends, strict=False)]


SPLIT = [
    ("gsm8k", "She has 7.\nThen 14.\n#### 14", ["She has 7.\n", "Then 14.\n"], "14"),
    ("gsm8k", "She has 7.\n\n \nThen 14.\n#### 14\n", ["She has 7.\n\n \n", "Then 14.\n"], "14"),
    ("gsm8k", "#### 5\nNo, wait.\n####  1,400 ", ["#### 5\n", "No, wait.\n"], "1,400"),
    ("gsm8k", "She has 7.\nThen", ["She has 7.\n", "Then"], None),
    ("gsm8k", "#### 14", [], "14"),
    ("gsm8k", "She has 7.\n####", ["She has 7.\n", "####"], None),
    ("boxed", "So 9 * 2 = $\\boxed{18}$.", ["So 9 * 2 ="], "18"),
    ("boxed", "7.\n\nThus the final answer is: \\boxed{\\frac{1}{2}}.", ["7.\n\n"], r"\frac{1}{2}"),
    ("boxed", "\\boxed{3} or \\boxed{{x}{y}}", ["\\boxed{3} or"], "{x}{y}"),
    ("boxed", "\\boxed{3} or \\boxed{4", [], "3"),
    ("boxed", "\\boxed{\\{1, 2} is a brace too few", [], r"\{1, 2"),
    ("boxed", "7\n\\boxed{\\{1, 2\\}}", ["7\n"], r"\{1, 2\}"),
    ("plain", "It is 3.5, e.g. on Monday. Then 7! The answer is 14.", ["It is 3.5, e.g. on Monday.", " Then 7!"], "14"),
    ("plain", "It is 7.\nThen 14\nSo the answer is $3.50.", ["It is 7.\n", "Then 14\n"], "$3.50"),
    (
        "plain",
        "1. Add 7. 2... Then 3?! The final answer is: Mont Blanc",
        ["1. Add 7.", " 2...", " Then 3?!"],
        "Mont Blanc",
    ),
    ("plain", "The answer is 3. Wait. The answer is 4. Good.", ["The answer is 3.", " Wait."], "4"),
    ("plain", "The answer is .5.", [], ".5"),
    ("plain", "It is 7.\nThe correct answer is 14.", ["It is 7.\n"], "14"),
    ("plain", "It is 7.\nAnswer: 14", ["It is 7.\n"], "14"),
    ("plain", "It is 7.\n\n**Answer:** 14.", ["It is 7.\n\n"], "14"),
    ("plain", "It is 7.\n### **Final answer: 14**\n", ["It is 7.\n"], "14"),
    ("plain", "It is 7.\nFinal Answer: The final answer is $14$. I hope so.", ["It is 7.\n", "Final Answer:"], "$14$"),
    ("plain", "It is 7.\nAnswer: twice that, so the answer is 14.", ["It is 7.\n", "Answer: twice that,"], "14"),
    ("think", "<think>7</think>**Answer:** The answer is 14.", ["7"], "14"),
    ("plain", "It is 7. The answer is 14.\n\nQuestion: 2?\nAnswer: Bob has", ["It is 7."], "14"),
    ("plain", "It is 7. We need the answer: first, add.", ["It is 7.", " We need the answer: first, add."], None),
    ("choice", "Rome is old. The answer is (B).", ["Rome is old."], "B"),
    ("choice", "Rome is old. So the correct answer is **C**.", ["Rome is old."], "C"),
    ("choice", "The answer is Apple. A bit of it.", ["The answer is Apple.", " A bit of it."], None),
    ("think", "<think>\nShe has 7.\nThen 14.\n</think>\n\nThe answer is 14.", ["\nShe has 7.\n", "Then 14.\n"], "14"),
    ("think", "She has 7.\n</think>\n\\boxed{14}", ["She has 7.\n"], "14"),
    ("think", "<think>7</think>\n14.\n", ["7"], "14"),
    ("think", "<think>7</think>", ["7"], None),
    ("think", "<think>\nShe has 7.\nThe answer is 14.", ["\nShe has 7.\n", "The answer is 14."], None),
    ("think", "She has 7.\nThen", ["She has 7.\n", "Then"], None),
    ("think", "Well. <think>7</think> <answer> 14 </answer>", ["7"], "14"),
    ("think", "", [], None),
]


@pytest.mark.parametrize(("format", "text", "expected", "answer"), SPLIT)
def test_steps_and_answer(format: str, text: str, expected: list[str], answer: str | None) -> None:
    assert steps(format, text) == expected
    assert get_format(format).answer_in(text) == answer


@pytest.mark.parametrize(
    ("format", "text", "notes"),
    [
        ("gsm8k", "7\n#### 7", ()),
        ("gsm8k", "7", ("no answer",)),
        ("gsm8k", "#### 6\n#### 7", ("answer stated more than once",)),
        ("gsm8k", "#### 7", ("no reasoning",)),
        ("think", "7", ("unclosed reasoning", "no answer")),
        ("think", "7</think>", ("no answer",)),
        ("think", "7</think>The answer is 7.", ()),
        ("think", "7</think>The answer is 7. The answer is 8.", ("answer stated more than once",)),
        ("think", "<think>\n</think>\n8", ("no reasoning",)),
    ],
)
def test_odd_texts_are_noted(format: str, text: str, notes: tuple[str, ...]) -> None:
    assert get_format(format).parse(text).notes == notes


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("answer", ["18", "-3.5", "$1,234", "B"])
def test_what_is_asked_is_read_back(name: str, answer: str) -> None:
    format = PRESETS[name]
    if name == "choice" and answer != "B":
        assert format.answer_in(format.asked(answer)) is None
    else:
        assert format.answer_in("First 7.\n" + format.asked(answer)) == answer


@pytest.mark.parametrize("name", PRESETS)
def test_steps_cover_the_reasoning_and_hold_more_than_white_space(name: str) -> None:
    text = "Say 7.  \n\n \n Then. 8?\n\n\n9... \n" + PRESETS[name].asked("9")
    found = steps(name, text)
    assert text.startswith("".join(found))
    assert len(found) >= 3
    assert all(step.strip() for step in found)


def test_a_format_of_ones_own() -> None:
    hashes = TraceFormat(name="hashes", cue="#", step_end=r";", answer=r"# (\S+)")
    assert steps(hashes, "b = 3 ; c = 4 ; # 4") == ["b = 3 ;", " c = 4 ;"]
    first_word = TraceFormat(name="words", cue="=>", answer=lambda text: (text.rfind("=>") + 2, len(text)))
    assert steps(first_word, "a\nb => 3") == ["a\n", "b"]
    assert get_format(hashes) is hashes


def test_formats_can_be_kept_with_the_run() -> None:
    records = [json.loads(json.dumps(format.to_dict())) for format in PRESETS.values()]
    assert [record["name"] for record in records] == list(PRESETS)
    assert records[0]["answer"] == "reasoning_guard.formats.final_statement"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cue": ""}, "cue must not be empty"),
        ({"cue": "Answer: "}, "must not end in a space"),
        ({"filler": ""}, "filler must not be empty"),
        ({"answer": "("}, "no valid regular expression"),
        ({"answer": "x"}, "needs a group"),
        ({"step_end": "["}, "no valid regular expression"),
        ({"reasoning_open": "<a>"}, "or neither"),
    ],
)
def test_what_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TraceFormat(**{"name": "mine", "cue": "#", "answer": "# (.+)", **change})  # type: ignore[arg-type]


def test_an_unknown_preset_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=re.escape("'think', 'gsm8k', 'boxed', 'plain', 'choice'")):
        get_format("gsm")


def test_braces_of_any_depth() -> None:
    nested = "{" * 50 + "x" + "}" * 50
    text = f"\\boxed{nested}"
    found = boxed_statement(text)
    assert found is not None
    assert text[found.start : found.end] == nested[1:-1]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "unit", [".", " ", "\n", ". ", "a", "#", "\\boxed{", "the answer is ", "answer: ", "!a", "$", "("]
)
def test_degenerate_texts_are_read_in_linear_time(name: str, unit: str) -> None:
    text = (unit * 40_000)[:40_000]
    start = time.process_time()
    PRESETS[name].parse(text)
    PRESETS[name].parse(text + "x")
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "of", [list, iter, lambda rows: [Problem(prompt=r["problem"], answer=r["solution"]) for r in rows]]
)
def test_worked_solutions_tell_the_format_beside_bare_answers(of: Any, tmp_path: Path) -> None:
    rows = [{"problem": f"{i} + 1?", "solution": f"It is \\boxed{{{i + 1}}}.", "answer": str(i + 1)} for i in range(8)]
    assert infer_format({"held-out solutions": solutions(of(rows))}).name == "boxed"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert infer_format({"held-out solutions": solutions(tmp_path / "rows.jsonl")}).name == "boxed"


def test_what_is_no_rows_tells_no_format() -> None:
    with pytest.raises(ConfigurationError, match="choose one split"):
        list(solutions({"train": []}))
    assert list(solutions([{"answer": 5}, {"target": None}, "words"])) == []
