"""The leakage matrix over workers, the forecast, the tournament: on organisms."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyses.matrix import rescaling
from analyses.matrix.output import write_rescaled
from analyses.matrix.rescaling import rescaled, rescaling_agreement
from analyses.options import ModelOptions
from analyses.predict import (
    Evidence,
    LeakageOutcome,
    at_depth,
    forecast_figure,
    forecasts,
    read_choices,
    run_tournament,
    tournament_figure,
)
from analyses.predict.accuracy import PARTS
from analyses.predict.figures import cells_table
from analyses.predict.forecasts import Forecast
from analyses.predict.products import Kernel
from analyses.predict.tournaments import choose_on, choose_set, hash_of, report_tournament
from analyses.predict.world import (
    PredictedRun,
    load_worlds,
    read_worlds,
    seen_organisms,
    write_worlds,
)
from analyses.report import run_report
from analyses.runs import LeakageMatrix
from analyses.study import readout, study_plan
from analyses.training_options import TrainingOptions
from interp.errors import InputError
from interp.store import write_json
from tests.conftest import Spillover
from tests.synthetic_run import write_run
from unlearning.organism import RECIPES, load_world, shipped
from unlearning.refusal import find_prefixes

pytestmark = pytest.mark.usefixtures("without_pictures")
ROOT = Path(__file__).parents[1]
SOURCES = ("safety", "bias", "privacy")


def asked(out: Path, prompts: Path, sources: Sequence[str] = SOURCES) -> list[str]:
    concepts = [part for source in sources for part in ("--concept", source)]
    options = ["--seeds", "1", "--no-control", "--no-gate", "--no-timing"]
    options += ["--out", str(out), "--prompts", str(prompts)]
    return ["matrix", str(shipped()), *options, *concepts]


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_world: Path) -> Path:
    """Three sources, two workers, one of which is killed as soon as it has begun an arm."""
    out = tmp_path_factory.mktemp("matrix") / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.quick", *asked(out, small_world), "--workers", "2"]
    with (
        (out.parent / "said.txt").open("w") as said,
        subprocess.Popen(command, env=environment, cwd=ROOT, stderr=said) as process,
    ):
        while process.poll() is None and len(list(out.glob("arms/*/BEGUN"))) < 3:
            time.sleep(0.1)
        if process.poll() is None:
            os.kill(children_of(process.pid)[-1], signal.SIGKILL)
        assert process.wait(timeout=600) == 0
    return out


@pytest.mark.slow
def test_a_lost_worker_costs_nothing_that_was_finished(run: Path) -> None:
    found = json.loads((run / "matrix.json").read_text(encoding="utf-8"))["runs"]["run"]
    npo = found["objectives"]["npo"]
    matrix = pd.DataFrame(npo["matrix"], found["domains"], found["domains"])
    assert matrix.loc[list(SOURCES)].notna().sum(axis=1).eq(6).all()
    assert not found["left_out"] and npo["reliability"] is None
    assert npo["decomposition"]["noise"] is None
    assert {"matrix.svg", "matrix.png", "matrix.csv"} <= {
        p.name for p in (run / "figures").iterdir()
    }
    cells = pd.read_csv(run / "matrix.csv")
    assert len(cells) == 18 and (cells["source"] != cells["target"]).all()
    # The lines of every arm's training are shown, whichever process it is trained in.
    said = (run.parent / "said.txt").read_text(encoding="utf-8")
    assert all(f"{name}-npo-seed0: step " in said for name in SOURCES)
    assert all(f": done ({number} of 3)" in said for number in (1, 2, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_workers_give_what_one_process_gives(
    run: Path, small_world: Path, spillover: Spillover, tmp_path: Path
) -> None:
    # The base model is read before there are workers.
    shutil.copytree(run / "arms" / "base", tmp_path / "run" / "arms" / "base")
    code, _, error = spillover(*asked(tmp_path / "run", small_world, ["safety"]))
    assert code == 0, error
    one, other = (LeakageMatrix.load([path]).cells for path in (run, tmp_path / "run"))
    one = one[one["source"] == "safety"].reset_index(drop=True)
    assert len(other) == 6
    pd.testing.assert_frame_equal(one, other, atol=1e-6)


@pytest.mark.slow
def test_the_scaled_change_has_the_arms_own_scores_at_its_end(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it says of leakage is read from scores of its own, which are kept."""
    monkeypatch.setattr(rescaling, "SCALES", (0.25, 0.5, 0.75, 1.0, 1.25))
    trained = LeakageMatrix.load([run])
    along = rescaled(run)
    for arm in along.runs["run"].record.arms:
        own = next(a for a in trained.runs["run"].record.arms if a.name == arm.name)
        assert (arm.step, own.step != arm.step) == (1000, True)
        one, other = (a.last.set_index("prompt_id")["p_R"] for a in (arm, own))
        assert len(one) == len(other) and (one - other).abs().max() < 1e-4
        between = arm.scores[~arm.scores["step"].isin([0, arm.step])]
        assert len(between) and between[["refused", "class"]].isna().all(axis=None)
    assert len(along.cells) == len(trained.cells) and along.cells["area"].notna().all()
    told = rescaling_agreement(along, trained)
    assert told["n"] == 18 and told["largest"] >= abs(told["mean"])
    assert rescaling_agreement(trained, trained) == {
        "n": 18, "correlation": pytest.approx(1), "mean": 0, "spread": 0, "largest": 0
    }  # fmt: skip
    file = run / "arms" / along.cells["arm"][0] / "rescaled.parquet"
    before = file.stat().st_mtime_ns
    said = write_rescaled(rescaled(run), trained, run)
    assert file.stat().st_mtime_ns == before and "correlation" in said
    assert (run / "matrix-rescaled.csv").is_file() and (
        run / "figures/matrix-rescaled.svg"
    ).is_file()


def test_a_model_organism_that_the_choices_were_made_on_is_known_by_its_seed(
    tmp_path: Path,
) -> None:
    for recipe in RECIPES:
        write_json(tmp_path / recipe / "config.json", {"model": str(shipped(recipe))})
    assert seen_organisms([tmp_path / one for one in RECIPES], read_choices()) == ["ungated"]


@pytest.mark.slow
def test_a_run_is_a_world_for_the_tournament(run: Path, spillover: Spillover) -> None:
    [world] = load_worlds(LeakageMatrix.load([run]))
    assert world.layers == 5 and np.isnan(world.reliability)
    for matrix in world.predictions.values():
        assert matrix.shape == (7, 7)
    kernel = world.predictions["objective kernel", "Adam, relative"]
    np.testing.assert_allclose(np.diag(kernel), 1.0)
    code, text, _ = spillover("tournament", run, "--choose", "choices.json", "--out", "out")
    assert code == 0 and hash_of(read_choices("choices.json")) in text
    code, _, said = spillover("tournament", run, "--choices", "choices.json", "--out", "out")
    assert code == 2 and "the choices were made on these models" in said
    code, _, said = spillover("tournament", run, "--choices", run / "matrix.csv", "--out", "out")
    assert code == 2 and "is not JSON" in said
    code, text, said = spillover("tournament", run, "--out", "out")  # the shipped choices
    assert code == 0 and "not evidence" not in said, "they were made on other worlds"
    found = json.loads(Path("out/tournament.json").read_text(encoding="utf-8"))
    assert found["worlds"] == ["run"] and found["choices_hash"] == hash_of(read_choices())
    assert {row["predictor"] for row in found["predictors"]} >= {"margin kernel", "TF-IDF"}
    assert Path("out/tournament.svg").is_file() and Path("out/cells.svg").is_file()
    cells = pd.read_csv("out/cells.csv")
    assert len(cells) == 18 * len(found["predictors"])
    leaked = LeakageMatrix.load([run]).cells.set_index(["source", "target"])["area"]
    for cell in cells[cells["predictor"] == "margin kernel"].itertuples():
        assert cell.leaked == pytest.approx(leaked[cell.source, cell.target], abs=1e-6)
    code, text, _ = spillover("tournament", "out/worlds.parquet", "--out", "again")
    assert code == 0
    again = json.loads(Path("again/tournament.json").read_text(encoding="utf-8"))
    one, other = (
        {row["predictor"]: row["all_pairs"]["value"] for row in result["predictors"]}
        for result in (found, again)
    )
    assert one == pytest.approx(other, nan_ok=True)


def test_a_planned_tournament_names_its_worlds_and_refuses_those_chosen_on(
    spillover: Spillover, tmp_path: Path
) -> None:
    code, _, plan = spillover("tournament", "--dry-run")
    assert code == 0 and "models: 12 (" in plan and not (tmp_path / "runs").exists()
    chosen = read_choices()
    chosen["worlds"] = [*chosen["worlds"], "run-204"]
    (tmp_path / "choices.json").write_text(json.dumps(chosen), encoding="utf-8")
    for more in ([], ["--dry-run"]):
        code, _, said = spillover("tournament", "--choices", "choices.json", *more)
        assert (code, said.startswith("error: run-204: the choices")) == (2, True)


def test_a_world_counts_once(spillover: Spillover, tmp_path: Path) -> None:
    """A table and a copy of it, or a table and the folder of one of its runs."""
    rng = np.random.default_rng(8)
    write_worlds([planted_world(rng, f"world-{i}", 0.5) for i in range(3)], tmp_path / "a.parquet")
    shutil.copy(tmp_path / "a.parquet", tmp_path / "b.parquet")
    write_run(tmp_path / "world-1", concepts=("safety",), weights=())
    for again in ("b.parquet", "world-1"):
        for more in ([], ["--dry-run"], ["--choose", "choices.json"]):
            code, _, said = spillover("tournament", "a.parquet", again, *more)
            assert code == 2 and "world-1" in said and "give each once" in said
    assert not (tmp_path / "choices.json").exists() and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_forecast_is_made_without_training(
    spillover: Spillover, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = load_world(shipped()).prompts(train=20, validation=4, test=4)
    table.to_json("prompts.jsonl", orient="records", lines=True)
    command = ["predict", shipped(), "--concept", "safety", "--prompts", "prompts.jsonl"]
    command.append("--no-timing")
    code, text, said = spillover(*command, "--out", "out")
    assert code == 0 and "Most exposed" in text and "should comply" in text
    assert "gradients: refusals of safety" in said and "log-odds of privacy" in said
    assert "refusals of privacy" not in said  # only the target's refusals are differentiated
    found = json.loads(Path("out/forecast.json").read_text(encoding="utf-8"))
    assert len(found["leakage"]) == 6
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["leakage"])
    assert not list(Path("out/arms").glob("safety*"))
    # The frozen choice of this predictor is the kernel that a forecast is made of.
    predictors = pd.read_csv("out/predictors.csv").set_index(["predictor", "domain"])["value"]
    ranked = predictors["objective kernel"].to_dict()
    assert Path("out/forecast.svg").is_file()
    told = pd.read_parquet("out/prompts.parquet")
    assert list(told["id"]) == list(table["id"]) and told["log_odds"].notna().all()
    refused = told["log_odds"] > 0
    assert told.loc[refused, ["flip_50", "flip_90"]].stack().between(0, 1).all()
    assert told.loc[~refused, "flip_90"].isna().all()
    trained = told[(told["split"] == "train") & (told["label"] == "harmful")]
    means = trained.groupby("domain")["forecast"].mean()
    for row in found["leakage"]:  # a domain's forecast is the mean of its prompts' forecasts
        assert means[row["domain"]] == pytest.approx(row["value"], abs=0.05)
    assert means["safety"] == pytest.approx(1, abs=0.15)
    assert "refused prompts outside safety" in text and "log-odds of training prompts" in said
    page = run_report.write_report(Path("out")).read_text(encoding="utf-8")
    assert "Prompts most at risk" in page
    code, text, _ = spillover(*command, "--out", "out", "--kernel", "weights")
    assert "Single prompts have no forecast: --kernel weights keeps no gradient" in text
    assert "forecast" not in pd.read_parquet("out/prompts.parquet")
    other = json.loads(Path("out/forecast.json").read_text(encoding="utf-8"))
    assert code == 0 and other["kernel"] == "weights"
    one, two = ({row["domain"]: row["value"] for row in f["leakage"]} for f in (found, other))
    assert one == pytest.approx(ranked)
    assert np.corrcoef([one[d] for d in one], [two[d] for d in one])[0, 1] > 0.9
    assert two == pytest.approx(one, abs=0.3)  # the same weights, without Adam's diagonal
    kinds = set(pd.read_csv("out/predictors.csv")["kind"])
    assert "geometry" in kinds and "kernel" not in kinds
    for more, expected in (
        (["--kernel", "adapters"], "--trainable lora"),
        (["--objective", "rmu"], "rmu does not"),
        (["--retain", "equal"], "without a retain set"),
    ):
        code, _, said = spillover(*command, "--out", "out", *more)
        assert code == 2 and expected in said
    # Without log-odds, the likelihood of refusals ranks the domains as these log-odds do.
    monkeypatch.setattr(readout, "find_prefixes", lambda *_, **__: find_prefixes([[7]], [[7]]))
    shutil.copytree("out/cache", "text/cache")
    code, text, said = spillover(*command, "--out", "text")
    assert code == 0, said
    by_text = json.loads(Path("text/forecast.json").read_text(encoding="utf-8"))
    assert (found["readout"], by_text["readout"]) == ("log-odds", "likelihood of refusals")
    assert found["compliance"] and by_text["compliance"] is None
    for said in ("no refusal log-odds", "is not forecast", "left out", "decision angle", "ranks"):
        assert said in text
    assert all(row["low"] <= row["value"] <= row["high"] for row in by_text["leakage"])
    two = {row["domain"]: row["value"] for row in by_text["leakage"]}
    assert np.corrcoef([one[d] for d in one], [two[d] for d in one])[0, 1] > 0.7
    left = pd.read_csv("text/predictors.csv").set_index(["predictor", "domain"])["value"]
    needed = {"margin kernel", "decision angle", "base margin"}
    assert set(predictors.index.unique(0)) - set(left.index.unique(0)) == needed
    assert Path("text/forecast.svg").is_file()


def evidence_with(kernel: Kernel, masses: Mapping[str, np.ndarray], domains: str) -> Evidence:
    """Evidence that has this kernel of adapters; ``masses``: p_C and p_O by prompt."""
    ids = [f"prompt {i:02d}" for i in range(len(masses["p_C"]))]
    rows = pd.DataFrame({"id": ids, "prompt": ids})
    chat = SimpleNamespace(encode=lambda prompt: prompt)
    found = SimpleNamespace(
        domains=tuple(domains), grouped=tuple(domains), contrasted=tuple(domains),
        require_target=lambda _domain: None,
        objective_kernel_of_adapters=kernel, prefixes=object(), batch_size=8,
        lm=SimpleNamespace(chat=chat, n_layers=3), harmful=dict.fromkeys(domains, rows),
    )  # fmt: skip
    return cast(Evidence, found)


def forecast_from(
    monkeypatch: pytest.MonkeyPatch,
    kernel: Kernel,
    concept: str,
    few: Mapping[str, object] = MappingProxyType({}),
    groups: Sequence[str] = (),
    **masses: Sequence[float],
) -> Forecast:
    given = {name: np.array(masses.get(name, [0.3, 0.2])) for name in ("p_C", "p_O")}
    seen = SimpleNamespace(**given)
    monkeypatch.setattr(forecasts, "prefix_masses", lambda *_arguments, **_keywords: seen)
    evidence = evidence_with(kernel, given, "abcd")
    for rows in evidence.harmful.values() if groups else ():
        rows["group"] = groups
    vars(evidence).update(few)
    nothing = {"choices": {}, "layers": 3}
    return forecasts.forecast(evidence, concept, nothing, seed=0, over="adapters")


def test_a_forecast_is_its_source_s_row_of_the_kernel_with_both_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is unlearned divides by its own K[a,a]; nothing of another source's row enters."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 3.0, (4, 4))
    groups = values + 0.05 * rng.normal(size=(forecasts.GROUPS, 4, 4))
    kernel = Kernel(values, np.full((4, 4), 0.05), groups)
    relative, student = kernel.relative(), stats.t.ppf(0.975, forecasts.GROUPS - 1)
    beyond = 1.96 * forecasts.BEYOND_FIRST_STEP["adapters"]
    for row, concept in enumerate("abcd"):
        found = forecast_from(monkeypatch, kernel, concept).leakage.set_index("domain")
        assert list(found["value"]) == sorted(found["value"], reverse=True)
        assert set(found.index) == set("abcd") - {concept}
        for column, domain in enumerate("abcd"):
            if domain != concept:
                value = values[row, column] / values[row, row]
                error = relative.standard_error[row, column]
                half = np.hypot(student * error, beyond)
                assert found.loc[domain, ["value", "error", "low", "high"]].to_list() == (
                    pytest.approx([value, error, value - half, value + half], rel=1e-4)
                )


def test_domains_without_a_forecast_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.ones((4, 4))
    values[:, 3] = np.nan
    kernel = Kernel(values, np.full((4, 4), 0.05), np.stack([values] * 4))
    few = {"grouped": ("a", "b", "c"), "contrasted": ("a", "b")}
    found = forecast_from(monkeypatch, kernel, "a", few)
    assert list(found.leakage["domain"]) == ["b", "c", "d"]
    assert found.leakage["value"].isna().tolist() == [False, False, True]
    said = " ".join(found.sentences())
    assert "Most exposed: b" in said
    assert "Without a forecast, for too few harmful training prompts: d." in said
    assert "for too few harmful or benign training prompts: c, d." in said
    values[:, 1:] = np.nan
    alone = forecast_from(monkeypatch, kernel, "a", {"grouped": ("a",)})
    assert alone.sentences()[0].startswith("All other domains have too few harmful training")


def test_the_share_of_compliance_is_that_of_all_prompts_mass_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt that nearly always refuses says little of what the others would turn to."""
    kernel = Kernel(np.eye(4), np.zeros((4, 4)), np.stack([np.eye(4)] * 4))
    found = forecast_from(monkeypatch, kernel, "a", p_C=[0.001, 0.6, 0.2], p_O=[0.009, 0.2, 0.2])
    share = found.compliance
    assert share["value"] == pytest.approx(0.801 / 1.21)
    assert np.isnan([share["low"], share["high"]]).all()
    assert "0.66 (too few prompts for an interval)" in " ".join(found.sentences())
    forecast_figure(found)
    alike = forecast_from(monkeypatch, kernel, "a", p_C=[0.3] * 5, p_O=[0.1] * 5).compliance
    assert alike == pytest.approx({"value": 0.75, "low": 0.75, "high": 0.75})


def test_near_duplicates_do_not_narrow_the_interval_of_compliance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel(np.eye(4), np.zeros((4, 4)), np.stack([np.eye(4)] * 4))
    rng = np.random.default_rng(3)
    masses = {name: rng.uniform(0.1, 0.4, 12).tolist() for name in ("p_C", "p_O")}
    single = forecast_from(monkeypatch, kernel, "a", **masses).compliance
    assert 0 < single["low"] < single["value"] < single["high"] < 1
    twice = {name: [*values, *values] for name, values in masses.items()}
    groups = [f"{number:02d}" for number in (*range(12), *range(12))]
    doubled = forecast_from(monkeypatch, kernel, "a", groups=groups, **twice).compliance
    assert doubled == pytest.approx(single)
    assert forecast_from(monkeypatch, kernel, "a", **twice).compliance["low"] > single["low"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--retain", "equal"), "matrix trains plain arms only"),
        (("--engine", "cloud"), "unknown engine cloud"),
        (("--objective", "npo,nonsuch"), "nonsuch"),
        (("--concept", "nonsuch"), 'unknown concept "nonsuch"'),
    ],
)
def test_what_cannot_be_a_matrix_is_one_line(
    spillover: Spillover, arguments: tuple[str, ...], expected: str
) -> None:
    code, out, said = spillover("matrix", shipped(), "--out", "out", *arguments)
    assert (code, out) == (2, "") and expected in said.splitlines()[-1]


def test_an_unknown_kernel_is_named_before_anything_is_read(spillover: Spillover) -> None:
    code, out, said = spillover("predict", shipped(), "--concept", "bias", "--kernel", "lora")
    assert (code, out) == (2, "")
    assert 'unknown kernel "lora"; expected one of trainable, adapters, weights' in said


def test_every_objective_and_seed_gets_its_arm() -> None:
    asked = study_plan(
        str(shipped()), None, TrainingOptions(), ModelOptions(), None, None,
        seeds=range(2), control=True, objectives=("npo", "sim_npo"),
    )  # fmt: skip
    names = [arm.name for arm in asked.arms]
    assert len(set(names)) == len(names) == 7 * 2 * 2 + 2  # and a control for each seed
    assert {"safety-npo-seed0", "bias-sim_npo-seed1", "control-seed1"} <= set(names)


def test_a_layer_stands_for_its_depth() -> None:
    assert at_depth("k = 8, layer 2", 3, 32) == "k = 8, layer 31"
    assert at_depth("layer 1", 3, 33) == "layer 16"
    assert at_depth("Adam, relative", 3, 32) == "Adam, relative"


def test_worlds_of_another_depth_are_read_at_the_same_relative_layer() -> None:
    rng = np.random.default_rng(5)
    shallow = [planted_world(rng, f"world-{i}", noise=0.5) for i in range(3)]
    frozen = frozen_on(["development"], good="layer 2", noise="")

    def with_layers(count: int) -> list[PredictedRun]:
        """The good prediction is that of the last layer, and noise that of all others."""
        names = [("good", f"layer {layer}") for layer in range(count)]
        return [
            replace(
                one,
                layers=count,
                predictions=dict.fromkeys(names, one.predictions["noise", ""])
                | {names[-1]: one.predictions["good", ""]}
                | {("noise", ""): one.predictions["noise", ""]},
            )
            for one in shallow
        ]

    three, five = with_layers(3), with_layers(5)
    expected = run_tournament(three, frozen)
    assert run_tournament(five, frozen) == expected
    assert run_tournament([three[0], *five[1:]], frozen) == expected
    assert cells_table(five, expected).equals(cells_table(three, expected))


def test_pairs_without_a_prediction_are_counted(tmp_path: Path) -> None:
    kernel = "objective kernel"
    worlds = [planted_world(np.random.default_rng(9), f"world-{i}", 0.5) for i in range(2)]
    worlds = [
        replace(w, predictions={(kernel, ""): w.predictions["good", ""]}, kinds={kernel: "kernel"})
        for w in worlds
    ]
    frozen = frozen_on(["development"], **{kernel: ""})
    _, said = report_tournament(worlds, frozen, tmp_path, seed=0)
    assert "without a prediction" not in said
    worlds[0].predictions[kernel, ""][:, 2] = np.nan
    _, said = report_tournament(worlds, frozen, tmp_path, seed=0)
    assert "pairs without a prediction, which count as its mean: objective kernel 6\n" in said


def test_variants_are_chosen_on_models_of_one_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    worlds = [planted_world(rng, "world-0", 0.5), replace(planted_world(rng, "b", 0.5), layers=5)]
    with pytest.raises(InputError, match="3, 5 layers.*models of one depth"):
        choose_on(worlds, tmp_path / "choices.json", seed=0)


def frozen_on(worlds: list[str], **choices: str) -> dict[str, object]:
    return {"worlds": worlds, "layers": 3, "choices": choices, "joint": list(choices)}


def planted_world(rng: np.random.Generator, name: str, noise: float) -> PredictedRun:
    leakage = rng.normal(size=(7, 7))
    np.fill_diagonal(leakage, np.nan)
    predictions = {
        ("good", ""): leakage + noise * rng.normal(size=(7, 7)),
        ("noise", ""): rng.normal(size=(7, 7)),
    }
    kinds = {"good": "kernel", "noise": "trivial"}
    return PredictedRun(
        name, tuple("abcdefg"), LeakageOutcome(leakage), 0.96, predictions, kinds, layers=3
    )


def test_a_table_of_worlds_is_read_as_it_was_written_and_no_cell_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    written, path = [planted_world(rng, name, noise=0.5) for name in "ab"], tmp_path / "worlds"
    write_worlds(written, path)
    for read, world in zip(read_worlds(path), written, strict=True):
        assert list(read.predictions) == list(world.predictions)
        np.testing.assert_allclose(read.outcome.leakage, world.outcome.leakage, rtol=1e-6)
        for key, matrix in world.predictions.items():
            np.testing.assert_allclose(read.predictions[key], matrix, rtol=1e-6)
    table = pd.read_parquet(path)
    pd.concat([table, table.tail(1)]).to_parquet(path)
    with pytest.raises(InputError, match="several values for one cell"):
        read_worlds(path)


def test_the_tournament_ranks_what_was_planted_and_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    worlds = [planted_world(rng, f"world-{i}", noise=0.5) for i in range(12)]
    frozen = frozen_on(["development"], good="", noise="")
    found = run_tournament(worlds, frozen)
    first, second = found["predictors"]
    assert (first["predictor"], second["predictor"]) == ("good", "noise")
    assert first["p"] < 0.01 < second["p"]
    assert found["ceiling"] == pytest.approx(0.96**0.5)
    for part in PARTS:
        assert first[part]["low"] < first[part]["value"] < first[part]["high"]
    together = {row["predictor"]: row for row in found["joint"]["predictors"]}
    for part in ("all_pairs", "entanglement"):
        assert together["good"][part]["p"] < 0.01 < together["noise"][part]["p"]
        assert together["good"][part]["value"] > 0.7
    difference = next(d for d in found["differences"] if d["part"] == "all_pairs")
    assert difference["difference"] > 5 * difference["standard_error"] > 0


def test_the_best_of_each_kind_are_compared_beside_one_another() -> None:
    rng = np.random.default_rng(2)
    worlds = [planted_world(rng, f"world-{i}", noise=0.5) for i in range(4)]
    assert choose_set(worlds, {"good": "", "noise": ""}) == ["good", "noise"]
    assert hash_of(frozen_on(["w"], good="")) != hash_of(frozen_on(["w"], good="", noise=""))


def test_too_few_cells_for_a_joint_regression_are_said_not_computed() -> None:
    rng = np.random.default_rng(3)
    world = planted_world(rng, "world", noise=0.5)
    leakage = world.outcome.leakage.copy()
    leakage[1:] = np.nan
    lone = replace(world, outcome=LeakageOutcome(leakage))
    found = run_tournament([lone], frozen_on(["development"], good="", noise=""))
    assert found["joint"]["predictors"] == [] and "unlearn more" in found["joint"]["why"]


def test_the_tournament_s_figure_sets_apart_what_no_forecast_can_have() -> None:
    rng = np.random.default_rng(4)
    worlds = [planted_world(rng, f"world-{i}", noise=0.5) for i in range(3)]
    worlds = [
        replace(
            world,
            predictions=world.predictions | {("oracle", ""): world.outcome.leakage},
            kinds=world.kinds | {"oracle": "planted"},
        )
        for world in worlds
    ]
    frozen = frozen_on(["development"], good="", noise="", oracle="") | {"joint": ["good", "noise"]}
    panels = tournament_figure(run_tournament(worlds, frozen)).axes
    assert len(panels) == len(PARTS) + 1
    places = dict(
        zip(
            (label.get_text() for label in panels[0].get_yticklabels()),
            panels[0].get_yticks(),
            strict=True,
        )
    )
    assert places["oracle"] < places["noise"] - 1.5 < places["good"] - 2


def test_worlds_that_chose_are_not_reported() -> None:
    rng = np.random.default_rng(1)
    frozen = frozen_on(["world-1"], good="")
    with pytest.raises(InputError, match="world-1: the choices were made on these models"):
        run_tournament([planted_world(rng, f"world-{i}", 1.0) for i in range(3)], frozen)
