"""The model organism's grammar as a scorer."""

from __future__ import annotations

from unlearning.organism import Grammar
from unlearning.scoring.classes import Scorer
from unlearning.scoring.registry import scorer, take_no_argument


@scorer("grammar", title="grammar")
def grammar(argument: str) -> Scorer:
    """The exact grammar of the model organism's responses."""
    take_no_argument("grammar", argument)
    return Grammar()
