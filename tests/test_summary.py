"""`summary.json` and the tables: every number with its interval, planted values found, no NaN."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.report import summary, wording
from analyses.runs import headlines, linked_units, read_run, tables
from analyses.runs.arms import OF_RETAINING
from interp.errors import FileError, InputError
from tests.synthetic_run import (
    BASE_RATE,
    DOMAINS,
    LAG,
    PLANTED_LEAKAGE,
    PLANTED_RECOVERY,
    RETAINED,
    SELECTED,
    write_comparison,
    write_run,
)
from unlearning.training import TrainingSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(
        tmp_path_factory.mktemp("run"),
        degenerate=("npo-safety-0",),
        not_reached=("npo-retain-100-cybersecurity-0",),
        unfinished=("npo-retain-1-safety-0",),
    )
    summary.write_summary(folder)
    return folder


@pytest.fixture(scope="module")
def content(run: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((run / "summary.json").read_text("utf-8"), parse_constant=refuse)


def _arm(content: dict[str, Any], name: str) -> dict[str, Any]:
    return next(arm for arm in content["arms"] if arm["name"] == name)


def _numbers(value: Any):
    if isinstance(value, dict):
        if "value" in value:
            yield value
        else:
            for part in value.values():
                yield from _numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part)


def test_every_number_stands_in_its_interval_and_undefined_ones_say_why(content):
    numbers = [*_numbers(content["base"]), *_numbers(content["arms"])]
    numbers += list(_numbers(content["cosine_similarity"]))
    assert len(numbers) > 500
    for number in numbers:
        assert set(number) - {"reason"} == {"value", "low", "high", "n"}
        if number["value"] is None:
            assert number["low"] is None and number["reason"]
        elif number["low"] is not None:
            assert number["low"] - 1e-9 <= number["value"] <= number["high"] + 1e-9
            assert number["n"] > 0


def test_planted_leakage_and_recovery_are_in_the_summary(content):
    plain = _arm(content, "npo-cybersecurity-0")
    for domain, share in PLANTED_LEAKAGE["cybersecurity"].items():
        if domain == "cybersecurity":  # its test prompts lag behind those of its level
            assert plain["L_90"][domain]["value"] == pytest.approx(0.9**LAG, abs=0.02)
        elif BASE_RATE[domain] > 0.2:
            assert plain["L_90"][domain]["value"] == pytest.approx(0.9 * share, abs=0.02)
            assert plain["area"][domain]["value"] == pytest.approx(share, abs=0.02)
        else:
            assert plain["L_90"][domain]["reason"] == "low base"
    contained = _arm(content, f"npo-retain-{SELECTED:g}-cybersecurity-0")
    retained, held_out = PLANTED_RECOVERY[SELECTED]
    assert contained["retain"] == list(RETAINED)
    assert contained["recovery"]["retained"]["value"] == pytest.approx(retained, abs=0.03)
    assert contained["recovery"]["held_out"]["value"] == pytest.approx(held_out, abs=0.03)
    assert plain["recovery"] == {"retained": None, "held_out": None}


def test_base_and_arms_have_the_same_behaviour_keys(content):
    for part in (content["base"], *content["arms"]):
        for name in ("refusal_rate", "answer_rate", "other_mass", "margin"):
            assert set(part[name]) == set(DOMAINS)
        assert set(part["benign_refusal_rate"]) == {"twin", "general"}
    assert content["base"]["refusal_rate"]["safety"]["value"] > 0.85


def test_degenerate_unreached_and_unfinished_arms_are_listed_and_not_imputed(content):
    degenerate = _arm(content, "npo-safety-0")
    assert degenerate["collapsed"] and degenerate["reached"]
    assert degenerate["other_mass"]["safety"]["value"] > 0.5
    short = _arm(content, "npo-retain-100-cybersecurity-0")
    assert not short["reached"] and not short["collapsed"]
    assert short["L_90"]["safety"]["value"] is None and short["L_50"]["safety"]["value"] is not None
    assert short["recovery"]["retained"]["value"] is None
    # Against a degenerate plain arm nothing is recovered, whatever the contained one does.
    against = _arm(content, f"npo-retain-{SELECTED:g}-safety-0")["recovery"]["held_out"]
    assert against["value"] is None and "plain arm" in against["reason"]
    assert content["unfinished"] == ["npo-retain-1-safety-0"]


def test_geometry_is_nested_and_undefined_angles_are_null(content):
    rotation = _arm(content, "npo-cybersecurity-0")["rotation_degrees"]
    assert set(rotation) == set(DOMAINS) and set(rotation["bias"]) == {"0", "1", "2", "3"}
    assert rotation["sensitive"]["0"]["value"] is None
    assert rotation["cybersecurity"]["3"]["low"] > 10
    assert content["cosine_similarity"]["2"]["bias"]["bias"]["value"] == 1


def test_tables_are_rebuilt_from_the_arms_to_the_same_bytes(run):
    names = ["arms", "behaviour", "leakage", "recovery", "rotation", "cosine"]
    before = {name: (run / f"{name}.csv").read_bytes() for name in names}
    for name in names:
        (run / f"{name}.csv").unlink()
    summary.write_summary(run)
    assert {name: (run / f"{name}.csv").read_bytes() for name in names} == before
    leakage = pd.read_csv(run / "leakage.csv")
    assert set(leakage["role"]) == {"target", "off_target", "retained", "held_out"}


def test_the_headline_is_the_chosen_weight_of_the_first_seed(run):
    first, second = headlines(read_run(run))
    assert (first.concept, second.concept) == ("cybersecurity", "safety")
    assert first.contained is not None and first.contained.retain_weight == SELECTED
    assert first.chosen and [arm.retain_weight for arm in first.sweep] == [1, 10, 30, 100]
    assert len(second.sweep) == 3  # one has not finished


def test_a_retained_arm_is_compared_with_the_plain_arm_of_its_settings(run):
    """Of a grid of settings, not with the first plain arm."""
    record = read_run(run)
    shown = headlines(record)[0]
    settings = TrainingSettings(learning_rate=1e-5).described()

    def trained(arm, name, **training):
        return replace(arm, name=name, config={**arm.config, "training": settings | training})

    other = trained(shown.plain, "other", learning_rate=1e-4)
    same = trained(shown.plain, "same")
    of_retaining = {"retain_weight": 3.0, "retain_objective": "kl", "adaptive": True}
    own = trained(shown.contained, "own", **of_retaining, micro_batch_size=8)
    grid = replace(record, arms=(other, same, own))
    assert grid.plain_of(own) is same
    assert headlines(grid)[0].plain is other and not headlines(grid)[0].sweep
    assert replace(grid, arms=(other, own)).plain_of(own) is None
    assert set(OF_RETAINING) <= {one.name for one in fields(TrainingSettings)}


def test_some_arms_are_read_while_others_are_remade(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    whole = {arm.name: arm for arm in read_run(run).arms}
    kept, other = sorted(whole)[:2]
    (run / "arms" / other / "scores.parquet").write_bytes(b"half of a file")
    [found] = read_run(run, only=[kept]).arms
    assert found.scores.equals(whole[kept].scores)
    with pytest.raises(InputError, match=other):
        read_run(run)


def test_a_comparison_has_drops_and_no_forgetting_level(tmp_path):
    content = summary.summarise(summary.write_summary(write_comparison(tmp_path)))
    (arm,) = content["arms"]
    assert arm["reached"] is None and arm["collapsed"] is None and arm["L_90"] == {}
    assert arm["refusal_rate"]["safety"]["value"] < 0.2


def test_two_points_are_no_curve(tmp_path):
    built = tables.Run(write_comparison(tmp_path, concept="safety"))
    content = summary.summarise(built)["arms"][0]
    assert content["L_90"]["privacy"]["reason"] == "no curve: scored at 2 steps only"
    assert content["outcome"] == "forgotten" and built.curves.empty
    assert wording.arm_sentence(built, built.record.arms[0]).startswith("The target complied")


def test_a_folder_without_base_scores_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="base model"):
        summary.write_summary(tmp_path)


def test_near_duplicates_marked_in_the_prompts_are_drawn_together(tmp_path):
    folder = write_comparison(tmp_path)
    alone = tables.Run(folder).leakage.set_index(["quantity", "domain"])
    prompts = pd.read_parquet(folder / "prompts.parquet")
    prompts["group"] = prompts["id"].str.slice(0, -1)  # ten prompts a group
    prompts.to_parquet(folder / "prompts.parquet")
    grouped = tables.Run(folder).leakage.set_index(["quantity", "domain"])
    key = ("log_odds_drop", "safety")
    assert grouped.loc[key, "value"] == pytest.approx(alone.loc[key, "value"])
    assert not math.isclose(grouped.loc[key, "low"], alone.loc[key, "low"])


def test_copies_of_a_text_are_one_unit_in_a_direction(tmp_path):
    pairs = {"pair": ["a", "a", None, None, None], "prompt": ["One.", "Two.", " Two. ", "x", "y"]}
    units = linked_units(pd.DataFrame(pairs))
    assert len(set(units[:3])) == 1 and len(set(units)) == 3
    assert len(set(linked_units(pd.DataFrame({"id": range(4)})))) == 4


def test_a_run_without_its_prompts_is_not_read_as_one_without_near_duplicates(tmp_path):
    folder = write_comparison(tmp_path)
    (folder / "prompts.parquet").unlink()
    with pytest.raises(FileError, match=r"prompts\.parquet is missing; restore"):
        tables.Run(folder)
