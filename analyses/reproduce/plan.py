"""Turn the paper's protocol into a study plan: arms, their length, and arms left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from analyses.reproduce.protocol import (
    BETA,
    CONCEPTS,
    FULL_RANK_GRID,
    PAPER_GRID,
    RETAIN_WEIGHT,
    UTILITY_DROP,
    Grid,
    PaperModel,
    Setting,
    arms_of,
)
from analyses.reproduce.published import FINE_TUNING, NPO
from analyses.study import ArmPlan, Defaults, StudyPlan, defaults_for
from interp.errors import InputError
from unlearning.data import present_domains, require_concepts
from unlearning.deflections import FEWEST_DEFLECTIONS

if TYPE_CHECKING:
    import pandas as pd

    from analyses.evaluate import TaskPlan
    from unlearning.training import TrainingSettings

# At this forgetting level arms make all steps, and the last one is kept: the paper's epochs.
NEVER = 1.0
MAKE_PROMPTS = "make a file of prompts with `spillover prompts make` (docs/how-to/reproduction.md)"


@dataclass(frozen=True)
class ProtocolOptions:
    """The user's options.

    Attributes:
        model: hub id, model folder or adapter folder.
        known: the paper's model, if ``model`` is one of them.
        concepts: domains to unlearn (default: the paper's two, if they have prompts).
        prompts: a file; None for a model organism's own prompts, or the built-in pairs.
        whole_grid: every point of the grid instead of its first.
        stop_at: forgetting level at which an arm is kept (default: a model organism's own; for
            other models none, as in the paper).
        axes: values of the grid's axes (``ranks=(16,)``) in place of the preset's.
        training: further ``TrainingSettings``: memory and seed.
        study: further attributes of ``StudyPlan``.
        tasks: of the LM Evaluation Harness, for the base and every reported arm.
    """

    model: str
    known: PaperModel | None = None
    concepts: tuple[str, ...] = ()
    prompts: str | None = None
    whole_grid: bool = False
    stop_at: float | None = None
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)
    tasks: TaskPlan | None = None

    @property
    def defaults(self) -> Defaults:
        """The defaults for the model."""
        return defaults_for(self.model)

    def grid(self, concept: str) -> Grid:
        """The settings of a concept's arms."""
        if self.defaults.organism:
            rate = self.defaults.training.learning_rate
            grid = replace(FULL_RANK_GRID, learning_rates=(rate, rate / 5))
        else:
            full = self.known is not None and concept in self.known.full_rank
            grid = FULL_RANK_GRID if full else PAPER_GRID
        grid = replace(grid, **self.axes)
        return grid if self.whole_grid else grid.headline()

    @property
    def departures(self) -> tuple[str, ...]:
        """Sentences on settings that differ from the paper."""
        found = [
            f"{axis.replace('_', ' ')}: {', '.join(map(str, values))}, as asked for"
            for axis, values in self.axes.items()
            if not set(values) <= set(getattr(PAPER_GRID, axis))
        ]
        if self.known and self.known.full_rank and "ranks" in self.axes:
            found.append(f"{', '.join(self.known.full_rank)}: with LoRA, as asked for")
        if self.defaults.organism:
            beta = self.defaults.training.hyperparameters["beta"]
            found.append(
                "a model organism, thousands of times smaller than the paper's models: its "
                f"attention and MLP projections are trained, without LoRA, at its own "
                f"learning rate and β ({beta})"
            )
        if self.forgetting_level < NEVER:
            found.append(
                f"an arm is kept at a loss of {self.forgetting_level:.0%} of the target's refusal "
                "(p_R on validation prompts), not at its last step"
            )
        return tuple(found)

    @property
    def forgetting_level(self) -> float:
        """Lost share of the target's refusal at which an arm is kept."""
        if self.stop_at is not None:
            return self.stop_at
        return float(self.defaults.study.get("stop_at", NEVER))


@dataclass(frozen=True)
class PaperArm:
    """A row of the table at one point of the grid."""

    concept: str
    objective: str
    retained: bool
    setting: Setting
    plan: ArmPlan

    @property
    def arm(self) -> tuple[str, str, bool]:
        """The key of its row in the table."""
        return self.concept, self.objective, self.retained


@dataclass(frozen=True)
class LeftOut:
    """An arm (or, without objective, a concept) that the plan leaves out, and the reason."""

    concept: str
    objective: str | None
    retained: bool
    why: str

    @property
    def arm(self) -> tuple[str, str | None, bool]:
        """The key of its row in the table."""
        return self.concept, self.objective, self.retained


@dataclass(frozen=True)
class Planned:
    """A study of the paper's arms."""

    study: StudyPlan
    arms: tuple[PaperArm, ...]
    left_out: tuple[LeftOut, ...]
    deflections: Mapping[str, int]

    def without(self, failed: Mapping[str, str]) -> Planned:
        """The plan without the arms that cannot be trained, each with the reason."""
        missing = [
            LeftOut(*one.arm, f"{one.setting.words}: {failed[one.plan.name]}")
            for one in self.arms
            if one.plan.name in failed
        ]
        arms = tuple(one for one in self.arms if one.plan.name not in failed)
        return replace(self, arms=arms, left_out=(*self.left_out, *missing))


def planned(
    asked: ProtocolOptions, prompts: pd.DataFrame, refused: Mapping[str, int] | None = None
) -> Planned:
    """The study's plan: an upper bound before phase 1, exact once refusals are known.

    Args:
        asked: the user's options.
        prompts: the prompts table.
        refused: deflections of every domain on training prompts; if None, every
            harmful training prompt counts as a deflection.

    Raises:
        InputError: a given concept cannot be unlearned, or no concept can.
    """
    options = asked.defaults.study | {"stop_at": asked.forgetting_level}
    most = options.get("deflection_count")
    counts = {d: min(n, most or n) for d, n in (refused or _asked_of(prompts)).items()}
    left_out: list[LeftOut] = []
    arms: list[PaperArm] = []
    for concept in dict.fromkeys(asked.concepts or CONCEPTS):
        why = _obstacle(prompts, counts, concept)
        if why and asked.concepts:
            raise InputError(f"{why}; {MAKE_PROMPTS}")
        if why:
            left_out.append(LeftOut(concept, None, False, why))
            continue
        made, missing = _arms(asked, prompts, counts, concept)
        arms += made
        left_out += missing
    if not arms:
        raise InputError(f"{'; '.join(one.why for one in left_out)}; {MAKE_PROMPTS}")
    study = StudyPlan(
        asked.model,
        tuple(one.plan for one in arms),
        tuple(dict.fromkeys(one.concept for one in arms)),
        prompts=asked.prompts,
        benign_along=True,
        bounds=(None, UTILITY_DROP if _has_benign(prompts) else None),
        gate=False,
        **{**options, **asked.study},
    )
    return Planned(study, tuple(arms), tuple(left_out), counts)


def _arms(
    asked: ProtocolOptions, prompts: pd.DataFrame, counts: Mapping[str, int], concept: str
) -> tuple[list[PaperArm], list[LeftOut]]:
    others = tuple(
        domain
        for domain in present_domains(prompts)
        if domain != concept and counts.get(domain, 0) >= FEWEST_DEFLECTIONS
    )
    arms, left_out = [], []
    for objective, retained in arms_of(concept):
        why = None
        if objective == FINE_TUNING and not _has_compliances(prompts, concept):
            why = "the column compliance lacks answers to training prompts"
        elif retained and not others:
            why = f"no other domain has {FEWEST_DEFLECTIONS} deflections to retain"
        if why:
            left_out.append(LeftOut(concept, objective, retained, why))
            continue
        for setting in asked.grid(concept).points(retained=retained):
            name = f"{concept}-{objective}{'-retain' if retained else ''}-{setting.name}"
            training = _training(asked, objective, setting, counts[concept])
            retain = others if retained else ()
            plan = ArmPlan(name, concept, training, retain=retain)
            arms.append(PaperArm(concept, objective, retained, setting, plan))
    return arms, left_out


def _training(
    asked: ProtocolOptions, objective: str, setting: Setting, deflections: int
) -> TrainingSettings:
    from unlearning.training import TrainingSettings

    own = TrainingSettings(trained="all", options={"beta": BETA})
    if asked.defaults.organism:
        own = asked.defaults.training
    own = replace(own, **asked.training)
    if setting.rank is not None:
        rank = setting.rank
        own = replace(own, trained="lora", lora_rank=rank, lora_alpha=float(rank))
    return replace(
        own,
        objective=objective,
        options=own.options if objective == NPO else {},
        retain_weight=RETAIN_WEIGHT,
        retain_ratio=setting.retain_ratio or 1,
        learning_rate=setting.learning_rate,
        batch_size=setting.batch_size,
        max_steps=setting.steps(deflections),
    )


def _asked_of(prompts: pd.DataFrame) -> dict[str, int]:
    """Harmful training prompts of every domain."""
    rows = prompts[(prompts["label"] == "harmful") & (prompts["split"] == "train")]
    return {str(domain): int(n) for domain, n in rows["domain"].value_counts().items()}


def _obstacle(prompts: pd.DataFrame, counts: Mapping[str, int], concept: str) -> str | None:
    try:
        require_concepts(prompts, (concept,))
    except InputError as error:
        return str(error)
    if counts.get(concept, 0) < FEWEST_DEFLECTIONS:
        return (
            f"{concept} has {counts.get(concept, 0)} training prompts that are (or may be) "
            f"refused; {FEWEST_DEFLECTIONS} are needed"
        )
    return None


def _has_benign(prompts: pd.DataFrame) -> bool:
    """Whether utility can be measured along training."""
    return bool(((prompts["label"] == "benign") & (prompts["split"] == "validation")).any())


def _has_compliances(prompts: pd.DataFrame, concept: str) -> bool:
    if "compliance" not in prompts:
        return False
    rows = prompts[(prompts["domain"] == concept) & (prompts["label"] == "harmful")]
    return bool(rows.loc[rows["split"] == "train", "compliance"].notna().all())
