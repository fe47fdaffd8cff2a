"""The weights that a run leaves behind are those of the model that it trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from analyses.study.making import check_weights
from interp.errors import SpilloverError, TrainingError
from interp.model import LanguageModel, merged
from interp.store import read_json
from tests.architectures import tiny
from unlearning.training import (
    TrainingSettings,
    check_saved,
    keep_whole,
    prepare_in_place,
    restore_with_logits,
    save_with_logits,
)
from unlearning.training.eval_mode import probe_logits, relative_error
from unlearning.training.saving import LOGITS

Checkpoints = Callable[[str], Path]
LORA = TrainingSettings(lora_rank=4, lora_alpha=8)
FULL = TrainingSettings(trained="projections")


def trained(lm: LanguageModel, settings: TrainingSettings = LORA) -> LanguageModel:
    """A prepared model whose trained weights have moved."""
    lm = prepare_in_place(lm, settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return lm


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "projections"])
@pytest.mark.parametrize("kind", ["fused and shared experts", "transposed experts"])
def test_saved_weights_are_the_trained_ones(
    kind: str, settings: TrainingSettings, tmp_path: Path
) -> None:
    base = tiny(kind)
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    plain = probe_logits(base)
    lm = trained(LanguageModel.load(tmp_path / "base"), settings)
    wanted = probe_logits(lm)
    saved = save_with_logits(lm, tmp_path)
    assert relative_error(wanted, plain) > 0.05
    with torch.no_grad():  # training goes on
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    restore_with_logits(lm, tmp_path)
    torch.testing.assert_close(probe_logits(lm), wanted)
    loaded = LanguageModel.load(saved)
    check_saved(loaded, tmp_path)
    assert relative_error(probe_logits(loaded), wanted) < 1e-4
    assert not (tmp_path / LOGITS).exists()


@pytest.mark.parametrize("fault", ["lost", "changed"])
def test_a_corrupted_adapter_is_noticed(
    fault: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = trained(LanguageModel.load(checkpoint_of("llama")))
    saved = save_with_logits(lm, tmp_path)
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "down_proj.lora_B" in name)
    if fault == "lost":
        del tensors[name]
    else:
        tensors[name] = tensors[name] * 2
    save_file(tensors, file)
    with pytest.raises(SpilloverError):
        check_saved(LanguageModel.load(saved), tmp_path)
    with pytest.raises(SpilloverError):
        restore_with_logits(
            prepare_in_place(LanguageModel.load(checkpoint_of("llama")), LORA), tmp_path
        )


def test_the_error_says_how_far_they_differ(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    save_with_logits(trained(LanguageModel.load(checkpoint_of("llama"))), tmp_path)
    other = LanguageModel.load(checkpoint_of("llama"))
    with pytest.raises(
        TrainingError, match=r"loaded again.*differ by .*at most 1e-03.*projections"
    ):
        check_saved(other, tmp_path)


def test_a_model_whose_adapter_is_another_one_is_kept_whole(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = trained(LanguageModel.load(checkpoint_of("llama")))
    saved, wanted = save_with_logits(lm, tmp_path), probe_logits(lm)
    file = saved / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    arm, kept = SimpleNamespace(name="arm", checkpoint=None), tmp_path / "whole_model"
    context = SimpleNamespace(
        load=LanguageModel.load,
        reference=lm,
        run=SimpleNamespace(arm=lambda name: tmp_path),
        progress=SimpleNamespace(stage=lambda said: nullcontext()),
    )
    with pytest.raises(TrainingError, match=rf"loaded again.*whole trained model is in {kept}"):
        check_weights(context, arm, lm, tmp_path)  # type: ignore[arg-type]
    assert relative_error(probe_logits(LanguageModel.load(kept)), wanted) < 1e-4
    # What does not give those logits either is not offered.
    other = trained(LanguageModel.load(checkpoint_of("llama")))
    with torch.no_grad():
        next(p for p in other.model.parameters() if p.requires_grad).mul_(3)
    shutil.rmtree(kept)
    assert keep_whole(other, tmp_path) is None and not kept.exists()


@pytest.mark.slow
def test_adapters_of_blocks_that_share_weights_stay_apart(tmp_path: Path) -> None:
    """Each use of a shared block has its own adapter; merged, each has its own weights."""
    base = tiny("shared blocks")
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    lm = trained(LanguageModel.load(tmp_path / "base"))
    wanted = probe_logits(lm)
    check_saved(LanguageModel.load(save_with_logits(lm, tmp_path)), tmp_path)
    model = merged(lm.model)
    assert relative_error(probe_logits(LanguageModel(model, lm.tokenizer, lm.chat)), wanted) < 1e-4


def test_an_adapter_names_its_base_by_an_absolute_path(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = checkpoint_of("llama")
    monkeypatch.chdir(base.parent)
    lm = trained(LanguageModel.load(base.name))
    saved = save_with_logits(lm, tmp_path)
    assert read_json(saved / "adapter_config.json")["base_model_name_or_path"] == str(base)
    monkeypatch.chdir(tmp_path)
    check_saved(LanguageModel.load(saved), tmp_path)


def test_an_adapter_names_the_commit_of_its_base(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits of one model of the hub, whose cache stands for the hub."""
    place, older, newer = tmp_path / "models--some--model", "a" * 40, "b" * 40
    for commit, factor in ((older, 1.0), (newer, 1.5)):
        lm = LanguageModel.load(checkpoint_of("llama"))
        with torch.no_grad():
            lm.layers[0].get_parameter("mlp.up_proj.weight").mul_(factor)
        lm.model.save_pretrained(place / "snapshots" / commit)
        lm.tokenizer.save_pretrained(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(newer, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lm = trained(LanguageModel.load("some/model", revision=older))
    saved = save_with_logits(lm, tmp_path / "arm")
    check_saved(LanguageModel.load(saved), tmp_path / "arm")
