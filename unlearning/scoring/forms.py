"""The forms of published readers: how each is asked, and what its replies mean.

A checkpoint that has a chat template for judging reads both texts through it; any other model
reads the published instruction. What is known of each stands in ``forms.toml``.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unlearning.scoring.classes import spoken
from unlearning.scoring.rubrics import without_marks

#: A whole prompt, or messages for the model's chat template.
Asked = str | list[Mapping[str, str]]


@dataclass(frozen=True)
class Form:
    """How a published model is asked, and what its replies mean; the fields of ``forms.toml``.

    Attributes:
        name: of the scorer.
        source: where the form is published.
        size, gated, licence: of the checkpoint.
        reply_tokens: maximum length of a reply.
        reads: scale → pattern of the verdict, and the class of each verdict.
        model: hub id of the checkpoint; empty if the user names one.
        text: the whole prompt, with places for the request and the response; or
        instruction: one message of the user; or neither: both texts are a conversation.
        system: a message before the others.
        template: arguments of the chat template.
    """

    name: str
    source: str
    size: str
    gated: bool
    licence: str
    reply_tokens: int
    reads: Mapping[str, Mapping[str, Any]]
    model: str = ""
    text: str = ""
    instruction: str = ""
    system: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """A digest of everything on which a class depends."""
        told = (self.text, self.instruction, self.system, self.template, self.reads)
        text = json.dumps([*told, self.reply_tokens], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]

    def asked(self, prompt: str, response: str) -> Asked:
        """What the model is asked about one answer: a whole prompt, or messages."""
        texts = {"prompt": without_marks(prompt), "response": without_marks(response)}
        if self.text:
            return self.text.format(**texts)
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self.instruction:
            return [*system, {"role": "user", "content": self.instruction.format(**texts)}]
        return [
            *system,
            {"role": "user", "content": texts["prompt"]},
            {"role": "assistant", "content": texts["response"]},
        ]

    def verdict(self, reply: str, scale: str) -> str | None:
        """The class of a reply on a scale; ``None`` if it contains no verdict."""
        reads = self.reads[scale]
        found = re.search(reads["pattern"], spoken(reply), re.IGNORECASE | re.MULTILINE)
        return reads["classes"].get(found[1].casefold()) if found else None


_FORMS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
#: Name of the scorer → form.
FORMS: Mapping[str, Form] = {name: Form(name, **fields) for name, fields in _FORMS.items()}
