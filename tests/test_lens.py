"""The lens at the last layer is the model, and attribution is the lens's derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.activations import collect
from interp.errors import InputError
from interp.interventions.logit_lens import (
    direct_logit_attribution,
    lens_logits,
    lens_readout,
    top_tokens,
)
from interp.model import LanguageModel
from interp.readout import class_log_odds
from tests.patched_models import PROMPTS, hooks_of, last_logits

Checkpoints = Callable[[str], Path]


def test_at_the_last_layer_it_is_the_model(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    states = collect(lm, PROMPTS).states
    logits = lens_logits(lm, states, batch_size=3)
    assert logits.shape[:2] == states.shape[:2]
    torch.testing.assert_close(logits[:, -1], last_logits(lm), atol=2e-5, rtol=1e-4)
    assert (logits[:, 0] - logits[:, -1]).abs().max() > 1e-2
    function = partial(class_log_odds, token_ids=[5, 6])
    found = lens_readout(lm, states, function)
    assert found.shape == states.shape[:2] and found.dtype == np.float64
    assert found[:, -1] == pytest.approx(function(last_logits(lm)).numpy(), abs=1e-4)
    assert hooks_of([lm]) == 0


def test_attribution_is_the_derivative(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint, dtype=torch.float64)
    # One at a time: in float64, transformers' Gemma 2 gives NaN to rows that are padded.
    states = torch.from_numpy(collect(lm, PROMPTS, layers=[3], batch_size=1).states[:, 0]).double()
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0)).double()
    found = direct_logit_attribution(lm, direction, states, batch_size=3)
    # Small beside the states, large beside float32's rounding, in which some norms compute.
    step = 1e-2 * float(states.norm(dim=1).min() / direction.norm())
    ends = [lens_logits(lm, states + sign * step * direction).double() for sign in (1, -1)]
    numeric = ((ends[0] - ends[1]) / (2 * step)).mean(dim=0)
    assert (found - numeric).abs().max() < 1e-3 * found.abs().max()
    torch.testing.assert_close(
        direct_logit_attribution(lm, -2 * direction, states), -2 * found, atol=1e-10, rtol=1e-8
    )
    # A norm does not see how long a state is.
    along = direct_logit_attribution(lm, states[0], states[:1])
    assert along.abs().max() < 1e-3 * found.abs().max()


def test_across_the_state_it_is_the_textbook_s(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.float64)
    state = torch.from_numpy(collect(lm, PROMPTS[:1], layers=[3]).states[0, 0]).double()
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1)).double()
    direction -= (direction @ state) / (state @ state) * state
    norm, head = lm.model.model.norm, lm.model.get_output_embeddings()
    with torch.no_grad():
        scale = (state.square().mean() + norm.variance_epsilon).sqrt()
        textbook = head.weight @ (norm.weight * direction / scale)
    found = direct_logit_attribution(lm, direction, state[None])
    torch.testing.assert_close(found, textbook, atol=1e-6, rtol=1e-5)


def test_the_rows_of_the_unembedding_are_read_off(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    weight = lm.model.get_output_embeddings().weight.detach()
    logits = lens_logits(lm, 10 * weight[77])
    assert logits.argmax() == 77
    assert top_tokens(lm, logits, 1)[0] == (lm.tokenizer.decode([77]), pytest.approx(logits.max()))


def test_states_of_another_model_are_refused(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with pytest.raises(InputError, match="states of width 3; .*has 64"):
        lens_logits(lm, np.zeros((2, 3)))
    with pytest.raises(InputError, match="no states"):
        lens_logits(lm, np.zeros((0, 64)))
