"""The rewards in TRL's own trainers, and what these make of them."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import runs
from reasoning_guard import ConfigurationError
from reasoning_guard_trl import (
    AnswerConfidenceReward,
    CalibrationReward,
    FaithfulnessReward,
    InfoGainReward,
    RolloutMonitor,
    build_preference_pairs,
)
from reward_tasks import FORMAT, TOKENIZER, adder, exercises, honest, some

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def accuracy(completions: Any, solution: Any, **columns: Any) -> list[float]:
    return [float(FORMAT.answer_in(text) == answer) for text, answer in zip(completions, solution, strict=True)]


def rows(n: int = 16) -> Dataset:
    return Dataset.from_list([{"prompt": of.prompt(0), "solution": str(of.answer)} for of in exercises(n)])


def trainer(
    folder: Path, rewards: Any, kind: str = "grpo", model: Any = None, peft: Any = None, **settings: Any
) -> Any:
    made, config = TRAINERS[kind]
    settings = {"beta": 0.0, "max_steps": 2} | settings  # without a loss against a reference of its own
    args = config(
        output_dir=str(folder),
        num_generations=4,
        max_completion_length=32,
        **runs.SETTINGS | settings,
    )
    return made(
        model=adder().train() if model is None else model,
        reward_funcs=rewards,
        args=args,
        train_dataset=rows(),
        processing_class=runs.tokenizer(),
        peft_config=peft,
    )


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_model_is_found_without_configuration(kind: str, tmp_path: Path) -> None:
    """Every reward beside accuracy in one run; each reads, logs, and leaves its name."""
    rewards = [
        accuracy, InfoGainReward(format=FORMAT), InfoGainReward(format=FORMAT, scorer="policy"),
        AnswerConfidenceReward(format=FORMAT), CalibrationReward(format=FORMAT), FaithfulnessReward(format=FORMAT),
        RolloutMonitor(format=FORMAT, every=1),
    ]  # fmt: skip
    rewards[2].__name__ = "info_gain_policy"
    training = trainer(tmp_path, rewards, kind)
    training.train()
    record = training.state.log_history[0]
    assert record["rewards/info_gain/mean"] > 0.5
    assert {"info_gain/gain", "info_gain/gated_out", "info_gain/stated_early", "rollout/placebo_gain"} <= record.keys()
    for name in ("info_gain_policy", "answer_confidence", "calibration", "faithfulness"):
        assert record[f"rewards/{name}/mean"] > 0
    assert record["rewards/rollout/mean"] == 0.0
    assert all(isinstance(reward.scorer, str) for reward in rewards[1:])


@pytest.mark.parametrize("beside", [(), (accuracy,)])
def test_calibration_without_a_correctness_reward_is_said(
    beside: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    class Host:
        model, processing_class = adder(), TOKENIZER

        def log_metric(self, name: str, value: float) -> None:
            pass

    host, reward = Host(), CalibrationReward(format=FORMAT)
    host.reward_funcs = [*beside, reward]  # type: ignore[attr-defined]
    for _ in range(2):
        reward(**some(2), log_metric=host.log_metric)
    assert caplog.text.count("calibration is the only reward") == (not beside)


def test_a_reward_follows_to_the_next_trainer(tmp_path: Path) -> None:
    """Not so one that was given its reader."""
    policy = InfoGainReward(format=FORMAT, scorer="policy")
    given = InfoGainReward(format=FORMAT, scorer=adder(), tokenizer=TOKENIZER)
    models = []
    for name in ("one", "two"):
        training = trainer(tmp_path / name, [policy, given], max_steps=1)
        training.train()
        models.append(policy._scorer.model)
        assert models[-1] is training.model
        assert given._scorer.model is given.scorer
        assert policy._trainer is given._trainer is training
    assert models[0] is not models[1]


def test_weight_zero_only_watches(tmp_path: Path) -> None:
    """Weights after training are those of a run without the rewards, bit for bit."""
    bare = trainer(tmp_path / "bare", [accuracy])
    bare.train()
    watched = trainer(
        tmp_path / "watched",
        [accuracy, InfoGainReward(format=FORMAT), InfoGainReward(format=FORMAT, scorer="policy")],
        reward_weights=[1.0, 0.0, 0.0],
    )
    watched.train()
    assert not runs.differing(runs.weights(bare), runs.weights(watched))
    moved = trainer(tmp_path / "moved", [accuracy, InfoGainReward(format=FORMAT)], reward_weights=[1.0, 1.0])
    moved.train()
    assert runs.differing(runs.weights(bare), runs.weights(moved))


def test_the_reference_of_an_adapter_is_the_model_without_it(tmp_path: Path) -> None:
    reward = InfoGainReward(format=FORMAT)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    training = trainer(tmp_path, [accuracy, reward], peft=lora, learning_rate=1e-1)
    training.train()
    columns = {"completion_ids": [TOKENIZER(f" {honest(of)}")["input_ids"] for of in exercises(8)]}
    asked = {"prompts": rows(8)["prompt"], "completions": [""] * 8, "solution": list(rows(8)["solution"]), **columns}
    plain = InfoGainReward(format=FORMAT, scorer=adder(), tokenizer=TOKENIZER)
    assert reward(**asked) == pytest.approx(plain(**asked), abs=1e-3)
    assert any(p.requires_grad for p in training.model.parameters())


def test_none_counts_as_nothing_and_as_no_advantage_when_all_say_it(tmp_path: Path) -> None:
    training = trainer(tmp_path, [accuracy, InfoGainReward(format=FORMAT)])
    seen: list[Any] = []
    inner = training._calculate_rewards
    training._calculate_rewards = lambda *args: seen.append(inner(*args)) or seen[-1]
    reward = training.reward_funcs[1]
    reward._grade = lambda traces, batch: [None] * len(traces)
    training.train()
    assert torch.isnan(seen[0][:, 1]).all()
    assert not torch.isnan(seen[0][:, 0]).any()


def test_preset_formats_are_read_off_the_first_completions(caplog: pytest.LogCaptureFixture) -> None:
    reward = InfoGainReward(scorer=adder(), tokenizer=TOKENIZER)
    texts = ["2 + 2 = 4\n#### 4"] * 4
    reward(prompts=["2 + 2 ?"] * 4, completions=texts, solution=["4"] * 4)
    assert reward.format.name == "gsm8k"
    other = InfoGainReward(scorer=adder(), tokenizer=TOKENIZER)
    other(prompts=["2 + 2 ?"], completions=["= 4"], solution=["4"])
    assert "'plain'" in caplog.text


def test_a_host_that_gives_no_policy_is_told_what_to_do(tmp_path: Path) -> None:
    """AsyncGRPO pickles its rewards into a process without a model, and passes neither log_metric nor a state."""
    reward = InfoGainReward(format=FORMAT)
    training = trainer(tmp_path, [accuracy, reward], max_steps=1)
    training.train()
    arrived = pickle.loads(pickle.dumps(reward))
    asked = {"prompts": ["1 : a = 1 ; ?"], "completions": [" # 1"], "solution": ["1"]}
    with pytest.raises(ConfigurationError, match=r"AsyncGRPOTrainer.*pass `scorer=` a model and `tokenizer=`"):
        arrived(**asked)
    given = InfoGainReward(format=FORMAT, scorer=adder(), tokenizer=TOKENIZER)
    assert pickle.loads(pickle.dumps(given))(**asked) == [0.0]


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_guard_runs_beside_the_rewards(kind: str, tmp_path: Path) -> None:
    """On held-out problems by its callback, on the rollouts by the monitor; and it changes no weight."""
    model = runs.writer().train()
    plain = trainer(tmp_path / "plain", [accuracy, InfoGainReward(format=FORMAT)], kind, model=runs.writer().train())
    plain.train()
    rewards = [accuracy, InfoGainReward(format=FORMAT), RolloutMonitor(format=FORMAT, every=1)]
    training = trainer(tmp_path / "guarded", rewards, kind, model=model)
    guard = runs.guard(training, every=1, on_error="raise").guard
    training.train()
    assert [e.step for e in guard.evaluations] == [0, 1, 2]
    assert all(e.failure is None for e in guard.evaluations)
    assert len(runs.log(training, "eval_guard/accuracy")) == 3
    assert runs.log(training, "rollout/placebo_gain")
    assert runs.log(training, "rewards/info_gain/mean")
    assert not runs.differing(runs.weights(plain), runs.weights(training))


def test_chat_messages_are_read_as_the_trainer_renders_them(tmp_path: Path) -> None:
    """Prompts that the template ends in another way than by default are other prompts."""
    words = runs.tokenizer()
    words.chat_template = "{{ messages[-1]['content'] }}{% if not thinking | default(true) %} ;{% endif %}"
    chat = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows(8)]
    reward = InfoGainReward(format=FORMAT)
    settings = {**runs.SETTINGS, "max_steps": 1, "num_generations": 4, "max_completion_length": 8, "beta": 0.0}
    training = GRPOTrainer(
        model=adder().train(),
        reward_funcs=reward,
        args=GRPOConfig(output_dir=str(tmp_path), chat_template_kwargs={"thinking": False}, **settings),
        train_dataset=Dataset.from_list(chat),
        processing_class=words,
    )
    guard = runs.guard(training, problems=chat, reference=None, on_error="raise", max_new_tokens=8).guard
    training.train()
    problem = guard.problems[0]
    (fed,), *_ = training._tokenize_prompts([chat[0]["prompt"]])
    assert fed[-1] == words.convert_tokens_to_ids(";")
    assert reward.reader is not None
    for reader in (guard.reader, reward.reader):
        assert list(reader.prompt_ids(problem)) == fed
        assert reader.prompt_text(problem) == words.decode(fed)


def test_preference_pairs_are_what_dpo_takes(tmp_path: Path) -> None:
    problems = [
        {
            "prompt": of.prompt(0),
            "completions": [f" {honest(of)}", f" # {of.answer}", " # 10"],
            "solution": str(of.answer),
        }
        for of in exercises(8)
        if of.answer != 10
    ]
    gain = InfoGainReward(format=FORMAT, scorer=adder(), tokenizer=TOKENIZER)
    pairs = build_preference_pairs(problems, [accuracy, gain], reward_weights=[1.0, 0.2])
    assert pairs.column_names == ["prompt", "chosen", "rejected", "margin"]
    assert list(pairs["chosen"]) == [row["completions"][0] for row in problems]
    assert set(pairs["rejected"]) == {" # 10"}
    settings = {**runs.SETTINGS, "max_steps": 1, "per_device_train_batch_size": 4}
    training = DPOTrainer(
        model=adder().train(),
        ref_model=adder(),
        args=DPOConfig(output_dir=str(tmp_path), **settings),
        train_dataset=pairs,
        processing_class=runs.tokenizer(),
    )
    before = runs.weights(training)
    training.train()
    assert runs.differing(before, runs.weights(training))
    with pytest.raises(ConfigurationError, match="no two completions"):
        build_preference_pairs([{"prompt": "?", "completions": [" # 1"] * 2, "solution": "1"}], accuracy)


@pytest.mark.timeout(300)
def test_two_processes_that_split_a_group_give_the_rewards_of_one(tmp_path: Path) -> None:
    """12 completions a rank, 8 of each problem: the middle group lies on both ranks."""
    script, ranks = Path(__file__).parent / "reward_ranks.py", []
    adder().save_pretrained(tmp_path / "adder")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in range(2):
        world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, **world, "MASTER_PORT": port, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"}
        ranks.append(subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment))
    assert [each.wait(timeout=280) for each in ranks] == [0, 0]
    parts = [json.loads((tmp_path / f"rank{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert [len(part["given"]) for part in parts] == [12, 12]
    assert parts[0]["prompts"][-1] == parts[1]["prompts"][0]
    whole = {name: parts[0][name] + parts[1][name] for name in ("prompts", "completions", "completion_ids", "solution")}
    alone = InfoGainReward(format=FORMAT, scorer=adder(), tokenizer=TOKENIZER)
    assert alone(**whole) == pytest.approx(parts[0]["given"] + parts[1]["given"], abs=1e-4)
    assert alone.monitor.latest is not None
    assert parts[0]["luck"] == parts[1]["luck"] == alone.monitor.latest.advantage
    assert sum(value > 0 for value in parts[0]["given"] + parts[1]["given"]) > 4
