r"""Check a model: whether it does what every other module takes for granted.

Nothing here depends on the name of a family. Each property is measured with a few forwards over
some tokens, against the plainest computation: one row, no padding, no cache, all logits. These are
the properties, and what happens where one does not hold:

- **Repetition.** The same prompt has the same logits again, after other prompts and generation.
  Otherwise the model keeps states between forwards, or draws random numbers, and is refused.
- **Stream.** The found layers are called one after the other, each output has the shape (batch,
  token, d_model) and enters the next layer, and tokens read each other only inside them. Otherwise
  nothing reads or edits states.
- **Order.** The logits of a token stay the same whatever follows it. Otherwise prefixes of answers
  are read with one forward each, and it is said that whole answers are not.
- **Batches.** A left-padded row, and a row next to another one of its length, have the logits and
  states of the row alone. Otherwise batches hold rows of equal length, or one row.
- **Decoding.** Three steps of generation with a cache give the logits of the forward. Otherwise
  answers are generated in smaller batches, or without a cache.
- **Last logits.** ``logits_to_keep`` gives the last of all logits, and every layer still sees all
  tokens. Otherwise all logits are computed.
- **Bypass.** The states after a layer determine the logits. Otherwise something passes by the
  stream (token embeddings, keys and values of earlier layers, a router's state), and edits at a
  layer do not act on it.

A difference is relative to the length of a state, or of the logits of a token minus their mean; the
largest over tokens counts. It must exceed :math:`\sqrt{\varepsilon}` of the dtype, and 8 times what
rounding does: the difference between a row alone and the same row in a batch of two copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from interp.errors import ModelError
from interp.model.batching import is_out_of_memory
from interp.model.generation_checks import decoding_batches, last_logits_hold
from interp.model.hooks import probing, undisturbed
from interp.model.probes import SHORT, Ids, Seen, relative_difference, run, some_prompts, tried
from interp.model.self_check import Rows, SelfCheck
from interp.model.stream_checks import bypass_sizes, mixing_fault, stream_fault

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

NOISE = 8.0


def check_model(lm: LanguageModel) -> SelfCheck:
    """Check ``lm`` with some 18 small forwards; interventions do not act on them.

    Raises:
        ModelError: the model does not run on a short prompt, not twice with the same logits, its
            logits are NaN, or it pads with a token that it does not know.
    """
    offloaded = any(hasattr(module, "_hf_hook") for module in lm.model.modules())
    if not offloaded and any(parameter.is_meta for parameter in lm.model.parameters()):
        return SelfCheck(measured=False)
    short, other, long = some_prompts(lm)
    with undisturbed(lm.model), probing():
        first = _first_forward(lm, short)
        _require_padding(lm)
        found = _check(lm, short, other, long)
        _require_repetition(lm, short, first, found.limit)
    return found


def _first_forward(lm: LanguageModel, row: Ids) -> Seen:
    try:
        seen = run(lm, [row])
    except Exception as error:  # whatever a model's code raises
        if is_out_of_memory(error):
            raise
        said = (str(error).strip() or "no reason given").splitlines()[0]
        raise ModelError(
            f"{lm.name} does not run on a prompt of {SHORT} tokens ({type(error).__name__}: "
            f"{said}); check that model and tokenizer belong together"
        ) from error
    if seen.logits.isnan().any():
        raise ModelError(
            f"{lm.name} gives NaN as logits: its weights hold NaN, or its states are too large for "
            f"{_dtype(lm)}; give another checkpoint, or this one in float32"
        )
    return seen


def _check(lm: LanguageModel, short: Ids, other: Ids, long: Ids) -> SelfCheck:
    alone = {row: run(lm, [row]) for row in (short, other, long)}
    stream = stream_fault(lm, alone[short])

    def apart(rows: Sequence[Ids]) -> list[float]:
        """How far each row is from the row alone."""
        together = tried(lambda: run(lm, rows))
        if together is None:
            return [math.inf]
        return [together.difference(i, alone[row], states=not stream) for i, row in enumerate(rows)]

    floor = _rounding_limit(lm)
    noise = max(apart([short, short]))
    limit = floor + NOISE * min(noise, floor)
    sizes = {"noise": noise}

    def far(name: str, difference: float) -> bool:
        sizes[name] = difference
        return not difference <= limit

    longer = run(lm, [short + other]).logits[:, : len(short)]
    causal = not far("later", relative_difference(longer, alone[short].logits))
    rows: Rows = "padded"
    if far("padding", max(apart([short, long]))):
        rows = "single" if far("together", max(apart([short, other]))) else "equal"
    if not stream:
        stream = mixing_fault(lm, alone[short], alone[other], (short, other), limit)
    bypasses = {} if stream else bypass_sizes(lm, short, alone[other])
    bypassed = tuple(layer for layer, size in bypasses.items() if far("bypass", size))
    if bypasses:
        far("bypass", max(bypasses.values()))
    decoding, cache, generates = decoding_batches(lm, (short, other, long), rows, far)
    kept = last_logits_hold(lm, long, alone[long], far)
    return SelfCheck(stream, causal, rows, decoding, cache, generates, kept, bypassed, sizes, limit)


def _rounding_limit(lm: LanguageModel) -> float:
    """The least relative difference that is not rounding: :math:`\\sqrt{\\varepsilon}`."""
    # Models in float64 compute parts in float32.
    return math.sqrt(max(torch.finfo(_dtype(lm)).eps, torch.finfo(torch.float32).eps))


def _require_repetition(lm: LanguageModel, row: Ids, first: Seen, limit: float) -> None:
    again = tried(lambda: run(lm, [row]))
    change = math.inf if again is None else relative_difference(again.logits, first.logits)
    if not change <= limit:
        raise ModelError(
            f"{lm.name} gives the same prompt other logits after other prompts (they differ by "
            f"{change:.1%} of their size): it keeps states between forwards, or draws random "
            "numbers in eval mode, so no result could be repeated; give another model"
        )


def _require_padding(lm: LanguageModel) -> None:
    try:
        embeddings = getattr(lm.model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):  # not every model has or names its embeddings
        return
    pad = lm.chat.pad_id
    if embeddings is not None and pad >= embeddings:
        raise ModelError(
            f"{lm.name} has {embeddings} token embeddings, but its tokenizer pads with token {pad}"
            "; set the tokenizer's pad_token to a token that the model knows"
        )


def _dtype(lm: LanguageModel) -> torch.dtype:
    return next(p.dtype for p in lm.model.parameters() if p.dtype.is_floating_point)
