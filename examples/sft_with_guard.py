"""Supervised fine-tuning with the guard: an ordinary TRL script and one more line.

    python examples/sft_with_guard.py --data train.jsonl --held-out test.jsonl            # builds a small model
    python examples/sft_with_guard.py --data openai/gsm8k:main --model Qwen/Qwen2.5-0.5B  # needs a network

The data have the columns "question" and "answer". The answer is a worked solution that ends in "#### 72".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from reasoning_guard_transformers import ReasoningGuardCallback


def read(source: str, split: str) -> Dataset:
    """Rows as prompt and worked solution, from a file or from the hub."""
    name, _, config = source.partition(":")
    rows = Dataset.from_json(source) if Path(source).is_file() else load_dataset(name, config or None, split=split)
    return rows.map(lambda row: {"prompt": f"Question: {row['question']}\nAnswer:\n", "completion": row["answer"]})


def small_model(texts: list[str]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A tokenizer trained on the data and a Llama of some 5 M parameters with random weights."""
    core = ByteLevelBPETokenizer()
    core.train_from_iterator(texts, vocab_size=4096, special_tokens=["<eos>", "<pad>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core._tokenizer, eos_token="<eos>", pad_token="<pad>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=0, pad_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a .jsonl file, or a dataset as NAME or NAME:CONFIG")
    parser.add_argument("--held-out", help="held-out problems; default: test.jsonl beside the data, or the test split")
    parser.add_argument("--model", help="name or path of a causal language model; default: a small one made here")
    parser.add_argument("--problems", type=int, default=128, help="how many held-out problems the guard reads")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest held-out trace")
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()

    beside = Path(options.data).with_name("test.jsonl")
    train = read(options.data, "train")
    test = read(options.held_out or (str(beside) if beside.is_file() else options.data), "test")
    held_out = test.select(range(min(options.problems, len(test)))).select_columns(["prompt", "answer"])
    if options.model:
        model, tokenizer = (kind.from_pretrained(options.model) for kind in (AutoModelForCausalLM, AutoTokenizer))
    else:
        model, tokenizer = small_model([row["prompt"] + row["completion"] for row in train])
    args = SFTConfig(
        output_dir="runs/sft_with_guard", max_steps=options.steps, learning_rate=1e-5 if options.model else 1e-3,
        per_device_train_batch_size=16, max_length=512, logging_steps=50, save_strategy="no", report_to="tensorboard",
        bf16=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    train = train.select_columns(["prompt", "completion"])
    trainer = SFTTrainer(model=model, args=args, train_dataset=train, processing_class=tokenizer)

    callback = ReasoningGuardCallback(trainer, problems=held_out, max_new_tokens=options.max_new_tokens)
    trainer.add_callback(callback)
    trainer.train()

    for evaluation in callback.guard.evaluations:
        shown = ("accuracy", "answered", "prior", "posterior", "info_gain", "placebo_gain", "n_steps")
        print(f"step {evaluation.step:4d}", *(f"{name} {evaluation.mean(name):.2f}" for name in shown), sep="  ")
    print(*[alert.text() for alert in callback.guard.alerts] or ["no alert"], sep="\n")


if __name__ == "__main__":
    main()
