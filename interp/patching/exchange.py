"""Two runs between which states or weights are exchanged, row by row and span by span.

The donor gives, the receiver takes: base → after restores what unlearning took away, the exchange
reversed plants it. Between prompts, clean → corrupted is called denoising and its reverse noising
(Heimersheim and Nanda 2024). The two are different questions: denoising finds what is enough,
noising what is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp.errors import InputError
from interp.model import LanguageModel, Tokens

WHOLE = "all"
"""The position that is every token of a row."""


@dataclass(frozen=True)
class Exchange:
    """Donor and receiver: a model and its rows each, aligned row by row.

    The spans of the rows are the positions that can be exchanged.

    Raises:
        InputError: no rows, or not as many on both sides.
    """

    donor: LanguageModel
    donor_rows: tuple[Tokens, ...]
    receiver: LanguageModel
    receiver_rows: tuple[Tokens, ...]

    def __post_init__(self) -> None:
        if not self.donor_rows or len(self.donor_rows) != len(self.receiver_rows):
            raise InputError(
                f"{len(self.donor_rows)} donor and {len(self.receiver_rows)} receiver rows; "
                "give one of each for every prompt, and at least one prompt"
            )

    def reversed(self) -> Exchange:
        """The receiver gives and the donor takes."""
        return Exchange(self.receiver, self.receiver_rows, self.donor, self.donor_rows)

    def subset(self, chosen: Sequence[int]) -> Exchange:
        """Some of the rows, by number."""
        donor_rows = tuple(self.donor_rows[i] for i in chosen)
        receiver_rows = tuple(self.receiver_rows[i] for i in chosen)
        return replace(self, donor_rows=donor_rows, receiver_rows=receiver_rows)

    def positions(self) -> tuple[str, ...]:
        """Names of the spans that hold a token in some row of both sides, in their order."""
        held = [
            dict.fromkeys(n for row in rows for n, span in row.spans.items() if _length(span))
            for rows in (self.donor_rows, self.receiver_rows)
        ]
        return tuple(name for name in held[1] if name in held[0])

    def labels(self) -> dict[str, str]:
        """For the axis of a figure: the text of a position that has one in every row, or its name.

        That is the template's tokens, and everything where there is one row only.
        """
        labels = {}
        for name in self.positions():
            texts = {row.ids[row.spans[name]] for row in self.receiver_rows if name in row.spans}
            decode = self.receiver.tokenizer.decode
            labels[name] = str(decode(list(texts.pop()))) if len(texts) == 1 else name
        return labels


AFTER_INSTRUCTION = ("post_instruction", "response_prefix")


def between_models(
    donor: LanguageModel,
    receiver: LanguageModel,
    prompts: Sequence[str],
    *,
    by_token: Sequence[str] = AFTER_INSTRUCTION,
) -> Exchange:
    """The same prompts in two models, which needs no pairs.

    Positions are the spans of the chat format, some of them split into their tokens.

    Args:
        donor, receiver: models of one shape with one tokenizer and chat format.
        prompts: texts.
        by_token: spans of which every token is a position by itself.

    Raises:
        InputError: the models are of different shape, or read a prompt as different tokens.
    """
    shapes = [(lm.n_layers, lm.d_model) for lm in (donor, receiver)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{donor.name} and {receiver.name} have (layers, d_model) {shapes[0]} and {shapes[1]}; "
            "states can only be exchanged between models of the same shape"
        )
    rows = [
        tuple(with_each_token(lm.chat.encode(prompt), by_token) for prompt in prompts)
        for lm in (donor, receiver)
    ]
    for prompt, given, taken in zip(prompts, *rows, strict=True):
        if given.ids != taken.ids:
            raise InputError(
                f"{donor.name} and {receiver.name} read {prompt[:40]!r} as different tokens; give "
                "both the same tokenizer, template and system message"
            )
    return Exchange(donor, rows[0], receiver, rows[1])


def with_each_token(row: Tokens, names: Sequence[str] = AFTER_INSTRUCTION) -> Tokens:
    """``row`` with the named spans split into tokens, numbered from the span's end: ``[-1]``."""
    spans: dict[str, slice] = {}
    for name, span in row.spans.items():
        if name in names:
            for i in range(span.start, span.stop):
                spans[f"{name}[{i - span.stop}]"] = slice(i, i + 1)
        else:
            spans[name] = span
    return replace(row, spans=spans)


def _length(span: slice) -> int:
    return span.stop - span.start
