"""Check a model, its tokenizer and a format on a handful of problems, before a run rests on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from reasoning_guard.adapters import has_adapter
from reasoning_guard.embeddings import embeddings_of
from reasoning_guard.evaluate import Stopwatch, probe_traces, write_traces
from reasoning_guard.evaluation import Row
from reasoning_guard.format_inference import states_answer
from reasoning_guard.formats import PRESETS, TraceFormat
from reasoning_guard.generation import Generator
from reasoning_guard.model_parts import context_length, device_of
from reasoning_guard.probes import default_probes
from reasoning_guard.problems import load_problems
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerCurve, AnswerScorer
from reasoning_guard.seams import SeamReport, seam_report
from reasoning_guard.traces import Trace
from reasoning_guard.verdict import Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 8
"""Problems that are looked at unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about the model and its tokenizer.

    Attributes:
        name: Class of the model.
        parameters: Number of parameters.
        dtype: Number format of the parameters.
        device: Where the parameters are.
        context: Longest sequence in tokens, or None without a limit.
        adapter: Whether it is a PEFT model, whose adapter can be switched off.
        embeddings: Number of tokens that the model knows.
        vocabulary: Number of tokens that the tokenizer has.
        chat_template: Whether the tokenizer has a chat template.
    """

    name: str
    parameters: int
    dtype: str
    device: str
    context: int | None
    adapter: bool
    embeddings: int
    vocabulary: int
    chat_template: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What was found.

    Attributes:
        model: The model and its tokenizer.
        format: How completions are read and answers asked for.
        n_problems: Number of problems that an evaluation would read.
        sets: The sets of these problems.
        gradable: How many problems of each set have a reference answer.
        chats: How many problems have chat messages as prompt.
        longest_prompt: Longest prompt, in tokens.
        max_new_tokens: Longest trace, in tokens.
        traces: What the model wrote for a sample of the problems.
        rows: All probe values of these traces.
        shown: Index of the trace that is shown step by step.
        curve: Scores of that trace's reference answer after 0, 1, ... steps; None without a reference answer.
        asked: What is appended to a cut trace to ask for that problem's answer.
        agreeing: Number of traces after which the cue makes the model give its own answer.
        asked_of: Number of traces that state an answer, so that this can be asked.
        presets: For each preset, the share of the traces in which it reads an answer.
        seams: What happens to tokens at the cuts.
        path: How scores are made, and why.
        seconds: Wall time of the sample by part: "generation", "scoring", "reading", "self-test".
    """

    model: ModelFacts
    format: TraceFormat
    n_problems: int
    sets: tuple[str, ...]
    gradable: dict[str, int]
    chats: int
    longest_prompt: int
    max_new_tokens: int
    traces: tuple[Trace, ...]
    rows: tuple[Row, ...]
    shown: int
    curve: AnswerCurve | None
    asked: str
    agreeing: int
    asked_of: int
    presets: dict[str, float]
    seams: SeamReport
    path: Verdict
    seconds: dict[str, float]

    def cost(self) -> dict[str, float]:
        """Return the seconds that an evaluation of all problems will take, by part, without a frozen reference."""
        factor = self.n_problems / len(self.traces)
        return {part: self.seconds.get(part, 0.0) * factor for part in ("generation", "scoring", "reading")}


def examine(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Any,
    *,
    format: str | TraceFormat = "plain",
    max_new_tokens: int = 512,
    sample: int = SAMPLE,
    progress: bool = False,
) -> Checkup:
    """Examine a model as a guard would, on a few problems.

    Args:
        model: The model as it is before training.
        tokenizer: Its tokenizer.
        problems: Held-out problems, or anything :func:`~reasoning_guard.problems.load_problems` takes.
        format: How a completion is read.
        max_new_tokens: Longest trace, in tokens.
        sample: Number of problems that the model answers.
        progress: Whether to show progress bars.

    Returns:
        What was found; :func:`~reasoning_guard.offline.advice.advise` says what to make of it.

    Raises:
        ConfigurationError: This tokenizer and format can't ask about these problems.

    Example:
        >>> found = examine(model, tokenizer, "held_out.jsonl", format="gsm8k")     # doctest: +SKIP
        >>> found.path.reason, found.cost()                                         # doctest: +SKIP
    """
    reader = TraceReader(tokenizer, format)
    loaded = load_problems(problems, format=reader.format)
    sets = tuple(dict.fromkeys(problem.set for problem in loaded))
    answered = Counter(problem.set for problem in loaded if problem.answer is not None)
    reader.check(loaded)
    watch = Stopwatch()
    complete = reader.format.is_complete
    generator = Generator(model, tokenizer, max_new_tokens=max_new_tokens, is_complete=complete, progress=progress)
    chosen = loaded[:: max(1, len(loaded) // sample)][:sample]
    with watch.part("generation"):
        traces = write_traces(chosen, reader, generator)
    scorer = AnswerScorer(model, tokenizer, reader.format)
    scorer.progress = progress
    agreeing, asked_of = _agreement(scorer, traces, watch)
    rows = probe_traces(traces, reader, generator, scorer, None, default_probes(), watch)
    shown = _most_telling(traces)
    reference = traces[shown].problem.answer
    return Checkup(
        model=_facts(model, tokenizer),
        format=reader.format,
        n_problems=len(loaded),
        sets=sets,
        gradable={name: answered[name] for name in sets},
        chats=sum(not isinstance(problem.prompt, str) for problem in loaded),
        longest_prompt=max(len(reader.prompt_ids(problem)) for problem in loaded),
        max_new_tokens=max_new_tokens,
        traces=tuple(traces),
        rows=tuple(rows),
        shown=shown,
        curve=None if reference is None else scorer.score([traces[shown]])[0],
        asked=reader.format.asked(reference or "..."),
        agreeing=agreeing,
        asked_of=asked_of,
        presets={name: sum(states_answer(name, t.text) for t in traces) / len(traces) for name in PRESETS},
        seams=seam_report(reader, traces),
        path=scorer.verdict or Verdict(None, "not tested, since no question fits into the model's context"),
        seconds=watch.seconds,
    )


def _agreement(scorer: AnswerScorer, traces: Sequence[Trace], watch: Stopwatch) -> tuple[int, int]:
    """Traces after whose full chain the cue brings the model to the trace's own answer, and traces with an answer.

    The first score settles how the model is scored, which is timed apart.
    """
    answered = [trace for trace in traces if trace.answer is not None]
    started = time.perf_counter()
    scorer.score(traces[:1], [traces[0].answer or "0"])
    watch.seconds["self-test"] = time.perf_counter() - started
    curves = scorer.score(answered, [trace.answer or "" for trace in answered])
    return sum(curve.greedy[-1] for curve in curves), len(answered)


def _most_telling(traces: Sequence[Trace]) -> int:
    """The trace to show: one that is right, with an answer and with steps, as far as there is one."""
    return max(
        range(len(traces)), key=lambda i: (traces[i].answer is not None, traces[i].n_steps > 0, traces[i].correct)
    )


def _facts(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> ModelFacts:
    parameter = next(model.parameters())
    inner: Any = model
    adapter = has_adapter(model)
    return ModelFacts(
        name=type(inner.get_base_model() if adapter else inner).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(device_of(model)),
        context=context_length(model),
        adapter=adapter,
        embeddings=embeddings_of(model) or len(tokenizer),
        vocabulary=len(tokenizer),
        chat_template=bool(getattr(tokenizer, "chat_template", None)),
    )
