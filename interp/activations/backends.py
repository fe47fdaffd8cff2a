"""Backends, which run a model and return its states: plain torch hooks, or another library.

A backend is opened once for a collection and then called once per batch. Backends for other
libraries are in ``interp.activations.adapters``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module

from jaxtyping import Float
from torch import Tensor

from interp.activations.positions import Take
from interp.activations.sites import Site, points
from interp.errors import InputError, first_line
from interp.model import (
    Batch,
    Hidden,
    LanguageModel,
    active_edits,
    reading,
    stopping_after,
    undisturbed,
)

States = Mapping[str, list[Float[Tensor, "batch position width"]]]
"""The states read at each layer, by the site's name."""

Forward = Callable[[Batch, Take], States]
Backend = Callable[[LanguageModel, Sequence[int], Sequence[Site]], AbstractContextManager[Forward]]


@contextmanager
def torch_hooks(
    lm: LanguageModel, layers: Sequence[int], sites: Sequence[Site]
) -> Iterator[Forward]:
    """The model itself, with hooks that exist only during a forward.

    The forward ends after the last of ``layers``, so the head never runs. Active interventions
    apply. The model may be in training: see :func:`interp.model.undisturbed`.
    """
    places = [point for of_site in points(lm, layers, sites) for point in of_site]
    last = lm.layers[max(layers)]

    def forward(batch: Batch, take: Take) -> States:
        taken: dict[int, Tensor] = {}
        take_on = cache(take.to)  # layers may lie on several devices
        take_on(batch.input_ids.device)

        def keep(index: int, hidden: Hidden) -> None:
            # Some layers fold batch and token into one axis for their MLP.
            taken[index] = take_on(hidden.device)(hidden.reshape(*batch.input_ids.shape, -1))

        with undisturbed(lm.model), reading(places, keep), stopping_after(last):
            lm.model(**lm.inputs(batch), use_cache=False)
        rows = [taken[index] for index in range(len(places))]
        return by_site(rows, layers, sites)

    yield forward


def by_site(rows: Sequence[Tensor], layers: Sequence[int], sites: Sequence[Site]) -> States:
    """Tensors in the order of sites, and of layers within a site, by the site's name."""
    count = len(layers)
    return {site.name: list(rows[i * count : (i + 1) * count]) for i, site in enumerate(sites)}


def require_library(module: str, name: str) -> None:
    """Raise :class:`InputError` if the package of another backend is not installed."""
    try:
        import_module(module)
    except ImportError as error:
        raise InputError(
            f"{name} is not installed ({first_line(error)}); pip install {module.replace('_', '-')}"
            ", or collect with the default backend"
        ) from error


def refuse_edits(lm: LanguageModel, library: str) -> None:
    """Raise :class:`InputError` inside an active intervention, which ``library`` would ignore."""
    if active_edits(lm.model):
        raise InputError(
            f"an intervention is active, and {library} would read the model as if it were not; "
            "collect with the default backend, or after the intervention's block"
        )
