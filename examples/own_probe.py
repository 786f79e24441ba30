"""Write a probe of your own: how likely is a *wrong* answer after the chain? It runs on a tiny random model."""

from __future__ import annotations

from reasoning_guard import Branch, Guard, Probe, Reading, TraceFormat, default_probes
from reasoning_guard_demo.model import build_model, build_tokenizer
from reasoning_guard_demo.task import held_out_problems


class RunnerUp(Probe):
    """``runner_up``: log-probability per token of the likeliest of five wrong answers after the chain, in nats."""

    names = ("runner_up",)

    def branches(self, trace, context):
        wrong = [str(n) for n in range(6) if str(n) != trace.problem.answer][:5]
        return [Branch(trace.cuts[-1], q.ids, q.scored) for q in map(context.reader.ask, wrong)]

    def read(self, trace, context, scores, continued):
        return Reading({"runner_up": max(score.mean for score in scores)})


def main() -> None:
    tokenizer, model = build_tokenizer(), build_model()
    format = TraceFormat(name="demo", cue=" #", step_end=r";", answer=r"# (\S+)")
    guard = Guard(
        held_out_problems("id", 24), tokenizer, format=format, probes=[*default_probes(), RunnerUp()],
        max_new_tokens=48, progress=False,
    )  # fmt: skip
    evaluation = guard.evaluate(model, step=0)
    print(f"runner-up: {evaluation.mean('runner_up'):.2f} nats per token on {len(evaluation.rows)} problems")


if __name__ == "__main__":
    main()
