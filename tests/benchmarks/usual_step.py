"""What the engine's step is compared with: the usual way, and the least that any way must do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.workload import Workload

BETA = 0.1


def transposed(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-token negative log-likelihood with the vocabulary moved to the second axis."""
    return F.cross_entropy(logits.transpose(-1, -2), labels, reduction="none")


def flattened(logits: Tensor, labels: Tensor) -> Tensor:
    """The same with batch and token folded into one axis."""
    found = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return found.view(labels.shape)


class ResidentReference:
    """One step of NPO and retain cross-entropy as unlearning code usually takes it.

    A frozen deep copy of the model stays in memory as the reference and runs in every step, on
    the forget rows. Policy and reference compute float32 logits at all positions, cut and made
    contiguous; labels outside the response are −100; one backward of the sum of both losses.
    AdamW and clipping are the engine's.
    """

    def __init__(
        self,
        workload: Workload,
        trained: str,
        cross_entropy: Callable[[Tensor, Tensor], Tensor] = transposed,
    ) -> None:
        lm = workload.prepared(trained)
        self.model: Any = lm.model
        self.reference: Any = copy.deepcopy(workload.model().model).eval().requires_grad_(False)
        self.cross_entropy = cross_entropy
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, weight_decay=0.0, fused=True)
        self.rows = {}
        for group in ("forget", "retain"):
            ids = workload.ids(group)
            labels = ids.clone()
            labels[:, : -workload.response] = -100
            self.rows[group] = ids, torch.ones_like(ids), labels

    def negative_log_likelihood(self, model: Any, group: str) -> Tensor:
        """−log π(y|x) of every row."""
        ids, attention_mask, labels = self.rows[group]
        logits = model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits
        logits = logits.float()[:, :-1].contiguous()
        return self.cross_entropy(logits, labels[:, 1:].contiguous()).sum(dim=-1)

    def loss(self) -> Tensor:
        forget = self.negative_log_likelihood(self.model, "forget")
        with torch.no_grad():
            reference = self.negative_log_likelihood(self.reference, "forget")
        npo = -(2 / BETA) * F.logsigmoid(BETA * (forget - reference))
        return npo.mean() + self.negative_log_likelihood(self.model, "retain").mean()

    def __call__(self) -> float:
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Floor:
    """Forward and backward of the trunk, and of the head where a response token is predicted.

    The same rows in one batch and the same trainable parameters; no loss, reference, clipping or
    optimizer step.
    """

    def __init__(self, workload: Workload, trained: str) -> None:
        lm = workload.prepared(trained)
        model: Any = lm.model
        self.causal = model.get_base_model() if trained == "lora" else model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.ids = torch.cat([workload.ids("forget"), workload.ids("retain")])
        self.response = workload.response
        self.gradient = torch.ones(len(self.ids), self.response, workload.vocabulary)

    def __call__(self) -> None:
        states = self.causal.model(
            input_ids=self.ids, attention_mask=torch.ones_like(self.ids), use_cache=False
        ).last_hidden_state
        self.causal.lm_head(states[:, -self.response - 1 : -1]).backward(self.gradient)
        for parameter in self.trained:
            parameter.grad = None


def every_way(workload: Workload, trained: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """By name, what builds each of the other ways to take a step."""
    return {
        "resident_reference": lambda: ResidentReference(workload, trained),
        "flattened_cross_entropy": lambda: ResidentReference(workload, trained, flattened),
        "floor": lambda: Floor(workload, trained),
    }
