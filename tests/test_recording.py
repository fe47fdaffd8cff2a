"""Forwards that begin at a layer and at a token give the numbers of whole forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.activations import HEADS, RESIDUAL_OUT, collect
from interp.causes import CAUSES, MOVES, Change, control_effects, undo
from interp.causes.controls import _read_later
from interp.interventions import ablate
from interp.model import LanguageModel, Point, undisturbed
from interp.patching import (
    WHOLE,
    between_models,
    by_layer,
    in_layers,
    patch,
    patch_weights,
    recording,
    recording_of,
)
from interp.statistics import Contrast
from tests.patched_models import changed, random_direction
from unlearning.refusal import ResponsePrefixes, readout_of

TREE = ResponsePrefixes(
    refusal=((300,), (40, 50, 60), (41, 42)), compliance=((302,), (40, 51), (41, 43))
)
READOUT = readout_of(TREE)
# The second begins like the first; lengths differ, so batches are padded.
TEXTS = [f"Tell me how to {what}." for what in ("bake bread at home", "sing", "mend a chair", "go")]


@contextmanager
def whole(patched: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the block no forward begins late."""
    with patched.context() as inside:
        inside.setattr(recording, "may_record", lambda *_: False)
        yield


def pair(folder: Path, *, adapted: bool = False) -> tuple[LanguageModel, LanguageModel]:
    base = LanguageModel.load(folder, dtype=torch.float32)
    after = changed(base, lambda name: "norm" not in name and "emb" not in name, scale=0.5)
    if adapted:
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        after = replace(after, model=get_peft_model(after.model, config).eval())
    return base, after


def change_of(base: LanguageModel, after: LanguageModel) -> Change:
    found = []
    for lm in (base, after):
        states = collect(lm, [*TEXTS, *(f"Please {text.lower()}" for text in TEXTS)])
        values = np.asarray(states.states, dtype=float)
        found.append(Contrast(values[:4], values[4:]))
    return Change(*found, tuple(range(base.n_layers)))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapted"), [("llama", True), ("gpt2", False)])
def test_late_forwards_give_the_numbers_of_whole_ones(
    checkpoint_of: Callable[[str], Path],
    family: str,
    adapted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, after = pair(checkpoint_of(family), adapted=adapted)
    change, runs = change_of(base, after), between_models(base, after, TEXTS)
    for lm in (base, after):
        assert recording_of(lm, runs.source_rows, READOUT, [Point(lm.layers[0])]) is not None

    def everything() -> list[np.ndarray]:
        undone = undo(base, after, TEXTS, change, READOUT, layers=[1], read=[0, 1, 3])
        found = [one.values for one in undone]
        found += [one.response.effect for one in undone if one.response]
        # Parameters of a wrapped model have other names.
        for cause in MOVES if adapted else CAUSES:
            given: dict[str, Any] = {"layer": 0, "cause": cause, "draws": 2}
            found.append(control_effects(base, after, TEXTS, change, READOUT, **given))
        sites = [RESIDUAL_OUT, HEADS]
        positions = [WHOLE, "instruction", runs.positions()[-1]]
        cells = patch(
            runs, READOUT, sites=sites, positions=positions, layers=[0], controls=1, batch_size=3
        )
        found += [cells.patched, cells.source, cells.target]
        found += [] if cells.controls is None else [cells.controls]
        if not adapted:
            some = in_layers(by_layer, [0, 2])
            weights = patch_weights(runs, READOUT, grouping=some, controls=1)
            assert weights.controls is not None
            found += [weights.patched, weights.controls]
        return found

    late = everything()
    with whole(monkeypatch):
        wanted = everything()
    for one, other in zip(late, wanted, strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)
    assert np.ptp(wanted[0], axis=0).min() > 0.05


def test_a_layer_and_what_is_below_it_does_not_run(checkpoint_of: Callable[[str], Path]) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.float32)
    rows = [lm.chat.encode(text) for text in TEXTS]
    found = recording_of(lm, rows, READOUT, [Point(lm.layers[0])])
    assert found is not None
    columns: list[int] = []
    layer, last = lm.layers[0], lm.layers[-1]
    with undisturbed(lm.model):
        count = lambda _m, inputs, _o: columns.append(inputs[0].shape[1])  # noqa: E731
        handles = [last.mlp.register_forward_hook(count), layer.mlp.register_forward_hook(count)]
        again = found.read(0, found.tails(0))
        for handle in handles:
            handle.remove()
    assert again.numpy() == pytest.approx(found.values, abs=1e-4)
    # The longest path of the tree has one token after the prompt's last one.
    assert columns == [1 + len(path) for path in TREE.paths]
    assert "forward" not in vars(layer)


def test_what_a_cache_or_an_edit_does_not_allow_runs_as_a_whole(
    checkpoint_of: Callable[[str], Path],
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.float32)
    rows = [lm.chat.encode(text) for text in TEXTS]
    places = [Point(lm.layers[0])]
    with ablate(lm, random_direction(0, lm.d_model)):
        assert recording_of(lm, rows, READOUT, places) is None
    assert recording_of(lm, rows, READOUT, places) is not None
    lm.found_out.pop("recorded")
    lm.found_out["checked"] = replace(lm.checked, cache=False)
    assert recording_of(lm, rows, READOUT, places) is None


def test_a_window_that_a_recording_gets_wrong_is_noticed_in_longer_rows(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """And in shorter rows next to long ones: padding inside the window pushes tokens out of it."""
    lm = LanguageModel.load(checkpoint_of("mistral"), dtype=torch.float32)
    short, long = ([lm.chat.encode(text * n) for text in TEXTS] for n in (1, 12))
    assert max(map(len, short)) < lm.model.config.sliding_window < min(map(len, long))
    same = [long[0], long[0]]  # without padding
    for rows, fits in ((short, True), (same, True), (short, True), ([long[0], short[0]], False)):
        found = recording_of(lm, rows, READOUT, [Point(lm.layers[0])])
        assert (found is not None) == fits
        if found is not None:
            with torch.no_grad():
                wanted = READOUT(lm, rows).numpy()
            assert found.values == pytest.approx(wanted, abs=1e-4)


def test_a_cache_that_is_edited_in_place_is_found_out(
    checkpoint_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.float32)
    rows = [lm.chat.encode(text) for text in TEXTS]
    assert lm.checked.cache
    monkeypatch.setattr(recording, "_copied", lambda cache: cache)
    assert recording_of(lm, rows, READOUT, [Point(lm.layers[0])]) is None


def test_noise_of_later_weights_leaves_the_states_before_them(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """Embeddings of tokens and of positions come before the layers; norm and head after them."""
    lm = LanguageModel.load(checkpoint_of("gpt2"))
    later = _read_later(lm, lm.n_layers - 1)
    assert later and all("ln_f" in name for name in later)  # the head is the embedding
