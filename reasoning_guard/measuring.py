"""Evaluate the live model on all processes of a run, and announce the cost before the first evaluation."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from torch import nn
from tqdm.auto import tqdm

from reasoning_guard.cost import FEWEST, PROBED, Cost, announcement, extrapolated, nested
from reasoning_guard.errors import LostProcessError
from reasoning_guard.evaluate import evaluate
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.generation import Generator
from reasoning_guard.model_parts import is_tensor_parallel
from reasoning_guard.probes import Probe
from reasoning_guard.problems import Problem
from reasoning_guard.processes import ALONE, Team, is_main_process
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import Reference
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.settings import OnError

logger = logging.getLogger("reasoning_guard.guard")


class Measurer:
    """Reads live models on held-out problems.

    Args:
        problems: All problems of the run.
        reader: Reads completions in the run's format.
        probes: What to ask.
        max_new_tokens: Longest trace, in tokens.
        max_overhead: The limit to name when the cost is announced, or None.
        progress: Whether to show progress bars, and the cost on the terminal.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        reader: TraceReader,
        probes: Sequence[Probe],
        max_new_tokens: int,
        *,
        max_overhead: float | None,
        progress: bool,
    ) -> None:
        self.problems, self.reader, self.probes = problems, reader, probes
        self.max_new_tokens, self.max_overhead, self.progress = max_new_tokens, max_overhead, progress
        self.scorer: AnswerScorer | None = None

    def measure(
        self, model: nn.Module, step: int, reference: Reference | None, *, size: int, announce: bool
    ) -> Evaluation:
        """Read ``model``. Every process of the run must call this, inside :func:`~reasoning_guard.processes.together`.

        Args:
            model: The live model.
            step: Training step at which it stands.
            reference: The frozen reader, or None.
            size: How many problems to read.
            announce: Whether to say what it costs: beforehand, or afterwards if a trial would cost as much.

        Returns:
            The evaluation, the same on every process.
        """
        probed = announce and size >= FEWEST
        if probed:
            self._announce(self._probe(model, step, reference, size))
        evaluation = self._evaluate(model, step, reference, nested(self.problems, size))
        if announce and not probed:
            self._announce(Cost.of(evaluation))
        return evaluation

    def _probe(self, model: nn.Module, step: int, reference: Reference | None, size: int) -> Cost:
        """Measure what ``size`` problems will cost, by a few. The first reading (tests, warm-up) is not timed."""
        processes = Team.of_run().size
        few = nested(self.problems, max(processes * PROBED, size // PROBED))
        fewest = few[:: max(1, len(few) // (2 * processes))]
        _, fewer, more = (Cost.of(self._evaluate(model, step, reference, part)) for part in (fewest, fewest, few))
        generator = self._generator(model)
        rounds = [generator.rounds(self._prompts(part)) for part in (nested(self.problems, size), few)]
        return extrapolated(fewer, more, size, rounds[0] / rounds[1])

    def _prompts(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        """The prompts that the main process, whose clock counts, will have."""
        return [self.reader.prompt_ids(problem) for problem in problems[:: Team.of_run().size]]

    def _announce(self, cost: Cost) -> None:
        say = tqdm.write if self.progress else logger.info
        if is_main_process():
            say(f"reasoning_guard: {announcement(cost, self.max_overhead)}")

    def _generator(self, model: nn.Module) -> Generator:
        return Generator(
            model,
            self.reader.tokenizer,
            max_new_tokens=self.max_new_tokens,
            is_complete=self.reader.format.is_complete,
            progress=self.progress and is_main_process(),
        )

    def _evaluate(
        self, model: nn.Module, step: int, reference: Reference | None, problems: Sequence[Problem]
    ) -> Evaluation:
        if self.scorer is None or self.scorer.model is not model:
            self.scorer = AnswerScorer(model, self.reader.tokenizer, self.reader.format)
        self.scorer.progress = self.progress and is_main_process()
        if reference is not None:
            reference.show_progress(self.scorer.progress)
        return evaluate(
            step,
            problems,
            reader=self.reader,
            generator=self._generator(model),
            policy=self.scorer,
            reference=reference,
            probes=self.probes,
            team=ALONE if is_tensor_parallel(model) else Team.of_run(),
        )


def or_failed(make: Callable[[], Evaluation], step: int, on_error: OnError) -> Evaluation:
    """Return what ``make`` returns, or a failed evaluation that says what went wrong.

    Args:
        make: What may fail. The error is logged with its traceback.
        step: Training step of the failed evaluation.
        on_error: "raise" raises the error after all.

    Raises:
        LostProcessError: Another process of the run is gone, which has ended the run already.
    """
    try:
        return make()
    except LostProcessError:
        raise
    except Exception as error:
        if on_error == "raise":
            raise
        logger.exception("the guard failed at step %d; training goes on", step)
        failure = "".join(traceback.format_exception_only(error)).strip()
        return Evaluation(step=step, created=datetime.now(UTC).isoformat(timespec="seconds"), failure=failure)
