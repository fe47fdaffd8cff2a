"""Sampling that depends on the seed and the prompt, and on nothing that stands beside it.

The libraries' samplers draw a whole batch from one stream, so an answer changes with the batch
size, with the order of the prompts and with what was answered before an interruption. Here every
answer has a stream of its own, one uniform number a token, which inverts the cumulative
distribution: u picks the first token at which it exceeds u. The distribution is the model's own,
softmax(logits / temperature) over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from unlearning.data import text_hash
from unlearning.generation.answer_log import AskedPrompt


def uniform_numbers(
    asked: Sequence[AskedPrompt], seed: int, steps: int
) -> Float[np.ndarray, "row step"]:
    """Numbers in [0, 1) that decide the tokens of each answer; fewer steps give the first ones."""
    keys = (text_hash("sample", str(seed), str(one.sample), one.prompt) for one in asked)
    return np.stack([np.random.default_rng(int(key, 16)).random(steps) for key in keys])


class Draw(LogitsProcessor):
    """Leaves of every row's logits only the token that its number picks.

    Args:
        numbers: in [0, 1); a row's column t decides its new token t.
        temperature: more than 0.
        width: columns of the padded prompts, after which new tokens come.
    """

    def __init__(
        self, numbers: Float[np.ndarray, "row step"], temperature: float, width: int
    ) -> None:
        self.numbers = torch.from_numpy(numbers)
        self.temperature = temperature
        self.width = width

    def __call__(
        self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row vocab"]:
        step = input_ids.shape[1] - self.width
        # Sums over a vocabulary need float64, which Apple's GPUs have not.
        device = "cpu" if scores.device.type == "mps" else scores.device
        cumulative = (scores.to(device).double() / self.temperature).softmax(-1).cumsum(-1)
        wanted = self.numbers[:, step : step + 1].to(device) * cumulative[:, -1:]
        # right=True: never a token of probability 0.
        token = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token.to(scores.device), 0.0)
