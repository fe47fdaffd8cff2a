"""Evidence before any training: the base model, its prompts, answers and gradients.

It uses TRAINING prompts only; leakage is measured on test prompts. Each piece is computed on first
use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from analyses.predict.gradients import (
    GROUPS,
    Gradients,
    PromptReads,
    mean_gradients,
    prompt_gradients,
    read_prompts,
)
from analyses.predict.products import GroupProducts, Kernel, ProductsWith
from analyses.predict.streamed import Sketch, streamed_kernel
from analyses.predict.traces import Side
from analyses.runs import BASE, RunRecord, base_of
from analyses.study import NoLogOddsError, deflections_of, held_deflections, require_prefixes
from interp.activations import collect
from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from interp.statistics import MINIMUM_UNITS, Contrast
from interp.store import read_table
from unlearning.data import controls, present_domains
from unlearning.deflections import examples, with_own_ids
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
        deflections: each domain's refusals, the sampled ones of a study included.
        prefixes: the frozen refusal and compliance prefixes; None where refusal is read from text,
            so that there are no log-odds.
        batch_size: prompts in one forward and backward.
        say: called with a line before each long step.
        sources: domains whose rows of the kernels are wanted; None: all. Only their gradients are
            held, and the other rows are NaN.
    """

    lm: LanguageModel
    trainable: Callable[[], LanguageModel]
    responses: pd.DataFrame
    prefixes: ResponsePrefixes | None
    deflections: Mapping[str, pd.DataFrame]
    batch_size: int = 32
    say: Callable[[str], object] = lambda _: None
    sources: tuple[str, ...] | None = None
    _reads: dict[str, PromptReads] = field(default_factory=dict, init=False, repr=False)
    _held: dict[str, Gradients] = field(default_factory=dict, init=False, repr=False)

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
    def grouped(self) -> tuple[str, ...]:
        """Domains with at least four different harmful prompts: a gradient of log-odds needs them.

        The kernels have NaN for the others.
        """
        return tuple(d for d, rows in self.harmful.items() if rows["prompt"].nunique() >= GROUPS)

    @cached_property
    def contrasted(self) -> tuple[str, ...]:
        """Domains with at least four harmful prompts and four controls, which a contrast needs."""
        return tuple(
            domain
            for domain, rows in self.harmful.items()
            if min(len(rows), len(self._benign[domain])) >= MINIMUM_UNITS
        )

    @cached_property
    def contrasts(self) -> Mapping[str, Contrast]:
        """States of harmful prompts and of controls, by domain; domains share no control.

        Domains that are not :attr:`contrasted` are left out.
        """
        found = {}
        for domain in self.contrasted:
            texts = list(self._benign[domain].head(MOST_PROMPTS)["prompt"])
            read = self._states(domain)
            if read is None:
                texts = [*self.harmful[domain]["prompt"], *texts]
            states = collect(self.lm, texts, batch_size=self.batch_size).states
            if read is not None:
                states = np.concatenate([read, states])
            positive = np.arange(len(states)) < len(self.harmful[domain])
            found[domain] = Contrast.from_labels(states, positive)
        return found

    def contrast_of(self, domain: str) -> Contrast:
        """One of :attr:`contrasts`.

        Raises:
            InputError: the domain has too few prompts.
        """
        if domain not in self.contrasted:
            raise InputError(
                f"{domain}: {len(self.harmful[domain])} harmful and {len(self._benign[domain])} "
                f"benign training prompts; its direction needs {MINIMUM_UNITS} of each: give more "
                "prompts with --prompts"
            )
        return self.contrasts[domain]

    @cached_property
    def _benign(self) -> Mapping[str, pd.DataFrame]:
        return controls(self.responses, "train").rows

    def _states(self, domain: str) -> Float[np.ndarray, "prompt layer d_model"] | None:
        """The base model's states that a pass has read; None if there was no such pass."""
        if domain in self._reads and self.untrained.model.dtype == self.lm.model.dtype:
            return self._reads[domain].states
        return None

    @cached_property
    def log_odds(self) -> Mapping[str, Float[np.ndarray, " prompt"]]:
        """The base model's refusal log-odds on every domain's harmful training prompts, in nats."""
        found = {}
        with torch.no_grad():
            for domain, rows in self._prompts.items():
                read = self._reads.get(domain)
                found[domain] = (
                    self.read_log_odds(self.lm, rows).numpy() if read is None else read.values
                )
        return found

    @property
    def objective_products(self) -> GroupProducts:
        """∇S_a of every source with ∇m_b; with ∇S_b in a run without log-odds.

        S_a is the mean summed log-probability of a's deflections, in nats. NaN for a source that is
        none of the :attr:`targets`, and for a domain that is not :attr:`grouped`.
        """
        return self._products[0]

    @property
    def log_odds_products(self) -> GroupProducts:
        """∇m_a of every source with ∇m_b.

        Raises:
            NoLogOddsError: refusal is read from text.
        """
        self._require_log_odds()
        return self._products[1]

    @cached_property
    def _products(self) -> Sequence[GroupProducts]:
        """Both sides' gradients are held for the sources only; the targets pass by."""
        sources = self.domains if self.sources is None else self.sources
        refusals = ProductsWith(
            {d: self.gradients_of_deflections(d) for d in sources if d in self.targets},
            self.domains,
        )
        if self.prefixes is None:
            for domain in self.targets:
                held = refusals.sources.get(domain)
                refusals.add(domain, held or self.gradients_of_deflections(domain))
            return [refusals.products()]
        log_odds = ProductsWith(
            {d: self.gradients_of_log_odds(d) for d in sources if d in self.grouped}, self.domains
        )
        for domain in self.grouped:
            target = log_odds.sources.get(domain) or self.gradients_of_log_odds(domain)
            refusals.add(domain, target)
            log_odds.add(domain, target)
        return [refusals.products(), log_odds.products()]

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Domains with at least eight deflections, of at least four prompts.

        With log-odds they also have four harmful prompts (:attr:`grouped`).

        Raises:
            InputError: there is none.
        """
        found = tuple(domain for domain in self.domains if self._can_be_target(domain))
        if not found:
            self.require_target(max(self.domains, key=self._refusals))
        return found

    def require_target(self, domain: str) -> None:
        """Check that a domain has enough deflections, and harmful prompts, for its gradients.

        Raises:
            InputError: it has fewer than eight, or they answer fewer than four prompts, or it has
                fewer than four harmful prompts whose log-odds are read.
        """
        if self.prefixes is not None and domain not in self.grouped:
            raise InputError(
                f"{domain}: {self.harmful[domain]['prompt'].nunique()} different harmful training "
                f"prompts; a gradient of their log-odds needs {GROUPS}: give more prompts with "
                "--prompts"
            )
        if not self._can_be_target(domain):
            count, refused = self._refusals(domain)
            raise InputError(
                f"{domain}: {count} different refusals to {refused} of {len(self.harmful[domain])} "
                f"training prompts, sampled ones included; a gradient needs {FEWEST_REFUSALS} to "
                f"{GROUPS} prompts: teach the model to refuse first, or give more prompts with "
                "--prompts"
            )

    def _can_be_target(self, domain: str) -> bool:
        count, refused = self._refusals(domain)
        read = self.prefixes is None or domain in self.grouped
        return read and count >= FEWEST_REFUSALS and refused >= GROUPS

    def _refusals(self, domain: str) -> tuple[int, int]:
        """The number of a domain's deflections, and of the prompts that they answer."""
        rows = self.deflections[domain].head(MOST_PROMPTS)
        return len(rows), rows["prompt"].nunique()

    def gradients_of_log_odds(self, domain: str) -> Gradients:
        """∇m_b of one domain."""
        self.say(f"gradients: refusal log-odds of {domain}")
        found, self._reads[domain] = prompt_gradients(
            self.untrained,
            self._prompts[domain],
            self.read_log_odds,
            prompts=self._numbers(domain, self.harmful[domain]["prompt"]),
            batch_size=self.batch_size,
        )
        return found

    def gradients_of_deflections(self, domain: str) -> Gradients:
        """∇S_a of one domain; held where it is the one source of a forecast.

        Raises:
            InputError: the model refuses fewer than eight of its training prompts.
        """
        if domain in self._held:
            return self._held[domain]
        self.say(f"gradients: refusals of {domain}")
        rows = self._deflections(domain)
        found = mean_gradients(
            self.untrained,
            rows,
            _summed_log_prob,
            prompts=self._numbers(domain, self._deflected[domain]),
            batch_size=self.batch_size,
        )
        if self.sources == (domain,):
            self._held[domain] = found
        return found

    def groups_of_deflections(self, domain: str) -> dict[str, int]:
        """The group of :meth:`gradients_of_deflections` that each prompt's refusals belong to."""
        prompts = self._deflected[domain]
        numbers = self._numbers(domain, prompts)
        return {prompt: n % GROUPS for prompt, n in zip(prompts, numbers, strict=True)}

    @cached_property
    def objective_kernel_of_all_weights(self) -> Kernel:
        """⟨∇S_a, ∇m_b⟩ over all projections of all layers, without storing weight gradients.

        As in :attr:`objective_products`, S_b replaces m_b in a run without log-odds.
        """
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
        rows = {d: self._deflections(d) for d in self.targets}
        deflected = {d: self._numbers(d, self._deflected[d]) for d in self.targets}
        asked = {d: self._numbers(d, self.harmful[d]["prompt"]) for d in self.grouped}
        prompts = {d: self._prompts[d] for d in self.grouped}
        refusals = Side(rows, _summed_log_prob, deflected)
        by_text = self.prefixes is None
        found = streamed_kernel(
            self.lm,
            refusals,
            refusals if by_text else Side(prompts, self.read_log_odds, asked),
            batch_size=self.batch_size,
            sketch=sketch,
        )
        read = self.targets if by_text else self.grouped
        return found.with_undefined(
            *([domain in given for domain in self.domains] for given in (self.targets, read))
        )

    @cached_property
    def log_odds_by_state(self) -> Mapping[str, Float[np.ndarray, "layer d_model"]]:
        """Mean gradient of the log-odds with respect to the residual stream, last prompt token."""
        for domain in set(self.domains) - set(self._reads):
            self._reads[domain] = read_prompts(
                self.untrained,
                self._prompts[domain],
                self.read_log_odds,
                batch_size=self.batch_size,
            )
        return {domain: self._reads[domain].by_state for domain in self.domains}

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

    @property
    def _deflected(self) -> Mapping[str, list[str]]:
        """The prompt of each deflection; a prompt has several where refusals were sampled."""
        return {d: list(rows.head(MOST_PROMPTS)["prompt"]) for d, rows in self.deflections.items()}

    def _numbers(self, domain: str, prompts: Iterable[str]) -> list[int]:
        """The number of every prompt, the same for its refusals and its log-odds.

        A prompt is then in one group on both sides of a product. Prompts with both come first, and
        each side's other prompts follow, so that the groups of both sides are balanced.
        """
        deflected, asked = self._deflected[domain], list(self.harmful[domain]["prompt"])
        both = [prompt for prompt in deflected if prompt in asked]
        orders = [dict.fromkeys([*both, *side]) for side in (deflected, asked)]
        found = {prompt: number for order in orders for number, prompt in enumerate(order)}
        return [found[prompt] for prompt in prompts]

    def _deflections(self, domain: str) -> list[Tokens]:
        self.require_target(domain)
        refused = self.deflections[domain]
        return [example.tokens for example in examples(self.lm, refused.head(MOST_PROMPTS))]

    def read_log_odds(self, lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
        """The refusal log-odds of every row, with their graph.

        Raises:
            NoLogOddsError: refusal is read from text.
        """
        return refusal_log_odds(lm, rows, self._require_log_odds())

    def _require_log_odds(self) -> ResponsePrefixes:
        if self.prefixes is None:
            raise NoLogOddsError(
                "this method needs refusal log-odds, and this run reads refusal from text"
            )
        return self.prefixes


def _summed_log_prob(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    batch = lm.chat.pad(rows, lm.device)
    log_probs, _mask = response_log_probs(
        lm.model, lm.inputs(batch), batch.response_mask, lm.checked
    )
    return log_probs.sum(dim=-1)


def evidence_of(context: Context, baseline: Baseline, training: TrainingSettings) -> Evidence:
    """The evidence from training prompts, for the parameters that ``training`` would train.

    The targets' deflections are those that would be unlearned: ready-made pairs, if there are any.
    """
    if context.pairs is None:
        for concept in context.plan.concepts:
            deflections_of(context, baseline, concept)  # sampled now if greedy ones are too few
    held = _held(context.run.arm(BASE), baseline.responses)
    if context.pairs is not None:
        given = with_own_ids(context.reference, context.pairs, say=context.progress.say)
        held |= dict.fromkeys(context.plan.concepts, given)
    return Evidence(
        context.reference,
        lambda: prepare_in_place(context.load(), training),
        _training_rows(baseline.responses),
        baseline.prefixes,
        held,
        batch_size=training.micro_batch_size or training.batch_size,
        say=context.progress.say,
    )


def evidence_of_run(record: RunRecord) -> Evidence:
    """The evidence from a run's base model.

    Raises:
        InputError: the run trained no arm, so the trained parameters are unknown; its model has no
            refusal log-odds, or has changed since.
    """
    training = training_of(record)
    settings = TrainingSettings(**{**training, "adam_betas": tuple(training["adam_betas"])})

    def load() -> LanguageModel:
        return LanguageModel.load(record.config["model"], **record.model_options)

    base = record.folder / "arms" / BASE
    prefixes = require_prefixes(base, "a tournament")
    responses = read_table(base / "responses.parquet")
    return Evidence(
        base_of(record),
        lambda: prepare_in_place(load(), settings),
        _training_rows(responses),
        prefixes,
        _held(base, responses),
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


def _held(base: Path, responses: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every domain's deflections in the base model's folder."""
    return {
        domain: held_deflections(base, responses, domain) for domain in present_domains(responses)
    }


def _training_rows(responses: pd.DataFrame) -> pd.DataFrame:
    return responses[responses["split"] == "train"].reset_index(drop=True)
