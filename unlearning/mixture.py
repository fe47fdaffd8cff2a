"""Forget and retain examples into batches, in an order that is a function of (seed, epoch).

An epoch is one pass over the forget set. Beside each forget example stand ``ratio`` retain
examples, dealt in turn from the retain groups (equal share); each group is cycled without
replacement. Since the order depends on nothing else, a run can be resumed at any step, and the
composition of a global batch does not depend on how it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from interp.chat import Chat, Tokens
from interp.errors import InputError


@dataclass(frozen=True)
class Example:
    """One (prompt, response) to train on; ``reference`` are its reference log-probs, if needed."""

    id: str
    tokens: Tokens
    reference: Float[Tensor, " response"] | None = None


class Mixture(Dataset[list[tuple[int, Example]]]):
    """Position → one forget example and ``ratio`` retain examples, each with its group number.

    Group 0 is the forget set; groups 1, 2, … are the retain groups in the order given.
    """

    def __init__(
        self,
        forget: Sequence[Example],
        retain: Mapping[str, Sequence[Example]] | None = None,
        *,
        ratio: int = 1,
        seed: int = 0,
    ) -> None:
        if not forget:
            raise InputError("nothing to forget: the forget set has no examples")
        empty = [name for name, examples in (retain or {}).items() if not examples]
        if empty:
            raise InputError(f"retain groups without examples: {', '.join(empty)}; leave them out")
        self.forget = list(forget)
        self.retain = {name: list(examples) for name, examples in (retain or {}).items()}
        self.ratio = ratio
        self.seed = seed
        self.groups = ("forget", *self.retain)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of every epoch."""
        self.epoch = epoch
        self._order = self._permutation(0, epoch, len(self.forget))

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, position: int) -> list[tuple[int, Example]]:
        rows = [(0, self.forget[self._order[position]])]
        names = list(self.retain)
        step = self.epoch * len(self) + position
        for slot in range(step * self.ratio, (step + 1) * self.ratio) if names else ():
            group, turn = slot % len(names), slot // len(names)
            examples = self.retain[names[group]]
            cycle, place = divmod(turn, len(examples))
            rows.append(
                (group + 1, examples[self._permutation(group + 1, cycle, len(examples))[place]])
            )
        return rows

    def _permutation(self, group: int, cycle: int, size: int) -> np.ndarray:
        return np.random.default_rng((self.seed, group, cycle)).permutation(size)


def collator(chat: Chat) -> Callable[[list[list[tuple[int, Example]]]], dict[str, Tensor]]:
    """A collate function: tensors of one micro-batch, left-padded, references right-aligned."""

    def collate(positions: list[list[tuple[int, Example]]]) -> dict[str, Tensor]:
        rows = [row for position in positions for row in position]
        batch = chat.pad([example.tokens for _, example in rows])
        reference = torch.zeros(batch.input_ids.shape)
        for i, (_, example) in enumerate(rows):
            if example.reference is not None:
                reference[i, -len(example.reference) :] = example.reference
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "response_mask": batch.response_mask,
            "reference": reference,
            "group": torch.tensor([group for group, _ in rows]),
        }

    return collate
