"""Which predictor ranks leakage best out of sample: frozen variants on new worlds.

Each predictor's variant (its layer, its preconditioner) is chosen on development worlds by rank
correlation over all pairs, and frozen in a file. The reported worlds are different ones and are
evaluated once; the result contains the hash of that file. The same file freezes the small set for
the joint regression (:mod:`analyses.predict.joint`): the best predictor of each kind and the base
model's refusal log-odds.

Predictors under ``added`` were registered after the reported worlds had been looked at. Their
variant follows from their definition, not from any world. They are in no hash and no comparison of
rivals, and their rows say ``added_later``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.figures import Drawing, write_results
from analyses.predict.accuracy import PARTS, Skill, skill
from analyses.predict.figures import cells_figure, cells_table, tournament_figure
from analyses.predict.joint import PARTS as JOINT_PARTS
from analyses.predict.joint import joint
from analyses.predict.world import PredictedRun, write_worlds
from interp.errors import InputError
from interp.store import read_json, without_nan, write_json

CHOICES = Path(__file__).with_name("choices.json")
CHOSEN_BY = "all_pairs"
# Kinds that compete; the others are shown, but need training or the ground truth.
RIVALS = ("kernel", "geometry", "trivial")
ALWAYS_JOINT = "base margin"


def choose(worlds: Sequence[PredictedRun], *, seed: int = 0) -> dict[str, str]:
    """The variant of each predictor with the best mean rank correlation over all pairs."""
    found = pd.Series({key: _chosen_by(worlds, *key, seed) for key in worlds[0].predictions})
    return dict(found.groupby(level=0, sort=False).idxmax().to_list())


def choose_set(
    worlds: Sequence[PredictedRun], choices: Mapping[str, str], *, seed: int = 0
) -> list[str]:
    """The set of the joint regression: the best predictor of each kind and the base's log-odds."""
    found = pd.Series({name: _chosen_by(worlds, name, v, seed) for name, v in choices.items()})
    found = found[np.isfinite(found)]
    best = found.groupby([worlds[0].kinds[name] for name in found.index]).idxmax()
    names = [best[kind] for kind in RIVALS if kind in best]
    return names + [ALWAYS_JOINT] * (ALWAYS_JOINT in choices and ALWAYS_JOINT not in names)


def choose_on(worlds: Sequence[PredictedRun], path: str | Path, *, seed: int) -> str:
    """Choose on these worlds, write the frozen file with their names, return the text to print.

    Raises:
        InputError: the worlds' models differ in their number of layers.
    """
    if len(depths := {world.layers for world in worlds}) > 1:
        raise InputError(
            f"the models have {', '.join(map(str, sorted(depths)))} layers, so their "
            "variants differ; choose on runs of models of one depth"
        )
    found = choose(worlds, seed=seed)
    together = choose_set(worlds, found, seed=seed)
    names = [world.name for world in worlds]
    layers = worlds[0].layers
    write_json(path, {"worlds": names, "layers": layers, "choices": found, "joint": together})
    lines = [f"{predictor}: {variant or 'single variant'}" for predictor, variant in found.items()]
    lines.append(f"joint regression: {', '.join(together)}")
    return "\n".join([*lines, f"{path}: {hash_of(read_choices(path))}"])


def report_tournament(
    worlds: Sequence[PredictedRun], frozen: Mapping[str, Any], out: str | Path, *, seed: int
) -> tuple[dict[str, Any], str]:
    """Write the tournament into its folder (JSON, table of worlds, figures); return the text."""
    result = run_tournament(worlds, frozen, seed=seed)
    folder = Path(out)
    write_worlds(worlds, folder / "worlds.parquet")
    table = pd.DataFrame(
        {"predictor": row["predictor"], "kind": row["kind"], "variant": row["variant"]}
        | {part: row[part]["value"] for part in PARTS}
        | {"p": row["p"]}
        for row in result["predictors"]
    )
    cells = cells_table(worlds, result)
    drawn = [Drawing("tournament", "", "", tournament_figure(result), table)]
    drawn.append(Drawing("cells", "", "", cells_figure(worlds, result), cells))
    write_results(folder, facts={"tournament": result}, drawings=drawn, figures="")
    shown = table.round(3).to_string(index=False, na_rep="-")
    together = "\n".join(_said(row) for row in result["joint"]["predictors"])
    moved = sorted({world.layers for world in worlds} - {frozen["layers"]})
    depths = (
        f"layers were chosen on models of {frozen['layers']}; in models of "
        f"{' and '.join(map(str, moved))} the layer of the same relative depth is taken\n"
    )
    ceiling = "unknown" if result["ceiling"] is None else f"{result['ceiling']:.3f}"
    return result, (
        f"{shown}\ncompared jointly (standardised coefficient over all pairs)\n"
        f"{together or result['joint']['why']}\n"
        f"{depths if moved else ''}{_undefined(cells)}"
        f"models: {len(worlds)}; ceiling {ceiling}; p: all pairs; {folder / 'tournament.json'}"
    )


def _undefined(cells: pd.DataFrame) -> str:
    """A line on the pairs that predictors give no number for; empty if there is none."""
    absent = cells["told"].isna().groupby(cells["predictor"], sort=False).sum()
    counts = ", ".join(f"{name} {count}" for name, count in absent[absent > 0].items())
    return f"pairs without a prediction, which count as its mean: {counts}\n" if counts else ""


def _said(row: Mapping[str, Any]) -> str:
    found = row["all_pairs"]
    if found["value"] is None:
        return f"{row['predictor']}: no contribution given the others"
    ends = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{row['predictor']}: {found['value']:.2f}{ends}, p = {found['p']:.2g}"


def read_choices(path: str | Path = CHOICES) -> dict[str, Any]:
    """The frozen file: ``choices``, the ``worlds`` they were made on, their models' number of
    ``layers``, and the predictors of the ``joint`` regression.

    Raises:
        InputError: the file does not exist or has another form.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; make it with `spillover tournament --choose`")
    try:
        found = read_json(path)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected a file of choices") from error
    if not isinstance(found, dict) or not _are_choices(found):
        raise InputError(
            f"{path} is not a file of choices; expected worlds, layers, choices and joint, as "
            "`spillover tournament --choose` writes them"
        )
    return found


def _are_choices(found: Mapping[str, Any]) -> bool:
    choices, layers, added = found.get("choices"), found.get("layers"), found.get("added", {})
    names = [found.get("worlds"), found.get("joint")]
    return (
        type(layers) is int
        and layers > 0
        and isinstance(choices, dict)
        and all(isinstance(variant, str) for variant in choices.values())
        and isinstance(added, dict)
        and all(isinstance(variant, str) for variant in added.values())
        and not set(added) & set(choices)
        and all(isinstance(one, list) and all(isinstance(x, str) for x in one) for one in names)
        and set(found["joint"]) <= set(choices)
    )


def hash_of(frozen: Mapping[str, Any]) -> str:
    """SHA-256 of the choices and of the worlds that they were made on."""
    parts = [frozen[name] for name in ("worlds", "choices", "joint")]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def require_unseen(names: Sequence[str], frozen: Mapping[str, Any]) -> None:
    """Refuse worlds that the choices were made on.

    Raises:
        InputError: names these worlds.
    """
    if seen := sorted(set(names) & set(frozen["worlds"])):
        raise InputError(
            f"{', '.join(seen)}: the choices were made on these models; "
            "report other models, or choose again on other models"
        )


def run_tournament(
    worlds: Sequence[PredictedRun], frozen: Mapping[str, Any], *, seed: int = 0
) -> dict[str, Any]:
    """``tournament.json``: every predictor's skill on ``worlds``, the best over all pairs first.

    Raises:
        InputError: a world was used to make the choices.
    """
    require_unseen([world.name for world in worlds], frozen)
    added = frozen.get("added", {})
    choices = {**frozen["choices"], **added}
    skills = {
        predictor: _skill(worlds, predictor, variant, frozen["layers"], seed)
        for predictor, variant in choices.items()
        if all(
            world.key(predictor, variant, frozen["layers"]) in world.predictions for world in worlds
        )
    }
    kinds = worlds[0].kinds
    order = sorted(
        skills, key=lambda name: -np.nan_to_num(skills[name][CHOSEN_BY].value, nan=-np.inf)
    )
    rivals = [name for name in order if kinds[name] in RIVALS and name not in added]
    reliability = [world.reliability for world in worlds]
    found = {
        "worlds": [world.name for world in worlds],
        "reliability": float(np.mean(reliability)),
        "reliability_min": float(np.min(reliability)),
        # The largest expected correlation with the mean over seeds, given its reliability.
        "ceiling": float(np.sqrt(np.mean(reliability))),
        "choices_hash": hash_of(frozen),
        "chosen_on": frozen["worlds"],
        "layers": frozen["layers"],
        "seed": seed,
        "predictors": [
            {"predictor": name, "kind": kinds[name], "variant": choices[name]}
            | {part: asdict(skills[name][part]) for part in PARTS}
            | {"p": skills[name][CHOSEN_BY].p}
            | ({"added_later": True} if name in added else {})
            for name in order
        ],
        "differences": [
            {"first": first, "second": second, "part": part}
            | _difference(skills[first][part], skills[second][part])
            for first, second in combinations(rivals[:3], 2)
            for part in PARTS
        ],
        "joint": _joint(
            worlds, {n: choices[n] for n in frozen["joint"] if n in skills}, frozen["layers"], seed
        ),
    }
    return without_nan(found)


def _joint(
    worlds: Sequence[PredictedRun], chosen: Mapping[str, str], layers: int, seed: int
) -> dict[str, Any]:
    """Coefficients of the frozen set in one regression, or ``why`` there are none."""
    predictions = {
        name: [world.predictions[world.key(name, variant, layers)] for world in worlds]
        for name, variant in chosen.items()
    }
    outcomes = [world.outcome.leakage for world in worlds]
    try:
        found = {part: joint(predictions, outcomes, part=part, seed=seed) for part in JOINT_PARTS}
    except InputError as error:
        return {"predictors": [], "why": str(error)}
    rows: list[dict[str, Any]] = [{"predictor": name} for name in chosen]
    for part in JOINT_PARTS:
        for row in rows:
            row[part] = asdict(found[part][row["predictor"]])
            del row[part]["null_high"]  # refers to t, not to the coefficient
    return {"predictors": rows, "why": None}


def _skill(
    worlds: Sequence[PredictedRun],
    predictor: str,
    variant: str,
    layers: int,
    seed: int,
    **sizes: int,
) -> Mapping[str, Skill]:
    predictions = [world.predictions[world.key(predictor, variant, layers)] for world in worlds]
    return skill(predictions, [world.outcome for world in worlds], seed=seed, **sizes)


def _chosen_by(worlds: Sequence[PredictedRun], predictor: str, variant: str, seed: int) -> float:
    """The criterion of choice; minus infinity where it is undefined."""
    found = _skill(worlds, predictor, variant, worlds[0].layers, seed, permutations=1)
    return float(np.nan_to_num(found[CHOSEN_BY].value, nan=-np.inf))


def _difference(first: Skill, second: Skill) -> dict[str, float]:
    """The mean difference of two predictors' skill, paired over worlds, with standard error."""
    each = np.subtract(first.worlds, second.worlds)
    error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return {"difference": float(each.mean()), "standard_error": float(error)}
