"""The parts of the page, as values: everything that the template prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from reasoning_guard.report.charts import Dot, Frame, Line, Mark, chart, extent
from reasoning_guard.report.measures import ACCURACY, GROUPS, INFO_GAIN, MISTAKE, NET_GAIN, Measure, own_probes
from reasoning_guard.report.numbers import number
from reasoning_guard.report.pairs import BUDGET, Pair, pairs, sorts
from reasoning_guard.report.run import Run
from reasoning_guard.report.series import Timeline, timeline
from reasoning_guard.report.verdict import Verdict, gravity, verdict, when

if TYPE_CHECKING:
    from reasoning_guard.alerts import Alert

WIDE = Frame(width=560, height=148, left=40, right=112, top=20)
NARROW = Frame(width=350, height=168, left=34, right=98, top=20)
SMALL = Frame(width=300, height=150, right=78)
SMALL_NAMED = Frame(width=330, height=160, right=110)
LONGEST_NAME = 12


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its caption; two drawings if wide and narrow columns need different ones."""

    title: str
    unit: str
    note: str
    drawings: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """A value before and after, for the line under the verdict."""

    label: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Section:
    """Small multiples that answer one question."""

    title: str
    question: str
    reader: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that the page says about one run."""

    run: Run
    index: int
    history: Timeline
    verdict: Verdict
    alerts: tuple[Alert, ...]
    pairs: tuple[Pair, ...]

    @property
    def colour(self) -> int:
        """Number of the run's colour class."""
        return self.index % 6

    @property
    def sorts(self) -> list[tuple[str, str]]:
        """Ways to sort the traces."""
        return sorts(self.pairs)

    @property
    def problems(self) -> str:
        """Number of problems in each set, in words."""
        rows = self.history.first.rows if self.history.first else ()
        counts = {s: sum(r.set == s for r in rows) for s in self.history.sets}
        return ", ".join(f"{n:,} {s}" for s, n in counts.items())

    @property
    def failures(self) -> list[tuple[int, str]]:
        """Steps at which an evaluation failed, with the reason."""
        return [(s.step, s.failure) for s in self.history.snapshots if s.failure is not None]

    @property
    def costs(self) -> dict[str, float]:
        """Seconds by part over the whole run, the total last."""
        parts: dict[str, float] = {}
        for snapshot in self.history.snapshots:
            for part, value in snapshot.seconds.items():
                parts[part] = parts.get(part, 0.0) + value
        total = parts.pop("total", math.fsum(parts.values()))
        rest = total - math.fsum(parts.values())
        return {**parts, **({"other": rest} if rest > 0.005 * total else {}), "total": total} if total else {}


def tell(runs: Sequence[Run]) -> list[Story]:
    """Read every run's history once, and tell its story."""
    return [_story(run, index, BUDGET // len(runs)) for index, run in enumerate(runs)]


def _story(run: Run, index: int, budget: int) -> Story:
    history = timeline(run.evaluations)
    alerts = tuple(sorted(run.alerts, key=gravity))
    return Story(
        run,
        index,
        history,
        verdict(history, alerts, run.settings.get("rules", ())),
        alerts,
        tuple(pairs(history, alerts, budget=budget)),
    )


def key_numbers(story: Story) -> list[KeyNumber]:
    """Return the few values on which the verdict rests."""
    wanted = [(ACCURACY, s, f"Accuracy, {s}") for s in story.history.sets[:2]]
    wanted += [(m, None, m.label) for m in (INFO_GAIN, NET_GAIN, MISTAKE)]
    found = ((m, label, story.history.ends(m.name, s)) for m, s, label in wanted)
    return [KeyNumber(label, *(number(e.mean, share=m.bounded) for e in ends)) for m, label, ends in found if ends]


def hero(stories: Sequence[Story]) -> list[list[Figure]]:
    """Draw accuracy above and gains below, over the same steps: a list of figures for each story, on common scales."""
    accuracy = [[_line(s, ACCURACY, dash, set, set) for dash, set in enumerate(s.history.sets)] for s in stories]
    gains = [
        [_line(s, m, dash, None, m.label) for dash, m in enumerate((INFO_GAIN, NET_GAIN)) if _has(s, m)]
        for s in stories
    ]
    scale = extent([line for lines in gains for line in lines])
    return [
        [
            *_hero_figure(
                "Accuracy",
                f"{ACCURACY.unit}, bands: 95 % intervals",
                a,
                story,
                share=True,
                domain=(0.0, 1.0),
                headed=True,
            ),
            *_hero_figure("What the steps add to the answer", INFO_GAIN.unit, g, story, domain=scale),
        ]
        for story, a, g in zip(stories, accuracy, gains, strict=True)
    ]


def _hero_figure(
    title: str,
    unit: str,
    lines: Sequence[Line],
    story: Story,
    *,
    domain: tuple[float, float],
    share: bool = False,
    headed: bool = False,
) -> list[Figure]:
    about = f"{title} of {story.run.name} over training steps. {_spoken(lines, share)}"
    marks = _marks(story, headed=headed)
    drawings = tuple(
        (kind, chart(lines, marks, about=about, share=share, domain=domain, frame=frame))
        for kind, frame in (("wide", WIDE), ("narrow", NARROW))
    )
    return [Figure(title, unit, "", drawings)] if drawings[0][1] else []


def sections(stories: Sequence[Story]) -> list[Section]:
    """Return the axes, behaviour and the user's own probes, each with the charts that have something to show."""
    names = dict.fromkeys(name for story in stories for name in story.history.names)
    found = []
    for group in (*GROUPS, own_probes(names)):
        figures = tuple(_small(m, stories) for m in group.measures if m.name in names and _in_first(m, stories))
        if figures:
            found.append(Section(group.title, group.question, group.reader, figures))
    return found


def _small(what: Measure, stories: Sequence[Story]) -> Figure:
    alone = len(stories) == 1
    lines = [_line(s, what, s.index % 4, None, "" if alone else brief(s.run.name)) for s in stories if _has(s, what)]
    marks = [m if alone else replace(m, until=m.x) for story in stories for m in _marks(story)]
    about = f"{what.label} over training steps. {_spoken(lines, what.bounded)}"
    frame = SMALL if alone else SMALL_NAMED
    drawing = chart(lines, marks, about=about, share=what.bounded, frame=frame)
    return Figure(what.label, what.unit, what.about, (("any", drawing),))


def brief(name: str) -> str:
    """Shorten a run's name to fit at the end of a line."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _line(story: Story, what: Measure, dash: int, set: str | None, label: str) -> Line:
    found = story.history.series(what.name, set)
    dots = (Dot(step, e.mean, e.lower, e.upper) if e else Dot(step, math.nan) for step, e in found)
    return Line(label, tuple(dots), story.colour, dash)


def _marks(story: Story, *, headed: bool = False) -> list[Mark]:
    heads = [when(alert) if headed and number == 0 else "" for number, alert in enumerate(story.alerts)]
    return [Mark(a.since, a.step, a.severity, head) for a, head in zip(story.alerts, heads, strict=True)]


def _has(story: Story, what: Measure) -> bool:
    return any(e is not None for _, e in story.history.series(what.name))


def _in_first(what: Measure, stories: Sequence[Story]) -> bool:
    return any(_has(story, what) for story in stories)


def _spoken(lines: Sequence[Line], share: bool) -> str:
    def ends(line: Line) -> Mapping[str, str]:
        finite = [d for d in line.dots if math.isfinite(d.y)]
        shown = [f"{number(d.y, share=share)} at step {d.x:,}" for d in (finite[:1] + finite[1:][-1:])]
        return {"label": line.label or "the run", "path": ", then ".join(shown)}

    return " ".join("{label}: {path}.".format(**ends(line)) for line in lines if line.dots)
