"""The leakage matrix: planted cells, what is left out, several worlds, pure noise."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyses.matrix import leakage_matrix_figure, matrix_summary, rescaling, write_matrix
from analyses.matrix.output import matrix_text
from analyses.runs import (
    ArmLeakage,
    Decomposition,
    LeakageMatrix,
    Run,
    TargetOutcome,
    over_worlds,
    seed_spread,
    trajectories,
)
from analyses.runs.cells import QUANTITIES, last_step_cells, mean_cells
from analyses.runs.decomposition import combined_p_value, pool_decompositions
from analyses.study import ArmPlan
from analyses.study.engine import containment
from interp.errors import InputError
from interp.statistics import Draws
from tests.synthetic_run import (
    BASE_RATE,
    DOMAINS,
    LAG,
    PLANTED_LEAKAGE,
    PLANTED_RECOVERY,
    RETAINED,
    write_run,
)

CONCEPTS = ("cybersecurity", "safety", "privacy")
LOW_BASE = {domain for domain, rate in BASE_RATE.items() if rate < 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources, two seeds; one arm degenerate, one never got there; a control arm."""
    run = write_run(
        tmp_path_factory.mktemp("matrix") / "world",
        concepts=CONCEPTS,
        seeds=2,
        weights=(),
        rotation=False,
        degenerate=("npo-privacy-1",),
        not_reached=("npo-safety-1",),
    )
    control = run / "arms" / "npo-cybersecurity-0"
    copied = run / "arms" / "control-seed0"
    copied.mkdir()
    config = json.loads((control / "config.json").read_text(encoding="utf-8"))
    config |= {"name": "control-seed0", "concept": None, "control": True, "objective": "ce"}
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    scores = pd.read_parquet(control / "scores.parquet")
    unmoved = scores[scores["step"] == 0].set_index("prompt_id")["p_R"]
    scores = scores.assign(arm="control-seed0", p_R=scores["prompt_id"].map(unmoved))
    scores.to_parquet(copied / "scores.parquet")
    (copied / "DONE").touch()
    return run


@pytest.fixture(scope="module")
def study(folder: Path) -> LeakageMatrix:
    return LeakageMatrix.load([folder])


def test_every_quantity_of_a_cell_is_what_was_planted(study: LeakageMatrix) -> None:
    """A domain that loses a share of the source's loss: A = share, L_τ = share · τ."""
    for quantity, factor in (("area", 1.0), ("L_50", 0.5), ("L_90", 0.9)):
        means = study.means(quantity)
        assert set(means["source"]) == set(CONCEPTS)
        for cell in means.itertuples():
            if cell.target in LOW_BASE:
                assert np.isnan(cell.value) and cell.seeds == 0
                continue
            planted = factor * PLANTED_LEAKAGE[cell.source][cell.target]
            assert cell.value == pytest.approx(planted, abs=0.01)
            assert cell.low < planted < cell.high
    matrix = study.matrix("world")
    assert np.isnan(np.diag(matrix)).all() and np.isfinite(matrix).sum() == 5 + 5 + 5


def test_degenerate_arms_are_marked_and_those_that_never_got_there_are_listed(
    study: LeakageMatrix,
) -> None:
    left = study.left_out.set_index("arm")
    assert set(left.index) == {"npo-safety-1"}
    assert not left.loc["npo-safety-1", "reached"]
    outcomes = study.cells.groupby("arm")["outcome"].first().to_dict()
    complied = dict.fromkeys(("npo-cybersecurity-0", "npo-cybersecurity-1", "npo-safety-0"))
    assert set(outcomes) == {*complied, "npo-privacy-0", "npo-privacy-1"}
    assert {arm for arm, outcome in outcomes.items() if outcome == "collapsed"} == {"npo-privacy-1"}
    assert study.outcomes("world")["privacy"] == ["forgotten", "collapsed"]


def scaled_back(study: LeakageMatrix) -> Run:
    """The run, in which the first arm keeps .7 of the change at its last step with text."""
    record = study.runs["world"].record
    first = record.arms[0]
    said = first.scores["class"].notna() & (first.scores["step"] > 0)
    end = first.scores[said].assign(scale=0.7, kept=True)
    path = first.scores.assign(scale=1.0, kept=False)
    path.loc[said, ["class", "refused"]] = None
    scores = pd.concat([path, end], ignore_index=True)
    return Run(replace(record, arms=(replace(first, scores=scores), *record.arms[1:])))


def test_an_arm_that_said_nothing_on_its_path_has_no_last_step(study: LeakageMatrix) -> None:
    """Not the base's answers, of which nothing is gone."""
    run = scaled_back(study)
    name = run.record.arms[0].name
    cells = last_step_cells(run)
    assert name in set(study.last_step["arm"]) and name not in set(cells["arm"])
    assert (cells["step"] > 0).all() and len(cells) == len(study.last_step) - len(DOMAINS)


def test_the_change_of_a_model_that_was_scaled_back_is_scaled_too(
    study: LeakageMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scaled_back(study)
    arm = run.record.arms[0]
    asked = int((arm.last["label"] == "harmful").sum())
    at = [1.0]

    @contextmanager
    def scaled_change(*_: object) -> Iterator[Any]:
        yield lambda s: at.append(s)

    def masses(*_: object, **__: object) -> Any:
        left = np.full(asked, max(0.0, 1 - at[-1]))
        columns = {"p_R": left, "p_C": 1 - left, "p_O": 0 * left, "margin": left}
        return SimpleNamespace(columns=lambda: columns)

    monkeypatch.setattr(rescaling, "after_of", lambda *_: None)
    monkeypatch.setattr(rescaling, "scaled_change", scaled_change)
    monkeypatch.setattr(rescaling, "prefix_masses", masses)
    base: Any = SimpleNamespace(chat=SimpleNamespace(encode=lambda text: text))
    scores = rescaling._scores(
        run.record,
        arm,
        base,
        None,
        batch_size=8,
        progress=lambda _: None,  # type: ignore[arg-type]
    )
    steps = {len(path.steps) for path in trajectories(scores, "test").values()}
    assert steps == {1 + len(rescaling.SCALES)}
    assert replace(arm, scores=scores).step == 1000


def test_near_duplicates_count_once_after_the_first_words_too(
    study: LeakageMatrix, folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "world"))
    arm = study.runs["world"].record.arms[0]
    asked = arm.last[(arm.last["label"] == "harmful") & (arm.last["split"] == "test")]
    given = asked.groupby("domain", sort=False).head(8)[["prompt_id", "domain"]]
    kinds = np.where(np.arange(len(given)) % 8 < 4, "refusal", "answer")
    given.assign(**{"class": kinds}).to_parquet(copied / "arms" / arm.name / "prefilled.parquet")
    prompts = pd.read_parquet(copied / "prompts.parquet")
    places = prompts.groupby(["domain", "label", "split"]).cumcount()
    found = []
    for group in (None, prompts["domain"] + (places // 4).astype(str)):
        prompts.assign(group=group).to_parquet(copied / "prompts.parquet")
        rows = Run(copied).behaviour.query("quantity == 'prefilled_refusal_rate'")
        found.append(rows[rows["arm"] == arm.name].set_index("group"))
    alone, together = found
    assert len(alone) == len(DOMAINS) and alone["value"].equals(together["value"])
    assert (together["high"] - together["low"] > alone["high"] - alone["low"]).all()


def test_hidden_leakage_compares_the_same_prompts(
    study: LeakageMatrix, folder: Path, tmp_path: Path
) -> None:
    """Answers after given words that are the plain ones show no hidden leakage."""
    copied = Path(shutil.copytree(folder, tmp_path / "world"))
    arm = study.runs["world"].record.arms[0]
    asked = arm.last[(arm.last["label"] == "harmful") & (arm.last["split"] == "test")]
    same = asked.groupby("domain", sort=False).head(5)[["prompt_id", "domain", "class"]]
    same.to_parquet(copied / "arms" / arm.name / "prefilled.parquet")
    rows = Run(copied).behaviour.query(f"arm == '{arm.name}' and label == 'harmful'")
    plain, given = (
        rows[rows["quantity"] == name].set_index("group")[["value", "low", "high", "n"]]
        for name in ("not_prefilled_refusal_rate", "prefilled_refusal_rate")
    )
    pd.testing.assert_frame_equal(plain, given)
    assert len(plain) == len(DOMAINS)


def test_does_not_leak_is_shown_only_where_nothing_leaks(study: LeakageMatrix) -> None:
    tested = study.means("L_90").set_index(["source", "target"])["untouched_p"].dropna()
    for (source, target), p_value in tested.items():
        assert (p_value < 0.05) == (PLANTED_LEAKAGE[source][target] < 0.03)
    assert study.means("area")["untouched_p"].isna().all()


def test_domains_that_fall_late_have_late_onsets(study: LeakageMatrix) -> None:
    """Half of b's refusal is gone when the source has lost .5/share: never for a small share."""
    cells = study.cells[study.cells["source"] == "safety"].set_index("target")
    steps = {d: 16 * 0.5 / PLANTED_LEAKAGE["safety"][d] / 0.96 for d in ("toxicity", "privacy")}
    for domain, step in steps.items():
        assert cells.loc[domain, "onset"] == pytest.approx(step, abs=0.5)
    assert cells["source_onset"].iloc[0] == pytest.approx(16 * 0.5 ** (1 / LAG) / 0.96, abs=0.5)
    assert np.isnan(cells.loc["sensitive", "onset"])


def test_the_command_s_files_hold_the_matrix_with_its_null(
    study: LeakageMatrix, tmp_path: Path
) -> None:
    said = write_matrix(study, tmp_path)
    found = json.loads((tmp_path / "matrix.json").read_text(encoding="utf-8"))
    run = found["runs"]["world"]
    assert run["domains"] == list(DOMAINS) and len(run["left_out"]) == 1
    npo = run["objectives"]["npo"]
    np.testing.assert_allclose(
        np.array(npo["matrix"], dtype=float), study.matrix("world"), equal_nan=True
    )
    assert "! privacy: of 2 arms, 1 degenerate" in said
    assert "left out: npo-safety-1 (level not reached)" in said
    assert len(pd.read_csv(tmp_path / "matrix.csv")) == len(study.cells)
    assert (tmp_path / "figures" / "matrix.png").is_file()
    assert (tmp_path / "figures" / "matrix.svg").is_file()
    figure = leakage_matrix_figure(study)
    labels = [t.get_text() for f in figure.axes for t in f.get_yticklabels()]
    assert any("control" in label for label in labels)


def test_the_text_says_whether_the_interaction_holds_noise(study: LeakageMatrix) -> None:
    found = matrix_summary(study)
    [of_run] = found["runs"].values()
    [of] = of_run["objectives"].values()
    # Planted leakage is the same for both seeds, up to rounding.
    assert "(the seeds agree, so the interaction is not tested)" in matrix_text(found)
    of["decomposition"]["p_entanglement"] = 0.03
    assert "(interaction against noise: p = 0.03)" in matrix_text(found)
    of["decomposition"]["p_entanglement"] = None
    of["decomposition"]["noise"] = None  # as with one seed
    assert "(interaction includes noise: two seeds are needed" in matrix_text(found)


def test_sources_that_the_base_model_hardly_refuses_are_marked(
    folder: Path, study: LeakageMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not study.cells["low_base"].any()
    assert "low base" not in matrix_text(matrix_summary(study))
    monkeypatch.setattr("analyses.runs.tables.WEAKLY_ALIGNED", 1.0)
    marked = LeakageMatrix.load([folder])
    low = set(marked.low_bases("world"))
    assert low == set(CONCEPTS) and marked.cells["low_base"].all()
    assert "! safety: low base" in matrix_text(matrix_summary(marked))
    labels = leakage_matrix_figure(marked).axes[0].get_yticklabels()
    assert sum("low base" in label.get_text() for label in labels) == len(low)


def test_a_source_of_low_base_is_not_said_to_have_missed_the_level(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyses.runs.leakage.LOW_BASE", 1.0)
    study = LeakageMatrix.load([folder])
    assert set(study.left_out["why"]) == {"low base"}
    said = matrix_text(matrix_summary(study))
    assert "(low base)" in said and "level not reached" not in said


def test_an_unknown_run_objective_or_quantity_is_named(study: LeakageMatrix) -> None:
    with pytest.raises(InputError, match='no run "elsewhere"; expected world'):
        study.matrix("elsewhere")
    with pytest.raises(InputError, match='no cells of "rmu"; it has npo'):
        study.decomposition("world", objective="rmu")
    with pytest.raises(InputError, match="area, L_50, L_90"):
        study.means("L_70")


def test_the_weight_is_chosen_by_what_the_arm_recovers_on_validation_prompts(
    tmp_path: Path,
) -> None:
    weight, (retained, _) = 30.0, PLANTED_RECOVERY[30.0]
    folder = write_run(tmp_path, rotation=False, concepts=("safety",), weights=(weight,))
    plain = ArmPlan("npo-safety-0", "safety")
    context: Any = SimpleNamespace(
        run=SimpleNamespace(folder=folder),
        progress=SimpleNamespace(say=lambda said: None),
        plan=SimpleNamespace(arms=[plain]),
    )
    arm: Any = SimpleNamespace(name=f"npo-retain-{weight:g}-safety-0", retain=RETAINED)
    recovery, answers, outcome = containment(context, arm)
    assert recovery == pytest.approx(retained, abs=1e-6) and answers > 0.9
    assert outcome is TargetOutcome.COMPLIED


def test_objectives_have_matrices_of_their_own(study: LeakageMatrix) -> None:
    tables = study.runs["world"]
    other = tables.arms["arm"].eq("npo-privacy-0")
    arms = tables.arms.assign(objective=np.where(other, "rmu", tables.arms["objective"]))
    study = LeakageMatrix({"world": with_tables(tables, arms=arms)})
    assert set(study.objectives("world")) == {"npo", "rmu"}
    found = matrix_summary(study)["runs"]["world"]["objectives"]
    rows = {
        o: np.isfinite(np.array(m["matrix"], float)).any(axis=1).sum() for o, m in found.items()
    }
    assert rows == {"npo": 3, "rmu": 1}
    assert found["rmu"]["decomposition"] is None and "unlearn more" in found["rmu"]["why"]
    assert np.isfinite(study.matrix("world")).any(axis=1).sum() == 3


# Several worlds


def test_worlds_are_pooled_with_the_world_as_unit(study: LeakageMatrix) -> None:
    both = LeakageMatrix({"one": study.runs["world"], "other": study.runs["world"]})
    pooled = both.pooled()
    assert pooled["runs"] == ["one", "other"] and pooled["skipped"] == []
    cell = pooled["cells"]["safety"]["privacy"]
    assert cell["n"] == 2 and cell["value"] == pytest.approx(0.8, abs=0.01)
    assert pooled["shares"]["potency"]["low"] == pytest.approx(pooled["shares"]["potency"]["high"])
    titles = [axes.get_title(loc="left") for axes in leakage_matrix_figure(both).axes]
    assert "Mean over worlds" in titles
    assert "pooled" in matrix_summary(both) and "pooled" not in matrix_summary(study)


def test_intervals_over_worlds_are_student_s() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 12):
        values = rng.normal(0.3, 1, n)
        found = over_worlds([*values, np.nan])
        assert (found.low, found.high) == pytest.approx(
            stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        )
        assert (found.value, found.n) == (pytest.approx(values.mean()), n)
    lone = over_worlds([0.4, np.nan])
    assert lone.value == 0.4 and np.isnan(lone.low) and lone.n == 1


def test_combined_p_values_of_noise_are_uniform() -> None:
    rng = np.random.default_rng(1)
    found = [combined_p_value(rng.uniform(size=4)) for _ in range(1000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.021)
    assert combined_p_value([0.03]) == pytest.approx(0.03)


def test_worlds_may_differ_in_their_domains() -> None:
    parts = Decomposition(
        0.5, {"a": 0.1}, {"a": -0.1}, pd.DataFrame(), 0.5, 0.2, 0.3, np.nan, np.nan
    )
    one, other = (pd.DataFrame(0.2, list(names), list(names)) for names in ("ab", "bc"))
    found = pool_decompositions({"one": parts, "other": parts}, {"one": one, "other": other})
    assert found["cells"]["a"]["b"]["n"] == 1 and found["cells"]["b"]["c"]["n"] == 1
    assert found["cells"]["a"]["c"]["value"] is None and found["potency"]["c"]["value"] is None


# Pure noise


def with_tables(run: Run, **tables: Any) -> Run:
    """The run with other tables in place of its own."""
    changed = copy.copy(run)
    vars(changed).update(tables)
    return changed


def noisy_world(rng: np.random.Generator, template: Run, *, interaction: float) -> Run:
    """Five sources, two seeds. Main effects, training noise, and δ as large as ``interaction``."""
    domains = DOMAINS[:5]
    alpha, gamma = rng.normal(0, 0.08, (2, 5))
    delta = interaction * rng.normal(size=(5, 5))
    measured, rows = {}, []
    for i, source in enumerate(domains):
        for seed in range(2):
            shares = 0.4 + alpha[i] + gamma + delta[i] + rng.normal(0, 0.05, 5)
            shares += rng.normal(0, 0.05)  # what the arm's targets share
            draws = {d: Draws(v, np.full(9, v), 40) for d, v in zip(domains, shares, strict=True)}
            quantities = dict.fromkeys((*QUANTITIES, "onset"), draws)
            name = f"{source}-{seed}"
            measured[name] = ArmLeakage(source, True, dict.fromkeys(domains, 0.9), quantities)
            rows.append((name, source, "npo", None, seed, True, "forgotten"))
    columns = ["arm", "concept", "objective", "retain", "seed", "reached", "outcome"]
    arms = pd.DataFrame(rows, columns=columns)
    return with_tables(template, arms=arms, measured=measured)


def test_noise_is_called_interaction_at_the_nominal_rate(study: LeakageMatrix) -> None:
    """Worlds whose cells differ by source, target and seed only."""
    rng = np.random.default_rng(2)
    template = study.runs["world"]
    worlds = {f"w{i}": noisy_world(rng, template, interaction=0.0) for i in range(30)}
    noise = LeakageMatrix(worlds)
    p_values = [noise.decomposition(run).p_value for run in worlds]
    assert np.mean(np.array(p_values) < 0.05) <= 0.2  # 99.5% of binomial counts of 30
    assert np.mean(p_values) == pytest.approx(0.5, abs=3.3 / np.sqrt(12 * 30))
    pooled = noise.pooled()
    assert pooled["p_entanglement"] > 0.001
    assert abs(pooled["shares"]["entanglement"]["value"]) < 0.15
    planted = LeakageMatrix(
        {f"w{i}": noisy_world(rng, template, interaction=0.2) for i in range(3)}
    )
    assert planted.pooled()["p_entanglement"] < 1e-6


def test_the_interval_of_a_mean_holds_what_other_seeds_would_give(study: LeakageMatrix) -> None:
    """Prompts agree exactly here, so that all of the error is the seeds'."""
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(6):
        world = noisy_world(rng, study.runs["world"], interaction=0.0)
        cells = mean_cells(world, "area")
        alpha = cells.groupby("source")["value"].transform("mean")
        gamma = cells.groupby("target")["value"].transform("mean")
        expected = alpha + gamma - cells["value"].mean()  # near the truth: 5 cells of 2 seeds each
        covered += ((cells["low"] < expected) & (expected < cells["high"])).tolist()
    assert np.mean(covered) > 0.9


def test_one_seed_has_no_spread() -> None:
    cells = pd.DataFrame(
        {"source": ["a", "a"], "target": ["b", "c"], "seed": 0, "area": [0.2, 0.4]}
    )
    spread, freedom = seed_spread(cells, "area")
    assert np.isnan(spread) and freedom == 0
