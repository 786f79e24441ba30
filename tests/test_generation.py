"""Batched greedy completions against a loop that runs the whole sequence for every token."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from completing import EOS, assert_same, complete, greedy, prompts
from memorised import CONTEXT, LESSONS, TOKENIZER, encode, memorised
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import PRESETS
from reasoning_guard.generation import Completion, Generator
from reasoning_guard_demo.model import build_tokenizer
from tiny_models import tiny_model
from tokenizers_on_the_spot import gpt2_style, llama3_style, qwen2_style

SEMICOLON = encode(";")[0]
MODELS = ["llama", "gpt2", "mistral", "gemma3", "lfm2"]


def embedded_with(adapter: str | None) -> Any:
    """A model of 64 embeddings, plain or with an adapter around them."""
    settings: dict[str, Any] = {
        "lora": {"target_modules": ["q_proj", "embed_tokens"]},
        "copy": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6]}},
    }
    model = tiny_model("llama")
    return get_peft_model(model, LoraConfig(r=4, **settings[adapter])) if adapter else model


@pytest.mark.parametrize("name", MODELS)
def test_a_padded_batch_equals_one_by_one(name: str) -> None:
    model = tiny_model(name)
    found = complete(model, prompts())
    assert_same(found, [greedy(model, prompt, 8) for prompt in prompts()])
    assert len({c.ids for c in found}) > 2, "the prompts must matter"


def lesson_prompts() -> list[list[int]]:
    return [encode(str(lesson.problem.prompt)) for lesson in LESSONS]


def test_completions_that_end_at_different_places() -> None:
    model = memorised()
    found = complete(model, lesson_prompts(), max_new_tokens=40)
    assert [TOKENIZER.decode(list(c.ids)) for c in found] == [
        lesson.completion(len(lesson.steps)) for lesson in LESSONS
    ]
    assert all(c.finished for c in found)
    assert_same(found, [greedy(model, prompt, 40) for prompt in lesson_prompts()])


@pytest.mark.parametrize("budget", [1, 60, 150, 10_000])
def test_the_token_budget_changes_nothing_but_the_batches(budget: int) -> None:
    model = tiny_model("llama")
    sizes: list[tuple[int, int]] = []
    model.model.register_forward_pre_hook(
        lambda _m, _a, kw: sizes.append(tuple(kw["input_ids"].shape)) if kw["input_ids"].shape[1] > 1 else None,
        with_kwargs=True,
    )
    found = complete(model, prompts(9), token_budget=budget)
    prefills = list(sizes)
    assert_same(found, [greedy(model, prompt, 8) for prompt in prompts(9)])
    assert sum(rows for rows, _ in prefills) == 9
    assert all(rows == 1 or rows * (width + 8) <= budget for rows, width in prefills)


def test_training_mode_with_gradient_checkpointing_and_without_cache_changes_nothing() -> None:
    model = memorised()
    truth = complete(memorised().eval(), lesson_prompts(), max_new_tokens=40)
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    assert complete(model, lesson_prompts(), max_new_tokens=40) == truth
    assert model.config.use_cache is False
    assert model.is_gradient_checkpointing


def test_a_peft_model_completes_with_its_adapter() -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.3)
    model = get_peft_model(tiny_model("llama"), lora)
    found = complete(model, prompts())
    assert_same(found, [greedy(model, prompt, 8) for prompt in prompts()])
    assert [c.ids for c in found] != [c.ids for c in complete(tiny_model("llama"), prompts())]


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_padding_by_any_token_or_none(pad: str | None) -> None:
    """Pad of its own, EOS as pad, none: a real EOS and padding must not be taken for each other."""
    tokenizer = build_tokenizer()
    tokenizer.pad_token = pad
    assert tokenizer.pad_token == pad
    model = memorised()
    assert complete(model, lesson_prompts(), tokenizer, max_new_tokens=40) == complete(
        model, lesson_prompts(), max_new_tokens=40
    )
    assert tokenizer.pad_token == pad


@pytest.mark.parametrize("adapter", [None, "lora", "copy", "tokens"])
def test_a_pad_token_that_only_the_tokenizer_knows_is_not_fed(adapter: str | None) -> None:
    """Added without resizing the model. On a GPU, feeding it would end the process' use of the device."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"[{i}]" for i in range(64 - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 64
    model = embedded_with(adapter)
    assert complete(model, prompts(), tokenizer) == complete(model, prompts())
    assert tokenizer.pad_token_id == 64


@pytest.mark.parametrize("adapter", [None, "lora", "copy", "tokens"])
@pytest.mark.parametrize("unknown", [64, -1])
def test_prompts_with_tokens_that_the_model_does_not_know_are_refused_before_they_are_fed(
    adapter: str | None, unknown: int
) -> None:
    model, fed = embedded_with(adapter), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _m, args: fed.append(args))
    with pytest.raises(ConfigurationError, match=rf"below 64.* has {unknown}\..*resize_token_embeddings"):
        complete(model, [*prompts(), [5, unknown, 6]])
    assert not fed
    complete(model, [[5, 63, 6]])
    assert fed


def test_a_model_that_does_not_say_how_many_tokens_it_knows_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    truth = complete(model, prompts())

    def silent() -> None:
        raise NotImplementedError

    monkeypatch.setattr(model, "get_input_embeddings", silent)
    assert complete(model, prompts()) == truth


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_rows_that_stopped_early_lose_their_padding_whatever_it_is(pad: str | None) -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = pad
    stopped = complete(memorised(), lesson_prompts(), tokenizer, max_new_tokens=40, stop=["; c"])
    assert stopped == complete(memorised(), lesson_prompts(), max_new_tokens=40, stop=["; c"])


def test_stop_strings_end_a_completion_behind_them() -> None:
    found = complete(memorised(), lesson_prompts(), max_new_tokens=40, stop=["; c"])
    for lesson, completion in zip(LESSONS, found, strict=True):
        text = lesson.completion(len(lesson.steps))
        expected = text[: text.index("; c") + 3] if "; c" in text else text
        assert TOKENIZER.decode(list(completion.ids)) == expected
        assert completion.finished
        assert len(completion.entropies) == len(completion.ids)


@pytest.mark.parametrize("style", [gpt2_style, qwen2_style])
def test_stop_strings_of_byte_level_tokenizers(style: Any) -> None:
    """A stop string may begin and end inside a token."""
    tokenizer = style()
    model = tiny_model("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    questions = [list(tokenizer(text)["input_ids"]) for text in ("Ann has 3 eggs", "Then 3 + 4 = 7 eggs and")]
    free = [greedy(model, question, 12) for question in questions]
    texts = [[tokenizer.decode(list(c.ids[: i + 1])) for i in range(len(c.ids))] for c in free]
    stop = texts[0][5][-3:]
    assert len(stop) == 3
    found = complete(model, questions, tokenizer, max_new_tokens=12, stop=[stop])
    for completion, grown, one in zip(found, texts, free, strict=True):
        n = next((i + 1 for i, text in enumerate(grown) if stop in text), len(grown))
        assert completion.ids == one.ids[:n]
        assert completion.finished == (stop in grown[-1] or one.finished)


@pytest.mark.parametrize("style", [gpt2_style, qwen2_style, llama3_style])
def test_each_row_is_asked_about_once_a_token_until_it_ends(style: Any) -> None:
    """By the text of its last 48 tokens; some rows end by EOS, some by their text, some not at all."""
    tokenizer, asked = style(), []
    model = tiny_model("llama", vocab_size=len(tokenizer), eos_token_id=None)
    model.generation_config.eos_token_id = list(range(100, 104))
    questions = [[i + 3 for i in prompt] for prompt in prompts(12)]

    def is_complete(text: str) -> bool:
        asked.append(text)
        return sum(map(ord, text)) % 90 == 0

    found = complete(model, questions, tokenizer, max_new_tokens=70, is_complete=is_complete)
    texts = [[tokenizer.decode(list(c.ids[max(0, n - 47) : n + 1])) for n in range(len(c.ids))] for c in found]
    assert Counter(asked) == Counter(text for grown in texts for text in grown)
    by_text = [bool(grown) and sum(map(ord, grown[-1])) % 90 == 0 for grown in texts]
    ends = {(c.finished, stopped) for c, stopped in zip(found, by_text, strict=True)}
    assert ends == {(True, True), (True, False), (False, False)}


def test_a_stop_string_at_the_very_last_token_counts_as_an_end() -> None:
    lesson = LESSONS[0]
    n = len(encode(lesson.steps[0]))
    prompt = encode(str(lesson.problem.prompt))
    [ended] = complete(memorised(), [prompt], max_new_tokens=n, stop=[";"])
    [cut] = complete(memorised(), [prompt], max_new_tokens=n - 1, stop=[";"])
    assert (len(ended.ids), ended.finished) == (n, True)
    assert (len(cut.ids), cut.finished) == (n - 1, False)


def test_max_new_tokens_bounds_a_completion_and_says_so() -> None:
    full = LESSONS[0].completion(4)
    length = len(encode(full))
    prompt = encode(str(LESSONS[0].problem.prompt))
    for room in (1, 5, length, length + 1):
        [completion] = complete(memorised(), [prompt], max_new_tokens=room)
        assert TOKENIZER.decode(list(completion.ids)) == " ".join(full.split()[:room])
        assert completion.finished == (room > length), "EOS itself needs room"


def test_every_end_that_the_model_declares_ends_a_completion() -> None:
    """Chat models declare several: the tokenizer's EOS and the end of a turn."""
    model = memorised()
    model.generation_config.eos_token_id = [EOS, SEMICOLON]
    found = complete(model, lesson_prompts(), max_new_tokens=40)
    assert_same(found, [greedy(model, prompt, 40, (EOS, SEMICOLON)) for prompt in lesson_prompts()])
    assert all(SEMICOLON not in c.ids for c in found)


def test_padding_that_the_model_itself_writes_is_no_end() -> None:
    """Models whose EOS was masked as padding do this: they go on for ever, which must not read as finished."""
    model, pad = memorised(), int(TOKENIZER.pad_token_id)
    model.lm_head.register_forward_hook(lambda _m, _a, logits: logits.index_fill(-1, torch.tensor([pad]), 100.0))
    [completion] = complete(model, lesson_prompts()[:1])
    assert not completion.finished


def test_a_prompt_without_room_gets_an_empty_unfinished_completion() -> None:
    long = [[5] * CONTEXT, [5] * (CONTEXT + 7)]
    short = lesson_prompts()[1]
    found = complete(memorised(), [long[0], short, long[1]], max_new_tokens=40)
    assert found[0] == found[2] == Completion((), finished=False)
    assert found[1] == complete(memorised(), [short], max_new_tokens=40)[0]


def test_near_the_end_of_the_context_the_room_is_what_is_left() -> None:
    prompt = [5] * (CONTEXT - 6)
    model = memorised()
    model.generation_config.eos_token_id = None
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    [completion] = complete(model, [prompt], tokenizer, max_new_tokens=40)
    assert len(completion.ids) == 6
    assert not completion.finished


def test_a_long_prompt_in_the_batch_takes_no_room_from_a_short_one() -> None:
    """What is written for one problem must not depend on which other problems share its batch."""
    short, long = lesson_prompts()[0], [5] * (CONTEXT - 3)
    alone = complete(memorised(), [short], max_new_tokens=40)
    together = complete(memorised(), [short, long], max_new_tokens=40)
    assert together[:1] == alone


def test_no_prompts_no_completions() -> None:
    assert complete(tiny_model("llama"), []) == []


USERS = {
    "sampling": {"do_sample": True, "temperature": 0.3, "top_p": 0.5, "top_k": 3},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "short": {"max_length": 4},
    "penalty": {"repetition_penalty": 3.0},  # Qwen2.5's instruct models ship one
    "no repeats": {"no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": encode("7 ; b = 3 4 5 6 #")},
    "least": {"min_new_tokens": 6},
    "scores": {"return_dict_in_generate": True, "output_scores": True},
    "stop strings": {"stop_strings": [";"]},
}


@pytest.mark.parametrize("name", USERS)
def test_what_the_user_set_for_generation_does_not_leak_in(name: str) -> None:
    """Greedy is greedy, and an entropy is the model's own, whatever generation configuration the model came with."""
    model = tiny_model("llama")
    truth = [greedy(model, prompt, 8) for prompt in prompts()]
    for key, value in USERS[name].items():
        setattr(model.generation_config, key, value)
    before = model.generation_config.to_dict()
    assert_same(complete(model, prompts()), truth)
    assert model.generation_config.to_dict() == before


def test_model_tokenizer_and_random_state_are_left_as_they_were() -> None:
    model, tokenizer = memorised(), build_tokenizer()
    tokenizer.padding_side = "right"
    model.model.layers[1].eval()
    model.generation_config.do_sample = True
    flags = [module.training for module in model.modules()]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    wanted = [p.requires_grad for p in model.parameters()]
    random_states = torch.get_rng_state(), random.getstate()
    settings = repr(tokenizer), model.config.to_dict(), model.generation_config.to_dict()
    complete(model, lesson_prompts(), tokenizer, max_new_tokens=30)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert (repr(tokenizer), model.config.to_dict(), model.generation_config.to_dict()) == settings


def test_the_progress_bar_says_what_is_going_on(capsys: pytest.CaptureFixture[str]) -> None:
    Generator(tiny_model("llama"), TOKENIZER, max_new_tokens=2).complete(prompts(2), label="altered traces")
    assert "altered traces" in capsys.readouterr().err
    complete(tiny_model("llama"), prompts(2), max_new_tokens=2)
    assert capsys.readouterr().err == ""


def test_entropies_are_nats_between_zero_and_the_log_of_the_vocabulary() -> None:
    for completion in complete(tiny_model("llama"), prompts()):
        assert len(completion.entropies) == len(completion.ids)
        assert all(0 <= h <= math.log(64) + 1e-5 for h in completion.entropies)


def test_a_base_model_is_stopped_behind_its_answer() -> None:
    """One that has not learnt EOS goes on to the next question, whose steps and answer are not this trace's."""
    gsm8k, plain, think = PRESETS["gsm8k"], PRESETS["plain"], PRESETS["think"]
    assert gsm8k.is_complete("so 2 + 2 = 4\n#### 4\n")
    assert not gsm8k.is_complete("so 2 + 2 = 4\n#### 4")
    assert not gsm8k.is_complete("so 2 + 2\n= 4\n")
    assert plain.is_complete("The answer is 9.\n\n")
    assert not plain.is_complete("The answer is 9.\nThat is")
    assert not think.is_complete("<think>The answer is 9.\n\n")
    tokenizer = llama3_style()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    asked, wanted = tokenizer("Q: 2 + 2\n")["input_ids"], "2 + 2 = 4\n#### 4\nQ: 3 + 3\n3 + 3 = 6\n#### 6\n"
    teach(model, [*asked, *tokenizer(wanted, add_special_tokens=False)["input_ids"]])
    [free] = complete(model, [asked], tokenizer, max_new_tokens=40)
    assert "#### 6" in tokenizer.decode(free.ids)
    [stopped] = complete(model, [asked], tokenizer, max_new_tokens=40, is_complete=gsm8k.is_complete)
    assert tokenizer.decode(stopped.ids) == "2 + 2 = 4\n#### 4\n"
    assert stopped.finished


def teach(model: Any, ids: list[int]) -> None:
    """Learn one text by heart."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = torch.tensor([ids])
    for _ in range(150):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
