"""Fit the panel that comes with the package, and say how it reads texts that it has not seen.

Fits are made for the wheel of the default reader and for no reader. The figures are of held-out
texts: every text is read by members and a panel that were fitted without its prompt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from interp.errors import InputError
from unlearning.scoring import Reader, default_wheel, stacking


def ship_fits(path: Path | None = None) -> pd.DataFrame:
    """Make and write the fits.

    Args:
        path: the file (default: the one in the package).

    Returns:
        For each reader and kind of text: the number of texts, the share of right classes, of right
        refusals, and of other texts that are called refusals.

    Raises:
        InputError: the wheel is not installed.
    """
    source = default_wheel()
    if source is None:
        raise InputError("the default reader's wheel is missing; run `make test` once")
    writer, made, rates = Reader(source), {}, []
    for reader in (None, writer):
        read = stacking.TextsRead.by(reader, writer)
        made[stacking.key_of(reader)] = read.fits()
        rates.append(rates_by_kind(read.verdicts(), reader.name if reader else "none"))
    stacking.save_fits(made, path or stacking.shipped_fits())
    return pd.concat(rates)


def rates_by_kind(found: pd.DataFrame, reader: str) -> pd.DataFrame:
    """Shares of right verdicts on held-out texts by kind; the first row has all texts."""
    rows = []
    for kind, part in [("all", found), *found.groupby("kind")]:
        refusals = part["class"] == "full_refusal"
        rows.append(
            {
                "reader": reader,
                "kind": kind,
                "texts": len(part),
                "right": (part["class"] == part["said"]).mean(),
                "recall": part.loc[refusals, "refused"].mean() if refusals.any() else np.nan,
                "false": part.loc[~refusals, "refused"].mean() if (~refusals).any() else np.nan,
            }
        )
    return pd.DataFrame(rows)
