"""From log-probabilities to a reward: five forms that people use, as pure functions.

Each compares what a reader makes of the answer after the text with what it makes of it before. The answer has ``N``
tokens, and scores are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from reasoning_guard.probes.information import CERTAIN

Form = Literal["watermark", "total", "share", "rlpr", "verifree"]
"""How levels become a reward:

* ``watermark``: how far the highest level reached lies above the baseline, nats a token. Falling and climbing again
  earns nothing (MIG, https://arxiv.org/abs/2602.01034).
* ``total``: the level right before the answer is stated minus the baseline, nats a token; negative for a text that
  misleads, without a floor. With weight ``w`` beside a correctness reward of 0 and 1, a right answer that earns less
  than ``-1 / w`` is worth less than a wrong one. This is InfoGain (https://arxiv.org/abs/2506.02126) from end to end,
  in its log form.
* ``share``: how much of what was missing the text supplies, ``1 - level / baseline``, 0 to 1; 0 where the answer is
  certain without it (a probability above .905).
* ``rlpr``: arithmetic mean of the answer tokens' probabilities minus the baseline's, clipped at 0 (RLPR,
  https://arxiv.org/abs/2506.18254, which puts the reference into the text). Here the text may write the answer in more
  tokens than the reference has ("5.000"). Then only as many count as the reference has: the least likely ones.
* ``verifree``: their product minus the baseline's, clipped at 0 (VeriFree, https://arxiv.org/abs/2505.21493, which
  subtracts nothing).
"""

FORMS: tuple[str, ...] = get_args(Form)


@dataclass(frozen=True, slots=True)
class Levels:
    """Log-probabilities of the answer's tokens, in nats, at the places of one trace.

    Attributes:
        bare: Scores without any text; the most likely one counts.
        placebos: Scores behind texts for other problems. Their mean counts if it is above the score without text. What
            any text tells is no gain, and a single other text that happens to fit is no baseline.
        places: Scores after each quarter of what is said before the statement.
        final: Score right before the statement, in place; or at the end, if the reasoning never states the answer.
        end: Score at the end of the whole reasoning. No level counts for more than this, because a text that names many
            candidates predicts each from the one before, and leaves the reader with none.
        n_tokens: Number of tokens of the answer as it is asked for, ``N``; the answer in place may have another number.
    """

    bare: tuple[tuple[float, ...], ...]
    placebos: tuple[tuple[float, ...], ...]
    places: tuple[tuple[float, ...], ...]
    final: tuple[float, ...]
    end: tuple[float, ...]
    n_tokens: int

    @property
    def finite(self) -> bool:
        """Whether everything could be scored."""
        return all(
            map(
                math.isfinite,
                (x for each in (*self.bare, *self.placebos, *self.places, self.final, self.end) for x in each),
            )
        )

    @property
    def gain(self) -> float:
        """Return ``total`` of these levels: the net gain up to the statement, in nats a token."""
        return self._last(self._level) - self.baseline(self._level)

    def baseline(self, value: Callable[[Sequence[float]], float]) -> float:
        """Return what the reader makes of the answer without this text, in the unit of ``value``."""
        others = [value(each) for each in self.placebos]
        return max([*map(value, self.bare), *([sum(others) / len(others)] if others else [])])

    def reward(self, form: Form) -> float:
        """Return these levels as a reward of the given form.

        Example:
            >>> levels = Levels(((-3.0,),), ((-4.0,),), ((-1.0,), (-2.0,)), (-1.5,), (-0.1,), 1)
            >>> levels.reward("watermark"), levels.reward("total"), levels.reward("share")
            (2.0, 1.5, 0.5)
        """
        if form == "total":
            return self.gain
        if form == "watermark":
            return watermark(self.baseline(self._level), self._counting())
        if form == "share":
            missing = self.baseline(self._level)
            certain = missing * self.n_tokens > CERTAIN
            return 0.0 if certain else max(0.0, 1 - self._last(self._level) / missing)
        probability = self._mean_probability if form == "rlpr" else _joint_probability
        return max(0.0, self._last(probability) - self.baseline(probability))

    def _level(self, logprobs: Sequence[float]) -> float:
        return sum(logprobs) / self.n_tokens

    def _mean_probability(self, logprobs: Sequence[float]) -> float:
        """Of as many tokens as the reference has: zeros behind a decimal point are easy, and raise no mean."""
        counted = sorted(logprobs)[: self.n_tokens]
        return sum(map(math.exp, counted)) / len(counted)

    def _last(self, value: Callable[[Sequence[float]], float]) -> float:
        return min(value(self.final), value(self.end))

    def _counting(self) -> list[float]:
        end = self._level(self.end)
        return [min(self._level(each), end) for each in (*self.places, self.final)]


def watermark(baseline: float, levels: Sequence[float]) -> float:
    """Sum the rises above the highest level so far, which is how far the highest lies above the baseline.

    >>> watermark(-3.0, [-1.0, -2.0, -1.0])
    2.0
    """
    return max(0.0, max(levels, default=baseline) - baseline)


def _joint_probability(logprobs: Sequence[float]) -> float:
    return math.exp(sum(logprobs))
