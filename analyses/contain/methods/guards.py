"""Methods that wrap the training loop by the trainer's contexts and callbacks.

concept ablation
    In every forward and backward of training, the retained domains' common refusal direction (the
    mean of their unit mean differences, layer by layer) is ablated, so that the forget term has no
    gradient through it (CAFT: Casademunt et al. 2025, arXiv 2507.16795). The reference is ablated
    too: otherwise the log-ratio would start far below 0, where NPO is saturated.
gradient projection
    After every optimizer step Δθ, the part of Δθ that lies in the span of the gradients of the
    retained domains' refusal log-odds is removed: to first order these log-odds do not change,
    whatever the optimizer's preconditioner and momentum (as in orthogonal gradient descent:
    Farajtabar et al. 2020, arXiv 1910.07104, which projects the gradient).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from analyses.predict import evidence_of
from analyses.runs import BASE
from analyses.study import ArmPlan, Baseline, Context, Guard, method, require_prefixes
from interp.directions import mean_difference
from interp.interventions import ablate
from interp.model import LanguageModel, Tokens, doubled
from unlearning.refusal import ResponsePrefixes, refusal_log_odds

PROMPTS = 32  # of a retained domain, for one gradient of its refusal log-odds
REFRESH = 4  # optimizer steps between recomputations of that gradient
WEIGHTS = "weights.safetensors"


@method(
    "ablation",
    title="concept ablation",
    does="ablates the retained domains' common refusal direction during training",
    retains=False,
    weighted=False,
    contrasts=lambda _target, retained: retained,
    paper="Casademunt et al. 2025, arXiv 2507.16795",
    badge="variant",
    differs="the direction is a mean of mean differences, and the reference is ablated too",
    colour="#da8bc3",
)
class ConceptAblation:
    """Ablates the retained domains' common refusal direction in every forward of training."""

    @staticmethod
    def guard(context: Context, baseline: Baseline, arm: ArmPlan, lm: LanguageModel) -> Guard:
        evidence = evidence_of(context, baseline, arm.settings)
        contrasts = [evidence.contrast_of(domain) for domain in arm.retain]
        differences = [mean_difference(c.positive, c.negative) for c in contrasts]
        directions = common_direction(np.array(differences, dtype=np.float64))

        def ablated() -> AbstractContextManager[object]:
            return ablate(lm, directions.astype(np.float32), layers=range(lm.n_layers))

        return Guard(ablated)


def common_direction(
    differences: Float[np.ndarray, "domain layer d_model"],
) -> Float[np.ndarray, "layer d_model"]:
    """The mean of the domains' unit vectors, layer by layer."""
    lengths = np.linalg.norm(differences, axis=-1, keepdims=True)
    return (differences / np.maximum(lengths, np.finfo(float).tiny)).mean(axis=0)


@method(
    "projection",
    title="gradient projection",
    does="projects each step off the gradients of the retained domains' refusal log-odds",
    retains=False,
    weighted=False,
    needs_log_odds=True,
    paper="Farajtabar et al. 2020, arXiv 1910.07104",
    badge="variant",
    differs="the optimizer's step is projected, not the gradient",
    colour="#2a9db8",
)
class GradientProjection:
    """Removes the part of every step that changes the retained domains' refusal log-odds."""

    @staticmethod
    def guard(context: Context, baseline: Baseline, arm: ArmPlan, lm: LanguageModel) -> Guard:
        rows = baseline.responses
        asked = rows[(rows["split"] == "train") & (rows["label"] == "harmful")]
        prompts = {
            domain: [
                lm.chat.encode(text) for text in asked.loc[asked["domain"] == domain, "prompt"]
            ]
            for domain in arm.retain
        }
        prefixes = require_prefixes(context.run.arm(BASE), "gradient_projection")
        callback = ProjectedSteps(lm, prompts, prefixes, seed=arm.settings.seed)
        return Guard(callbacks=(callback,), states={"projection": callback})


class ProjectedSteps(TrainerCallback):
    """Removes the part of an optimizer step along the gradients of domains' refusal log-odds.

    Args:
        lm: the model being trained.
        prompts: of every domain whose refusal log-odds must not change.
        prefixes: of the log-odds.
        seed: of the prompts drawn at every refresh.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Mapping[str, Sequence[Tokens]],
        prefixes: ResponsePrefixes,
        *,
        seed: int = 0,
    ) -> None:
        self.lm = lm
        self.prompts = prompts
        self.prefixes = prefixes
        self.seed = seed
        self.parameters = [p for p in lm.model.parameters() if p.requires_grad]
        self.gradients: list[list[Tensor]] = []
        self.before: list[Tensor] = []
        self.refreshed_at: list[Tensor] = []  # the weights at the last refresh

    def save_state(self, folder: Path) -> None:
        """Write the weights at which the gradients were taken: gradients need more space."""
        found = {str(i): one.contiguous() for i, one in enumerate(self.refreshed_at)}
        save_file(found, folder / WEIGHTS)

    def load_state(self, folder: Path) -> None:
        """Restore what :meth:`save_state` wrote; the next step takes the gradients again."""
        found = load_file(folder / WEIGHTS)
        self.refreshed_at = [found[str(i)] for i in range(len(found))]

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Store the weights and the gradients of the log-odds."""
        self.before = [p.detach().clone() for p in self.parameters]
        if not self.refreshed_at or state.global_step % REFRESH == 0:
            self.refreshed_at, self.gradients = self.before, []
        if not self.gradients:
            rng = np.random.default_rng((self.seed, state.global_step // REFRESH))
            self._set(self.refreshed_at)
            self.gradients = [self._gradient(rows, rng) for rows in self.prompts.values()]
            self._set(self.before)

    def on_optimizer_step(self, *_arguments: Any, **_named: Any) -> None:
        """Project the last step."""
        with torch.no_grad():
            steps = [p - was for p, was in zip(self.parameters, self.before, strict=True)]
            for parameter, back in zip(self.parameters, along(steps, self.gradients), strict=True):
                parameter.sub_(back.to(parameter))
        self.before = []

    @torch.no_grad()
    def _set(self, weights: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=True):
            parameter.copy_(value)

    def _gradient(self, rows: Sequence[Tokens], rng: np.random.Generator) -> list[Tensor]:
        drawn = rng.permutation(len(rows))[:PROMPTS]
        with _evaluating(self.lm):
            log_odds = refusal_log_odds(self.lm, [rows[i] for i in drawn], self.prefixes).mean()
            found = torch.autograd.grad(log_odds, self.parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g.detach()
            for p, g in zip(self.parameters, found, strict=True)
        ]


def along(step: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The part of ``step`` in the span of ``gradients``; both have one tensor per parameter."""
    gram = torch.stack([torch.stack([_dot(a, b) for b in gradients]) for a in gradients])
    moved = torch.stack([_dot(a, step) for a in gradients])
    shares = (torch.linalg.pinv(gram, hermitian=True) @ moved).tolist()
    return [
        torch.stack([share * g[i] for share, g in zip(shares, gradients, strict=True)]).sum(dim=0)
        for i in range(len(step))
    ]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    products = [(doubled(x) * doubled(y)).sum().cpu() for x, y in zip(a, b, strict=True)]
    return torch.stack(products).sum()


@contextmanager
def _evaluating(lm: LanguageModel) -> Iterator[None]:
    training = lm.model.training
    lm.model.eval()
    try:
        yield
    finally:
        lm.model.train(training)
