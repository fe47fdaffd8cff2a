r"""The direction gate: does one direction mediate a behaviour, in both ways?

In chat models one direction mediates refusal: without it, harmful prompts are answered; with it,
benign prompts are refused (Arditi et al. 2024). The gate tests this for any readout that is high
where the model shows the behaviour of positive prompts:

==========  ======================================================================================
``bypass``  mean readout on positives with the component along the direction set to its mean over
            negatives, per layer and place, from the direction's layer on (affine editing, Marshall
            et al. 2024, arXiv 2411.09003; :mod:`interp.interventions.affine`)
``induce``  mean readout on negatives with the raw mean difference added at its own layer
``kl``      KL(base ‖ edited) of the next token on negatives, in nats, under the edit of ``bypass``
==========  ======================================================================================

Only positives with a readout above 0 and negatives with a readout below 0 are used. Candidates are
the pooled mean difference at some layers and places, then, at the best of these, each group's own
mean difference. The candidate is chosen on validation prompts. It passes if on test prompts bypass
is below 0, induce above 0, KL below .15, and both effects are beyond those of random and of
covariance-matched directions of equal length. Subspaces of rank k and the zero form (Arditi's
ablation of the same direction) are reported next to it. All edits spare tokens of massive
activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import RESIDUAL_IN, massive_activations
from interp.errors import InputError
from interp.interventions import ablate, add
from interp.interventions.affine import TokenMeans, set_to_means
from interp.model import LanguageModel, Tokens, map_in_batches, undisturbed
from interp.numbers import evenly_spread
from interp.patching import read_all
from interp.progress import Advance, silent
from interp.readout import Readout, last_logits
from interp.selection.gate_prompts import (
    FEWEST_HELD_OUT,
    POOLED,
    Fitted,
    Sides,
    fit_of,
    sides_of,
    training_sides_of,
)
from interp.selection.gate_result import DirectionGate, Effect, GateCandidate, ZeroForm
from interp.selection.gate_statistics import (
    best_candidate,
    beyond,
    covariance_matched_directions,
    null_p_value,
    random_directions,
    shared_subspace,
)
from interp.selection.journal import Journal
from interp.selection.trials import Prompts, next_token_divergence
from interp.statistics import mean_of


def measure_gate(
    lm: LanguageModel,
    train: Mapping[str, Prompts],
    validation: Prompts,
    test: Prompts,
    readout: Readout,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    draws: int = 19,
    choosing_prompts: int = 24,
    null_prompts: int = 24,
    batch_size: int = 32,
    seed: int = 0,
    progress: Advance = silent,
    kept: Path | None = None,
) -> DirectionGate:
    """Choose a direction on validation prompts, and test it on test prompts.

    Args:
        lm: the model.
        train: disjoint from the others, by group; each group may have its own direction.
        validation, test: prompts to choose and to report on.
        readout: one number per prompt; above 0 if the model treats a prompt like a positive.
        layers: 0-based; by default at most 8 of the first 80%, evenly spread.
        positions: tokens of the candidates, counted from the prompt's end (-1 is the last); by
            default all after the instruction in a model of at most 8 layers, else the last.
        draws: null directions of each kind; with fewer than 19, the direction must beat all.
        choosing_prompts, null_prompts: most validation prompts of each kind for the choice, and
            most test prompts for the nulls.
        batch_size: prompts in one forward.
        seed: of the nulls.
        progress: called with the number of prompts just read under an edit.
        kept: a file that keeps what was read under each edit, so that an interrupted call with the
            same arguments goes on. Its name holds the weights, the prompts and the readout.

    Raises:
        InputError: the model shows the behaviour on too few positives, or on too many negatives.
    """
    with undisturbed(lm.model):
        sides, groups = training_sides_of(lm, train, readout, batch_size)
        held_out = [
            sides_of(lm, part, readout, batch_size, FEWEST_HELD_OUT, name)
            for part, name in ((validation, "validation"), (test, "test"))
        ]
        fitted = fit_of(lm, sides, groups, layers, positions, batch_size)
        run = Trial(lm, fitted.means, readout, batch_size, progress, Journal(kept))
        choosing = held_out[0].first(choosing_prompts)
        candidates = _candidates(run, fitted, choosing)
        chosen = _best([candidate for candidate in candidates if candidate.rank == 1])
        return _reported(run, fitted, chosen, candidates, held_out[1], draws, null_prompts, seed)


@dataclass(frozen=True)
class Trial:
    """Readouts under an edit of the model."""

    lm: LanguageModel
    means: TokenMeans
    readout: Readout
    batch_size: int
    progress: Advance
    journal: Journal = field(default_factory=lambda: Journal(None))

    def bypass(self, rows: list[Tokens], vectors: np.ndarray, layer: int) -> np.ndarray:
        return self.read(rows, self.affine(rows, vectors, layer))

    def induce(self, rows: list[Tokens], vector: np.ndarray, layer: int) -> np.ndarray:
        return self.read(rows, add(self.lm, vector, layers=[layer], sites=[RESIDUAL_IN]))

    def kl(self, rows: list[Tokens], edit: AbstractContextManager[None]) -> np.ndarray:
        def read() -> np.ndarray:
            base = self.logits(rows)
            with edit:
                changed = self.logits(rows)
            return next_token_divergence(base, changed).numpy()

        return self._found(rows, read)

    def affine(
        self, rows: list[Tokens], vectors: np.ndarray, layer: int
    ) -> AbstractContextManager[None]:
        return set_to_means(self.lm, vectors, self.means, first_layer=layer, rows=rows)

    def read(self, rows: list[Tokens], edit: AbstractContextManager[None]) -> np.ndarray:
        def read() -> np.ndarray:
            with edit:
                return read_all(self.lm, rows, self.readout, self.batch_size)

        return self._found(rows, read)

    def _found(self, rows: list[Tokens], read: Callable[[], np.ndarray]) -> np.ndarray:
        values = self.journal(read)
        self.progress(len(rows))
        return values

    def logits(self, rows: list[Tokens]) -> Float[Tensor, "prompt vocab"]:
        """The next token's logits after each row."""

        def read(chosen: list[int]) -> Float[Tensor, "chosen vocab"]:
            return last_logits(self.lm, [rows[i] for i in chosen]).float().cpu()

        together = self.lm.together(rows)
        return torch.stack(map_in_batches(read, rows, self.batch_size, together=together))


def _candidates(run: Trial, fitted: Fitted, on: Sides) -> list[GateCandidate]:
    """Pooled directions everywhere; then, at the best place, own directions and subspaces."""
    found = []
    for layer in fitted.layers:
        for offset in fitted.offsets:
            direction = fitted.difference(layer, offset)
            if direction is not None and _distinct(fitted, direction, layer, offset):
                found.append(_tried(run, on, POOLED, layer, offset, direction, direction[None]))
    if not found:
        raise InputError("positives and negatives have equal mean states at every layer tried")
    best = _best(found)
    own = []
    for group in sorted(set(fitted.groups[0])):
        direction = fitted.difference(best.layer, best.position, group)
        if direction is not None and direction.any():
            own.append(direction)
            found.append(
                _tried(run, on, group, best.layer, best.position, direction, direction[None])
            )
    for rank in sorted({2, len(own)} - {0, 1}) if len(own) > 1 else ():
        basis = shared_subspace(np.array(own), rank)
        name = f"subspace of rank {rank}"
        found.append(_tried(run, on, name, best.layer, best.position, best.direction, basis))
    return found


def _best(candidates: Sequence[GateCandidate]) -> GateCandidate:
    bypass, induce, kl = np.array([(one.bypass, one.induce, one.kl) for one in candidates]).T
    return candidates[best_candidate(bypass, induce, kl)]


def _tried(
    run: Trial,
    on: Sides,
    kind: str,
    layer: int,
    position: int,
    direction: np.ndarray,
    vectors: np.ndarray,
) -> GateCandidate:
    bypass = run.bypass(on.positive, vectors, layer).mean()
    added = direction if len(vectors) == 1 else direction @ vectors.T @ vectors
    induce = run.induce(on.negative, added, layer).mean()
    kl = run.kl(on.negative, run.affine(on.negative, vectors, layer)).mean()
    return GateCandidate(
        kind, layer, position, len(vectors), direction, float(bypass), float(induce), float(kl)
    )


def _reported(
    run: Trial,
    fitted: Fitted,
    chosen: GateCandidate,
    candidates: Sequence[GateCandidate],
    test: Sides,
    draws: int,
    null_prompts: int,
    seed: int,
) -> DirectionGate:
    layer, vector = chosen.layer, chosen.direction
    line = vector[None]
    bypass = run.bypass(test.positive, line, layer)
    induce = run.induce(test.negative, vector, layer)
    kl = run.kl(test.negative, run.affine(test.negative, line, layer))
    some = test.first(null_prompts)
    places = [evenly_spread(len(rows), null_prompts) for rows in (test.positive, test.negative)]
    observed = bypass[places[0]].mean(), induce[places[1]].mean()
    effects = {}
    for name, directions in _null_directions(fitted, chosen, draws, seed).items():
        drawn = np.array([run.bypass(some.positive, d[None], layer).mean() for d in directions])
        length = np.linalg.norm(vector)
        added = np.array([run.induce(some.negative, length * d, layer).mean() for d in directions])
        for effect, values, value, lower in (
            ("bypass", drawn, observed[0], True),
            ("induce", added, observed[1], False),
        ):
            p = null_p_value(value, values, lower=lower)
            effects[effect, name] = Effect(values, p, beyond(p, draws))
    zero = ZeroForm(
        mean_of(run.read(test.positive, ablate(run.lm, vector)), test.positive_units),
        mean_of(run.kl(test.negative, ablate(run.lm, vector)), test.negative_units),
    )
    return DirectionGate(
        bypass=mean_of(bypass, test.positive_units),
        induce=mean_of(induce, test.negative_units),
        kl=mean_of(kl, test.negative_units),
        base=(
            mean_of(test.positive_values, test.positive_units),
            mean_of(test.negative_values, test.negative_units),
        ),
        chosen=chosen,
        nulls=effects,
        zero=zero,
        candidates=tuple(candidates),
        massive=str(massive_activations(run.lm)),
        means=run.means,
    )


def _null_directions(
    fitted: Fitted, chosen: GateCandidate, draws: int, seed: int
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = [side.astype(np.float64) for side in fitted.at(chosen.layer, chosen.position)]
    return {
        "random": random_directions(states[0].shape[1], draws, rng),
        "covariance-matched": covariance_matched_directions(states, draws, rng),
    }


def _distinct(fitted: Fitted, direction: np.ndarray, layer: int, offset: int) -> bool:
    """Whether a difference is more than rounding: all prompts share the template's embeddings."""
    typical = np.linalg.norm(fitted.at(layer, offset)[0], axis=1).mean()
    return bool(np.linalg.norm(direction) > 1e-6 * typical)
