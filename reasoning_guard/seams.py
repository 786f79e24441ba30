"""Seams: whether a trace that is cut and asked for its answer has the tokens that running text would have there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reasoning_guard.reader import TraceReader
from reasoning_guard.tokens import TokenText, encode
from reasoning_guard.traces import Trace

_MERGED = 0.05
"""Share of cuts above which the user is told."""


@dataclass(frozen=True, slots=True)
class SeamReport:
    """How often tokens would have merged across a cut.

    Attributes:
        n: Number of cuts looked at.
        trunk_broken: Share of cuts at which a step ends inside a token, so that the cut is elsewhere.
        cue_merged: Share of cuts at which the cut trace with cue and answer, tokenised together, is not the trace's
            own tokens followed by the question's.
    """

    n: int
    trunk_broken: float
    cue_merged: float

    @property
    def worth_telling(self) -> bool:
        """Whether either share is more than one in twenty."""
        return max(self.trunk_broken, self.cue_merged) > _MERGED

    def __str__(self) -> str:
        """A sentence for the user."""
        return (
            f"Of {self.n} cuts, {self.trunk_broken:.0%} fall inside a token, and at {self.cue_merged:.0%} a question "
            "would have other tokens in running text. Baseline and later evaluations share this, so that it cancels in "
            "their differences."
        )


def seam_report(reader: TraceReader, traces_or_texts: Iterable[Trace | str], *, answer: str = "42") -> SeamReport:
    """Count how often a token would have merged across a cut, for a message at the start of a run.

    Measured on 60 GSM8K solutions with small tokenizers of five families (GPT-2, Llama-3 and Qwen2 splits, Llama-2
    and Gemma pieces), share of cuts as ``trunk_broken`` / ``cue_merged``:

    ============================================ ============ ===================================================
    convention                                   trunk_broken cue_merged
    ============================================ ============ ===================================================
    every preset                                 0            0
    a newline before the cue, newlines end steps 0            .45 (Llama-3, Qwen2), 1 (Llama-2), 0 elsewhere
    a newline before the cue, sentences          0            1 (Llama-3, Qwen2, Llama-2), 0 elsewhere
    sentences that keep the space behind them    .01 to .37   .41 to .42, 0 (Gemma)
    ============================================ ============ ===================================================

    Args:
        reader: Tokenizer and format.
        traces_or_texts: Traces, or completions as text (then without the cut right behind the prompt). The text is
            examined in the tokenizer's own tokenisation.
        answer: The answer to ask for if a completion states none.

    Returns:
        The number of cuts, and the two shares of them; 0 if there are none.
    """
    seams = [seam for item in traces_or_texts for seam in _seams(reader, item, answer)]
    n = len(seams)
    broken, merged = (sum(seam[i] for seam in seams) / n if n else 0.0 for i in (0, 1))
    return SeamReport(n, broken, merged)


def _seams(reader: TraceReader, item: Trace | str, answer: str) -> Iterator[tuple[bool, bool]]:
    ids = encode(reader.tokenizer, item if isinstance(item, str) else item.text)
    tokens = TokenText.of(reader.tokenizer, ids)
    layout = reader.format.parse(tokens.text)
    asked = answer if layout.answer is None else tokens.text[slice(*layout.answer)]
    question, text = reader.ask(asked).ids[: None if reader.format.terminator else -1], reader.format.asked(asked)
    if isinstance(item, Trace):
        problem = item.problem
        joint = encode(
            reader.tokenizer, reader.prompt_text(problem) + text, add_special_tokens=isinstance(problem.prompt, str)
        )
        yield False, joint != reader.prompt_ids(problem) + question
    for end in layout.ends:
        cut = tokens.cut(end)
        prefix = tokens.text[: tokens.length(cut)]
        yield len(prefix) < end, encode(reader.tokenizer, prefix + text) != ids[:cut] + question
