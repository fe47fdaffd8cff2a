"""The leakage matrix, of one run or of several: every source that was unlearned, every target.

    X[a,b]    A (or L_.5, L_.9) of target b when source a was unlearned, mean over seeds

Only arms that reached the dose by complying are in it; the others are listed in ``left_out``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.decomposition import Decomposition, decompose
from analyses.tables import RunTables, build
from interp.errors import InputError

QUANTITIES = ("area", "L_50", "L_90")
ARM_COLUMNS = ["arm", "concept", "objective", "seed", "reached", "outcome"]


@dataclass(frozen=True)
class Study:
    """Runs that are looked at together: worlds, models, or one of them.

    Attributes:
        runs: each run's tables, by its folder's name.
    """

    runs: Mapping[str, RunTables]

    @classmethod
    def load(cls, folders: Sequence[str | Path]) -> Study:
        """Read runs, finished or not.

        Raises:
            InputError: no folder, two of one name, or one that holds no run.
        """
        paths = [Path(folder) for folder in folders]
        names = [path.resolve().name for path in paths]
        if not names:
            raise InputError("no runs to load; give the folder of at least one")
        if len(set(names)) < len(names):
            raise InputError(f"runs need names of their own, found {', '.join(names)}")
        return cls({name: build(path) for name, path in zip(names, paths, strict=True)})

    @cached_property
    def cells(self) -> pd.DataFrame:
        """A row per run, source, target, objective and seed, of the arms that complied.

        Columns ``run, source, target, objective, seed, area, L_50, L_90, onset`` (steps).
        """
        found = [_cells(tables).assign(run=name) for name, tables in self.runs.items()]
        return pd.concat(found, ignore_index=True)

    @cached_property
    def left_out(self) -> pd.DataFrame:
        """Plain arms that are not in the matrix: ``run, arm, concept, outcome, reached``."""
        rows = []
        for name, tables in self.runs.items():
            plain = _plain(tables)
            gone = plain[~plain["arm"].isin(_complied(plain)["arm"])]
            rows.append(gone[ARM_COLUMNS].assign(run=name))
        return pd.concat(rows, ignore_index=True)

    def matrix(self, run: str, quantity: str = "area") -> Float[np.ndarray, "source target"]:
        """The mean over seeds and objectives, in the order of ``domains``; NaN where none is."""
        cells = self.cells[self.cells["run"] == run]
        domains = list(self.domains(run))
        wide = cells.pivot_table(index="source", columns="target", values=quantity)
        return wide.reindex(index=domains, columns=domains).to_numpy(dtype=np.float64)

    def domains(self, run: str) -> tuple[str, ...]:
        """The run's domains with harmful prompts."""
        return self.runs[run].record.domains

    def reliability(self, run: str, quantity: str = "area") -> float:
        """Of the mean over seeds, by Spearman–Brown from the correlation between seeds.

        NaN with one seed, or fewer than three cells.
        """
        cells = self.cells[self.cells["run"] == run]
        wide = cells.pivot_table(
            index=["source", "target", "objective"], columns="seed", values=quantity
        ).dropna()
        seeds = wide.shape[1]
        if seeds < 2 or len(wide) < 3:
            return float("nan")
        correlations = np.corrcoef(wide.to_numpy().T)
        between = float(correlations[np.triu_indices(seeds, 1)].mean())
        return seeds * between / (1 + (seeds - 1) * between)

    def decomposition(self, run: str, quantity: str = "area") -> Decomposition:
        """Potency, susceptibility and entanglement; seeds are the replicates."""
        cells = self.cells[self.cells["run"] == run]
        return decompose(cells.rename(columns={quantity: "value"}))

    def asymmetry(self, run: str, quantity: str = "area") -> dict[str, float]:
        """How far X[a,b] and X[b,a] differ, and how much of that potency and susceptibility say.

        ``share``: of the variance of cells that is antisymmetric, ((X − Xᵀ)/2)². ``main_effects``:
        of that, the part which α_a − α_b − γ_a + γ_b explains.
        """
        x = self.matrix(run, quantity)
        both = np.isfinite(x) & np.isfinite(x.T)
        np.fill_diagonal(both, False)
        if both.sum() < 2:
            return {"share": float("nan"), "main_effects": float("nan")}
        half = (x - x.T) / 2
        found = self.decomposition(run, quantity)
        names = self.domains(run)
        potency = np.array([found.potency.get(d, np.nan) for d in names])
        susceptible = np.array([found.susceptibility.get(d, np.nan) for d in names])
        effect = potency - susceptible
        explained = (effect[:, None] - effect[None, :]) / 2
        total = (half[both] ** 2).sum()
        rest = ((half - explained)[both] ** 2).sum()
        variance = ((x[both] - x[both].mean()) ** 2).sum()
        return {
            "share": float(total / variance) if variance > 0 else float("nan"),
            "main_effects": float(1 - rest / total) if total > 0 else float("nan"),
        }

    def summary(self, quantity: str = "area") -> dict[str, Any]:
        """Every run's matrix, its parts and its reliability, for ``matrix.json``."""
        return {name: self._summary(name, quantity) for name in self.runs}

    def _summary(self, run: str, quantity: str) -> dict[str, Any]:
        left_out = self.left_out[self.left_out["run"] == run]
        found: dict[str, Any] = {
            "domains": list(self.domains(run)),
            "quantity": quantity,
            "matrix": _plain_numbers(self.matrix(run, quantity)),
            "reliability": _number(self.reliability(run, quantity)),
            "left_out": left_out[["arm", "outcome", "reached"]].to_dict("records"),
        }
        try:
            parts = self.decomposition(run, quantity)
        except InputError as error:
            return {**found, "decomposition": None, "why": str(error)}
        return found | {
            "decomposition": {
                "potency": _number(parts.potency_share),
                "susceptibility": _number(parts.susceptibility_share),
                "entanglement": _number(parts.entanglement_share),
                "noise": _number(parts.noise_share),
                "p_entanglement": _number(parts.p_value),
            },
            "asymmetry": {k: _number(v) for k, v in self.asymmetry(run, quantity).items()},
        }


def _plain(tables: RunTables) -> pd.DataFrame:
    arms = tables.arms
    return arms[arms["retain"].isna() & arms["concept"].notna()]


def _complied(plain: pd.DataFrame) -> pd.DataFrame:
    return plain[plain["reached"].astype(bool) & (plain["outcome"] == "forgotten")]


def _cells(tables: RunTables) -> pd.DataFrame:
    counted = _complied(_plain(tables)).set_index("arm")
    columns = ["source", "target", "objective", "seed", *QUANTITIES, "onset"]
    if counted.empty:
        return pd.DataFrame(columns=columns)
    leaks = tables.leakage[tables.leakage["arm"].isin(counted.index)]
    wide = leaks.pivot_table(index=["arm", "domain"], columns="quantity", values="value")
    wide = wide.reset_index().rename(columns={"domain": "target"})
    wide["source"] = wide["arm"].map(counted["concept"])
    for name in ("objective", "seed"):
        wide[name] = wide["arm"].map(counted[name])
    return wide[wide["target"] != wide["source"]].reindex(columns=columns)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain_numbers(matrix: np.ndarray) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in matrix]
