"""Models that differ in one known place, one that is linear, and what tests of editing share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from interp.model import LanguageModel
from interp.readout import Readout, log_odds

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people.",
    "Which tools does a carpenter need to repair a broken chair?",
    "Explain the meaning of consent.",
)


def some_log_odds(lm: LanguageModel) -> Readout:
    """A readout that means nothing in particular."""
    return log_odds(range(40, 60))


def changed(
    lm: LanguageModel, chosen: Callable[[str], bool], *, scale: float = 1.0, seed: int = 0
) -> LanguageModel:
    """A copy in which the chosen parameters have noise of ``scale`` times their own size added."""
    model = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(seed)
    touched = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if chosen(name) and weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator)
                weight += scale * weight.std() * noise
                touched += 1
    assert touched, "nothing was chosen"
    return replace(lm, model=model, name="after")


class LinearModel(nn.Module):
    """Residual layers that mix channels and, causally, tokens; no norm, no softmax."""

    def __init__(self, vocabulary: int, width: int, layers: int, seed: int) -> None:
        super().__init__()
        text = SimpleNamespace(num_hidden_layers=layers, hidden_size=width, num_attention_heads=1)
        self.config = SimpleNamespace(get_text_config=lambda decoder=True: text)
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LinearLayer(width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) / width**0.5)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False
    ) -> SimpleNamespace:
        states = self.embed(input_ids) * attention_mask[..., None]
        for layer in self.layers:
            states = layer(states)
        return SimpleNamespace(logits=self.head(states))


class LinearLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = nn.Linear(width, width, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.channels(hidden_states.cumsum(dim=1)) / 8


def linear_model(lm: LanguageModel, *, layers: int = 3, seed: int = 0) -> LanguageModel:
    """A linear model that reads with ``lm``'s tokenizer and chat format."""
    model = LinearModel(len(lm.tokenizer), 16, layers, seed).double()
    return LanguageModel(model.eval(), lm.tokenizer, lm.chat, f"linear-{seed}")


WIDTH = 64


def random_direction(seed: int = 0, *shape: int) -> Tensor:
    """As wide as the checkpoints' residual streams."""
    return torch.randn(*(shape or (WIDTH,)), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def last_logits(lm: LanguageModel, prompts: Sequence[str] = PROMPTS) -> Tensor:
    return lm.logits(lm.chat.pad([lm.chat.encode(p) for p in prompts]), keep=1)[:, -1]


def hooks_of(lms: Sequence[LanguageModel]) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for lm in lms
        for module in lm.model.modules()
    )
