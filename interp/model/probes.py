"""The forwards of the self-check: short rows of ordinary tokens, and what layers and logits are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.model.batching import is_out_of_memory
from interp.model.chat import Tokens
from interp.model.hooks import hidden_into, hidden_of, with_hidden

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

# Long enough for the sparse attention of small models to leave tokens out for padding.
SHORT, LONG, STEPS = 24, 70, 3  # tokens

Ids = tuple[int, ...]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Seen:
    """What a forward over some rows gave.

    Attributes:
        logits: of all tokens, or of those that were asked for.
        into, out: what entered and left each layer, by the number of the layer, in the order of
            their calls; one entry for each call.
        lengths: of the rows, which end in the last column.
    """

    logits: Float[Tensor, "batch token vocab"]
    into: list[tuple[int, Any]]
    out: list[tuple[int, Any]]
    lengths: tuple[int, ...]

    def difference(self, row: int, alone: Seen, *, states: bool) -> float:
        """Largest relative difference of a row from the same row ``alone``."""
        length = self.lengths[row]
        pairs = [(self.logits, alone.logits)]
        if states:
            pairs += [(a, b) for (_, a), (_, b) in zip(self.out, alone.out, strict=True)]
        return max(relative_difference(a[row : row + 1, -length:], b) for a, b in pairs)


def run(
    lm: LanguageModel,
    rows: Sequence[Ids],
    *,
    keep: int | None = None,
    edit: tuple[int, Callable[[Tensor], Tensor]] | None = None,
) -> Seen:
    """A forward over ``rows``, left-padded, with what the layers got and gave.

    Args:
        keep: the model's ``logits_to_keep``; all by default.
        edit: a layer and a function of its output.
    """
    batch = lm.chat.pad([Tokens(row, {}) for row in rows], lm.device)
    into: list[tuple[int, Any]] = []
    out: list[tuple[int, Any]] = []
    with ExitStack() as stack:
        for i, layer in enumerate(_layers(lm)):
            stack.enter_context(_watched(layer, i, into, out))
            if edit is not None and edit[0] == i:
                stack.enter_context(_edited(layer, edit[1]))
        options = {} if keep is None else {"logits_to_keep": keep}
        logits = lm.model(**lm.inputs(batch), **options, use_cache=False).logits
    return Seen(logits, into, out, tuple(map(len, rows)))


def _layers(lm: LanguageModel) -> Sequence[nn.Module]:
    try:
        return list(lm.layers)
    except ModelError:
        return []


@contextmanager
def _watched(layer: nn.Module, i: int, into: list, out: list) -> Iterator[None]:
    def before(_module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        try:
            into.append((i, hidden_into(arguments, keywords)))
        except KeyError:
            into.append((i, None))

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        out.append((i, hidden_of(output)))

    reads_input = layer.register_forward_pre_hook(before, with_kwargs=True)
    with reads_input, layer.register_forward_hook(after):
        yield


@contextmanager
def _edited(layer: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return with_hidden(output, edit(hidden_of(output)))

    with layer.register_forward_hook(after):
        yield


def tried(work: Callable[[], Result]) -> Result | None:
    """The result of ``work``; None where the model's code raises anything but for memory."""
    try:
        return work()
    except Exception as error:  # whatever a model's code raises
        if is_out_of_memory(error):
            raise
        return None


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """Largest over tokens of the distance, relative to the length of what was wanted."""
    if found.shape != wanted.shape:
        return math.inf
    found, wanted = found.float(), wanted.to(found.device).float()
    known = torch.isfinite(wanted)
    if not torch.equal(known, torch.isfinite(found)):
        return math.inf
    found, wanted = found.where(known, 0), wanted.where(known, 0)
    size = (wanted - wanted.mean(dim=-1, keepdim=True)).norm(dim=-1)
    distance = (found - wanted).norm(dim=-1)
    return float((distance / size.clamp(min=torch.finfo(torch.float32).tiny)).max())


def probe_tokens(lm: LanguageModel) -> Tokens:
    """A prompt that is in no data, for checks of a model: up to 70 ordinary tokens."""
    return Tokens(some_prompts(lm)[2], {})


def some_prompts(lm: LanguageModel) -> tuple[Ids, Ids, Ids]:
    """Three rows of ordinary tokens without a repetition; two of them have the same length."""
    special = {*lm.tokenizer.all_special_ids, *getattr(lm.tokenizer, "added_tokens_decoder", {})}
    config = lm.model.config.get_text_config(decoder=True)
    vocabulary = min(len(lm.tokenizer), int(getattr(config, "vocab_size", len(lm.tokenizer))))
    ordinary = [i for i in range(vocabulary) if i not in special] or list(range(vocabulary))
    most = getattr(config, "max_position_embeddings", None) or LONG + STEPS
    long = max(SHORT + 1, min(LONG, most - STEPS))
    count = 2 * SHORT + long
    chosen = [ordinary[(i * len(ordinary)) // count] for i in range(count)]
    # Neighbours in a vocabulary are alike (bytes, then short words), so mix them.
    mixed = [chosen[(113 * i) % count] for i in range(count)]
    return tuple(mixed[:SHORT]), tuple(mixed[SHORT : 2 * SHORT]), tuple(mixed[2 * SHORT :])
