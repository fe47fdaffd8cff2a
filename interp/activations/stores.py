"""Stores for states: in memory, or on disk, where an interrupted collection can continue.

An unfinished folder is called ``NAME.partial``; the finished folder gets its name in one step.
Each site has one plain ``.npy`` file. A row counts as done only after its states are on the disk.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.format import open_memmap

from interp.errors import InputError
from interp.store import read_json, sync_folder, sync_path, write_json

Arrays = Mapping[str, Float[np.ndarray, "prompt layer position *width"]]
"""States by the site's name."""

ABOUT = "about.json"
WITNESS = "first_prompt.npz"
DONE = "done"
TOKENS = "token_ids"


class InMemory:
    """Rows of states in arrays, which are created with the first rows."""

    def __init__(self, count: int) -> None:
        self.pending: Bool[np.ndarray, " prompt"] = np.ones(count, dtype=bool)
        self.arrays: dict[str, np.ndarray] = {}

    def put(self, rows: Sequence[int], states: Arrays) -> None:
        """Store some rows."""
        for name, values in states.items():
            if name not in self.arrays:
                self.arrays[name] = np.empty((len(self.pending), *values.shape[1:]), values.dtype)
            self.arrays[name][rows] = values


class OnDisk:
    """Rows of states in memory-mapped files, one per site.

    Args:
        path: folder to create.
        about: what the states depend on, as JSON values; includes the prompts' ``ids``, the names
            of the ``sites`` and, where it is known, the hash of the ``weights``.
        token_ids: stored together with the states.
        witness: the first prompt's states, computed now, by site. They represent what has no hash,
            such as interventions: stored states must agree with them.
        tolerance: largest difference, as a share of their norm.

    Raises:
        InputError: the folder holds different activations, or the disk lacks space.
    """

    def __init__(
        self,
        path: str | Path,
        about: Mapping[str, Any],
        token_ids: Int[np.ndarray, "prompt position"],
        witness: Arrays,
        tolerance: float,
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self._files: dict[str, np.memmap] = {}
        if self.path.exists():
            reason = _difference(self.path, about, witness, tolerance)
            if reason:
                raise InputError(f"{self.path} {reason}; choose another folder, or delete this one")
            return
        if self.partial.exists():
            reason = _difference(self.partial, about, witness, tolerance)
            if reason:
                warnings.warn(f"{self.partial} {reason}: starting it again", stacklevel=3)
                shutil.rmtree(self.partial)
        if not self.partial.exists():
            self._begin(about, token_ids, witness)
        self._files = {name: _mapped(self.partial, name, "r+") for name in (*witness, DONE)}

    @property
    def pending(self) -> Bool[np.ndarray, " prompt"]:
        """Rows that are not computed yet."""
        return ~self._files[DONE] if self._files else ~_mapped(self.path, DONE, "r")

    def put(self, rows: Sequence[int], states: Arrays) -> None:
        """Write some rows."""
        for name, values in states.items():
            self._files[name][rows] = values
            self._files[name].flush()
        self._files[DONE][rows] = True
        self._files[DONE].flush()

    @property
    def arrays(self) -> Arrays:
        """The states, when no row is pending; the folder then gets its final name."""
        if self._files:
            self._files.clear()  # Windows moves no folder with an open file in it
            sync_folder(self.partial)
            os.replace(self.partial, self.path)
            sync_path(self.path.parent)
        return read_folder(self.path)[2]

    def _begin(self, about: Mapping[str, Any], token_ids: np.ndarray, witness: Arrays) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = len(about["ids"])
        # A memory-mapped file larger than the disk kills the process without a message.
        needed = rows * sum(values.nbytes for values in witness.values())
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise InputError(
                f"{needed / 2**30:.1f} GiB of activations and {free / 2**30:.1f} GiB of space in "
                f"{self.path.parent}; collect fewer layers or positions, or in float16"
            )
        self.partial.mkdir()
        for name, values in witness.items():
            path = self.partial / f"{name}.npy"
            open_memmap(path, "w+", values.dtype, (rows, *values.shape[1:]))
        open_memmap(self.partial / f"{DONE}.npy", "w+", np.dtype(bool), (rows,))
        np.save(self.partial / f"{TOKENS}.npy", token_ids)
        np.savez(self.partial / WITNESS, **dict[str, Any](witness))
        # Written last: a folder without it was interrupted during creation.
        write_json(self.partial / ABOUT, dict(about))


def read_folder(
    path: str | Path,
) -> tuple[dict[str, Any], Int[np.ndarray, "prompt position"], Arrays]:
    """The description of a collection, the positions' tokens, and the memory-mapped states.

    Raises:
        InputError: the folder holds no finished collection.
    """
    folder = Path(path)
    if not (folder / ABOUT).is_file():
        unfinished = folder.with_name(f"{folder.name}.partial").exists()
        hint = "it is unfinished: collect again to continue" if unfinished else "collect first"
        raise InputError(f"{folder} holds no activations; {hint}")
    about = read_json(folder / ABOUT)
    arrays = {name: _mapped(folder, name, "r") for name in about["sites"]}
    return about, np.load(folder / f"{TOKENS}.npy"), arrays


def _mapped(folder: Path, name: str, mode: Any) -> np.memmap:
    return open_memmap(folder / f"{name}.npy", mode)


def _difference(folder: Path, about: Mapping[str, Any], witness: Arrays, tolerance: float) -> str:
    """The reason why ``folder`` does not hold this collection."""
    try:
        found = read_json(folder / ABOUT)
        with np.load(folder / WITNESS) as file:
            states = dict(file)
    except (OSError, ValueError):
        return "holds no activations, or was interrupted during its creation"
    for name in ("weights", "configuration"):  # unknown to older versions
        found.setdefault(name, about.get(name))
    found.setdefault("edited", False)
    other = sorted(name for name in about if found.get(name) != about[name])
    if other == ["weights"]:
        return "holds activations of another model: its weights differ"
    if other:
        return f"holds activations that differ in {', '.join(other)}"
    for name, values in witness.items():
        apart = np.nan_to_num(values.astype(np.float64) - states[name])
        off = np.linalg.norm(apart) / (np.linalg.norm(np.nan_to_num(values)) or 1.0)
        if not off <= tolerance:
            return (
                f"holds activations of another model: {name} of the first prompt differs by "
                f"{off:.1e} of its norm"
            )
    return ""
