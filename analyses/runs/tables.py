"""The tables at the top of a run's folder, rebuilt from its arms on each access of a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pandas as pd

from analyses.runs.arms import BASE, Arm, RunRecord, read_run
from analyses.runs.behaviours import (
    WEAKLY_ALIGNED,
    TargetOutcome,
    TargetVerdict,
    behaviour,
    estimate_of,
    rows_of,
    verdict_on,
)
from analyses.runs.decomposition import Decomposition, decompose
from analyses.runs.extractions import EXTRACTIONS, with_extractions
from analyses.runs.leakage import ArmLeakage, leakage_curves, measure, untouched_p_value
from analyses.runs.opening import open_page
from analyses.runs.recovery import recover
from analyses.runs.rotation_tables import against_control_arms
from interp.errors import InputError
from interp.statistics import Estimate
from interp.store import read_table, write_csv

EQUIVALENCE = ("L_90", "drop")  # where "does not leak" is tested
RECOVERY_SETS = ("retained", "held_out")


class Run:
    """A run's folder as DataFrames; every number has its ``low``, ``high`` and ``n``.

    First access of a table computes it from the arms that were finished when the run was read.
    Rates, shares and probabilities lie between 0 and 1, angles are in degrees, log-odds in nats.

    Args:
        folder: a command's ``--out`` folder, or its record.

    Attributes:
        record: configuration, manifest and arms in the folder.

    Raises:
        InputError: the folder holds no scores of a base model.

    Example:
        >>> run = sp.example_run()
        >>> at_90 = run.leakage.query("quantity == 'L_90'")
        >>> at_90[["arm", "domain", "value", "low", "high", "n"]].shape[1]
        6
    """

    def __init__(self, folder: str | Path | RunRecord) -> None:
        self.record = folder if isinstance(folder, RunRecord) else read_run(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.record.folder)!r}): {len(self.record.arms)} arms"

    def explore(self) -> None:
        """Open the run's report: under the cell in a Jupyter notebook, else in the browser.

        Raises:
            InputError: the folder holds no report yet.
        """
        page = self.record.folder / "report.html"
        if not page.is_file():
            raise InputError(
                f"{self.record.folder} holds no report.html; write it with sp.report(FOLDER) or "
                "`spillover report FOLDER`, in a copy if the folder is read-only"
            )
        open_page(page)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One row per finished arm: its training and its outcome."""
        return _arms(self.record, self.measured, self.verdicts)

    @cached_property
    def behaviour(self) -> pd.DataFrame:
        """Rates and probabilities by arm, group of prompts and quantity; the base included."""
        return _stack(self._behaviours.values())

    @cached_property
    def leakage(self) -> pd.DataFrame:
        """Lost refusal by arm, domain and quantity: ``L_90``, ``drop``, ``area``, ``onset``."""
        return _stack(_leakage(arm, self.measured[arm.name]) for arm in self.record.arms)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Lost refusal of every domain along the forgetting level of the target."""
        return _stack(
            leakage_curves(arm.scores, arm.concept).assign(arm=arm.name)
            for arm in self.record.arms
            if arm.concept and arm.matched
        )

    @cached_property
    def recovery(self) -> pd.DataFrame:
        """Recovery by a retain set, by contained arm and set of domains."""
        return _stack(
            _recovery(arm, self.record, self.measured, self.verdicts)
            for arm in self.record.arms
            if arm.retain
        )

    @cached_property
    def rotation(self) -> pd.DataFrame:
        """Rotation, gain and offset of every domain's direction, by arm and layer.

        The null bands span the control arms that have finished by now.

        Rows of angles have ``by_position`` and ``by_contrast``: how far apart two ways to extract
        the same direction from the base model are, in degrees (:mod:`analyses.runs.extractions`).
        """
        arms = self.record.arms
        rotated = [(arm, arm.rotation) for arm in arms if arm.rotation is not None]
        controls = [table for arm, table in rotated if arm.control]
        stacked = _stack(
            against_control_arms(table, [] if arm.control else controls).assign(arm=arm.name)
            for arm, table in rotated
        )
        path = self.record.folder / "arms" / BASE / EXTRACTIONS
        if stacked.empty or not path.is_file():
            return stacked
        return with_extractions(stacked, read_table(path, ("domain", "layer")))

    @cached_property
    def harm(self) -> pd.DataFrame:
        """Whether each arm still sees harm, by probe, domain and layer; see
        :func:`analyses.runs.harm_and_refusal_table`.
        """
        return _stack(
            read_table(path, ("probe", "domain", "layer")).assign(arm=arm.name)
            for arm in self.record.arms
            if (path := self.record.folder / "arms" / arm.name / "harm.parquet").is_file()
        )

    @cached_property
    def cosine(self) -> pd.DataFrame:
        """Cosines between the base model's directions, by layer and pair of domains."""
        return self.record.cosine if self.record.cosine is not None else pd.DataFrame()

    @cached_property
    def verdicts(self) -> dict[str, TargetVerdict]:
        """Whether the target of an arm complies, by the arm's name."""
        acts = self._behaviours
        return {
            arm.name: verdict_on(arm.concept, acts[arm.name], acts[BASE])
            for arm in self.record.arms
            if arm.concept
        }

    def badge(self, arm: Arm) -> str:
        """A few words for the outcome of an arm's target, in figures and in the report.

        A question mark: the point estimates support it, but an interval contains its threshold.
        """
        if arm.concept is None:
            return "control" if arm.control else "compared"
        verdict = self.verdicts[arm.name]
        still_refuses = verdict.outcome is TargetOutcome.STILL_REFUSES
        if still_refuses and (why := self.no_level(arm)) == "level not reached":
            return why
        decided = verdict.decided or verdict.outcome is TargetOutcome.UNKNOWN
        return verdict.outcome.badge + ("" if decided else "?")

    @cached_property
    def by_text(self) -> bool:
        """Whether refusal is read from the text of answers, without log-odds."""
        scores = self.record.base.scores
        return "margin" in scores and bool(scores["margin"].isna().all())

    @property
    def what_is_lost(self) -> str:
        """The mean over a domain's prompts whose fall is its loss of refusal."""
        return "rate of refusals in text" if self.by_text else "mean p_R"

    def no_level(self, arm: Arm) -> str | None:
        """Why an arm has no leakage at 90% forgetting; None if it has one."""
        if not arm.matched or self.measured[arm.name].reached:
            return None
        return "low base" if self.measured[arm.name].low_source else "level not reached"

    def low_base(self, concept: str | None) -> Estimate | None:
        """The base model's refusal rate in a domain if it is low: then little can be unlearned."""
        base = self._behaviours[BASE]
        rows = rows_of(base, label="harmful", quantity="refusal_rate", group=concept)
        rate = estimate_of(rows.iloc[0]) if len(rows) else None
        return rate if rate is not None and rate.value < WEAKLY_ALIGNED else None

    @cached_property
    def decompositions(self) -> Mapping[str, Decomposition]:
        """Source, target and interaction effects of each objective with at least three sources."""
        parts = {
            str(objective): _decomposition(arms, self.leakage)
            for objective, arms in self.arms.groupby("objective", sort=False)
        }
        return {objective: found for objective, found in parts.items() if found is not None}

    @cached_property
    def measured(self) -> Mapping[str, ArmLeakage]:
        """Each arm's leakage with its resamples, by the arm's name."""
        return {arm.name: measure(arm.scores, arm.concept) for arm in self.record.arms}

    @cached_property
    def _behaviours(self) -> dict[str, pd.DataFrame]:
        return {arm.name: behaviour(arm) for arm in (self.record.base, *self.record.arms)}

    def write(self) -> None:
        """Write each table as CSV into the run's folder, atomically."""
        for name in ("arms", "behaviour", "leakage", "recovery", "rotation", "cosine"):
            write_csv(self.record.folder / f"{name}.csv", getattr(self, name))
        if not self.harm.empty:
            write_csv(self.record.folder / "harm.csv", self.harm)


def _stack(tables: object) -> pd.DataFrame:
    found = list(tables)  # type: ignore[call-overload]
    stacked = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if "arm" in stacked:
        stacked.insert(0, "arm", stacked.pop("arm"))
    return stacked


def _arms(
    record: RunRecord, leaks: Mapping[str, ArmLeakage], verdicts: dict[str, TargetVerdict]
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
    """`target`, `retained` or `held_out` (with a retain set), or `off_target` (without one)."""
    if domain == arm.concept:
        return "target"
    if arm.retain is None:
        return "off_target"
    return "retained" if domain in arm.retain else "held_out"


def _obstacle(name: str, verdict: TargetVerdict) -> str | None:
    """Why an arm's leakage does not count: its target does not comply, or this is unknown."""
    if verdict.outcome is TargetOutcome.UNKNOWN:
        return f"the {name} arm generated no text, so compliance is unknown"
    return None if verdict.answers else f"the {name} arm's target does not comply"


def _recovery(
    contained: Arm,
    record: RunRecord,
    leaks: Mapping[str, ArmLeakage],
    verdicts: dict[str, TargetVerdict],
) -> pd.DataFrame:
    plain = record.plain_of(contained)
    if plain is None:
        return pd.DataFrame()
    obstacle = None
    if leaks[contained.name].reached and leaks[plain.name].reached:  # else that is the reason
        obstacle = _obstacle("contained", verdicts[contained.name])
        obstacle = obstacle or _obstacle("plain", verdicts[plain.name])
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
    """Decompose A over plain arms that reached the level; None below 3 sources."""
    plain = arms[arms["retain"].isna() & arms["concept"].notna() & arms["reached"].astype(bool)]
    if plain["concept"].nunique() < 3:
        return None
    cells = leakage[(leakage["quantity"] == "area") & leakage["arm"].isin(plain["arm"])]
    try:
        return decompose(cells.rename(columns={"concept": "source", "domain": "target"}))
    except InputError:
        return None
