"""Small real tokenizers, trained in a second on arithmetic text: five families, nothing downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def arithmetic_lines(n: int = 400, seed: int = 0) -> list[str]:
    """Lines of worked arithmetic in every preset's wording, with the odd emoji and accent."""
    rng = random.Random(seed)
    return [line for _ in range(n) for line in _example(rng)]


def _example(rng: random.Random) -> Iterator[str]:
    a, b, c = rng.randint(1, 40), rng.randint(1, 40), rng.randint(2, 9)
    name, thing = rng.choice(["Ann", "José", "Mei"]), rng.choice(["eggs", "apples", "books", "coins"])
    yield f"{name} has {a} {thing} and buys {b} more. Each costs ${c}.50, e.g. on Monday.\n"
    yield f"She has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} {thing}.\nThen {a + b} * {c} = {(a + b) * c}.\n\n"
    yield f"<think>\nSo 3/4 of it, that is {a}.\n</think>\n\nThe answer is {(a + b) * c}.\n"
    yield f"#### {(a + b) * c}\nThe answer is \\boxed{{{a + b}}}. The answer is ({rng.choice('ABCD')}). ... ... 😀 é\n"


@cache
def gpt2_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the GPT-2 split; no pad token, no BOS."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _finish(_byte_level(pre), eos_token="<|endoftext|>")


@cache
def llama3_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the Llama-3 split (newlines join the punctuation before them) and a BOS."""
    tokenizer = _byte_level(_split(LLAMA3), BOS)
    tokenizer.post_processor = _with_bos(tokenizer)
    return _finish(tokenizer, bos_token=BOS, eos_token="<|endoftext|>")


@cache
def qwen2_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the Qwen2 split (single digits), pad token, think tags and a chat template."""
    tokenizer = _finish(_byte_level(_split(QWEN2), PAD), eos_token="<|endoftext|>", pad_token=PAD)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def llama2_style() -> PreTrainedTokenizerFast:
    """SentencePiece BPE: "▁" for spaces, one put before the text, single digits, bytes for what is unknown."""
    return _metaspace_bpe([pre_tokenizers.Digits(individual_digits=True), _punctuation()])


@cache
def greedy_style() -> PreTrainedTokenizerFast:
    """Like :func:`llama2_style`, but merging over digits, full stops and braces: "▁\\boxed{1" may be a token."""
    return _metaspace_bpe([])


def _metaspace_bpe(splits: list[pre_tokenizers.PreTokenizer]) -> PreTrainedTokenizerFast:
    trained = Tokenizer(models.BPE(unk_token=UNK))
    trained.pre_tokenizer = pre_tokenizers.Sequence([*_metaspace(), *splits])
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[UNK, BOS, EOS, *_bytes()], show_progress=False)
    trained.train_from_iterator([line.replace(" ", "▁") for line in arithmetic_lines()], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, byte_fallback=True, unk_token=UNK, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decode = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(decode)
    tokenizer.add_special_tokens([UNK, BOS, EOS])
    tokenizer.post_processor = _with_bos(tokenizer)
    return _finish(tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS)


@cache
def unigram_style() -> PreTrainedTokenizerFast:
    """Unigram with "▁" for spaces and none put before the text, as Gemma has it; bytes for what is unknown."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Sequence([*_metaspace(), _punctuation()])
    special = [PAD, EOS, BOS, UNK, *_bytes()]
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=special, unk_token=UNK, show_progress=False)
    trained.train_from_iterator([line.replace(" ", "▁") for line in arithmetic_lines()], trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(models.Unigram([tuple(piece) for piece in model["vocab"]], model["unk_id"], True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([PAD, EOS, BOS, UNK])
    tokenizer.post_processor = _with_bos(tokenizer)
    return _finish(tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def _metaspace() -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex(r"\n+"), "isolated")]


def _punctuation() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(r"▁?\p{L}+|▁?\p{N}+|▁?[^\s▁\p{L}\p{N}]+"), "isolated")


@cache
def word_level() -> PreTrainedTokenizerFast:
    """One token a word, joined by single spaces when decoded; newlines are lost."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"####|[;#]"), "isolated")]
    )
    words = ["b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; # #### 3 The answer is ... - ? : a d e", " ".join(map(str, range(200)))]
    trainer = trainers.WordLevelTrainer(special_tokens=[UNK, EOS, PAD], show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    return _finish(tokenizer, unk_token=UNK, eos_token=EOS, pad_token=PAD)


SUBWORD: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": gpt2_style,
    "llama3": llama3_style,
    "qwen2": qwen2_style,
    "llama2": llama2_style,
    "unigram": unigram_style,
}
"""The families that can write any text."""


def _byte_level(pre: pre_tokenizers.PreTokenizer, *special: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(arithmetic_lines(), trainer)
    return tokenizer


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _with_bos(tokenizer: Tokenizer) -> processors.PostProcessor:
    return processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])


def _bytes() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _finish(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_input_names=names, **special
    )
