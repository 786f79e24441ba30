"""Chained arithmetic modulo 11: exercises, and how they are worked step by step.

Every operation is a bijection modulo 11 (nothing is multiplied by 0). So answers are uniform, chance is 1/11, and one
wrong result that is worked through never leads back to the right one.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

MODULUS = 11
"""Values are the whole numbers from 0 to 10."""

NAMES = ("a", "b", "c", "d", "e")
"""The start value, then one name for each step."""

N_STEPS = len(NAMES) - 1

_OPERANDS = {"+": range(1, MODULUS), "*": range(2, MODULUS)}
_HELD_OUT_EVERY = 8


def _unseen_facts(share: float = 0.15) -> frozenset[tuple[int, int]]:
    """Products ``(left, right)`` that the base never sees, so that fine-tuning has something to teach.

    Both orders are kept back, for a model that knows 3 * 7 soon knows 7 * 3. Nothing is learnt from 0 and 1.
    """
    products = list(combinations_with_replacement(range(2, MODULUS), 2))
    kept_back = random.Random(0).sample(products, round(share * len(products)))
    return frozenset(fact for left, right in kept_back for fact in ((left, right), (right, left)))


UNSEEN_FACTS = _unseen_facts()
"""15 % of the multiplication facts; the base gets about three problems in four right without them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One written step, right or wrong: ``name = left symbol operand = result ;``."""

    name: str
    left: int
    symbol: str
    operand: int
    result: int

    @property
    def unseen(self) -> bool:
        """Whether the step needs one of :data:`UNSEEN_FACTS`."""
        return self.symbol == "*" and (self.left, self.operand) in UNSEEN_FACTS

    def __str__(self) -> str:
        return f"{self.name} = {self.left} {self.symbol} {self.operand} = {self.result} ;"


@dataclass(frozen=True, slots=True)
class Exercise:
    """A question without its tag.

    Attributes:
        start: Value of ``a``.
        operations: ``(symbol, operand)`` of each step.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    def work(self, overrides: Mapping[int, int] | None = None) -> tuple[Step, ...]:
        """Work the exercise step by step. Each step goes on from what the one before it wrote.

        Args:
            overrides: From the index of a step to the result that is written there instead of the right one.

        Returns:
            One step for each operation.

        >>> print(*Exercise(3, (("+", 4), ("*", 2))).work())
        b = 3 + 4 = 7 ; c = 7 * 2 = 3 ;
        >>> print(*Exercise(3, (("+", 4), ("*", 2))).work({0: 6}))
        b = 3 + 4 = 6 ; c = 6 * 2 = 1 ;
        """
        steps: list[Step] = []
        value = self.start
        for k, (symbol, operand) in enumerate(self.operations):
            right = (value + operand if symbol == "+" else value * operand) % MODULUS
            result = (overrides or {}).get(k, right)
            steps.append(Step(NAMES[k + 1], value, symbol, operand, result))
            value = result
        return tuple(steps)

    @property
    def answer(self) -> int:
        """The right result of the last step."""
        return self.work()[-1].result

    @property
    def held_out(self) -> bool:
        """Whether the question is one of those that no training data holds, whatever its tag."""
        return zlib.crc32(str(self).encode()) % _HELD_OUT_EVERY == 0

    def prompt(self, tag: int) -> str:
        """Return the prompt as text; it ends with the question mark, without a space.

        >>> Exercise(3, (("+", 4), ("*", 2))).prompt(tag=5)
        '5 : a = 3 ; b = a + 4 ; c = b * 2 ; ?'
        """
        return f"{tag} : {self}"

    def __str__(self) -> str:
        names = zip(pairwise(NAMES), self.operations, strict=False)
        lines = [f"{new} = {old} {symbol} {operand} ;" for (old, new), (symbol, operand) in names]
        return " ".join([f"{NAMES[0]} = {self.start} ;", *lines, "?"])


def draw(rng: random.Random) -> Exercise:
    """Draw a random exercise of four operations; sums and products are equally likely."""
    symbols = [rng.choice("+*") for _ in range(N_STEPS)]
    return Exercise(rng.randrange(MODULUS), tuple((symbol, rng.choice(_OPERANDS[symbol])) for symbol in symbols))
