"""A word-level tokenizer and a 0.45 M parameter Llama, both built on the spot: nothing to download."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reasoning_guard_demo.arithmetic import MODULUS, NAMES
from reasoning_guard_demo.task import FILLER

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
WORDS = (PAD, EOS, UNKNOWN, *map(str, range(MODULUS)), *NAMES, "+", "*", "=", ":", ";", "?", "#", FILLER)
"""The vocabulary: a word's place is its token id."""

MAX_TOKENS = 256


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are the words between spaces.

    Decoding joins the words with single spaces, so text goes to ids and back unchanged.

    >>> tokenizer = build_tokenizer()
    >>> tokenizer.decode(tokenizer("b = 3 + 4 = 7 ; # 7")["input_ids"])
    'b = 3 + 4 = 7 ; # 7'
    """
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],  # as models of language take them
        clean_up_tokenization_spaces=False,  # it would glue "?" to the word before it
    )


def build_model(seed: int = 0) -> LlamaForCausalLM:
    """Build an untrained Llama for the vocabulary of :func:`build_tokenizer`.

    Args:
        seed: Seed of the initial weights; the global random state is left as it was.
    """
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.05,  # the usual 0.02 is made for wider models; here it costs twice the steps
        pad_token_id=WORDS.index(PAD),
        eos_token_id=WORDS.index(EOS),
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def copy_model(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Make a fresh model with the same weights.

    TRL's trainers replace ``model.forward`` by a closure over the model, and ``copy.deepcopy`` shares that closure. So
    a deep copy would silently answer with the weights of the original.
    """
    fresh = build_model()
    fresh.load_state_dict(model.state_dict())
    return fresh
