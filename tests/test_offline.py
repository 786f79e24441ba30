"""The functions under the command line, on two real checkpoints, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

import two_checkpoints
from reasoning_guard import Guard, load_saved_traces, score_traces
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.offline import advise, compare_models, curate, examine, format_of_model, load_model, save_effects
from reasoning_guard.offline.scoring import CHUNK
from reasoning_guard.offline.summary import summarise
from reasoning_guard.report.series import timeline

WORDS = two_checkpoints.tokenizer()


def model(name: str) -> LlamaForCausalLM:
    return two_checkpoints.trained()[name].eval()


def saved(copies: int = 1) -> Any:
    return load_saved_traces(two_checkpoints.traces() * copies, two_checkpoints.problems())


def test_scores_equal_plain_forwards() -> None:
    rows = score_traces(saved(), model("base"), WORDS).rows
    for row, trace in zip(rows[:6], saved().traces, strict=False):
        prompt, steps = str(trace.problem.prompt), trace.completion.splitlines(keepends=True)[:-1]
        levels = []
        for k in range(len(steps) + 1):
            head, answer = f"{prompt}{''.join(steps[:k])}####", f" {trace.problem.answer}<eos>"
            ids = WORDS(head + answer, return_tensors="pt")["input_ids"]
            n = len(WORDS(answer)["input_ids"])
            with torch.no_grad():
                logprobs = model("base")(ids).logits[0].log_softmax(-1)
            levels.append(sum(float(logprobs[i - 1, ids[0, i]]) for i in range(ids.shape[1] - n, ids.shape[1])))
        assert row.curve == pytest.approx(levels, abs=1e-4, rel=0)


def test_a_stopped_scoring_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    whole = score_traces(saved(4), model("base"), WORDS, out=tmp_path / "whole.jsonl")
    n = len(whole.rows)

    def stop(done: int, total: int) -> None:
        if done > CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_traces(saved(4), model("base"), WORDS, out=tmp_path / "again.jsonl", progress=stop)
    seen: list[tuple[int, int]] = []
    again = score_traces(
        saved(4), model("base"), WORDS, out=tmp_path / "again.jsonl", progress=lambda *at: seen.append(at)
    )
    assert seen == [(done, n) for done in range(2 * CHUNK, n + 1, CHUNK)]
    assert again == whole
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_scores_of_another_model_do_not_go_on(tmp_path: Path) -> None:
    score_traces(saved(), model("base"), WORDS, out=tmp_path / "s.jsonl")
    with pytest.raises(ConfigurationError, match="was begun with other settings"):
        score_traces(saved(), model("tuned"), WORDS, out=tmp_path / "s.jsonl")


def test_scores_of_which_a_part_is_gone_are_no_scores(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    score_traces(saved(), model("base"), WORDS, out=out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:-1]))
    with pytest.raises(ConfigurationError, match=f"holds the scores of {len(lines) - 1} traces, not of these"):
        score_traces(saved(), model("base"), WORDS, out=out)


def test_a_checkup_of_prompts_that_are_all_too_long_says_so() -> None:
    long = [{**row, "id": str(n), "question": row["question"] * 99} for n, row in enumerate(two_checkpoints.problems())]
    said = advise(examine(model("base"), WORDS, long, format="gsm8k", sample=2))
    assert any(each.level == "problem" and "the longest prompt has" in each.found for each in said)


def test_where_answers_are_wrong_dependence_on_the_text_is_not_told() -> None:
    wrong = load_saved_traces(two_checkpoints.traces()[1::2], two_checkpoints.problems())
    found = score_traces(wrong, model("base"), WORDS)
    assert found.gated == ("id",)
    assert all("near chance" in row.reasons["placebo_changed"] for row in found.rows)


def test_curation_keeps_the_chains_that_lead_to_their_answer() -> None:
    answers = [row["answer"].split()[-1] for row in two_checkpoints.problems()]
    wrong = [row["completion"].rpartition(" ")[0] for row in two_checkpoints.traces()[1::2]]
    patched = [
        {"id": row["id"], "completion": f"{steps} {answer}"}
        for row, steps, answer in zip(two_checkpoints.problems(), wrong, answers, strict=True)
    ]
    sound = two_checkpoints.traces()[::2]
    found = load_saved_traces([*sound, *patched], two_checkpoints.problems())
    kept = {choice.line for choice in curate(score_traces(found, model("base"), WORDS).rows) if choice.kept}
    assert len(kept & set(range(len(sound)))) > 0.9 * len(sound)
    assert not kept & set(range(len(sound), 2 * len(sound)))


def test_a_base_at_chance_is_not_judged() -> None:
    found = compare_models(
        two_checkpoints.untrained(), model("tuned"), WORDS, two_checkpoints.problems(), format="gsm8k", max_new_tokens=8
    )
    assert not found.judged
    assert found.alerts == ()


def test_the_interval_of_a_share_ends_where_shares_end() -> None:
    columns = {
        "accuracy": [1.0] * 15 + [2 / 3],  # means over three samples of each problem
        "early_answering_aoc": [0.0] * 15 + [0.25],
        "mistake_cut_nldd": [1.0] * 15 + [2.0],  # may be more than all of the odds
        "my_gain": [1.0] * 15 + [0.5],
    }
    rows = [Row(id=str(i), values={name: c[i] for name, c in columns.items()}) for i in range(16)]
    found = {each.name: each.estimate for each in summarise(rows)}
    assert all(found.values())
    ends = {name: (e.lower, e.upper) for name, e in found.items() if e}
    assert ends["accuracy"][1] == 1.0
    assert ends["early_answering_aoc"][0] == 0.0
    assert ends["mistake_cut_nldd"][1] > 1.1
    assert ends["my_gain"][1] > 1.0
    before, after = (
        Evaluation(step=s, rows=tuple(Row(id=r.id, values={"accuracy": v}) for r in rows))
        for s, v in ((0, 0.01), (1, 1.0))
    )
    moved = replace(after, rows=(*after.rows[:-1], replace(after.rows[-1], values={"accuracy": 0.5})))
    change = timeline([before, moved]).difference("accuracy")
    assert change is not None
    assert change.upper == 1.0


def test_the_comparison_is_that_of_a_guard() -> None:
    settings: dict[str, Any] = {"format": "gsm8k", "max_new_tokens": 40}
    found = compare_models(model("base"), model("tuned"), WORDS, two_checkpoints.problems(), **settings)
    guard = Guard(two_checkpoints.problems(), WORDS, reference=model("base"), patience=1, progress=False, **settings)
    for step, name in enumerate(("base", "tuned")):
        guard.evaluate(model(name), step)
    assert [alert.rule for alert in found.alarms] == [alert.rule for alert in guard.alarms] == ["accuracy_trap"]
    change = next(each for each in found.changes() if each.name == "mistake_changed")
    assert (change.baseline, change.current, change.n) == (1.0, 0.0, two_checkpoints.N_PROBLEMS)
    history = timeline([found.base, found.tuned])  # the report of the same comparison has the same intervals
    for each in found.changes():
        shown = history.difference(each.name)
        assert shown is not None
        assert (each.lower, each.upper) == (shown.lower, shown.upper)
        assert (each.baseline, each.current) == pytest.approx([end.mean for end in history.ends(each.name) or ()])
    assert -1.0 <= change.lower < change.upper < -0.5, "a share has an interval also where all problems moved"


def test_the_format_is_read_off_what_the_model_writes_where_answers_are_bare() -> None:
    bare = [{**row, "answer": row["answer"].split()[-1]} for row in two_checkpoints.problems()]
    found, source = format_of_model(model("base"), WORDS, bare, max_new_tokens=40)
    assert (found.name, source) == ("gsm8k", "8 traces of the model")


def test_a_checkup_sees_what_is_wrong() -> None:
    sound = examine(model("base"), WORDS, two_checkpoints.problems(), format="gsm8k", max_new_tokens=40)
    assert (sound.agreeing, sound.asked_of, sound.presets["gsm8k"]) == (8, 8, 1.0)
    assert sound.path.plan is not None
    assert [advice for advice in advise(sound) if advice.level == "problem"] == []
    short = examine(model("base"), WORDS, two_checkpoints.problems()[:4], format="gsm8k", max_new_tokens=6)
    found = [advice.found for advice in advise(short) if advice.level == "problem"]
    assert found == [
        "0 of 4 traces state an answer in format 'gsm8k'; 4 were cut off",
        "4 problems; rules need 16 to say anything",
    ]


def test_a_checkup_calls_chance_what_a_guard_calls_chance() -> None:
    rows = [{**row, "set": ("id", "ood")[i % 2]} for i, row in enumerate(two_checkpoints.problems())]
    found = examine(model("base"), WORDS, rows, format="gsm8k", max_new_tokens=40)

    def told(right: list[bool], options: int = 0) -> list[str]:
        rows = [replace(r, values={**r.values, "accuracy": float(ok)}) for r, ok in zip(found.rows, right, strict=True)]
        asked = [replace(t.problem, options=("1", "2") if i < options else ()) for i, t in enumerate(found.traces)]
        traces = [replace(trace, problem=problem) for trace, problem in zip(found.traces, asked, strict=True)]
        said = advise(replace(found, rows=tuple(rows), traces=tuple(traces)))
        return [advice.found for advice in said if "near chance" in advice.found]

    first = [row.set == "id" for row in found.rows]
    assert told([not each for each in first]) == ["accuracy on the sample is 0.00, near chance"], "ood is no baseline"
    assert told(first) == []
    half = [i % 4 == 0 for i in range(8)]  # of each set
    assert told(half, options=2) == [], "chance is an eighth where a quarter of the problems have two options"
    assert told(half, options=8) == ["accuracy on the sample is 0.50, near chance"]


@pytest.mark.parametrize(
    ("sets", "unanswered", "found"),
    [
        (["id"] * 24, range(24), [("problem", "0 of 24 problems have a reference answer; rules need 16")]),
        (["id"] * 24, range(12), [("problem", "12 of 24 problems have a reference answer; rules need 16")]),
        (["id"] * 24, range(8), []),
        (
            ["id"] * 20 + ["ood"] * 4,
            range(8),
            [
                ("problem", "12 problems of set 'id' have a reference answer; rules need 16"),
                ("note", "4 problems of set 'ood' have a reference answer; rules need 16"),
            ],
        ),
    ],
)
def test_problems_without_answers_are_something_to_mend(
    sets: list[str], unanswered: range, found: list[tuple[str, str]]
) -> None:
    rows = zip(two_checkpoints.problems(), sets, strict=True)
    asked = [
        {**row, "set": set, "answer": None if i in unanswered else row["answer"]} for i, (row, set) in enumerate(rows)
    ]
    checkup = examine(model("base"), WORDS, asked, format="gsm8k", max_new_tokens=40, sample=2)
    said = [(each.level, each.found.removesuffix(" to say anything")) for each in advise(checkup)]
    assert [each for each in said if "reference answer" in each[1]] == found


def test_what_takes_no_file_is_named_and_left_clean(tmp_path: Path) -> None:
    (tmp_path / "effects.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"effects\.json'$"):
        save_effects(tmp_path / "effects.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["effects.json"]


def test_an_adapter_comes_with_its_base_and_tokenizer(tmp_path: Path) -> None:
    two_checkpoints.save_all(tmp_path)
    base, _ = load_model(str(tmp_path / "base"), device="cpu", dtype="float32")
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))  # type: ignore[arg-type]
    adapted.save_pretrained(str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    loaded, words = load_model(str(tmp_path / "adapter"), device="cpu")
    assert hasattr(loaded, "disable_adapter")
    assert words.get_vocab() == WORDS.get_vocab()
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
