"""Harm and refusal apart, and two ways to extract a direction, for models in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from analyses.runs import HARM, Reads, harm_and_refusal_table
from analyses.runs import extraction_angles as angles_of
from analyses.workbench.loading import require_loaded
from analyses.workbench.responses import defaults_of, scratch_of
from analyses.workbench.states import collect
from interp.activations import instruction_and_last
from interp.errors import InputError
from interp.model import LanguageModel
from interp.similarity import Rotations

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from unlearning.scoring import Scorer

NEEDED = ("prompt", "domain", "label", "split")


@dataclass(frozen=True)
class HarmAndRefusal:
    """Whether a model that was changed still sees harm, by domain.

    Attributes:
        table: a row per probe, domain and layer (:func:`analyses.runs.harm_and_refusal_table`).

    Example:
        >>> found = sp.harm_and_refusal(lm, after, prompts)
        >>> len(found.sentences()) >= len(found.chosen["domain"].unique())
        True
    """

    table: pd.DataFrame

    def __repr__(self) -> str:
        return "\n".join(self.sentences())

    @property
    def chosen(self) -> pd.DataFrame:
        """The rows of the layer at which the base model separates best."""
        return self.table[self.table["chosen"]].reset_index(drop=True)

    def sentences(self) -> list[str]:
        """A line for each domain, and for what the directions lack."""
        lines = [
            f"{row.domain}: {row.verdict} (AUROC {row.before:.2f} before, {row.value:.2f} "
            f"[{row.low:.2f}, {row.high:.2f}] after, layer {row.layer})"
            for row in self.chosen[self.chosen["probe"] == HARM].itertuples()
        ]
        notes = self.table.loc[self.table["note"] != "", ["probe", "note"]].drop_duplicates()
        return [*lines, *(f"{row.probe} direction: {row.note}" for row in notes.itertuples())]

    def plot(self) -> Figure:
        """AUROC of both directions before and after, by domain, at the chosen layers."""
        from analyses.figures import harm_figure

        return harm_figure(self.table)


def harm_and_refusal(
    base: LanguageModel,
    after: LanguageModel,
    prompts: pd.DataFrame,
    *,
    refused: tuple[Sequence[float], Sequence[float]] | None = None,
    scorer: str | None = None,
    fit_on: str = "train",
    read_on: str = "test",
    batch_size: int = 64,
) -> HarmAndRefusal:
    """Whether a changed model still sees harm where it no longer refuses.

    A harm direction (last token of the instruction; harmful against benign prompts of equal
    behaviour) and a refusal direction (last token of the prompt; refused against answered prompts
    of equal label) are fitted on the base model and read, held out, in both.

    Args:
        base, after: two models of the same shape.
        prompts: a table of prompts.
        refused: 1 or 0 for each prompt in the base and in the changed model (default: both models
            answer the prompts of the two splits, and the scorer reads the answers).
        scorer: distinguishes refusals from answers (default: ``panel``; ``grammar``
            for a model organism).
        fit_on, read_on: splits on which the directions are fitted and read.
        batch_size: prompts in one forward.

    Raises:
        InputError: a column is missing, the models differ in shape, or one split is empty.

    Source:
        Zhao et al. 2025, arXiv 2507.11878.

    Example:
        >>> found = sp.harm_and_refusal(lm, after, prompts)
        >>> sorted(found.chosen["probe"].unique())
        ['harm', 'refusal']
    """
    from unlearning.scoring import find_scorer

    for lm in (base, after):
        require_loaded(lm)
    if (base.n_layers, base.d_model) != (after.n_layers, after.d_model):
        raise InputError(
            f"the models have {base.n_layers} and {after.n_layers} layers of width {base.d_model} "
            f"and {after.d_model}; compare models of one shape"
        )
    if missing := [name for name in NEEDED if name not in prompts]:
        raise InputError(f"the prompts have no column {missing[0]}; expected {', '.join(NEEDED)}")
    used = prompts["split"].isin([fit_on, read_on]).to_numpy()
    table = prompts[used].reset_index(drop=True)
    if empty := [split for split in (fit_on, read_on) if not (table["split"] == split).any()]:
        raise InputError(f"no prompts of the split {empty[0]}; give fit_on and read_on")
    known = None if refused is None else [np.asarray(one, dtype=np.float64) for one in refused]
    if known is not None and any(len(one) != len(prompts) for one in known):
        raise InputError(f"refused needs a value for each of the {len(prompts)} prompts")
    own = defaults_of(base)
    reads = []
    for number, lm in enumerate((base, after)):
        acts = collect(lm, table, positions=instruction_and_last, batch_size=batch_size)
        if known is None:
            reader = find_scorer(scorer or own.scorers[0], str(base.device))
            flags = _refused(lm, table, reader, own.answer_tokens, batch_size)
        else:
            flags = known[number][used]
        reads.append(Reads(acts.at(0).states, acts.at(1).states, flags))
    layers = range(base.n_layers)
    return HarmAndRefusal(
        harm_and_refusal_table(table, *reads, layers=layers, fit_on=fit_on, read_on=read_on)
    )


def extractions(
    lm: LanguageModel, prompts: pd.DataFrame, *, split: str = "train", batch_size: int = 64
) -> dict[str, Rotations]:
    """The angles between two ways to extract each domain's direction from one model.

    Two ways: at the last token of the prompt or of the instruction (``position``); against the
    domain's own benign prompts or all others' (``contrast``). ``sp.rotation(before, after,
    ways=sp.extractions(lm, prompts))`` puts them next to an angle before and after a change.

    Args:
        lm: the model.
        prompts: a table of prompts.
        split: of the prompts to use.
        batch_size: prompts in one forward.

    Raises:
        InputError: no prompts of the split.

    Example:
        >>> sorted(sp.extractions(lm, prompts))
        ['contrast', 'position']
    """
    require_loaded(lm)
    used = prompts[prompts["split"] == split].reset_index(drop=True)
    acts = collect(lm, used, positions=instruction_and_last, batch_size=batch_size)
    return angles_of(prompts, used, acts.at(0), acts.at(1), acts.layers)


def _refused(
    lm: LanguageModel, table: pd.DataFrame, scorer: Scorer, length: int, batch_size: int
) -> Float[np.ndarray, " prompt"]:
    """1 where the model's own answer refuses, 0 where it does not, NaN where no class was read."""
    from analyses.study import answer_log
    from unlearning.deflections import respond

    log = answer_log(scratch_of(lm), lm, length)
    told = respond(lm, table, scorer, max_new_tokens=length, batch_size=batch_size, log=log)[
        "class"
    ]
    return np.where(told.isna(), np.nan, told == "refusal").astype(np.float64)
