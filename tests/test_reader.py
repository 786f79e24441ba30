from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import PRESETS, TraceFormat
from reasoning_guard.problems import Problem, load_problems
from reasoning_guard.reader import TraceReader
from reasoning_guard.seams import seam_report
from reasoning_guard.traces import Trace
from tokenizers_on_the_spot import (
    SUBWORD,
    gpt2_style,
    greedy_style,
    llama2_style,
    llama3_style,
    qwen2_style,
    unigram_style,
    word_level,
)


@cache
def byt5_style() -> ByT5Tokenizer:
    """A slow tokenizer without files: a token a byte."""
    return ByT5Tokenizer()


FAMILIES = {**SUBWORD, "greedy": greedy_style, "slow": byt5_style}
HASHES = TraceFormat(name="hashes", cue="#", step_end=r";", answer=r"# (\S+)")
CHAIN = Problem(prompt="7 : a = 3 ; b = a + 4 ; c = b * 2 ; ?", answer="3")


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return FAMILIES[request.param]()


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def worked_example(name: str, rng: random.Random) -> tuple[Problem, str, list[str], str]:
    """A problem, a completion in the format's wording, its steps as they should be cut, its answer."""
    value, sentences = rng.randint(2, 30), []
    prompt = f"Ann has {value} eggs. How many are there after all that? Pick one: (A) less (B) more\n"
    for _ in range(rng.randint(1, 6)):
        other, thing = rng.randint(2, 30), rng.choice(["eggs", "é 😀 eggs", "at $3.50, e.g. today", "漢字"])
        sentences.append(rng.choice(["So ", "Then ", ""]) + f"{value} + {other} = {value + other} {thing}.")
        value += other
    answer = "B" if name == "choice" else str(value)
    if name in ("plain", "choice"):
        steps = [sentences[0], *(f" {sentence}" for sentence in sentences[1:])]
    else:
        steps = [sentence + rng.choice(["\n", "\n\n"]) for sentence in sentences]
    head = "<think>" if name == "think" else ""
    return Problem(prompt=prompt, answer=answer), head + "".join(steps) + PRESETS[name].asked(answer), steps, answer


@pytest.mark.parametrize("name", PRESETS)
def test_cuts_reproduce_the_steps(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    reader, rng = TraceReader(tokenizer, name), random.Random(0)
    for _ in range(20):
        problem, text, steps, answer = worked_example(name, rng)
        ids = encode(tokenizer, text)
        trace = reader.read(problem, [*ids, tokenizer.eos_token_id, tokenizer.eos_token_id])
        start = len(trace.prompt_ids)
        assert (trace.answer, trace.correct, trace.completion_ids, trace.notes) == (answer, True, ids, ())
        assert trace.steps == tuple(steps)
        prefixes = [decode(tokenizer, trace.completion_ids[: cut - start]) for cut in trace.cuts]
        head = "<think>" if name == "think" else ""
        assert prefixes == [head + "".join(steps[:k]) for k in range(len(steps) + 1)]
        assert list(trace.cuts) == sorted(set(trace.cuts))


@pytest.mark.parametrize("name", PRESETS)
def test_saved_text_reads_as_the_ids_do(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    reader = TraceReader(tokenizer, name)
    problem, text, steps, _ = worked_example(name, random.Random(1))
    trace = reader.read_text(problem, text)
    assert trace.text == text
    assert trace.steps == tuple(steps)
    assert trace.correct


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("answer", ["18", "B", "-3.5", "1,234"])
def test_questions_score_the_answer_and_its_end(tokenizer: PreTrainedTokenizerBase, name: str, answer: str) -> None:
    reader, format = TraceReader(tokenizer, name), PRESETS[name]
    question = reader.ask(answer)
    start, stop = question.scored
    assert stop == len(question.ids)
    ids = question.ids
    if format.terminator is None:
        assert ids[-1] == tokenizer.eos_token_id
        ids = ids[:-1]
    anchor = encode(tokenizer, "So")
    written = decode(tokenizer, anchor + ids)
    assert written == "So" + format.asked(answer)
    before = decode(tokenizer, anchor + ids[:start])
    assert ("So" + format.cue).startswith(before)
    assert len(decode(tokenizer, anchor + ids[: start + 1])) > len("So" + format.cue) or start + 1 < len(ids)
    assert reader.ask(answer) is question


def test_a_token_over_the_end_of_the_cue_is_scored() -> None:
    reader = TraceReader(greedy_style(), "boxed")
    question = reader.ask("14")
    pieces = greedy_style().convert_ids_to_tokens(list(question.ids))
    assert any("{1" in piece for piece in pieces)
    assert "{1" in pieces[question.scored[0]]


def test_one_is_no_prefix_of_eighteen(tokenizer: PreTrainedTokenizerBase) -> None:
    for name in PRESETS:
        short, long = (TraceReader(tokenizer, name).ask(answer).ids for answer in ("1", "18"))
        assert long[: len(short)] != short


def test_filler_is_exactly_as_long_as_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    reader = TraceReader(tokenizer, "plain")
    for n in (0, 1, 7, 300):
        ids = reader.filler_ids(n)
        assert len(ids) == n
        assert set(decode(tokenizer, ids)) <= {" ", "."}
    assert decode(tokenizer, encode(tokenizer, "So") + reader.filler_ids(12)).startswith("So ...")


@pytest.mark.parametrize("build", [llama3_style, qwen2_style, gpt2_style, llama2_style, unigram_style])
def test_the_statement_stands_right_before_the_answer(build) -> None:
    tokenizer = build()
    reader = TraceReader(tokenizer, "gsm8k")
    problem = Problem(prompt="Ann has 16 eggs and eats three. She sells the rest at 2.\n", answer="26")
    text = "16 - 3 = 13 eggs.\n13 * 2 = $26.\nSo 26.\n#### 26"
    trace = reader.read(problem, encode(tokenizer, text))
    assert trace.statement is not None
    before = decode(tokenizer, trace.completion_ids[: trace.statement - len(trace.prompt_ids)])
    assert text.startswith(before)
    assert before.rstrip(" $") == "16 - 3 = 13 eggs.\n13 * 2 ="
    assert trace.statement_end is not None
    stated = decode(tokenizer, trace.ids[trace.statement : trace.statement_end])
    assert stated.strip(" $") == "26"
    assert trace.cuts[1] < trace.statement < trace.statement_end < trace.cuts[2]


def test_words_as_tokens() -> None:
    tokenizer = word_level()
    reader = TraceReader(tokenizer, HASHES)
    trace = reader.read(CHAIN, encode(tokenizer, "b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; # 3"))
    assert trace.steps == ("b = 3 + 4 = 7 ;", " c = 7 * 2 = 3 ;")
    assert [cut - len(trace.prompt_ids) for cut in trace.cuts] == [0, 8, 16]
    assert trace.statement == len(trace.prompt_ids) + 14
    assert trace.correct
    question = reader.ask("3")
    assert tokenizer.convert_ids_to_tokens(list(question.ids)) == ["#", "3", "</s>"]
    assert question.scored == (1, 3)


def test_entropies_are_passed_on_for_the_tokens_that_are_kept() -> None:
    tokenizer = gpt2_style()
    ids = encode(tokenizer, "7\n#### 3")
    trace = TraceReader(tokenizer, "gsm8k").read(CHAIN, [*ids, tokenizer.eos_token_id], entropies=[0.5] * 50)
    assert trace.entropies == (0.5,) * len(ids)


@pytest.mark.parametrize("name", PRESETS)
def test_an_altered_step_keeps_the_tokens_before_the_change(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    reader, rng = TraceReader(tokenizer, name), random.Random(3)
    for _ in range(10):
        problem, text, steps, _ = worked_example(name, rng)
        trace = reader.read(problem, encode(tokenizer, text))
        for k, step in enumerate(steps):
            place = step.index("=") + 2
            end = step.index(" ", place)
            piece = reader.alter(trace, k, place, end, "97")
            assert piece is not None
            altered = decode(tokenizer, trace.ids[len(trace.prompt_ids) : trace.cuts[k]] + piece)
            head = "<think>" if name == "think" else ""
            assert altered == head + "".join(steps[:k]) + step[:place] + "97" + step[end:]
            own = trace.ids[trace.cuts[k] : trace.cuts[k + 1]]
            same = next(i for i, (a, b) in enumerate(zip(piece, own, strict=False)) if a != b)
            assert len(decode(tokenizer, own[:same]).lstrip()) >= len(step[:place].strip()) - 2
            assert reader.alter(trace, k, place, end, step[place:end]) is None


def test_a_step_is_not_altered_to_what_the_tokenizer_lacks() -> None:
    tokenizer = word_level()
    reader = TraceReader(tokenizer, HASHES)
    trace = reader.read(CHAIN, encode(tokenizer, "b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; # 3"))
    place = trace.steps[1].rindex("3")
    altered = reader.alter(trace, 1, place, place + 1, "9")
    assert altered is not None
    assert tokenizer.convert_ids_to_tokens(list(altered)) == ["c", "=", "7", "*", "2", "=", "9", ";"]
    assert reader.alter(trace, 1, place, place + 1, "eggs") is None


def test_text_is_tokenised_as_behind_its_context(tokenizer: PreTrainedTokenizerBase) -> None:
    reader = TraceReader(tokenizer, "plain")
    for before, text in [("She has", " 3 eggs."), ("She has 3 eggs.\n", "Then 7."), ("", " 3 eggs")]:
        ids = reader.encode_after(before, text)
        assert decode(tokenizer, encode(tokenizer, before or ".") + ids) == (before or ".") + text


def test_options_as_the_format_asks_for_them() -> None:
    problem = Problem(prompt="?", answer="B", options=("Rome", "Oslo"))
    assert TraceReader(gpt2_style(), "choice").options(problem) == ("A", "B")
    assert TraceReader(gpt2_style(), "plain").options(problem) == ("Rome", "Oslo")


ODD = [
    ("gsm8k", "", (), None, ("empty completion", "no answer", "no reasoning")),
    ("gsm8k", " \n", (), None, ("empty completion", "no answer", "no reasoning")),
    ("gsm8k", "3 + 4 = 7\n", ("3 + 4 = 7\n",), None, ("no answer",)),
    ("gsm8k", "#### 3", (), "3", ("no reasoning",)),
    ("gsm8k", "7\n#### 4\n8\n#### 3", ("7\n", "#### 4\n", "8\n"), "3", ("answer stated more than once",)),
    ("think", "<think>3 + 4", ("3 + 4",), None, ("unclosed reasoning", "no answer")),
    ("think", "3 + 4 = 7\n</think>\n3", ("3 + 4 = 7\n",), "3", ()),
    ("plain", "👩‍👩‍👧. 漢字! The answer is 3.", ("👩‍👩‍👧.", " 漢字!"), "3", ()),
]


@pytest.mark.parametrize(("name", "text", "steps", "answer", "notes"), ODD)
def test_odd_completions_are_data(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    text: str,
    steps: tuple[str, ...],
    answer: str | None,
    notes: tuple[str, ...],
) -> None:
    trace = TraceReader(tokenizer, name).read(CHAIN, encode(tokenizer, text))
    assert (trace.steps, trace.answer, trace.notes) == (steps, answer, notes)
    assert trace.correct == (answer == "3")
    assert trace.n_steps + 1 == len(trace.cuts)


def test_any_ids_can_be_read(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(0)
    for name in PRESETS:
        reader = TraceReader(tokenizer, name)
        for _ in range(5):
            trace = reader.read(CHAIN, [rng.randrange(len(tokenizer)) for _ in range(80)], finished=False)
            assert trace.notes[-1] == "cut off"
            assert trace.cuts[0] >= len(trace.prompt_ids)
            assert trace.cuts[-1] <= len(trace.ids)
            assert list(trace.cuts) == sorted(set(trace.cuts))
            assert trace.n_steps == len(trace.cuts) - 1


def test_a_character_that_was_cut_off_is_in_no_step() -> None:
    tokenizer = gpt2_style()
    ids = encode(tokenizer, "3 + 4\n🤖")
    trace = TraceReader(tokenizer, "gsm8k").read(CHAIN, ids[:-1], finished=False)
    assert trace.steps == ("3 + 4\n",)
    assert trace.completion_ids == ids[:-1]


def test_padding_and_what_follows_eos_are_dropped() -> None:
    tokenizer = qwen2_style()
    reader, ids = TraceReader(tokenizer, "gsm8k"), encode(tokenizer, "7\n#### 3")
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    for tail in ([], [eos], [eos, pad, pad], [pad, pad], [eos, *ids]):
        assert reader.read(CHAIN, [*ids, *tail]).completion_ids == ids
    assert reader.read(CHAIN, [eos]).completion_ids == ()


def test_prompts_are_tokenised_as_for_generation() -> None:
    llama, problem = llama3_style(), Problem(prompt="2 + 2 = ?", answer="4")
    ids = TraceReader(llama).prompt_ids(problem)
    assert ids == (llama.bos_token_id, *encode(llama, "2 + 2 = ?"))
    slow = byt5_style()
    assert slow("2")["input_ids"][-1] == slow.eos_token_id
    assert TraceReader(slow).prompt_ids(problem) == encode(slow, "2 + 2 = ?")


def test_chat_prompts_use_the_template() -> None:
    tokenizer = qwen2_style()
    reader = TraceReader(tokenizer, "think")
    problem = Problem(prompt=({"role": "user", "content": "2 + 2 = ?"},), answer="4")
    assert reader.prompt_text(problem) == "<|user|>\n2 + 2 = ?\n<|assistant|>\n"
    assert reader.prompt_ids(problem) == encode(tokenizer, reader.prompt_text(problem))
    assert reader.read_text(problem, "<think>\n2 + 2 = 4\n</think>\n\nThe answer is 4.").correct
    with pytest.raises(ConfigurationError, match="no chat_template"):
        TraceReader(gpt2_style(), "think").prompt_ids(problem)


def test_options_are_right_by_letter_or_by_text() -> None:
    tokenizer = gpt2_style()
    problem = Problem(prompt="Which? (A) Rome (B) Oslo\n", answer="Oslo", options=("Rome", "Oslo"))
    plain, choice = TraceReader(tokenizer, "plain"), TraceReader(tokenizer, "choice")
    assert plain.read(problem, encode(tokenizer, "Cold. The answer is Oslo.")).correct
    assert plain.read(problem, encode(tokenizer, "Cold. The answer is B.")).correct
    assert choice.read(problem, encode(tokenizer, "Cold. The answer is (B).")).correct
    assert not choice.read(problem, encode(tokenizer, "Warm. The answer is (A).")).correct


def test_a_reader_is_refused_what_cannot_work() -> None:
    words = word_level()
    with pytest.raises(ConfigurationError, match=r"'abc'.*'18'.*letter"):
        TraceReader(gpt2_style(), "choice").check([Problem(prompt="2?", answer="18", id="abc")])
    with pytest.raises(ConfigurationError, match="knows no token of the reference answer 'Oslo'"):
        TraceReader(words, HASHES).check([Problem(prompt="3 + 4", answer="Oslo")])
    with pytest.raises(ConfigurationError, match="prompt tokenises to nothing"):
        TraceReader(words, HASHES).check([Problem(prompt=" \n", answer="3")])
    with pytest.raises(ConfigurationError, match="tokenises to nothing"):
        TraceReader(words, TraceFormat(name="blank", cue="\n", answer="(.)"))
    TraceReader(words, HASHES).check([CHAIN, Problem(prompt="3 + 4")])


def test_eos_is_needed_where_it_ends_an_answer() -> None:
    import copy

    tokenizer = copy.deepcopy(gpt2_style())
    tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match="no eos_token"):
        TraceReader(tokenizer, "gsm8k")
    assert TraceReader(tokenizer, "plain").ask("3").scored[1] > 0


def test_a_reader_that_travels_renders_chats_as_it_did() -> None:
    tokenizer = pickle.loads(pickle.dumps(gpt2_style()))
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if not thinking | default(true) %} ;{% endif %}"
    problem, reader = Problem(prompt=({"role": "user", "content": "3"},)), TraceReader(tokenizer, "plain")
    reader.template = {"thinking": False}
    assert pickle.loads(pickle.dumps(reader)).prompt_text(problem) == reader.prompt_text(problem) == "3 ;"


def random_traces(name: str, n: int = 40) -> Iterator[str]:
    rng = random.Random(2)
    return (worked_example(name, rng)[1] for _ in range(n))


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_do_not_split_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    report = seam_report(TraceReader(tokenizer, name), random_traces(name))
    assert report.n > 100
    assert (report.trunk_broken, report.cue_merged) == (0.0, 0.0)


def test_a_newline_before_the_cue_does_and_is_reported() -> None:
    bad = TraceFormat(name="bad", cue="\nAnswer:", answer="Answer: (.+)", step_end=PRESETS["plain"].step_end)
    texts = ["She has 3 eggs. Then 7.\nAnswer: 7", "She has 3 eggs. Then 9.\nAnswer: 9"]
    report = seam_report(TraceReader(llama3_style(), bad), texts)
    assert report.cue_merged == 1.0
    assert "at 100%" in str(report)
    assert seam_report(TraceReader(llama3_style(), bad), []).n == 0


def test_a_step_end_inside_a_token_is_reported() -> None:
    inside = TraceFormat(name="inside", cue="#", answer="# (.+)", step_end="eg")
    assert seam_report(TraceReader(gpt2_style(), inside), ["3 eggs # 3"]).trunk_broken > 0


def test_the_seam_behind_the_prompt_is_looked_at_for_traces() -> None:
    tokenizer = llama3_style()
    reader = TraceReader(tokenizer, "gsm8k")
    glued = Problem(prompt="How many eggs? #", answer="3")
    apart = Problem(prompt="How many eggs? #\n", answer="3")
    completion = encode(tokenizer, "3\n#### 3")
    assert seam_report(reader, [reader.read(glued, completion)]).cue_merged == 0.5
    assert seam_report(reader, [reader.read(apart, completion)]).cue_merged == 0.0


def gsm8k(n: int) -> list[dict[str, str]]:
    folder = Path(os.environ.get("REASONING_GUARD_GSM8K", Path(__file__).parents[2] / "shared" / "data" / "gsm8k"))
    path = folder / "test.jsonl"
    if not path.is_file():
        pytest.skip("no GSM8K here; set REASONING_GUARD_GSM8K to the folder that holds test.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:n]]


def test_gsm8k_solutions(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = gsm8k(60)
    reader = TraceReader(tokenizer, "gsm8k")
    problems = load_problems(rows, format="gsm8k")
    reader.check(problems)
    traces: list[Trace] = []
    for row, problem in zip(rows, problems, strict=True):
        trace = reader.read(problem, encode(tokenizer, row["answer"]))
        lines = row["answer"].split("\n")
        assert trace.answer == lines[-1].removeprefix("#### ")
        assert trace.steps == tuple(line + "\n" for line in lines[:-1])
        assert trace.correct
        traces.append(trace)
    assert sum(trace.statement is not None for trace in traces) >= 55
    assert all(trace.statement_known for trace in traces)
