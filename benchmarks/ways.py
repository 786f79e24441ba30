"""The scorer and what one would otherwise do: traces and models of every size, and each way to read them.

A way takes a model and trees and returns the log-probability of each branch's answer, or nothing where it only stands
for a cost. All but the scorer are written here from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.packing import anchored, whole
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Trie

CUE = 4
TRACE_BY_TRACE, SAMPLED = ("loop", "padded"), 1
"""Ways that take minutes and gain nothing from more traces: the first few of many are run and stand for all."""
SCORERS = ("shared", "group")
"""The scorer's own ways."""
SMALL, LARGE = 8_192, 151_936
TOGETHER = {"cpu": 2_048, "cuda": 16_384}
"""Tokens that the limit reads at once where there are several traces; on a GPU, plain forwards too."""

# name: (hidden, intermediate, layers, heads, key heads)
SHAPES = {
    "9M": (512, 1408, 2, 8, 8),
    "34M": (512, 1408, 8, 8, 8),
    "34M hybrid": (512, 1408, 8, 8, 8),
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "1.5B hybrid": (1536, 8960, 28, 12, 2),
    "7B": (3584, 18944, 28, 28, 4),
}


@dataclass(frozen=True)
class Size:
    """``traces`` traces: ``prompt`` tokens, ``steps`` steps of ``step`` tokens, ``answer`` tokens at each cut."""

    steps: int
    answer: int
    traces: int = 1
    prompt: int = 150
    step: int = 30
    group: bool = False

    def trees(self, vocabulary: int) -> list[TraceTree]:
        """Random trees; those of a group share their prompt, and all share the question."""
        generator = torch.Generator().manual_seed(0)

        def ids(n: int) -> tuple[int, ...]:
            return tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist())

        asked, shared = ids(CUE + self.answer), ids(self.prompt)
        cuts = [self.prompt + k * self.step for k in range(self.steps + 1)]
        branches = tuple(Branch(cut, asked, (CUE, CUE + self.answer)) for cut in cuts)
        return [
            TraceTree((shared if self.group else ids(self.prompt)) + ids(self.steps * self.step), branches)
            for _ in range(self.traces)
        ]

    @property
    def cached_tokens(self) -> int:
        """Tokens that one trace leaves in the scorer's cache: its trunk and all its branches."""
        return self.prompt + self.steps * self.step + (self.steps + 1) * (CUE + self.answer - 1)


def build_model(shape: str, vocabulary: int, device: str) -> LlamaForCausalLM:
    """A Llama with random weights, or a hybrid: three layers of linear attention to one of full, as in Qwen 3.5."""
    hidden, intermediate, layers, heads, key_heads = SHAPES[shape]
    torch.manual_seed(0)
    kind: dict[str, Any] = {"model_type": "llama"}
    if shape.endswith("hybrid"):
        linear = {"linear_num_key_heads": 4, "linear_num_value_heads": 8}
        linear |= {"linear_key_head_dim": hidden // heads, "linear_value_head_dim": hidden // heads}
        kind = {"model_type": "qwen3_5_text", "head_dim": hidden // heads, **linear}
    config = AutoConfig.for_model(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=32_768,
        tie_word_embeddings=False, dtype="float32" if device == "cpu" else "bfloat16", **kind,
    )  # fmt: skip
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=config.dtype).eval()


def work_of(way: str, shape: str, vocabulary: int, size: Size) -> float:
    """Floating-point operations of a way, without those of attention: what its tokens and its logits cost."""
    hidden, intermediate, layers, heads, key_heads = SHAPES[shape]
    a_token = layers * hidden * (hidden * 2 + 2 * hidden * key_heads // heads + 3 * intermediate)
    trunk, asked, cuts = size.prompt + size.steps * size.step, CUE + size.answer - 1, size.steps + 1
    tokens, rows = {
        "loop": (cuts * (size.prompt + trunk) // 2 + cuts * asked, cuts * (size.prompt + trunk) // 2),
        "padded": (cuts * (trunk + asked), cuts * size.answer),
        "plain": (trunk, 1),
        "plain each": (trunk, 1),
        "all logits": (trunk, trunk),
    }.get(way, (trunk + cuts * asked, cuts * size.answer))
    return 2.0 * size.traces * (tokens * a_token + rows * vocabulary * hidden)


def cache_mib(model: LlamaForCausalLM, tokens: int) -> float:
    """Keys and values of so many tokens, in MiB."""
    config = model.config
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return 2 * config.num_hidden_layers * width * model.dtype.itemsize * tokens / 2**20


def run_of(way: str, trees: Sequence[TraceTree]) -> Sequence[TraceTree]:
    """The trees that a way is timed with."""
    return trees[:SAMPLED] if way in TRACE_BY_TRACE else trees


Way = Callable[[LlamaForCausalLM, Sequence[TraceTree]], "list[float] | None"]


def authors_loop(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float]:
    """(a) One forward a prefix with logits for every token: how the InfoGain authors' code does it."""
    totals = []
    for tree in trees:
        for b in tree.branches:
            ids = torch.tensor([tree.trunk[: b.at] + b.ids], device=model.device)
            logprobs = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
            places = torch.arange(b.at + b.scored[0], b.at + b.scored[1], device=model.device)
            totals.append(logprobs[0, places - 1, ids[0, places]].sum().item())
    return totals


def padded_batch(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float]:
    """(b) All prefixes of a trace as one batch, padded on the right, the head over answer positions only."""
    return [total for tree in trees for total in _padded(model, tree)]


def _padded(model: LlamaForCausalLM, tree: TraceTree) -> list[float]:
    rows = [torch.tensor(tree.trunk[: b.at] + b.ids, device=model.device) for b in tree.branches]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    mask = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    size = tree.branches[0].scored[1] - tree.branches[0].scored[0]
    places = lengths[:, None] - size + torch.arange(size, device=model.device)
    own = hidden.gather(1, (places - 1)[..., None].expand(-1, -1, hidden.shape[-1]))
    logprobs = model.lm_head(own).float().log_softmax(-1)
    return logprobs.gather(-1, ids.gather(1, places)[..., None])[..., 0].sum(-1).tolist()


def plain_forward(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> None:
    """(c) One forward of each trace, last logit only: what reading it once costs.

    On a GPU, which would have next to nothing to do with one at a time, as many together as make a batch.
    """
    n = together(model.device.type, trees)
    for start in range(0, len(trees), n):
        ids = torch.tensor([tree.trunk for tree in trees[start : start + n]], device=model.device)
        model(input_ids=ids, use_cache=False, logits_to_keep=1)


def together(device: str, trees: Sequence[TraceTree]) -> int:
    """How many equally long traces are read in one plain forward."""
    return 1 if device == "cpu" else min(len(trees), max(1, TOGETHER[device] // _unique(trees[0])[0]))


def plain_forwards(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> None:
    """(c) for the completions of a group, one by one on any device."""
    for tree in trees:
        plain_forward(model, [tree])


def with_all_logits(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> None:
    """(e) One forward of each trace with every token's logits: what ``model(input_ids)`` does unless told otherwise."""
    for tree in trees:
        model(input_ids=torch.tensor([tree.trunk], device=model.device), use_cache=False)


@torch.inference_mode()
def limit(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> None:
    """(d) Causal forwards over as many tokens as the trees have unique ones, logits for scored positions only.

    Several trees go together, as many as make a batch of the scorer's: one at a time, a large head would be read anew
    for each, and short ones would leave a core half idle. Past autograd's layers, as the scorer goes; the other ways
    turn gradients off, as evaluation loops do.
    """
    sizes = [_unique(tree) for tree in trees]
    n, wanted = max(sizes)
    each = max(1, TOGETHER[model.device.type] // n)
    for start in range(0, len(trees), each):
        ids = torch.arange(n, device=model.device).expand(len(trees[start : start + each]), -1) % 97 + 3
        model(input_ids=ids, use_cache=False, logits_to_keep=torch.arange(n - wanted, n, device=model.device))


@lru_cache(maxsize=256)
def _unique(tree: TraceTree) -> tuple[int, int]:
    """A tree's unique tokens, and how many of them are scored after; found once, since the limit is no packing."""
    row = whole(Trie.of(anchored(tree).branches))
    return len(tree.trunk) + len(row.ids), row.n_wanted


def shared(model: LlamaForCausalLM) -> Way:
    """The scorer as users call it; its self-test runs at the first call."""
    scorer = BranchScorer(model)
    return lambda _, trees: [s.total for scores in scorer.score_trees(trees) for s in scores]


def shared_group(model: LlamaForCausalLM) -> Way:
    """The scorer on completions of one prompt."""
    scorer = BranchScorer(model)
    return lambda _, trees: [s.total for scores in scorer.score_tree_groups([trees])[0] for s in scores]


WAYS: dict[str, Callable[[LlamaForCausalLM], Way]] = {
    "loop": lambda _: authors_loop,
    "padded": lambda _: padded_batch,
    "plain": lambda _: plain_forward,
    "plain each": lambda _: plain_forwards,
    "all logits": lambda _: with_all_logits,
    "limit": lambda _: limit,
    "limit again": lambda _: limit,
    "shared": shared,
    "group": shared_group,
}
