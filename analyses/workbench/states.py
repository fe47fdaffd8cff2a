"""Activations of a table of prompts, their directions, and a map of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analyses.runs import contrast_rows, linked_units
from analyses.workbench.loading import require_loaded
from analyses.workbench.tables import texts_of
from interp import activations, similarity
from interp.activations import RESIDUAL_OUT, Activations, Positions, Site
from interp.activations.positions import last_token
from interp.directions import FittedDirections
from interp.directions.fitting import Estimator
from interp.errors import InputError
from interp.model import LanguageModel
from interp.statistics import Contrast

if TYPE_CHECKING:
    import pandas as pd

    from interp.similarity import StateMap


def collect(
    lm: LanguageModel,
    prompts: pd.DataFrame | Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    positions: Positions = last_token,
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    batch_size: int = 64,
    folder: str | Path | None = None,
) -> Activations:
    """Activations of prompts: the residual stream at the last prompt token, all layers.

    The last token belongs to the chat template; the model predicts the response from it.

    Args:
        lm: the model, with its active interventions.
        prompts: a table of prompts, or texts.
        layers: 0-based decoder layers (default: all).
        positions: tokens to read; see ``sp.interp.activations``.
        sites: components of a layer to read (default: the output of the layer).
        batch_size: prompts in one forward; fewer once a batch does not fit into memory.
        folder: keep the activations there, memory-mapped (default: in memory).

    Returns:
        ``.states`` has the shape (prompt, layer, d_model), in float32 and in the order of the
        prompts; ``.layers`` and ``.ids`` name its axes.

    Raises:
        InputError: no prompts, or a layer or site that the model does not have.

    Example:
        >>> acts = sp.collect(lm, ["How do I bake bread?", "How do I boil rice?"])
        >>> acts.states.shape
        (2, 5, 128)
    """
    require_loaded(lm)
    texts = texts_of(prompts)
    ids = list(prompts["id"]) if "id" in getattr(prompts, "columns", ()) else None  # type: ignore[call-overload]
    return activations.collect(
        lm,
        texts,
        layers=layers,
        positions=positions,
        sites=sites,
        ids=ids,
        batch_size=batch_size,
        folder=folder,
    )


def domain_contrasts(
    acts: Activations, prompts: pd.DataFrame, *, split: str | None = "train"
) -> dict[str, Contrast]:
    """Harmful against benign prompts of every domain; :func:`fit_directions` says which ones.

    Args:
        acts: activations of exactly these prompts, in this order.
        prompts: a table of prompts.
        split: rows to use: ``train``, ``validation`` or ``test``; None is all.

    Raises:
        InputError: activations of other prompts, or no domain with 8 prompts on both sides.
    """
    _require_same(acts, prompts)
    used = _in_one_domain(prompts)
    if split is not None:
        used &= (prompts["split"] == split).to_numpy()
    rows = np.flatnonzero(used)
    table = prompts.iloc[rows]
    units = linked_units(table)
    found = {
        domain: Contrast.from_labels(acts.states[rows[chosen]], positive, units[chosen].tolist())
        for domain, (chosen, positive) in contrast_rows(prompts, table).items()
    }
    if not found:
        raise InputError(
            f"no domain has 8 harmful and 8 benign prompts in the split {split}; "
            "give more prompts, or split=None for those of all splits"
        )
    return found


def fit_directions(
    acts: Activations,
    prompts: pd.DataFrame,
    estimator: Estimator | str = "mean_difference",
    *,
    split: str | None = "train",
) -> FittedDirections:
    """Directions from benign to harmful, one for each domain and layer.

    Pairs, and prompts of one ``group``, stay together. A domain with fewer than 16 benign prompts
    borrows a share of the domain ``general`` that no other domain gets. Texts that stand in two
    domains are left out with their pairs, because two directions would share their noise.

    Args:
        acts: activations of exactly these prompts, in this order.
        prompts: a table of prompts.
        estimator: an estimator such as ``sp.LogisticProbe()``, or the name of a registered one.
        split: rows to fit on: ``train``, ``validation`` or ``test``; None is all.

    Returns:
        ``dirs["safety", 2]`` is the unit direction (d_model) of a domain at a layer.
        ``sp.cosine_map`` and ``sp.rotation`` fit the estimator again for intervals and nulls;
        ``dirs.to_set().save(path)`` keeps the vectors.

    Raises:
        InputError: activations of other prompts, an unknown estimator, or no domain with 8 harmful
            and 8 benign prompts.

    Source:
        Mean difference: Marks and Tegmark 2023, arXiv 2310.06824; Arditi et al. 2024, arXiv
        2406.11717.

    Example:
        >>> dirs = sp.fit_directions(acts, prompts, sp.MeanDifference())
        >>> dirs["safety", 2].shape
        (128,)
        >>> dirs.fitted_on
        'the split train'
    """
    if isinstance(estimator, type):
        name = estimator.__name__
        raise InputError(f"{name} is a class of estimators; give one made by it: sp.{name}()")
    if not (isinstance(estimator, str) or hasattr(estimator, "fit")):
        raise InputError(
            f"{estimator!r} is not an estimator; give one with fit, such as sp.LogisticProbe(), or "
            "the name of a registered one"
        )
    return FittedDirections.of(
        estimator,
        domain_contrasts(acts, prompts, split=split),
        layers=acts.layers,
        fitted_on=f"the split {split}" if split else "all splits",
    )


def _require_same(acts: Activations, prompts: pd.DataFrame) -> None:
    """Check that the activations are of a table's prompts, by their ids if they were given."""
    if len(acts.ids) != len(prompts):
        raise InputError(
            f"activations of {len(acts.ids)} prompts and a table of {len(prompts)}; "
            "collect the activations of this table: sp.collect(lm, prompts)"
        )
    counted = tuple(range(len(prompts)))  # of texts without ids
    if "id" in prompts and acts.ids not in (counted, tuple(prompts["id"])):
        raise InputError(
            "the activations are of other prompts, or in another order; collect the activations "
            "of this table: sp.collect(lm, prompts)"
        )


def _in_one_domain(prompts: pd.DataFrame) -> np.ndarray:
    """Rows whose text and pair occur in a single domain."""
    several = prompts.groupby("prompt")["domain"].transform("nunique") > 1
    if "pair" in prompts:
        several |= prompts["pair"].isin(prompts.loc[several, "pair"].dropna())
    return ~several.to_numpy()


def state_map(
    acts: Activations,
    prompts: pd.DataFrame,
    *,
    layer: int,
    by: str = "domain",
    umap: bool = False,
    neighbours: int = 10,
    seed: int = 0,
) -> StateMap:
    """The activations of one layer in two dimensions: PCA, and UMAP on request.

    Args:
        acts: activations of exactly these prompts, in this order.
        prompts: a table of prompts.
        layer: 0-based decoder layer.
        by: the column that colours the prompts.
        umap: draw UMAP next to PCA; its first use takes half a minute.
        neighbours: nearest prompts that are compared with each prompt; its pair, near-duplicates
            and copies are left out.
        seed: of UMAP and of the permutations of labels.

    Returns:
        Coordinates, and how often the nearest neighbours of a prompt have its label: in all
        dimensions, on each map, and with labels permuted. ``.plot()`` draws it.

    Raises:
        InputError: activations of other prompts, a layer or column that does not exist, or fewer
            than eight prompts.

    Example:
        >>> found = sp.state_map(acts, prompts, layer=2, by="label")
        >>> sorted(found.agreement)
        ['PCA', 'all dimensions', 'labels permuted']
    """
    _require_same(acts, prompts)
    if layer not in acts.layers:
        raise InputError(f"no activations of layer {layer}; the layers are {list(acts.layers)}")
    if by not in prompts:
        raise InputError(f'the table has no column "{by}"; it has {", ".join(prompts.columns)}')
    states = acts.states[:, acts.layers.index(layer)]
    labels = prompts[by].astype(str).tolist()
    groups = linked_units(prompts).tolist()
    return similarity.state_map(
        states, labels, groups=groups, umap=umap, neighbours=neighbours, seed=seed
    )
