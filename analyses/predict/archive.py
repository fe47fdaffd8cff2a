"""Worlds as one table: what the tournament was held on, small enough to come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.predict.accuracy import LeakageOutcome
from analyses.predict.world import PredictedRun
from analyses.runs import write_table
from interp.errors import InputError

OUTCOME = ("outcome", "A")
# Twelve fresh organisms, two unlearning seeds each: what docs/prediction.md reports.
SHIPPED_WORLDS = Path(__file__).with_name("worlds.parquet")
COLUMNS = ("world", "layers", "reliability", "kind", "predictor", "variant", "source", "target")


def write_worlds(worlds: Sequence[PredictedRun], path: str | Path) -> None:
    """A row per world, predictor, variant, source and target; leakage itself among them."""
    rows = []
    for world in worlds:
        matrices = {OUTCOME: world.outcome.leakage, **world.predictions}
        for (predictor, variant), matrix in matrices.items():
            kind = world.kinds.get(predictor, OUTCOME[0])
            shared = (world.name, world.layers, world.reliability, kind, predictor, variant)
            rows += [
                (*shared, source, target, matrix[i, j])
                for i, source in enumerate(world.domains)
                for j, target in enumerate(world.domains)
            ]
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
    return [_world(str(name), rows) for name, rows in table.groupby("world", observed=True)]


def _world(name: str, rows: pd.DataFrame) -> PredictedRun:
    outcome = rows[rows["predictor"] == OUTCOME[0]]
    domains = list(dict.fromkeys(outcome["source"].astype(str)))

    def matrix(cells: pd.DataFrame) -> np.ndarray:
        wide = cells.pivot(index="source", columns="target", values="value")
        return wide.reindex(index=domains, columns=domains).to_numpy(dtype=np.float64)

    said = rows[rows["predictor"] != OUTCOME[0]]
    keys = said.groupby(["predictor", "variant"], observed=True, sort=False)
    kinds = zip(said["predictor"].astype(str), said["kind"].astype(str), strict=True)
    return PredictedRun(
        name,
        tuple(domains),
        LeakageOutcome(matrix(outcome)),
        float(rows["reliability"].iloc[0]),
        {(str(p), str(v)): matrix(cells) for (p, v), cells in keys},
        dict(kinds),
        layers=int(rows["layers"].iloc[0]),
    )
