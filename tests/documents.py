"""The documentation's code: every fenced block, and what a reader is assumed to have before running it."""

from __future__ import annotations

import ast
import atexit
import json
import math
import random
import re
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from reasoning_guard import AnswerScorer, Guard, Problem, Trace, TraceReader, get_format
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.history import History
from tokenizers_on_the_spot import qwen2_style

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_TEST = {"cli.md": "test_cli_docs.py"}
"""Pages whose blocks and commands another test runs, and which."""

EXCUSE = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``excuse`` is the visible reason why it isn't run, if there is one."""

    page: Path
    line: int
    language: str
    text: str
    excuse: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def code(self) -> str:
        """What is run: the text itself, or what a diff leads to. Lines stand where they stand in the page."""
        if self.language == "diff":
            kept = [line[2:] for line in self.text.splitlines() if not line.startswith("-")]
            return "\n" * self.line + "\n".join(kept)
        return "\n" * self.line + self.text


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in the given languages, all of them without any."""
    return [block for block in _fenced(page) if not languages or block.language in languages]


def _fenced(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    i, excuse = 0, ""
    while i < len(lines):
        fence = re.match(r"\s*```(\w*)", lines[i])
        if fence is None:
            excuse = found[1] if (found := EXCUSE.search(lines[i])) else excuse if not lines[i].strip() else ""
            i += 1
            continue
        end = next(k for k in range(i + 1, len(lines)) if lines[k].strip() == "```")
        yield Block(page, i + 1, fence[1], textwrap.dedent("\n".join(lines[i + 1 : end])), excuse)
        i, excuse = end + 1, ""


def free_names(code: str) -> set[str]:
    """Names that a piece of code reads and nowhere defines."""
    tree = ast.parse(code)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    given = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    given |= {alias.asname or alias.name.split(".")[0] for node in ast.walk(tree) for alias in _imported(node)}
    given |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    given |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - given


def _imported(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


# What a reader has. Blocks that need one of these names find it; all else they bring themselves.


def rows(n: int, seed: int) -> list[dict[str, str]]:
    """Little sums with worked solutions in the manner of GSM8K."""
    rng = random.Random(seed)
    return [_row(rng.randrange(2, 9), rng.randrange(2, 9), rng.randrange(2, 5)) for _ in range(n)]


def _row(a: int, b: int, c: int) -> dict[str, str]:
    solution = f"{a} + {b} = {a + b}\n{a + b} * {c} = {(a + b) * c}\n#### {(a + b) * c}"
    return {"prompt": f"Question: ({a} + {b}) * {c}?\nAnswer:\n", "completion": solution}


def held_out_rows(n: int = 20) -> list[dict[str, str]]:
    """Held-out problems, the last six of a set of their own."""
    made = [{"id": f"p{i}", "prompt": row["prompt"], "answer": row["completion"]} for i, row in enumerate(rows(n, 1))]
    return [{**row, "set": "id" if i < n - 6 else "ood"} for i, row in enumerate(made)]


def tokenizer() -> PreTrainedTokenizerFast:
    return qwen2_style()


def _untrained() -> LlamaForCausalLM:
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.05,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


@cache
def _taught() -> Mapping[str, torch.Tensor]:
    words, learner = tokenizer(), _untrained()
    texts = [row["prompt"] + row["completion"] + words.eos_token for row in rows(64, 0)]
    batch = words(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    for _ in range(40):
        learner(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return learner.state_dict()


def train() -> Dataset:
    return Dataset.from_list(rows(32, 0))


def problems() -> Dataset:
    """Problems for reinforcement learning: a prompt and a worked solution."""
    return Dataset.from_list([{"prompt": row["prompt"], "solution": row["completion"]} for row in rows(16, 0)])


SETTINGS: dict[str, Any] = {
    "max_steps": 2, "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False, "save_strategy": "no",
    "gradient_checkpointing": False, "dataloader_pin_memory": False, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip


def model(folder: Path) -> LlamaForCausalLM:
    """A fresh small model that writes solutions of the right form and ends them, loaded as any model is."""
    return LlamaForCausalLM.from_pretrained(folder / "base")


def right(completions: list[str], solution: list[str], **columns: Any) -> list[float]:
    """Somebody's accuracy reward."""
    pairs = zip(completions, solution, strict=True)
    return [float(text.split("#### ")[-1] == known.split("#### ")[-1]) for text, known in pairs]


class FineTuning(LightningModule):
    """Somebody's module around a language model."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def batches(n: int) -> DataLoader:
    words = tokenizer()

    def joined(some: list[dict[str, str]]) -> dict[str, torch.Tensor]:
        texts = [row["prompt"] + row["completion"] + words.eos_token for row in some]
        batch = words(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    return DataLoader(rows(n, 0), batch_size=8, collate_fn=joined)  # type: ignore[arg-type]


def args(folder: Path) -> SFTConfig:
    return SFTConfig(output_dir=str(folder / "runs/new"), max_length=None, **SETTINGS)


def trainer(folder: Path) -> SFTTrainer:
    return SFTTrainer(model=model(folder), args=args(folder), train_dataset=train(), processing_class=tokenizer())


def evaluated(folder: Path) -> list[Row]:
    """Rows of an evaluation."""
    guard = Guard(held_out_rows(), tokenizer(), format="gsm8k", max_new_tokens=48, progress=False)
    found = guard.evaluate(model(folder), step=0)
    assert found is not None
    return list(found.rows)


def trace(folder: Path) -> Trace:
    [row] = rows(1, 1)
    problem = Problem(prompt=row["prompt"], answer=row["completion"].split("#### ")[-1])
    written = tokenizer()(row["completion"], add_special_tokens=False)["input_ids"]
    return TraceReader(tokenizer(), get_format("gsm8k")).read(problem, written)


FIXTURES: Mapping[str, Callable[[Path], Any]] = {
    "held_out": lambda folder: held_out_rows(),
    "tokenizer": lambda folder: tokenizer(),
    "model": model,
    "train": lambda folder: train(),
    "problems": lambda folder: problems(),
    "args": args,
    "trainer": trainer,
    "module": lambda folder: FineTuning(model(folder)),
    "train_batches": lambda folder: batches(16),
    "validation_batches": lambda folder: batches(8),
    "rows": evaluated,
    "scorer": lambda folder: AnswerScorer(model(folder), tokenizer(), "gsm8k"),
    "trace": trace,
    "settings": lambda folder: SETTINGS,
    "right": lambda folder: right,
}


def set_the_table(folder: Path) -> None:
    """Files that commands and blocks name: problems, traces, two models, two runs that had a guard, a script."""
    shutil.copytree(_table(), folder, dirs_exist_ok=True)


@cache
def _table() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="reasoning-guard-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    traces = [{**row, "id": f"p{i}", "completion": rows(20, 1)[i]["completion"]} for i, row in enumerate(rows(20, 1))]
    for name, found in {"held_out": held_out_rows(), "train": rows(32, 0), "traces": traces}.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name in ("base", "tuned"):
        made = _untrained()
        made.load_state_dict(_taught())
        made.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    for name in ("sft", "healthy"):
        record(folder / "runs" / name / "reasoning_guard")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    return folder


def record(directory: Path) -> None:
    """What a guard leaves behind: here a few made-up values."""
    history = History(directory)
    history.begin(0, {}, {})
    for step in (0, 10, 20):
        values = {"accuracy": 1.0, "info_gain": 2.0 - step / 100, "placebo_changed": 1.0, "mistake_changed": math.nan}
        reasons = {"mistake_changed": "no number in any step but the last"}
        made = [Row(id=f"p{i}", values=values, reasons=reasons, steps=("a", "b"), curve=(-2, -1, 0)) for i in range(20)]
        history.append(Evaluation(step=step, rows=tuple(made), seconds={"total": 1.0}))
    history.write_alerts([])


SCRIPT = """
from datasets import Dataset
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer
from reasoning_guard_transformers import ReasoningGuardCallback

args = SFTConfig(
    "runs/new", max_steps=2, use_cpu=True, bf16=False, save_strategy="no", report_to="none", max_length=None
)
model = AutoModelForCausalLM.from_pretrained("base")
trainer = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_json("train.jsonl"))
trainer.add_callback(ReasoningGuardCallback(trainer, problems="held_out.jsonl", max_new_tokens=48))
trainer.train()
"""
"""The script of somebody who trains: the first block of the README in whole."""
