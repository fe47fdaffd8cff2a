"""The leakage matrix of one run or of several: every unlearned source, every target.

    X[a,b]    A (or L_.5, L_.9) of target b when source a was unlearned, mean over seeds

It holds every arm that reached the forgetting level, whatever became of its target: a selection of
arms by success would bias it. ``outcomes`` says which targets complied; ``left_out`` lists the arms
that did not reach the level. Each objective has its own matrix; without a named objective, the
matrix is the mean over objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.runs.cells import (
    ARM_COLUMNS,
    LAST_STEP,
    QUANTITIES,
    arm_cells,
    last_step_cells,
    left_out,
    mean_cells,
    require_quantity,
)
from analyses.runs.decomposition import Decomposition, decompose, pool_decompositions
from analyses.runs.tables import Run
from interp.errors import InputError


@dataclass(frozen=True)
class LeakageMatrix:
    """The leakage matrices of one or more runs (worlds or models).

    Attributes:
        runs: each run's tables, by its folder's name.
    """

    runs: Mapping[str, Run]

    @classmethod
    def load(cls, folders: Sequence[str | Path]) -> LeakageMatrix:
        """Read runs, finished or not.

        Raises:
            InputError: no folder, two with one name, or one that does not hold a run.
        """
        paths = [Path(folder) for folder in folders]
        names = [path.resolve().name for path in paths]
        if not names:
            raise InputError("no runs to load; give the folder of at least one")
        if len(set(names)) < len(names):
            raise InputError(f"runs need different names, found {', '.join(names)}")
        return cls({name: Run(path) for name, path in zip(names, paths, strict=True)})

    @cached_property
    def cells(self) -> pd.DataFrame:
        """A row per run, source, target, objective and seed, of the arms that reached the level.

        ``area, L_50, L_90`` and ``onset`` (the step at which half of the target's refusal was
        gone) with ``_low`` and ``_high`` over test prompts; ``source_onset``; ``untouched_p``, of
        ``|L_.9| < .05`` (small: does not leak); ``outcome`` of the source; ``low_base``: the base
        model refuses less than half of the source's prompts.
        """
        return self._of_every_run(arm_cells)

    @cached_property
    def left_out(self) -> pd.DataFrame:
        """Plain arms that are not in the matrix: ``run, arm, concept, outcome, reached, why``."""
        return self._of_every_run(left_out, [*ARM_COLUMNS, "why"])

    @cached_property
    def last_step(self) -> pd.DataFrame:
        """Next to the matrix: the text of all plain arms at their last scored step.

        ``run, arm, concept, objective, seed, outcome, step, domain, before, after, gibberish,
        value`` (the share of generated refusals that is gone).
        """
        return self._of_every_run(last_step_cells, LAST_STEP)

    def outcomes(self, run: str, objective: str | None = None) -> dict[str, list[str]]:
        """The outcomes of each source's arms in the matrix, by source."""
        arms = self.cells_of(run, objective).drop_duplicates("arm")
        return {str(source): list(of["outcome"]) for source, of in arms.groupby("source")}

    def low_bases(self, run: str) -> list[str]:
        """The run's unlearned domains that the base model hardly refuses, so results are weak."""
        tables = self.runs[run]
        sources = {arm.concept for arm in tables.record.arms if arm.concept}
        return [d for d in self.domains(run) if d in sources and tables.low_base(d) is not None]

    def means(
        self, quantity: str = "area", *, run: str | None = None, objective: str | None = None
    ) -> pd.DataFrame:
        """Cells as means over seeds, with intervals over prompts and seeds.

        Columns ``run, source, target, objective, value, low, high, error, seeds, n``, and
        ``untouched_p`` where the quantity is ``L_.9``.

        Raises:
            InputError: no such quantity.
        """
        found = self._means[require_quantity(quantity)]
        found = found if run is None else found[found["run"] == run]
        return found if objective is None else found[found["objective"] == objective]

    def cells_of(self, run: str, objective: str | None = None) -> pd.DataFrame:
        """One run's cells, of one objective where it is named.

        Raises:
            InputError: the run or its objective does not exist.
        """
        if run not in self.runs:
            raise InputError(f'no run "{run}"; expected {", ".join(self.runs)}')
        cells = self.cells[self.cells["run"] == run]
        if objective is None:
            return cells
        found = cells[cells["objective"] == objective]
        if found.empty:
            known = ", ".join(cells["objective"].unique()) or "none, as no arm reached the level"
            raise InputError(f'{run} has no cells of "{objective}"; it has {known}')
        return found

    def objectives(self, run: str) -> tuple[str, ...]:
        """The objectives that have cells in a run."""
        return tuple(self.cells_of(run)["objective"].unique())

    def domains(self, run: str) -> tuple[str, ...]:
        """The run's domains with harmful prompts."""
        return self.runs[run].record.domains

    def wide(self, run: str, cells: pd.Series) -> Float[np.ndarray, "source target"]:
        """A series by source and target, as a matrix in the order of ``domains``."""
        domains = list(self.domains(run))
        wide = cells.astype(float).unstack().reindex(index=domains, columns=domains)
        return wide.to_numpy(dtype=np.float64)

    def matrix(
        self, run: str, quantity: str = "area", objective: str | None = None
    ) -> Float[np.ndarray, "source target"]:
        """The mean over seeds, in the order of ``domains``; NaN for missing cells."""
        cells = self.cells_of(run, objective)
        return self.wide(
            run, cells.groupby(["source", "target"])[require_quantity(quantity)].mean()
        )

    def reliability(self, run: str, quantity: str = "area", objective: str | None = None) -> float:
        """Reliability of the mean over seeds: Spearman–Brown on the correlation between seeds.

        NaN with one seed, or fewer than three cells.
        """
        wide = (
            self.cells_of(run, objective)
            .pivot_table(
                index=["source", "target", "objective"],
                columns="seed",
                values=require_quantity(quantity),
            )
            .dropna()
        )
        seeds = wide.shape[1]
        if seeds < 2 or len(wide) < 3:
            return float("nan")
        correlations = np.corrcoef(wide.to_numpy().T)
        between = float(correlations[np.triu_indices(seeds, 1)].mean())
        return seeds * between / (1 + (seeds - 1) * between)

    def decomposition(
        self, run: str, quantity: str = "area", objective: str | None = None
    ) -> Decomposition:
        """Source effect, target effect and interaction, corrected for noise between seeds.

        Raises:
            InputError: too few sources reached the level.
        """
        cells = self.cells_of(run, objective)
        return decompose(cells.assign(value=cells[require_quantity(quantity)]))

    def asymmetry(
        self, run: str, quantity: str = "area", objective: str | None = None
    ) -> dict[str, float]:
        """Asymmetry of X[a,b] and X[b,a], and the part that source and target effects explain.

        ``share``: the antisymmetric share of the variance of cells, ((X − Xᵀ)/2)².
        ``main_effects``: the part of it that α_a − α_b − γ_a + γ_b explains.
        """
        x = self.matrix(run, quantity, objective)
        both = np.isfinite(x) & np.isfinite(x.T)
        np.fill_diagonal(both, False)
        if both.sum() < 2:
            return {"share": float("nan"), "main_effects": float("nan")}
        half = (x - x.T) / 2
        found = self.decomposition(run, quantity, objective)
        names = self.domains(run)
        source_effect = np.array([found.source_effect.get(d, np.nan) for d in names])
        target_effect = np.array([found.target_effect.get(d, np.nan) for d in names])
        effect = source_effect - target_effect
        explained = (effect[:, None] - effect[None, :]) / 2
        total = (half[both] ** 2).sum()
        rest = ((half - explained)[both] ** 2).sum()
        variance = ((x[both] - x[both].mean()) ** 2).sum()
        return {
            "share": float(total / variance) if variance > 0 else float("nan"),
            "main_effects": float(1 - rest / total) if total > 0 else float("nan"),
        }

    def pooled(self, quantity: str = "area", objective: str | None = None) -> dict[str, Any]:
        """Shares, effects and cells with 95% intervals over runs; each run is one observation.

        The form is that of :func:`analyses.runs.decomposition.pool_decompositions`, with the names
        of the ``runs`` and of those ``skipped`` because too few of their sources reached the level.
        """
        parts: dict[str, Decomposition] = {}
        for run in self.runs:
            try:
                parts[run] = self.decomposition(run, quantity, objective)
            except InputError:
                continue
        tables = {
            run: pd.DataFrame(
                self.matrix(run, quantity, objective), self.domains(run), self.domains(run)
            )
            for run in self.runs
        }
        skipped = [run for run in self.runs if run not in parts]
        return {"runs": list(self.runs), "skipped": skipped, **pool_decompositions(parts, tables)}

    @cached_property
    def _means(self) -> dict[str, pd.DataFrame]:
        return {q: self._of_every_run(partial(mean_cells, quantity=q)) for q in QUANTITIES}

    def _of_every_run(self, table: Any, columns: Sequence[str] = ()) -> pd.DataFrame:
        found = [table(tables).assign(run=name) for name, tables in self.runs.items()]
        # An empty table has untyped columns, which would change the types of other runs.
        rows = pd.concat([each for each in found if len(each)] or found[:1], ignore_index=True)
        return rows[["run", *(columns or rows.columns.drop("run"))]]
