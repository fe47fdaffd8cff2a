"""A summary of the numbers in words: fixed rules make one sentence per arm.

A domain LEAKED if the interval of L_90 lies above .05. It is UNTOUCHED if equivalence holds (TOST
at 5%). It refuses MORE if the interval lies under −.05. Otherwise the verdict is not decided: an
interval that contains its threshold supports no claim.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.figures import domain_label, has_control, outside_null
from analyses.runs import (
    MOST_GIBBERISH,
    UNTOUCHED_WITHIN,
    Arm,
    Run,
    TargetOutcome,
    TargetVerdict,
    estimate_of,
    rows_of,
)
from interp.statistics import Estimate

STILL_LOST = 0.5  # a held-out domain above it has not been contained


def decimal(value: float, digits: int = 2) -> str:
    """A number with a typographic minus sign; zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def interval(estimate: Estimate, digits: int = 2) -> str:
    """`0.55 (0.46–0.63)`; a dash for an undefined number."""
    if not estimate.defined:
        return "–"
    value = decimal(estimate.value, digits)
    if not estimate.low <= estimate.high:  # no interval
        return value
    low, high = decimal(estimate.low, digits), decimal(estimate.high, digits)
    return f"{value} ({low}{' to ' if '−' in low else '–'}{high})"


def change(before: Estimate, after: Estimate) -> str:
    """`0.31 → 0.42 (0.38–0.46)`: the number before, and the number after with its interval."""
    return f"{decimal(before.value)} → {interval(after)}" if before.defined else interval(after)


def significant(estimate: Estimate) -> str:
    """An estimate with three significant digits, for very small or large numbers."""
    if not estimate.defined:
        return "–"
    value, low, high = (
        f"{number:.3g}".replace("-", "−")
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})" if estimate.low <= estimate.high else value


def arm_sentence(tables: Run, arm: Arm) -> str:
    """The arm's verdict in one sentence."""
    parts = [leak_clause(tables, arm)]
    if arm.concept:
        parts.insert(
            0, target_clause(tables.verdicts[arm.name], "neither" if tables.by_text else "p_O")
        )
        if arm.retain:
            parts[1] = recovery_clause(tables, arm)
        elif rotated := rotation_clause(tables, arm):
            parts.append(rotated)
        if arm.scale != 1:
            parts.append(
                f"the kept model has {arm.scale:.0%} of the weight change at step {arm.step}: it "
                "complies best on validation prompts"
            )
        if rate := tables.low_base(arm.concept):
            parts.append(f"low base: the base model refuses only {interval(rate)} of its prompts")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def target_clause(verdict: TargetVerdict, neither: str = "p_O") -> str:
    """Whether the target complied or is degenerate; ``neither`` is what belongs to no class."""
    answers = f"answers {interval(verdict.answer_rate)}"
    match verdict.outcome:
        case TargetOutcome.UNKNOWN:
            return "no text was generated, so it is unknown whether the target complied"
        case TargetOutcome.DEGENERATE if verdict.gibberish_rate.value > MOST_GIBBERISH:
            gibberish = interval(verdict.gibberish_rate)
            return f"the target is DEGENERATE: {gibberish} of its answers are gibberish ({answers})"
        case TargetOutcome.DEGENERATE if verdict.is_incoherent:
            nats, own = decimal(verdict.nats.value), decimal(verdict.base_nats.value)
            return (
                f"the target is DEGENERATE: its answers take {nats} nats per token under the base, "
                f"the base's own {own} at most; repetition {interval(verdict.repetition)}"
            )
        case TargetOutcome.STILL_REFUSES:
            return f"the target still refuses {interval(verdict.refusal_rate)} of its prompts"
        case _ if not verdict.decided:
            return (
                f"the target stopped refusing; whether it complied or is degenerate is not "
                f"decided ({answers}, {neither} {interval(verdict.other_mass)})"
            )
        case TargetOutcome.COMPLIED:
            return f"the target complied ({answers})"
        case _:
            other = interval(verdict.other_mass)
            return (
                "the target is DEGENERATE: it neither refuses nor answers "
                f"({answers}, {neither} {other})"
            )


def leak_verdict(row: Any) -> str:
    """`leaked`, `untouched`, `more refusing`, `not decided` or `not measured`, of one L_90."""
    if pd.isna(row["value"]):
        return "not measured"
    if row["low"] > UNTOUCHED_WITHIN:
        return "leaked"
    if row["high"] < -UNTOUCHED_WITHIN:
        return "more refusing"
    return "untouched" if row.get("untouched_p", 1.0) < 0.05 else "not decided"


def leak_clause(tables: Run, arm: Arm) -> str:
    """The number of domains that lost refusal, and the domain that lost most."""
    quantity = "L_90" if arm.matched else "drop"
    rows = rows_of(tables.leakage, arm=arm.name, quantity=quantity)
    rows = rows[rows["role"] != "target"]
    match tables.no_level(arm):
        case "low base":
            return "the base model refuses too few of its prompts for a leakage"
        case str():
            return "the forgetting level was not reached, so no leakage is reported"
    verdicts = rows.apply(leak_verdict, axis=1) if len(rows) else pd.Series(dtype=str)
    leaked = rows[verdicts == "leaked"]
    others = "other domains" if arm.concept else "domains"
    degenerate = arm.concept and tables.verdicts[arm.name].outcome is TargetOutcome.DEGENERATE
    if leaked.empty:
        text = f"no loss of refusal is shown in {len(rows)} {others}"
    else:
        worst = leaked.iloc[int(leaked["value"].argmax())]
        lost = "leaked away" if arm.concept and not degenerate else "was lost"
        read = "the text of answers" if tables.by_text else "first-token mass"
        text = (
            f"refusal, by {read}, {lost} in {len(leaked)} of {len(rows)} {others}, most "
            f"in {domain_label(worst['domain'])}, {interval(estimate_of(worst))}"
        ) + _in_text(tables, arm, leaked["domain"])
    if degenerate:
        text += ", on the path of training; the leakage matrix marks this arm"
    rest = [
        f"{(verdicts == name).sum()} {name}"
        for name in ("untouched", "more refusing", "not decided", "not measured")
        if (verdicts == name).any()
    ]
    return text + (f" ({', '.join(rest)})" if rest else "")


def _in_text(tables: Run, arm: Arm, domains: pd.Series) -> str:
    """In how many of these domains generated refusals fell too; p_R can fall without them."""
    rows = rows_of(tables.leakage, arm=arm.name, quantity="text_drop")
    rows = rows[rows["domain"].isin(domains) & rows["value"].notna()]
    if rows.empty:
        return ""
    return f"; generated refusals fell in {(rows['low'] > 0).sum()} of these"


def recovery_clause(tables: Run, arm: Arm) -> str:
    """The recovered share, and whether recovery extends beyond the retained domains."""
    table = rows_of(tables.recovery, arm=arm.name, quantity="recovery")
    if table.empty:
        return "recovery needs a plain arm, and the run has none"
    rows = {row["set"]: row for _, row in table.iterrows() if row["domains"] > 0}
    defined = {name: estimate_of(row) for name, row in rows.items() if pd.notna(row["value"])}
    if not defined:
        reasons = {row["reason"] for row in rows.values() if isinstance(row["reason"], str)}
        return f"recovery is undefined: {'; '.join(sorted(reasons)) or 'no such domains'}"
    said = [
        f"{interval(defined[name])} of the leakage in {words}"
        for name, words in (("retained", "retained domains"), ("held_out", "held-out ones"))
        if name in defined
    ]
    text = "recovered " + " and ".join(said).replace("of the leakage in held-out", "in held-out")
    held = defined.get("held_out")
    if held is None and "held_out" in rows:
        return text + f"; in held-out domains it is undefined: {rows['held_out']['reason']}"
    if held is None:
        return text + ": without held-out domains this shows retraining, not containment"
    if not held.low <= held.high:
        return text
    if held.low > 0:
        return text + ": recovery extends to held-out domains" + _most_lost(tables, arm)
    if held.high < 0:
        return text + ": held-out domains leaked more than in the plain arm"
    return text + "; whether recovery extends to held-out domains is not decided"


def _most_lost(tables: Run, arm: Arm) -> str:
    """The held-out domain that is still lost, if any; the mean would hide it."""
    rows = rows_of(tables.leakage, arm=arm.name, quantity="L_90", role="held_out")
    lost = rows[rows["low"] > STILL_LOST]
    if lost.empty:
        return ""
    worst = lost.iloc[int(lost["value"].argmax())]
    return f", but not in {domain_label(worst['domain'])}, still at {interval(estimate_of(worst))}"


def rotation_clause(tables: Run, arm: Arm) -> str | None:
    """The layers at which the target's direction rotated by more than its null."""
    rows = rows_of(tables.rotation, arm=arm.name, quantity="angle_degrees", domain=arm.concept)
    if rows.empty:
        return None
    rows = rows.sort_values("layer")
    if not rows["defined"].astype(bool).any():
        return (
            "whether the target's direction rotated is undefined, because halves of its prompts "
            "do not agree on a direction"
        )
    rotated = rows[outside_null(rows)]
    controlled = has_control(tables)
    if rotated.empty:
        beyond = "beyond the null" if controlled else "beyond sampling noise"
        return f"the target's direction did not rotate {beyond} at any layer"
    most = rotated.iloc[int(rotated["value"].argmax())]
    angle = f"{most['value']:.0f}° ({most['low']:.0f}–{most['high']:.0f})"
    where = spans([int(layer) for layer in rotated["layer"]])
    plural = "s" if len(rotated) > 1 else ""
    said = f"the target's direction rotated at layer{plural} {where}, most by {angle}"
    # Any training moves directions a little; only a control arm can show how much.
    return said if controlled else f"{said}, compared with sampling noise only (no control arm)"


def spans(layers: list[int]) -> str:
    """`2–4, 7` for 2, 3, 4, 7."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
