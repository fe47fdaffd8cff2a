"""How far apart two ways to extract the same direction are, in one model.

An angle between a direction before and after a change says little on its own: another token, or
other benign prompts, can give a direction that is further away. So the tables of rotations have
two more angles of the base model, of the same label and layer:

* ``by_position``: between the direction at the last token of the prompt and that at the last token
  of the instruction, of the same prompts;
* ``by_contrast``: between harmful prompts against the domain's own benign ones (matched) and
  against the benign ones of all other domains (bulk). The two sides share no prompt: they take
  half of the harmful prompts each, and no benign prompt is matched with the other half.

Both are cross-fitted, as the rotation is (:mod:`interp.similarity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.runs.rotation_tables import contrasts, linked_units
from interp.errors import InputError
from interp.similarity import Rotation, Rotations, rotation
from interp.statistics import Contrast

if TYPE_CHECKING:
    from interp.activations import Activations

POSITION, CONTRAST = "position", "contrast"
# In the base model's folder. "extractions.parquet" of earlier versions had contrasts that shared
# benign prompts.
EXTRACTIONS = "extraction_angles.parquet"


def extraction_angles(
    prompts: pd.DataFrame,
    evaluated: pd.DataFrame,
    instruction: Activations,
    last: Activations,
    layers: Sequence[int],
) -> dict[str, Rotations]:
    """The angles by way (``position``, ``contrast``) and domain, of one model.

    Args:
        prompts: all prompts.
        evaluated: those of the states, in their order.
        instruction, last: states at the last token of the instruction, and of the prompt.
        layers: names of the layers.

    Returns:
        A domain is left out of a way for which it has too few prompts.
    """
    here, there = (contrasts(prompts, evaluated, states) for states in (last, instruction))
    by_position = {
        domain: rotation(contrast, there[domain], same_prompts=True, layers=list(layers))
        for domain, contrast in here.items()
    }
    by_contrast = {}
    for domain in here:
        pair = _matched_and_bulk(evaluated, last.states, domain)
        if pair is not None:
            by_contrast[domain] = rotation(*pair, same_prompts=False, layers=list(layers))
    return {POSITION: Rotations(by_position), CONTRAST: Rotations(by_contrast)}


def extraction_table(found: Mapping[str, Mapping[str, Rotation]]) -> pd.DataFrame:
    """``domain, layer, by_position, by_contrast`` in degrees; NaN where an angle is undefined."""
    tables = [
        pd.DataFrame(
            {"domain": domain, "layer": change.layers, f"by_{way}": change.angle_degrees.value}
        ).set_index(["domain", "layer"])
        for way, of_domains in found.items()
        for domain, change in of_domains.items()
    ]
    columns = [f"by_{way}" for way in (POSITION, CONTRAST)]
    if not tables:
        return pd.DataFrame(columns=["domain", "layer", *columns])
    stacked = pd.concat(tables).groupby(level=["domain", "layer"], sort=False).first()
    return stacked.reindex(columns=columns).reset_index()


def with_extractions(table: pd.DataFrame, extractions: pd.DataFrame) -> pd.DataFrame:
    """A rotation table whose rows of angles have the two columns of :func:`extraction_table`."""
    found = table.merge(extractions, on=["domain", "layer"], how="left")
    angles = found["quantity"] == "angle_degrees"
    for name in set(extractions.columns) - {"domain", "layer"}:
        found[name] = found[name].where(angles)
    return found


def _matched_and_bulk(
    evaluated: pd.DataFrame, states: np.ndarray, domain: str
) -> tuple[Contrast, Contrast] | None:
    """The domain's harmful prompts against its own benign ones, and against all others."""
    own = (evaluated["domain"] == domain).to_numpy()
    harmful = (evaluated["label"] == "harmful").to_numpy()
    rows = np.flatnonzero(own & harmful)
    units = linked_units(evaluated)
    halves = np.unique(units[rows], return_inverse=True)[1] % 2
    # A benign prompt varies with the harmful one that it is matched with.
    free = ~np.isin(units, units[rows[halves == 1]])
    sides = (np.flatnonzero(own & ~harmful & free), np.flatnonzero(~own & ~harmful))
    try:
        first, second = (
            Contrast(
                states[rows[halves == half]],
                states[benign],
                groups=[*units[rows[halves == half]], *units[benign]],
            )
            for half, benign in enumerate(sides)
        )
    except InputError:  # fewer than four separate prompts on a side
        return None
    return first, second
