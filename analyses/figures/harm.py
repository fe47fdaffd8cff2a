"""Harm and refusal apart: what the base model's directions still separate after a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures.style import BLUE, INK, MUTED, VERMILLION, domain_label, new_figure, styled
from analyses.runs import HARM, REFUSAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    HARM: "Harm direction\n(last token of the instruction)",
    REFUSAL: "Refusal direction\n(last token of the prompt)",
}
CAPTION = (
    "AUROC of the base model's frozen directions on held-out prompts, before (hollow) and after "
    "(filled), with 95% intervals over prompts. Harm: harmful against benign prompts; refusal: "
    "prompts that the base refused against those that it answered. Directions are fitted on "
    "validation prompts of the base, at the layer at which it separates best (harm.csv has all "
    "layers)."
)


@styled
def harm_figure(table: pd.DataFrame) -> Figure:
    """Both directions' AUROC before and after, by domain, at the chosen layers."""
    chosen = table[table["chosen"].astype(bool)]
    domains = list(dict.fromkeys(table["domain"]))[::-1]
    figure = new_figure(7.4, 0.36 * len(domains) + 2.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, probe, colour in zip(panels, (HARM, REFUSAL), (BLUE, VERMILLION), strict=True):
        rows = chosen[chosen["probe"] == probe].set_index("domain").reindex(domains)
        places = np.arange(len(domains))
        axes.axvline(0.5, color=MUTED, lw=0.8)
        axes.hlines(places + 0.13, rows["before_low"], rows["before_high"], color=INK, lw=1)
        axes.plot(rows["before"], places + 0.13, "o", mfc="white", mec=INK, label="before")
        axes.hlines(places - 0.13, rows["low"], rows["high"], color=colour, lw=1.8)
        axes.plot(rows["value"], places - 0.13, "o", color=colour, label="after")
        axes.set_xlim(-0.02, 1.02)
        axes.set_title(TITLES[probe])
        axes.set_xlabel("AUROC (.5: no separation)")
        if rows["value"].isna().all():
            axes.text(0.5, len(domains) / 2 - 0.5, "too few prompts", ha="center", color=MUTED)
    panels[0].set_yticks(np.arange(len(domains)), [domain_label(domain) for domain in domains])
    panels[0].set_ylim(-0.6, len(domains) - 0.4)
    panels[0].legend(frameon=False, loc="lower left", fontsize=8)
    return figure
