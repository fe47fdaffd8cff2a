"""Interventions do what their equation says, where and when they should, and then are gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from interp.activations import ATTENTION_OUT, MLP_OUT, RESIDUAL_IN, RESIDUAL_OUT, collect
from interp.activations.window import in_prompt
from interp.errors import InputError
from interp.interventions import ablate, add, set_component
from interp.interventions.steering import intervene, project_out
from interp.model import LanguageModel, active_edits, reading
from tests.checkpoints import LAYERS
from tests.patched_models import PROMPTS, WIDTH, hooks_of, last_logits, random_direction
from unlearning.generation import generate

Checkpoints = Callable[[str], Path]


# In a model


def test_an_ablated_direction_is_nowhere_in_the_stream(checkpoint: Path) -> None:
    lm, direction = LanguageModel.load(checkpoint), random_direction()
    unit = (direction / direction.norm()).numpy()
    along = collect(lm, PROMPTS).states @ unit
    assert np.abs(along).min(axis=0).max() > 1e-3
    with ablate(lm, direction):
        found = collect(lm, PROMPTS).states
        logits = last_logits(lm)
    assert np.abs(found @ unit).max() < 2e-6 * max(1, np.abs(found).max())
    assert (logits - last_logits(lm)).abs().max() > 1e-4
    # Once more changes nothing.
    with ablate(lm, direction), ablate(lm, 2 * direction):
        torch.testing.assert_close(last_logits(lm), logits, atol=1e-5, rtol=1e-5)
    assert hooks_of([lm]) == 0


def test_each_intervention_is_seen_where_it_acts(checkpoint_of: Checkpoints) -> None:
    lm, direction = LanguageModel.load(checkpoint_of("llama")), random_direction()
    unit = (direction / direction.norm()).numpy()

    def along(context: AbstractContextManager[None], layer: int = 1) -> np.ndarray:
        with context:
            return collect(lm, PROMPTS, layers=[layer]).states[:, 0]

    plain = along(ExitStack())
    assert along(set_component(lm, direction, 2.0, layers=[1])) @ unit == pytest.approx(2, abs=1e-5)
    assert along(add(lm, direction, 0.5, layers=[1])) == pytest.approx(
        plain + 0.5 * direction.numpy(), abs=1e-5
    )
    vectors = random_direction(5, 2, WIDTH)
    axes = np.linalg.qr(vectors.numpy().T)[0]
    out = along(project_out(lm, vectors, layers=[1], sites=[RESIDUAL_OUT]))
    assert out == pytest.approx(plain - plain @ axes @ axes.T, abs=1e-5)
    # The layers before are as they were, those after are not.
    assert along(add(lm, direction, 0.5, layers=[1]), 0) == pytest.approx(along(ExitStack(), 0))
    assert np.abs(along(add(lm, direction, 5.0, layers=[1]), 2) - along(ExitStack(), 2)).max() > 0.1


def test_layers_can_have_their_own_directions_and_values(checkpoint_of: Checkpoints) -> None:
    lm, directions = LanguageModel.load(checkpoint_of("qwen2")), random_direction(0, 2, WIDTH)
    with set_component(lm, directions, [1.0, -3.0], layers=[2, 0]):
        states = collect(lm, PROMPTS, layers=[0, 2]).states
    units = (directions / directions.norm(dim=1, keepdim=True)).numpy()
    assert states[:, 0] @ units[1] == pytest.approx(-3.0, abs=1e-5)
    assert states[:, 1] @ units[0] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InputError, match="2 edits for 4 layers"), ablate(lm, directions):
        pass
    with pytest.raises(InputError, match="as many of each"):
        set_component(lm, directions, [1.0, 2.0, 3.0], layers=[0, 1])
    with pytest.raises(InputError, match="0 … 3"), ablate(lm, directions[0], layers=[4]):
        pass
    with pytest.raises(InputError, match="accumulate"):
        add(lm, directions[0])


def test_sites_are_what_they_are_called(checkpoint: Path) -> None:
    """Nothing of attention and MLP leaves the stream as it came in, in every family."""
    lm = LanguageModel.load(checkpoint)
    nothing = intervene(lm, torch.zeros_like, layers=[2], sites=[ATTENTION_OUT, MLP_OUT])
    with nothing:
        states = collect(lm, PROMPTS, layers=[1, 2]).states
    assert states[:, 1] == pytest.approx(states[:, 0], abs=1e-6)
    at_input = add(lm, random_direction(), layers=[2], sites=[RESIDUAL_IN])
    at_output = add(lm, random_direction(), layers=[1], sites=[RESIDUAL_OUT])
    with at_input:
        logits = last_logits(lm)
    with at_output:
        torch.testing.assert_close(last_logits(lm), logits)


def test_what_is_entered_first_acts_first(checkpoint_of: Checkpoints) -> None:
    lm, direction = LanguageModel.load(checkpoint_of("mistral")), random_direction()
    unit = (direction / direction.norm()).numpy()
    one = {"layers": [1], "sites": [RESIDUAL_OUT]}

    def found() -> np.ndarray:
        return collect(lm, PROMPTS, layers=[1]).states[:, 0] @ unit

    with set_component(lm, direction, 2.0, **one), ablate(lm, direction, **one):
        assert found() == pytest.approx(0, abs=1e-5)
    with ablate(lm, direction, **one), set_component(lm, direction, 2.0, **one):
        assert found() == pytest.approx(2, abs=1e-5)


# Nothing is left behind


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_neither_an_exception_nor_ctrl_c_leaves_a_hook(
    error: type[BaseException], checkpoint_of: Checkpoints
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    before, logits = lm.fingerprint(), last_logits(lm)

    def fail(_: Tensor) -> Tensor:
        assert active_edits(lm.model)
        raise error

    with pytest.raises(error), ablate(lm, random_direction(), positions=in_prompt):
        raise error
    assert hooks_of([lm]) == 0
    with pytest.raises(error), ablate(lm, random_direction()), intervene(lm, fail, layers=[2]):
        last_logits(lm)
    assert hooks_of([lm]) == 0 and not active_edits(lm.model)
    assert lm.fingerprint() == before
    assert torch.equal(last_logits(lm), logits)


def test_what_others_have_read_is_not_changed(checkpoint_of: Checkpoints) -> None:
    lm, kept = LanguageModel.load(checkpoint_of("gpt2")), []
    with (
        reading([lm.layers[0]], lambda _, hidden: kept.append((hidden, hidden.clone()))),
        add(lm, random_direction(), layers=[0]),
    ):
        last_logits(lm)
    assert len(kept) == 1 and torch.equal(*kept[0])


# In training


def test_gradients_flow_through_an_ablation_as_through_a_projection(llama: LanguageModel) -> None:
    """A step inside the block trains on what the ablated model computes; CAFT is no more."""
    batch = llama.chat.pad([llama.chat.encode(p) for p in PROMPTS])
    direction = random_direction()
    unit = direction / direction.norm()
    weight = llama.layers[1].mlp.down_proj.weight
    with ablate(llama, direction, layers=[1], sites=[MLP_OUT]):
        llama.logits(batch, keep=1).logsumexp(-1).sum().backward()
    through_hook, weight.grad = weight.grad, None
    # The same by weights: the ablated MLP is an MLP with an orthogonalised last matrix.
    assert (unit @ through_hook).abs().max() < 1e-6 * through_hook.abs().max()
    original = weight.detach().clone()
    with torch.no_grad():
        weight -= torch.outer(unit, unit @ weight)
    llama.logits(batch, keep=1).logsumexp(-1).sum().backward()
    by_weights = weight.grad - torch.outer(unit, unit @ weight.grad)
    torch.testing.assert_close(through_hook, by_weights, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        weight.copy_(original)
    llama.model.zero_grad(set_to_none=True)


def test_adapters_in_training_are_found_and_gradients_are_theirs(
    checkpoint_of: Checkpoints,
) -> None:
    base = LanguageModel.load(checkpoint_of("qwen2"))
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear"))
    lm = LanguageModel(adapted, base.tokenizer, base.chat)
    with ablate(lm, random_direction(), positions=in_prompt):
        last = lm.logits(lm.chat.pad([lm.chat.encode(p) for p in PROMPTS]), keep=1)
        last.logsumexp(-1).sum().backward()
        answers = generate(lm, PROMPTS, max_new_tokens=2)
    assert len(answers) == len(PROMPTS) and hooks_of([lm]) == 0
    grads = [p.grad for n, p in adapted.named_parameters() if "lora_B" in n]
    assert len(grads) > LAYERS and all(grad is not None for grad in grads)
    assert not any(p.grad is not None for n, p in adapted.named_parameters() if "lora" not in n)


def test_half_precision_stays_half_precision(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.bfloat16)
    with ablate(lm, random_direction(), positions=in_prompt):
        assert last_logits(lm).dtype == torch.bfloat16
