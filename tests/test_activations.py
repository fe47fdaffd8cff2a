"""Activations are the layers' outputs at the last prompt token, and reading leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.activations import MLP_OUT, collect, post_instruction
from interp.activations.backends import Forward, States, torch_hooks
from interp.activations.positions import Take
from interp.errors import InputError
from interp.model import Batch, LanguageModel

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people. " * 4,
    "Which tools does a carpenter need to repair a broken chair?",
    "Explain the meaning of consent.",
)


def hooks_of(lm: LanguageModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()
    )


def test_states_are_those_of_hugging_face(checkpoint: Path) -> None:
    """hidden_states[i + 1] is layer i's output, but for the last, which is after the norm."""
    lm = LanguageModel.load(checkpoint)
    found = collect(lm, PROMPTS)
    assert found.layers == (0, 1, 2, 3)
    assert found.states.shape == (len(PROMPTS), 4, lm.d_model)
    assert found.states.dtype == np.float32
    for row, prompt in zip(found.states, PROMPTS, strict=True):
        ids = torch.tensor([lm.chat.encode(prompt).ids])
        with torch.no_grad():
            hidden = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in range(3):
            assert row[layer] == pytest.approx(hidden[layer + 1][0, -1].numpy(), abs=2e-5)
        assert np.abs(row[3] - hidden[4][0, -1].numpy()).max() > 1e-2
        norm = next(m for n, m in lm.model.named_modules() if n.endswith((".norm", ".ln_f")))
        with torch.no_grad():
            normed = norm(torch.from_numpy(row[3])).numpy()
        assert normed == pytest.approx(hidden[4][0, -1].numpy(), abs=2e-5)


def test_batches_order_and_chosen_layers_do_not_matter(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    wanted = collect(lm, PROMPTS).states
    for batch_size in (1, 3):
        assert collect(lm, PROMPTS, batch_size=batch_size).states == pytest.approx(wanted, abs=2e-5)
    assert collect(lm, PROMPTS[::-1]).states[::-1] == pytest.approx(wanted, abs=2e-5)
    some = collect(lm, PROMPTS, layers=[2, 0, 2])
    assert some.layers == (0, 2)
    assert some.states == pytest.approx(wanted[:, [0, 2]], abs=2e-5)


def test_nothing_after_the_last_wanted_layer_is_computed(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    seen: list[str] = []
    modules = {"1": lm.layers[1], "2": lm.layers[2], "head": lm.model.get_output_embeddings()}
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
        for name, module in modules.items()
    ]
    collect(lm, PROMPTS, layers=[1])
    assert seen == ["1"]
    for handle in handles:
        handle.remove()


def test_reading_leaves_no_hook_and_no_one_else_s_is_removed(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    before = lm.fingerprint()
    handle = lm.layers[1].register_forward_hook(lambda *_: None)
    collect(lm, PROMPTS, layers=[0, 1])
    assert hooks_of(lm) == 1
    handle.remove()
    assert lm.fingerprint() == before


def test_an_exception_on_the_way_leaves_nothing_behind(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))

    def fail(*_: object) -> None:
        raise RuntimeError("on the way")

    handle = lm.layers[2].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on the way"):
        collect(lm, PROMPTS)
    handle.remove()
    assert hooks_of(lm) == 0


def test_what_cannot_be_collected_is_refused(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with pytest.raises(InputError, match="no prompts"):
        collect(lm, [])
    for layers in ([4], [-1], []):
        with pytest.raises(InputError, match=r"the model has 0 … 3"):
            collect(lm, PROMPTS, layers=layers)
    with pytest.raises(InputError, match="no sites"):
        collect(lm, PROMPTS, sites=[])
    with pytest.raises(InputError, match="3 ids for 4 prompts"):
        collect(lm, PROMPTS, ids=["a", "b", "c"])


def test_states_are_kept_in_the_dtype_asked_for(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.bfloat16)
    found = collect(lm, PROMPTS)
    assert found.dtype == np.float32 and found.computed_in == "bfloat16"
    half = collect(lm, PROMPTS, dtype=np.float16)
    assert half.dtype == np.float16
    # bfloat16 has fewer digits, float16 a smaller range.
    assert half.states == pytest.approx(found.states, rel=1e-3, abs=1e-6)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[:] = 1e5
    with pytest.raises(InputError, match="reaches 9.98e\\+04, which float16 cannot hold"):
        collect(lm, PROMPTS, dtype=np.float16)


def test_ids_and_tokens_come_with_the_states(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    found = collect(lm, PROMPTS, layers=[0], positions=post_instruction, ids=["a", "b", "c", "d"])
    assert found.ids == ("a", "b", "c", "d")
    suffix = rows[0].ids[rows[0].spans["post_instruction"]]
    assert found.token_ids.tolist() == [list(suffix)] * len(PROMPTS)
    assert found["residual_out"].shape == (len(PROMPTS), 1, len(suffix), lm.d_model)
    with pytest.raises(InputError, match=f"at {len(suffix)} positions; choose"):
        _ = found.states
    with pytest.raises(InputError, match="mlp_out was not collected; there is residual_out"):
        _ = found[MLP_OUT]


def test_what_is_kept_holds_on_to_no_batch(checkpoint_of: Checkpoints) -> None:
    """A slice would keep the states of all tokens in memory."""
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    sizes: list[int] = []

    @contextmanager
    def watched(lm: LanguageModel, *choice: Any) -> Iterator[Forward]:
        with torch_hooks(lm, *choice) as forward:

            def run(batch: Batch, take: Take) -> States:
                states = forward(batch, take)
                sizes.extend(s.untyped_storage().nbytes() for s in states["residual_out"])
                return states

            yield run

    collect(lm, PROMPTS, batch_size=2, backend=watched)
    assert set(sizes) == {2 * lm.d_model * 4}


def test_progress_counts_every_prompt_once(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    done: list[int] = []
    collect(lm, PROMPTS, batch_size=3, progress=done.append)
    assert done == [3, 1]
