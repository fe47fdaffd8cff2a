"""Patching everything gives the source, nothing the target, and a planted change is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.activations import ATTENTION_OUT, HEADS, MLP_OUT, RESIDUAL_IN, RESIDUAL_OUT
from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from interp.patching import (
    WHOLE,
    Cell,
    PatchRuns,
    Stitching,
    attribute,
    between_models,
    patch,
    patch_agreement,
    stitch,
)
from interp.readout import at_last_token
from tests.checkpoints import LAYERS
from tests.patched_models import PROMPTS, changed, hooks_of, linear_model, some_log_odds

Checkpoints = Callable[[str], Path]
CHANGED = 2


def in_layer(number: int, part: str = "") -> Callable[[str], bool]:
    return lambda name: f".{number}.{part}" in name


def one_layer_changed(lm: LanguageModel, part: str = "", seed: int = 0) -> LanguageModel:
    return changed(lm, in_layer(CHANGED, part), scale=8.0, seed=seed)


# Identities


def test_everything_patched_is_the_source_and_nothing_is_the_target(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = changed(base, lambda name: any(in_layer(i)(name) for i in range(LAYERS)))
    readout = some_log_odds(base)
    runs = between_models(base, after, PROMPTS)
    found = patch(runs, readout, layers=[LAYERS - 1], positions=[WHOLE, "post_instruction[-1]"])
    assert np.abs(found.source - found.target).min() > 1e-4
    assert found.patched[0] == pytest.approx(found.source, abs=1e-5)
    # At the last layer only the last token is still looked at.
    assert found.patched[1] == pytest.approx(found.source, abs=1e-5)
    same = patch(
        between_models(after, after, PROMPTS),
        readout,
        sites=[RESIDUAL_OUT, HEADS],
        layers=[1],
        positions=["instruction", WHOLE],
    )
    assert np.array_equal(same.patched, np.tile(same.target, (len(same.cells), 1)))
    assert hooks_of([base, after]) == 0


def test_prompts_of_one_length_can_be_patched_whole(llama: LanguageModel) -> None:
    """The embeddings of another prompt are that prompt."""
    rows = [llama.chat.encode(prompt) for prompt in PROMPTS[2:]]
    width = min(map(len, rows))
    one, other = (Tokens(row.ids[-width:], {"text": slice(0, width)}) for row in rows)
    runs = PatchRuns(llama, (one,), llama, (other,))
    found = patch(runs, some_log_odds(llama), sites=[RESIDUAL_IN], layers=[0])
    assert found.cells == (Cell(0, "residual_in", "text"),)
    assert found.patched[0] == pytest.approx(found.source, abs=1e-6)
    assert abs(found.gap) > 1e-4
    back = patch(runs.reversed(), some_log_odds(llama), sites=[RESIDUAL_IN], layers=[0])
    assert back.patched[0] == pytest.approx(found.target, abs=1e-6)


def test_padding_and_batches_do_not_matter(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    runs = between_models(base, one_layer_changed(base), PROMPTS)
    readout, options = some_log_odds(base), {"sites": [RESIDUAL_OUT, MLP_OUT], "layers": [CHANGED]}
    together = patch(runs, readout, **options)
    alone = patch(runs, readout, batch_size=1, **options)
    assert together.cells == alone.cells
    assert together.patched == pytest.approx(alone.patched, abs=2e-5)
    approximate = [attribute(runs, readout, batch_size=n, **options) for n in (1, 4)]
    assert approximate[0].patched == pytest.approx(approximate[1].patched, abs=1e-4)


# A planted change


def test_the_changed_layer_is_found(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = one_layer_changed(base)
    runs = between_models(base, after, PROMPTS)
    for direction in (runs, runs.reversed()):
        found = patch(direction, some_log_odds(base), positions=[WHOLE])
        before = found.patched[:CHANGED]
        assert before == pytest.approx(np.tile(found.target, (CHANGED, 1)), abs=1e-5)
        behind = found.patched[CHANGED:]
        assert behind == pytest.approx(np.tile(found.source, (LAYERS - CHANGED, 1)), abs=1e-5)


def test_the_changed_component_is_found(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = one_layer_changed(base, "mlp")
    found = patch(
        between_models(base, after, PROMPTS),
        some_log_odds(base),
        sites=[ATTENTION_OUT, MLP_OUT],
        positions=[WHOLE],
    )
    by_cell = dict(zip(found.cells, found.patched, strict=True))
    for layer in range(CHANGED + 1):
        assert by_cell[Cell(layer, "attention_out", WHOLE)] == pytest.approx(found.target, abs=1e-5)
    assert by_cell[Cell(CHANGED, "mlp_out", WHOLE)] == pytest.approx(found.source, abs=1e-5)
    assert by_cell[Cell(0, "mlp_out", WHOLE)] == pytest.approx(found.target, abs=1e-5)


def test_the_changed_head_is_found(checkpoint_of: Checkpoints) -> None:
    """GPT-2, where every query head has values of its own."""
    base = LanguageModel.load(checkpoint_of("gpt2"))
    after = changed(base, lambda name: name.endswith("h.2.attn.c_attn.weight"), scale=0.0)
    head, width = 3, 16
    with torch.no_grad():
        values = after.layers[CHANGED].attn.c_attn.weight[:, 128:][:, head * width :][:, :width]
        values += torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    found = patch(
        between_models(base, after, PROMPTS), some_log_odds(base), sites=[HEADS], layers=[CHANGED],
        positions=[WHOLE],
    )  # fmt: skip
    assert [cell.head for cell in found.cells] == [0, 1, 2, 3]
    assert found.patched[head] == pytest.approx(found.source, abs=1e-5)
    for other in {0, 1, 2}:
        assert found.patched[other] == pytest.approx(found.target, abs=1e-6)


def test_a_change_at_one_position_is_found_there(llama: LanguageModel) -> None:
    """Embeddings of the template's tokens differ; at the input nothing else is different."""
    after = changed(llama, in_layer(0), scale=0.0)
    row = llama.chat.encode(PROMPTS[0])
    system = row.ids[row.spans["system"]]
    others = row.ids[row.spans["instruction"].start :]
    only_there = next(token for token in system if token not in others)
    with torch.no_grad():
        after.model.get_input_embeddings().weight[only_there] *= -3
    runs = between_models(llama, after, PROMPTS[:1])
    found = patch(runs, some_log_odds(llama), sites=[RESIDUAL_IN], layers=[0])
    by_position = {
        cell.position: value[0] for cell, value in zip(found.cells, found.patched, strict=True)
    }
    assert by_position.pop("system") == pytest.approx(found.source[0], abs=1e-6)
    assert list(by_position.values()) == pytest.approx([found.target[0]] * len(by_position))
    assert abs(found.gap) > 1e-5


# Stitching


def test_copies_of_a_prompt_make_no_stitched_share_more_certain() -> None:
    rng = np.random.default_rng(0)
    base, after = rng.normal(size=(2, 30)) + np.array([[5.0], [0.0]])
    below, above = rng.normal(size=(2, 2, 30)) + 2.0
    once = Stitching((0, 1), base, after, below, above).to_dataframe()
    copied = Stitching((0, 1), *(np.repeat(x, 4, axis=-1) for x in (base, after, below, above)))
    together = copied.to_dataframe(groups=np.repeat(np.arange(30), 4).tolist())
    apart = copied.to_dataframe()
    for name in ("representation", "routing"):
        columns = [name, f"{name}_low", f"{name}_high"]
        np.testing.assert_allclose(together[columns], once[columns])
        widths = [table[columns[2]] - table[columns[1]] for table in (apart, once)]
        assert (widths[0] < 0.7 * widths[1]).all()
    assert (once["representation"] + once["routing"]).to_numpy() == pytest.approx(1)


def test_shares_add_to_one_and_name_the_changed_layer(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    everywhere = changed(base, lambda name: any(in_layer(i)(name) for i in range(LAYERS)))
    mixed = stitch(base, everywhere, PROMPTS, some_log_odds(base))
    assert mixed.representation + mixed.routing == pytest.approx(1, abs=1e-5)
    table = mixed.to_dataframe(least_gap=0.0, resamples=200)
    assert (table["representation"] + table["routing"]).to_numpy() == pytest.approx(1, abs=1e-5)
    one = stitch(base, one_layer_changed(base), PROMPTS, some_log_odds(base))
    assert one.representation == pytest.approx([0, 0, 1, 1], abs=1e-3)
    assert one.routing == pytest.approx([1, 1, 0, 0], abs=1e-3)
    tiny = one.to_dataframe(least_gap=1e6)
    assert not tiny["defined"].any() and tiny["routing_low"].isna().all()


# Attribution


def test_attribution_is_exact_where_everything_is_linear(llama: LanguageModel) -> None:
    one, other = (linear_model(llama, seed=seed) for seed in (0, 1))
    runs = between_models(one, other, PROMPTS)

    readout = at_last_token(lambda logits: logits[:, 7] - 2 * logits[:, 11])

    exact, approximate = patch(runs, readout), attribute(runs, readout)
    assert len(exact.cells) == 3 * len(runs.positions())
    assert approximate.patched == pytest.approx(exact.patched, abs=1e-9)
    assert patch_agreement(approximate, exact).pearson == pytest.approx(1)
    assert not any(p.grad is not None for p in other.model.parameters())


def test_its_error_is_of_second_order(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint, dtype=torch.float64)
    readout = some_log_odds(base)
    errors = []
    for scale in (2e-2, 1e-2):
        after = changed(base, in_layer(1), scale=scale)
        runs = between_models(after, base, PROMPTS[2:])
        options = {"sites": [RESIDUAL_OUT, MLP_OUT, HEADS], "layers": [1], "positions": [WHOLE]}
        # One at a time: in float64, transformers' Gemma 2 gives NaN to rows that are padded.
        options |= {"batch_size": 1}
        exact = patch(runs, readout, **options)
        approximate = attribute(runs, readout, **options)
        assert patch_agreement(approximate, exact).pearson > 0.99
        errors.append(np.abs(approximate.patched - exact.patched).max())
    assert errors[1] < 0.35 * errors[0]


def test_agreement_wants_the_same_cells(llama: LanguageModel) -> None:
    runs = between_models(llama, one_layer_changed(llama), PROMPTS[:1])
    found = [patch(runs, some_log_odds(llama), layers=[i]) for i in (0, 1)]
    with pytest.raises(InputError, match="different cells"):
        patch_agreement(*found)
    few = patch(runs, some_log_odds(llama), layers=[0, 1], positions=[WHOLE])
    with pytest.raises(InputError, match="too few for a correlation"):
        patch_agreement(few, few)


# What cannot be patched


def test_what_does_not_fit_is_refused(llama: LanguageModel, checkpoint_of: Checkpoints) -> None:
    runs = between_models(llama, llama, PROMPTS)
    with pytest.raises(InputError, match="0 … 3"):
        patch(runs, some_log_odds(llama), layers=[4])
    with pytest.raises(InputError, match=r"no position intent.*there are system"):
        patch(runs, some_log_odds(llama), positions=["intent"])
    with pytest.raises(InputError, match="as different tokens"):
        between_models(llama, LanguageModel.load(checkpoint_of("mistral")), PROMPTS)
    with pytest.raises(InputError, match="same shape"):
        between_models(llama, linear_model(llama), PROMPTS)
    with pytest.raises(InputError, match="at least one prompt"):
        between_models(llama, llama, [])
