"""Interventions do what their equation says, where and when they should, and then are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from interp import edits
from interp.activations import collect
from interp.errors import InputError
from interp.hooks import active_edits, hidden_of, reading
from interp.interventions import (
    ablate,
    add,
    clamp,
    intervene,
    project_onto,
    project_out,
    set_component,
)
from interp.model import LanguageModel
from interp.positions import every_token, last_token
from interp.sites import ATTENTION_OUT, MLP_OUT, RESIDUAL_IN, RESIDUAL_OUT
from interp.window import (
    Columns,
    Window,
    from_end,
    generated,
    in_prompt,
    last_prompt_token,
    positions_of,
)
from tests.checkpoints import LAYERS
from unlearning.generation import generate

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people.",
    "Which tools does a carpenter need to repair a broken chair?",
)
WIDTH = 64


def random_direction(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(*(shape or (WIDTH,)), generator=torch.Generator().manual_seed(seed))


def hooks_of(lm: LanguageModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()
    )


@torch.no_grad()
def last_logits(lm: LanguageModel, prompts: Sequence[str] = PROMPTS) -> Tensor:
    return lm.logits(lm.chat.pad([lm.chat.encode(p) for p in prompts]), keep=1)[:, -1]


# Edits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_edit_is_its_equation(dtype: torch.dtype) -> None:
    states, direction = random_direction(1, 3, 5, WIDTH).to(dtype), random_direction()
    unit = (direction / direction.norm()).double()
    tolerance = {"atol": 4 * torch.finfo(dtype).eps * 8, "rtol": 8 * torch.finfo(dtype).eps}
    if dtype is torch.float64:
        tolerance = {"atol": 1e-6, "rtol": 1e-6}  # the direction itself came in float32

    def check(edit: edits.Edit, wanted: Callable[[Tensor], Tensor]) -> None:
        before = states.clone()
        found = edit(states)
        assert found.dtype == dtype and torch.equal(states, before)
        torch.testing.assert_close(found.double(), wanted(states.double()), **tolerance)

    def with_component(along: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda h: h - (h @ unit)[..., None] * unit + along(h @ unit)[..., None] * unit

    check(edits.ablating(direction), with_component(torch.zeros_like))
    check(edits.adding(direction, -2), lambda h: h - 2 * direction.double())
    check(edits.setting(direction, 1.5), with_component(lambda s: torch.full_like(s, 1.5)))
    check(edits.clamping(direction, -0.5, 0.2), with_component(lambda s: s.clamp(-0.5, 0.2)))
    basis = torch.linalg.qr(random_direction(2, 3, WIDTH).double().T)[0]
    mixed = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).double() @ basis.T
    check(edits.projecting_onto(mixed), lambda h: h @ basis @ basis.T)
    check(edits.projecting_out(mixed.numpy()), lambda h: h - h @ basis @ basis.T)


def test_ablation_is_idempotent_and_leaves_what_is_perpendicular() -> None:
    states, edit = random_direction(1, 7, WIDTH).double(), edits.ablating(random_direction())
    once = edit(states)
    torch.testing.assert_close(edit(once), once, atol=1e-12, rtol=0)
    unit = random_direction() / random_direction().norm()
    torch.testing.assert_close(once @ unit.double(), torch.zeros(7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(once, edits.ablating(-3 * random_direction())(states))


def test_what_points_nowhere_is_refused() -> None:
    for make in (edits.ablating, edits.projecting_out, edits.projecting_onto):
        with pytest.raises(InputError, match="zero"):
            make(torch.zeros(WIDTH))
    with pytest.raises(InputError, match="NaN"):
        edits.adding(torch.full((WIDTH,), torch.nan))
    with pytest.raises(InputError, match="lower bound is above"):
        edits.clamping(random_direction(), 1.0, 0.0)


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
    assert hooks_of(lm) == 0


def test_each_intervention_is_seen_where_it_acts(checkpoint_of: Checkpoints) -> None:
    lm, direction = LanguageModel.load(checkpoint_of("llama")), random_direction()
    unit = (direction / direction.norm()).numpy()

    def along(context: AbstractContextManager[None], layer: int = 1) -> np.ndarray:
        with context:
            return collect(lm, PROMPTS, layers=[layer]).states[:, 0]

    plain = along(ExitStack())
    assert along(set_component(lm, direction, 2.0, layers=[1])) @ unit == pytest.approx(2, abs=1e-5)
    limit = float(np.median(plain @ unit))
    assert along(clamp(lm, direction, high=limit, layers=[1])) @ unit == pytest.approx(
        np.minimum(plain @ unit, limit), abs=1e-5
    )
    assert along(add(lm, direction, 0.5, layers=[1])) == pytest.approx(
        plain + 0.5 * direction.numpy(), abs=1e-5
    )
    vectors = random_direction(5, 2, WIDTH)
    onto, out = (along(p(lm, vectors, layers=[1], sites=[RESIDUAL_OUT]))
                 for p in (project_onto, project_out))  # fmt: skip
    assert onto + out == pytest.approx(plain, abs=1e-5)
    assert np.einsum("pd,pd->p", onto, out) == pytest.approx(0, abs=1e-4)
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
    with pytest.raises(InputError, match="adds up"):
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
    # Places that are found by a forward of their own are found under positions of known rows too.
    at_end = positions_of([lm.chat.encode(prompt) for prompt in PROMPTS], last_token)
    with (
        set_component(lm, direction, 2.0, positions=at_end, **one),
        add(lm, direction, 0.0, layers=[1], sites=[MLP_OUT], positions=at_end),
    ):
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
    assert hooks_of(lm) == 0
    with pytest.raises(error), ablate(lm, random_direction()), intervene(lm, fail, layers=[2]):
        last_logits(lm)
    assert hooks_of(lm) == 0 and not active_edits(lm.model)
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


# Positions


@pytest.fixture(scope="module")
def llama(checkpoint_of: Checkpoints) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("llama"))


@pytest.mark.parametrize(
    ("columns", "tokens"),
    [
        (None, lambda n, ids: range(len(ids))),
        (in_prompt, lambda n, ids: range(n)),
        (generated, lambda n, ids: range(n, len(ids))),
        (last_prompt_token, lambda n, ids: [n - 1]),
        (from_end(-3, -1), lambda n, ids: [n - 3, n - 1]),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_generation_is_that_of_a_loop_without_cache_or_padding(
    family: str,
    columns: Columns | None,
    tokens: Callable[[int, list[int]], Sequence[int]],
    checkpoint_of: Checkpoints,
) -> None:
    lm = LanguageModel.load(checkpoint_of(family))
    vector = 4 * random_direction()
    with add(lm, vector, layers=[1], positions=columns):
        found = [answer.ids for answer in generate(lm, PROMPTS, max_new_tokens=6)]

    def by_hand(prompt: str) -> tuple[int, ...]:
        ids = list(lm.chat.encode(prompt).ids)
        length = len(ids)

        def edit(_module: object, _inputs: object, output: object) -> object:
            hidden = hidden_of(output).clone()
            hidden[:, list(tokens(length, ids))] += vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = lm.layers[1].register_forward_hook(edit)
        with torch.no_grad():
            for _ in range(6):
                logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        handle.remove()
        return tuple(ids[length:])

    # An answer that ended is shorter than the loop, which does not stop.
    for prompt, ids in zip(PROMPTS, found, strict=True):
        assert ids == by_hand(prompt)[: len(ids)]


def test_padding_and_batches_do_not_matter(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    for columns in (from_end(-2), positions_of(rows, every_token("instruction"))):
        with add(lm, 4 * random_direction(), layers=[1], positions=columns):
            together = last_logits(lm)
            alone = torch.cat([last_logits(lm, [prompt]) for prompt in PROMPTS])
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)
        assert (together - last_logits(lm)).abs().max() > 1e-3


def test_known_rows_are_found_before_their_responses(llama: LanguageModel) -> None:
    """Teacher-forced rows: the prompt's last token is not the row's."""
    rows = [llama.chat.encode(prompt) for prompt in PROMPTS]
    longer = [llama.chat.encode(prompt, "Because I say so.") for prompt in PROMPTS]
    kept: list[Tensor] = []
    with (
        torch.no_grad(),
        intervene(llama, torch.zeros_like, layers=[1], positions=positions_of(rows, last_token)),
        reading([llama.layers[1]], lambda _, hidden: kept.append(hidden)),
    ):
        llama.logits(llama.chat.pad(longer), keep=1)
    for hidden, row, long in zip(kept[0], rows, longer, strict=True):
        zero = (hidden == 0).all(dim=-1).nonzero().flatten().tolist()
        assert zero == [len(hidden) - len(long) + len(row) - 1]


def test_rows_that_are_not_known_are_refused(llama: LanguageModel) -> None:
    rows = [llama.chat.encode(prompt) for prompt in PROMPTS[:2]]
    where = {"layers": [1], "positions": positions_of(rows, last_token)}
    with pytest.raises(InputError, match="none of the 2"), add(llama, random_direction(), **where):
        last_logits(llama)
    with pytest.raises(InputError, match="start at -1"):
        from_end(0)


def test_a_window_counts_a_row_s_own_tokens(llama: LanguageModel) -> None:
    seen: list[Window] = []

    def look(window: Window) -> Tensor:
        seen.append(window)
        return in_prompt(window)

    with add(llama, random_direction(), layers=[0, 1], positions=look):
        generate(llama, PROMPTS[:2], max_new_tokens=3)
    # Once a forward, not once a layer.
    lengths = sorted((len(llama.chat.encode(p)) for p in PROMPTS[:2]), reverse=True)
    assert [window.past for window in seen] == [0, lengths[0], lengths[0] + 1][: len(seen)]
    assert [int(row.max()) + 1 for row in seen[0].index] == lengths
    assert (seen[0].index[1] < 0).sum() == lengths[0] - lengths[1]
    assert seen[1].index.flatten().tolist() == lengths


def test_a_sliding_window_forgets_states_and_not_the_count(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    length, seen = len(lm.chat.encode(PROMPTS[1] * 8)), []
    assert length > lm.model.config.sliding_window

    def look(window: Window) -> Tensor:
        seen.append((window.past, int(window.index[0, -1])))
        return generated(window)

    with add(lm, random_direction(), layers=[0], positions=look):
        generate(lm, [PROMPTS[1] * 8], max_new_tokens=3)
    assert seen == [(0, length - 1), (length, length), (length + 1, length + 1)][: len(seen)]


def test_rows_that_cannot_be_told_apart_are_refused(llama: LanguageModel) -> None:
    ids = torch.tensor([llama.chat.encode(PROMPTS[0]).ids])
    columns = ids.shape[1]
    with torch.no_grad(), add(llama, random_direction(), layers=[0], positions=in_prompt):
        llama.model(input_ids=ids)
        with pytest.raises(InputError, match="call the model with input_ids"):
            llama.model(inputs_embeds=llama.model.get_input_embeddings()(ids))
        with pytest.raises(InputError, match=rf"of shape \(1, 1, {columns}, {columns}\)"):
            llama.model(input_ids=ids, attention_mask=torch.ones(1, 1, columns, columns))


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
    assert len(answers) == len(PROMPTS) and hooks_of(lm) == 0
    grads = [p.grad for n, p in adapted.named_parameters() if "lora_B" in n]
    assert len(grads) > LAYERS and all(grad is not None for grad in grads)
    assert not any(p.grad is not None for n, p in adapted.named_parameters() if "lora" not in n)


def test_half_precision_stays_half_precision(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.bfloat16)
    with ablate(lm, random_direction(), positions=in_prompt):
        assert last_logits(lm).dtype == torch.bfloat16
