"""One held-out evaluation of a live model: from problems to traces, trees and numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, cast

from reasoning_guard.cells import content_of
from reasoning_guard.errors import warn_once
from reasoning_guard.evaluation import REFERENCE_PREFIX, Evaluation, Row
from reasoning_guard.forward import Scores
from reasoning_guard.gate import floors, gate, gated_sets
from reasoning_guard.generation import Generator
from reasoning_guard.packing import anchored
from reasoning_guard.probes.base import Probe, ProbeContext, Reading
from reasoning_guard.problems import Problem
from reasoning_guard.processes import ALONE, Team
from reasoning_guard.reader import TraceReader
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore, TraceTree

T = TypeVar("T")


class TreeScorer(Protocol):
    """Anything that scores trees: :class:`~reasoning_guard.scorer.AnswerScorer`, or the frozen reference."""

    def score_trees(self, trees: Sequence[TraceTree]) -> Scores:
        """Return one score for each branch, for each tree."""
        ...


@dataclass(slots=True)
class Stopwatch:
    """Wall time by part, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's wall time to ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def evaluate(
    step: int,
    problems: Sequence[Problem],
    *,
    reader: TraceReader,
    generator: Generator,
    policy: TreeScorer,
    reference: TreeScorer | None,
    probes: Sequence[Probe],
    team: Team = ALONE,
) -> Evaluation:
    """Let the model write a trace for each problem and ask all probes about it.

    Args:
        step: Training step at which the model stands.
        problems: Held-out problems.
        reader: Reads completions in the run's format.
        generator: Writes with the live model.
        policy: Scores with the live model.
        reference: Scores with the frozen reference, or None.
        probes: What to ask.
        team: The processes among which the problems are dealt out.

    Returns:
        One row for each problem, the same on every process.
    """
    watch = Stopwatch()
    with watch.part("total"):
        with watch.part("generation"):
            own = write_traces(team.share(problems), reader, generator)
            traces = team.merge(own)
        rows = team.merge(probe_traces(own, reader, generator, policy, reference, probes, watch, among=traces))
        floor = floors(problems)
        gated = gated_sets(rows, floor)
        rows = gate(rows, gated, floor, probes)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Evaluation(step=step, rows=tuple(rows), seconds=watch.seconds, created=created, gated=gated)


def write_traces(problems: Sequence[Problem], reader: TraceReader, generator: Generator) -> list[Trace]:
    """Let the live model write one trace for each problem."""
    prompts = [reader.prompt_ids(problem) for problem in problems]
    completions = generator.complete(prompts, label="held-out traces")
    return [
        reader.read(problem, done.ids, prompt_ids=prompt, finished=done.finished, entropies=done.entropies)
        for problem, prompt, done in zip(problems, prompts, completions, strict=True)
    ]


def probe_traces(
    traces: Sequence[Trace],
    reader: TraceReader,
    generator: Generator | None,
    policy: TreeScorer,
    reference: TreeScorer | None,
    probes: Sequence[Probe],
    watch: Stopwatch | None = None,
    *,
    among: Sequence[Trace] | None = None,
) -> list[Row]:
    """Ask all probes about all traces: one scoring call for each reader, one generation for all altered prefixes.

    Args:
        traces: What was written.
        reader: Reads completions in the run's format.
        generator: Continues altered prefixes; None if nothing can be generated (saved traces).
        policy: Scores with the model in training.
        reference: Scores with the frozen reference, or None.
        probes: What to ask. If a probe raises, its values are unscored with the error as their reason; the others go
            on.
        watch: Where the seconds are added up.
        among: Where probes look for other problems' traces; default ``traces``.

    Returns:
        One row for each trace.
    """
    watch = watch or Stopwatch()
    context = ProbeContext(reader=reader, traces=traces if among is None else among)
    asked = [_Asked(probe, traces, context, policy, reference, generator) for probe in probes]
    with watch.part("scoring"):
        _score(policy, traces, [a for a in asked if a.reads("policy")], "policy")
        if reference is not None:
            _score(reference, traces, [a for a in asked if a.reads("reference")], "reference")
    with watch.part("generation"):
        _continue(generator, asked)
    with watch.part("reading"):
        readings = [a.readings() for a in asked]
    return [_row(trace, [each[i] for each in readings]) for i, trace in enumerate(traces)]


class _Asked:
    """One probe with the questions it asked and the replies it got, one list entry for each trace."""

    def __init__(
        self,
        probe: Probe,
        traces: Sequence[Trace],
        context: ProbeContext,
        policy: TreeScorer,
        reference: TreeScorer | None,
        generator: Generator | None,
    ) -> None:
        self.probe, self.traces, self.context = probe, traces, context
        self.has_reference, self.has_generator = reference is not None, generator is not None
        self.errors: dict[int, str] = {}
        self.branches: list[list[Branch]] = [self._try(i, self._checked_branches) or [] for i in range(len(traces))]
        self.prefixes: list[list[tuple[int, ...]]] = [
            self._try(i, self._listed_prefixes) or [] for i in range(len(traces))
        ]
        self.scores: dict[str, list[list[BranchScore]]] = {who: [[] for _ in traces] for who in ("policy", "reference")}
        self.continued: list[list[tuple[int, ...]]] = [[] for _ in traces]

    def _checked_branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Return the probe's branches; refuse those that can't be scored, which would later spoil the others too."""
        tree = TraceTree(trace.ids, tuple(self.probe.branches(trace, context)))
        anchored(tree)
        return list(tree.branches)

    def _listed_prefixes(self, trace: Trace, context: ProbeContext) -> list[tuple[int, ...]]:
        return [prefix for prefix in self.probe.prefixes(trace, context) if prefix]

    def reads(self, who: str) -> bool:
        return who in self.probe.readers

    def readings(self) -> list[Reading]:
        """Return the probe's reading of each trace, the reference's values beside the policy's."""
        return [self._reading(i) for i in range(len(self.traces))]

    def _reading(self, i: int) -> Reading:
        reading = Reading()
        if self.reads("policy"):
            reading = self._read(i, "policy")
        if self.reads("reference") and self.has_reference:
            other = self._read(i, "reference")
            reading.values |= {REFERENCE_PREFIX + name: value for name, value in other.values.items()}
            reading.reasons |= {REFERENCE_PREFIX + name: reason for name, reason in other.reasons.items()}
        return reading

    def _read(self, i: int, who: str) -> Reading:
        if i not in self.errors:
            if self.prefixes[i] and not self.has_generator:
                return Reading().unscored(self.probe.names, "needs a model that can go on writing")
            read = self._try(i, self._read_in_floats, self.scores[who][i], self.continued[i])
            if read is not None:
                return read
        return Reading().unscored(self.probe.names, self.errors[i])

    def _read_in_floats(self, trace: Trace, context: ProbeContext, *found: Any) -> Reading:
        """Return what the probe reads, in floats. Anything else costs that value, not the run's records."""
        name, read = type(self.probe).__name__, cast("object", self.probe.read(trace, context, *found))
        if not isinstance(read, Reading):
            raise TypeError(f"`read` returned {type(read).__name__}, not a Reading")
        plain = read.in_floats(name)
        for value, reason in plain.reasons.items():
            if value not in read.reasons:
                warn_once(f"{reason} for {value!r} (left out; the others go on)", key=f"{name} {value}")
        return plain

    def _try(self, i: int, ask: Callable[..., T], *args: object) -> T | None:
        """Call a probe. Its mistake costs its own value on this trace, nothing else."""
        try:
            return ask(self.traces[i], self.context, *args)
        except Exception as error:
            name = type(self.probe).__name__
            self.errors[i] = f"{name} failed: {type(error).__name__}: {error}"
            warn_once(f"{self.errors[i]} (its values are left out; the others go on)", key=f"{name} {type(error)}")
            return None


def _score(scorer: TreeScorer, traces: Sequence[Trace], asked: Sequence[_Asked], who: str) -> None:
    """Score the branches of all ``asked`` in one call and hand each its own."""
    trees = [
        TraceTree(trace.ids, tuple(branch for a in asked for branch in a.branches[i])) for i, trace in enumerate(traces)
    ]
    for i, scores in enumerate(scorer.score_trees(trees)):
        replies = iter(scores)
        for a in asked:
            a.scores[who][i] = [next(replies) for _ in a.branches[i]]


def _continue(generator: Generator | None, asked: Sequence[_Asked]) -> None:
    """Continue the prefixes of all ``asked`` in one call and hand each its own.

    This is called even if there are none, because other processes may have some.
    """
    prefixes = [prefix for a in asked for each in a.prefixes for prefix in each]
    if generator is None:
        return
    replies = iter(generator.complete(prefixes, label="altered traces"))
    for a in asked:
        a.continued = [[next(replies).ids for _ in each] for each in a.prefixes]


def _row(trace: Trace, readings: Sequence[Reading]) -> Row:
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for reading in readings:
        values |= reading.values
        reasons |= reading.reasons
    prompt = trace.problem.prompt
    if not isinstance(prompt, str):
        prompt = "\n".join(f"{message['role']}: {content_of(message['content'])}" for message in prompt)
    return Row(
        id=trace.problem.id,
        set=trace.problem.set,
        values=values,
        reasons=reasons,
        prompt=prompt,
        completion=trace.text,
        steps=trace.steps,
        curve=next((reading.curve for reading in readings if reading.curve), ()),
        n_tokens=next((reading.n_tokens for reading in readings if reading.n_tokens), 0),
        same=next((reading.same for reading in readings if reading.same), ()),
        answer=trace.answer,
        reference=trace.problem.answer,
        notes=trace.notes,
    )
