"""Turn a model that reads answers (a judge or a sequence classifier) into a scorer.

All readers share these rules. Thoughts are removed before reading. A rule classifies an empty
answer, without a model. An answer without a verdict has no class; it never counts as "not refused".

The module also estimates the workload before a model runs.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from interp.errors import InputError
from interp.progress import Advance, silent
from unlearning.scoring.classes import FineScorer, Texts, spoken

_SAMPLES, _SAMPLED = 64, 65_536  # places of a large file, and bytes read at each


class ResponseReader(Protocol):
    """A model that assigns classes of one scale to answers."""

    @property
    def name(self) -> str:
        """The name that a user gives."""

    @property
    def version(self) -> str:
        """A version that changes whenever the class of an answer may change, except by chance."""

    @property
    def when_empty(self) -> str:
        """The class of an empty answer."""

    def workload(self, prompts: Texts, responses: Texts) -> Workload:
        """The cost of :meth:`read`; runs no model."""

    def read(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> list[str | None]:
        """The class of each answer, in order; ``None`` if the model gave no verdict."""


def verdicts(
    reader: ResponseReader, prompts: Texts, responses: Texts, *, progress: Advance = silent
) -> list[str | None]:
    """The class of each answer on the reader's scale; ``None`` if it gave no verdict.

    Args:
        progress: called with the number of answers just done.

    Raises:
        ValueError: the numbers of prompts and responses differ.
        SpilloverError: the model or server cannot be used.
    """
    said = _said(prompts, responses)
    places = [place for place, text in enumerate(said) if text]
    found: list[str | None] = [reader.when_empty] * len(said)
    if len(places) < len(said):
        progress(len(said) - len(places))
    if places:
        read = reader.read(
            [prompts[p] for p in places], [said[p] for p in places], progress=progress
        )
        for place, text_class in zip(places, read, strict=True):
            found[place] = text_class
    return found


def workload_of(reader: ResponseReader, prompts: Texts, responses: Texts) -> Workload:
    """The cost of :func:`verdicts`."""
    pairs = [(p, text) for p, text in zip(prompts, _said(prompts, responses), strict=True) if text]
    return reader.workload([p for p, _ in pairs], [text for _, text in pairs])


@dataclass(frozen=True)
class ModelScorer(FineScorer):
    """A reader on the scale of refusals, as a scorer of fine classes."""

    reader: ResponseReader

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def version(self) -> str:
        return self.reader.version

    def on(self, device: str) -> ModelScorer:
        """The same with its model on a device; a server's model stays where it is."""
        on = getattr(self.reader, "on", None)
        return self if on is None else ModelScorer(on(device))

    def classify_finely(self, prompts: Texts, responses: Texts) -> list[str]:
        """One of ``FINE_CLASSES`` for each (prompt, response), in order.

        Raises:
            InputError: the model gave no verdict on an answer; :func:`verdicts` allows that.
        """
        found = verdicts(self.reader, prompts, responses)
        without = [place for place, name in enumerate(found, start=1) if name is None]
        if without:
            raise InputError(
                f"{self.name} gave no verdict on {len(without)} of {len(found)} answers (the first "
                f"is answer {without[0]}); leave them out, or use another judge"
            )
        return [name for name in found if name is not None]


def model_name(source: str) -> str:
    """A hub id unchanged; of a path the last name, because its folder differs between machines."""
    is_here = os.path.exists(source)
    return os.path.basename(os.path.abspath(source)) if is_here else source


def local_digest(source: str) -> str:
    """A dash and a digest of a local model's files, for versions; empty for a hub id.

    A hub id names its model. A folder's last name does not, and its files may change. Of a file
    above 4 MiB, 64 places are read.
    """
    path = Path(source)
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name} {size} ".encode())
            with file.open("rb") as opened:
                for place in range(_SAMPLES):
                    opened.seek(place * max(0, size - _SAMPLED) // (_SAMPLES - 1))
                    digest.update(opened.read(_SAMPLED))
    return f"-{digest.hexdigest()[:8]}"


def without_special_tokens(text: str, tokenizer: Any) -> str:
    """``text`` without the special tokens of a tokenizer, which would end the reader's turn."""
    added = tokenizer.added_tokens_decoder.values()
    for mark in sorted({token.content for token in added if token.special}):
        if len(mark) > 1:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


def _said(prompts: Texts, responses: Texts) -> list[str]:
    return [spoken(response) for _, response in zip(prompts, responses, strict=True)]


BYTES_A_TOKEN = 4
#: Tokens that a chat template adds to one message.
TEMPLATE_TOKENS = 10


@dataclass(frozen=True)
class Workload:
    """Calls of a model, and the tokens that they read and write.

    Attributes:
        calls: requests to a server, or texts through a local model.
        kept: calls with an answer in the cache; they are not made again.
        read, written: numbers of tokens.
        paid: whether a provider may charge for the calls.
        notes: further remarks before the start.
        model: that runs in this process: hub id, folder or GGUF file.
        batch_size: texts in one forward of it.
        depth: share of its layers that run.
    """

    calls: int
    read: int
    written: int = 0
    kept: int = 0
    paid: bool = False
    notes: tuple[str, ...] = ()
    model: str | None = None
    batch_size: int = 1
    depth: float = 1.0

    def price(self, read: float, written: float) -> float:
        """The total price; both given prices are per million tokens."""
        return (self.read * read + self.written * written) / 1e6

    def text(self, name: str, prices: tuple[float, float] | None = None) -> str:
        """Lines for the terminal; ``prices`` are per million tokens read and written."""
        what = "requests" if self.paid else "texts through the model"
        line = f"{name}: {self.calls} {what}, about {_thousands(self.read)} tokens read"
        line += f" and {_thousands(self.written)} written" if self.written else ""
        line += f"; {self.kept} more are answered from the cache" if self.kept else ""
        if self.paid and self.calls:
            line += "; " + (
                "for the price, give --price-read and --price-written (per million tokens)"
                if prices is None
                else f"price about {_money(self.price(*prices))}"
            )
        return "\n".join((line, *self.notes))


def estimated_tokens(texts: Iterable[str]) -> int:
    """Estimate the tokens of ``texts``: one per four bytes of UTF-8, and the template's tokens.

    In European languages, tokenizers differ from it by up to a third.
    """
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    return sum(-(-size // BYTES_A_TOKEN) + TEMPLATE_TOKENS for size in sizes)


def _thousands(count: int) -> str:
    return f"{count / 1000:.1f} k" if count >= 1000 else str(count)


def _money(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"
