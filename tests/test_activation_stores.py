"""On disk a collection is whole or goes on where it was cut off, and is never another model's."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.activations import HEADS, MLP_OUT, Activations, collect
from interp.activations import stores as activation_stores
from interp.activations.positions import every_token
from interp.errors import InputError
from interp.model import LanguageModel, writing
from interp.store import read_json, write_json

Checkpoints = Callable[[str], Path]

PROMPTS = [f"Tell me about {thing}." + " Please." * i for i, thing in enumerate("abcdefg")]


class Cut(Exception):
    """Ends a collection."""


def forwards(lm: LanguageModel) -> list[int]:
    """Rows of every forward from now on."""
    seen: list[int] = []
    lm.layers[0].register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    return seen


def cut_after(batches: int) -> Callable[[int], None]:
    left = [batches]

    def progress(_rows: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Cut

    return progress


def test_what_is_on_disk_is_what_is_in_memory(checkpoint: Path, tmp_path: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    options: dict[str, Any] = {
        "sites": [MLP_OUT, HEADS],
        "positions": every_token("instruction"),
        "ids": list("abcdefg"),
        "dtype": np.float16,
        "batch_size": 3,
    }
    memory = collect(lm, PROMPTS, **options)
    for found in (
        collect(lm, PROMPTS, folder=tmp_path / "states", **options),
        Activations.load(tmp_path / "states"),
    ):
        assert found.layers == memory.layers and found.ids == memory.ids
        assert found.dtype == np.float16 and found.computed_in == memory.computed_in
        assert np.array_equal(found.token_ids, memory.token_ids)
        for name, states in memory.sites.items():
            assert isinstance(found[name], np.memmap)
            np.testing.assert_array_equal(found[name], states)
    assert [path.name for path in tmp_path.iterdir()] == ["states"]


def test_a_collection_that_was_cut_off_goes_on(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    folder = tmp_path / "states"
    wanted = collect(lm, PROMPTS).states
    with pytest.raises(Cut):
        collect(lm, PROMPTS, folder=folder, batch_size=2, progress=cut_after(2))
    assert not folder.exists()
    with pytest.raises(InputError, match="unfinished: collect again to continue"):
        Activations.load(folder)
    seen, done = forwards(lm), []
    found = collect(lm, PROMPTS, folder=folder, batch_size=2, progress=done.append)
    # One forward of the first prompt, to see that it is the same model; four rows were done.
    assert seen == [1, 2, 1] and done == [2, 1]
    assert found.states == pytest.approx(wanted, abs=2e-5)
    # Finished, it is only read.
    seen.clear()
    assert np.array_equal(collect(lm, PROMPTS, folder=folder).states, found.states)
    assert seen == [1]


def test_a_kill_at_any_write_loses_nothing_that_was_done(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a batch's states and its mark, and just before the whole gets its name."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    folder = tmp_path / "states"
    wanted = collect(lm, PROMPTS).states

    def fail(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(activation_stores, "sync_folder", fail)
        with pytest.raises(Cut):
            collect(lm, PROMPTS, folder=folder)
    marks = np.load(tmp_path / "states.partial" / "done.npy")
    assert marks.all()
    # As if the last mark had not reached the disk, and what it was to mark were garbage.
    marks[2] = False
    np.save(tmp_path / "states.partial" / "done.npy", marks)
    states = np.load(tmp_path / "states.partial" / "residual_out.npy")
    states[2] = np.nan
    np.save(tmp_path / "states.partial" / "residual_out.npy", states)
    assert collect(lm, PROMPTS, folder=folder).states == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layers": [0, 2]}, "layers"),
        ({"ids": list("hijklmn")}, "ids"),
        ({"dtype": np.float16}, "dtype"),
        ({"sites": [MLP_OUT]}, "sites"),
        ({"positions": every_token("system")}, "prompts"),
        ({"texts": PROMPTS[::-1]}, "prompts"),
    ],
)
def test_other_activations_are_never_taken_for_these(
    checkpoint_of: Checkpoints, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    asked = {"texts": PROMPTS, **change}
    collect(lm, PROMPTS, folder=tmp_path / "whole")
    with pytest.raises(InputError, match=f"differ in .*{named}.*choose another folder"):
        collect(lm, folder=tmp_path / "whole", **asked)
    with pytest.raises(Cut):
        collect(lm, PROMPTS, folder=tmp_path / "part", batch_size=2, progress=cut_after(1))
    with pytest.warns(UserWarning, match=f"differ in .*{named}.*starting it again"):
        found = collect(lm, folder=tmp_path / "part", **asked)
    wanted = collect(lm, **asked)
    for site, states in wanted.sites.items():
        np.testing.assert_allclose(found[site], states, atol=2e-5)


def test_another_model_s_activations_are_never_taken_for_these(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """A weight, or an intervention, is enough to make it another."""
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    folder = tmp_path / "states"
    collect(lm, PROMPTS, folder=folder)
    with writing(lm.layers[1], lambda hidden: hidden * 1.001):
        with pytest.raises(InputError, match="cannot say under which intervention"):
            collect(lm, PROMPTS, folder=folder)
        edited = collect(lm, PROMPTS, folder=tmp_path / "edited")
    assert (edited.states != Activations.load(folder).states).any()
    with pytest.raises(InputError, match="differ in edited"):
        collect(lm, PROMPTS, folder=tmp_path / "edited")
    with torch.no_grad():
        lm.layers[3].mlp.down_proj.weight += 1e-3
    with pytest.raises(InputError, match="of another model"):
        collect(lm, PROMPTS, folder=folder)
    os.replace(folder, tmp_path / "states.partial")
    with pytest.warns(UserWarning, match="of another model.*starting it again"):
        found = collect(lm, PROMPTS, folder=folder)
    assert found.states == pytest.approx(collect(lm, PROMPTS).states, abs=2e-5)


def test_another_configuration_makes_another_model(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """Also where the first prompt is too short to see it; older folders do not name it."""
    lm, folder = LanguageModel.load(checkpoint_of("mistral")), tmp_path / "states"
    prompts = ["Hi", "Tell me about bread." * 30]
    collect(lm, prompts, folder=folder)
    narrow = shutil.copytree(checkpoint_of("mistral"), tmp_path / "narrow")
    config = read_json(narrow / "config.json")
    assert config["sliding_window"] > 32
    write_json(narrow / "config.json", {**config, "sliding_window": 32})
    changed = LanguageModel.load(narrow)
    with pytest.raises(InputError, match="differ in configuration"):
        collect(changed, prompts, folder=folder)
    about = read_json(folder / "about.json")
    del about["configuration"]
    write_json(folder / "about.json", about)
    assert len(collect(lm, prompts, folder=folder).ids) == 2


def test_a_small_change_of_rounded_weights_makes_another_model(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """Also where the first prompt's states move by no more than bfloat16 resolves."""
    lm = LanguageModel.load(checkpoint_of("qwen2"), dtype=torch.bfloat16)
    before = collect(lm, PROMPTS, folder=tmp_path / "states").states
    with torch.no_grad():
        lm.layers[3].mlp.down_proj.weight *= 1.02
    after = collect(lm, PROMPTS).states
    assert 0 < np.linalg.norm(after - before) < 0.01 * np.linalg.norm(before)
    with pytest.raises(InputError, match="of another model"):
        collect(lm, PROMPTS, folder=tmp_path / "states")


def test_a_folder_of_something_else_is_left_alone(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("all of it", encoding="utf-8")
    with pytest.raises(InputError, match="holds no activations.*choose another folder"):
        collect(lm, PROMPTS, folder=tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text(encoding="utf-8") == "all of it"
    with pytest.raises(InputError, match="holds no activations; collect first"):
        Activations.load(tmp_path / "nowhere")


def test_a_folder_that_was_cut_off_while_it_was_made_is_begun_anew(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    (tmp_path / "states.partial").mkdir()
    (tmp_path / "states.partial" / "residual_out.npy").write_bytes(b"torn")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        collect(lm, PROMPTS, folder=tmp_path / "states")
    assert any("starting it again" in str(warning.message) for warning in told)


def test_a_disk_without_room_is_said_before_anything_is_computed(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory-mapped file that outgrows its disk would end the process."""
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(InputError, match="0.0 GiB of space"):
        collect(lm, PROMPTS, folder=tmp_path / "states")
    assert not list(tmp_path.iterdir())
