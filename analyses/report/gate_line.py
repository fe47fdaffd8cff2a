"""The direction gate of a run's base model, as a line of the report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from analyses.runs import RunRecord
from interp.errors import InputError
from interp.store import read_json

GATE_FILE = "gate.json"


def gate_view(record: RunRecord) -> dict[str, Any]:
    """The gate for the report: ``line`` and ``massive``; without a result, the ``command``, in
    which FOLDER stands for the run's folder.
    """
    path = record.folder / GATE_FILE
    if path.is_file():
        stored = read_json(path, ("line", "massive"))
        return {"line": stored["line"], "massive": stored["massive"], "command": ""}
    model = record.config.get("model")
    parts = ["spillover", "doctor", str(model), "--gate", "--run", "FOLDER"]
    return {"line": "", "massive": "", "command": shlex.join(parts) if model else ""}


def require_gate_folder(folder: Path, model: str, *, measured: bool) -> None:
    """Check that a gate of ``model`` may be written into a run's folder.

    Raises:
        InputError: it is not measured, or the folder is not a run of this model.
    """
    if not measured:
        raise InputError("--run says where the direction gate goes; give --gate too")
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not the folder of a run: it has no config.json")
    studied = str(read_json(path).get("model", ""))
    if Path(studied).name != Path(model).name:
        raise InputError(
            f"the run in {folder} studies {studied or 'no single model'}, not {model}; give its "
            "own model, or another folder"
        )
