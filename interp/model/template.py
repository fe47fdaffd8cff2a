"""Render conversations as text with a chat template, and find the places of prompt and response.

A template is a program that may do anything with a message. It is therefore run on the real prompt
and the real response, and its text is compared with what follows from a run on marks. A template
that drops, changes or moves text is named in the error; nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from interp.errors import ModelError
from interp.model.thoughts import closings_of, has_marks, opened_thought, without_closed_thoughts

# Unlikely in any template, and unchanged by all known normalisers.
_USER_MARK = "⟦spillover-user⟧"
_ASSISTANT_MARK = "⟦spillover-assistant⟧"
_SYSTEM_MARK = "⟦spillover-system⟧"
CLOCK = "strftime_now"  # the function by which templates read today's date

_DAYS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2012, 11, 30, 21, 54, 43))  # alike in nothing

_ANOTHER = "give another template with --chat-template"


@dataclass(frozen=True)
class ModelTurn:
    """The text of the model's turn after the generation prompt.

    Attributes:
        lead: what the conversation has before the response, such as a space or an empty thought.
        response: the response.
        end: what closes the turn, with the white space before it.
    """

    lead: str
    response: str
    end: str


class Template:
    """A chat template with its system message and its arguments.

    Args:
        tokenizer: holds the template, unless ``source`` is given.
        source: a Jinja template.
        system: a system message before the user's message.
        response_prefix: text that begins the response.
        arguments: variables of the template. ``strftime_now``, if given as text, stands for today's
            date wherever the template reads the clock.

    Attributes:
        before, after: the text around the prompt. ``before`` has a mark where the template shows
            the prompt once more.
        prefix: the text that begins the model's turn, which ends with the response prefix.
        end: what closes the model's turn, with the white space before it.
        thought: opening and closing mark of the thought that the generation prompt leaves open.

    Raises:
        ModelError: the template fails, or drops or changes the prompt or the system message.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str | None,
        system: str | None,
        response_prefix: str,
        arguments: Mapping[str, Any],
    ) -> None:
        self._tokenizer = tokenizer
        self._source = source
        self._system = system
        self._arguments = {name: value for name, value in arguments.items() if name != CLOCK}
        self._date = arguments.get(CLOCK)
        self._in_parts = False
        self._places: dict[str, tuple[str, str]] = {}
        self.before, self.after = self._around_prompt()
        self._require_system()
        self.end = ""
        self.thought: tuple[str, str] | None = None
        # Between generation prompt and response; None if there is no such place, and why not.
        self._lead: str | None = None
        self._why_no_place = ""
        self._continues = False  # a conversation begins with the generation prompt
        self._find_turn()
        self.prefix = response_prefix
        if response_prefix:
            self._place_prefix(response_prefix)

    @property
    def is_dated(self) -> bool:
        """Whether the rendered prompts hold today's date."""
        if self._date is not None or CLOCK not in self._text():
            return False
        return len({self._render(_USER_MARK, date=_written(day)) for day in _DAYS}) > 1

    def around(self, prompt: str) -> tuple[str, str]:
        """The text before and after ``prompt``, which has no white space around it.

        Raises:
            ModelError: the template changes this prompt.
        """
        if prompt not in self._places:
            self._places[prompt] = self._around(prompt)
        return self._places[prompt]

    def turn(self, prompt: str, response: str) -> ModelTurn:
        """The model's turn with a response given as text, as the whole conversation has it.

        White space around the response, and an end of the turn that it brings along, are left out.
        If the generation prompt opens a thought and the response does not end it, the thought is
        closed before the response.

        Raises:
            ModelError: the template leaves the place of the response open.
        """
        said = self._without_end(response)
        if self._lead is None:
            raise ModelError(
                f"{self._why_no_place}, so a response given as text has no place in the "
                f"conversation; {_ANOTHER}, or give the response as token ids"
            )
        whole, lead = self._render(prompt, said), self._lead
        if self.thought is not None and self.thought[1] in said:
            # The response itself ends the thought that the generation prompt opens.
            lead, said = "", said.removeprefix(self.thought[0]).lstrip()
        if self.prefix:
            return ModelTurn(lead or _space_between(self.prefix, said), said, self.end)
        opened = prompt.join(self.around(prompt))
        if not self._continues or not whole.startswith(opened):
            return ModelTurn(lead, said, self.end)
        if not whole.startswith(opened + lead + said):
            # The template rewrites this response, for example a thought in it.
            lead, said = "", whole[len(opened) :]
            said = said[: said.rfind(self.end)] if self.end and self.end in said else said.rstrip()
        return ModelTurn(lead, said, self.end)

    def _around_prompt(self) -> tuple[str, str]:
        refused = None
        # Templates of multimodal models may want a message's content as a list of parts.
        for self._in_parts in (False, True):
            try:
                rendered = self._render(_USER_MARK)
            except ModelError as error:
                refused = error if not self._in_parts else refused
                continue
            before, mark, after = rendered.rpartition(_USER_MARK)
            # A template that takes text prints a list of parts with its keys.
            if mark and not before.endswith(("'text': '", '"text": "')):
                return before, after
        raise refused or ModelError(
            f"the chat template drops or changes the user's message; {_ANOTHER}"
        )

    def _around(self, prompt: str) -> tuple[str, str]:
        usual = self.before.replace(_USER_MARK, prompt), self.after
        if not prompt:
            return usual
        rendered = self._render(prompt)
        if rendered == prompt.join(usual):
            return usual
        fresh = self._render(_USER_MARK)
        if rendered == fresh.replace(_USER_MARK, prompt):
            return usual  # the date has changed since loading; all prompts keep the first date
        if rendered.count(prompt) != self.before.count(_USER_MARK) + 1:
            raise ModelError(
                f"the chat template drops or changes the prompt {prompt[:60]!r}; {_ANOTHER}, or "
                "leave this prompt out"
            )
        before, _, after = rendered.rpartition(prompt)
        return before, after

    def _require_system(self) -> None:
        if not self._system:
            return
        wanted = f"{self._system.strip()} {_SYSTEM_MARK}"
        found = self._render(_USER_MARK, system=wanted)
        if " ".join(wanted.split()) not in " ".join(found.split()):
            what = "changes" if _SYSTEM_MARK in found else "drops"
            raise ModelError(
                f"the chat template {what} the system message ({self._system.strip()[:60]!r}); "
                "leave out --system and write the text into the prompts, or give a template with "
                "a system turn by --chat-template"
            )

    def _find_turn(self) -> None:
        """Find the place of a response, the end of the turn, and the thought left open."""
        opened = self.before + _USER_MARK + self.after
        try:
            rendered, why = self._render(_USER_MARK, _ASSISTANT_MARK), "drops or changes"
        except ModelError as error:
            rendered, why = "", f"refuses ({error.__cause__})"
        head, mark, tail = rendered.rpartition(_ASSISTANT_MARK)
        self.end = self._end_of(tail) if mark else self._tokenizer.eos_token or ""
        if not mark:
            self._why_no_place = f"the chat template {why} the model's message"
            return
        if head.startswith(opened):
            self._lead = head[len(opened) :]
        elif (rest := without_closed_thoughts(self.after)) != self.after.rstrip():
            # The generation prompt has an empty thought, which finished turns may lack.
            is_same = head.rstrip() == opened.removesuffix(self.after) + rest
            self._lead = "" if is_same else None
        self._continues = self._lead is not None
        thought = opened_thought(self.after)
        if thought is None and self._lead is None:
            # The generation prompt opens something that a finished turn does not have.
            begun = head.rstrip()
            thought = opened.removeprefix(begun).strip() if opened.startswith(begun) else None
        closing = self._closing_of(thought) if thought else None
        if thought and closing:
            self.thought = thought, closing
            so_far = self.after + (self._lead or "")
            if self._lead is None or opened_thought(so_far) or closing not in so_far:
                self._lead = (self._lead or "") + _closed(so_far, closing)
                self._continues = False
        elif self._lead is None or opened_thought(self.after + self._lead):
            self._lead, self._continues = None, False
            self._why_no_place = (
                "the chat template writes a finished turn of the model in another form than the "
                "generation prompt"
            )

    def _place_prefix(self, text: str) -> None:
        """Let the response begin with ``text``: where the conversation has the response.

        A text that has marks of thoughts or special tokens follows the generation prompt itself.
        """
        own_format = has_marks(text) or any(token in text for token in self.special_tokens)
        if self._lead is None or own_format:
            if opening := opened_thought(text):
                closing = self._closing_of(opening)
                self.thought = (opening, closing) if closing else None
            elif self.thought is not None and self.thought[1] in text:
                self.thought = None
            if self._lead is not None:
                so_far = self.after + text
                self._lead = _closed(so_far, self.thought[1]) if self.thought else ""
            return
        self.prefix = ("" if self._lead.isspace() else self._lead) + text
        self._lead, self.thought = "", None

    def _closing_of(self, thought: str) -> str | None:
        """The text that ends a thought: one that the template or the tokenizer knows."""
        found = closings_of(thought)
        known = (self._text(), *self.special_tokens)
        closing = next((one for one in found if any(one in text for text in known)), None)
        return closing or (found[0] if found and opened_thought(thought) else None)

    def _end_of(self, tail: str) -> str:
        """The end of the turn in the text after a response: up to its first special token."""
        found = [(tail.index(t), -len(t), t) for t in self.special_tokens if t in tail]
        if found:
            place, _, token = min(found)
            return tail[: place + len(token)]
        return tail.rstrip() or self._tokenizer.eos_token or ""

    def _without_end(self, response: str) -> str:
        said = response.rstrip() if self.prefix else response.strip()
        ends = [self.end.strip(), *self.special_tokens]
        while end := next((end for end in ends if end and said.endswith(end)), None):
            if self.thought is not None and end == self.thought[1]:
                break
            said = said.removesuffix(end).rstrip()
        return said

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokenizer's special tokens, as text."""
        added = self._tokenizer.added_tokens_decoder.values()
        return tuple(dict.fromkeys(one.content for one in added if one.special))

    def _text(self) -> str:
        """The template's source."""
        try:
            return str(self._tokenizer.get_chat_template(self._source))
        except Exception as error:
            raise ModelError(f"the tokenizer's chat template cannot be found: {error}") from error

    def _render(
        self,
        prompt: str,
        response: str | None = None,
        *,
        system: str | None = None,
        date: str | None = None,
    ) -> str:
        messages = []
        for role, text in (
            ("system", system or self._system or None),
            ("user", prompt),
            ("assistant", response),
        ):
            if text is not None:
                content = [{"type": "text", "text": text}] if self._in_parts else text
                messages.append({"role": role, "content": content})
        source, date = self._source, date or self._date
        if date is not None:
            # A macro takes the place of the function of that name.
            source = f"{{% macro {CLOCK}(format) %}}{date}{{% endmacro %}}{self._text()}"
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    chat_template=source,
                    tokenize=False,
                    add_generation_prompt=response is None,
                    **self._arguments,
                )
            )
        except Exception as error:  # Jinja raises whatever the template's author chose to.
            raise ModelError(
                f"the chat template refused the conversation: {error}; check --system, "
                "--chat-template and --chat-template-arg against the model's template"
            ) from error


def _written(day: datetime) -> str:
    """A Jinja expression: the day in the format that the template asks for."""
    parts = (f"replace('%{letter}', '{day:%{letter}}')" for letter in "aAbBcdHIjmMpSwxXyY")
    return f"{{{{ format | {' | '.join(parts)} }}}}"


def _closed(text: str, closing: str) -> str:
    """What ends the thought that ``text`` leaves open, with the usual line breaks around it."""
    if "|" in closing:  # tokens of a format, which line breaks do not belong to
        return closing
    return ("" if text[-1:].isspace() else "\n") + closing + "\n\n"


def _space_between(prefix: str, response: str) -> str:
    """The space that a text lost between two words when its second half was stripped."""
    last, first = prefix[-1:], response[:1]
    spaced = last.isalnum() and first.isalnum() and max(last, first) < "\u0e00"
    return " " if spaced else ""
