"""Evidence before any training: the base model, its prompts, answers and gradients.

It uses TRAINING prompts only; leakage is measured on test prompts. Each piece is computed on first
use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from analyses.predict.gradients import GROUPS, Gradients, Kernel, mean_gradients, residual_gradients
from analyses.predict.streamed import Sketch, streamed_kernel
from analyses.predict.traces import Side
from analyses.runs import BASE, RunRecord
from analyses.study import read_prefixes, require_prefixes
from interp.activations import collect
from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from interp.statistics import Contrast
from interp.store import read_table
from unlearning.data import controls, present_domains
from unlearning.deflections import examples, refusals_of
from unlearning.losses import response_log_probs
from unlearning.refusal import ResponsePrefixes, refusal_log_odds
from unlearning.training import TrainingSettings, adapter_inputs, prepare_in_place

if TYPE_CHECKING:
    from torch import Tensor

    from analyses.study import Baseline, Context

FEWEST_REFUSALS = 2 * GROUPS  # per domain, for a gradient with a standard error
MOST_PROMPTS = 128  # per domain: enough for a precise mean gradient


@dataclass(frozen=True)
class Evidence:
    """The evidence that predictors may use.

    Attributes:
        lm: the base model.
        trainable: makes a fresh copy of the base model, prepared for training.
        responses: training prompts with the base model's own answers (``ids``, ``class``).
        prefixes: the frozen refusal and compliance prefixes.
        batch_size: prompts in one forward and backward.
    """

    lm: LanguageModel
    trainable: Callable[[], LanguageModel]
    responses: pd.DataFrame
    prefixes: ResponsePrefixes
    batch_size: int = 32

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Domains with harmful prompts: the rows and columns of every prediction."""
        return present_domains(self.responses)

    @cached_property
    def harmful(self) -> Mapping[str, pd.DataFrame]:
        """Every domain's harmful training prompts, at most 128."""
        rows = self.responses[self.responses["label"] == "harmful"]
        return {d: rows[rows["domain"] == d].head(MOST_PROMPTS) for d in self.domains}

    @cached_property
    def contrasts(self) -> Mapping[str, Contrast]:
        """States of every domain's harmful prompts and its controls; domains share no control."""
        benign = controls(self.responses, "train").rows
        found = {}
        for domain in self.domains:
            mine = benign[domain].head(MOST_PROMPTS)
            texts = [*self.harmful[domain]["prompt"], *mine["prompt"]]
            states = collect(self.lm, texts, batch_size=self.batch_size).states
            positive = np.arange(len(texts)) < len(self.harmful[domain])
            found[domain] = Contrast.from_labels(states, positive)
        return found

    @cached_property
    def log_odds(self) -> Mapping[str, Float[np.ndarray, " prompt"]]:
        """The base model's refusal log-odds on every domain's harmful training prompts, in nats."""
        found = {}
        with torch.no_grad():
            for domain, rows in self._prompts.items():
                found[domain] = refusal_log_odds(self.lm, rows, self.prefixes).numpy()
        return found

    @cached_property
    def log_odds_gradients(self) -> Mapping[str, Gradients]:
        """∇m_b of every domain."""
        return {domain: self.gradients_of_log_odds(domain) for domain in self.domains}

    @cached_property
    def deflection_gradients(self) -> Mapping[str, Gradients]:
        """∇S_a of every domain; S_a: mean summed log-probability of its deflections, in nats."""
        return {domain: self.gradients_of_deflections(domain) for domain in self.domains}

    def gradients_of_log_odds(self, domain: str) -> Gradients:
        """∇m_b of one domain."""
        return mean_gradients(
            self.untrained, self._prompts[domain], self._log_odds, batch_size=self.batch_size
        )

    def gradients_of_deflections(self, domain: str) -> Gradients:
        """∇S_a of one domain.

        Raises:
            InputError: the model refuses fewer than eight of its training prompts.
        """
        rows = self._deflections(domain)
        return mean_gradients(self.untrained, rows, _summed_log_prob, batch_size=self.batch_size)

    @cached_property
    def objective_kernel_of_all_weights(self) -> Kernel:
        """⟨∇S_a, ∇m_b⟩ over all projections of all layers, without storing weight gradients."""
        return self._streamed(None)

    @cached_property
    def objective_kernel_of_adapters(self) -> Kernel:
        """⟨∇S_a, ∇m_b⟩ over the adapters that training would change, without storing gradients.

        Raises:
            InputError: training would use no adapters.
        """
        first = adapter_inputs(self.untrained)
        if not first:
            raise InputError("training would not use adapters; give --kernel weights")
        return self._streamed(lambda place, _width: first[place])

    def _streamed(self, sketch: Sketch | None) -> Kernel:
        return streamed_kernel(
            self.lm,
            Side({d: self._deflections(d) for d in self.domains}, _summed_log_prob),
            Side(self._prompts, self._log_odds),
            batch_size=self.batch_size,
            sketch=sketch,
        )

    @cached_property
    def log_odds_by_state(self) -> Mapping[str, Float[np.ndarray, "layer d_model"]]:
        """Mean gradient of the log-odds with respect to the residual stream, last prompt token."""
        return {
            domain: residual_gradients(
                self.untrained, rows, self._log_odds, batch_size=self.batch_size
            )
            for domain, rows in self._prompts.items()
        }

    @cached_property
    def untrained(self) -> LanguageModel:
        """A copy of the model as training would begin; trainable parameters require gradients."""
        copy = self.trainable()
        copy.model.eval()
        return copy

    @cached_property
    def _prompts(self) -> Mapping[str, list[Tokens]]:
        return {
            domain: [self.lm.chat.encode(prompt) for prompt in rows["prompt"]]
            for domain, rows in self.harmful.items()
        }

    def _deflections(self, domain: str) -> list[Tokens]:
        refused = refusals_of(self.responses, domain, fewest=FEWEST_REFUSALS).head(MOST_PROMPTS)
        return [example.tokens for example in examples(self.lm, refused)]

    def _log_odds(self, lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
        return refusal_log_odds(lm, rows, self.prefixes)


def _summed_log_prob(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    batch = lm.chat.pad(rows, lm.device)
    log_probs, _mask = response_log_probs(
        lm.model, lm.inputs(batch), batch.response_mask, lm.checked
    )
    return log_probs.sum(dim=-1)


def evidence_of(context: Context, baseline: Baseline, training: TrainingSettings) -> Evidence:
    """The evidence from training prompts, for the parameters that ``training`` would train."""
    return Evidence(
        context.reference,
        lambda: prepare_in_place(context.load(), training),
        _training_rows(baseline.responses),
        require_prefixes(baseline.prefixes, "predict"),
        batch_size=training.micro_batch_size or training.batch_size,
    )


def evidence_of_run(record: RunRecord) -> Evidence:
    """The evidence from a run's base model.

    Raises:
        InputError: the run trained no arm, so the trained parameters are unknown.
    """
    config, training = record.config, training_of(record)
    settings = TrainingSettings(**{**training, "adam_betas": tuple(training["adam_betas"])})
    options = dict(config.get("model_options") or {})

    def load() -> LanguageModel:
        return LanguageModel.load(config["model"], **options)

    base = record.folder / "arms" / BASE
    return Evidence(
        load(),
        lambda: prepare_in_place(load(), settings),
        _training_rows(read_table(base / "responses.parquet")),
        require_prefixes(read_prefixes(base / "openers.json"), "predict"),
    )


def training_of(record: RunRecord) -> dict[str, Any]:
    """How the run's arms were trained, which says which parameters a prediction is about.

    Raises:
        InputError: the run trained no arm.
    """
    trained = [arm.config["training"] for arm in record.arms if arm.config.get("training")]
    if not trained:
        raise InputError(f"{record.folder} has no trained arm to compare a prediction with")
    return dict(trained[0])


def _training_rows(responses: pd.DataFrame) -> pd.DataFrame:
    return responses[responses["split"] == "train"].reset_index(drop=True)
