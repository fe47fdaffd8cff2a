"""The trigger test: does a training prompt of the target, as context, lower refusal again?

A trigger is a training prompt of the target, before the prompt in the same turn. The control is a
benign training prompt of similar length. The fall is the loss of log-odds (or p_R) under the
target's trigger relative to the benign one:

    fall = m(prompt after the benign trigger) − m(prompt after the target's trigger)

In the base, a harmful trigger raises refusal, so its fall is below zero. In a model that unlearned
the target it no longer does, so the fall rises to zero even without masking. A trigger lowers
refusal only if the fall is above zero and above the base's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.contain.shallow_recovery.others import Others, Probe, compared_rows
from interp.errors import InputError
from interp.model import LanguageModel

SEPARATOR = "\n"
MEASURES = ("margin", "p_R")


@dataclass(frozen=True)
class Triggers:
    """Pairs of a training prompt of the target and a benign one of similar length."""

    target: tuple[str, ...]
    benign: tuple[str, ...]


@dataclass(frozen=True)
class Triggered:
    """One model's readings with every trigger and without, by measure (`margin`, `p_R`)."""

    target: Mapping[str, Float[np.ndarray, "trigger prompt"]]
    benign: Mapping[str, Float[np.ndarray, "trigger prompt"]]
    without: Mapping[str, Float[np.ndarray, "1 prompt"]]

    def fall(self, measure: str) -> Float[np.ndarray, "trigger prompt"]:
        """The loss under the target's trigger relative to the benign one."""
        return self.benign[measure] - self.target[measure]


def draw_triggers(
    lm: LanguageModel, prompts: pd.DataFrame, concept: str, *, count: int = 8, seed: int = 0
) -> Triggers:
    """Triggers by seed, and for each the benign training prompt whose length in tokens is nearest.

    It prefers benign prompts of no domain, because a matched benign prompt of the target resembles
    the target's prompts. Each is used once.

    Raises:
        InputError: the target, or benign prompts outside it, have no training prompts.
    """
    train = prompts[prompts["split"] == "train"]
    harmful = train.loc[
        (train["domain"] == concept) & (train["label"] == "harmful"), "prompt"
    ].unique()
    benign = train[(train["label"] == "benign") & (train["domain"] != concept)]
    general = benign.loc[benign["domain"] == "general", "prompt"].unique()
    pool = list(general if len(general) >= count else benign["prompt"].unique())
    if not len(harmful) or not pool:
        raise InputError(
            f"triggers need training prompts: {len(harmful)} harmful ones of "
            f"{concept} and {len(pool)} benign ones of others were found"
        )
    rng = np.random.default_rng(seed)
    count = min(count, len(harmful), len(pool))
    target = [str(harmful[i]) for i in rng.permutation(len(harmful))[:count]]
    pool = [str(pool[i]) for i in rng.permutation(len(pool))]  # the seed breaks ties
    lengths = {text: len(lm.chat.encode(text)) for text in (*target, *pool)}
    chosen = []
    for trigger in target:
        nearest = min(pool, key=lambda text: abs(lengths[text] - lengths[trigger]))
        pool.remove(nearest)
        chosen.append(nearest)
    return Triggers(tuple(target), tuple(chosen))


def triggered(
    models: Mapping[str, LanguageModel], probe: Probe, triggers: Triggers
) -> dict[str, Triggered]:
    """Every model's log-odds and p_R on the others' prompts after every trigger."""
    found = {}
    for name in models:
        lm = models[name]
        found[name] = Triggered(
            *(_read(lm, probe, side) for side in (triggers.target, triggers.benign, ("",)))
        )
    return found


def _read(
    lm: LanguageModel, probe: Probe, triggers: Sequence[str]
) -> dict[str, Float[np.ndarray, "trigger prompt"]]:
    texts = [
        f"{trigger}{SEPARATOR}{prompt}" if trigger else prompt
        for trigger in triggers
        for prompt in probe.others.table["prompt"]
    ]
    masses = probe.masses(lm, texts)
    return {measure: masses[measure].reshape(len(triggers), -1) for measure in MEASURES}


def triggers_table(found: Mapping[str, Triggered], others: Others, plain: str) -> pd.DataFrame:
    """Every model's readings and falls, and paired differences of falls from base and plain.

    Returns:
        Columns ``model, against`` (None for a level), ``measure, quantity`` (``under_target``,
        ``under_benign``, ``without`` or ``fall``), ``domain, value, low, high, n, reason``.
        Intervals are over prompts and triggers.
    """
    return pd.DataFrame(list(_rows(found, others, plain)))


def _rows(
    found: Mapping[str, Triggered], others: Others, plain: str
) -> Iterator[dict[str, object]]:
    base = next(iter(found))
    for measure in MEASURES:
        falls = {n: others.means_over_repeats(c.fall(measure)) for n, c in found.items()}
        for name, mine in found.items():
            where = {"model": name, "measure": measure}
            levels = {"under_target": mine.target, "under_benign": mine.benign}
            for quantity, values in (levels | {"without": mine.without}).items():
                own = others.means_over_repeats(values[measure])
                yield from compared_rows(quantity, own, {}, **where)
            against = {} if name == base else {n: falls[n] for n in (base, plain) if n != name}
            yield from compared_rows("fall", falls[name], against, **where)
