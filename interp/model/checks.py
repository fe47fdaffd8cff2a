r"""Check a model: whether it does what every other module takes for granted.

Nothing here depends on the name of a family. Each property is measured with a few forwards over
some tokens, against the plainest computation: one row, no padding, no cache, all logits. These are
the properties, and what happens where one does not hold:

- **Stream.** The found layers are called one after the other, each output has the shape (batch,
  token, d_model) and enters the next layer, and tokens read each other only inside them. Otherwise
  nothing reads or edits states.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.model.batching import is_out_of_memory
from interp.model.chat import Tokens
from interp.model.hooks import hidden_into, hidden_of, probing, undisturbed, with_hidden
from interp.model.self_check import Rows, SelfCheck

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

# Long enough for the sparse attention of small models to leave tokens out for padding.
SHORT, LONG, STEPS = 24, 70, 3  # tokens
NOISE = 8.0

Ids = tuple[int, ...]


def check_model(lm: LanguageModel) -> SelfCheck:
    """Check ``lm`` with some 15 small forwards; interventions do not act on them."""
    offloaded = any(hasattr(module, "_hf_hook") for module in lm.model.modules())
    if not offloaded and any(parameter.is_meta for parameter in lm.model.parameters()):
        return SelfCheck(measured=False)
    short, other, long = _some_prompts(lm)
    with undisturbed(lm.model), probing():
        try:
            run(lm, [short])
        except Exception as error:  # whatever a model's code raises
            if is_out_of_memory(error):
                raise
            said = (str(error).strip() or "no reason given").splitlines()[0]
            raise ModelError(
                f"{lm.name} does not run on a prompt of {SHORT} tokens ({type(error).__name__}: "
                f"{said}); check that model and tokenizer belong together"
            ) from error
        _require_padding(lm)
        return _check(lm, short, other, long)


def _rounding_limit(lm: LanguageModel) -> float:
    """The least relative difference that is not rounding: :math:`\\sqrt{\\varepsilon}`."""
    # Models in float64 compute parts in float32.
    return math.sqrt(max(torch.finfo(_dtype(lm)).eps, torch.finfo(torch.float32).eps))


def _check(lm: LanguageModel, short: Ids, other: Ids, long: Ids) -> SelfCheck:
    alone = {row: run(lm, [row]) for row in (short, other, long)}
    stream = _stream_fault(lm, alone[short])
    copies = run(lm, [short, short])
    floor = _rounding_limit(lm)
    noise = max(copies.difference(i, alone[short], states=not stream) for i in range(2))
    limit = floor + NOISE * min(noise, floor)
    sizes = {"noise": noise}

    def far(name: str, difference: float) -> bool:
        sizes[name] = difference
        return not difference <= limit

    def apart(rows: Sequence[Ids]) -> float:
        together = run(lm, rows)
        return max(
            together.difference(i, alone[row], states=not stream) for i, row in enumerate(rows)
        )

    rows: Rows = "padded"
    if far("padding", apart([short, long])):
        rows = "single" if far("together", apart([short, other])) else "equal"
    if not stream:
        stream = _mixing_fault(lm, alone[short], alone[other], (short, other), limit)
    bypassed = [] if stream else _bypassed(lm, short, alone[other], far)
    decoding, cache, generates = _decoding(lm, (short, other, long), rows, far)
    return SelfCheck(
        stream,
        rows,
        decoding,
        cache,
        generates,
        _last_logits(lm, long, alone[long], far),
        tuple(bypassed),
        sizes,
        limit,
    )


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
        return max(_difference(a[row : row + 1, -length:], b) for a, b in pairs)


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


def _stream_fault(lm: LanguageModel, seen: Seen) -> str:
    """Why the layers' outputs are not a residual stream; empty if they are one."""
    try:
        count = lm.n_layers
    except ModelError as error:
        return str(error)
    called = [i for i, _ in seen.out]
    if called != list(range(count)):
        return f"its {count} layers are called in the order {called}, expected once each, in order"
    expected = (1, seen.lengths[0], lm.d_model)
    for (i, before), (_, after) in zip(seen.into, seen.out, strict=True):
        for name, states in (("output", after), ("input", before)):
            if not isinstance(states, Tensor):
                return f"the {name} of layer {i} is {_kind(states)}, expected a tensor"
            if tuple(states.shape) != expected:
                return (
                    f"the layers' {name} has shape {tuple(states.shape)}, expected (batch, token, "
                    f"d_model) = {expected}"
                )
    for (i, after), (_, before) in zip(seen.out, seen.into[1:], strict=False):
        if not torch.equal(after, before.to(after.device)):
            return f"the output of layer {i} is not the input of layer {i + 1}"
    return ""


def _kind(states: Any) -> str:
    return "missing" if states is None else f"a {type(states).__name__}"


def _mixing_fault(
    lm: LanguageModel, one: Seen, two: Seen, ids: tuple[Ids, Ids], limit: float
) -> str:
    """Whether tokens read each other before the first of the layers or after the last one."""
    short, other = ids
    swapped = run(lm, [(other[0], *short[1:])])
    if _difference(swapped.into[0][1][:, 1:], one.into[0][1][:, 1:]) > limit:
        return (
            f"tokens read each other before layer 0, so the {lm.n_layers} layers found are not "
            "all; name the list of all layers with layers_path"
        )
    mine = torch.arange(len(short), device=lm.device)[:, None] == len(short) - 1
    last = lm.n_layers - 1
    swapped = run(
        lm, [short], edit=(last, lambda states: torch.where(mine, states, two.out[last][1]))
    )
    wanted = torch.where(mine, one.logits, two.logits)
    if _difference(swapped.logits, wanted) > limit:
        return (
            f"the output of layer {last} does not determine the logits token by token, so the "
            f"{lm.n_layers} layers found are not all; name the list of all with layers_path"
        )
    return ""


def _bypassed(
    lm: LanguageModel, short: Ids, other: Seen, far: Callable[[str, float], bool]
) -> list[int]:
    """Layers, of a few, where another prompt's states do not give that prompt's logits."""
    count = lm.n_layers
    sizes = {}
    for layer in sorted({0, count // 2, max(count - 2, 0)}):
        put = run(lm, [short], edit=(layer, partial(_instead, other.out[layer][1])))
        sizes[layer] = _difference(put.logits, other.logits)
    found = [layer for layer, size in sizes.items() if far("bypass", size)]
    far("bypass", max(sizes.values()))
    return found


def _instead(new: Tensor, _old: Tensor) -> Tensor:
    return new


def _last_logits(
    lm: LanguageModel, row: Ids, full: Seen, far: Callable[[str, float], bool]
) -> bool:
    if "logits_to_keep" not in lm.forward_options:
        return False
    found = run(lm, [row], keep=2)
    if [_shape(states) for _, states in found.out] != [_shape(states) for _, states in full.out]:
        return False
    return not far("last_logits", _difference(found.logits[:, -2:], full.logits[:, -2:]))


def _shape(states: Any) -> tuple[int, ...]:
    return tuple(getattr(states, "shape", ()))


def _decoding(
    lm: LanguageModel, ids: tuple[Ids, Ids, Ids], rows: Rows, far: Callable[[str, float], bool]
) -> tuple[Rows, bool, bool]:
    """Batches in which generation equals the forward; whether it does so with a cache; at all."""
    if not hasattr(lm.model, "generate"):
        return rows, True, True
    short, other, long = ids
    forced = other[:STEPS]
    wanted = [run(lm, [short + forced[:step]]).logits[:, -1] for step in range(STEPS)]
    batches: dict[Rows, list[Ids]] = {
        "padded": [short, long],
        "equal": [short, other],
        "single": [short],
    }
    kinds = list(batches)[list(batches).index(rows) :]
    for cache in (True, False):
        for kind in kinds:
            found = _generated(lm, batches[kind], forced, cache=cache)
            sizes = [_difference(*pair) for pair in zip(found, wanted, strict=False)]
            name = f"decoding_{kind}" if cache else f"decoding_{kind}_without_cache"
            if not far(name, max(sizes, default=math.inf)):
                return kind, cache, True
    return "single", False, False


def _generated(
    lm: LanguageModel, rows: Sequence[Ids], forced: Ids, *, cache: bool
) -> list[Float[Tensor, "1 vocab"]]:
    """The first row's logits at every step; none if the model cannot generate in this way."""
    batch = lm.chat.pad([Tokens(row, {}) for row in rows], lm.device)
    width = batch.input_ids.shape[1]

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, -math.inf)
        only[:, forced[ids.shape[1] - width]] = 0.0
        return only

    try:
        output = lm.model.generate(  # type: ignore[operator]
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=len(forced),
            do_sample=False,
            num_beams=1,
            use_cache=cache,
            pad_token_id=0,
            logits_processor=[force],
            return_dict_in_generate=True,
            output_logits=True,
        )
    except Exception as error:  # whatever a model's code raises
        if is_out_of_memory(error):
            raise
        return []
    return [logits[:1] for logits in output.logits]


def _difference(found: Tensor, wanted: Tensor) -> float:
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


def probe_tokens(lm: LanguageModel) -> Tokens:
    """A prompt that is in no data, for checks of a model: up to 70 ordinary tokens."""
    return Tokens(_some_prompts(lm)[2], {})


def _some_prompts(lm: LanguageModel) -> tuple[Ids, Ids, Ids]:
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


def _dtype(lm: LanguageModel) -> torch.dtype:
    return next(p.dtype for p in lm.model.parameters() if p.dtype.is_floating_point)
