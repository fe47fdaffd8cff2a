"""What is known of a study's base model before anything is trained."""

from __future__ import annotations

from analyses.predict.evidence import Evidence
from analyses.study import Baseline, Context
from unlearning.training import TrainingSettings, prepare


def evidence_of(context: Context, baseline: Baseline, training: TrainingSettings) -> Evidence:
    """The evidence of training prompts, for the parameters that ``training`` would train."""
    responses = baseline.responses
    return Evidence(
        context.reference,
        lambda: prepare(context.load(), training),
        responses[responses["split"] == "train"].reset_index(drop=True),
        baseline.prefixes,
        batch_size=training.micro_batch_size or training.batch_size,
    )
