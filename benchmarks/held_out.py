"""Where the time of one held-out evaluation goes: writing, scoring, and Python around them.

The model is random, so its own text has neither steps nor answers. It writes all the same, for the cost; what is read
is text of the same length with steps that end in a sum and an answer. All default probes run on it, with a copy of the
model as the frozen reference.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.cells import Cell
from benchmarks.ways import Size
from reasoning_guard.evaluate import evaluate
from reasoning_guard.formats import TraceFormat
from reasoning_guard.generation import Completion, Generator
from reasoning_guard.probes import default_probes
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import take_reference
from reasoning_guard.scorer import AnswerScorer

FORMAT = TraceFormat(name="sums", cue=" #", step_end=r";", answer=r"# (\S+)", filler=" ...")
_SPECIAL = ("<pad>", "<eos>", "<unk>")


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of ``vocabulary`` words: numbers below 1,000, signs and names."""
    words = [*_SPECIAL, *map(str, range(1000)), "+", "=", ";", "#", "..."]
    words += [f"w{i}" for i in range(vocabulary - len(words))]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


class _Dictated(Generator):
    """Writes for as long as the model would and hands out prescribed completions where there are any."""

    completions: dict[tuple[int, ...], tuple[int, ...]]

    def complete(self, prompts: Sequence[Sequence[int]], label: str = "generating") -> list[Completion]:
        """As the generator's own, with prescribed texts."""
        written = super().complete(prompts, label)
        told = [self.completions.get(tuple(prompt)) for prompt in prompts]
        return [Completion(ids, finished=True) if ids else own for ids, own in zip(told, written, strict=True)]


def _texts(size: Size, rng: random.Random) -> tuple[str, str]:
    def words(n: int) -> str:
        return " ".join(f"w{rng.randrange(1000)}" for _ in range(n))

    def step() -> str:
        a, b = rng.randrange(400), rng.randrange(400)
        return f"{words(size.step - 6)} {a} + {b} = {a + b} ;"

    return words(size.prompt), " ".join([*(step() for _ in range(size.steps)), f"# {rng.randrange(1000)}"])


def one_evaluation(model: LlamaForCausalLM, cell: Cell) -> dict[str, list[float]]:
    """Evaluate ``cell.size.traces`` problems once after a small warm-up.

    Returns:
        Wall seconds by part; "python" is what remains of the total.
    """
    tokenizer, rng = word_tokenizer(cell.vocabulary), random.Random(0)
    texts = [_texts(cell.size, rng) for _ in range(cell.size.traces)]
    problems = [Problem(prompt=prompt, answer=text.split()[-1]) for prompt, text in texts]
    reader = TraceReader(tokenizer, FORMAT)
    length = cell.size.steps * cell.size.step + 2
    generator = _Dictated(model, tokenizer, max_new_tokens=length, is_complete=FORMAT.is_complete, progress=False)
    generator.completions = {
        tuple(tokenizer(prompt)["input_ids"]): tuple(tokenizer(text)["input_ids"]) for prompt, text in texts
    }
    policy, reference = AnswerScorer(model, tokenizer, FORMAT), take_reference(model, tokenizer, FORMAT, "copy")
    for some in (problems[:2], problems):
        started = time.perf_counter()
        done = evaluate(
            0, some, reader=reader, generator=generator, policy=policy, reference=reference, probes=default_probes()
        )
        total = time.perf_counter() - started
    seconds = {part: done.seconds[part] for part in ("generation", "scoring")}
    seconds |= {"python": total - sum(seconds.values()), "total": total}
    return {part: [each] for part, each in seconds.items()}
