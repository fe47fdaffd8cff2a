"""Two runs, the source and the target of a patch, aligned row by row and span by span.

The source gives states or weights, and the target takes them. Between models, a patch from base to
after undoes the change of unlearning, and a patch from after to base applies it to the base.
Between prompts, a patch from clean to corrupted is called denoising, and the reverse is called
noising (Heimersheim and Nanda 2024). Denoising finds sufficient states; noising finds necessary
states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from interp.errors import InputError
from interp.model import LanguageModel, Tokens, in_fitting_batches

Result = TypeVar("Result")

WHOLE = "all"
"""The name of the position that contains every token of a row."""


@dataclass(frozen=True)
class PatchRuns:
    """Source and target, each a model with rows of tokens, in the same order.

    The spans of the rows are the positions that can be patched.

    Raises:
        InputError: there are no rows, or the two sides have different numbers of rows.
    """

    source: LanguageModel
    source_rows: tuple[Tokens, ...]
    target: LanguageModel
    target_rows: tuple[Tokens, ...]

    def __post_init__(self) -> None:
        if not self.source_rows or len(self.source_rows) != len(self.target_rows):
            raise InputError(
                f"{len(self.source_rows)} source and {len(self.target_rows)} target rows; "
                "give one of each for every prompt, and at least one prompt"
            )

    def reversed(self) -> PatchRuns:
        """The runs with source and target swapped."""
        return PatchRuns(self.target, self.target_rows, self.source, self.source_rows)

    def subset(self, chosen: Sequence[int]) -> PatchRuns:
        """The runs with only the chosen rows, given by number."""
        source_rows = tuple(self.source_rows[i] for i in chosen)
        target_rows = tuple(self.target_rows[i] for i in chosen)
        return replace(self, source_rows=source_rows, target_rows=target_rows)

    def in_batches(
        self, batch_size: int, work: Callable[[list[int], PatchRuns], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Do ``work`` on row numbers and their runs, in batches that both models may run.

        Batches that run out of memory are halved; see :func:`interp.model.in_fitting_batches`.
        """
        sides = ((self.source, self.source_rows), (self.target, self.target_rows))
        kinds = [lm.together(rows) or [0] * len(rows) for lm, rows in sides]
        return in_fitting_batches(
            self.target_rows,
            batch_size,
            lambda chosen: work(chosen, self.subset(chosen)),
            list(zip(*kinds, strict=True)),
        )

    def positions(self) -> tuple[str, ...]:
        """Names of the spans with a token in some row of both sides, in the target's order."""
        held = [
            dict.fromkeys(n for row in rows for n, at in row.spans.items() if at.stop > at.start)
            for rows in (self.source_rows, self.target_rows)
        ]
        return tuple(name for name in held[1] if name in held[0])

    def labels(self) -> dict[str, str]:
        """Axis labels for a figure, all different: the text that all rows share, or the name.

        All rows share the template's tokens. With a single row, every label is a text.
        """
        labels = {}
        for name in self.positions():
            texts = {row.ids[row.spans[name]] for row in self.target_rows if name in row.spans}
            decode = self.target.tokenizer.decode
            labels[name] = str(decode(list(texts.pop()))) if len(texts) == 1 else name
        counts = Counter(labels.values())  # a template may have the same token twice
        return {n: f"{text} ({n})" if counts[text] > 1 else text for n, text in labels.items()}


AFTER_INSTRUCTION = ("post_instruction", "response_prefix")


def between_models(
    source: LanguageModel,
    target: LanguageModel,
    prompts: Sequence[str],
    *,
    by_token: Sequence[str] = AFTER_INSTRUCTION,
) -> PatchRuns:
    """The runs of two models on the same prompts; no pairs of prompts are needed.

    Positions are the spans of the chat format; some spans are split into their tokens.

    Args:
        source, target: models of the same shape with the same tokenizer and chat format.
        prompts: texts.
        by_token: spans whose tokens are separate positions.

    Raises:
        InputError: the models have different shapes, or tokenise a prompt differently.
    """
    shapes = [(lm.n_layers, lm.d_model) for lm in (source, target)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{source.name} and {target.name} have (layers, d_model) {shapes[0]} and {shapes[1]}; "
            "states can only be patched between models of the same shape"
        )
    rows = [
        tuple(with_each_token(lm.chat.encode(prompt), by_token) for prompt in prompts)
        for lm in (source, target)
    ]
    for prompt, given, taken in zip(prompts, *rows, strict=True):
        if given.ids != taken.ids:
            raise InputError(
                f"{source.name} and {target.name} read {prompt[:40]!r} as different tokens; give "
                "both the same tokenizer, template and system message"
            )
    return PatchRuns(source, rows[0], target, rows[1])


def with_each_token(row: Tokens, names: Sequence[str] = AFTER_INSTRUCTION) -> Tokens:
    """``row`` with the named spans split into tokens, numbered from the span's end (``[-1]``)."""
    spans: dict[str, slice] = {}
    for name, span in row.spans.items():
        if name in names:
            for i in range(span.start, span.stop):
                spans[f"{name}[{i - span.stop}]"] = slice(i, i + 1)
        else:
            spans[name] = span
    return replace(row, spans=spans)
