"""The plan of a study: a model, prompts, and a list of arms.

An arm is an objective to train or an existing checkpoint; all later stages use the same code. The
commands (demo, study, compare) differ only in the list of arms that they build here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.options import listed
from analyses.study.methods import Containment
from analyses.study.resolve import ANSWER_TOKENS, defaults_for
from interp import plugins
from interp.errors import InputError, expected
from interp.plugins import Plugin
from unlearning.data import DOMAINS
from unlearning.deflections import Sampling

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings

# A sweep tries these weights of the retain term, the smallest first; ratios of gradient norms.
WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)
# Requirements on validation prompts for choosing a weight.
LEAST_RECOVERY = 0.7
LEAST_ANSWERS = 0.8


@dataclass(frozen=True)
class ArmPlan:
    """One arm to make.

    Attributes:
        name: its folder.
        concept: the target domain; None if it is unknown or nothing is unlearned.
        training: training settings; None for a checkpoint.
        retain: domains whose deflections are retained, always together with benign answers.
        checkpoint: an existing model.
        control: a no-op arm, trained on benign answers for the same number of steps.
        sweep: one of several weights, tried in order until one contains the leakage.
        containment: containment settings, if it has more than a retain set.
    """

    name: str
    concept: str | None = None
    training: TrainingSettings | None = None
    retain: tuple[str, ...] = ()
    checkpoint: str | None = None
    control: bool = False
    sweep: bool = False
    containment: Containment | None = None

    @property
    def settings(self) -> TrainingSettings:
        """The training settings of a trained arm."""
        assert self.training is not None, f"{self.name} is not trained"
        return self.training

    def describe(self, stop_at: float) -> dict[str, Any]:
        """The arm's ``config.json``."""
        training = self.training
        return {
            "name": self.name,
            "concept": self.concept,
            "objective": training.objective if training else None,
            "options": training.hyperparameters if training else None,
            "retain": list(self.retain) or None,
            "retain_weight": training.retain_weight if training and self.retain else None,
            "reduction": {
                "forget": f"{training.objective}, mean over the step's examples",
                "retain": f"{training.retain_objective}, mean over a group's examples in the "
                "step, weighted sum over groups",
            }
            if training
            else None,
            "training": training.described() if training else None,
            "seed": training.seed if training else 0,
            "checkpoint": self.checkpoint,
            "control": self.control,
            **({"containment": asdict(self.containment)} if self.containment else {}),
            "stop_at": stop_at if training and not self.control else None,
            "selected": False,
        }


@dataclass(frozen=True)
class StudyPlan:
    """All inputs of a run.

    Attributes:
        model: hub id or folder.
        arms: arms to make, in order.
        concepts: targets.
        prompts: a prompts file; None for a model organism's own prompts, or the built-in pairs.
        deflections: ready-made pairs for the target, in place of phase 1.
        deflection_count: maximum number of deflections to train on, per domain.
        sampling: of refusals, where a domain's greedy ones are too few.
        scorer: a name that ``find_scorer`` knows, or ``auto``.
        stop_at: forgetting level at which the weights are saved.
        every_step: score after each step instead of at log-spaced ones.
        benign_along: score benign prompts at every scored step, not only before and after.
        bounds: maximum lost shares of the worst other domain's refusal and of the answers to
            benign prompts; training ends when one is exceeded.
        checkpoint_every: optimizer steps between checkpoints, from which an interrupted arm
            resumes; None writes none.
        report_to: trackers that Trainer knows, e.g. ``tensorboard``.
        max_new_tokens: of a generated answer.
        batch_size: prompts in one forward when scoring and generating.
        model_options: passed to ``LanguageModel.load``.
        command: the user's command line.
        estimator: estimator of the directions that every arm saves.
        overwrite: replace finished arms of the folder that were made from other inputs.
        gate: measure the direction gate of the base model; None: on a model organism, and where it
            takes at most a tenth of the work.
        plugins: plug-ins in use, with their sources, for the process that makes an arm.
    """

    model: str
    arms: tuple[ArmPlan, ...]
    concepts: tuple[str, ...] = ()
    prompts: str | None = None
    deflections: str | None = None
    deflection_count: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    scorer: str = "auto"
    stop_at: float = 0.95
    every_step: bool = False
    benign_along: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    checkpoint_every: int | None = None
    report_to: str = "none"
    max_new_tokens: int = ANSWER_TOKENS
    batch_size: int = 64
    model_options: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    estimator: str = "mean_difference"
    overwrite: bool = False
    gate: bool | None = None
    plugins: tuple[Plugin, ...] = field(default_factory=plugins.in_use)

    @property
    def more_inputs(self) -> tuple[str, ...]:
        """Further inputs of an arm's results; empty in a run without plug-ins or choices."""
        chosen = () if self.estimator == "mean_difference" else (self.estimator,)
        return (*(plugin.sha256 for plugin in self.plugins), *chosen)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({arm.training.seed for arm in self.arms if arm.training}))

    def deflected(self, *, ready_made: bool) -> tuple[str, ...]:
        """Domains whose refusals are training data: targets (unless ready-made) and retained."""
        trained = [arm for arm in self.arms if arm.training]
        targets = [] if ready_made else [arm.concept for arm in trained if arm.concept]
        return tuple(dict.fromkeys([*targets, *(d for arm in trained for d in arm.retain)]))

    @property
    def unlearns(self) -> bool:
        """Whether an arm unlearns a domain."""
        return any(arm.training and arm.concept for arm in self.arms)

    def without(self, short: Collection[str], *, ready_made: bool) -> StudyPlan:
        """The plan if the domains ``short`` have no training data: neither targets nor retained.

        Control arms go with the last arm that unlearns a domain.
        """
        targets = set() if ready_made else set(short)
        arms = []
        for arm in self.arms:
            retain = tuple(domain for domain in arm.retain if domain not in short)
            is_target = bool(arm.training) and arm.concept in targets
            if not is_target and (retain or not arm.retain):
                arms.append(replace(arm, retain=retain))
        left = replace(self, arms=tuple(arms))
        if not left.unlearns:
            arms = [arm for arm in arms if not arm.control]
        concepts = tuple(name for name in self.concepts if name not in targets)
        return replace(self, arms=tuple(arms), concepts=concepts)


def unlearning_arms(
    concepts: Sequence[str],
    training: TrainingSettings,
    *,
    seeds: Sequence[int],
    retain: Mapping[str, tuple[str, ...]],
    weights: Sequence[float] = (),
    control: bool = True,
) -> tuple[ArmPlan, ...]:
    """A control arm per seed, and for every concept and seed a plain arm and the retain sweep.

    Args:
        concepts: targets.
        training: settings that all arms share; the seed and the weight are replaced.
        seeds: unlearning seeds.
        retain: retained domains per concept; a concept without any gets no contained arm.
        weights: of the retain term, in the order in which they are tried.
        control: whether to make the benign-only arm, the null of the rotation.
    """
    arms = []
    for seed in seeds:
        seeded = replace(training, seed=seed)
        if control:
            plain = replace(seeded, objective="cross_entropy", options={})
            arms.append(ArmPlan(f"control-seed{seed}", training=plain, control=True))
        for concept in concepts:
            name = f"{concept}-{training.objective}"
            arms.append(ArmPlan(f"{name}-seed{seed}", concept, seeded))
            unit = "ratio" if training.retain_unit == "gradient" else "retain"
            for weight in weights if retain.get(concept) else ():
                arms.append(
                    ArmPlan(
                        f"{name}-{unit}{weight:g}-seed{seed}",
                        concept,
                        replace(seeded, retain_weight=weight),
                        retain=retain[concept],
                        sweep=len(weights) > 1,
                    )
                )
    return tuple(arms)


def weights_to_try(
    given: Sequence[float] | None, unit: str | None, training: TrainingSettings
) -> tuple[tuple[float, ...], TrainingSettings]:
    """The weights of a sweep, and the settings with their unit.

    Given weights are in units of the loss. Others are ratios of gradient norms, which mean the same
    in every model, except for distances to the base model: they have no gradient there.

    Args:
        given: the user's weights, if any.
        unit: the user's unit, if any.
        training: settings of the arms.
    """
    from unlearning.losses import RETAIN

    if given or training.adaptive:
        weights = tuple(sorted(set(given or (1.0,))))
        return weights, replace(training, retain_unit=unit or "loss")
    is_distance = RETAIN.find(training.retain_objective).is_distance
    return WEIGHTS, replace(training, retain_unit=unit or ("loss" if is_distance else "gradient"))


def alternate_domains(concept: str, domains: Sequence[str] = DOMAINS) -> tuple[str, ...]:
    """Every second domain other than ``concept``: the retained ones; the rest is held out."""
    others = [domain for domain in domains if domain != concept]
    return tuple(others[::2])


def parse_retain(text: str | None, concept: str, present: Sequence[str]) -> tuple[str, ...]:
    """``equal`` (all other domains), ``alternate`` (every second one), or a list of domains.

    Raises:
        InputError: an unknown domain, one without prompts, or the target itself.
    """
    if text is None:
        return ()
    if text == "equal":
        return tuple(domain for domain in present if domain != concept)
    if text == "alternate":
        return alternate_domains(concept, present)
    names = listed(text)
    known = ["equal", "alternate", *(domain for domain in present if domain != concept)]
    wrong = [name for name in names if name not in present or name == concept]
    if wrong or not names:
        raise InputError(
            f"--retain {text}: {', '.join(wrong) or 'nothing'} cannot be retained"
            f"{expected(wrong[0] if wrong else '', known, 'expected some of')}"
        )
    return tuple(dict.fromkeys(names))


def demo_plan(seeds: int) -> StudyPlan:
    """The paper's two concepts on the packaged model organism: NPO with and without retain set."""
    from unlearning.organism import shipped

    concepts = ("cybersecurity", "safety")
    return organism_plan(
        str(shipped()),
        concepts,
        seeds=tuple(range(seeds)),
        retain={concept: alternate_domains(concept) for concept in concepts},
        weights=WEIGHTS,
        unit="gradient",
        command=f"spillover demo --seeds {seeds}",
    )


def organism_plan(
    folder: str,
    concepts: Sequence[str],
    *,
    seeds: Sequence[int],
    retain: Mapping[str, tuple[str, ...]] | None = None,
    weights: Sequence[float] = (),
    unit: str = "loss",
    control: bool = True,
    command: str = "",
) -> StudyPlan:
    """A study of a model organism with the settings that it was tuned with."""
    own = defaults_for(folder)
    training = replace(own.training, retain_unit=unit)
    arms = unlearning_arms(
        concepts, training, seeds=seeds, retain=retain or {}, weights=weights, control=control
    )
    return StudyPlan(folder, arms, tuple(concepts), command=command, **own.study)


def compare_plan(base: str, after: str, **options: Any) -> StudyPlan:
    """The plan for two existing models: all stages except training."""
    concept = options.pop("concept", None)
    arm = ArmPlan(_name_of(after), concept, checkpoint=after)
    given = {name: value for name, value in options.items() if value is not None}
    own = defaults_for(base).study
    return StudyPlan(base, (arm,), (concept,) if concept else (), **own | given)


def _name_of(after: str) -> str:
    """The arm's name: the folder's name, or for an arm's weights the name of their arm."""
    path = Path(after).resolve()
    name = path.parent.name if path.name in ("adapter", "model") else path.name
    return name if name not in ("", "base") else "after"
