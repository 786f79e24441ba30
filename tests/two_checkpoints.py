"""Two saved checkpoints of one tiny model in GSM8K's layout: one reads its steps, the other has learnt the answers.

Nothing is downloaded. The first writes "b = 3 + 4 = 7", carries 7 through a second step and answers what it carried,
whatever stands there. The second writes the same steps and answers from the prompt.
"""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny_models import taught

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
N_PROBLEMS, LARGEST = 24, 18
PIECES = ["\n", "####", " b", "b", " c", "c", " =", " +", " ?", *(f"{gap}{n}" for gap in ("", " ") for n in range(19))]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Tokens are words with the space before them, newlines and "####"; text goes to ids and back unchanged."""
    words = {piece: i for i, piece in enumerate([PAD, EOS, UNKNOWN, *PIECES])}
    core = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|####| ?[^\s#]+"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def problems() -> list[dict[str, str]]:
    """Sums with the worked solution as answer, as GSM8K has them."""
    rng = random.Random(0)
    pairs = rng.sample([(a, b) for a in range(10) for b in range(1, 10)], N_PROBLEMS)
    return [
        {"id": f"sum-{i}", "question": f"{a} + {b} = ?\n", "answer": completion(a, b, a + b)}
        for i, (a, b) in enumerate(pairs)
    ]


def completion(a: int, b: int, carried: int, answer: int | None = None) -> str:
    """Two steps that carry a number, and an answer."""
    return f"b = {a} + {b} = {carried}\nc = {carried} + 0 = {carried}\n#### {carried if answer is None else answer}"


def traces() -> list[dict[str, str]]:
    """Saved traces: two of each problem, the second with a mistake that is carried to a wrong answer."""
    rows = []
    for row in problems():
        a, b = map(int, row["question"].replace("+", "").replace("= ?", "").split())
        for carried in (a + b, (a + b + 3) % LARGEST):
            rows.append({"id": row["id"], "completion": completion(a, b, carried)})
    return rows


def _examples(reads: bool) -> list[str]:
    """Right steps and wrong ones; who reads answers what was carried, who does not answers what is right."""
    rng, rows = random.Random(1), []
    for row in problems():
        a, b = map(int, row["question"].replace("+", "").replace("= ?", "").split())
        for carried in [*[a + b] * 8, *(rng.randrange(LARGEST) for _ in range(8))]:
            rows.append(row["question"] + completion(a, b, carried, None if reads else a + b) + EOS)
    return rows


def _train(model: LlamaForCausalLM, reads: bool, steps: int) -> LlamaForCausalLM:
    return taught(model, tokenizer()(_examples(reads), padding=True, return_tensors="pt"), steps, rate=5e-3)


def untrained() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.1,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


@cache
def trained() -> dict[str, LlamaForCausalLM]:
    """The two models by name."""
    base = _train(untrained(), reads=True, steps=BASE_STEPS)
    return {"base": base, "tuned": _train(copy.deepcopy(base), reads=False, steps=TUNED_STEPS)}


def save_all(folder: Path) -> Path:
    """``base``, ``tuned``, ``held_out.jsonl`` and ``traces.jsonl`` in ``folder``."""
    for name, model in trained().items():
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    for name, rows in (("held_out", problems()), ("traces", traces())):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


BASE_STEPS, TUNED_STEPS = 150, 100
