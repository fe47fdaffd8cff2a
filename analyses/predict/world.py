"""One run as the tournament sees it: what every predictor said, and what leaked.

Predictions are read off the base model on training prompts, and kept in the run's folder
(``predictions.parquet``), so that a run is looked into once. Worlds are kept as
one table, small enough to come with the package: what the tournament was held on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.predict.accuracy import LeakageOutcome
from analyses.predict.evidence import Evidence
from analyses.predict.registry import PREDICTORS
from analyses.runs import (
    BASE,
    LeakageMatrix,
    RunRecord,
    at_crossing,
    relative_drop,
    running_maximum,
    trajectories,
    write_table,
)
from analyses.study import read_prefixes
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import content_key, read_json
from unlearning.training import TrainingSettings, prepare

EARLY_DOSES = (0.05, 0.1, 0.2)
OUTCOME = ("outcome", "A")
# Twelve fresh organisms, two unlearning seeds each: what docs/prediction.md reports.
SHIPPED_WORLDS = Path(__file__).with_name("worlds.parquet")
COLUMNS = ("world", "layers", "reliability", "kind", "predictor", "variant", "source", "target")
ORACLES = {"planted read-out": "readout_sharing", "planted features": "feature_sharing"}


@dataclass(frozen=True)
class PredictedRun:
    """A run's predictions and outcome.

    Attributes:
        name: the run's.
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
    predictions: Mapping[tuple[str, str], Float[np.ndarray, "source target"]]
    kinds: Mapping[str, str]
    layers: int


def load_worlds(folders: list[Path]) -> list[PredictedRun]:
    """Every run as a world; predictions that are not there yet are made.

    Raises:
        InputError: a run cannot be read, or fewer than three of its sources complied.
    """
    study = LeakageMatrix.load(folders)
    return [_world(study, name) for name in study.runs]


def seen_organisms(folders: Sequence[Path], frozen: Mapping[str, Any]) -> list[str]:
    """Runs of organisms that the choices were made on, whatever their folders are called."""
    chosen_on = {name.rsplit("-", 1)[-1] for name in frozen["worlds"]}
    found = []
    for folder in folders:
        model = Path(read_json(Path(folder) / "config.json").get("model", ""))
        file = model / "organism.json"
        if file.is_file() and str(read_json(file)["world"]["seed"]) in chosen_on:
            found.append(Path(folder).resolve().name)
    return found


def evidence_of_run(record: RunRecord) -> Evidence:
    """What predictors may look at, from a run's base model.

    Raises:
        InputError: the run trained nothing, so it is not known which parameters would be.
    """
    config = record.config
    trained = [arm.config["training"] for arm in record.arms if arm.config.get("training")]
    if not trained:
        raise InputError(f"{record.folder} trained no arm; a prediction has nothing to be held to")
    settings = TrainingSettings(**{**trained[0], "adam_betas": tuple(trained[0]["adam_betas"])})
    options = dict(config.get("model_options") or {})

    def load() -> LanguageModel:
        return LanguageModel.load(config["model"], **options)

    base = record.folder / "arms" / BASE
    responses = pd.read_parquet(base / "responses.parquet")
    return Evidence(
        load(),
        lambda: prepare(load(), settings),
        responses[responses["split"] == "train"].reset_index(drop=True),
        read_prefixes(base / "openers.json"),
    )


def _world(study: LeakageMatrix, name: str) -> PredictedRun:
    record = study.runs[name].record
    matrix = study.matrix(name)
    if np.isfinite(matrix).any(axis=1).sum() < 3:
        raise InputError(
            f"{name}: fewer than three sources were unlearned and complied, which ranks nothing; "
            "give runs of spillover matrix with more domains"
        )
    table = _predicted(record)
    domains = list(study.domains(name))
    predictions = _matrices(table, domains)
    kinds = dict(zip(table["predictor"], table["kind"], strict=True))
    for variant, values in _early(record, domains).items():
        predictions["early trajectory", variant] = values
        kinds["early trajectory"] = "early trajectory"
    return PredictedRun(
        name,
        tuple(domains),
        LeakageOutcome(matrix),
        study.reliability(name),
        predictions,
        kinds,
        layers=sum(predictor == "mean-difference cosine" for predictor, _ in predictions),
    )


def _predicted(record: RunRecord) -> pd.DataFrame:
    """``predictor, kind, variant, source, target, value``; made once for a base and predictors."""
    path = record.folder / "predictions.parquet"
    done = record.folder / "arms" / BASE / "DONE"
    key = content_key(done.read_text(encoding="utf-8"), sorted(PREDICTORS))
    if path.is_file():
        table = pd.read_parquet(path)
        if set(table["key"]) == {key}:
            return table
    evidence = evidence_of_run(record)
    rows = [
        (each.name, each.kind, variant, source, target, value)
        for each in PREDICTORS.values()
        for variant, matrix in each.predict(evidence).items()
        for source, target, value in _cells(matrix, evidence.domains)
    ]
    rows += _planted(record, evidence.domains)
    columns = ["predictor", "kind", "variant", "source", "target", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(key=key)
    write_table(path, table)
    return table


def _planted(
    record: RunRecord, domains: tuple[str, ...]
) -> list[tuple[str, str, str, str, str, float]]:
    """What an organism's world had planted in it: an oracle, for comparison."""
    file = Path(record.config["model"]) / "organism.json"
    if not file.is_file():
        return []
    planted = read_json(file)["planted"]
    place = {domain: i for i, domain in enumerate(planted["domains"])}
    return [
        (name, "planted", "", a, b, float(planted[matrix][place[a]][place[b]]))
        for name, matrix in ORACLES.items()
        for a in domains
        for b in domains
    ]


def _early(record: RunRecord, domains: list[str]) -> dict[str, np.ndarray]:
    """What had leaked at a small dose, on VALIDATION prompts; needs training, so it is no rival."""
    found = {
        f"dose {dose}": np.full((len(domains), len(domains), 0), np.nan) for dose in EARLY_DOSES
    }
    for arm in record.arms:
        if arm.concept not in domains or arm.retain or not arm.matched:
            continue
        curves = trajectories(arm.scores, "validation")
        drops = {d: relative_drop(t.p_refuse.mean(axis=0)) for d, t in curves.items()}
        reached = running_maximum(drops[arm.concept])
        for dose in EARLY_DOSES:
            layer = np.full((len(domains), len(domains), 1), np.nan)
            for j, domain in enumerate(domains):
                if domain in drops:
                    value = at_crossing(reached, drops[domain], dose)
                    layer[domains.index(arm.concept), j, 0] = float(value)
            found[f"dose {dose}"] = np.concatenate([found[f"dose {dose}"], layer], axis=2)
    return {name: _mean(values) for name, values in found.items()}


def _mean(values: Float[np.ndarray, "source target arm"]) -> Float[np.ndarray, "source target"]:
    counted = np.isfinite(values).sum(axis=2)
    return np.where(counted > 0, np.nansum(values, axis=2) / np.maximum(counted, 1), np.nan)


def write_worlds(worlds: Sequence[PredictedRun], path: str | Path) -> None:
    """A row per world, predictor, variant, source and target; leakage itself among them."""
    rows = []
    for world in worlds:
        matrices = {OUTCOME: world.outcome.leakage, **world.predictions}
        for (predictor, variant), matrix in matrices.items():
            kind = world.kinds.get(predictor, OUTCOME[0])
            shared = (world.name, world.layers, world.reliability, kind, predictor, variant)
            rows += [(*shared, *cell) for cell in _cells(matrix, world.domains)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "value"])
    texts = [name for name in COLUMNS if name not in ("layers", "reliability")]
    # Single precision: predictions are ranked, and the file comes with the package.
    write_table(Path(path), table.astype(dict.fromkeys(texts, "category") | {"value": "float32"}))


def read_worlds(path: str | Path = SHIPPED_WORLDS) -> list[PredictedRun]:
    """Worlds that :func:`write_worlds` wrote; by default those that come with the package.

    Raises:
        InputError: the file is missing or of another form.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; expected a table of worlds, or a run's folder")
    try:
        table = pd.read_parquet(path)
        missing = {*COLUMNS, "value"} - set(table.columns)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table of worlds ({error})") from error
    if missing:
        raise InputError(f"{path} is no table of worlds; it has no {', '.join(sorted(missing))}")
    return [_read_world(str(name), rows) for name, rows in table.groupby("world", observed=True)]


def _read_world(name: str, rows: pd.DataFrame) -> PredictedRun:
    outcome = rows[rows["predictor"] == OUTCOME[0]]
    domains = list(dict.fromkeys(outcome["source"].astype(str)))
    said = rows[rows["predictor"] != OUTCOME[0]]
    kinds = zip(said["predictor"].astype(str), said["kind"].astype(str), strict=True)
    return PredictedRun(
        name,
        tuple(domains),
        LeakageOutcome(_matrices(outcome, domains)[OUTCOME]),
        float(rows["reliability"].iloc[0]),
        _matrices(said, domains),
        dict(kinds),
        layers=int(rows["layers"].iloc[0]),
    )


def _cells(
    matrix: Float[np.ndarray, "source target"], domains: Sequence[str]
) -> Iterator[tuple[str, str, float]]:
    """Source, target and value of every pair of domains."""
    for (i, source), (j, target) in product(enumerate(domains), repeat=2):
        yield source, target, matrix[i, j]


def _matrices(
    rows: pd.DataFrame, domains: list[str]
) -> dict[tuple[str, str], Float[np.ndarray, "source target"]]:
    """A matrix for each predictor and variant of a table with a row per pair of domains."""
    found = {}
    keys = rows.groupby(["predictor", "variant"], observed=True, sort=False)
    for (predictor, variant), cells in keys:
        wide = cells.pivot(index="source", columns="target", values="value")
        matrix = wide.reindex(index=domains, columns=domains).to_numpy(dtype=np.float64)
        found[str(predictor), str(variant)] = matrix
    return found
