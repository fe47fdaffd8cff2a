"""Where the model of a published reader runs: in this process, or behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from interp.errors import ModelError, first_line
from interp.model import LanguageModel, Tokens, check_source
from interp.progress import Advance, silent
from unlearning.generation import continuations
from unlearning.scoring.forms import Asked, Form
from unlearning.scoring.reading import (
    Workload,
    estimated_tokens,
    local_digest,
    model_name,
    without_special_tokens,
)
from unlearning.serving import Endpoint

#: Prompts come whole, so the chat format of the loaded model is never used; any valid one serves.
_UNUSED_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


class Host(Protocol):
    """A model that replies."""

    @property
    def model(self) -> str:
        """Its name in tables: a hub id, or the last name of a folder."""

    @property
    def digest(self) -> str:
        """What tells a local model from another of its name; empty for others."""

    def cleaned(self, text: str) -> str:
        """A judged text without the model's special tokens, as far as they are known."""

    def workload(self, asked: Sequence[Asked], form: Form) -> Workload:
        """The cost of :meth:`replies`."""

    def replies(self, asked: Sequence[Asked], form: Form, progress: Advance = silent) -> list[str]:
        """The most probable reply to each question, in order."""


@dataclass(frozen=True)
class LocalHost:
    """A causal language model in this process, loaded when first asked.

    Attributes:
        source: hub id or folder.
        batch_size: questions in one forward, halved when memory runs out.
        device: where it runs (default: CUDA if available).

    Raises:
        ModelError: the folder does not contain a model.
    """

    source: str
    batch_size: int = 8
    device: str | None = None

    def __post_init__(self) -> None:
        check_source(self.source)

    @property
    def model(self) -> str:
        return model_name(self.source)

    @cached_property
    def digest(self) -> str:
        return local_digest(self.source)

    @cached_property
    def lm(self) -> LanguageModel:
        """The model."""
        return LanguageModel.load(self.source, device=self.device, template=_UNUSED_TEMPLATE)

    def cleaned(self, text: str) -> str:
        """``text`` without the tokenizer's special tokens."""
        return without_special_tokens(text, self.lm.tokenizer)

    def workload(self, asked: Sequence[Asked], form: Form) -> Workload:
        """Numbers of texts, and of tokens by the size of the text; loads no model."""
        notes = ["Tokens are estimated, without what the chat template adds."]
        if self.source == form.model:
            gated = ", gated: accept its terms on the hub and set HF_TOKEN" * form.gated
            notes.append(f"The model is {form.model} ({form.size} parameters{gated}).")
        read = estimated_tokens(map(_text, asked))
        written = form.reply_tokens * len(asked)
        return Workload(
            len(asked), read, written, notes=tuple(notes),
            model=self.source, batch_size=self.batch_size,
        )  # fmt: skip

    def replies(self, asked: Sequence[Asked], form: Form, progress: Advance = silent) -> list[str]:
        """The greedy replies.

        Raises:
            ModelError: the model cannot be loaded, or its chat template does not show what is
                asked about.
            InputError: a question is longer than the model's context.
        """
        return continuations(
            self.lm,
            [self._tokens(one, form) for one in asked],
            max_new_tokens=form.reply_tokens,
            batch_size=self.batch_size,
            progress=progress,
        )

    def prompt(self, asked: Asked, form: Form) -> str:
        """The whole prompt, as the checkpoint's chat template writes it.

        Raises:
            ModelError: there is no template, or it leaves out a message.
        """
        if isinstance(asked, str):
            return asked
        if not self.lm.tokenizer.chat_template:
            raise ModelError(
                f"{self.source} has no chat template, through which {form.name} reads; give the "
                "published checkpoint with its tokenizer"
            )
        for shape in (list, _in_parts):
            probe = [{**message, "content": f"probe{i}text"} for i, message in enumerate(asked)]
            try:
                shown = self._rendered(shape(probe), form)
            except Exception as error:  # whatever the template raises
                why = first_line(error)
            else:
                if all(message["content"] in shown for message in probe):
                    return self._rendered(shape(asked), form)
                why = "it leaves out a message"
        raise ModelError(
            f"the chat template of {self.source} does not show {form.name} the request and the "
            f"response ({why}); give the published checkpoint with its tokenizer"
        )

    def _rendered(self, messages: Any, form: Form) -> str:
        return str(
            self.lm.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **form.template
            )
        )

    def _tokens(self, asked: Asked, form: Form) -> Tokens:
        # A rendered template has its beginning of text already.
        text, special = self.prompt(asked, form), isinstance(asked, str)
        return Tokens(tuple(self.lm.tokenizer(text, add_special_tokens=special)["input_ids"]), {})


@dataclass(frozen=True)
class ServedHost:
    """A model behind a server, which applies the chat template.

    A whole prompt goes to the server's completions API, which puts it to the model unchanged.

    Attributes:
        endpoint: the server to ask; give it a cache.
    """

    endpoint: Endpoint

    @property
    def model(self) -> str:
        return self.endpoint.model

    @property
    def digest(self) -> str:
        return ""

    def cleaned(self, text: str) -> str:
        """``text``: its form is without the common special tokens already."""
        return text

    def workload(self, asked: Sequence[Asked], form: Form) -> Workload:
        """Numbers of requests that are not in the cache, and of tokens by the size of the text."""
        to_ask = self.endpoint.to_ask(
            asked, max_tokens=form.reply_tokens, template_arguments=form.template
        )
        distinct = len({_text(one) for one in asked})
        return Workload(
            calls=len(to_ask),
            read=estimated_tokens(_text(asked[place]) for place in to_ask),
            written=form.reply_tokens * len(to_ask),
            kept=distinct - len(to_ask),
            paid=True,
            notes=("Tokens are estimated, without what the chat template adds.",),
        )

    def replies(self, asked: Sequence[Asked], form: Form, progress: Advance = silent) -> list[str]:
        """The replies of the server at temperature 0.

        Raises:
            SpilloverError: the endpoint does not answer; its cache keeps earlier replies.
        """
        found = self.endpoint.complete(
            asked, max_tokens=form.reply_tokens, template_arguments=form.template, progress=progress
        )
        return [reply.text for reply in found]


def _text(asked: Asked) -> str:
    parts = [asked] if isinstance(asked, str) else [message["content"] for message in asked]
    return "\n".join(parts)


def _in_parts(messages: Any) -> Any:
    """The messages as templates of multimodal models want them."""
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
