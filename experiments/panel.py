"""Fit the probe that comes with the package, and say how held-out texts are read.

Every text is read by members that were fitted without its prompt; a text that the reader wrote, by
a probe that knows only what people wrote.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from interp.errors import InputError
from unlearning.scoring import Phrases, Reader, default_wheel, probe_fits
from unlearning.scoring.classifier import held_out_log_probabilities
from unlearning.scoring.decisions import LEARNED
from unlearning.scoring.panel import combined


def ship_fit() -> pd.DataFrame:
    """Make and write the fit for the default reader.

    Returns:
        For panels with and without the reader, and each kind of text: the number of texts, the
        share of right classes, of refusals that are found, and of other texts called refusals.

    Raises:
        InputError: the wheel is not installed.
    """
    source = default_wheel()
    if source is None:
        raise InputError("the default reader's wheel is missing; run `make test` once")
    reader = Reader(source)
    read = probe_fits.TextsRead.by(reader)
    fit = read.fit()
    probe_fits.save_fit(fit, probe_fits.shipped_fit(), probe_fits.key_of(reader))
    return pd.concat(
        [
            rates_by_kind(held_out_verdicts(read, fit.threshold), reader.name),
            rates_by_kind(held_out_verdicts(read, None), "none"),
        ]
    )


def held_out_verdicts(read: probe_fits.TextsRead, threshold: float | None) -> pd.DataFrame:
    """What members find that were fitted without a text's prompt; without the probe for None.

    Returns:
        ``kind, class, said, refused`` of each text.
    """
    texts = read.texts
    columns = [text.prompt for text in texts], [text.response for text in texts]
    learned = held_out_log_probabilities(texts)
    odds, logs = combined(
        Phrases().classify(*columns),
        learned,
        None if threshold is None else read.held_out,
        threshold or 0.0,
    )
    said = np.where(odds >= 0, 0, logs[:, 1:].argmax(axis=1) + 1)
    return pd.DataFrame(
        {
            "kind": [text.kind for text in texts],
            "class": [LEARNED[place] for place in probe_fits.class_numbers(texts)],
            "said": [LEARNED[place] for place in said],
            "refused": odds >= 0,
        }
    )


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
