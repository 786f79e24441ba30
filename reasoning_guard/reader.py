"""From token ids to a :class:`~reasoning_guard.traces.Trace`, and from an answer to the ids that ask for it.

This is the only module that knows both a tokenizer and a :class:`~reasoning_guard.formats.TraceFormat`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import Layout, TraceFormat, get_format
from reasoning_guard.options import answer_names, asked_options, same_answer
from reasoning_guard.problems import Problem
from reasoning_guard.statements import find_statement
from reasoning_guard.tokens import Ids, TokenText, common_prefix, decode, encode, encode_after, token_ends
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch

_WORD_BEGUN = re.compile(r"[\w.,]*\Z")
_CONTEXT = 200
"""Characters before an altered piece that are tokenised with it; no token is nearly as long."""


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids that ask for an answer when they are appended to a cut trace.

    Attributes:
        ids: Cue, answer and terminator.
        scored: Half-open slice of ``ids``: the answer with its terminator, from the first token that reaches beyond
            the cue.
        answer: The same slice without the terminator.
    """

    ids: Ids
    scored: tuple[int, int]
    answer: tuple[int, int]

    def branch(self, at: int, before: Ids = (), *, terminated: bool = True) -> Branch:
        """Return the branch that asks this after some tokens of a trunk.

        Args:
            at: Number of these tokens.
            before: Ids to read between them and the cue.
            terminated: Whether the terminator is scored with the answer.

        Example:
            >>> Question((5, 6, 7), scored=(1, 3), answer=(1, 2)).branch(4, before=(8, 9))
            Branch(at=4, ids=(8, 9, 5, 6, 7), scored=(3, 5), hide=(0, 0), against=None)
        """
        start, stop = self.scored if terminated else self.answer
        return Branch(at, before + self.ids, (len(before) + start, len(before) + stop))


class TraceReader:
    """Reads completions and asks for answers, for one tokenizer and one format.

    Args:
        tokenizer: The model's tokenizer, fast or slow; it is not changed.
        format: Name of a preset, or a :class:`~reasoning_guard.formats.TraceFormat`.

    Attributes:
        template: What the tokenizer's ``apply_chat_template`` gets in addition to the messages. A host whose training
            does not render them in the default way sets it.

    Raises:
        ConfigurationError: The format ends answers with EOS and the tokenizer has none, or the cue or the filler
            tokenises to nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, format: str | TraceFormat = "plain") -> None:
        self.tokenizer = tokenizer
        self.format = get_format(format)
        self.template: Mapping[str, Any] = {}
        self._text = lru_cache(maxsize=256)(lambda ids: TokenText.of(tokenizer, ids))
        self._ask = lru_cache(maxsize=4096)(self._tokenise_question)
        if self.format.terminator is None and tokenizer.eos_token_id is None:
            raise ConfigurationError(
                f"format {self.format.name!r} ends an answer with EOS, but the tokenizer has no eos_token; set one, or "
                "use a TraceFormat with a `terminator`"
            )
        for name, text in (("cue", self.format.cue), ("filler", self.format.filler)):
            if not self._after_anchor(text):
                raise ConfigurationError(f"the format's {name} {text!r} tokenises to nothing with this tokenizer")

    def prompt_ids(self, problem: Problem) -> Ids:
        """Return the prompt's token ids as generation starts from them: with special tokens, without a final EOS.

        Raises:
            ConfigurationError: The prompt is chat messages, but the tokenizer has no chat template.
        """
        if not isinstance(problem.prompt, str):
            ids = self.tokenizer.apply_chat_template(
                self._messages(problem), add_generation_prompt=True, tokenize=True, return_dict=False, **self.template
            )
            return tuple(cast("list[int]", ids))
        ids = self._encode(problem.prompt, add_special_tokens=True)
        if ids and ids[-1] == self.tokenizer.eos_token_id and self._encode(problem.prompt)[-1:] != ids[-1:]:
            return ids[:-1]
        return ids

    def prompt_text(self, problem: Problem) -> str:
        """Return the prompt as text; chat messages as the chat template writes them."""
        if isinstance(problem.prompt, str):
            return problem.prompt
        text = self.tokenizer.apply_chat_template(
            self._messages(problem), add_generation_prompt=True, tokenize=False, **self.template
        )
        return cast("str", text)

    def read(
        self,
        problem: Problem,
        completion_ids: Sequence[int],
        *,
        prompt_ids: Sequence[int] | None = None,
        finished: bool = True,
        entropies: Sequence[float] = (),
    ) -> Trace:
        """Split one completion into steps and answer, on its own tokens.

        Args:
            problem: What was answered.
            completion_ids: Ids as generated. Everything from the first EOS on is dropped, and so is padding at the end.
            prompt_ids: Ids that the completion followed, without padding; by default :meth:`prompt_ids`.
            finished: False if the length limit cut the completion off.
            entropies: Next-token entropy at each completion token, in nats, if it was recorded.

        Returns:
            The trace. Odd completions are data, so they get a note and never an error.
        """
        prompt = self.prompt_ids(problem) if prompt_ids is None else tuple(map(int, prompt_ids))
        ids = self._strip(completion_ids)
        tokens = TokenText.of(self.tokenizer, ids)
        text = tokens.text
        layout = self.format.parse(text)
        cuts = _cuts(tokens, layout)
        answer = None if layout.answer is None else text[slice(*layout.answer)]
        statement, statement_end, known = self._statement(problem, tokens, layout)
        return Trace(
            problem=problem,
            prompt_ids=prompt,
            completion_ids=ids,
            text=text,
            steps=tuple(text[tokens.length(a) : tokens.length(b)] for a, b in pairwise(cuts)),
            cuts=tuple(len(prompt) + cut for cut in cuts),
            answer=answer,
            correct=self._correct(problem, answer),
            finished=finished,
            statement=None if statement is None else len(prompt) + statement,
            statement_end=None if statement_end is None else len(prompt) + statement_end,
            statement_known=known,
            entropies=tuple(entropies[: len(ids)]),
            notes=_notes(text, layout, finished),
        )

    def read_text(self, problem: Problem, text: str) -> Trace:
        """Read a saved completion: prompt and text are tokenised together, and split where the prompt's ids end.

        A token that crosses from prompt to completion belongs to the completion.
        """
        prompt = self.prompt_ids(problem)
        joint = self._encode(self.prompt_text(problem) + text, add_special_tokens=isinstance(problem.prompt, str))
        if joint and joint[-1] == self.tokenizer.eos_token_id:
            joint = joint[:-1]
        shared = common_prefix(prompt, joint)
        if decode(self.tokenizer, joint[shared:]).strip() != text.strip():
            return self.read(problem, self._encode(text))
        return self.read(problem, joint[shared:], prompt_ids=joint[:shared])

    def ask(self, answer: str) -> Question:
        """Return the ids to append to a cut trace in order to score ``answer``; cached."""
        return self._ask(answer)

    def filler_ids(self, n: int) -> Ids:
        """Return exactly ``n`` token ids of the format's filler, repeated."""
        ids = self._after_anchor(self.format.filler * max(n, 1))
        return (ids * (n // len(ids) + 1))[:n]

    def options(self, problem: Problem) -> tuple[str, ...]:
        """Return the options of ``problem`` as this format asks for them: texts, or letters for "choice"."""
        return asked_options(problem.options, self.format)

    def encode_after(self, before: str, text: str) -> Ids:
        """Return the token ids of ``text`` as it would be tokenised behind ``before``."""
        for context in (before, self._anchor):
            ids = encode_after(self.tokenizer, context, text) if context else None
            if ids is not None:
                return ids
        return self._encode(text)

    def alter(self, trace: Trace, k: int, start: int, stop: int, text: str) -> Ids | None:
        """Return the token ids of step ``k`` with its characters ``start`` to ``stop`` replaced by ``text``.

        Returns:
            The ids that replace ``ids[cuts[k]:cuts[k + 1]]``; None in the cases that :meth:`reword` names.
        """
        return self.reword(trace, trace.cuts[k], trace.cuts[k + 1], lambda step: step[:start] + text + step[stop:])

    def reword(self, trace: Trace, first: int, stop: int, change: Callable[[str], str]) -> Ids | None:
        """Return token ids that say something else in place of a stretch of the completion.

        Tokens wholly before the first word that differs stay as they are. The rest is tokenised again in its place.

        Args:
            trace: The trace; it is left as it is.
            first: Token position at which the stretch begins.
            stop: Token position right behind it; both must be places between characters, as cuts are.
            change: A function from the stretch's text to the new text.

        Returns:
            The ids that replace ``ids[first:stop]``. None if the text does not change, or if the new text does not
            survive this tokenizer (a word that it lacks).
        """
        tokens, prompt = self._text(trace.completion_ids), len(trace.prompt_ids)
        begin = tokens.length(first - prompt)
        old = tokens.text[begin : tokens.length(stop - prompt)]
        new = change(old)
        if new == old:
            return None
        alike = _WORD_BEGUN.sub("", old[: common_prefix(old, new)])
        kept = tokens.before(begin + len(alike))
        head, place = trace.completion_ids[:kept], tokens.length(kept)
        context = (self.prompt_text(trace.problem) + tokens.text[:place])[-_CONTEXT:]
        rest = new[place - begin :]
        ids = self.encode_after(context, rest) if rest else ()
        if decode(self.tokenizer, head + ids) != tokens.text[:place] + rest:
            return None
        return head[first - prompt :] + ids

    def span(self, trace: Trace, k: int, start: int, stop: int) -> tuple[int, int]:
        """Return the token positions of characters ``start`` to ``stop`` of step ``k``, with the space before."""
        tokens, prompt = self._text(trace.completion_ids), len(trace.prompt_ids)
        begin = tokens.length(trace.cuts[k] - prompt)
        bare = len(trace.steps[k][:start].rstrip(" "))  # some tokenizers give that space a token of its own
        return prompt + tokens.before(begin + bare), prompt + tokens.behind(begin + stop)

    def check(self, problems: Iterable[Problem]) -> None:
        """Refuse problems that this tokenizer and format can't ask about, before any model runs.

        Raises:
            ConfigurationError: A prompt or a reference answer tokenises to nothing or only to unknown tokens, or the
                format could not read an answer back from a completion. The message names the problem.
        """
        for problem in problems:
            where = f"problem {problem.id!r}"
            if not self.prompt_ids(problem):
                raise ConfigurationError(f"{where}: the prompt tokenises to nothing")
            if problem.answer is not None:
                self._check_answer(where, problem)

    def _check_answer(self, where: str, problem: Problem) -> None:
        answer = problem.answer or ""
        ids = self._after_anchor(self.format.answer_prefix + answer)
        if all(token == self.tokenizer.unk_token_id for token in ids):
            raise ConfigurationError(f"{where}: the tokenizer knows no token of the reference answer {answer!r}")
        read = self.format.answer_in(self.format.asked(answer))
        if read is None or not self._correct(problem, read):
            raise ConfigurationError(
                f"{where}: format {self.format.name!r} asks {self.format.asked(answer)!r} for the reference answer "
                f"{answer!r}, but would read the answer {read!r} from it; give the answer as the format states it (a "
                "letter for 'choice'), or choose another format"
            )

    def _correct(self, problem: Problem, answer: str | None) -> bool:
        if answer is None or problem.answer is None:
            return False
        return same_answer(answer, problem.answer, problem.options, self.format)

    def _statement(
        self, problem: Problem, tokens: TokenText, layout: Layout
    ) -> tuple[int, int, bool] | tuple[None, None, bool]:
        """Completion tokens before and up to the end of the first statement of the reference answer."""
        if problem.answer is None or not layout.ends:
            return None, None, True
        reasoning, prompt = tokens.text[layout.start : layout.ends[-1]], self.prompt_text(problem)
        names = answer_names(problem.answer, problem.options, self.format)
        found = [find_statement(reasoning, name, prompt, mathematical=self.format.mathematical) for name in names]
        spans = [span for span, _ in found if span is not None]
        if not spans or not all(known for _, known in found):
            return None, None, all(known for _, known in found)
        start, end = min(spans)
        # A space before the answer belongs to it: some tokenizers give that space a token of its own.
        start = len(reasoning[:start].rstrip(" "))
        return tokens.before(layout.start + start), tokens.behind(layout.start + end), True

    def _strip(self, completion_ids: Sequence[int]) -> Ids:
        ids = list(map(int, completion_ids))
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        if eos in ids:
            ids = ids[: ids.index(eos)]
        while ids and ids[-1] == pad:
            ids.pop()
        return tuple(ids)

    def __reduce__(self) -> tuple[type[TraceReader], tuple[PreTrainedTokenizerBase, TraceFormat], dict[str, Any]]:
        """Its cache does not pickle; frameworks that spawn processes send the guard to them."""
        return TraceReader, (self.tokenizer, self.format), {"template": self.template}

    def _tokenise_question(self, answer: str) -> Question:
        text = self.format.asked(answer)
        ids = self._after_anchor(text)
        start = self._first_beyond(self.format.cue, text, ids)
        stop = len(ids)
        if self.format.terminator is None:
            ids = (*ids, cast("int", self.tokenizer.eos_token_id))
        else:
            stop = max(start + 1, self._first_beyond(text[: -len(self.format.terminator)], text, ids))
        return Question(ids, (start, len(ids)), (start, stop))

    @property
    def _anchor(self) -> str:
        """What stands before a cue: the end of a sentence where the cue goes on in the line, else a newline."""
        return "." if self.format.cue.startswith(" ") else "\n"

    def _after_anchor(self, text: str) -> Ids:
        return self.encode_after(self._anchor, text)

    def _first_beyond(self, head: str, text: str, ids: Ids) -> int:
        """Index of the first of ``ids``, the tokens of ``text``, that holds a character behind ``head``."""
        anchor = self._encode(self._anchor)
        decoded, ends = token_ends(self.tokenizer, anchor + ids)
        if decoded != self._anchor + text:  # the tokenizer normalises: compare tokens instead of characters
            return min(common_prefix(self._after_anchor(head), ids), len(ids) - 1)
        behind = len(self._anchor + head)
        return next(i for i, end in enumerate(ends[len(anchor) :]) if end is None or end > behind)

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> Ids:
        return encode(self.tokenizer, text, add_special_tokens=add_special_tokens)

    def _messages(self, problem: Problem) -> list[dict[str, str]]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigurationError(
                f"problem {problem.id!r} is chat messages, but the tokenizer has no chat_template; set one, or give "
                "prompts as text"
            )
        return [dict(message) for message in problem.prompt if not isinstance(message, str)]


def _cuts(tokens: TokenText, layout: Layout) -> tuple[int, ...]:
    """Token counts at the start and at each step's end; a step without a token of its own joins the next one."""
    cuts = [tokens.behind(layout.start)]
    for end in layout.ends:
        if tokens.cut(end) > cuts[-1]:
            cuts.append(tokens.cut(end))
    return tuple(cuts)


def _notes(text: str, layout: Layout, finished: bool) -> tuple[str, ...]:
    empty = () if text.strip() else ("empty completion",)
    return (*empty, *layout.notes, *(() if finished else ("cut off",)))
