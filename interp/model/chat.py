"""Convert a prompt (and response) to token ids with named spans; only here templates are rendered.

All other modules use span names for positions, never hand-counted indices:

    system | instruction | post_instruction | response_prefix | response

``system`` is everything before the user's text (BOS, the system turn, the user header).
``post_instruction`` is the template's suffix up to the model's turn. ``response_prefix`` is the
text that begins the model's turn; in front of a response given as text it also holds what the
conversation has there, such as an empty thought. The response ends with the template's end-of-turn
token.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.errors import InputError, ModelError
from interp.model.template import CLOCK, Template
from interp.model.thoughts import begun_thought, closings_of, has_marks, in_think_tags, marks_in

LONGEST_MARK = 12  # tokens of the mark that begins a thought
# Conversations whose tokens are kept: every stage reads the same prompts, often at every step.
MOST_ENCODED = 65_536
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Tokens:
    """Token ids of one rendered conversation, with its named spans."""

    ids: tuple[int, ...]
    spans: Mapping[str, slice]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """A left-padded batch; the last column is every row's last token."""

    input_ids: Int[Tensor, "batch token"]
    attention_mask: Int[Tensor, "batch token"]
    position_ids: Int[Tensor, "batch token"]
    response_mask: Bool[Tensor, "batch token"]


class Chat:
    """Renders conversations with a tokenizer's chat template.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        template: a Jinja chat template that replaces the tokenizer's template.
        system: a system message before the user's message.
        response_prefix: text that begins the model's turn.
        template_arguments: passed to the template, e.g. ``{"enable_thinking": False}``;
            ``strftime_now`` stands for today's date in a template that reads the clock.

    Attributes:
        end_of_turn: token ids that close the model's turn.
        note: what a user should know about the template; empty for most templates.

    Raises:
        ModelError: the tokenizer is not a fast one or has no vocabulary; the template fails, or it
            drops or changes messages.
        InputError: the system message is empty.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: str | None = None,
        system: str | None = None,
        response_prefix: str = "",
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which gives no character "
                "offsets; load it with use_fast=True or convert it with the tokenizers library"
            )
        require_vocabulary(tokenizer)
        if system is not None and not system.strip():
            raise InputError(
                "the system message is empty; leave it out for the template's own, or give a "
                "template without one"
            )
        self.tokenizer = tokenizer
        own = getattr(tokenizer, "chat_template", None)
        self.is_fallback = template is None and not own
        self.template = template or (_plain_template(tokenizer) if self.is_fallback else None)
        if self.is_fallback:
            warnings.warn(
                "the tokenizer has no chat template: prompts are written as "
                '"User: …\\n\\nAssistant:"; give --chat-template FILE for another form',
                stacklevel=2,
            )
        self.system = system
        self.response_prefix = response_prefix
        self.template_arguments = dict(template_arguments or {})
        self._rendered = Template(
            tokenizer, self.template, system, response_prefix, self.template_arguments
        )
        self._encoded: dict[tuple[str, str | None, bool], Tokens] = {}
        self.end_of_turn = self._ids(self._rendered.end.strip())
        words = (token.content for token in tokenizer.added_tokens_decoder.values())
        self._thought_tokens = marks_in(words)
        self.note = ""
        if self._rendered.is_dated:
            self.note = (
                "the chat template writes today's date into every prompt, so another day's "
                f"prompts differ and are answered anew; --chat-template-arg {CLOCK}=DATE keeps one "
                "date"
            )
            warnings.warn(self.note, stacklevel=2)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All settings that determine the rendering, for cache keys and manifests."""
        found: dict[str, Any] = {
            "before": self._rendered.before,
            "after": self._rendered.after,
            "response_prefix": self._rendered.prefix,
            "fallback": self.is_fallback,
        }
        # Of models that think, because their thoughts were once read as answers.
        if self._rendered.thought or self._thought_tokens:
            found["thoughts"] = [self._rendered.thought, list(self._thought_tokens)]
        # If they are special tokens, these marks were once left out, and the thought was not.
        if {"<think>", "</think>"} & set(self._rendered.special_tokens):
            found["special_thoughts"] = True
        return found

    @cached_property
    def tokenization(self) -> str:
        """A hash of how text becomes token ids, and ids text, for cache keys."""
        told = json.loads(self.tokenizer.backend_tokenizer.to_str())
        told |= {"truncation": None, "padding": None}  # the state that the last call left
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def encode(
        self, prompt: str, response: str | Sequence[int] | None = None, *, closed: bool = True
    ) -> Tokens:
        """Token ids of ``prompt`` (and ``response``) with their spans.

        A response given as text gets the ids that it has in the whole conversation, with the
        end-of-turn token. A response given as token ids is used unchanged.

        Args:
            prompt: the user's message; white space around it is left out.
            response: the model's message.
            closed: whether a response given as text ends with the end of the turn.

        Raises:
            ModelError: the template changes this prompt, or it has no place for a response given
                as text.
        """
        if response is None or isinstance(response, str):
            key = prompt.strip(), response, closed
            if (known := self._encoded.get(key)) is None:
                if len(self._encoded) >= MOST_ENCODED:
                    self._encoded.clear()
                known = self._encoded[key] = self._conversation(*key)
            return known
        tokens = self.encode(prompt)
        ids = (*tokens.ids, *(int(i) for i in response))
        return Tokens(ids, {**tokens.spans, "response": slice(len(tokens), len(ids))})

    def read(self, ids: Sequence[int]) -> str:
        """A generated response as text, without special tokens and white space around it.

        Thoughts are in ``<think>`` and ``</think>``, whatever marks the model has. A thought that
        the prompt opened begins with ``<think>``.
        """
        thought = self._rendered.thought
        opening = thought[0] if thought else ""
        whole = opening + str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        if not opening and not has_marks(whole):  # special tokens may be marks of thoughts
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        tagged = in_think_tags(whole, thought)
        for token in self._rendered.special_tokens:
            if token not in ("<think>", "</think>"):
                tagged = tagged.replace(token, "")
        return tagged.strip()

    def thought_ender(self, ids: Sequence[int]) -> str | None:
        """A response prefix with which the model answers at once, without a thought.

        Args:
            ids: a generated response; None is returned where it does not begin with a thought.
        """
        if self._rendered.thought:
            return self._rendered.thought[1]
        decoded = (
            str(self.tokenizer.decode(list(ids[:length]), skip_special_tokens=False))
            for length in range(1, min(len(ids), LONGEST_MARK) + 1)
        )
        mark = begun_thought(decoded)
        closings = closings_of(mark) if mark else ()
        return f"{mark}{closings[0]}" if closings else None

    def offsets(self, prompt: str) -> list[tuple[int, int]]:
        """The characters that each token of ``encode(prompt)`` covers: (token, 2), half-open.

        They count from the first character of ``prompt.strip()``; white space at the beginning of a
        token is not counted. Tokens of the template lie before 0 or at its length and beyond; a
        token with text of both crosses this border.
        """
        pieces = self._pieces(prompt.strip())
        text, first = "".join(piece for _, piece in pieces), len(pieces[0][1])
        _, offsets = self._tokens(pieces)
        return [(_first_letter(text, *place) - first, place[1] - first) for place in offsets]

    @cached_property
    def closing(self) -> tuple[int, ...]:
        """The tokens after the user's text with which every prompt ends; empty without any."""
        rows = (self.encode(text) for text in ("a", "1?"))
        after = (row.ids[row.spans["post_instruction"].start :][::-1] for row in rows)
        shared = takewhile(lambda pair: pair[0] == pair[1], zip(*after, strict=False))
        return tuple(token for token, _ in shared)[::-1]

    @property
    def pad_id(self) -> int:
        """The token that fills up shorter rows; attention does not see it."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    def pad(self, rows: Sequence[Tokens], device: torch.device | str = "cpu") -> Batch:
        """Left-pad ``rows`` into one batch, with position ids that start at each row's BOS."""
        ids = pad_sequence(
            [torch.tensor(row.ids, dtype=torch.long) for row in rows],
            batch_first=True,
            padding_value=self.pad_id,
            padding_side="left",
        )
        spans = [row.spans.get("response", slice(0, 0)) for row in rows]
        length, start, stop = torch.tensor(
            [(len(row), span.start, span.stop) for row, span in zip(rows, spans, strict=True)]
        ).T[..., None]
        place = torch.arange(ids.shape[1]) - (ids.shape[1] - length)  # negative for padding
        response = (start <= place) & (place < stop)
        tensors = ids, (place >= 0).long(), place.clamp(min=0), response
        return Batch(*(t.to(device) for t in tensors))

    def _pieces(self, prompt: str) -> tuple[tuple[str, str], ...]:
        """The rendered prompt, by the names of its spans."""
        before, after = self._rendered.around(prompt)
        return (
            ("system", before),
            ("instruction", prompt),
            ("post_instruction", after),
            ("response_prefix", self._rendered.prefix),
        )

    def _conversation(self, prompt: str, response: str | None, closed: bool) -> Tokens:
        if response is None:
            return self._tokens(self._pieces(prompt))[0]
        turn = self._rendered.turn(prompt, response)
        *opened, (_, prefix) = self._pieces(prompt)
        lead, said = turn.lead, turn.response + (turn.end if closed else "")
        if lead.isspace():  # the model writes this space, as the first thing of its response
            lead, said = "", lead + said
        whole = [*opened, ("response_prefix", prefix + lead), ("response", said)]
        tokens, offsets = self._tokens(whole)
        start = tokens.spans["response"].start
        border = sum(len(piece) for _, piece in opened) + len(prefix)
        if start == len(tokens) or offsets[start][0] >= border:
            return tokens
        # The first token of the response holds the end of the generation prompt, too.
        alone, _ = self._tokens([*opened, ("response_prefix", prefix)])
        if tokens.ids[:start] == alone.ids:
            return tokens
        if not prefix:
            raise ModelError(
                "the generation prompt of the chat template ends inside a token of the response "
                f"({self.tokenizer.decode([tokens.ids[start]])!r}); end it at a token's border "
                "(often: without the last space) in a --chat-template FILE, or give the response "
                "as token ids"
            )
        ids = alone.ids + self._ids(lead + said)
        return Tokens(ids, {**alone.spans, "response": slice(len(alone), len(ids))})

    def _tokens(self, pieces: Sequence[tuple[str, str]]) -> tuple[Tokens, list[tuple[int, int]]]:
        """The tokens of consecutive named texts, and the characters that each token covers.

        A token across a border belongs to the instruction or to the response if it holds a part of
        one. Otherwise it belongs to the text in which it starts.
        """
        text = "".join(piece for _, piece in pieces)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])
            raise InputError(
                f"a text holds half of a character ({half}), as is left of an emoji that was cut "
                "in two; write the whole character, or leave it out"
            ) from None
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = encoding["offset_mapping"]
        starts = np.maximum.accumulate([0, *(start for start, _ in offsets)])[1:]
        stops = np.maximum.accumulate([0, *(stop for _, stop in offsets)])[1:]
        places = np.cumsum([0, *(len(piece) for _, piece in pieces)])
        borders = np.searchsorted(starts, places)
        for i, (name, piece) in enumerate(pieces):
            if piece and name in ("instruction", "response"):
                borders[i] = np.searchsorted(stops, places[i], side="right")
        borders[0], borders[-1] = 0, len(offsets)
        borders = np.minimum.accumulate(borders[::-1])[::-1]
        spans = {
            name: slice(first, last)
            for (name, _), (first, last) in zip(pieces, pairwise(borders.tolist()), strict=True)
        }
        return Tokens(tuple(encoding["input_ids"]), spans), offsets

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def require_vocabulary(tokenizer: Any) -> None:
    """Check that a tokenizer has more than special tokens.

    Where a checkpoint lacks the tokenizer's files, transformers makes an empty tokenizer of its
    kind, by which every text has the same tokens or none.

    Raises:
        ModelError: it has none.
    """
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        where = getattr(tokenizer, "name_or_path", "") or "the checkpoint"
        raise ModelError(
            f"the tokenizer of {where} has no vocabulary: its files (such as tokenizer.json) are "
            "missing; write them there with tokenizer.save_pretrained"
        )


def _plain_template(tokenizer: Any) -> str:
    """The fallback, with BOS where the tokenizer puts it before a text: some models need it."""
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return "{{ bos_token }}" * begins + PLAIN_TEMPLATE


def _first_letter(text: str, start: int, stop: int) -> int:
    """Where a token begins, without the white space at its beginning if it has more than that."""
    said = text[start:stop]
    return start + len(said) - len(said.lstrip()) if said.strip() else start
