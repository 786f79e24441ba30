"""Supervised fine-tuning with the guard: an ordinary TRL script and one more line.

    python examples/sft_with_guard.py --data train.jsonl --held-out test.jsonl            # small model made on the spot
    python examples/sft_with_guard.py --data openai/gsm8k --model Qwen/Qwen2.5-0.5B       # where there is a network

The data hold "question" and "answer" columns, the answer being a worked solution that ends in "#### 72".
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from reasoning_guard_transformers import ReasoningGuardCallback


def read(source: str, split: str) -> Dataset:
    if Path(source).suffix in (".jsonl", ".json"):
        return Dataset.from_json(source)
    return load_dataset(source, "main", split=split)


def small_model(texts: Iterator[str]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A tokenizer trained on the data and a Llama of some 5 M parameters with random weights."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4096, special_tokens=["<eos>", "<pad>"], initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=0, pad_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="training data: a .jsonl file or the name of a dataset")
    parser.add_argument("--held-out", help="held-out problems; default: the test split, or test.jsonl beside the data")
    parser.add_argument("--model", help="name or path of a causal language model; default: a small one made here")
    parser.add_argument("--problems", type=int, default=128, help="how many held-out problems the guard reads")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="runs/sft_with_guard")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    train = read(options.data, "train")
    default = str(Path(options.data).with_name("test.jsonl")) if options.data.endswith("l") else options.data
    test = read(options.held_out or default, "test")
    prompted = {"prompt": [f"Question: {q}\nAnswer:\n" for q in train["question"]], "completion": train["answer"]}
    if options.model:
        model, tokenizer = (
            AutoModelForCausalLM.from_pretrained(options.model),
            AutoTokenizer.from_pretrained(options.model),
        )
    else:
        model, tokenizer = small_model(p + c for p, c in zip(*prompted.values(), strict=True))
    args = SFTConfig(output_dir=options.out, max_steps=options.steps, per_device_train_batch_size=16, bf16=False,
                     learning_rate=1e-3 if not options.model else 1e-5, logging_steps=50, gradient_checkpointing=False,
                     report_to="tensorboard", save_strategy="no", max_length=512)  # fmt: skip
    trainer = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_dict(prompted), processing_class=tokenizer)

    held_out = [{"prompt": f"Question: {r['question']}\nAnswer:\n", "answer": r["answer"]} for r in test]
    guard = ReasoningGuardCallback(trainer, problems=held_out[: options.problems], max_new_tokens=256)
    trainer.add_callback(guard)
    trainer.train()

    for evaluation in guard.guard.evaluations:
        shown = ("accuracy", "answered", "prior", "posterior", "info_gain", "placebo_gain", "pre_commitment", "n_steps")
        values = "  ".join(f"{name} {evaluation.mean(name):6.2f}" for name in shown)
        print(f"step {evaluation.step:4d}  {values}  ({evaluation.seconds.get('total', 0):.1f} s)")
    print(*[alert.text() for alert in guard.guard.alerts] or ["no alert"], sep="\n")


if __name__ == "__main__":
    main()
