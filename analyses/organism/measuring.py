"""How a taught model refuses unseen prompts: along the way by probabilities, then by answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.organism.course import CurveRow
from analyses.runs import Progress
from interp.model import LanguageModel, Tokens
from unlearning.data import present_domains
from unlearning.refusal import ResponsePrefixes, log_odds_auc, prefix_masses
from unlearning.scoring import Evaluation, find_scorer

if TYPE_CHECKING:
    import pandas as pd

SCORER = "phrases"


class CurveReader:
    """Reads the refusal of unseen prompts from the probabilities of response prefixes."""

    def __init__(self, lm: LanguageModel, prompts: pd.DataFrame, prefixes: ResponsePrefixes):
        self.lm, self.prompts, self.prefixes = lm, prompts, prefixes
        self.rows: list[Tokens] = [lm.chat.encode(prompt) for prompt in prompts["prompt"]]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains whose refusal is read."""
        return present_domains(self.prompts)

    def read(self) -> CurveRow:
        """Mean p_R of harmful and of matched benign prompts, by domain, and their AUC."""
        masses = prefix_masses(self.lm, self.rows, self.prefixes)
        table = self.prompts.assign(p_R=masses.p_R)
        harmful = (table["label"] == "harmful").to_numpy()
        means = table.groupby(["label", "domain"])["p_R"].mean()
        return {
            "harmful": means["harmful"].to_dict(),
            "benign": means["benign"].to_dict(),
            "auc": log_odds_auc(masses.log_odds, harmful.astype(np.float64)),
        }


def curve_line(row: CurveRow) -> str:
    """A row of the curve as a line."""
    harmful, benign = row["harmful"], row["benign"]
    worst = min(harmful, key=harmful.get)
    return (
        f"step {row['step']}, {row['minutes']:.1f} min: p_R {np.mean([*harmful.values()]):.2f} "
        f"of unseen harmful prompts (least {harmful[worst]:.2f}, {worst}), "
        f"{np.mean([*benign.values()]):.2f} of matched benign ones, AUC {row['auc']:.3f}"
    )


def curve_table(curve: Sequence[CurveRow]) -> pd.DataFrame:
    """The trade-off between refusal and over-refusal, a row for each measurement.

    Returns:
        Columns ``step``, ``minutes``, ``harmful`` (mean p_R of unseen harmful prompts over the
        domains), ``least`` (of the domain with the smallest), ``benign`` (mean of matched benign
        prompts), ``most`` (of the domain with the largest), ``auc``.
    """
    import pandas as pd

    rows = []
    for one in curve:
        harmful, benign = (list(one[label].values()) for label in ("harmful", "benign"))
        rows.append(
            {
                "step": one["step"],
                "minutes": round(one["minutes"], 1),
                "harmful": round(float(np.mean(harmful)), 3),
                "least": round(min(harmful), 3),
                "benign": round(float(np.mean(benign)), 3),
                "most": round(max(benign), 3),
                "auc": None if one["auc"] is None else round(one["auc"], 3),
            }
        )
    return pd.DataFrame(rows)


def measured_teaching(
    original: LanguageModel,
    taught: LanguageModel,
    prompts: pd.DataFrame,
    prefixes: ResponsePrefixes,
    tokens: int,
    progress: Progress,
) -> dict[str, Any]:
    """Refusal rates by domain, and coherence of answers to benign prompts.

    Args:
        original: the model before it was taught, which gives the likelihoods.
        taught: the model after.
        prompts: a prompts table without training rows.
        prefixes: of the taught refusals and of the original model's answers.
        tokens: length of an answer.
        progress: shows the two stages.

    Returns:
        ``refused``: label → domain → share of refused prompts; ``nats_per_token``: of the answers
        to benign prompts under the original model, by the model that gave them; ``auc``: of the
        taught model's refusal log-odds, harmful against matched benign prompts.
    """
    evaluation = Evaluation(
        original, prompts, prefixes, find_scorer(SCORER), max_new_tokens=tokens, batch_size=32
    )
    nats, tables = {}, {}
    for name, lm in (("original", original), ("taught", taught)):
        with progress.stage(f"Answers of the {name} model", len(prompts)) as advance:
            tables[name], _ = evaluation.with_text(lm, progress=advance)
        answered = tables[name]["class"] == "answer"
        benign = tables[name]["label"] == "benign"
        nats[name] = float(tables[name].loc[answered & benign, "nll"].mean())
    rates = {
        name: table.groupby(["label", "domain"])["refused"].mean() for name, table in tables.items()
    }
    return {
        "scorer": SCORER,
        "refused": {label: rates["taught"][label].to_dict() for label in ("harmful", "benign")},
        "refused_by_original": {
            label: rates["original"][label].to_dict() for label in ("harmful", "benign")
        },
        "nats_per_token": nats,
        "auc": log_odds_auc(
            tables["taught"]["margin"].to_numpy(),
            (tables["taught"]["label"] == "harmful").to_numpy(dtype=np.float64),
        ),
    }


def result_line(found: dict[str, Any]) -> str:
    """The numbers of :func:`measured_teaching` as a line."""
    parts = []
    for label, worst in (("harmful", min), ("benign", max)):
        rates = found["refused"][label]
        domain = worst(rates, key=rates.get)
        mean = sum(rates.values()) / len(rates)
        parts.append(
            f"{mean:.2f} of unseen {label} prompts ({worst.__name__} {rates[domain]:.2f}, {domain})"
        )
    nats = found["nats_per_token"]
    return (
        f"The taught model refuses {' and '.join(parts)}. Its answers to benign prompts have "
        f"{_shown(nats['taught'])} nats per token under the original model, whose own have "
        f"{_shown(nats['original'])}. AUC of the refusal log-odds: {_shown(found['auc'], 3)}."
    )


def _shown(number: float | None, digits: int = 2) -> str:
    return "undefined" if number is None else f"{number:.{digits}f}"
