"""A GGUF file is the model that it was written from, and can be trained like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from analyses.costs import CostedModel, reading_of
from interp.errors import ModelError
from interp.model import LanguageModel
from tests.gguf_files import save_gguf
from tests.test_saving import trained
from unlearning.training import check_saved, save_with_logits
from unlearning.training.eval_mode import relative_error

Checkpoints = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(checkpoint_of: Checkpoints) -> Path:
    """Of a Llama whose rotary frequencies are scaled."""
    return checkpoint_of("llama")


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(folder, tmp_path_factory.mktemp("gguf") / "model.gguf")


def logits(lm: LanguageModel) -> torch.Tensor:
    """Of the last tokens of a text that is long enough for the frequencies to matter."""
    ids = torch.arange(600)[None] % 1000
    with torch.no_grad():
        return lm.model(input_ids=ids).logits[0, -64:]


def test_a_gguf_file_gives_the_ids_and_logits_of_its_folder(folder: Path, file: Path) -> None:
    lm, wanted = LanguageModel.load(file), LanguageModel.load(folder)
    rows = [
        one.chat.encode("How do I bake two loaves of bread?", "Slowly.") for one in (lm, wanted)
    ]
    assert rows[0] == rows[1]
    assert wanted.model.config.rope_parameters["rope_type"] == "llama3"
    torch.testing.assert_close(logits(lm), logits(wanted), rtol=1e-4, atol=1e-4)
    assert lm.chat.fingerprint == wanted.chat.fingerprint and lm.model.dtype == torch.float32


def test_a_quantised_file_gives_nearly_its_logits(folder: Path, tmp_path: Path) -> None:
    lm = LanguageModel.load(save_gguf(folder, tmp_path / "small.gguf", "Q8_0"))
    wanted = logits(LanguageModel.load(folder))
    assert 1e-5 < relative_error(logits(lm), wanted) < 0.05


def test_a_plan_counts_a_gguf_file_as_dequantised(folder: Path, tmp_path: Path) -> None:
    file = save_gguf(folder, tmp_path / "small.gguf", "Q8_0")
    weights, found = CostedModel(str(file)).footprint() or pytest.fail("unknown")
    lm = LanguageModel.load(folder)
    parameters = sum(one.numel() for one in lm.model.parameters())
    # The file also holds the factors of the rotary frequencies.
    assert parameters == found.parameters and 0 <= weights.parameters - parameters < 100
    assert weights.held == 4 * weights.parameters > 3 * file.stat().st_size
    assert weights.line.endswith("as float32, dequantised when they are loaded")
    prompts = ["Why?", "How do I bake two loaves of bread?"]
    assert reading_of(prompts, 8, str(file), {}) == reading_of(prompts, 8, str(folder), {})


@pytest.mark.slow
def test_an_adapter_on_a_gguf_file_finds_it_from_anywhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    lm = trained(LanguageModel.load(file.name))
    saved = save_with_logits(lm, tmp_path / "arm")
    monkeypatch.chdir(tmp_path)
    loaded = LanguageModel.load(saved)
    check_saved(loaded, tmp_path / "arm")
    assert relative_error(logits(loaded), logits(LanguageModel.load(file))) > 0.05


def test_a_model_from_a_gguf_file_is_the_same_when_saved_as_a_folder(
    file: Path, tmp_path: Path
) -> None:
    lm = LanguageModel.load(file)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    again = LanguageModel.load(tmp_path)
    torch.testing.assert_close(logits(again), logits(lm))


def test_frequencies_that_are_scaled_in_other_ways_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    file = save_gguf(folder, tmp_path / "model.gguf", scaling="yarn")
    with pytest.raises(ModelError, match=r"rotary frequencies \(yarn\).*hub id or folder"):
        LanguageModel.load(file)
