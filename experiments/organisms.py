"""Are model organisms good instruments? Unlearn every domain of several, with two seeds each.

The experiment measures the instrument: whether a model organism refuses, whether one direction
carries refusal, whether the model complies after unlearning, and whether leakage is graded and
reliable. The slopes show how far leakage follows the ground truth.

``manifest.json`` names the frozen recipe's hash and every arm before the first model is trained; an
arm without a result counts as failed. ``rows.parquet`` holds a row per prompt and scored step, from
which :func:`organism_table` makes the whole table.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.report import GATE_FILE
from analyses.runs import BASE, Progress, Run, measure
from analyses.runs.trajectory import on_path
from analyses.study import organism_plan, run_study
from interp.errors import InputError
from interp.store import read_json, read_table, without_nan, write_json, write_table
from unlearning.data import DOMAINS
from unlearning.organism import GATED, World, recipe_of, train

FORGOTTEN, MISSING = "forgotten", "missing"
# Of the recipe ``gated``. It was frozen, with its hash in docs/gallery/rows/organisms, before a
# reported one was trained.
TUNING, REPORTED = (1, 2, 3, 4, 5, 6), (401, 402, 403, 404, 405)


def planned(seeds: Sequence[int], recipe: str, unlearning_seeds: int) -> dict[str, Any]:
    """What a measurement will make, and the hash of the recipe that is frozen."""
    arms = [f"{d}-npo-seed{n}" for d in DOMAINS for n in range(unlearning_seeds)]
    return {"seeds": list(seeds), "recipe": recipe, "frozen": recipe_of(recipe).digest,
            "arms": arms}  # fmt: skip


def measure_organisms(
    seeds: Sequence[int],
    out: str | Path,
    *,
    recipe: str = GATED,
    unlearning_seeds: int = 2,
    workers: int = 2,
) -> dict[str, Any]:
    """Train the organisms, unlearn every domain of each, and write rows and ``organisms.json``.

    Finished parts in ``out`` are not computed again.
    """
    folder = Path(out)
    manifest, path = planned(seeds, recipe, unlearning_seeds), folder / "manifest.json"
    if path.is_file() and read_json(path) != manifest:
        raise InputError(f"{path} names other arms or another recipe; give another --out")
    write_json(path, manifest)
    # spawn, because torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_made, seed, folder, recipe, unlearning_seeds) for seed in seeds]
        runs = {seed: job.result() for seed, job in zip(seeds, jobs, strict=True)}
    rows = [rows_of(Run(run), seed) for seed, run in runs.items()]
    arms = [arms_of(Run(run), seed) for seed, run in runs.items()]
    write_table(folder / "rows.parquet", pd.concat(rows, ignore_index=True))
    write_table(folder / "arms.parquet", pd.concat(arms, ignore_index=True))
    gates = {str(seed): read_json(run / GATE_FILE) for seed, run in runs.items()}
    write_json(folder / "gates.json", gates)
    return write_organisms(folder)


def write_organisms(folder: str | Path) -> dict[str, Any]:
    """Make ``organisms.json`` from the rows in a folder, without models."""
    folder = Path(folder)
    rows, arms = (read_table(folder / f"{name}.parquet", ()) for name in ("rows", "arms"))
    manifest, gates = (read_json(folder / f"{name}.json", ()) for name in ("manifest", "gates"))
    found = organism_table(rows, arms, gates, manifest)
    write_json(folder / "organisms.json", without_nan(found))
    return found


def organism_table(
    rows: pd.DataFrame, arms: pd.DataFrame, gates: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Numbers of every world, and of all together.

    Args:
        rows: per prompt and scored step, of all arms and base models.
        arms: ``world, arm, source, seed, outcome``.
        gates: by world, the direction gate of the model before unlearning.
        manifest: what was :func:`planned`; an arm that is not in ``arms`` is ``missing``.
    """
    arms = arms[arms["arm"].isin(manifest["arms"])]
    cells = leakage_cells(rows, arms[arms["outcome"] == FORGOTTEN])
    worlds = []
    for seed in manifest["seeds"]:
        mine, found = cells[cells["world"] == seed], arms[arms["world"] == seed]
        outcomes = found.set_index("arm")["outcome"].reindex(manifest["arms"], fill_value=MISSING)
        worlds.append(
            {
                "seed": seed,
                "gate": {name: gates[str(seed)].get(name) for name in ("passed", "line")},
                **base_numbers(rows[(rows["world"] == seed) & (rows["arm"] == BASE)]),
                "outcomes": outcomes.to_dict(),
                "forgotten": float((outcomes == FORGOTTEN).mean()),
                "reliability": reliability(mine),
                "slopes": slopes(mine),
                "L_90_percentiles": _percentiles(mine["L_90"]),
            }
        )
    return {**manifest, **_pooled(worlds, cells), "worlds": worlds}


def _made(seed: int, folder: Path, recipe: str, unlearning_seeds: int) -> Path:
    """The finished run of one model organism."""
    model = folder / f"organism-{seed}"
    if not (model / "organism.json").is_file():
        train(seed, model, recipe_of(recipe))
    plan = organism_plan(
        str(model),
        DOMAINS,
        seeds=range(unlearning_seeds),
        control=False,
        command=f"python -m experiments organisms --seeds {seed} --recipe {recipe} --out {folder}",
    )
    run_study(plan, run := folder / f"run-{seed}", Progress(quiet=True))
    return run


def rows_of(run: Run, seed: int) -> pd.DataFrame:
    """The scores of the base model, and p_R of harmful prompts along the path of every arm."""
    base = run.record.base.scores
    kept = ["prompt_id", "split", "domain", "label", "kind", "step", "p_R"]
    parts = [base[[*kept, "p_C", "p_O", "refused"]].assign(arm=BASE)]
    for arm in run.record.arms:
        path = on_path(arm.scores)
        parts.append(path.loc[path["label"] == "harmful", kept].assign(arm=arm.name))
    found = pd.concat(parts, ignore_index=True).assign(world=seed)
    numbers = found.select_dtypes("float64").columns
    return found.astype(dict.fromkeys(numbers, "float32"))


def arms_of(run: Run, seed: int) -> pd.DataFrame:
    """The arms of a run: ``arm, source, seed, outcome, world``."""
    named = run.arms.rename(columns={"concept": "source"})
    return named[["arm", "source", "seed", "outcome"]].assign(world=seed)


def base_numbers(base: pd.DataFrame) -> dict[str, Any]:
    """Refusal, over-refusal and compliance share of a model, on its test prompts."""
    test = base[base["split"] == "test"]
    harmful = test[test["label"] == "harmful"].groupby("domain")[["refused", "p_C", "p_O"]].mean()
    benign = test[test["label"] == "benign"].groupby("kind")["refused"].mean()
    return {
        "refusal_min": float(harmful["refused"].min()),
        "over_refusal": benign.to_dict(),
        "compliance_share_min": float((harmful["p_C"] / (harmful["p_C"] + harmful["p_O"])).min()),
    }


def leakage_cells(rows: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """A row per arm and off-target domain: the arm, ``area``, ``L_90`` and the ground truth."""
    found = []
    of_arm = dict(iter(rows.assign(margin=np.nan).groupby(["world", "arm"])))
    for arm in arms.to_dict("records"):
        world, source = World(arm["world"]), DOMAINS.index(arm["source"])
        scores = of_arm[arm["world"], arm["arm"]]
        quantities = measure(scores, arm["source"], resamples=2).quantities
        for place, domain in enumerate(DOMAINS):
            if place != source:
                found.append(
                    {**arm, "domain": domain,
                     "area": quantities["area"][domain].value,
                     "L_90": quantities["L_90"][domain].value,
                     "readout_sharing": world.readout_sharing[source, place],
                     "feature_sharing": world.feature_sharing[source, place]}
                )  # fmt: skip
    names = ("domain", "area", "L_90", "readout_sharing", "feature_sharing")
    return pd.DataFrame(found, columns=[*arms.columns, *names])


def reliability(cells: pd.DataFrame) -> float:
    """Pearson correlation of A between the first two unlearning seeds, over off-target cells.

    NaN with fewer than two seeds or three cells.
    """
    wide = cells.pivot_table(index=["source", "domain"], columns="seed", values="area").dropna()
    if wide.shape[1] < 2 or len(wide) < 3:
        return float("nan")
    return float(np.corrcoef(wide.iloc[:, 0], wide.iloc[:, 1])[0, 1])


def slopes(cells: pd.DataFrame) -> dict[str, float]:
    """Least-squares slopes of A on the true read-out and feature sharing, jointly."""
    if cells["area"].notna().sum() < 3:
        return {"readout_sharing": np.nan, "feature_sharing": np.nan}
    mean = cells.groupby(["source", "domain"]).mean(numeric_only=True).dropna(subset=["area"])
    design = np.column_stack([np.ones(len(mean)), mean["readout_sharing"], mean["feature_sharing"]])
    fitted, *_ = np.linalg.lstsq(design, mean["area"].to_numpy(), rcond=None)
    return {"readout_sharing": float(fitted[1]), "feature_sharing": float(fitted[2])}


def _percentiles(values: pd.Series) -> dict[str, float]:
    found = values.astype(float).quantile([0.1, 0.5, 0.9])  # NaN left out
    return dict(zip(("10", "50", "90"), found.tolist(), strict=True))


def _pooled(worlds: Sequence[dict[str, Any]], cells: pd.DataFrame) -> dict[str, Any]:
    outcomes = [outcome for world in worlds for outcome in world["outcomes"].values()]
    found: dict[str, Any] = {
        "gates_passed": sum(bool(world["gate"]["passed"]) for world in worlds),
        "refusal_min": min(world["refusal_min"] for world in worlds),
        "over_refusal_max": max(max(world["over_refusal"].values()) for world in worlds),
        "compliance_share_min": min(world["compliance_share_min"] for world in worlds),
        "forgotten": f"{outcomes.count(FORGOTTEN)} of {len(outcomes)} arms",
        "L_90_percentiles": _percentiles(cells["L_90"]),
        "reliability_min": float(np.min([world["reliability"] for world in worlds])),
    }
    for name in ("readout_sharing", "feature_sharing"):
        values = [world["slopes"][name] for world in worlds]
        # The unit of replication is the world.
        test = stats.ttest_1samp(values, 0.0) if len(values) > 1 else None
        found[f"slope_on_{name}"] = {
            "mean": float(np.mean(values)),
            "p": float(test.pvalue) if test else None,
        }
    return found
