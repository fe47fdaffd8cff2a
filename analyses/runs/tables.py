"""The tables at the top of a run's folder, rebuilt from its arms whenever they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analyses.runs.arms import BASE, Arm, RunRecord, read_run
from analyses.runs.behaviours import TargetOutcome, TargetVerdict, behaviour, verdict_on
from analyses.runs.decomposition import Decomposition, decompose
from analyses.runs.leakage import ArmLeakage, dose_response, measure, untouched_p_value
from analyses.runs.recovery import recover
from interp.errors import InputError
from interp.store import write_csv

EQUIVALENCE = ("L_90", "drop")  # where "does not leak" is tested
RECOVERY_SETS = ("retained", "held_out")


@dataclass(frozen=True)
class RunTables:
    """Tidy tables of a run; every number stands beside its `low`, `high` and `n`.

    `arms`: one row per finished arm. `behaviour`: rates and masses, the base included. `leakage`:
    by arm, domain and quantity. `curves`: u_b along the dose. `recovery`: by contained arm and
    set of domains. `rotation`, `cosine`: geometry, empty where none was fitted. `measured`: each
    arm's leakage with its resamples, by the arm's name.
    """

    record: RunRecord
    arms: pd.DataFrame
    behaviour: pd.DataFrame
    leakage: pd.DataFrame
    curves: pd.DataFrame
    recovery: pd.DataFrame
    rotation: pd.DataFrame
    cosine: pd.DataFrame
    verdicts: dict[str, TargetVerdict]
    decomposition: Decomposition | None
    measured: Mapping[str, ArmLeakage]

    def write(self) -> None:
        """Writes each table as CSV into the run's folder, atomically."""
        for name in ("arms", "behaviour", "leakage", "recovery", "rotation", "cosine"):
            write_csv(self.record.folder / f"{name}.csv", getattr(self, name))


def build(folder: str | Path) -> RunTables:
    """All tables of the run in `folder`, over the arms that have finished."""
    return tables_of(read_run(folder))


def tables_of(record: RunRecord) -> RunTables:
    """All tables of a run that has been read."""
    acts = {arm.name: behaviour(arm) for arm in (record.base, *record.arms)}
    verdicts = {
        arm.name: verdict_on(arm.concept, acts[arm.name], acts[BASE])
        for arm in record.arms
        if arm.concept
    }
    leaks = {arm.name: measure(arm.scores, arm.concept) for arm in record.arms}
    arms = _arms(record, leaks, verdicts)
    leakage = _stack(_leakage(arm, leaks[arm.name]) for arm in record.arms)
    return RunTables(
        record=record,
        arms=arms,
        behaviour=_stack(acts.values()),
        leakage=leakage,
        curves=_stack(
            dose_response(arm.scores, arm.concept).assign(arm=arm.name)
            for arm in record.arms
            if arm.concept and arm.matched
        ),
        recovery=_stack(
            _recovery(arm, record, leaks, verdicts) for arm in record.arms if arm.retain
        ),
        rotation=_stack(
            arm.rotation.assign(arm=arm.name) for arm in record.arms if arm.rotation is not None
        ),
        cosine=record.cosine if record.cosine is not None else pd.DataFrame(),
        verdicts=verdicts,
        decomposition=_decomposition(arms, leakage),
        measured=leaks,
    )


def _stack(tables: object) -> pd.DataFrame:
    found = list(tables)  # type: ignore[call-overload]
    stacked = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if "arm" in stacked:
        stacked.insert(0, "arm", stacked.pop("arm"))
    return stacked


def _arms(
    record: RunRecord, leaks: dict[str, ArmLeakage], verdicts: dict[str, TargetVerdict]
) -> pd.DataFrame:
    rows = [
        {
            "arm": arm.name,
            "label": arm.label,
            "concept": arm.concept,
            "objective": arm.objective,
            "retain": "+".join(arm.retain) if arm.retain else None,
            "retain_weight": arm.retain_weight,
            "seed": arm.seed,
            "selected": arm.selected,
            "last_step": arm.step,
            "reached": leaks[arm.name].reached,
            "outcome": str(verdicts[arm.name].outcome) if arm.concept else None,
            "decided": verdicts[arm.name].decided if arm.concept else None,
        }
        for arm in record.arms
    ]
    columns = ["arm", "label", "concept", "objective", "retain", "retain_weight", "seed"]
    columns += ["selected", "last_step", "reached", "outcome", "decided"]
    return pd.DataFrame(rows, columns=columns)


def _leakage(arm: Arm, leak: ArmLeakage) -> pd.DataFrame:
    table = leak.to_dataframe()
    table["role"] = [role_of(arm, domain) for domain in table["domain"]]
    table["untouched_p"] = [
        untouched_p_value(leak.quantities[quantity][domain]) if quantity in EQUIVALENCE else None
        for quantity, domain in zip(table["quantity"], table["domain"], strict=True)
    ]
    table["untouched_p"] = table["untouched_p"].astype(float)
    return table.assign(arm=arm.name, concept=arm.concept, label=arm.label, seed=arm.seed)


def role_of(arm: Arm, domain: str) -> str:
    """`target`, `retained`, `held_out` (of a retain set) or `off_target` (where there is none)."""
    if domain == arm.concept:
        return "target"
    if arm.retain is None:
        return "off_target"
    return "retained" if domain in arm.retain else "held_out"


def _obstacle(name: str, arm: Arm, verdict: TargetVerdict) -> str | None:
    """Why an arm's leakage is not that of a target which complies."""
    if verdict.outcome is TargetOutcome.UNKNOWN:
        return f"the {name} arm generated no text, so that complying cannot be told"
    return None if verdict.answers else f"the {name} arm's target does not comply"


def _recovery(
    contained: Arm,
    record: RunRecord,
    leaks: dict[str, ArmLeakage],
    verdicts: dict[str, TargetVerdict],
) -> pd.DataFrame:
    plain = record.plain_of(contained)
    if plain is None:
        return pd.DataFrame()
    obstacle = None
    if leaks[contained.name].reached and leaks[plain.name].reached:  # else that is the reason
        obstacle = _obstacle("contained", contained, verdicts[contained.name])
        obstacle = obstacle or _obstacle("plain", plain, verdicts[plain.name])
    rows = []
    for name in RECOVERY_SETS:
        domains = [domain for domain in record.domains if role_of(contained, domain) == name]
        found = recover(leaks[plain.name], leaks[contained.name], domains, obstacle=obstacle)
        for quantity, draws in (("recovery", found.recovery), ("overshoot", found.overshoot)):
            estimate = vars(draws.estimate())
            rows.append({"set": name, "quantity": quantity, **estimate, "domains": len(domains)})
    return pd.DataFrame(rows).assign(
        arm=contained.name,
        plain=plain.name,
        concept=contained.concept,
        seed=contained.seed,
        retain_weight=contained.retain_weight,
        selected=contained.selected,
        target_answer_rate=verdicts[contained.name].answer_rate.value,
        target_other_mass=verdicts[contained.name].other_mass.value,
    )


def _decomposition(arms: pd.DataFrame, leakage: pd.DataFrame) -> Decomposition | None:
    """Of A over plain arms that reached the dose by complying; None with fewer than 3 sources."""
    plain = arms[arms["retain"].isna() & arms["concept"].notna() & arms["reached"].astype(bool)]
    plain = plain[plain["outcome"] != str(TargetOutcome.COLLAPSED)]
    if plain["concept"].nunique() < 3:
        return None
    cells = leakage[(leakage["quantity"] == "area") & leakage["arm"].isin(plain["arm"])]
    try:
        return decompose(cells.rename(columns={"concept": "source", "domain": "target"}))
    except InputError:
        return None
