"""Convert a prompt (and response) to token ids with named spans; only here templates are rendered.

All other modules use span names for positions, never hand-counted indices:

    system | instruction | post_instruction | response_prefix | response

``system`` is everything before the user's text (BOS, the system turn, the user header).
``post_instruction`` is the template's suffix up to the model's turn. The response ends with the
template's end-of-turn token.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.errors import ModelError

# Unlikely in any template, and unchanged by all known normalisers.
_USER_MARK = "⟦spillover-user⟧"
_ASSISTANT_MARK = "⟦spillover-assistant⟧"

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
        template_arguments: passed to the template, e.g. ``{"enable_thinking": False}``.

    Attributes:
        end_of_turn: token ids that close the model's turn.

    Raises:
        ModelError: the tokenizer is not a fast one, or the template fails.
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
        self.tokenizer = tokenizer
        own = getattr(tokenizer, "chat_template", None)
        self.is_fallback = template is None and not own
        self.template = template or (PLAIN_TEMPLATE if self.is_fallback else None)
        if self.is_fallback:
            warnings.warn(
                "the tokenizer has no chat template: prompts are written as "
                '"User: …\\n\\nAssistant:"; give --chat-template FILE for another form',
                stacklevel=2,
            )
        self.system = system
        self.response_prefix = response_prefix
        self.template_arguments = dict(template_arguments or {})
        self._before, self._after = self._around_user()
        self._lead, end_of_turn = self._around_assistant()
        self.end_of_turn = self._ids(end_of_turn)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All settings that determine the rendering, for cache keys and manifests."""
        return {
            "before": self._before,
            "after": self._after,
            "response_prefix": self.response_prefix,
            "fallback": self.is_fallback,
        }

    def encode(self, prompt: str, response: str | Sequence[int] | None = None) -> Tokens:
        """Token ids of ``prompt`` (and ``response``) with their spans.

        A response given as text is tokenized in its place in the template and closed with the
        end-of-turn token. A response given as token ids is used unchanged.
        """
        pieces = self._pieces(prompt)
        encoding = self._with_offsets(pieces)
        ids, starts = list(encoding["input_ids"]), [a for a, _ in encoding["offset_mapping"]]
        # A token across a border belongs to the span in which it starts.
        borders = np.searchsorted(starts, np.cumsum([0, *(len(piece) for _, piece in pieces)]))
        spans = {
            name: slice(first, last)
            for (name, _), (first, last) in zip(pieces, pairwise(borders.tolist()), strict=True)
        }
        if response is not None:
            if isinstance(response, str):
                lead = "" if self.response_prefix else self._lead
                response = self._ids(lead + response) + self.end_of_turn
            spans["response"] = slice(len(ids), len(ids) + len(response))
            ids += [int(i) for i in response]
        return Tokens(tuple(ids), spans)

    def offsets(self, prompt: str) -> list[tuple[int, int]]:
        """The characters that each token of ``encode(prompt)`` covers: (token, 2), half-open.

        They count from the first character of ``prompt.strip()``. Tokens of the template lie before
        0 or at its length and beyond; a token with text of both crosses this border.
        """
        first = len(self._before)
        encoding = self._with_offsets(self._pieces(prompt))
        return [(start - first, stop - first) for start, stop in encoding["offset_mapping"]]

    def pad(self, rows: Sequence[Tokens], device: torch.device | str = "cpu") -> Batch:
        """Left-pad ``rows`` into one batch, with position ids that start at each row's BOS."""
        pad_id = self.tokenizer.pad_token_id
        pad_id = self.tokenizer.eos_token_id if pad_id is None else pad_id
        ids = pad_sequence(
            [torch.tensor(row.ids, dtype=torch.long) for row in rows],
            batch_first=True,
            padding_value=pad_id or 0,
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
        return (
            ("system", self._before),
            ("instruction", prompt.strip()),
            ("post_instruction", self._after),
            ("response_prefix", self.response_prefix),
        )

    def _with_offsets(self, pieces: Sequence[tuple[str, str]]) -> Any:
        text = "".join(piece for _, piece in pieces)
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, *, assistant: bool) -> str:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": _USER_MARK})
        if assistant:
            messages.append({"role": "assistant", "content": _ASSISTANT_MARK})
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=not assistant,
                    **self.template_arguments,
                )
            )
        except Exception as error:  # Jinja raises whatever the template's author chose to.
            raise ModelError(
                f"the chat template refused the conversation: {error}; check --system, "
                "--chat-template and --chat-template-arg against the model's template"
            ) from error

    def _around_user(self) -> tuple[str, str]:
        before, mark, after = self._render(assistant=False).rpartition(_USER_MARK)
        if not mark:
            raise ModelError(
                "the chat template changes the user's message; give another with --chat-template"
            )
        return before, after

    def _around_assistant(self) -> tuple[str, str]:
        """Text between the generation prompt and the response, and the end-of-turn text."""
        eos = self.tokenizer.eos_token or ""
        opening = self._before + _USER_MARK + self._after
        conversation = self._render(assistant=True)
        before, mark, tail = conversation.rpartition(_ASSISTANT_MARK)
        if not mark or not before.startswith(opening):
            # Thinking templates rewrite past turns; generation still ends with EOS.
            return "", eos
        return before[len(opening) :], tail.strip() or eos
