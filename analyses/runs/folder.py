"""A run's folder: stages write it, and a stage with unchanged inputs is skipped.

One process at a time works in a run's folder, and one in ``arms/NAME/``; each holds a lock. An arm
writes ``BEGUN`` first and ``DONE`` last. Both hold the key of all the arm's inputs, whose hashes
are in ``inputs.json``. Finished arms are replaced with ``overwrite`` only.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.paths import require_folder
from interp.errors import FileError, InputError
from interp.locks import locked
from interp.store import (
    SCHEMAS,
    content_key,
    package_version,
    read_json,
    read_table,
    write_json,
    write_table,
    write_text,
)

if TYPE_CHECKING:
    import pandas as pd

#: Columns that a forecast adds to a folder's prompts.parquet.
PROMPT_FORECAST = ("log_odds", "forecast", "flip_50", "flip_90")
BEGUN, DONE, INPUTS, LOCKS = "BEGUN", "DONE", "inputs.json", ".locks"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Inputs:
    """Everything that an arm's results depend on, by name.

    Attributes:
        stages: stages that make the results; their schema numbers are part of the key.
        parts: the inputs, as JSON values; the names are shown where one has changed.
        old_key: the key that version 0.1 gave to the same inputs, of which it knew fewer.
        added: names of inputs that were not part of the key in every later version, in the order
            in which they became part of it.
        dropped: inputs that were part of the key in earlier versions, and change no result.
    """

    stages: tuple[str, ...]
    parts: Mapping[str, Any]
    old_key: str | None = None
    added: tuple[str, ...] = ()
    dropped: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The key of all inputs."""
        return content_key(self.stages, self.parts)

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """What a folder keeps, to say later which input has changed."""
        numbers = {"schema of the " + stage: SCHEMAS[stage] for stage in self.stages}
        return numbers | {name: content_key("identity", one) for name, one in self.parts.items()}

    def __contains__(self, key: str) -> bool:
        if key in (self.key, self.old_key):
            return True
        parts = {**self.parts, **self.dropped}
        earlier = (self.added[place:] for place in range(len(self.added) + 1))
        return key in (
            content_key(self.stages, {n: one for n, one in parts.items() if n not in lacking})
            for lacking in earlier
        )


class RunFolder:
    """Writer of one run's folder; :class:`analyses.runs.Run` reads the folder.

    Args:
        folder: created if missing.
        overwrite: replace finished arms that were made from other inputs.

    Raises:
        InputError: ``folder`` is a file.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self.folder = require_folder(folder)
        self.overwrite = overwrite

    def arm(self, name: str) -> Path:
        """The folder of one arm."""
        return self.folder / "arms" / name

    def locked(self, name: str | None = None) -> AbstractContextManager[None]:
        """Hold the folder, or one arm of it, for this process.

        Raises:
            InputError: another process holds it; names the process.
        """
        lock = "run" if name is None else f"arm-{name}"
        return locked(self.folder / LOCKS / f"{lock}.lock", self.arm(name) if name else self.folder)

    def is_done(self, name: str, inputs: Inputs) -> bool:
        """Whether the arm was finished from the same inputs."""
        return _key_in(self.arm(name) / DONE) in inputs

    def require_replaceable(self, name: str, inputs: Inputs) -> None:
        """Refuse to replace an arm that was finished from other inputs.

        Raises:
            InputError: names what differs; not with ``overwrite``.
        """
        folder = self.arm(name)
        if self.overwrite or not (folder / DONE).is_file() or self.is_done(name, inputs):
            return
        raise InputError(
            f"{folder} is finished, {_made_from(folder, inputs)}; give another --out, or "
            "--overwrite to make it again"
        )

    def begin(self, name: str, inputs: Inputs, *, set_aside: bool = False) -> Path:
        """The arm's folder, with its files if they come from the same inputs; else emptied.

        Args:
            set_aside: move a finished arm of other inputs to ``replaced/`` instead of refusing.

        Raises:
            InputError: the arm was finished from other inputs; not with ``overwrite``.
        """
        folder = self.arm(name)
        if set_aside and not self.overwrite and not self.is_done(name, inputs):
            self._set_aside(name)
        self.require_replaceable(name, inputs)
        if _key_in(folder / BEGUN) in inputs:
            return folder
        if folder.exists():
            self._delete(name)
        write_json(folder / INPUTS, inputs.hashes)
        write_text(folder / BEGUN, inputs.key + "\n")
        return folder

    def finish(self, name: str, inputs: Inputs) -> None:
        """Mark the arm as done: all its files are complete."""
        begun = _key_in(self.arm(name) / BEGUN)
        write_text(self.arm(name) / DONE, (begun or inputs.key) + "\n")

    def _set_aside(self, name: str) -> None:
        if not (self.arm(name) / DONE).is_file():
            return
        places = (self.folder / "replaced" / f"{name}-{number}" for number in count(1))
        place = next(one for one in places if not one.exists())
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.arm(name), place)
        shutil.rmtree(self.folder / "causes" / name, ignore_errors=True)  # what explained it

    def other_arms(self, names: Collection[str]) -> list[str]:
        """Finished arms that are not among the given ones."""
        found = {path.parent.name for path in self.folder.glob(f"arms/*/{DONE}")}
        return sorted(found - set(names))

    def refuse_other_arms(self, names: Collection[str]) -> None:
        """Refuse a folder that holds finished arms of another plan.

        Raises:
            InputError: the folder has finished arms that are not in this plan.
        """
        if others := self.other_arms(names):
            raise InputError(
                f"{self.folder} holds finished arms of another study ({', '.join(others)}); "
                "give another --out, or --overwrite to replace them"
            )

    def delete_other_arms(self, names: Collection[str]) -> None:
        """With ``overwrite``: delete the finished arms of another plan, and what compares them."""
        for name in self.other_arms(names) if self.overwrite else ():
            with self.locked(name):
                self._delete(name)
            shutil.rmtree(self.folder / "containment", ignore_errors=True)

    def _delete(self, name: str) -> None:
        """Delete an arm, and what was explained of it."""
        (self.arm(name) / DONE).unlink(missing_ok=True)  # what is half deleted is not finished
        shutil.rmtree(self.arm(name))
        shutil.rmtree(self.folder / "causes" / name, ignore_errors=True)


def _key_in(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _made_from(folder: Path, inputs: Inputs) -> str:
    """What the arm in the folder was made from, compared with ``inputs``, in words."""
    path = folder / INPUTS
    was = read_json(path, ()) if path.is_file() else {}  # version 0.1 kept no hashes
    names = [name for name, one in inputs.hashes.items() if name in was and was[name] != one]
    if not names:
        return "from other inputs or by an earlier version of Spillover"
    return f"with another {' and another '.join(names)}"


def kept_table(path: Path, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The parquet table at ``path`` if its key is ``key``; else make and save it."""
    with suppress(FileError):  # absent or torn
        table = read_table(path, ("key",))
        if set(table["key"]) == {key}:
            return table.drop(columns="key")
    table = make()
    write_table(path, table.assign(key=key))
    return table


def write_manifest(folder: Path, **facts: Any) -> None:
    """Write ``manifest.json``: versions and other facts that identify the run."""
    versions = {"spillover": package_version(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    write_json(folder / "manifest.json", {"versions": versions, **facts})


def seconds_of(folder: Path) -> float:
    """Seconds that earlier sessions of the run took, from its manifest; 0 without one."""
    path = folder / "manifest.json"
    return float(read_json(path, ()).get("seconds") or 0.0) if path.is_file() else 0.0


def update_config(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file; leave the file alone if they are unchanged."""
    present = read_json(path, ())
    if present != {**present, **changes}:
        write_json(path, {**present, **changes})
