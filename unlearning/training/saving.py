"""Compare the weights that a run leaves behind with the model that it trained.

Adapters may be lost, or change more than they should, on the way through a file: tensors without a
place, blocks that share a weight, heads tied to embeddings. Logits on a short prompt are therefore
written when the weights are, and the model that loads from them must reproduce these logits.
"""

from __future__ import annotations

from pathlib import Path

import torch

from interp.errors import SpilloverError, TrainingError
from interp.model import LanguageModel, merged
from interp.store import atomic_folder, atomic_write
from unlearning.training.eval_mode import probe_logits, relative_error
from unlearning.training.parameters import restore_parameters, save_parameters

LOGITS = "trained_logits.safetensors"  # deleted once they were compared
WHOLE = "whole_model"
# Largest relative difference of logits by saving, loading and merging; 16-bit weights are rounded.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
ROUNDED = 0.1


def save_with_logits(lm: LanguageModel, folder: Path) -> Path:
    """Write the trained weights, and the logits that they give; the weights' folder."""
    from safetensors.torch import save

    with atomic_write(folder / LOGITS) as partial:
        partial.write_bytes(save({"logits": probe_logits(lm).float().cpu().contiguous()}))
    return save_parameters(lm, folder)


def restore_with_logits(lm: LanguageModel, folder: Path) -> None:
    """Load the weights that :func:`save_with_logits` wrote into the model that was trained.

    Raises:
        TrainingError: they do not give the logits that were written with them.
    """
    restore_parameters(lm, folder)
    _compare(lm, folder, "put back into the trained model")


def check_saved(loaded: LanguageModel, folder: Path) -> None:
    """Compare the model that loads from ``folder`` with the one that was trained.

    Raises:
        TrainingError: their logits differ by more than rounding.
    """
    _compare(loaded, folder, "loaded again")
    (folder / LOGITS).unlink(missing_ok=True)


def keep_whole(trained: LanguageModel, folder: Path) -> Path | None:
    """Write the trained model, adapters merged, where its adapters alone do not give it back.

    Args:
        trained: the model in memory, whose adapters are merged here.
        folder: where :func:`save_with_logits` wrote.

    Returns:
        The folder ``whole_model``; None if the model that loads from it is another one, too.
    """
    try:
        with atomic_folder(folder / WHOLE) as made:
            merged(trained.model).save_pretrained(made)
            trained.tokenizer.save_pretrained(made)
            _compare(LanguageModel.load(made), folder, "saved whole")
    except SpilloverError:
        return None
    return folder / WHOLE


def _compare(lm: LanguageModel, folder: Path, how: str) -> None:
    from safetensors.torch import load_file

    if not (folder / LOGITS).is_file():  # the arm was begun by a version that wrote none
        return
    wanted = load_file(folder / LOGITS)["logits"]
    error = relative_error(probe_logits(lm).cpu(), wanted)
    tolerance = TOLERANCE.get(lm.model.dtype, ROUNDED)
    if not error <= tolerance:
        raise TrainingError(
            f"the weights saved in {folder} are not those of the trained model: {how}, they give "
            f"logits that differ by {error:.1e} (at most {tolerance:.0e}); train with --trainable "
            "projections, or exclude the modules that share weights (--lora-exclude)"
        )
