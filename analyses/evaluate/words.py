"""An evaluation in words: sentences by rule, and its first table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analyses.evaluate.findings import ALL, BASE, LOG_ODDS, MODEL
from analyses.evaluate.measures import Measures
from analyses.figures import domain_label
from analyses.report import interval
from interp.statistics import Estimate

# Kappa below which two readings of the same answers are not interchangeable: people agree with
# one another at .94, so "substantial" (.6 to .8) is not enough.
AGREES = 0.8


def evaluation_sentences(measures: Measures) -> list[str]:
    """The results in sentences, most important first."""
    said = (part(measures) for part in (_refuses, _speaks, _changed, _depends))
    return [sentence for sentence in said if sentence]


def _refuses(measures: Measures) -> str:
    sets = {
        "harmful": "harmful prompts",
        "twin": "matched benign prompts",
        "general": "general ones",
    }
    rates = {words: measures.refusal(prompts, ALL) for prompts, words in sets.items()}
    said = [f"{interval(rate)} of {rate.n} {words}" for words, rate in rates.items() if rate.n]
    if not said:
        return f"{measures.findings.headline} gave no verdict on any answer."
    *most, last = said
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"By {measures.findings.headline}, the model refuses {listed}."


def _speaks(measures: Measures) -> str:
    """Coherence of the answers to harmful prompts, else of any answers."""
    findings = measures.findings
    prompts = next(
        name for name in ("harmful", "twin", "general")
        if measures.pick("finished_rate", name, ALL).defined
    )  # fmt: skip
    gibberish = measures.pick("share:gibberish", prompts, ALL, findings.headline)
    parts = []
    if gibberish.defined:
        parts.append(f"{interval(gibberish)} of the answers are gibberish")
    strange = measures.pick("no_language", prompts, ALL)
    if strange.defined:
        parts.append(f"its base finds no language in {interval(strange)}")
    nats = {role: measures.pick("answer_nats", prompts, ALL, role=role) for role in findings.roles}
    if nats[MODEL].defined:
        under = "its base" if findings.plan.base else "itself"
        text = f"under {under} they take {interval(nats[MODEL])} nats per token"
        if BASE in nats and nats[BASE].defined:
            text += f" (the base's own {interval(nats[BASE])})"
        parts.append(text)
    text = "; ".join(parts)
    of = {
        "harmful": "harmful prompts",
        "twin": "matched benign prompts",
        "general": "general prompts",
    }
    return f"To {of[prompts]}, {text}." if text else ""


def _changed(measures: Measures) -> str:
    if BASE not in measures.findings.roles:
        return ""
    prompts = next((name for name in ("harmful", "twin") if measures.groups(name)), "general")
    of = "" if prompts == "harmful" else " of benign prompts"
    groups = measures.groups(prompts) or [ALL]
    changed = {group: measures.change(prompts, group) for group in groups}
    sides = {
        "fell": {domain: one for domain, one in changed.items() if one.high < 0},
        "rose": {domain: one for domain, one in changed.items() if one.low > 0},
    }
    parts = [f"{word} in {_most(which, len(changed))}" for word, which in sides.items() if which]
    if not parts:
        return f"Compared with its base, no domain's refusal rate{of} changed significantly."
    return f"Compared with its base, the refusal rate{of} {' and '.join(parts)}."


def _most(changed: Mapping[str, Estimate], domains: int) -> str:
    """Number of changed domains and the largest change: `3 of 7 domains, most in bias, −0.79 …`."""
    most = max(changed, key=lambda domain: abs(changed[domain].value))
    where = domain_label(most).lower()
    return f"{len(changed)} of {domains} domains, most in {where}, {interval(changed[most])}"


def _depends(measures: Measures) -> str:
    findings = measures.findings
    if len(findings.readings) < 2:
        return ""
    count = len(measures.disagreements)
    total = int((findings.scores["role"] == MODEL).sum())
    own = " (one of them from the refusal log-odds)" if LOG_ODDS in findings.readings else ""
    text = f"The {len(findings.readings)} readings{own} differ on {count} of {total} answers"
    if measures.agreement.empty:  # a reading without any verdict
        return f"{text}."
    poor = measures.agreement[~(measures.agreement["kappa_low"] >= AGREES)]
    poor = poor[poor["accuracy"] < 1]
    if poor.empty:
        return f"{text}."
    worst = poor.sort_values("kappa").iloc[0]
    kappa = Estimate(worst["kappa"], worst["kappa_low"], worst["kappa_high"], int(worst["n"]))
    shown = f"κ {interval(kappa)}" if kappa.defined else "κ undefined"
    return (
        f"{text}; {worst['first']} and {worst['second']} agree least ({shown}): read those answers."
    )


def first_table(measures: Measures) -> pd.DataFrame:
    """A row per domain: refusal, over-refusal, coherence, and with a base the change."""
    groups = [*measures.domains, "general", ALL]
    return pd.DataFrame([row for group in groups if (row := _first_row(group, measures))])


def _first_row(group: str, measures: Measures) -> dict[str, str] | None:
    general = group == "general"
    benign = ("general", ALL) if general else ("twin", group)
    harmful = ("", "") if general else ("harmful", group)  # there are no harmful general prompts
    # Prompts whose coherence and masses the row shows.
    shown = benign if general else harmful
    findings = measures.findings
    refused, over_refused = measures.refusal(*harmful), measures.refusal(*benign)
    if not refused.n + over_refused.n:
        return None
    cells = {
        "refused": refused,
        "benign refused": over_refused,
        "nats/token": measures.pick("answer_nats", *shown),
        "repeated": measures.pick("repetition", *shown),
    }
    if "no_language" in findings.scores:
        cells["no language"] = measures.pick("no_language", *shown)
    if findings.readout.valid:
        cells["p_R"] = measures.pick("p_R", *shown)
    if BASE in findings.roles:
        cells["change"] = measures.change(*harmful)
        cells["benign change"] = measures.change(*benign)
    shown_to = (over_refused if general else refused).n
    return {
        "domain": domain_label(group) if group != ALL else "All domains",
        **{name: _of_how_many(estimate, shown_to) for name, estimate in cells.items()},
        "n": f"{refused.n} + {over_refused.n}",
    }


def _of_how_many(estimate: Estimate, asked: int) -> str:
    """The estimate, with the number of answers if most lack a value (too short to repeat)."""
    few = 0 < estimate.n < asked / 2
    return interval(estimate) + (f" in {estimate.n}" if few else "")


def evaluation_text(measures: Measures, page: Path) -> str:
    """The first table, the sentences, the notes and the path of the page."""
    findings = measures.findings
    table = first_table(measures).to_string(index=False)
    notes = (f"note: {note}" for note in findings.notes)
    said = evaluation_sentences(measures)
    return "\n".join([table, "", *said, findings.readout.verdict, *notes, str(page)])
