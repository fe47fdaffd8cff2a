"""Which step of a run its weights are of, read off its scores.

Apart from :mod:`unlearning.training.forgetting`, which decides it in training and needs a trainer
for that: who reads a run that is finished needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def matched_step(scores: pd.DataFrame) -> int:
    """The step whose weights were kept: the last with generated text, else the last one scored."""
    with_text = scores.loc[scores["class"].notna(), "step"] if "class" in scores else scores["step"]
    last_with_text = with_text.max() if len(with_text) else 0
    return int(last_with_text or scores["step"].max())
