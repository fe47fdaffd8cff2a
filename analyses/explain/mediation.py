"""Causal tests of one domain's loss between two models: its cause and its place.

:mod:`interp.causes` has the four causes and the verdict. This module adds model stitching at every
layer, and patches of weights and states by place (:mod:`analyses.explain.localising`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from analyses.explain.localising import forwards, place_tables, require_draws, stitching_of
from analyses.explain.sizes import Sizes
from analyses.runs import contrast_rows, contrasts, unit_of
from interp.activations import chosen_layers, collect
from interp.causes import (
    CAUSES,
    MOVES,
    CauseVerdict,
    Change,
    StitchedPrompts,
    Undone,
    control_effects,
    decide,
    entry_layer,
    foreign_effect,
    leading,
    undo,
)
from interp.causes.change import ROUTING
from interp.model import LanguageModel, require_plain_weights
from interp.patching import between_models
from interp.progress import Advance, silent
from interp.readout import Readout

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("undone", "controls", "places")
"""Parts of :func:`explain_domain` that tell their progress."""


@dataclass(frozen=True)
class Subject:
    """Two models and the prompts on which they are compared.

    Attributes:
        base, after: the models.
        readout: the refusal log-odds.
        texts: every domain's harmful prompts.
        changes: their states and their controls' in both models.
        groups: what each text shares with its near-duplicates (:func:`analyses.runs.unit_of`).
        layers: 0-based decoder layers to examine.
    """

    base: LanguageModel
    after: LanguageModel
    readout: Readout
    texts: Mapping[str, Sequence[str]]
    changes: Mapping[str, Change]
    groups: Mapping[str, Sequence[str]]
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
        groups: dict[str, Sequence[str]] = {}
        for domain, (rows, positive) in contrast_rows(prompts, evaluated).items():
            harmful = evaluated.iloc[rows[positive]]
            texts[domain] = list(harmful["prompt"])
            groups[domain] = list(unit_of(harmful))
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
        prompts: number of the domain's harmful prompts, of which some may be read.
    """

    domain: str
    verdict: CauseVerdict
    undone: tuple[Undone, ...]
    controls: Mapping[str, Float[np.ndarray, " draw"]]
    foreign: Mapping[str, float]
    stitching: pd.DataFrame
    weights: pd.DataFrame
    states: pd.DataFrame
    prompts: int = 0

    @property
    def at_layer(self) -> Undone:
        """The layer of the verdict."""
        return next(u for u in self.undone if u.layer == self.verdict.layer)


def explain_domain(
    subject: Subject,
    domain: str,
    *,
    layers: Sequence[int] | None = None,
    refined: bool = False,
    read: int | None = None,
    draws: int = 100,
    every_cause: bool = True,
    place_draws: int = 20,
    place_layers: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Mapping[str, Advance] | None = None,
) -> Explanation:
    """All causal tests of one domain.

    Args:
        subject: the models and their prompts.
        domain: one of the subject's.
        layers: 0-based, of the subject's layers; all of these by default.
        refined: add layers between two of them, until the layer of the verdict is next to one
            where routing has at least half.
        read: most prompts that are read, evenly from the subject's texts; all by default.
        draws: number of random moves for each cause.
        every_cause: random moves for every cause, not for the leading one alone.
        place_draws: number of random edits for each place of weights and states.
        place_layers: layers of these places; ``layers`` by default.
        batch_size: prompts in one forward.
        seed: for halves, draws and resamples.
        progress: by part (:data:`PARTS`), called with what was just done: layers times prompts,
            random moves, forwards.

    Raises:
        InputError: too few random edits per place.
    """
    require_draws(place_draws)
    told = dict.fromkeys(PARTS, silent) | dict(progress or {})
    first_layers = tuple(subject.layers if layers is None else layers)
    base, after, readout = subject.base, subject.after, subject.readout
    texts, change = subject.texts[domain], subject.changes[domain]
    groups = subject.groups[domain]
    chosen = evenly(len(texts), read)
    runs = between_models(base, after, [texts[i] for i in chosen])
    within = subject.layers if refined else first_layers
    stitched = StitchedPrompts(runs, readout, within)

    def at_layers(some: Sequence[int]) -> tuple[Undone, ...]:
        return undo(
            base, after, texts, change, readout, layers=some, groups=groups, read=chosen,
            stitched=stitched, batch_size=batch_size, seed=seed, progress=told["undone"],
        )  # fmt: skip

    undone = at_layers(first_layers)
    undone = refine(undone, within, at_layers) if refined else undone
    entry = entry_layer(undone)
    first = leading(entry.shares(resamples=1))
    controls = {}
    for cause in CAUSES if every_cause else {first} & set(CAUSES):
        controls[cause] = control_effects(
            base, after, texts, change, readout, layer=entry.layer, cause=cause, draws=draws,
            stitched=stitched, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        told["controls"](draws)
    foreign = {
        other: foreign_effect(
            base, after, texts, change, readout, subject.changes[other], layer=entry.layer,
            cause=first, stitched=stitched, batch_size=batch_size,
        )
        for other in subject.changes
        if other != domain and first in MOVES
    }  # fmt: skip
    named = [groups[i] for i in chosen]
    weights, states = place_tables(
        runs, readout, layers=place_layers or first_layers, groups=named, controls=place_draws,
        batch_size=batch_size, seed=seed, progress=told["places"],
    )  # fmt: skip
    return Explanation(
        domain,
        decide(entry, controls.get(first), seed=seed),
        undone,
        controls,
        foreign,
        stitching_of(undone).to_dataframe(groups=named),
        weights,
        states,
        len(texts),
    )


def evenly(count: int, most: int | None) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread."""
    if most is None or most >= count:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, most)]


def refine(
    undone: Sequence[Undone],
    layers: Sequence[int],
    at_layers: Callable[[Sequence[int]], Sequence[Undone]],
) -> tuple[Undone, ...]:
    """Add layers by bisection, below the first layer where routing has less than half.

    Args:
        undone: at some of the layers.
        layers: those that may be added.
        at_layers: gives the results of other layers.
    """
    found = sorted(undone, key=lambda one: one.layer)
    while True:
        entry = entry_layer(found)
        if entry.shares(resamples=1).shapley[ROUTING].value >= 0.5:
            return tuple(found)  # at every layer
        before = max((one.layer for one in found if one.layer < entry.layer), default=-1)
        between = [layer for layer in layers if before < layer < entry.layer]
        if not between:
            return tuple(found)
        added = at_layers([between[len(between) // 2]])
        found = sorted([*found, *added], key=lambda one: one.layer)


def place_forwards(subject: Subject, domain: str, sizes: Sizes) -> int:
    """Number of forwards that :func:`explain_domain` counts for the places."""
    texts = subject.texts[domain]
    some = [texts[i] for i in evenly(len(texts), sizes.read)]
    runs = between_models(subject.base, subject.after, some)
    return sum(
        forwards(runs, sizes.place_layers or sizes.layers, sizes.place_draws, sizes.batch_size)
    )


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
