from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import HistoryError, ReasoningGuardWarning
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.history import History, check_fingerprint, digest, state_of

FINGERPRINT = {"problems": "abc", "format": "think"}
DROPS = pytest.mark.filterwarnings("ignore:the last record:reasoning_guard.errors.ReasoningGuardWarning")


def evaluation(step: int, size: int = 3) -> Evaluation:
    rows = tuple(
        Row(id=f"p{i}", values={"gain": float(i), "odd": math.nan}, reasons={"odd": "none"}, prompt="é\u2028\n\ud83d")
        for i in range(size)
    )
    return Evaluation(step=step, rows=rows, seconds={"total": 0.5}, created="2030-01-01T00:00:00+00:00")


def steps(history: History) -> list[int]:
    return [e.step for e in history.load()]


def started(directory: Path, count: int = 4) -> History:
    history = History(directory / "run")
    assert history.begin(0, FINGERPRINT, {"alpha": 0.05}) == []
    for step in range(0, count * 10, 10):
        history.append(evaluation(step))
    return history


def test_records_come_back_as_they_went_in(tmp_path: Path) -> None:
    history = started(tmp_path, 2)
    history.append(Evaluation(step=20, failure="out of memory"))
    first, _, failed = history.load()
    assert first.to_dict() == evaluation(0).to_dict()
    assert math.isnan(first.rows[0].values["odd"])
    assert failed.failure == "out of memory"
    lines = (tmp_path / "run" / "evaluations.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 10, 20]


def test_what_a_checkpoint_carries_is_put_where_it_is_missing_and_nowhere_else(tmp_path: Path) -> None:
    history = started(tmp_path)
    state = state_of(history.load()[:3], FINGERPRINT, {"alpha": 0.05})
    history.restore(state)
    assert steps(history) == [0, 10, 20, 30], "the records go on from those that are carried"
    assert not (tmp_path / "run" / "earlier-1").exists()
    moved = History(tmp_path / "moved")
    moved.restore(state)
    assert steps(moved) == [0, 10, 20]
    assert [e.step for e in moved.begin(20, FINGERPRINT)] == [0, 10, 20]
    foreign = History(tmp_path / "foreign")
    foreign.append(evaluation(5))
    foreign.restore(state_of([], FINGERPRINT, {}))
    assert steps(foreign) == [5]
    foreign.restore(state)
    assert steps(foreign) == [0, 10, 20]
    assert steps(History(tmp_path / "foreign" / "earlier-1")) == [5]


@pytest.mark.parametrize(("known", "now"), [({}, {"format": "think"}), ({"format": "think"}, {})])
def test_what_only_one_of_two_runs_says_tells_them_apart(known: dict[str, str], now: dict[str, str]) -> None:
    with pytest.raises(HistoryError, match=r"the records were made with other settings: format \("):
        check_fingerprint(known, now, "the records")


def test_records_that_say_nothing_of_their_run_are_another_runs(tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    history.begin(0, {})
    history.append(evaluation(0))
    with pytest.raises(HistoryError, match="made with other settings"):
        history.begin(10, FINGERPRINT)


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append(Evaluation(step=0, seconds={"total": math.inf}))
    text = (tmp_path / "evaluations.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["seconds"] == {"total": None}


@DROPS
def test_a_last_line_cut_at_any_byte_is_dropped(tmp_path: Path) -> None:
    history = started(tmp_path, 3)
    path = tmp_path / "run" / "evaluations.jsonl"
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start + 1, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert steps(history) == [0, 10]


def test_a_dropped_line_is_said(tmp_path: Path) -> None:
    history = started(tmp_path, 3)
    path = tmp_path / "run" / "evaluations.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(ReasoningGuardWarning, match="cut short"):
        assert steps(history) == [0, 10]


@DROPS
def test_a_run_goes_on_behind_a_line_that_was_cut(tmp_path: Path) -> None:
    history = started(tmp_path, 3)
    path = tmp_path / "run" / "evaluations.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [e.step for e in history.begin(20, FINGERPRINT)] == [0, 10]
    history.append(evaluation(20))
    assert steps(history) == [0, 10, 20]


@pytest.mark.parametrize("damage", [b"{]\n", b'{"rows": 3}\n', b"[1]\n"])
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, damage: bytes) -> None:
    history = started(tmp_path, 2)
    path = tmp_path / "run" / "evaluations.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + second)
    with pytest.raises(HistoryError, match="line 2"):
        history.load()


def test_records_that_do_not_rise_are_left_out(tmp_path: Path) -> None:
    """As somebody leaves them who went on with a file that he had not read."""
    history = History(tmp_path)
    for step in (0, 2, 4, 2, 4, 6):
        history.append(Evaluation(step=step, rows=(Row(id=f"{step}"),)))
    with pytest.warns(ReasoningGuardWarning, match="2 records in .* are no later than one before them"):
        assert [e.step for e in history.load()] == [0, 2, 4, 6]
    assert [e.step for e in history.begin(4, {}, {})] == [0, 2, 4]
    aside = (tmp_path / "earlier-1" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in aside] == [2, 4, 6], "nothing is lost"


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_lost_note_of_the_run_does_not_lose_its_records(tmp_path: Path, text: str) -> None:
    history = History(tmp_path)
    history.begin(0, {"problems": "a"}, {})
    history.append(Evaluation(step=0, rows=(Row(id="a"),)))
    (tmp_path / "run.json").write_text(text)
    with pytest.warns(ReasoningGuardWarning, match="is missing|nothing says"):
        assert [e.step for e in history.begin(4, {"problems": "a"}, {})] == [0]


def test_a_new_run_moves_the_old_one_aside(tmp_path: Path) -> None:
    history = started(tmp_path)
    history.write_alerts([Alert(key="a", rule="a", severity="alarm", step=1, since=1)])
    history.begin(0, {"problems": "others", "format": "boxed"})
    assert steps(history) == []
    assert history.alerts() == []
    assert steps(History(tmp_path / "run" / "earlier-1")) == [0, 10, 20, 30]
    assert [a.key for a in History(tmp_path / "run" / "earlier-1").alerts()] == ["a"]
    history.append(evaluation(0))
    history.begin(0, FINGERPRINT)
    assert steps(History(tmp_path / "run" / "earlier-2")) == [0]


def test_a_resumed_run_keeps_what_lies_before_it_and_repeats_nothing(tmp_path: Path) -> None:
    history = started(tmp_path)
    assert [e.step for e in history.begin(15, FINGERPRINT)] == [0, 10]
    assert steps(history) == [0, 10]
    assert steps(History(tmp_path / "run" / "earlier-1")) == [20, 30]
    for step in (20, 30):
        history.append(evaluation(step))
    assert [e.step for e in history.begin(30, FINGERPRINT)] == [0, 10, 20, 30]
    assert not (tmp_path / "run" / "earlier-2").exists()


def test_a_run_resumed_without_any_record_begins_one(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.begin(100, FINGERPRINT) == []
    assert history.run()["begun_at_step"] == 100


@pytest.mark.parametrize("other", [{"problems": "xyz", "format": "think"}, {"problems": "abc"}])
def test_records_of_other_problems_are_refused_and_left_alone(tmp_path: Path, other: dict[str, str]) -> None:
    history = started(tmp_path)
    with pytest.raises(HistoryError, match=r"(problems|format) \(.* then, .* now\).*another output folder"):
        history.begin(10, other)
    assert steps(history) == [0, 10, 20, 30]
    assert history.run()["fingerprint"] == FINGERPRINT


def test_settings_may_change_and_are_kept(tmp_path: Path) -> None:
    history = started(tmp_path)
    history.begin(30, FINGERPRINT, {"alpha": 0.01})
    assert history.run()["settings"] == {"alpha": 0.01}
    assert len(history.load()) == 4


def test_a_record_that_the_disk_refuses_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = started(tmp_path, 2)
    before = (tmp_path / "run" / "evaluations.jsonl").read_bytes()

    def refuse(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        history.append(evaluation(20))
    assert (tmp_path / "run" / "evaluations.jsonl").read_bytes() == before


def test_a_record_for_which_the_disk_has_half_the_room_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    history = started(tmp_path, 2)
    path = tmp_path / "run" / "evaluations.jsonl"
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(OSError, match="part of a record"):
            history.append(evaluation(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_a_digest_knows_content_and_not_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def write_forever(directory: Path, step: int, seed: int, done: Connection) -> None:
    """A run from ``step`` on, which says what it has finished."""
    rng = random.Random(seed)
    history = History(directory)
    history.begin(step, FINGERPRINT)
    done.send("begun")
    for reached in range(step + 1, 10**6):
        history.append(evaluation(reached, size=rng.randrange(1, 400)))
        done.send(reached)


def said(receiver: Connection) -> list[int | str]:
    """All that a killed writer finished."""
    found: list[int | str] = []
    with contextlib.suppress(EOFError):
        while receiver.poll():
            found.append(receiver.recv())
    return found


@DROPS
def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    fork, rng, sure = multiprocessing.get_context("fork"), random.Random(0), [0]
    History(tmp_path).begin(0, FINGERPRINT)
    History(tmp_path).append(evaluation(0))
    for kill in range(20):
        resumed = max(1, rng.choice(sure))
        receiver, sender = fork.Pipe(duplex=False)
        writer = fork.Process(target=write_forever, args=(tmp_path, resumed, kill, sender))
        writer.start()
        sender.close()
        finished = [receiver.recv() for _ in range(kill % 4)]  # on a busy machine it takes a while to begin
        time.sleep(rng.uniform(0.0, 0.08))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        finished += said(receiver)
        found = steps(History(tmp_path))
        if "begun" in finished:
            sure = [s for s in sure if s <= resumed] + [s for s in finished if isinstance(s, int)]
        assert found[0] == 0
        assert found == sorted(set(found))
        assert set(sure) <= set(found) or "begun" not in finished
        assert len(set(found) - set(sure)) <= 1 or "begun" not in finished
        sure = found
    assert max(sure) > 1, "the writers never came to write"


@pytest.mark.parametrize("line", ['{"key": "a"}', "[1]", "words"])
def test_alerts_of_another_version_are_refused_by_name(line: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.jsonl").write_text(f"{line}\n")
    with pytest.raises(HistoryError, match=r"line 1 of .*alerts\.jsonl is not a record of this version"):
        History(tmp_path).alerts()
