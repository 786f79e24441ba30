"""The report in a real browser: its viewer, traces that mean harm, and a long history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import CHROMIUM, NONE_FOUND, ask
from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.report import Run, write_report
from reasoning_guard.report.pairs import MOST_PAIRS
from report_stories import HEALTHY, SHORTCUT, evaluation, story

Browse = Callable[[str, str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def healthy() -> Run:
    return story("healthy", HEALTHY, 1.0)


@pytest.fixture(scope="module")
def shortcut() -> Run:
    return story("shortcut", SHORTCUT, 0.06)


HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "</script><script>document.title = 'owned'</script><style>body{display:none}</style>",
    "<img src=x onerror=\"document.title='owned'\"> {{ 7 * 7 }} {% raw %} ]]> --> &lt;b&gt;",
    "x" * 100_000,
    "א + ב = ג \u202eright to left\u202c ; 4 ÷ 2",
    "🦊👩‍👩‍👧 = 3 \ud800 \x00 \x1b[31m",
)


def hostile_run() -> Run:
    name = "<b>\"'`</b>"
    values = {"accuracy": 1.0, "info_gain": 1.0, "<u>": 2.0}
    row = Row(
        id="<i>\"'",
        set="<s>",
        values=values,
        prompt=HOSTILE[0],
        steps=HOSTILE,
        curve=tuple(-7.0 + k for k in range(7)),
        answer=HOSTILE[1],
        reference="</script>",
        notes=("<u>",),
    )
    empty = replace(row, id="plain", steps=(), curve=(), completion=HOSTILE[2], answer=None, values={"info_gain": 0.5})
    worse = replace(row, values={"accuracy": 0.0, "info_gain": 0.0, "<u>": 1.0})
    worst = replace(empty, values={"info_gain": -5.0})
    said = {"message": HOSTILE[0], "causes": (HOSTILE[1],), "advice": HOSTILE[2]}
    return Run(
        name=name,
        evaluations=[Evaluation(step=0, rows=(row, empty)), Evaluation(step=9, rows=(worse, worst))],
        alerts=[Alert(key="k", rule="<r>", severity="alarm", step=9, since=9, **said)],
        settings={"<k>": HOSTILE[1]},
        description=HOSTILE[0],
    )


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open a page of ``tmp_path`` in a frame of a given width, run a function body over it, return what it returns."""
    if CHROMIUM is None:
        pytest.skip(NONE_FOUND)

    def open_page(page: str, body: str, width: int) -> dict[str, Any]:
        name, _, anchor = page.partition("#")
        return ask(tmp_path / name, body, width=width, anchor=f"#{anchor}" if anchor else "")

    return open_page


def test_viewer_sorts_switches_and_follows_links(tmp_path: Path, browse: Browse, healthy: Run, shortcut: Run) -> None:
    write_report(tmp_path / "r.html", [healthy, shortcut])
    said = browse(
        "r.html",
        """
        const view = all(".viewer")[1], pick = view.querySelector(".problem"), sort = view.querySelector(".sort");
        const shown = () => [...view.querySelectorAll(".pair")].filter((p) => !p.hidden).map((p) => p.id);
        const change = (what) => what.dispatchEvent(new win.Event("change"));
        const key = [...sort.options].findIndex((o) => o.text === "InfoGain");
        const out = {viewers: all(".viewer").map((v) => v.hidden), first: shown(), option: pick.value};
        sort.selectedIndex = key; change(sort);
        out.lost = [...pick.options].map((o) => Number(o.dataset.lost.split("|")[key]));
        out.sorted = shown(); out.position = view.querySelector("output").textContent;
        view.querySelector("[data-move='1']").click();
        out.next = shown(); out.second = pick.options[1].value;
        all("button[data-run]")[0].click();
        out.switched = all(".viewer").map((v) => v.hidden);
        return out;
        """,
        1200,
    )
    assert said["viewers"] == [True, False]  # the run that alarmed is shown first
    assert said["first"] == [said["option"]]
    assert said["lost"] == sorted(said["lost"], reverse=True)
    assert len(said["sorted"]) == 1
    assert said["position"] == f"1 of {MOST_PAIRS}"
    assert said["next"] == [said["second"]]
    assert said["switched"] == [False, True]
    visible = "return {shown: all('.viewer:not([hidden]) .pair:not([hidden])').map((p) => p.id)};"
    linked = browse("r.html#t0-7", visible, 1200)
    assert linked["shown"] == ["t0-7"]


def test_hostile_traces_are_shown_as_text(tmp_path: Path, browse: Browse) -> None:
    write_report(tmp_path / "r.html", [hostile_run()], title="</title><script>alert(1)</script>")
    said = browse(
        "r.html",
        """
        return {title: doc.title, scripts: all("script").length, styles: all("style").length,
                foreign: all("img, iframe, b b, u, s, i i").length,
                wide: doc.documentElement.scrollWidth, tall: doc.body.getBoundingClientRect().height};
        """,
        390,
    )
    assert said["title"] == "</title><script>alert(1)</script>"
    assert (said["scripts"], said["styles"], said["foreign"]) == (1, 1, 0)
    assert said["tall"] > 500
    assert said["wide"] <= 390
    texts_shown = "return {texts: all('.pair:not([hidden]) .trace .text').map((t) => t.textContent)};"
    assert browse("r.html#t0-0", texts_shown, 390)["texts"] == [HOSTILE[2], HOSTILE[2]]
    linked = browse("r.html#t0-1", texts_shown, 390)
    texts = linked["texts"]
    assert texts[:3] == list(HOSTILE[:3])
    assert texts[3].startswith("xxx")
    assert texts[3].endswith("(96,000 more characters)")
    assert texts[4] == HOSTILE[4]
    assert texts[5].startswith("🦊👩‍👩‍👧 = 3 ?")


def test_a_long_history_stays_small_and_opens_at_once(tmp_path: Path, browse: Browse) -> None:
    """As many points, problems and steps as a long run has; benchmarks/report_size.py tries it from files on disk."""
    ends = [evaluation(SHORTCUT, 0.06, step, 500, 256, 40) for step in (0, 500)]
    thin = replace(ends[0], rows=tuple(replace(row, completion="", steps=()) for row in ends[0].rows[::16]))
    middle = [replace(thin, step=step) for step in range(1, 499)]
    run = Run(name="long", evaluations=[ends[0], *middle, ends[1]])
    page = write_report(tmp_path / "r.html", [run])
    assert page.stat().st_size < 10e6
    opened = "return {ms: Date.now() - win.performance.timing.navigationStart, traces: all('.pair').length};"
    said = browse("r.html", opened, 1200)
    assert said["traces"] == MOST_PAIRS
    assert said["ms"] < 3000
