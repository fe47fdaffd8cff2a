"""Patching between a base model and a model derived from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analyses.runs import linked_units
from analyses.workbench.loading import require_loaded
from analyses.workbench.tables import texts_of
from analyses.workbench.training import UnlearnedModel
from interp import patching
from interp.activations import RESIDUAL_OUT, Site
from interp.errors import InputError
from interp.model import LanguageModel
from interp.patching import Effects, Stitching, between_models
from interp.readout import Readout
from interp.statistics import unit_numbers


def patch(
    source: LanguageModel,
    target: LanguageModel,
    prompts: pd.DataFrame | Sequence[str],
    *,
    readout: Readout,
    domain: str | None = None,
    split: str | None = "test",
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    controls: int = 0,
    batch_size: int = 32,
    seed: int = 0,
) -> Effects:
    """Activation patching: run the target with the activations of the source at one place.

    Base → after shows which activations are enough to bring the refusals back; after → base shows
    which are enough to remove them.

    Args:
        source, target: models of one shape with one tokenizer and chat format.
        prompts: texts, or a table, of which the harmful prompts of a domain and split are used.
        readout: one number per prompt; see ``sp.refusal_log_odds``.
        domain: of a table (default: the domain that one of the models has unlearned, else all).
        split: of a table: ``train``, ``validation`` or ``test``; None is all.
        sites: components of a layer to patch (default: the residual stream).
        layers: 0-based decoder layers (default: all).
        positions: spans of the chat format (default: each of them, and every token after the
            instruction).
        controls: random moves of the same length per cell, for the null; 20 allow p < .05.
        batch_size: prompts in one forward.
        seed: of the controls.

    Returns:
        The readout per cell and prompt, in the unit of the readout. ``.to_dataframe()`` gives the
        share of the gap between target and source that each cell closes, with 95% intervals over
        prompts; ``.plot()`` draws it.

    Raises:
        InputError: the models do not match, or a layer, site or position does not exist.

    Source:
        Meng et al. 2022; Heimersheim and Nanda 2024, arXiv 2404.15255.

    Example:
        >>> effects = sp.patch(lm, after, prompts, readout=readout, layers=[2])
        >>> effects.to_dataframe()["layer"].unique().tolist()
        [2]
    """
    require_loaded(source, target)
    texts, groups = harmful_texts(prompts, domain or _unlearned(source, target), split)
    found = patching.patch(
        between_models(source, target, texts),
        readout,
        sites=sites,
        layers=layers,
        positions=positions,
        controls=controls,
        batch_size=batch_size,
        seed=seed,
    )
    return replace(found, groups=groups)


def stitch(
    base: LanguageModel,
    after: LanguageModel,
    prompts: pd.DataFrame | Sequence[str],
    *,
    readout: Readout,
    domain: str | None = None,
    split: str | None = "test",
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Stitching:
    """Model stitching: lower layers of one model under the upper layers of the other.

    Args:
        base, after: models of one shape with one tokenizer and chat format.
        prompts: texts, or a table, of which the harmful prompts of a domain and split are used.
        readout: one number per prompt; see ``sp.refusal_log_odds``.
        domain: of a table (default: the domain that one of the models has unlearned, else all).
        split: of a table: ``train``, ``validation`` or ``test``; None is all.
        layers: 0-based, the last layer of the lower part (default: all).
        batch_size: prompts in one forward.

    Returns:
        By layer, the share of the change that lies in the activations up to it (representation)
        and in how later layers read them (routing); they add to 1. ``.plot()`` draws both.

    Raises:
        InputError: the models do not match, or a layer does not exist.

    Example:
        >>> shares = sp.stitch(lm, after, prompts, readout=readout)
        >>> bool(np.allclose(shares.representation + shares.routing, 1))
        True
    """
    require_loaded(base, after)
    texts, groups = harmful_texts(prompts, domain or _unlearned(base, after), split)
    found = patching.stitch(base, after, texts, readout, layers=layers, batch_size=batch_size)
    return replace(found, groups=groups)


def harmful_texts(
    prompts: pd.DataFrame | Sequence[str], domain: str | None, split: str | None
) -> tuple[list[str], list[int]]:
    """The given texts, or the harmful prompts of a domain and split of a table; and their groups.

    Copies share a group, and so do near-duplicates of a table.

    Raises:
        InputError: the table has none.
    """
    texts = texts_of(prompts)
    groups = unit_numbers(texts, len(texts)).tolist()
    if isinstance(prompts, pd.DataFrame):
        wanted = {"label": "harmful", "domain": domain, "split": split}
        chosen = [prompts[column] == value for column, value in wanted.items() if value]
        rows = prompts[np.logical_and.reduce(chosen)]
        texts, groups = texts_of(rows), linked_units(rows).tolist()
    if not texts:
        raise InputError(
            f"no harmful prompts in the domain {domain or 'of any name'} and the split "
            f"{split or 'of any name'}; give another domain= or split=, or a list of texts"
        )
    return texts, groups


def _unlearned(*models: LanguageModel) -> str | None:
    """The domain that one of the models has unlearned, according to its record."""
    found = (model.record.concept for model in models if isinstance(model, UnlearnedModel))
    return next(found, None)
