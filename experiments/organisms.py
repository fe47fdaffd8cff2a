"""Are model organisms good instruments? Unlearn every domain of several, with two seeds each.

The experiment measures the instrument: whether a model organism refuses, whether it complies after
unlearning, and whether leakage is graded and reliable. The slopes show how far leakage follows the
ground truth.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.runs import Progress, Run
from analyses.study import organism_plan, run_study
from analyses.workbench import direction_gate, load
from interp.store import file_hash, read_json, write_json
from unlearning.data import DOMAINS
from unlearning.organism import recipe_of, shipped, train
from unlearning.organism.recipes import UNGATED


def measure_organisms(
    seeds: Sequence[int],
    out: str | Path,
    *,
    recipe: str = UNGATED,
    unlearning_seeds: int = 2,
    workers: int = 2,
) -> dict[str, Any]:
    """Train the organisms, unlearn every domain of each, and write ``organisms.json``.

    Finished parts in ``out`` are not computed again.
    """
    folder = Path(out)
    # spawn, because torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_one, seed, folder, recipe, unlearning_seeds) for seed in seeds]
        worlds = [job.result() for job in jobs]
    found = {"seeds": list(seeds), "recipe": recipe, **_pooled(worlds), "worlds": worlds}
    write_json(folder / "organisms.json", found)
    return found


def _one(seed: int, folder: Path, recipe: str, unlearning_seeds: int) -> dict[str, Any]:
    model = folder / f"organism-{seed}"
    progress = Progress(quiet=True)
    if not (model / "organism.json").is_file():
        train(seed, model, recipe_of(recipe))
    plan = organism_plan(
        str(model),
        DOMAINS,
        seeds=range(unlearning_seeds),
        control=False,
        command=f"python -m experiments organisms --seeds {seed} --recipe {recipe} --out {folder}",
    )
    run = folder / f"run-{seed}"
    run_study(plan, run, progress)
    return {
        "seed": seed,
        "is_shipped": file_hash(model / "model.safetensors")
        == file_hash(shipped() / "model.safetensors"),
        "gate": direction_gate(load(str(model))).summary(),
        **describe_world(Run(run), read_json(model / "organism.json")["planted"]),
    }


def describe_world(tables: Run, ground_truth: dict[str, Any]) -> dict[str, Any]:
    """Numbers of one model organism: base model, outcome of each source, leakage, slopes."""
    base = tables.behaviour[tables.behaviour["arm"] == "base"]
    rates = base.pivot_table(index=["label", "group"], columns="quantity", values="value")
    harmful, benign = rates.loc["harmful"], rates.loc["benign"]
    compliance = harmful["p_C"] / (harmful["p_C"] + harmful["other_mass"])
    outcomes = tables.arms.set_index("arm")["outcome"]
    cells = leakage_cells(tables, ground_truth)
    return {
        "refusal_min": float(harmful["refusal_rate"].min()),
        "over_refusal": benign["refusal_rate"].to_dict(),
        "compliance_share_min": float(compliance.min()),
        "outcomes": outcomes.to_dict(),
        "forgotten": float((outcomes == "forgotten").mean()),
        "reliability": reliability(cells),
        "slopes": slopes(cells),
        "L_90": cells["L_90"].dropna().tolist(),
    }


def leakage_cells(tables: Run, ground_truth: dict[str, Any]) -> pd.DataFrame:
    """A row per complying arm and off-target domain: A, L_.9 and the ground truth."""
    arms = tables.arms.set_index("arm")
    wide = tables.leakage.pivot_table(
        index=["arm", "domain"], columns="quantity", values="value"
    ).reset_index()
    wide["source"] = wide["arm"].map(arms["concept"])
    wide["seed"] = wide["arm"].map(arms["seed"])
    complied = wide["arm"].map(arms["outcome"]) == "forgotten"
    wide = wide[complied & (wide["domain"] != wide["source"])]
    place = {domain: i for i, domain in enumerate(ground_truth["domains"])}
    for name in ("readout_sharing", "feature_sharing"):
        matrix = np.array(ground_truth[name], dtype=float)
        wide[name] = [
            matrix[place[s], place[t]] for s, t in zip(wide["source"], wide["domain"], strict=True)
        ]
    return wide


def reliability(cells: pd.DataFrame) -> float | None:
    """Pearson correlation of A between the first two unlearning seeds, over off-target cells."""
    wide = cells.pivot_table(index=["source", "domain"], columns="seed", values="area").dropna()
    if wide.shape[1] < 2 or len(wide) < 3:
        return None
    return float(np.corrcoef(wide.iloc[:, 0], wide.iloc[:, 1])[0, 1])


def slopes(cells: pd.DataFrame) -> dict[str, float]:
    """Least-squares slopes of A on the true read-out and feature sharing, jointly."""
    mean = cells.groupby(["source", "domain"]).mean(numeric_only=True).dropna(subset=["area"])
    design = np.column_stack([np.ones(len(mean)), mean["readout_sharing"], mean["feature_sharing"]])
    fitted, *_ = np.linalg.lstsq(design, mean["area"].to_numpy(), rcond=None)
    return {"readout_sharing": float(fitted[1]), "feature_sharing": float(fitted[2])}


def _pooled(worlds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    leaks = np.concatenate([world.pop("L_90") for world in worlds] or [[np.nan]])
    outcomes = [outcome for world in worlds for outcome in world["outcomes"].values()]
    reliable = [world["reliability"] for world in worlds if world["reliability"] is not None]
    found: dict[str, Any] = {
        "gates_passed": sum(world["gate"]["passed"] for world in worlds),
        "refusal_min": min(world["refusal_min"] for world in worlds),
        "over_refusal_max": max(max(world["over_refusal"].values()) for world in worlds),
        "compliance_share_min": min(world["compliance_share_min"] for world in worlds),
        "forgotten": f"{outcomes.count('forgotten')} of {len(outcomes)} arms",
        "L_90_percentiles": dict(
            zip(("10", "50", "90"), np.percentile(leaks, [10, 50, 90]).tolist(), strict=True)
        ),
        "reliability_min": min(reliable, default=None),
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
