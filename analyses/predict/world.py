"""One run as a world of the tournament: every prediction, and the measured leakage.

Predictions use the base model on training prompts. The run's folder stores them
(``predictions.parquet``), so that they are computed once. Worlds form one table, small enough for
the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.predict.accuracy import LeakageOutcome
from analyses.predict.evidence import evidence_of_run, training_of
from analyses.predict.registry import PREDICTORS
from analyses.runs import (
    BASE,
    LeakageMatrix,
    RunRecord,
    at_crossing,
    kept_table,
    relative_drop,
    running_maximum,
    trajectories,
)
from analyses.study import require_prefixes
from interp.errors import InputError
from interp.store import content_key, file_hash, read_json, write_table

# Forgetting levels early in training, for the predictor "early trajectory".
EARLY_LEVELS = (0.05, 0.1, 0.2)
ORACLES = {"planted read-out": "readout_sharing", "planted features": "feature_sharing"}
LEAKAGE = "outcome"
# Twelve new model organisms, two unlearning seeds each: those of docs/explanation/prediction.md.
SHIPPED_WORLDS = Path(__file__).with_name("worlds.parquet")
KEYS = ["predictor", "variant", "source", "target"]
COLUMNS = ("world", "layers", "reliability", "kind", *KEYS, "value")

Matrices = Mapping[tuple[str, str], Float[np.ndarray, "source target"]]


@dataclass(frozen=True)
class PredictedRun:
    """A run's predictions and outcome.

    Attributes:
        name: of the run.
        domains: rows and columns of every matrix.
        outcome: A, the mean over unlearning seeds.
        reliability: of that mean.
        predictions: by (predictor, variant).
        kinds: of every predictor.
        layers: of the model.
    """

    name: str
    domains: tuple[str, ...]
    outcome: LeakageOutcome
    reliability: float
    predictions: Matrices
    kinds: Mapping[str, str]
    layers: int

    def key(self, predictor: str, variant: str, chosen_of: int) -> tuple[str, str]:
        """Where ``predictions`` has a variant chosen on models of ``chosen_of`` layers."""
        return predictor, at_depth(variant, chosen_of, self.layers)


def at_depth(variant: str, chosen_of: int, layers: int) -> str:
    """The variant with its layer moved to the same relative depth in another model."""

    def moved(found: re.Match[str]) -> str:
        depth = int(found.group(1)) / max(chosen_of - 1, 1)
        return f"layer {round(depth * (layers - 1))}"

    return re.sub(r"layer (\d+)", moved, variant)


def load_worlds(matrix: LeakageMatrix) -> list[PredictedRun]:
    """Every run as a world; computes missing predictions.

    Raises:
        InputError: fewer than three of a run's sources reached the level.
    """
    return [_world(matrix, name) for name in matrix.runs]


def write_worlds(worlds: Sequence[PredictedRun], path: str | Path) -> None:
    """Write a row per world, predictor, variant, source and target, including the leakage."""
    tables = []
    for world in worlds:
        matrices = {(LEAKAGE, "A"): world.outcome.leakage, **world.predictions}
        table = _cells(matrices, world.domains)
        kind = table["predictor"].map({LEAKAGE: LEAKAGE, **world.kinds})
        tables.append(
            table.assign(
                world=world.name, layers=world.layers, reliability=world.reliability, kind=kind
            )
        )
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    texts = ["world", "kind", *KEYS]
    # Single precision is enough for ranks and keeps the packaged file small.
    write_table(Path(path), table.astype(dict.fromkeys(texts, "category") | {"value": "float32"}))


def read_worlds(path: str | Path = SHIPPED_WORLDS) -> list[PredictedRun]:
    """Worlds that :func:`write_worlds` wrote; by default those of the package.

    Raises:
        InputError: the file is missing or has another format.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; expected a table of worlds, or a run's folder")
    try:
        table = pd.read_parquet(path)
        missing = set(COLUMNS) - set(table.columns)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table of worlds ({error})") from error
    if missing:
        raise InputError(f"{path} is not a table of worlds: {', '.join(sorted(missing))} missing")
    found = []
    for name, rows in table.groupby("world", observed=True):
        leakage = rows["predictor"] == LEAKAGE
        domains = tuple(rows.loc[leakage, "source"].astype(str).unique())
        [outcome] = _matrices(rows[leakage], domains).values()
        first = rows.iloc[0]
        found.append(
            PredictedRun(
                str(name),
                domains,
                LeakageOutcome(outcome),
                float(first["reliability"]),
                _matrices(rows[~leakage], domains),
                _kinds(rows[~leakage]),
                int(first["layers"]),
            )
        )
    return found


def seen_organisms(folders: Sequence[Path], frozen: Mapping[str, Any]) -> list[str]:
    """Runs of model organisms that the choices were made on, for any folder name."""
    chosen_on = {name.rsplit("-", 1)[-1] for name in frozen["worlds"]}
    found = []
    for folder in folders:
        model = Path(read_json(Path(folder) / "config.json", ()).get("model", ""))
        file = model / "organism.json"
        if file.is_file() and str(read_json(file)["world"]["seed"]) in chosen_on:
            found.append(Path(folder).resolve().name)
    return found


def _world(matrix: LeakageMatrix, name: str) -> PredictedRun:
    record, domains = matrix.runs[name].record, list(matrix.domains(name))
    if len(objectives := matrix.objectives(name)) > 1:
        raise InputError(
            f"{name} has several objectives ({', '.join(objectives)}), and predictors are of one; "
            "give runs with one"
        )
    leakage = matrix.matrix(name)
    if np.isfinite(leakage).any(axis=1).sum() < 3:
        raise InputError(
            f"{name}: fewer than three sources reached the level, too few to rank; "
            "give runs of spillover matrix with more domains"
        )
    predicted = kept_table(
        record.folder / "predictions.parquet", predictions_key(record), lambda: _predicted(record)
    )
    table = pd.concat([predicted, _early(record, domains)], ignore_index=True)
    predictions = _matrices(table, domains)
    return PredictedRun(
        name,
        tuple(domains),
        LeakageOutcome(leakage),
        matrix.reliability(name),
        predictions,
        _kinds(table),
        layers=sum(predictor == "mean-difference cosine" for predictor, _ in predictions),
    )


def predictions_key(record: RunRecord) -> str:
    """The key of a run's predictions: base model, readout, deflections, training, predictors."""
    base = record.folder / "arms" / BASE
    code = {name: PREDICTORS.own_source(name) for name in sorted(PREDICTORS)}
    own = {name: source for name, source in code.items() if source}
    sampled = {path.stem: file_hash(path) for path in sorted(base.glob("deflections/*.parquet"))}
    return content_key(
        ("readout", "predictions"),
        (base / "DONE").read_text(encoding="utf-8"),
        asdict(require_prefixes(base, "a tournament")),
        training_of(record),
        sorted(PREDICTORS),
        *([own] if own else []),
        *([sampled] if sampled else []),
    )


def _predicted(record: RunRecord) -> pd.DataFrame:
    """``predictor, kind, variant, source, target, value``, of every predictor and oracle."""
    evidence = evidence_of_run(record)
    said = {each.name: each.predict(evidence) for each in PREDICTORS.values()}
    kinds = {each.name: each.kind for each in PREDICTORS.values()}
    # The ground truth of a model organism's world: an oracle, for comparison.
    organism = Path(record.config["model"]) / "organism.json"
    if organism.is_file():
        truth = read_json(organism)["planted"]
        order = [truth["domains"].index(domain) for domain in evidence.domains]
        for name, matrix in ORACLES.items():
            said[name] = {"": np.array(truth[matrix], dtype=float)[np.ix_(order, order)]}
            kinds[name] = "planted"
    matrices = {(name, variant): m for name, by in said.items() for variant, m in by.items()}
    table = _cells(matrices, evidence.domains)
    return table.assign(kind=table["predictor"].map(kinds))[
        ["predictor", "kind", *KEYS[1:], "value"]
    ]


def _early(record: RunRecord, domains: list[str]) -> pd.DataFrame:
    """Early leakage on VALIDATION prompts; it needs training, so it does not compete."""
    rows = []
    for arm in record.arms:
        if arm.concept not in domains or arm.retain or not arm.matched:
            continue
        curves = trajectories(arm.scores, "validation")
        drops = {d: relative_drop(t.p_refuse.mean(axis=0)) for d, t in curves.items()}
        reached = running_maximum(drops[arm.concept])
        rows += [
            (f"dose {level}", arm.concept, domain, float(at_crossing(reached, drop, level)))
            for level in EARLY_LEVELS
            for domain, drop in drops.items()
        ]
    table = pd.DataFrame(rows, columns=[*KEYS[1:], "value"])
    mean = table.groupby(KEYS[1:], sort=False, as_index=False)["value"].mean()
    return mean.assign(predictor="early trajectory", kind="early trajectory")


def _cells(matrices: Matrices, domains: Sequence[str]) -> pd.DataFrame:
    """``predictor, variant, source, target, value``, a row per cell."""
    frames = {key: pd.DataFrame(m, list(domains), list(domains)) for key, m in matrices.items()}
    wide = pd.concat(frames, names=KEYS[:3]).rename_axis(columns=KEYS[3])
    return pd.Series(wide.stack(future_stack=True), name="value").reset_index()


def _matrices(table: pd.DataFrame, domains: Sequence[str]) -> Matrices:
    """The inverse of :func:`_cells`; a cell that ``table`` lacks is NaN.

    Raises:
        InputError: ``table`` has a cell twice.
    """
    if table.duplicated(KEYS).any():
        raise InputError("a table of predictions has several values for one cell; expected one")
    # One assignment for all: a matrix at a time, pandas needs seconds for a few thousand cells.
    group = table.groupby(KEYS[:2], observed=True, sort=False).ngroup().to_numpy()
    order = pd.Index(list(domains))
    source, target = (order.get_indexer(pd.Index(table[name].astype(str))) for name in KEYS[2:])
    known = (source >= 0) & (target >= 0)
    names = table.drop_duplicates(KEYS[:2])
    found = np.full((len(names), len(order), len(order)), np.nan)
    found[group[known], source[known], target[known]] = table["value"].to_numpy(float)[known]
    keys = zip(names["predictor"].astype(str), names["variant"].astype(str), strict=True)
    return dict(zip(keys, found, strict=True))


def _kinds(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["predictor"].astype(str), table["kind"].astype(str), strict=True))
