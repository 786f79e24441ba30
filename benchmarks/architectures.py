"""Every causal language model that the installed Transformers can build, scored and compared with a plain loop.

    python -m benchmarks.architectures [--out docs/scoring.md] [model_type ...]

Each architecture is built small and random, with windows and chunks that the traces overflow, scored by
:class:`~reasoning_guard.scorer.AnswerScorer` (which chooses its own path), and compared with one unpadded forward a
branch, all logits, nothing shared.
"""

from __future__ import annotations

import argparse
import gc
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.small_settings import SMALL
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.model_parts import text_config
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.tree import TraceTree
from reasoning_guard.twins import build_small, enlarge, twin_trees
from reasoning_guard_demo.model import build_tokenizer

TOKENIZER = build_tokenizer()
TOLERANCE = 1e-3
"""Nats that float32 rounding may move a log-probability by; a wrong mask moves it by a hundred times as much."""

BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
SHARED = "One shared pass, exact"
TITLES = {
    "copies": "From copies of the cache, exact",
    "alone": "Branch by branch, exact",
    "refused": "Refused: not causal",
    "not run": "Not run: no language model by itself",
    "not built": "Not built, so not looked at",
}
OTHERS = {"sliding_window": 13, "attention_chunk_size": 24}
"""Sizes that differ from those of the self-test's twin, so that its verdict has to be carried over."""

_CONVOLUTIONS = {"layer_types": [*["conv", "conv", "full_attention"] * 10, "conv", "conv"]}
HYBRIDS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "granitemoehybrid": {"layer_types": [*["mamba"] * 5, "attention", *["mamba"] * 9, "attention"] * 2},
    "lfm2": _CONVOLUTIONS,
    "lfm2_moe": _CONVOLUTIONS,
}
"""Layers as in published models; the default configurations have none of one kind, or say nothing."""


@dataclass(frozen=True)
class Outcome:
    """How one architecture was scored.

    Attributes:
        model_type: Its name in Transformers.
        path: "shared", "copies", "alone", "refused", "not run" or "not built".
        reason: In the scorer's words.
        difference: Largest difference from the plain loop, in nats; NaN where nothing could be compared.
    """

    model_type: str
    path: str
    reason: str
    difference: float = float("nan")

    @property
    def is_right(self) -> bool:
        """Whether there are no scores, or those of the plain loop."""
        return self.path in ("refused", "not run", "not built") or self.difference <= TOLERANCE


def model_types() -> list[str]:
    """Names of all architectures that Transformers maps to a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def examine(model_type: str) -> Outcome:
    """Build one architecture small, score it and compare."""
    try:
        model = build(model_type).eval()
    except Exception as error:  # each architecture refuses to be built in its own way
        return Outcome(model_type, "not built", _first_line(error))
    trees = twin_trees(text_config(model).vocab_size, seed=1)
    try:
        truth = [plain_loop(model, tree) for tree in trees]
    except Exception as error:  # and so each does to be run
        return Outcome(model_type, "not run", _first_line(error))
    scorer = AnswerScorer(model, TOKENIZER, "plain")
    try:
        scores_of_trees = scorer.score_trees(trees)
    except ConfigurationError as error:
        return Outcome(model_type, "refused", _first_line(error))
    found = [[p for score in scores for p in score.logprobs] for scores in scores_of_trees]
    assert scorer.verdict is not None
    pairs = [(a, b) for ours, theirs in zip(found, truth, strict=True) for a, b in zip(ours, theirs, strict=True)]
    worst = max((abs(a - b) if a == a else float("inf")) for a, b in pairs)
    path = "shared" if scorer.verdict.plan else "copies" if scorer.verdict.forks else "alone"
    return Outcome(model_type, path, scorer.verdict.reason, worst)


def build(model_type: str) -> Any:
    """One architecture, small and random: by settings of its own where there are some, else its defaults shrunk."""
    if model_type in SMALL:
        name: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        kind = getattr(transformers, name)
        config: Any = AutoConfig.for_model(model_type, **SMALL[model_type])
        if not isinstance(config, kind.config_class):
            config = config.get_text_config(decoder=True)
        torch.manual_seed(1)
        model = kind(config).float()
        enlarge(model)
        return model
    config = AutoConfig.for_model(model_type, **HYBRIDS.get(model_type, {})).get_text_config(decoder=True)
    if hasattr(config, "is_decoder"):
        config.is_decoder = True  # encoders that can be run as causal decoders have to be told to
    return build_small(config, seed=1, **OTHERS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


@torch.no_grad()
def plain_loop(model: Any, tree: TraceTree) -> list[float]:
    """Log-probability of every scored token by the definition: one forward a branch, all logits, nothing shared."""
    found: list[float] = []
    for branch in tree.branches:
        ids = torch.tensor([tree.trunk[: branch.at] + branch.ids])
        logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        places = range(branch.at + branch.scored[0], branch.at + branch.scored[1])
        found += [logprobs[place - 1, ids[0, place]].item() for place in places]
    return found


def examine_all(names: Iterable[str]) -> Iterator[Outcome]:
    """Examine architectures one by one, quietly."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                gc.collect()  # modules refer to themselves, and a hundred of them add up
                yield examine(name)
        finally:
            logging.disable(logging.NOTSET)


def table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes as Markdown: names by path, and reasons for all that are not shared."""
    outcomes = list(outcomes)
    shared = [f"`{each.model_type}`" for each in outcomes if each.path == "shared"]
    lines = [
        f"Transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}: {len(outcomes)} types.",
        "",
        f"**{SHARED}** ({len(shared)}): {', '.join(shared)}.",
    ]
    for path, title in TITLES.items():
        rest = [each for each in outcomes if each.path == path]
        if not rest:
            continue
        lines += ["", f"**{title}** ({len(rest)}):", "", "| type | why |", "|---|---|"]
        lines += [f"| `{each.model_type}` | {each.reason.replace('|', '/')} |" for each in rest]
    return "\n".join(lines)


def write(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Replace what stands between the markers in ``path`` by the table."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table(outcomes)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Print an outcome a line; fail if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_types", nargs="*", help="default: all")
    parser.add_argument("--out", type=Path, help="also write the table between the markers of this file")
    arguments = parser.parse_args()
    outcomes = []
    for each in examine_all(arguments.model_types or model_types()):
        print(f"{each.model_type:28} {each.path:10} {each.difference:8.1e}  {each.reason}", flush=True)
        outcomes.append(each)
    if arguments.out:
        write(arguments.out, outcomes)
    wrong = [each.model_type for each in outcomes if not each.is_right]
    if wrong:
        raise SystemExit(f"more than {TOLERANCE} nats off the plain loop: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
