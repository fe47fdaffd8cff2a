"""Moments of the states of any number of prompts, which need never be held together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from interp.activations.backends import Backend, torch_hooks
from interp.activations.collection import StateReader, batches_by_length, chosen_layers, encoded
from interp.activations.moments import Moments, MomentsAccumulator
from interp.activations.positions import Positions, last_token, places_of
from interp.activations.sites import RESIDUAL_OUT, Site
from interp.errors import InputError
from interp.model import LanguageModel, Tokens

# Batches that are held at a time: prompts are sorted by length within them, and a covariance is
# touched once for all of them.
WINDOW = 16


def collect_moments(
    lm: LanguageModel,
    texts: Iterable[str | Tokens],
    labels: Iterable[str],
    *,
    layers: Iterable[int] | None = None,
    positions: Positions = last_token,
    site: Site = RESIDUAL_OUT,
    label_covariances: bool = False,
    batch_size: int = 64,
    backend: Backend = torch_hooks,
    progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] = print,
) -> Moments:
    """Mean states per label and one pooled covariance per layer.

    Prompts and labels may come from generators; 16 batches of them are held at a time.

    Args:
        labels: one for every prompt.
        site: what is read in a layer; heads stand side by side.
        label_covariances: a covariance for every label and layer as well.
        announce: takes a line that says how large those are, before they are made.

    The other arguments are those of :func:`interp.activations.collection.collect`.

    Raises:
        InputError: no prompts, not as many labels as prompts, or as in ``collect``.
    """
    wanted = chosen_layers(lm, None if layers is None else list(layers))
    accumulator = MomentsAccumulator(label_covariances=label_covariances)
    seen: set[str] = set()
    with backend(lm, wanted, [site]) as forward:
        read = StateReader(lm, forward, [site], np.dtype(np.float32))
        for rows, names in _windows(lm, texts, labels, WINDOW * batch_size):
            places = places_of(rows, positions)
            count = max(map(len, places))
            parts, order = [], []
            for chosen in batches_by_length(rows, batch_size):
                some = [rows[i] for i in chosen]
                (states,) = read(some, [places[i] for i in chosen], count).values()
                parts.append(states.reshape(*states.shape[:3], -1))
                order += chosen
                if progress is not None:
                    progress(len(chosen))
            states = np.concatenate(parts)
            if label_covariances and not seen.issuperset(names):
                seen.update(names)
                announce(_size(len(seen), len(wanted), states.shape[-1]))
            accumulator.update(states, [names[i] for i in order])
    return accumulator.result(wanted)


def _windows(
    lm: LanguageModel, texts: Iterable[str | Tokens], labels: Iterable[str], count: int
) -> Iterator[tuple[list[Tokens], list[str]]]:
    missing: Any = object()
    pairs: Iterator[tuple[Any, Any]] = zip_longest(texts, labels, fillvalue=missing)
    first = True
    while window := list(islice(pairs, count)):
        if any(missing in pair for pair in window):
            raise InputError("not as many labels as prompts; give one for each")
        yield [encoded(lm, text) for text, _ in window], [str(label) for _, label in window]
        first = False
    if first:
        raise InputError("no prompts to collect moments for; give at least one")


def _size(labels: int, layers: int, width: int) -> str:
    gigabytes = labels * layers * width**2 * 8 / 2**30
    return (
        f"covariances of {labels} labels at {layers} layers, {width} wide, in float64: "
        f"{gigabytes:.2f} GiB"
    )
