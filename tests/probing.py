"""What tests of probes share: a reader, models, traces, and the numbers of an independent pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from memorised import FORMAT, PROBLEMS, TOKENIZER, encode, memorised
from reasoning_guard.evaluate import probe_traces, write_traces
from reasoning_guard.evaluation import Row
from reasoning_guard.generation import Generator
from reasoning_guard.probes import Probe, ProbeContext
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore
from tiny_models import tiny_model

READER = TraceReader(TOKENIZER, FORMAT)
EOS = int(TOKENIZER.eos_token_id)


def stranger(seed: int = 0, **changes: Any) -> Any:
    """A random model with strong opinions about everything."""
    return tiny_model("qwen3", seed, vocab_size=len(TOKENIZER), eos_token_id=EOS, **changes)


def trace_of(text: str, answer: str | None = "9", prompt: str = "5 : a = 3 ; ?", id: str = "", **changes: Any) -> Trace:
    problem = Problem(prompt=prompt, answer=answer, id=id or text + prompt)
    return replace(READER.read(problem, encode(text)), **changes)


def rows_of(
    model: Any, traces: Sequence[Trace], *probes: Probe, reference: Any = None, reader: TraceReader = READER
) -> list[Row]:
    scorer = AnswerScorer(model, reader.tokenizer, reader.format)
    frozen = None if reference is None else AnswerScorer(reference, reader.tokenizer, reader.format)
    generator = Generator(model, reader.tokenizer, max_new_tokens=40, progress=False)
    return probe_traces(traces, reader, generator, scorer, frozen, probes)


def written() -> list[Trace]:
    """What the model that knows its lessons writes, steps and all."""
    return write_traces(PROBLEMS, READER, Generator(memorised(), TOKENIZER, max_new_tokens=40, progress=False))


@torch.no_grad()
def token_numbers(model: Any, prefix: Sequence[int], tokens: Sequence[int]) -> tuple[list[float], list[float]]:
    """Log-probability of each token after the prefix, and entropy of the distribution that it was drawn from."""
    model.eval()
    logprobs = model(input_ids=torch.tensor([[*prefix, *tokens]]), use_cache=False).logits[0].float().log_softmax(-1)
    places = range(len(prefix) - 1, len(prefix) + len(tokens) - 1)
    chosen = [logprobs[p, t].item() for p, t in zip(places, tokens, strict=True)]
    return chosen, [-(logprobs[p].exp() * logprobs[p]).sum().item() for p in places]


def asked(model: Any, prefix: Sequence[int], answer: str) -> tuple[list[float], list[float]]:
    """The same for an answer with its terminator, asked for by the cue."""
    return token_numbers(model, [*prefix, *encode("#")], [*encode(answer), EOS])


def emitted(model: Any, prefix: Sequence[int], n: int = 3) -> list[int]:
    """What greedy decoding writes when it is asked for the answer."""
    ids = torch.tensor([[*prefix, *encode("#")]])
    config = {"do_sample": False, "max_new_tokens": n, "pad_token_id": 0}
    return (
        model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), **config)[0, ids.shape[1] :].tolist()
    )


def gives(model: Any, prefix: Sequence[int], answer: str) -> bool:
    wanted = [*encode(answer), EOS]
    return emitted(model, prefix)[: len(wanted)] == wanted


CHAINS = [
    trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9"),
    trace_of("b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; d = 3 + 6 = 9 ; e = 9 * 2 = 7 ; # 7", "9 2 1"),
    trace_of("b = 1 ; # 9"),
    trace_of("... ... ; ... ; ; b ; 0 = 0 ; ... ; 3 ; # 0", "4 4"),
]


def scored(*logprobs: float) -> BranchScore:
    return BranchScore(logprobs, (True,) * len(logprobs), (0.5,) * len(logprobs), (1.0,) * len(logprobs))


def read(probe: Probe, trace: Trace, *scores: BranchScore) -> Any:
    return probe.read(trace, ProbeContext(reader=READER, traces=[trace]), scores, ())


def spliced(trace: Trace, steps: Sequence[int]) -> list[int]:
    return [*trace.prompt_ids, *steps]
