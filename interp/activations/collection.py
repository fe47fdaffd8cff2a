"""Collect a model's activations on prompts, in memory or on disk.

The forward stops after the last requested layer, so the LM head never runs. Prompts are sorted by
length, which keeps padding small. Collected states are copied, so that a batch's storage is freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from numpy.typing import DTypeLike
from torch import Tensor

from interp.activations.backends import Backend, Forward, torch_hooks
from interp.activations.positions import Positions, Take, last_token, places_of
from interp.activations.sites import RESIDUAL_OUT, Site, head_count
from interp.activations.stores import Arrays, InMemory, OnDisk, read_folder
from interp.errors import InputError
from interp.model import LanguageModel, Tokens, active_edits, in_fitting_batches, require_room
from interp.numbers import whole_number
from interp.progress import Advance, silent
from interp.store import content_key


@dataclass(frozen=True)
class Activations:
    """States of prompts, by site.

    Attributes:
        sites: states by the site's name; heads have (head, d_head) in place of d_model. NaN where
            a prompt has fewer positions than others: positions are aligned at their ends.
        layers: 0-based decoder layers.
        ids: of the prompts.
        token_ids: the last token of every position; -1 where the position does not exist.
        computed_in: the model's dtype.
    """

    sites: Mapping[str, Float[np.ndarray, "prompt layer position *width"]]
    layers: tuple[int, ...]
    ids: tuple[str | int, ...]
    token_ids: Int[np.ndarray, "prompt position"]
    computed_in: str

    def __repr__(self) -> str:
        positions = self.token_ids.shape[1]
        return (
            f"Activations of {len(self.ids)} prompts: {', '.join(self.sites)}; layers "
            f"{', '.join(map(str, self.layers))}; {positions} position{'s' * (positions != 1)}; "
            f"{self.dtype}, computed in {self.computed_in}"
        )

    def __getitem__(self, site: Site | str) -> Float[np.ndarray, "prompt layer position *width"]:
        """The states at one site.

        Raises:
            InputError: it was not collected.
        """
        name = site.name if isinstance(site, Site) else site
        if name not in self.sites:
            raise InputError(f"{name} was not collected; there is {', '.join(self.sites)}")
        return self.sites[name]

    @property
    def states(self) -> Float[np.ndarray, "prompt layer d_model"]:
        """The states, if there is exactly one site and one position.

        Raises:
            InputError: there are several.
        """
        if len(self.sites) > 1 or self.token_ids.shape[1] != 1:
            raise InputError(
                f"states of {', '.join(self.sites)} at {self.token_ids.shape[1]} positions; "
                "choose a site by its name, and a position: activations[site][:, :, position]"
            )
        return next(iter(self.sites.values()))[:, :, 0]

    def at(self, position: int) -> Activations:
        """The same activations at one of their positions, by its number.

        Raises:
            InputError: there is no such position.
        """
        count = self.token_ids.shape[1]
        if not -count <= position < count:
            raise InputError(f"no position {position}; there are {count}")
        chosen = slice(position % count, position % count + 1)
        sites = {name: states[:, :, chosen] for name, states in self.sites.items()}
        return replace(self, sites=sites, token_ids=self.token_ids[:, chosen])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the stored states."""
        return next(iter(self.sites.values())).dtype

    @classmethod
    def load(cls, folder: str | Path) -> Activations:
        """The collection that :func:`collect` wrote to ``folder``, memory-mapped and read-only.

        Raises:
            InputError: the folder holds no finished collection.
        """
        about, token_ids, arrays = read_folder(folder)
        layers, ids = tuple(about["layers"]), tuple(about["ids"])
        return cls(arrays, layers, ids, token_ids, about["computed_in"])


def collect(
    lm: LanguageModel,
    texts: Sequence[str | Tokens],
    *,
    layers: Sequence[int] | None = None,
    positions: Positions = last_token,
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    ids: Sequence[str | int] | None = None,
    batch_size: int = 64,
    dtype: DTypeLike = np.float32,
    folder: str | Path | None = None,
    backend: Backend = torch_hooks,
    progress: Advance = silent,
) -> Activations:
    """States of prompts at some sites, layers and positions.

    The model may be in training: modes, gradients and random state are restored afterwards.

    Args:
        lm: the model; adapters and active interventions apply, and weights may be offloaded.
        texts: prompts, rendered by the model's chat format; or tokens from ``lm.chat.encode``,
            with responses or custom spans.
        layers: 0-based decoder layers; all by default.
        positions: the tokens to read; see :mod:`interp.activations.positions`.
        sites: the places to read in a layer; see :mod:`interp.activations.sites`.
        ids: of the prompts; their numbers by default.
        batch_size: prompts in one forward; reduced if a batch does not fit into memory.
        dtype: dtype of the stored states.
        folder: store the states there, memory-mapped, instead of in memory. A partial folder with
            the same prompts and model is continued; a finished one is read.
        backend: runs the model; other backends are in ``interp.activations.adapters``.
        progress: called with the number of prompts just done.

    Raises:
        InputError: no prompts, a prompt longer than the context, an unknown layer, a site that the
            model does not have, an empty position, states too large for ``dtype``, or a folder with
            different activations.
        MachineError: a single prompt does not fit into memory.
    """
    wanted = chosen_layers(lm, layers)
    rows = encoded_all(lm, texts)
    if not rows:
        raise InputError("no prompts to collect activations for; give at least one")
    require_room(lm.model, lm.tokenizer, rows)
    if not sites:
        raise InputError(
            "no sites to collect activations at; name one, as in interp.activations.sites"
        )
    names = tuple(range(len(rows)) if ids is None else ids)
    if len(names) != len(rows):
        raise InputError(f"{len(names)} ids for {len(rows)} prompts; give one for each")
    places = places_of(rows, positions)
    token_ids = _token_ids(rows, places)
    edited = active_edits(lm.model)
    if edited and folder is not None and _begun(Path(folder)):
        raise InputError(
            f"{folder} holds activations, and a folder cannot say under which intervention they "
            "were collected; give another folder, or leave the `with` block of the intervention"
        )
    about: dict[str, Any] = {
        "sites": [site.name for site in sites],
        "layers": list(wanted),
        "ids": list(names),
        "dtype": np.dtype(dtype).name,
        "computed_in": str(lm.model.dtype).removeprefix("torch."),
        "edited": edited,
    }

    with backend(lm, wanted, sites) as forward:
        read = StateReader(lm, forward, wanted, sites, np.dtype(dtype))

        def states_of(chosen: Sequence[int]) -> Arrays:
            some = [rows[i] for i in chosen]
            return read(some, [places[i] for i in chosen], token_ids.shape[1])

        store: InMemory | OnDisk = InMemory(len(rows))
        if folder is not None:
            spans = [[(place.start, place.stop) for place in of_row] for of_row in places]
            about["configuration"] = lm.configuration
            about["prompts"] = content_key("states", [row.ids for row in rows], spans)
            if not any(parameter.is_meta for parameter in lm.model.parameters()):  # offloaded
                about["weights"] = lm.fingerprint()
            store = OnDisk(folder, about, token_ids, states_of([0]), _rounding(lm))
        pending = np.flatnonzero(store.pending).tolist()
        batches = in_fitting_batches(
            [rows[i] for i in pending],
            batch_size,
            lambda some: states_of([pending[i] for i in some]),
            lm.together([rows[i] for i in pending]),
        )
        for batch, states in batches:
            chosen = [pending[i] for i in batch]
            store.put(chosen, states)
            progress(len(chosen))
    return Activations(store.arrays, wanted, names, token_ids, about["computed_in"])


def _begun(folder: Path) -> bool:
    return folder.exists() or folder.with_name(f"{folder.name}.partial").exists()


@dataclass(frozen=True)
class StateReader:
    """Reads batches of rows with an open backend."""

    lm: LanguageModel
    forward: Forward
    layers: Sequence[int]
    sites: Sequence[Site]
    dtype: np.dtype

    def __call__(
        self, rows: Sequence[Tokens], places: Sequence[Sequence[slice]], count: int
    ) -> Arrays:
        """The rows' states at ``count`` positions, by the site's name.

        Raises:
            InputError: states are too large for ``dtype``, or differ in shape between layers.
        """
        found = self.forward(self.lm.chat.pad(rows, self.lm.device), Take.of(rows, places, count))
        return {site.name: self._array(site, found[site.name]) for site in self.sites}

    def _array(
        self, site: Site, layers: Sequence[Float[Tensor, "prompt position width"]]
    ) -> Float[np.ndarray, "prompt layer position *width"]:
        shaped = [self._shaped(site, *one) for one in zip(self.layers, layers, strict=True)]
        shapes = [tuple(states.shape[2:]) for states in shaped]
        if len(set(shapes)) > 1:
            alike = [n for n, shape in zip(self.layers, shapes, strict=True) if shape == shapes[0]]
            raise InputError(
                f"{site.name} has the shape {shapes[0]} in layers {alike} and another one in the "
                f"other layers; collect layers of one shape together, as in layers={alike}"
            )
        # Layers may lie on different devices.
        states = torch.stack([one.to(shaped[0].device) for one in shaped], dim=1)
        wide = states.cpu().numpy()
        with np.errstate(over="ignore"):
            narrow = wide.astype(self.dtype, copy=False)
        # Residual streams hold a few entries in the thousands, and some beyond 65,504.
        if narrow is not wide and (np.isinf(narrow) & np.isfinite(wide)).any():
            raise InputError(
                f"{site.name} reaches {np.nanmax(np.abs(wide)):.3g}, which {self.dtype} cannot "
                "hold; collect in float32"
            )
        return narrow

    def _shaped(
        self, site: Site, layer: int, states: Float[Tensor, "prompt position width"]
    ) -> Float[Tensor, "prompt position *width"]:
        if not site.per_head:
            return states
        count = head_count(self.lm, layer)
        return rearrange(states, "... (head width) -> ... head width", head=count)


def chosen_layers(lm: LanguageModel, layers: Iterable[int] | None) -> tuple[int, ...]:
    """The layers in ascending order without duplicates; all layers by default.

    Raises:
        InputError: a layer that the model does not have, or an empty list.
    """
    return tuple(sorted(set(listed_layers(lm, layers))))


def listed_layers(lm: LanguageModel, layers: Iterable[int] | None) -> tuple[int, ...]:
    """The layers as plain numbers, in the given order; all layers by default.

    Args:
        layers: any sequence or array of whole numbers, 0-based.

    Raises:
        InputError: a layer that the model does not have, no whole numbers, or an empty list.
    """
    if layers is None:
        return tuple(range(lm.n_layers))
    try:
        wanted = [whole_number(one) for one in layers]
    except TypeError:
        raise InputError(
            f"layers {layers!r} asked for; expected whole numbers, as in layers=[0, 1]"
        ) from None
    if not wanted or min(wanted) < 0 or max(wanted) >= lm.n_layers:
        raise InputError(f"layers {wanted} asked for; the model has 0 … {lm.n_layers - 1}")
    return tuple(wanted)


def encoded_all(lm: LanguageModel, texts: Sequence[str | Tokens]) -> list[Tokens]:
    """The tokens of prompts; tokens are returned unchanged.

    Raises:
        InputError: a single text, of which every letter would be a prompt.
    """
    if isinstance(texts, str):
        raise InputError(f"expected a list of texts, found a single text; give [{texts[:40]!r}]")
    return [lm.chat.encode(text) if isinstance(text, str) else text for text in texts]


def _token_ids(
    rows: Sequence[Tokens], places: Sequence[Sequence[slice]]
) -> Int[np.ndarray, "prompt position"]:
    found = np.full((len(rows), max(map(len, places))), -1, dtype=np.int64)
    for i, (row, of_row) in enumerate(zip(rows, places, strict=True)):
        if of_row:
            found[i, -len(of_row) :] = [row.ids[place.stop - 1] for place in of_row]
    return found


def _rounding(lm: LanguageModel) -> float:
    """Tolerance for the states of one prompt alone, as a share of their norm: other kernels."""
    return max(1e-5, torch.finfo(lm.model.dtype).eps)
