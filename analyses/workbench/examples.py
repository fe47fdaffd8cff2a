"""A small finished run in the package."""

from __future__ import annotations

from pathlib import Path

from analyses.runs import Run


def example_run() -> Run:
    """A finished run of the model organism, for examples and tests.

    NPO unlearns ``cybersecurity`` (once plain, once with a retain set) and ``safety``, on a part of
    the prompts of the model organism; one control arm is trained on benign answers. The folder
    holds no weights, figures or report.

    Example:
        >>> run = sp.example_run()
        >>> run.arms["concept"].dropna().unique().tolist()
        ['cybersecurity', 'safety']
        >>> sorted(run.leakage["domain"].unique())[:3]
        ['bias', 'cybersecurity', 'medical_legal']
    """
    return Run(Path(__file__).parent / "example")
