"""The direction gate of a run's base model, as a line of the report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.options import flags_of
from analyses.runs import RunRecord
from interp.errors import InputError
from interp.store import read_json

GATE_FILE, MANIFEST, CONFIG = "gate.json", "manifest.json", "config.json"


def gate_view(record: RunRecord) -> dict[str, Any]:
    """The gate for the report: ``line`` and ``massive``; without a result, ``why``, if known, and
    the ``command``, in which FOLDER stands for the run's folder and FILE for its chat template.
    """
    path = record.folder / GATE_FILE
    stored = read_json(path, ("line", "massive")) if path.is_file() else {}
    if stored.get("line"):
        return {"line": stored["line"], "massive": stored["massive"], "why": "", "command": ""}
    model = record.config.get("model")
    options = flags_of(record.model_options)
    parts = ["spillover", "doctor", str(model), *options, "--gate", "--run", "FOLDER"]
    command = shlex.join(parts) if model else ""
    return {"line": "", "massive": "", "why": stored.get("why", ""), "command": command}


def weights_of_run(folder: Path, *, measured: bool) -> str:
    """The fingerprint of the base model in a run's folder, into which a gate may be written.

    Raises:
        InputError: the gate is not measured, or the folder is not a finished run of one model.
    """
    if not measured:
        raise InputError("--run says where the direction gate goes; give --gate too")
    path = folder / MANIFEST
    hashes = read_json(path).get("hashes") if path.is_file() else None
    if not hashes or "model" not in hashes:
        raise InputError(
            f"{folder} is not the folder of a finished run: it has no {MANIFEST} with the hash of "
            "a base model"
        )
    return str(hashes["model"])


def require_chat_of_run(folder: Path, chat: Mapping[str, Any]) -> None:
    """Check that a model is asked in the chat format of a run, of which older runs hold less.

    Args:
        folder: of the run.
        chat: the format's fingerprint.

    Raises:
        InputError: the run asks in another format.
    """
    path = folder / CONFIG
    held = (read_json(path).get("chat") if path.is_file() else None) or {}
    given = json.loads(json.dumps(chat))  # as the run's file holds it
    if any(held[name] != given[name] for name in held.keys() & given.keys()):
        raise InputError(
            f"the run in {folder} asks in another chat format; give the --system, --chat-template, "
            "--chat-template-arg and --response-prefix of the run"
        )
