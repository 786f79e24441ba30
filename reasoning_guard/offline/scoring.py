"""Score saved traces with a model: a row of values for each. All processes share the work; it survives a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluate import probe_traces
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.gate import floors, gate, gated_sets
from reasoning_guard.generation import Generator
from reasoning_guard.history import digest
from reasoning_guard.offline.saved import SavedTrace, SavedTraces
from reasoning_guard.offline.store import ScoreFile
from reasoning_guard.probes import MistakeProbe, Probe, default_probes
from reasoning_guard.processes import Team, from_main_process, together
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import Reference
from reasoning_guard.scorer import AnswerScorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 32
"""Traces that are scored together and kept together. Fixed, so that any number of processes forms the same batches."""

_DONORS = 512
"""Traces among which controls look for another problem's steps, evenly spread over the file."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ScoredTraces:
    """What was found about saved traces.

    Attributes:
        rows: One row for each trace, in the order of the traces.
        gated: Problem sets whose accuracy is at chance, where dependence on the text means nothing.
    """

    rows: tuple[Row, ...]
    gated: tuple[str, ...] = ()


def probes_without_writing() -> list[Probe]:
    """Return the default probes that only score what is written, so that no model has to go on writing."""
    return [probe for probe in default_probes() if type(probe).prefixes is Probe.prefixes]


def probes_with_mistakes() -> list[Probe]:
    """Return :func:`probes_without_writing`, and the probe that alters steps and lets the model go on."""
    return [*probes_without_writing(), MistakeProbe()]


def score_traces(
    saved: SavedTraces,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    probes: Sequence[Probe] | None = None,
    out: str | os.PathLike[str] | None = None,
    max_new_tokens: int = 512,
    progress: Progress | None = None,
) -> ScoredTraces:
    """Ask all probes about saved traces, read by one model.

    Every process of a run (``accelerate launch``) makes this call and takes its share. Each returns all rows.

    Args:
        saved: The traces (:func:`~reasoning_guard.offline.saved.load_saved_traces`).
        model: The reader: the model that wrote them, or any frozen reader.
        tokenizer: Its tokenizer.
        probes: What to ask; default :func:`probes_without_writing`.
        out: A ``.jsonl`` file for the rows. With it, a scoring that was stopped goes on where it was. Several processes
            need it.
        max_new_tokens: Longest continuation of an altered trace, for probes that need one.
        progress: Called with the number of traces that are done, and the number of all traces.

    Returns:
        One row for each trace. If accuracy is at chance, values that say how far answers depend on the text are NaN
        with the reason.

    Raises:
        ConfigurationError: Tokenizer and format can't ask about a problem, ``out`` holds something other than scores
            of these traces with these settings, or there are several processes and no ``out``.

    Example:
        >>> from reasoning_guard.offline import load_model, load_saved_traces, score_traces     # doctest: +SKIP
        >>> scored = score_traces(load_saved_traces("traces.jsonl"), *load_model("my/model"))   # doctest: +SKIP
        >>> [row.values["info_gain"] for row in scored.rows]                                    # doctest: +SKIP
    """
    asked = list(probes_without_writing() if probes is None else probes)
    reader = TraceReader(tokenizer, saved.format)
    reader.check({trace.problem.id: trace.problem for trace in saved.traces}.values())
    work, team = _Work(saved.traces, model, reader, asked, max_new_tokens), Team.of_run()
    if out is None:
        if team.size > 1:
            raise ConfigurationError("several processes share their work through a file: pass `out=`")
        records = [record for chunk in work.chunks(set(), team, progress) for record in chunk]
        return _whole(records, saved, asked)
    file = ScoreFile(out, _settings(saved, model, reader, asked, max_new_tokens))
    done = from_main_process(file.begin)
    if not from_main_process(lambda: file.is_whole):
        together(lambda: _do(work.chunks(done, team, progress), file, team))
    return from_main_process(lambda: _finish(file, saved, asked))


def check_scores(
    out: str | os.PathLike[str], saved: SavedTraces, *, probes: Sequence[Probe] | None = None, max_new_tokens: int = 512
) -> None:
    """See that :func:`score_traces` may write to a file, as far as that can be said before a model is loaded.

    Every process makes this call. The first one looks, and says what it found before others end with it.

    Args:
        out: The file, as for :func:`score_traces`.
        saved: The traces.
        probes: What will be asked.
        max_new_tokens: Longest continuation.

    Raises:
        ConfigurationError: The file holds something other than scores of these traces with these settings.
    """
    asked = list(probes_without_writing() if probes is None else probes)
    from_main_process(lambda: ScoreFile(out, {}).check(_asked(saved, asked, max_new_tokens)))


class _Work:
    """The traces in chunks, and what it takes to score one."""

    def __init__(
        self,
        traces: Sequence[SavedTrace],
        model: nn.Module,
        reader: TraceReader,
        probes: Sequence[Probe],
        max_new_tokens: int,
    ) -> None:
        self.traces, self.reader, self.probes = traces, reader, probes
        self.scorer = AnswerScorer(model, reader.tokenizer, reader.format)
        self.generator = None
        if any(type(probe).prefixes is not Probe.prefixes for probe in probes):
            complete = reader.format.is_complete
            self.generator = Generator(
                model, reader.tokenizer, max_new_tokens=max_new_tokens, is_complete=complete, progress=False
            )

    def chunks(self, done: set[int], team: Team, progress: Progress | None) -> Iterator[list[dict[str, Any]]]:
        """Score what is not ``done``, this process's share of it, a chunk at a time."""
        every = [self.traces[start : start + CHUNK] for start in range(0, len(self.traces), CHUNK)]
        pending = [chunk for chunk in every if any(trace.line not in done for trace in chunk)]
        donors = [trace.read(self.reader) for trace in _spread(self.traces, _DONORS)] if pending else []
        before, finished = len(self.traces) - sum(map(len, pending)), 0
        if progress is not None:
            progress(before, len(self.traces))
        for chunk in team.share(pending):
            read = [trace.read(self.reader) for trace in chunk]
            rows = probe_traces(read, self.reader, self.generator, self.scorer, None, self.probes, among=donors)
            yield [{"line": trace.line, **asdict(row)} for trace, row in zip(chunk, rows, strict=True)]
            finished += len(chunk) * team.size
            if progress is not None:
                progress(min(before + finished, len(self.traces)), len(self.traces))


def _spread(traces: Sequence[SavedTrace], most: int) -> list[SavedTrace]:
    """At most ``most`` of the traces, evenly spread."""
    n = min(most, len(traces))
    return [traces[i * len(traces) // n] for i in range(n)]


def _do(chunks: Iterable[list[dict[str, Any]]], file: ScoreFile, team: Team) -> None:
    """Keep each chunk as soon as it is scored."""
    for chunk in chunks:
        file.add(team.rank, chunk)


def _finish(file: ScoreFile, saved: SavedTraces, probes: Sequence[Probe]) -> ScoredTraces:
    records = file.records()
    if [record["line"] for record in records] != [trace.line for trace in saved.traces]:
        raise ConfigurationError(
            f"{file.path} holds the scores of {len(records)} traces, not of these {len(saved.traces)}; give another "
            "file to write to, or move it away"
        )
    scored = _whole(records, saved, probes)
    if not file.is_whole:
        file.finish([{"line": r["line"], **asdict(row)} for r, row in zip(records, scored.rows, strict=True)])
    return scored


def _whole(records: Sequence[Mapping[str, Any]], saved: SavedTraces, probes: Sequence[Probe]) -> ScoredTraces:
    """Rows of all traces; what the gate closes is known only when all are there."""
    fields = [{name: value for name, value in record.items() if name != "line"} for record in records]
    rows = Evaluation.from_dict({"step": 0, "rows": fields, "gated": ()}).rows
    floor = floors(list({trace.problem.id: trace.problem for trace in saved.traces}.values()))
    gated = gated_sets(rows, floor)
    return ScoredTraces(tuple(gate(rows, gated, floor, probes)), gated)


def _settings(
    saved: SavedTraces, model: nn.Module, reader: TraceReader, probes: Sequence[Probe], max_new_tokens: int
) -> dict[str, Any]:
    return {
        **_asked(saved, probes, max_new_tokens),
        "chat_template": digest(getattr(reader.tokenizer, "chat_template", None)),
        "model": type(model).__name__,
        "weights": Reference(model, reader.tokenizer, reader.format, "").fingerprint(),
    }


def _asked(saved: SavedTraces, probes: Sequence[Probe], max_new_tokens: int) -> dict[str, Any]:
    """Those of the settings that no model is needed for."""
    problems = [
        (t.problem.id, t.problem.set, t.problem.answer, t.problem.options, t.problem.prompt) for t in saved.traces
    ]
    return {
        "traces": digest([(trace.completion, trace.finished) for trace in saved.traces]),
        "problems": digest(problems),
        "format": saved.format.name,
        "format_fields": digest(saved.format.to_dict()),
        "probes": [type(probe).__name__ for probe in probes],
        "max_new_tokens": max_new_tokens,
    }
