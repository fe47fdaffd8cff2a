"""A run's folder: stages write it, and a stage with unchanged inputs is skipped.

Only one arm writes ``arms/NAME/``. It writes ``BEGUN`` first and ``DONE`` last; both hold the key
of all the arm's inputs.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.store import atomic_write, package_version, read_json, write_json, write_table

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scikit-learn")


class RunFolder:
    """Writer of one run's folder; :class:`analyses.runs.Run` reads the folder.

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def arm(self, name: str) -> Path:
        """The folder of one arm."""
        return self.folder / "arms" / name

    def is_done(self, name: str, key: str) -> bool:
        """Whether the arm was finished from the same inputs."""
        done = self.arm(name) / "DONE"
        return done.is_file() and done.read_text(encoding="utf-8").strip() == key

    def begin(self, name: str, key: str) -> Path:
        """The arm's folder, with its files if they come from the same inputs; else emptied."""
        folder = self.arm(name)
        begun = folder / "BEGUN"
        if begun.is_file() and begun.read_text(encoding="utf-8").strip() == key:
            return folder
        if folder.exists():
            shutil.rmtree(folder)
        with atomic_write(begun) as temporary:
            temporary.write_text(key + "\n", encoding="utf-8")
        return folder

    def finish(self, name: str, key: str) -> None:
        """Mark the arm as done: all its files are complete."""
        with atomic_write(self.arm(name) / "DONE") as temporary:
            temporary.write_text(key + "\n", encoding="utf-8")

    def refuse_other_arms(self, names: set[str]) -> None:
        """Refuse a folder that holds finished arms of another plan.

        Raises:
            InputError: the folder has finished arms that are not in this plan.
        """
        arms = self.folder / "arms"
        found = {path.parent.name for path in arms.glob("*/DONE")} if arms.is_dir() else set()
        others = sorted(found - names)
        if others:
            raise InputError(
                f"{self.folder} holds finished arms of another study ({', '.join(others)}); "
                "give another --out"
            )


def kept_table(path: Path, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The parquet table at ``path`` if its key is ``key``; else make and save it."""
    import pandas as pd

    if path.is_file():
        table = pd.read_parquet(path)
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
    return float(read_json(path).get("seconds") or 0.0) if path.is_file() else 0.0


def update_config(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file; leave the file alone if they are unchanged."""
    present = read_json(path)
    if present != {**present, **changes}:
        write_json(path, {**present, **changes})
