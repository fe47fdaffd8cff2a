"""Which predictor tells best what will leak, out of sample: variants chosen once, worlds fresh.

Each predictor's variant (its layer, its preconditioner) is chosen on development worlds by rank
correlation over all pairs, and frozen in a file. The reported worlds are others, and are looked at
once: the hash of that file stands in the result. So does the small set that is regressed together
(:mod:`analyses.predict.joint`): the best predictor of each kind, and the base margin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.predict.accuracy import PARTS, Skill, skill
from analyses.predict.joint import PARTS as JOINT_PARTS
from analyses.predict.joint import joint
from analyses.predict.world import PredictedRun, write_worlds
from interp.errors import InputError
from interp.store import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

CHOICES = Path(__file__).with_name("choices.json")
CHOSEN_BY = "all_pairs"
# Compared with one another; the others take part, but need training or know what was planted.
RIVALS = ("kernel", "geometry", "trivial")
ALWAYS_JOINT = "base margin"


def choose(worlds: Sequence[PredictedRun], *, seed: int = 0) -> dict[str, str]:
    """For every predictor the variant that ranks all pairs best, on average over ``worlds``."""
    scores: dict[str, dict[str, float]] = {}
    for predictor, variant in worlds[0].predictions:
        found = _skill(worlds, predictor, variant, seed, quick=True)[CHOSEN_BY].value
        scores.setdefault(predictor, {})[variant] = _or_least(found)
    return {predictor: max(by, key=by.__getitem__) for predictor, by in scores.items()}


def choose_set(
    worlds: Sequence[PredictedRun], choices: Mapping[str, str], *, seed: int = 0
) -> list[str]:
    """The best predictor of each kind on ``worlds``, and the base margin: regressed together."""
    best: dict[str, tuple[float, str]] = {}
    for predictor, variant in choices.items():
        found = _skill(worlds, predictor, variant, seed, quick=True)[CHOSEN_BY].value
        kind = worlds[0].kinds[predictor]
        if kind in RIVALS and np.isfinite(found):
            best[kind] = max(best.get(kind, (-np.inf, "")), (found, predictor))
    names = [best[kind][1] for kind in RIVALS if kind in best]
    return names + [ALWAYS_JOINT] * (ALWAYS_JOINT in choices and ALWAYS_JOINT not in names)


def choose_on(worlds: Sequence[PredictedRun], path: str | Path, *, seed: int) -> str:
    """Choose on these worlds and freeze; what to print."""
    found = choose(worlds, seed=seed)
    together = choose_set(worlds, found, seed=seed)
    names = [world.name for world in worlds]
    frozen = {"worlds": names, "layers": worlds[0].layers, "choices": found, "joint": together}
    write_json(path, frozen)
    lines = [f"{predictor}: {variant or 'as it is'}" for predictor, variant in found.items()]
    lines.append(f"together: {', '.join(together)}")
    return "\n".join([*lines, f"{path}: {hash_of(read_choices(path))}"])


def report_tournament(
    worlds: Sequence[PredictedRun], frozen: Mapping[str, Any], out: str | Path, *, seed: int
) -> str:
    """The tournament in its folder (JSON, table of worlds, figure); what to print."""
    import pandas as pd

    from analyses.figures import Drawing, write_results
    from analyses.predict.figures import cells_figure, tournament_figure

    result = run_tournament(worlds, frozen, seed=seed)
    folder = Path(out)
    write_worlds(worlds, folder / "worlds.parquet")
    table = pd.DataFrame(
        {"predictor": row["predictor"], "kind": row["kind"], "variant": row["variant"]}
        | {part: row[part]["value"] for part in PARTS}
        | {"p": row["p"]}
        for row in result["predictors"]
    )
    drawn = [Drawing("tournament", "", "", tournament_figure(result), table)]
    drawn.append(Drawing("cells", "", "", cells_figure(worlds, result), cells(worlds, result)))
    write_results(folder, facts={"tournament": result}, drawings=drawn, figures="")
    shown = table.round(3).to_string(index=False, na_rep="-")
    together = "\n".join(_said(row) for row in result["joint"]["predictors"])
    ceiling = "unknown" if result["ceiling"] is None else f"{result['ceiling']:.3f}"
    return (
        f"{shown}\nbeside one another (standardised coefficient over all pairs)\n"
        f"{together or result['joint']['why']}\n"
        f"worlds: {len(worlds)}; ceiling {ceiling}; p is of all pairs; {folder / 'tournament.json'}"
    )


def cells(worlds: Sequence[PredictedRun], result: Mapping[str, Any]) -> pd.DataFrame:
    """A row per world, predictor and pair: ``told`` before training, and ``leaked``."""
    import pandas as pd

    rows = []
    for world in worlds:
        for row in result["predictors"]:
            name = row["predictor"]
            told = world.predictions[name, row["variant"]]
            for i, j in np.argwhere(world.outcome.measured):
                source, target = world.domains[i], world.domains[j]
                leaked = world.outcome.leakage[i, j]
                rows.append((world.name, name, source, target, told[i, j], leaked))
    return pd.DataFrame(rows, columns=["world", "predictor", "source", "target", "told", "leaked"])


def _said(row: Mapping[str, Any]) -> str:
    found = row["all_pairs"]
    if found["value"] is None:
        return f"{row['predictor']}: says nothing beside the others"
    ends = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{row['predictor']}: {found['value']:.2f}{ends}, p = {found['p']:.2g}"


def read_choices(path: str | Path = CHOICES) -> dict[str, Any]:
    """``choices``, the ``worlds`` that they were made on, how many ``layers`` those models have,
    and the predictors to regress ``joint``.

    Raises:
        InputError: there is no such file, or it is of another form.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; make it with `spillover tournament --choose`")
    try:
        found = read_json(path)
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); expected a file of choices") from error
    if not isinstance(found, dict) or not {"worlds", "layers", "choices", "joint"} <= found.keys():
        raise InputError(
            f"{path} is no file of choices; expected worlds, layers, choices and joint"
        )
    return found


def hash_of(frozen: Mapping[str, Any]) -> str:
    """SHA-256 of the choices and of the worlds that they were made on."""
    parts = [frozen[name] for name in ("worlds", "choices", "joint")]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def run_tournament(
    worlds: Sequence[PredictedRun], frozen: Mapping[str, Any], *, seed: int = 0
) -> dict[str, Any]:
    """``tournament.json``: every predictor's skill on ``worlds``, the best over all pairs first.

    Raises:
        InputError: a world is one that the choices were made on.
    """
    seen = sorted({world.name for world in worlds} & set(frozen["worlds"]))
    if seen:
        raise InputError(
            f"{', '.join(seen)}: the choices were made on these worlds; "
            "report others, or choose anew on others"
        )
    choices = frozen["choices"]
    skills = {
        predictor: _skill(worlds, predictor, variant, seed)
        for predictor, variant in choices.items()
        if all((predictor, variant) in world.predictions for world in worlds)
    }
    kinds = worlds[0].kinds
    order = sorted(skills, key=lambda name: -_or_least(skills[name][CHOSEN_BY].value))
    rivals = [name for name in order if kinds[name] in RIVALS]
    reliability = [world.reliability for world in worlds]
    return {
        "worlds": [world.name for world in worlds],
        "reliability": _number(float(np.mean(reliability))),
        "reliability_min": _number(float(np.min(reliability))),
        # What predicts the mean over seeds perfectly correlates with it by no more than this.
        "ceiling": _number(float(np.sqrt(np.mean(reliability)))),
        "choices_hash": hash_of(frozen),
        "chosen_on": frozen["worlds"],
        "seed": seed,
        "predictors": [
            {"predictor": name, "kind": kinds[name], "variant": choices[name]}
            | {part: _described(skills[name][part], "null_high") for part in PARTS}
            | {"p": _number(skills[name][CHOSEN_BY].p)}
            for name in order
        ],
        "differences": _differences(rivals[:3], skills),
        "joint": _joint(worlds, {n: choices[n] for n in frozen["joint"] if n in skills}, seed),
    }


def _joint(worlds: Sequence[PredictedRun], chosen: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Coefficients of the frozen set beside one another, or ``why`` there are none."""
    predictions = {
        name: [world.predictions[name, variant] for world in worlds]
        for name, variant in chosen.items()
    }
    outcomes = [world.outcome.leakage for world in worlds]
    try:
        found = {part: joint(predictions, outcomes, part=part, seed=seed) for part in JOINT_PARTS}
    except InputError as error:
        return {"predictors": [], "why": str(error)}
    rows = [
        {"predictor": name} | {part: _described(found[part][name]) for part in JOINT_PARTS}
        for name in chosen
    ]
    return {"predictors": rows, "why": None}


def _skill(
    worlds: Sequence[PredictedRun], predictor: str, variant: str, seed: int, *, quick: bool = False
) -> Mapping[str, Skill]:
    return skill(
        [world.predictions[predictor, variant] for world in worlds],
        [world.outcome for world in worlds],
        seed=seed,
        **({"permutations": 1, "resamples": 1} if quick else {}),
    )


def _differences(
    names: Sequence[str], skills: Mapping[str, Mapping[str, Skill]]
) -> list[dict[str, Any]]:
    """Between the best three, paired over worlds: difference and its standard error."""
    found = []
    for first, second in combinations(names, 2):
        for part in PARTS:
            a, b = (np.array(skills[name][part].worlds) for name in (first, second))
            each = a - b
            error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
            found.append(
                {
                    "first": first,
                    "second": second,
                    "part": part,
                    "difference": _number(float(each.mean())),
                    "standard_error": _number(float(error)),
                }
            )
    return found


def _described(found: Skill, *more: str) -> dict[str, Any]:
    names = ("value", "low", "high", "p", *more)
    numbers = {name: _number(getattr(found, name)) for name in names}
    return numbers | {"worlds": [_number(value) for value in found.worlds]}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _or_least(value: float) -> float:
    return value if np.isfinite(value) else -np.inf
