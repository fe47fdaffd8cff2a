r"""Which layer and position a direction is taken from, by what it does (Arditi et al. 2024, C).

Candidates are the mean differences between positive and negative prompts at every layer's input and
every token between the instruction and the answer. Three numbers come from validation prompts, with
a readout that is high for what positives do:

==========  ======================================================================================
``bypass``  readout on positives with the direction ablated from the whole residual stream
``induce``  readout on negatives with the raw difference added at its own layer's input
``kl``      :math:`\mathrm{KL}(p_{\mathrm{base}} \,\|\, p_{\mathrm{ablated}})` of the next token on
            negatives, in nats: what ablating costs where it should cost nothing
==========  ======================================================================================

Chosen is the lowest bypass among candidates that cost little, induce the behaviour, and lie in the
first 80% of the layers, behind which a direction would be the output tokens' own. The paper keeps
only positives whose readout is above 0 and negatives below 0; so does :func:`score_candidates`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import batches_by_length, chosen_layers, collect
from interp.chat import Tokens
from interp.errors import InputError
from interp.interventions import ablate, add
from interp.model import LanguageModel
from interp.positions import Positions, post_instruction
from interp.readout import Readout
from interp.sites import RESIDUAL_IN
from interp.undisturbed import undisturbed

if TYPE_CHECKING:
    import pandas as pd

# Arditi et al. 2024, appendix C.
SHARE_OF_LAYERS = 0.8
KL_AT_MOST = 0.1
INDUCE_AT_LEAST = 0.0
# Of a state's length: states are kept in float32.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Choice:
    """The chosen direction.

    Attributes:
        layer: 0-based decoder layer, at whose input it was taken.
        position: token counted from the prompt's end, -1 the last.
        direction: the mean difference, raw length.
    """

    layer: int
    position: int
    direction: Float[np.ndarray, " d_model"]


@dataclass(frozen=True)
class Candidates:
    """Directions by layer and position, and what each does to every validation prompt.

    Attributes:
        layers, positions: where they were taken; positions are counted from the prompt's end.
        directions: mean differences, positives minus negatives, in float64.
        bypass, induce, kl: see the module.
        positive, negative: readouts of the model as it is.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    directions: Float[np.ndarray, "layer position d_model"]
    bypass: Float[np.ndarray, "layer position positive"]
    induce: Float[np.ndarray, "layer position negative"]
    kl: Float[np.ndarray, "layer position negative"]
    positive: Float[np.ndarray, " positive"]
    negative: Float[np.ndarray, " negative"]

    def allowed(
        self, *, kl_at_most: float = KL_AT_MOST, induce_at_least: float = INDUCE_AT_LEAST
    ) -> Bool[np.ndarray, "layer position"]:
        """Which candidates cost little and induce the behaviour; NaN is never allowed."""
        bypass, induce, kl = (x.mean(axis=-1) for x in (self.bypass, self.induce, self.kl))
        return np.isfinite(bypass) & (kl <= kl_at_most) & (induce >= induce_at_least)

    def best(
        self, *, kl_at_most: float = KL_AT_MOST, induce_at_least: float = INDUCE_AT_LEAST
    ) -> Choice:
        """The allowed candidate with the lowest mean bypass.

        Raises:
            InputError: none is allowed.
        """
        allowed = self.allowed(kl_at_most=kl_at_most, induce_at_least=induce_at_least)
        if not allowed.any():
            kl, induce = self.kl.mean(axis=-1), self.induce.mean(axis=-1)
            raise InputError(
                f"none of {allowed.size} directions is allowed: {(kl > kl_at_most).sum()} cost "
                f"over {kl_at_most:g} nats, {(induce < induce_at_least).sum()} do not reach "
                f"{induce_at_least:g} when added, {(~np.isfinite(kl)).sum()} are no numbers; see "
                "to_dataframe(), or give more prompts"
            )
        return self.choice(np.where(allowed, self.bypass.mean(axis=-1), np.inf).argmin())

    def choice(self, index: int | np.intp) -> Choice:
        """The candidate with this number, counted by layer, then position."""
        layer, position = np.unravel_index(index, self.kl.shape[:2])
        direction = self.directions[layer, position]
        return Choice(self.layers[layer], self.positions[position], direction)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per candidate: layer, position, norm, the three means, and whether allowed."""
        import pandas as pd

        layer, position = (index.ravel() for index in np.indices(self.kl.shape[:2]))
        means = {name: getattr(self, name).mean(axis=-1).ravel() for name in _SCORES}
        return pd.DataFrame(
            {
                "layer": np.array(self.layers)[layer],
                "position": np.array(self.positions)[position],
                "norm": np.linalg.norm(self.directions, axis=-1).ravel(),
                **means,
                "allowed": self.allowed().ravel(),
            }
        )


_SCORES = ("bypass", "induce", "kl")


@dataclass(frozen=True)
class Prompts:
    """Prompts that show a behaviour and prompts that do not."""

    positive: Sequence[str]
    negative: Sequence[str]


def score_candidates(
    lm: LanguageModel,
    train: Prompts,
    validation: Prompts,
    readout: Readout,
    *,
    layers: Sequence[int] | None = None,
    positions: Positions = post_instruction,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Candidates:
    """Fit a direction at every layer and position on ``train``, and try each on ``validation``.

    Args:
        lm: the model.
        train, validation: different prompts; the paper has 128 and 32 of each kind.
        readout: of the last logits; above 0 where a prompt is answered as positives are.
        layers: 0-based; by default the first 80%, the only ones that may be chosen.
        positions: tokens at the prompts' end.
        batch_size: prompts in one forward.
        progress: called with the number of candidates just tried on a batch.

    Raises:
        InputError: no prompt of a kind has its readout on the right side of 0.
    """
    tried = chosen_layers(
        lm, range(int(SHARE_OF_LAYERS * lm.n_layers)) if layers is None else layers
    )
    kept = [
        _right_side(lm, prompts, sign, readout, batch_size)
        for prompts, sign in (
            (train.positive, 1),
            (train.negative, -1),
            (validation.positive, 1),
            (validation.negative, -1),
        )
    ]
    means = []
    for rows, _ in kept[:2]:
        options = {"layers": tried, "positions": positions, "sites": [RESIDUAL_IN]}
        states = collect(lm, rows, batch_size=batch_size, **options)[RESIDUAL_IN]  # type: ignore[arg-type]
        means.append(states.mean(axis=0, dtype=np.float64))
    # Positions are aligned at the prompts' ends; some have more of them than others.
    count = min(mean.shape[1] for mean in means)
    directions = _difference(*(mean[:, -count:] for mean in means))
    whole = ~np.isnan(directions).any(axis=(0, 2))
    offsets = tuple(int(i) for i in np.arange(-count, 0)[whole])
    directions = directions[:, whole]
    (rows_positive, positive), (rows_negative, negative) = kept[2:]
    bypass = np.empty((*directions.shape[:2], len(positive)))
    induce, kl = np.empty((2, *directions.shape[:2], len(negative)))
    trial = _Trial(lm, readout, directions, tried, progress)
    for chosen in batches_by_length(rows_positive, batch_size):
        bypass[:, :, chosen] = trial.on_positives([rows_positive[i] for i in chosen])
    for chosen in batches_by_length(rows_negative, batch_size):
        found = trial.on_negatives([rows_negative[i] for i in chosen])
        induce[:, :, chosen], kl[:, :, chosen] = found
    return Candidates(tried, offsets, directions, bypass, induce, kl, positive, negative)


@dataclass(frozen=True)
class _Trial:
    """All candidates on one batch of prompts."""

    lm: LanguageModel
    readout: Readout
    directions: Float[np.ndarray, "layer position d_model"]
    layers: tuple[int, ...]
    progress: Callable[[int], None] | None

    def on_positives(self, rows: Sequence[Tokens]) -> Float[np.ndarray, "layer position prompt"]:
        bypass = np.empty((*self.directions.shape[:2], len(rows)))
        for i, j in np.ndindex(bypass.shape[:2]):
            with self._ablated(self.directions[i, j]):
                bypass[i, j] = _values(self.readout(_last_logits(self.lm, rows)))
            self._done()
        return bypass

    def on_negatives(
        self, rows: Sequence[Tokens]
    ) -> tuple[
        Float[np.ndarray, "layer position prompt"], Float[np.ndarray, "layer position prompt"]
    ]:
        induce, kl = np.empty((2, *self.directions.shape[:2], len(rows)))
        base = _last_logits(self.lm, rows)
        for i, j in np.ndindex(induce.shape[:2]):
            direction = self.directions[i, j]
            with self._ablated(direction):
                kl[i, j] = _values(divergence(base, _last_logits(self.lm, rows)))
            with add(self.lm, direction, layers=[self.layers[i]], sites=[RESIDUAL_IN]):
                induce[i, j] = _values(self.readout(_last_logits(self.lm, rows)))
            self._done()
        return induce, kl

    def _ablated(self, direction: Float[np.ndarray, " d_model"]) -> AbstractContextManager[None]:
        return ablate(self.lm, direction) if direction.any() else nullcontext()

    def _done(self) -> None:
        if self.progress is not None:
            self.progress(1)


def _difference(
    positive: Float[np.ndarray, "layer position d_model"],
    negative: Float[np.ndarray, "layer position d_model"],
) -> Float[np.ndarray, "layer position d_model"]:
    """Zero where it is nothing but rounding: the template's own embeddings are in every prompt."""
    difference = positive - negative
    length, scale = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (difference, positive))
    return np.where(length > ROUNDING * scale, difference, 0.0 * difference)


def divergence(
    base: Float[Tensor, "batch vocab"], other: Float[Tensor, "batch vocab"]
) -> Float[Tensor, " batch"]:
    """KL(base ‖ other) of the next token, in nats and float64; a token with no mass adds none."""
    p, q = (logits.cpu().double().log_softmax(dim=-1) for logits in (base, other))
    terms = p.exp() * (p - q)
    return terms.masked_fill(p.isneginf(), 0.0).sum(dim=-1)


def _right_side(
    lm: LanguageModel, prompts: Sequence[str], sign: int, readout: Readout, batch_size: int
) -> tuple[list[Tokens], Float[np.ndarray, " kept"]]:
    rows = [lm.chat.encode(prompt) for prompt in prompts]
    values = np.empty(len(rows))
    for chosen in batches_by_length(rows, batch_size):
        values[chosen] = _values(readout(_last_logits(lm, [rows[i] for i in chosen])))
    kept = np.flatnonzero(sign * values > 0)
    if not len(kept):
        kind = "positive prompts has a readout above" if sign > 0 else "negative ones has one below"
        raise InputError(f"none of {len(rows)} {kind} 0: the model does not tell them apart")
    return [rows[i] for i in kept], values[kept]


def _last_logits(lm: LanguageModel, rows: Sequence[Tokens]) -> Float[Tensor, "batch vocab"]:
    with undisturbed(lm.model):
        return lm.logits(lm.chat.pad(rows, lm.device), keep=1)[:, -1]


def _values(values: Tensor) -> Float[np.ndarray, " batch"]:
    return values.detach().cpu().double().numpy()
