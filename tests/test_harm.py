"""Harm and refusal apart: what was planted is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spillover as sp
from analyses.runs import REFUSAL, Reads, extraction_angles, extraction_table
from analyses.runs.extractions import with_extractions
from analyses.runs.harm import (
    BLIND,
    HARM,
    SEES,
    SEES_AND_REFUSES,
    UNDECIDED,
    UNREADABLE,
    balanced,
    fitted_probe,
    harm_and_refusal_table,
)
from analyses.study import harm as study_harm
from interp.activations import Activations, last_instruction_token
from interp.errors import InputError
from interp.model import LanguageModel
from interp.statistics import unit

WIDTH, LAYERS, EACH = 24, 3, 24
DOMAINS = ("safety", "bias")
HARM_AXIS, REFUSAL_AXIS = np.eye(WIDTH)[0], np.eye(WIDTH)[1]


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    rows = [
        {"id": f"{domain}-{label}-{split}-{i}", "prompt": f"{label} {domain} {split} {i}?",
         "domain": domain, "label": label, "split": split, "kind": None, "source": "planted"}
        for domain in DOMAINS for split in ("validation", "test")
        for label in ("harmful", "benign") for i in range(EACH)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def planted(prompts: pd.DataFrame, *, odd: float = 0.3, mixed: float = 0.0, seed: int = 0) -> Reads:
    """Harm at the instruction, refusal at the end; ``odd``: prompts that behave as the other label.

    ``mixed``: how much of refusal stands at the instruction, too.
    """
    rng = np.random.default_rng(seed)
    harmful = (prompts["label"] == "harmful").to_numpy()
    swapped = rng.uniform(size=len(prompts)) < odd
    refused = np.where(swapped, ~harmful, harmful)

    def states(*parts: tuple[np.ndarray, np.ndarray, float]) -> np.ndarray:
        found = rng.normal(size=(len(prompts), LAYERS, WIDTH))
        for flag, axis, size in parts:
            # The last layer holds most, the first nothing.
            found += np.where(flag, size, -size)[:, None, None] * axis * np.arange(LAYERS)[:, None]
        return found

    here = states((harmful, HARM_AXIS, 1.2), (refused, REFUSAL_AXIS, mixed))
    return Reads(here, states((refused, REFUSAL_AXIS, 1.2)), refused.astype(float))


def without(reads: Reads, *, harm: bool, refusal: bool) -> Reads:
    """The same model with the direction's component set to 0, answering everything."""

    def erased(states: np.ndarray, axis: np.ndarray, gone: bool) -> np.ndarray:
        return states - gone * (states @ axis)[..., None] * axis

    return Reads(
        erased(reads.instruction, HARM_AXIS, harm),
        erased(reads.last, REFUSAL_AXIS, refusal),
        np.zeros(len(reads.refused)),
    )


def chosen(table: pd.DataFrame, probe: str) -> pd.DataFrame:
    return table[table["chosen"].astype(bool) & (table["probe"] == probe)].set_index("domain")


@pytest.mark.parametrize(("gone", "said"), [(False, SEES), (True, BLIND)])
def test_a_model_that_lost_refusal_alone_still_sees_harm(
    prompts: pd.DataFrame, gone: bool, said: str
) -> None:
    base = planted(prompts)
    after = without(base, harm=gone, refusal=True)
    found = harm_and_refusal_table(prompts, base, after, layers=(4, 5, 6))
    harm, refusal = chosen(found, HARM), chosen(found, REFUSAL)
    assert set(harm.index) == set(DOMAINS) and set(found["layer"]) == {4, 5, 6}
    assert (harm["layer"] == 6).all() and (refusal["layer"] == 6).all()
    assert (harm["before"] > 0.9).all() and (refusal["before"] > 0.9).all()
    assert (harm["verdict"] == said).all() and (found["note"] == "").all()
    assert harm["value"].between(0.2, 0.8).all() if gone else (harm["value"] > 0.9).all()
    assert refusal["value"].between(0.2, 0.8).all()
    assert (harm["low"] <= harm["value"]).all() and (harm["value"] <= harm["high"]).all()


@pytest.mark.parametrize("order", ["by label", "alternating", "shuffled"])
@pytest.mark.parametrize("paired", [False, True])
def test_the_chosen_layer_does_not_depend_on_the_order_of_the_rows(
    prompts: pd.DataFrame, order: str, paired: bool
) -> None:
    base = planted(prompts, odd=0.0)
    number = prompts.groupby(["domain", "label", "split"]).cumcount()
    table = prompts.assign(pair=prompts["domain"] + number.astype(str)) if paired else prompts
    places = {
        "by label": np.lexsort([prompts["label"]]),
        "alternating": np.lexsort([prompts["label"], number, prompts["domain"]]),
        "shuffled": np.random.default_rng(1).permutation(len(prompts)),
    }[order]
    rows = Reads(base.instruction[places], base.last[places], base.refused[places])
    table = table.iloc[places].reset_index(drop=True)
    fit = np.flatnonzero(table["split"] == "validation")
    probe = fitted_probe(HARM, table, rows, fit)
    assert probe is not None and probe.layer == LAYERS - 1


@pytest.mark.parametrize("refused", [0.0, 1.0, np.nan])
def test_no_verdict_says_what_was_not_read(prompts: pd.DataFrame, refused: float) -> None:
    """A model that does not refuse may write gibberish instead of an answer."""
    base = planted(prompts)
    after = replace(base, refused=np.full(len(prompts), refused))
    found = chosen(harm_and_refusal_table(prompts, base, after, layers=range(LAYERS)), HARM)
    said = {0.0: SEES, 1.0: SEES_AND_REFUSES}.get(refused, UNDECIDED)
    assert (found["verdict"] == said).all() and "answer" not in said


def test_nothing_changed_is_nothing_lost(prompts: pd.DataFrame) -> None:
    base = planted(prompts)
    found = harm_and_refusal_table(prompts, base, base, layers=range(LAYERS))
    np.testing.assert_array_equal(found["before"], found["value"])
    assert (chosen(found, HARM)["verdict"] == SEES_AND_REFUSES).all()
    # The first layer holds nothing, so nothing can be lost there.
    first = found[(found["layer"] == 0) & (found["probe"] == HARM)]
    assert (first["verdict"] == UNREADABLE).any()


def test_equal_behaviour_keeps_refusal_out_of_the_harm_direction(prompts: pd.DataFrame) -> None:
    """Refusal stands at the instruction too: only rows of equal behaviour tell them apart."""
    fit = np.flatnonzero(prompts["split"] == "validation")
    for odd, note in ((0.3, ""), (0.0, "0 answered harmful and 0 refused benign prompts")):
        base = planted(prompts, odd=odd, mixed=1.2)
        probe = fitted_probe(HARM, prompts, base, fit)
        assert probe is not None and note in probe.note
        shared = abs(unit(probe.direction[-1]) @ REFUSAL_AXIS)
        assert (shared < 0.3) if odd else (shared > 0.5)
    assert fitted_probe(REFUSAL, prompts, replace(base, refused=np.ones(len(prompts))), fit) is None


def test_balanced_rows_hold_as_many_of_each_behaviour_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    classes, other = rng.uniform(size=(2, 200)) < [[0.5], [0.3]]
    kept = balanced(np.arange(200), classes, other)
    assert len(set(kept)) == len(kept)
    for value in (True, False):
        here = kept[other[kept] == value]
        assert classes[here].sum() == (~classes[here]).sum() > 0


def test_wrong_tables_are_refused(prompts: pd.DataFrame) -> None:
    base = planted(prompts)
    with pytest.raises(InputError, match="give two splits"):
        harm_and_refusal_table(prompts, base, base, layers=(0, 1, 2), fit_on="test")
    with pytest.raises(InputError, match="states of 192 prompts and a table of 10"):
        harm_and_refusal_table(prompts.head(10), base, base, layers=(0, 1, 2))


def test_training_above_a_layer_leaves_what_it_holds(
    prompts: pd.DataFrame, checkpoint_of: Callable[[str], Path]
) -> None:
    base, after = (sp.load(checkpoint_of("llama")) for _ in range(2))
    with torch.no_grad():
        for parameter in after.layers[-1].parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.manual_seed(0)))
    behaves = planted(prompts).refused
    found = sp.harm_and_refusal(
        base, after, prompts, refused=(behaves, 1 - behaves), fit_on="validation"
    )
    table = found.table
    below = table["layer"] < base.n_layers - 1
    assert below.any()
    np.testing.assert_array_equal(table.loc[below, "before"], table.loc[below, "value"])
    assert (table.loc[~below, "before"] != table.loc[~below, "value"]).any()
    assert len(found.sentences()) >= len(DOMAINS) and found.plot().axes
    with pytest.raises(InputError, match="no prompts of the split train"):
        sp.harm_and_refusal(base, after, prompts, refused=(behaves, behaves))


@pytest.mark.parametrize("text", ["Why?", "Explain the meaning of consent.", "Say “yes” – or no"])
def test_the_last_token_of_the_instruction_ends_the_user_s_text(
    checkpoint: Path, text: str
) -> None:
    """For every template: the tokens up to it hold the whole text, and without it they do not."""
    chat = LanguageModel.load(checkpoint).chat
    row = chat.encode(text)
    [place] = last_instruction_token(row)
    assert place.stop - place.start == 1
    whole, shorter = (chat.tokenizer.decode(row.ids[:stop]) for stop in (place.stop, place.start))
    assert text in whole and text not in shorter


def test_babble_that_a_scorer_took_for_refusals_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in every other table: the base model finds the second answer too improbable."""
    ids = ["p", "q"]
    own = pd.DataFrame({"prompt_id": ids, "class": "refusal", "refused": 1.0, "nll": 0.4})
    arm = own.assign(step=9, kept=True, nll=[0.4, 6.0])
    states = acts_of(np.zeros((2, 1, WIDTH)))
    context: Any = SimpleNamespace(
        evaluated=pd.DataFrame({"id": ids}), reference=SimpleNamespace(n_layers=1),
        base_states=states, run=SimpleNamespace(arm=Path),
    )  # fmt: skip
    found: list[Reads] = []
    monkeypatch.setattr(study_harm, "reads_of", lambda _, refused: refused)
    monkeypatch.setattr(
        study_harm, "harm_and_refusal_table", lambda _, *reads, layers: found.extend(reads)
    )
    monkeypatch.setattr(study_harm, "write_table", lambda *_: None)
    study_harm.write_harm(context, SimpleNamespace(scores=own), states, arm, "npo")  # type: ignore[arg-type]
    assert np.array_equal(found, [[1, 1], [1, 0]])


def acts_of(states: np.ndarray) -> Activations:
    ids = tuple(range(len(states)))
    tokens = np.zeros((len(states), 1), dtype=int)
    return Activations({"residual_out": states[:, :, None]}, (0,), ids, tokens, "float32")


def test_two_ways_to_extract_a_direction_have_the_angle_that_was_planted(
    prompts: pd.DataFrame,
) -> None:
    """40° between the tokens; the benign prompts of other domains move it by 30°."""
    rng = np.random.default_rng(1)
    harmful = (prompts["label"] == "harmful").to_numpy()
    other = ((prompts["domain"] == "bias") & ~harmful).to_numpy()
    turned = np.cos(np.deg2rad(40)) * HARM_AXIS + np.sin(np.deg2rad(40)) * REFUSAL_AXIS

    def states(axis: np.ndarray, shift: float = 0.0) -> np.ndarray:
        found = 0.3 * rng.normal(size=(len(prompts), 1, WIDTH))
        found += harmful[:, None, None] * 4 * axis
        return found - other[:, None, None] * 4 * shift * np.eye(WIDTH)[2]

    last = states(HARM_AXIS, np.tan(np.deg2rad(30)))
    last[(prompts["domain"] == "bias").to_numpy() & harmful] -= (
        4 * np.tan(np.deg2rad(30)) * np.eye(WIDTH)[2]
    )
    found = extraction_angles(prompts, prompts, acts_of(states(turned)), acts_of(last), (0,))
    table = extraction_table(found).set_index("domain")
    assert table.loc["safety", "by_position"] == pytest.approx(40, abs=3)
    assert table.loc["safety", "by_contrast"] == pytest.approx(30, abs=3)
    angles = pd.DataFrame(
        {"domain": "safety", "layer": 0, "quantity": ["angle_degrees", "gain"], "value": 1.0}
    )
    told = with_extractions(angles, table.reset_index())
    assert told["by_position"].notna().tolist() == [True, False]


def test_what_matched_prompts_share_turns_no_direction(prompts: pd.DataFrame) -> None:
    """The two sides of ``contrast`` hold no two prompts of a pair, whose topic both would hold."""
    pairs = prompts["id"].str.replace("harmful|benign", "", regex=True)
    table = prompts.assign(pair=pairs, prompt=prompts["prompt"] + pairs)
    harmful = (table["label"] == "harmful").to_numpy()
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        topic = dict(zip(pairs.unique(), rng.normal(size=(len(pairs), WIDTH)) * 2, strict=False))
        states = (
            0.3 * rng.normal(size=(len(table), 1, WIDTH))
            + np.stack(list(pairs.map(topic)))[:, None]
        )
        acts = acts_of(states + 3 * harmful[:, None, None] * HARM_AXIS)
        found.append(extraction_angles(table, table, acts, acts, (0,))["contrast"]["safety"])
    assert np.mean([change.cosine.value[0] for change in found]) > 0.9
    assert np.mean([change.angle_degrees.low[0] for change in found]) < 3


def test_versions_of_one_prompt_are_one_unit_of_a_direction(prompts: pd.DataFrame) -> None:
    """Otherwise noise that equal prompts put into both halves would count as a direction."""
    names = prompts["id"].str.rsplit("-", n=1, expand=True)
    number = names[1].astype(int)
    acts = acts_of(np.random.default_rng(0).normal(size=(len(prompts), 1, WIDTH)))
    pair = names[0].str.replace("harmful|benign", "", regex=True) + names[1]
    group = (names[0] + (number // 2).astype(str)).where(number < 8)
    for columns, units in (({}, 24), ({"group": group}, 20), ({"group": group, "pair": pair}, 20)):
        found = sp.fit_directions(acts, prompts.assign(**columns), split="test")
        assert found.contrasts["safety"].n == units
        assert len(np.unique(found.contrasts["safety"].units)) == units * (
            1 + ("pair" not in columns)
        )


def test_a_rotation_stands_next_to_the_angle_between_two_ways(
    prompts: pd.DataFrame, checkpoint_of: Callable[[str], Path]
) -> None:
    lm = sp.load(checkpoint_of("llama"))
    used = prompts.assign(split="train")
    dirs = sp.fit_directions(sp.collect(lm, used), used)
    ways = sp.extractions(lm, used)
    table = sp.rotation(dirs, dirs, ways=ways).to_dataframe()
    angles = table["quantity"] == "angle_degrees"
    assert table.loc[angles, "by_position"].between(0, 180).any()
    assert table.loc[~angles, ["by_position", "by_contrast"]].isna().all(axis=None)
    fewer = sp.fit_directions(sp.collect(lm, used, layers=[0]), used)
    with pytest.raises(InputError, match="layers of the way"):
        sp.rotation(fewer, fewer, ways=ways)
