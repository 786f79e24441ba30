"""What the tests of an evaluation share: one of a model that has learnt a few lessons by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memorised import FORMAT, PROBLEMS, TOKENIZER
from reasoning_guard.evaluate import evaluate
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.generation import Generator
from reasoning_guard.probes import Probe, default_probes
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.tree import BranchScore

READER = TraceReader(TOKENIZER, FORMAT)
Scores = Sequence[BranchScore]
Continued = Sequence[tuple[int, ...]]


def ask(
    model: Any,
    problems: Sequence[Problem] = PROBLEMS,
    probes: Sequence[Probe] | None = None,
    reference: Any = None,
    reader: TraceReader = READER,
) -> Evaluation:
    return evaluate(
        3,
        problems,
        reader=reader,
        generator=Generator(model, reader.tokenizer, max_new_tokens=40, progress=False),
        policy=AnswerScorer(model, reader.tokenizer, reader.format),
        reference=reference,
        probes=default_probes() if probes is None else probes,
    )


def frozen(model: Any) -> AnswerScorer:
    return AnswerScorer(model, TOKENIZER, FORMAT)


def names_of(probes: Sequence[Probe]) -> set[str]:
    readers = {"policy": "", "reference": "reference/"}
    return {readers[who] + name for probe in probes for who in probe.readers for name in probe.names}
