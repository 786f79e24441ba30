"""What each probe costs, as a multiple of InfoGain alone.

    python -m benchmarks.probes [--steps 16] [--rounds 3] [--device cuda] [--out benchmarks/PROBES.md]

Traces of ``steps`` steps of 30 tokens behind prompts of 150, asked for 8 answer tokens by a cue of 4, read by a Llama
of 34 M parameters with random weights (float32 on one CPU thread, bfloat16 on a GPU). A line is InfoGain together with
a probe: one pass answers both, and what two probes ask alike is asked once. InfoGain alone is timed before every line,
the ratio is taken of the two, and the median over rounds is reported with the range; beside it stands the ratio of the
tokens that are fed, which no other work on the machine disturbs. Probes that generate are timed once, at 32 tokens a
continuation: how long a model writes is its own affair.

CPU seconds on a CPU, wall seconds on a GPU.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from benchmarks.cells import clock
from benchmarks.scoring import build_model
from reasoning_guard import AnswerScorer, Problem, Trace, TraceFormat, TraceReader
from reasoning_guard.evaluate import probe_traces
from reasoning_guard.generation import Generator
from reasoning_guard.packing import anchored, whole
from reasoning_guard.probes import (
    HintProbe,
    InfoGainProbe,
    MistakeProbe,
    Probe,
    ProbeContext,
    branch_probes,
    default_probes,
)
from reasoning_guard.tree import TraceTree
from reasoning_guard.trie import Trie

PROMPT, STEP, VOCABULARY = 150, 30, 8192
WRITTEN = 32
FORMAT = TraceFormat(
    name="benchmark", cue=" So it is #", step_end=r";", answer=r"# (\S+)", terminator=" w0 w1 w2 w3 w4 w5 w6"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Numbers up to 999 and some words, a token each."""
    words = [
        "<pad>",
        "<eos>",
        "<unk>",
        "#",
        ";",
        "=",
        "+",
        ":",
        "...",
        "So",
        "it",
        "A",
        "friend",
        "thinks",
        "the",
        "answer",
        "is",
    ]
    words += [*(f"w{i}" for i in range(100)), *map(str, range(1000)), *(f"{i}." for i in range(1000))]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def traces(reader: TraceReader, steps: int) -> list[Trace]:
    """A trace whose steps each use the result before theirs, and one to borrow steps from."""
    return [_trace(reader, steps, random.Random(seed), f"p{seed}") for seed in range(2)]


def _trace(reader: TraceReader, steps: int, rng: random.Random, id: str) -> Trace:
    results = [str(rng.randrange(100, 999)) for _ in range(steps + 1)]
    text = [
        " ".join([old, "+", *(f"w{rng.randrange(100)}" for _ in range(STEP - 5)), "=", new, ";"])
        for old, new in pairwise(results)
    ]
    words = [str(rng.randrange(100)) if i % 12 == 0 else f"w{rng.randrange(100)}" for i in range(PROMPT - 2)]
    prompt = " ".join([results[0], *words, ":"])
    problem = Problem(prompt=prompt, answer=results[-1], id=id)
    return reader.read(problem, reader.tokenizer(" ".join([*text, "#", results[-1]]))["input_ids"])


def title(probe: Probe) -> str:
    """A probe's class with the settings that it was given."""
    settings = [str(getattr(probe, name)) for name in ("kind", "after", "then") if getattr(probe, name, None)]
    return type(probe).__name__ + (f" ({', '.join(settings)})" if settings else "")


def measure(ask: Callable[[Sequence[Probe]], float], probes: Sequence[Probe], rounds: int) -> str:
    """Median and range of what ``probes`` cost over InfoGain, each timed right behind it."""
    ratios: list[float] = []
    for _ in range(rounds):
        alone = ask([InfoGainProbe()])
        ratios.append(ask(probes) / alone)
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def fed(traces: Sequence[Trace], reader: TraceReader, probes: Sequence[Probe]) -> int:
    """Tokens that a pass over all branches of ``probes`` reads."""
    context = ProbeContext(reader=reader, traces=traces)
    trees = [TraceTree(t.ids, tuple(b for p in probes for b in p.branches(t, context))) for t in traces]
    return sum(len(tree.trunk) + len(whole(Trie.of(anchored(tree).branches)).ids) for tree in trees)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.probes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    table = _table(options.device, options.steps, options.rounds)
    print(table)
    if options.out:
        options.out.write_text(table, encoding="utf-8")


def _table(device: str, steps: int, rounds: int) -> str:
    model, tokenizer = build_model("34M", VOCABULARY, device), build_tokenizer()
    reader = TraceReader(tokenizer, FORMAT)
    scorer = AnswerScorer(model, tokenizer, FORMAT)
    generator = Generator(model, tokenizer, max_new_tokens=WRITTEN, progress=False)
    both = traces(reader, steps)

    def ask(probes: Sequence[Probe], generate: bool = False) -> float:
        started = clock(device)
        probe_traces(both, reader, generator if generate else None, scorer, None, probes)
        return clock(device) - started

    families = branch_probes()
    ask(families)  # the scorer's self-test, and every cache
    unit = fed(both, reader, [InfoGainProbe()])
    lists = {title(probe): [InfoGainProbe(), probe] for probe in families[1:]}
    lists["**all branch-only probes**"] = families
    lists["default probes, without what they generate"] = [
        probe for probe in default_probes() if not isinstance(probe, MistakeProbe)
    ]
    lines = [
        f"| {name} | {fed(both, reader, probes) / unit:.2f} | {measure(ask, probes, rounds)} |"
        for name, probes in lists.items()
    ]
    alone = ask([InfoGainProbe()])
    for probe in (MistakeProbe(), HintProbe()):
        ratio = 1 + ask([probe], generate=True) / alone
        lines.append(f"| {title(probe)}: {WRITTEN} tokens written | – | {ratio:.2f} |")
    return "\n".join([*_heading(device, steps, rounds, alone / len(both)), *lines, ""])


def _heading(device: str, steps: int, rounds: int, alone: float) -> list[str]:
    how = "CPU seconds on one thread" if device == "cpu" else f"wall seconds on {torch.cuda.get_device_name()}"
    return [
        "# What each probe costs",
        "",
        f"What InfoGain costs together with a probe, as a multiple of InfoGain alone ({alone:.2f} s a trace). "
        f"`python -m benchmarks.probes --steps {steps}`, {how} ({platform.machine()}, torch {torch.__version__}): "
        f"a Llama of 34 M parameters, {steps} steps of {STEP} tokens behind {PROMPT} tokens of prompt, 8 answer "
        f"tokens. Times are medians of {rounds} rounds, with the range.",
        "",
        "| InfoGain and | tokens fed | time |",
        "|---|---|---|",
    ]


if __name__ == "__main__":
    sys.exit(main())
