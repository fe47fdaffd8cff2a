"""The models of a finished run: the base that it was made from, and the weights that it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.runs.arms import Arm, RunRecord
from interp.errors import InputError
from interp.model import LanguageModel


def base_of(record: RunRecord) -> LanguageModel:
    """The run's base model.

    Raises:
        InputError: its weights have changed since.
    """
    source = record.config["model"]
    base = LanguageModel.load(source, **_options(record))
    was = (record.manifest.get("hashes") or {}).get("model")
    if was is not None and was != base.fingerprint():
        raise InputError(
            f"{source} is not the model that {record.folder} was made from: its weights have "
            "changed since; put the old ones back, or run the study again"
        )
    return base


def after_of(record: RunRecord, arm: Arm) -> LanguageModel:
    """An arm's model; adapters are merged.

    Raises:
        InputError: its weights are not there any more.
    """
    source = weights_of(record, arm)
    if source is None:
        raise InputError(
            f"{record.folder} keeps no weights of {arm.name} (adapter/ or model/); "
            "run the study again and keep them"
        )
    return LanguageModel.load(source, **_options(record))


def weights_of(record: RunRecord, arm: Arm) -> str | None:
    """Where an arm's weights are; None where the run keeps none."""
    if checkpoint := arm.config.get("checkpoint"):
        return str(checkpoint)
    folder = record.folder / "arms" / arm.name
    kept: tuple[Path, ...] = (folder / "adapter", folder / "model")
    return next((str(path) for path in kept if path.is_dir()), None)


def _options(record: RunRecord) -> dict[str, Any]:
    return dict(record.config.get("model_options") or {})
