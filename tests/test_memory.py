"""What a run goes on from, wherever its records are: in memory, in a folder, in a training checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoning_guard.errors import ConfigurationError, HistoryError
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.history import History, check_fingerprint
from reasoning_guard.memory import Identity, Memory
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.settings import fingerprint_of
from tokenizers_on_the_spot import gpt2_style

MADE = [Evaluation(step=step, rows=(Row(id="a", values={"accuracy": 1.0}),)) for step in (0, 10, 20)]


def identity(problems: str = "abc", reference: str | None = "frozen") -> Identity:
    return Identity({"problems": problems}, {"reference_fingerprint": reference})


def steps(found: Sequence[Evaluation]) -> list[int]:
    return [e.step for e in found]


def kept_in(folder: Path) -> Memory:
    memory = Memory("record")
    memory.keep_in(folder)
    return memory


def recorded(folder: Path) -> Path:
    """A folder with the records of a run."""
    memory = kept_in(folder)
    assert memory.take_up(0, [], identity()) == ([], True)
    for evaluation in MADE:
        memory.keep(evaluation)
    return folder


def test_without_a_folder_a_run_goes_on_from_what_it_has_in_memory() -> None:
    memory = Memory("record")
    assert [steps(memory.take_up(step, MADE, identity())[0]) for step in (0, 10, 99)] == [[], [0, 10], [0, 10, 20]]


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_a_checkpoint_carries_is_taken_up_once_and_put_into_the_folder(tmp_path: Path, on_disk: bool) -> None:
    memory = kept_in(tmp_path / "run") if on_disk else Memory("record")
    memory.carry(memory.state(MADE, identity()))
    found, same = memory.take_up(10, [], identity())
    assert (steps(found), same) == ([0, 10], True)
    assert steps(History(tmp_path / "run").load()) == [0, 10] * on_disk
    again, _ = memory.take_up(10, MADE[:1], identity())
    assert steps(again) == ([0, 10] if on_disk else [0])


def test_a_new_run_takes_nothing_up() -> None:
    memory = Memory("record")
    memory.carry(memory.state(MADE, identity("other problems", "another")))
    assert memory.take_up(0, MADE, identity()) == ([], True)


def test_a_new_run_has_no_baseline_that_another_reference_could_have_read(tmp_path: Path) -> None:
    memory = kept_in(recorded(tmp_path / "run"))
    assert memory.take_up(0, [], identity(reference="another")) == ([], True)


def test_records_of_other_problems_are_refused(tmp_path: Path) -> None:
    carrying = Memory("record")
    carrying.carry(carrying.state(MADE, identity()))
    for each in (carrying, kept_in(recorded(tmp_path / "run"))):
        with pytest.raises(HistoryError, match="problems"):
            each.take_up(10, [], identity("other problems"))


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [("frozen", "frozen", True), ("frozen", "another", False), ("frozen", None, True), (None, "frozen", True)],
)
def test_the_reference_that_read_the_baseline_is_known_again(
    tmp_path: Path, before: str | None, now: str | None, same: bool
) -> None:
    carrying, memory = Memory("record"), kept_in(tmp_path / "run")
    carrying.carry(carrying.state(MADE, identity(reference=before)))
    memory.take_up(0, [], identity(reference=before))
    memory.keep(MADE[0])
    for each in (carrying, kept_in(tmp_path / "run")):
        assert each.take_up(10, [], identity(reference=now))[1] is same


@pytest.mark.parametrize(
    ("step", "on_error", "failures", "raised"),
    [(10, "record", 1, None), (10, "record", 2, HistoryError), (10, "raise", 1, OSError), (0, "record", 1, OSError)],
)
def test_a_disk_that_fails_once_is_asked_again_where_a_baseline_is_at_stake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, on_error: Any, failures: int, raised: Any
) -> None:
    recorded(tmp_path / "run")
    whole, left = History.begin, [failures]

    def begin(self: History, *args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(5, "no disk")
        return whole(self, *args)

    monkeypatch.setattr(History, "begin", begin)
    monkeypatch.setattr("reasoning_guard.memory._WAIT", 0.0)
    memory = Memory(on_error)
    memory.keep_in(tmp_path / "run")
    if raised is None:
        assert steps(memory.take_up(step, [], identity())[0]) == [0, 10]
    else:
        with pytest.raises(raised, match="no disk"):
            memory.take_up(step, [], identity())


def test_a_file_in_the_folders_place_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    Memory("record").check()
    with pytest.raises(ConfigurationError, match="`directory`"):
        kept_in(tmp_path / "run").check()


def test_how_chats_are_rendered_belongs_to_a_run_and_where_a_tool_lies_in_memory_does_not() -> None:
    def tool() -> Callable[[], None]:
        def search() -> None:
            """Look it up."""

        return search

    def fingerprint(template: dict[str, Any], prompt: Any = ({"role": "user", "content": "3"},)) -> dict[str, str]:
        reader = TraceReader(gpt2_style(), "plain")
        reader.template = template
        return fingerprint_of([Problem(prompt=prompt, answer="3")], reader, 40)

    tools = tool(), tool()
    assert str(tools[0]) != str(tools[1])
    told, again, plain = (fingerprint(each) for each in ({"tools": [tools[0]]}, {"tools": [tools[1]]}, {}))
    assert told == again
    with pytest.raises(HistoryError, match="other settings: template"):
        check_fingerprint(plain, told, "the records")
    assert fingerprint({"thinking": False}, "3") == fingerprint({}, "3"), "texts are rendered by nobody"


def test_the_tokenizers_own_chat_template_belongs_to_a_run_where_chats_are_asked() -> None:
    def fingerprint(own: str | None, prompt: Any = ({"role": "user", "content": "3"},)) -> dict[str, str]:
        tokenizer = gpt2_style()
        tokenizer.chat_template = own
        return fingerprint_of([Problem(prompt=prompt, answer="3")], TraceReader(tokenizer, "plain"), 40)

    first, other = "{{ messages[0].content }}", "Q: {{ messages[0].content }}"
    assert fingerprint(first) == fingerprint(first)
    with pytest.raises(HistoryError, match="other settings: template"):
        check_fingerprint(fingerprint(first), fingerprint(other), "the records")
    assert fingerprint(first, "3") == fingerprint(None, "3"), "texts are rendered by nobody"


@pytest.mark.parametrize("named", [False, True])
def test_a_template_that_comes_back_from_a_checkpoint_with_other_line_ends_is_the_same(
    tmp_path: Path, named: bool
) -> None:
    """Where a tokenizer's template is saved as a file, it is read back with line ends of one kind; Jinja heeds none."""
    own = "{% for m in messages %}\r\n{{ m.content }}\r\n{% endfor %}"
    tokenizer = gpt2_style()
    tokenizer.chat_template = {"default": own, "tool_use": own + "\r\n"} if named else own
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.chat_template != tokenizer.chat_template
    problem = Problem(prompt=({"role": "user", "content": "3"},), answer="3")
    readers = [TraceReader(each, "plain") for each in (tokenizer, again)]
    assert readers[0].prompt_ids(problem) == readers[1].prompt_ids(problem)
    before, now = (fingerprint_of([problem], reader, 40) for reader in readers)
    assert before == now
