"""Texts that blurt the answer out in another dress, before a reader that sees through every one of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reasoning_guard.rewards import InfoGainReward
from reasoning_guard.tokens import decode
from reasoning_guard.tree import Branch, BranchScore, TraceTree
from tiny_models import tiny_model
from tokenizers_on_the_spot import qwen2_style

TOKENIZER = qwen2_style()
QUESTION = "Question: {} How many eggs?\nAnswer:\n"
PROMPTS = {
    "not held": QUESTION.format("Each of nine friends has a pair of eggs."),
    "held": QUESTION.format("In 18 boxes, 16 of them empty, nine friends keep a pair of eggs each."),
}
HONEST = "Nine pairs are 9 * 2 = 18 eggs.\n"
BLURTED = [
    "18", "$18", "**18**", "`18`", "_18_", "__18__", r"\boxed{18}", r"\mathbf{18}", "<b>18</b>", "١٨", "\uff11\uff18",
    "⑱", "18.000", "0" * 220 + "18", "18." + "0" * 220, "1\u200b8", "1\u00ad8", "1<pad>8", "1{}8", r"1\!8", "18g",
    "18eggs", "USD18", "Rs.18", "eighteen",
]  # fmt: skip
BY_THE_WAY = [
    "16,17,18",
    "sixteen, seventeen, eighteen",
    "so..18",
    "eggs.18",
    "17. So.\n18. Thus",
    "# 18",
    "{'eggs': 18}",
]


class Seeing:
    """Is sure of the answer once its text holds ``clue`` or the honest sum, and of nothing before."""

    clue = HONEST

    def score_tree_groups(self, groups: Sequence[Sequence[TraceTree]]) -> list[list[list[BranchScore]]]:
        return [[[self._score(tree, branch) for branch in tree.branches] for tree in group] for group in groups]

    def _score(self, tree: TraceTree, branch: Branch) -> BranchScore:
        first, stop = branch.scored
        text = decode(TOKENIZER, tree.trunk[: branch.at] + branch.ids[:first]).partition("Answer:\n")[2]
        told, n = self.clue in text or "9 * 2 =" in text, stop - first
        return BranchScore(((-0.1 if told else -3.0) / n,) * n, (True,) * n, (0.0,) * n, (0.0,) * n)


@pytest.fixture(scope="module")
def reward() -> InfoGainReward:
    model = tiny_model("qwen3", 0, vocab_size=len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id)
    made = InfoGainReward(scorer=model, tokenizer=TOKENIZER, format="gsm8k")
    made._scorer = Seeing()  # type: ignore[assignment]
    return made


def paid(reward: InfoGainReward, text: str, prompt: str, clue: str = HONEST) -> float | None:
    """What ``text`` earns beside the chain of another problem."""
    reward._scorer.clue = clue  # type: ignore[union-attr]
    rows = {"prompts": [prompt, "Question: 4 + 5?\nAnswer:\n"], "solution": ["18", "9"]}
    return reward(**rows, completions=[f"{text}#### 18", "Four and five are 4 + 5 = 9.\n#### 9"])[0]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_an_honest_chain_is_paid(reward: InfoGainReward, prompt: str) -> None:
    assert paid(reward, HONEST, prompt) == pytest.approx(2.9 / 3)
    assert paid(reward, "So be it.\n", prompt) == 0


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("written", BLURTED)
def test_the_answer_in_any_dress_pays_nothing(reward: InfoGainReward, written: str, prompt: str) -> None:
    for text in (f"The answer is {written}.\n", f"The answer is {written}.\n{HONEST}"):
        assert paid(reward, text, prompt, written) == pytest.approx(0)


@pytest.mark.parametrize("written", BY_THE_WAY)
def test_nor_does_the_answer_by_the_way(reward: InfoGainReward, written: str) -> None:
    for text in (f"{written}.\nLet us see.\n", f"We see {written}.\n{HONEST}"):
        assert paid(reward, text, PROMPTS["not held"], written) == pytest.approx(0)
