"""The leakage matrix along the scaled weight change, in place of the path of training.

    θ(s) = θ_0 + s (θ_a − θ_0)        s = 0 is the base, s = 1 the arm

A, L_.5 and L_.9 are computed along s as along training (:mod:`analyses.runs.leakage`), at the
same levels. Training steps can wander and overshoot; this line cannot. If both matrices agree,
leakage depends on the weight change and not on the path. For LoRA, s is the adapter's scale.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.runs import (
    BASE,
    Arm,
    LeakageMatrix,
    Progress,
    Run,
    RunRecord,
    after_of,
    base_of,
    counted_arms,
    kept_table,
    read_run,
    weights_of,
)
from analyses.study import require_prefixes
from interp.errors import InputError
from interp.model import LanguageModel
from interp.progress import Advance
from interp.store import content_key, read_table
from unlearning.refusal import ResponsePrefixes, prefix_masses
from unlearning.training import scaled_change

# Beyond s = 1, so that resampled prompts also reach the level.
SCALES = (*np.linspace(0, 1, 17)[1:].tolist(), 1.125, 1.25)
STEPS_A_CHANGE = 1000
"""The scale as an integer in the column of steps: 1000 is the arm."""
FILE = "rescaled.parquet"


def rescaled(
    folder: str | Path, *, batch_size: int = 64, progress: Progress | None = None
) -> LeakageMatrix:
    """The run's matrix along the scaled change; reuses existing scores.

    ``arms/NAME/rescaled.parquet`` stores the scores. In :attr:`LeakageMatrix.cells` the unit of
    onsets is a thousandth of the change.

    Raises:
        InputError: the run does not hold the weights of any arm that reached the level.
    """
    progress = progress or Progress()
    record = read_run(folder)
    counted = set(counted_arms(Run(record))["arm"])
    wanted = [arm for arm in record.arms if arm.name in counted and weights_of(record, arm)]
    if not wanted:
        raise InputError(
            f"{record.folder} holds no weights of an arm that reached the level; none can be scaled"
        )
    prefixes = require_prefixes(record.folder / "arms" / BASE, "--rescale")
    base = cache(lambda: base_of(record))  # loaded only if an arm needs scores
    found = []
    for arm in wanted:
        path = record.folder / "arms" / arm.name / FILE
        done = path.with_name("DONE").read_text(encoding="utf-8")

        def scaled(arm: Arm = arm) -> pd.DataFrame:
            with progress.stage(f"{arm.name}: scaled", len(SCALES)) as advance:
                return _scores(
                    record, arm, base(), prefixes, batch_size=batch_size, progress=advance
                )

        found.append(
            replace(
                arm,
                scores=kept_table(
                    path, content_key(("readout", "rescaling"), done, SCALES), scaled
                ),
            )
        )
    along = replace(record, arms=tuple(found))
    return LeakageMatrix({record.folder.resolve().name: Run(along)})


def rescaling_agreement(
    along: LeakageMatrix, trained: LeakageMatrix, quantity: str = "area"
) -> dict[str, Any]:
    """Agreement of the cells along the scaled change with those along training.

    ``n`` cells (arms by targets), their ``correlation``, the ``mean`` difference (scaled minus
    trained), its standard deviation ``spread`` and the ``largest`` one.
    """
    keys = ["run", "arm", "target"]
    both = along.cells.merge(trained.cells, on=keys, suffixes=("", "_trained"))
    values = both[[quantity, f"{quantity}_trained"]].astype(float).dropna()
    if len(values) < 3:
        return {"n": len(values)}
    one, other = values.to_numpy().T
    gap = one - other
    return {
        "n": len(values),
        "correlation": float(np.corrcoef(one, other)[0, 1]),
        "mean": float(gap.mean()),
        "spread": float(gap.std(ddof=1)),
        "largest": float(np.abs(gap).max()),
    }


def _scores(
    record: RunRecord,
    arm: Arm,
    base: LanguageModel,
    prefixes: ResponsePrefixes,
    *,
    batch_size: int,
    progress: Advance,
) -> pd.DataFrame:
    """The arm's scores with scales as steps: existing rows for s = 0 and 1, new ones between."""
    before, own = arm.scores[arm.scores["step"] == 0], arm.last
    asked = own[own["label"] == "harmful"]
    texts = read_table(record.folder / "prompts.parquet", ("id", "prompt")).set_index("id")[
        "prompt"
    ]
    rows = [base.chat.encode(texts[prompt]) for prompt in asked["prompt_id"]]
    tables = [before]
    after = after_of(record, arm)
    with scaled_change(base, after) as scale:
        for s in SCALES:
            scale(s)
            masses = prefix_masses(after, rows, prefixes, batch_size=batch_size)
            table = own if s == 1 else asked.assign(refused=np.nan, **{"class": None})
            # The whole change is that of the kept model, whatever its share of the trained one's.
            table = table.assign(step=round(STEPS_A_CHANGE * s), kept=s == 1, scale=1.0)
            for name, column in masses.columns().items():
                table.loc[table["label"] == "harmful", name] = column
            tables.append(table)
            progress(1)
    return pd.concat(tables, ignore_index=True)
