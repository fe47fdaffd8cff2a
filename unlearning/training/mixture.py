"""Mix forget and retain examples into one stream of batches, ordered by the seed.

Position p of the stream holds one forget example and ``ratio`` retain examples, taken from the
retain groups in turn. An epoch is one pass over the forget set in an order given by (seed, epoch).
Each retain group is cycled without replacement in its own orders. The stream is as long as the
run, so all batches have the same size. A resumed run skips positions. A global batch has the same
examples for every split into micro-batches or processes.

Within a window of batches, rows of similar length are grouped to save padding. This changes only
the positions of examples: each batch keeps its count of every group, and each window keeps its
examples. A window is at most one pass over the smallest group: in a longer one, the copies of an
example would stand together and fill a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from interp.errors import InputError
from interp.model import Chat, Tokens

Place = tuple[int, int]
"""An example by its group's number and its place in the group."""


@dataclass(frozen=True)
class Example:
    """One (prompt, response) to train on.

    Attributes:
        id: the name of the example in error messages.
        tokens: the prompt and the response. A forget term makes the response less probable; a
            retain term keeps its probability.
        reference: log-probs of that response's tokens under the reference model.
        preferred: for pairs, the same prompt with the preferred response.
        preferred_reference: as ``reference``, for the preferred response.
    """

    id: str
    tokens: Tokens
    reference: Float[Tensor, " response"] | None = None
    preferred: Tokens | None = None
    preferred_reference: Float[Tensor, " response"] | None = None


@dataclass(frozen=True)
class Mixture:
    """The training examples: group 0 is the forget set, then the retain groups in their order.

    Raises:
        InputError: a group is empty.
    """

    forget: Sequence[Example]
    retain: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    ratio: int = field(default=1, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.forget:
            raise InputError("the forget set has no examples; give at least one")
        empty = [name for name, examples in self.retain.items() if not examples]
        if empty:
            raise InputError(f"retain groups without examples: {', '.join(empty)}; leave them out")

    @property
    def groups(self) -> dict[str, Sequence[Example]]:
        """Every group by name, in the order of their numbers."""
        return {"forget": self.forget, **self.retain}

    def stream(self, steps: int, batch_size: int, *, window: int = 0) -> Stream:
        """``steps`` batches of ``batch_size`` positions."""
        return Stream(self, steps, batch_size, window)


class Stream(Dataset[list[tuple[Place, Example]]]):
    """Position → its examples, each with its group and place; see the module's docstring."""

    def __init__(self, mixture: Mixture, steps: int, batch_size: int, window: int) -> None:
        self.mixture = mixture
        self.examples = list(mixture.groups.values())
        self.batch_size = batch_size
        self.size = steps * batch_size
        self.window = max(1, min(window, *self._passes())) * batch_size
        self.by_length = window > 0
        self._dealt = lru_cache(maxsize=2)(self._deal)

    def _passes(self) -> list[int]:
        """The whole batches in one pass over each group."""
        forget, *retain = (len(examples) for examples in self.examples)
        dealt = self.batch_size * self.mixture.ratio  # retain examples in a batch
        return [forget // self.batch_size, *(size * len(retain) // dealt for size in retain)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> list[tuple[Place, Example]]:
        if not 0 <= position < self.size:
            raise IndexError(position)
        number, inside = divmod(position, self.window)
        return [
            ((group, place), self.examples[group][place])
            for group, place in self._dealt(number)[inside]
        ]

    def _deal(self, number: int) -> list[list[Place]]:
        """The examples of every position in one window."""
        start = number * self.window
        positions = range(start, min(start + self.window, self.size))
        drawn = [self._drawn(position) for position in positions]
        if not self.by_length:
            return drawn
        waiting: dict[int, list[int]] = {}
        for group, place in (one for row in drawn for one in row):
            waiting.setdefault(group, []).append(place)
        for group, places in waiting.items():
            places.sort(key=lambda place: -len(self.examples[group][place].tokens))
        batches = np.arange(len(drawn) // self.batch_size)
        rng = np.random.default_rng((self.mixture.seed, len(self.examples), number))
        for batch in rng.permutation(batches):  # else every window would end with its longest rows
            for inside in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                drawn[inside] = [(group, waiting[group].pop()) for group, _ in drawn[inside]]
        return drawn

    def _drawn(self, position: int) -> list[Place]:
        """The examples of a position before grouping by length."""
        groups, ratio = len(self.examples) - 1, self.mixture.ratio
        row = [self._turn(0, position)]
        for slot in range(position * ratio, (position + 1) * ratio) if groups else ():
            turn, group = divmod(slot, groups)
            row.append(self._turn(group + 1, turn))
        return row

    def _turn(self, group: int, turn: int) -> Place:
        size = len(self.examples[group])
        cycle, place = divmod(turn, size)
        return group, int(_permutation(self.mixture.seed, group, cycle, size)[place])


@lru_cache(maxsize=256)
def _permutation(seed: int, group: int, cycle: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, group, cycle)).permutation(size)


def collator(
    chat: Chat, *, responses: bool = True, preferred: bool = False
) -> Callable[[list[list[tuple[Place, Example]]]], dict[str, Tensor]]:
    """A collate function: tensors of one micro-batch, left-padded, references right-aligned.

    Args:
        chat: the chat format, which pads.
        responses: include rows with the responses of forget examples.
        preferred: include rows with their preferred responses.

    Returns:
        A function. Its result has the padded rows and, for each row: ``reference`` (row, token),
        ``group``, ``place``, ``preferred`` (whether it is a preferred response) and ``counted``
        (true for one row of each example).
    """

    def rows_of(place: Place, one: Example) -> list[tuple[Place, bool, Tokens, Tensor | None]]:
        rows = []
        if responses or place[0] > 0:
            rows.append((place, False, one.tokens, one.reference))
        if preferred and place[0] == 0:
            assert one.preferred is not None
            rows.append((place, True, one.preferred, one.preferred_reference))
        return rows

    def collate(positions: list[list[tuple[Place, Example]]]) -> dict[str, Tensor]:
        rows = [row for position in positions for pair in position for row in rows_of(*pair)]
        batch = chat.pad([tokens for _, _, tokens, _ in rows])
        reference = torch.zeros(batch.input_ids.shape)
        for i, (_, _, _, values) in enumerate(rows):
            if values is not None:
                reference[i, -len(values) :] = values
        group = torch.tensor([place[0] for place, *_ in rows])
        is_preferred = torch.tensor([is_preferred for _, is_preferred, *_ in rows])
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "response_mask": batch.response_mask,
            "reference": reference,
            "group": group,
            "place": torch.tensor([place[1] for place, *_ in rows]),
            "preferred": is_preferred,
            "counted": ~is_preferred if responses else is_preferred | (group > 0),
        }

    return collate


def rows_of(inputs: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Some rows of a batch, without columns of padding alone."""
    rows = chosen.nonzero()[:, 0]  # once: the host waits for the device
    part = {name: value[rows] for name, value in inputs.items()}
    first = int(part["attention_mask"].any(dim=0).int().argmax())
    return {name: value[:, first:] if value.ndim == 2 else value for name, value in part.items()}
