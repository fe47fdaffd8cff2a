"""Causal tests of one domain's loss between two models: its cause and its place.

:mod:`interp.causes` has the four causes and the verdict. This module adds model stitching at every
layer, and patches of weights and states by place (:mod:`analyses.explain.localising`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from analyses.explain.localising import forwards, place_tables, require_draws, stitching_of
from analyses.runs import contrast_rows, contrasts
from interp.activations import chosen_layers, collect
from interp.causes import (
    CAUSES,
    COALITIONS,
    MOVES,
    CauseVerdict,
    Change,
    Undone,
    control_effects,
    decide,
    entry_layer,
    foreign_effect,
    leading,
    undo,
)
from interp.model import LanguageModel, require_plain_weights
from interp.patching import between_models
from interp.progress import Advance, silent
from interp.readout import Readout

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Subject:
    """Two models and the prompts on which they are compared.

    Attributes:
        base, after: the models.
        readout: the refusal log-odds.
        texts: every domain's harmful prompts.
        changes: their states and their controls' in both models.
        groups: near-duplicates among the texts; None if none are marked.
        layers: 0-based decoder layers to examine.
    """

    base: LanguageModel
    after: LanguageModel
    readout: Readout
    texts: Mapping[str, Sequence[str]]
    changes: Mapping[str, Change]
    groups: Mapping[str, Sequence[object] | None]
    layers: tuple[int, ...]

    @classmethod
    def of(
        cls,
        base: LanguageModel,
        after: LanguageModel,
        readout: Readout,
        prompts: pd.DataFrame,
        *,
        layers: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> Subject:
        """From a prompts table, without its training prompts. Default: all layers.

        Raises:
            InputError: the models do not have a given layer.
            ModelError: their weights are packed, so that none can be patched.
        """
        for lm in (base, after):
            require_plain_weights(lm.model, "explaining a loss", "load it without quantisation")
        wanted = chosen_layers(base, layers)
        evaluated = prompts[prompts["split"] != "train"].reset_index(drop=True)
        found = []
        for lm in (base, after):
            texts_read = list(evaluated["prompt"])
            states = collect(lm, texts_read, layers=wanted, batch_size=batch_size)
            found.append(contrasts(prompts, evaluated, states))
        texts: dict[str, Sequence[str]] = {}
        groups: dict[str, Sequence[object] | None] = {}
        for domain, (rows, positive) in contrast_rows(prompts, evaluated).items():
            harmful = evaluated.iloc[rows[positive]]
            texts[domain] = list(harmful["prompt"])
            groups[domain] = None
            if "group" in harmful:
                groups[domain] = list(harmful["group"].fillna(harmful["id"]).astype(str))
        changes = {d: Change(found[0][d], found[1][d], wanted) for d in found[0]}
        return cls(base, after, readout, texts, changes, groups, wanted)


@dataclass(frozen=True)
class Explanation:
    """The results for one domain.

    Attributes:
        domain: the domain with the loss.
        verdict: at the layer at which the loss enters the states.
        undone: results of every layer.
        controls: share of the loss that each cause's random moves restore, at that layer.
        foreign: share restored by the leading cause's edit with another domain's states.
        stitching: shares of states and of their reading, by layer.
        weights: effects of patching weights both ways, by layer and module.
        states: effects of patching states both ways, by layer, position and component.
    """

    domain: str
    verdict: CauseVerdict
    undone: tuple[Undone, ...]
    controls: Mapping[str, Float[np.ndarray, " draw"]]
    foreign: Mapping[str, float]
    stitching: pd.DataFrame
    weights: pd.DataFrame
    states: pd.DataFrame

    @property
    def at_layer(self) -> Undone:
        """The layer of the verdict."""
        return next(u for u in self.undone if u.layer == self.verdict.layer)


def explain_domain(
    subject: Subject,
    domain: str,
    *,
    draws: int = 100,
    place_draws: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    progress: Advance = silent,
) -> Explanation:
    """All causal tests of one domain.

    Args:
        subject: the models and their prompts.
        domain: one of the subject's.
        draws: number of random moves for each cause.
        place_draws: number of random edits for each place of weights and states.
        batch_size: prompts in one forward.
        seed: for halves, draws and resamples.
        progress: called with the number of new forwards, out of :func:`forwards_of`.

    Raises:
        InputError: too few random edits per place.
    """
    require_draws(place_draws)
    base, after, readout = subject.base, subject.after, subject.readout
    texts, change = subject.texts[domain], subject.changes[domain]
    groups = subject.groups[domain]
    batches = -(-len(texts) // batch_size)
    undone = undo(
        base, after, texts, change, readout, groups=groups, batch_size=batch_size, seed=seed,
        progress=lambda count: progress(count * len(COALITIONS) * batches),
    )  # fmt: skip
    chosen = entry_layer(undone)
    first = leading(chosen.shares(resamples=1))
    controls = {}
    for cause in CAUSES:
        controls[cause] = control_effects(
            base, after, texts, change, readout, layer=chosen.layer, cause=cause, draws=draws,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip
        progress(2 * draws * batches)
    foreign = {
        other: foreign_effect(
            base, after, texts, change, readout, subject.changes[other], layer=chosen.layer,
            cause=first, batch_size=batch_size,
        )
        for other in subject.changes
        if other != domain and first in MOVES
    }  # fmt: skip
    runs = between_models(base, after, texts)
    weights, states = place_tables(
        runs, readout, layers=subject.layers, groups=groups, controls=place_draws,
        batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    return Explanation(
        domain,
        decide(chosen, controls.get(first), seed=seed),
        undone,
        controls,
        foreign,
        stitching_of(undone).to_dataframe(groups=groups),
        weights,
        states,
    )


def forwards_of(
    subject: Subject, domain: str, *, draws: int, place_draws: int, batch_size: int
) -> int:
    """Approximate number of forwards of :func:`explain_domain`."""
    texts = subject.texts[domain]
    batches = -(-len(texts) // batch_size)
    runs = between_models(subject.base, subject.after, texts)
    places = sum(forwards(runs, subject.layers, place_draws, batch_size))
    return places + batches * (len(subject.layers) * len(COALITIONS) + 2 * draws * len(CAUSES))


def shares_table(found: Explanation) -> pd.DataFrame:
    """A row per layer and player: the share and both directions, with intervals."""
    import pandas as pd

    rows = []
    for at_layer in found.undone:
        shares = at_layer.shares()
        for player, share in shares.shapley.items():
            row: dict[str, object] = {"layer": at_layer.layer, "player": player}
            kinds = (("share", share), ("restored", shares.restored[player]))
            for name, estimate in (*kinds, ("removed", shares.removed[player])):
                row |= {name: estimate.value, f"{name}_low": estimate.low}
                row |= {f"{name}_high": estimate.high}
            drawn = found.controls.get(player) if at_layer.layer == found.verdict.layer else None
            for name, quantile in (("control_low", 0.05), ("control_high", 0.95)):
                row[name] = np.nan if drawn is None else float(np.quantile(drawn, quantile))
            rows.append(row | {"n": at_layer.values.shape[1]})
    return pd.DataFrame(rows)
