"""Options that several commands share; each group is a record.

A command takes a record instead of single options; ``analyses.commands`` gives its fields to Typer
and to Python as options.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.commands import COMMAS, PAIRS, opt
from interp.errors import InputError

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings


ORGANISM = "organism"


def known_model(source: str | None) -> str | None:
    """The model's source, with the name of a packaged model organism replaced by its folder.

    ``organism`` and ``organism:RECIPE`` are such names; ``./organism`` is a folder.

    Raises:
        InputError: the recipe is unknown.
    """
    name, _, recipe = (source or "").partition(":")
    if name != ORGANISM:
        return source
    from unlearning.organism import GATED, shipped

    return str(shipped(recipe or GATED))


MODEL = (
    "Model: hub id, model folder, adapter folder, GGUF file, or organism (the packaged model "
    "organism; organism:ungated is an older one)."
)
Model = Annotated[str, typer.Argument(callback=known_model, help=MODEL)]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Folder of the results; a word in capitals stands for the value of that option. The "
        "same command resumes there.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace finished results in --out that were made from other inputs; without it they "
        "are kept and the command stops.",
    ),
]
DryRunOnly = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the plan and its cost (steps, tokens, memory, time) and do nothing.",
    ),
]
Timing = Annotated[
    bool,
    typer.Option(
        help="Measure some steps of the model's architecture on the device, for the plan's time."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="Prompts file (JSONL, CSV or parquet) with the columns prompt, domain and label "
        "(default: a model organism's own prompts, else the built-in matched pairs).",
    ),
]
Deflections = Annotated[
    Path | None,
    typer.Option(
        help="File of the target's refusals (prompt, response and, for DPO, preferred) to train on "
        "(default: the model's own answers, collected first)."
    ),
]
Concept = Annotated[str, typer.Option(help="Domain whose refusals are unlearned.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="Number of unlearning seeds; each arm is trained once per seed.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice of this command.")]
Control = Annotated[
    bool,
    typer.Option(
        help="Also train a control arm on benign prompts only; rotations are compared with it."
    ),
]
AnswerTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        help="Maximum length of a generated answer, in tokens (default: 48; 16 for a model "
        "organism).",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device that runs models: cuda, cuda:1 or cpu (default: cuda where there is one)."
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="Number of prompts in one forward pass; halved when they do not fit in memory."
    ),
]
ScorerName = Annotated[
    str,
    typer.Option(
        "--scorer",
        help="Scorer that decides whether an answer is a refusal: auto (panel; grammar for a "
        "model organism) or one of {unlearning.scoring:scorer}; a judge is judge:MODEL@URL.",
    ),
]
EstimatorName = Annotated[
    str,
    typer.Option(
        "--estimator",
        help="Estimator of the concept directions that each arm keeps: "
        "{interp.directions:estimator}.",
    ),
]
CHECKPOINT_EVERY = 10
CheckpointEvery = Annotated[
    int,
    typer.Option(
        min=1, help="Optimizer steps between checkpoints, from which an interrupted arm resumes."
    ),
]
ForgettingLevel = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the target's refusal that is gone in the kept model (default: 0.95; 0.9 for "
        "a model organism; reproduce keeps the last step of other models).",
    ),
]
LoraRank = Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapters; alpha equals it.")]
LearningRate = Annotated[
    float | None,
    typer.Option(min=0, help="Learning rate (default: 5e-5; a model organism's own, 3e-4)."),
]
TrainBatch = Annotated[
    int | None,
    typer.Option(min=1, help="Number of forget examples per optimizer step (default: 32)."),
]
RetainRatio = Annotated[
    int, typer.Option(min=1, help="Number of retain examples per forget example.")
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of forget examples in one forward pass; a divisor of --batch-size "
        "(default: all of a step).",
    ),
]
GradientCheckpointing = Annotated[
    bool, typer.Option(help="Recompute activations in the backward pass: less memory, more time.")
]
Autocast = Annotated[
    bool, typer.Option(help="Run the forward pass in bfloat16 over float32 weights.")
]
ShowCompletions = Annotated[
    bool, typer.Option(help="Put generated answers into the report, which may be harmful text.")
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Address of an OpenAI-compatible server (vLLM, say) that serves MODEL (default: the "
        "model is loaded here)."
    ),
]


GATE_HELP = (
    "Measure whether one direction carries refusal (default: doctor does not; a study does on a "
    "model organism, and where it takes at most a tenth of the work)."
)


@dataclass(frozen=True)
class StudyOptions:
    """Attributes of a ``StudyPlan`` that every study may change; ``None`` keeps the default."""

    forgetting_level: ForgettingLevel = None
    max_new_tokens: AnswerTokens = None
    scorer: ScorerName = "auto"
    estimator: EstimatorName = "mean_difference"
    checkpoint_every: CheckpointEvery = CHECKPOINT_EVERY
    samples: int | None = opt(
        None,
        "Sampled answers to each training prompt at most, where a domain has too few greedy "
        "refusals to train on (default: 8).",
        min=0,
    )
    temperature: float | None = opt(
        None, "Sampling temperature of these answers (default: 1).", min=0
    )
    overwrite: Overwrite = False
    gate: bool | None = opt(None, GATE_HELP, "--gate/--no-gate")
    report_to: str = opt("none", "Tracker that the Trainer reports to, e.g. tensorboard.")

    def for_plan(self) -> dict[str, Any]:
        """Attributes of a ``StudyPlan``, by its names."""
        from unlearning.deflections import Sampling

        given = dict(vars(self))
        drawn = {name: given.pop(name) for name in ("samples", "temperature")}
        sampling = Sampling(**{name: one for name, one in drawn.items() if one is not None})
        return {"stop_at": given.pop("forgetting_level"), "sampling": sampling, **given}


@dataclass(frozen=True)
class WorkerOptions:
    """How and where arms are trained."""

    workers: int = opt(
        1, "Number of arms trained at a time; with several GPUs each takes one.", min=1
    )
    engine: str = opt("local", "Where arms are trained: local, or ray (needs the extra ray).")
    share_device: bool = opt(
        False, "Let several arms train on one device, if they fit it together."
    )
    gpus_per_arm: float | None = opt(
        None, "GPUs of each arm on Ray, e.g. 0.5 (default: 1 where the cluster has GPUs).", min=0
    )
    arm_minutes: float | None = opt(
        None, "Time limit of one attempt at an arm, in minutes (default: none).", min=0.01
    )
    retries: int = opt(
        3, "Further attempts at an arm whose worker was lost or ran out of time.", min=0
    )

    @property
    def are_used(self) -> bool:
        """Whether other processes make the arms."""
        return self.workers > 1 or self.engine != "local"


ALONE = WorkerOptions()
"""One process makes all arms."""


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded and prompted."""

    revision: str | None = opt(
        None, "Branch, tag or commit of the model on the hub (default: main)."
    )
    system: str | None = opt(
        None, "System message before every prompt (default: the template's own)."
    )
    chat_template: Path | None = opt(
        None, "Jinja file of the chat template (default: the model's own)."
    )
    chat_template_arg: list[str] | None = opt(
        None,
        "Variable of the chat template, e.g. enable_thinking=false; may be repeated.",
        metavar=PAIRS,
    )
    response_prefix: str = opt("", "Words that every answer begins with (default: none).")
    device: Device = None
    trust_remote_code: bool = opt(False, "Run model code that comes with the checkpoint.")
    layers_path: str | None = opt(
        None, "Module path of the decoder layers, e.g. model.layers (default: found automatically)."
    )

    def for_loading(self) -> dict[str, Any]:
        """Arguments of ``LanguageModel.load``."""
        options: dict[str, Any] = {
            "revision": self.revision,
            "system": self.system,
            "response_prefix": self.response_prefix,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code,
            "layers_path": self.layers_path,
        }
        if self.chat_template is not None:
            try:
                options["template"] = self.chat_template.read_text(encoding="utf-8")
            except OSError as error:
                raise InputError(
                    f"--chat-template {self.chat_template}: {error.strerror}"
                ) from error
        options["template_arguments"] = _named(self.chat_template_arg, "--chat-template-arg")
        return {name: value for name, value in options.items() if value}


# Options with another name than the field of ``TrainingSettings``; files use the field's name.
SETTINGS = {"trainable": "trained", "gradient_checkpointing": "activation_checkpointing"}
# Options that are lists of names.
LISTS = {"lora_targets", "lora_exclude"}


@dataclass(frozen=True)
class TrainingOptions:
    """How arms are trained; options that are not given keep the model's settings."""

    objective: str = opt(
        "npo",
        "Loss on the forget set (matrix takes several): {unlearning.losses:objective}.",
        metavar=COMMAS,
    )
    objective_file: Path | None = opt(
        None, "Python file of an objective; the same as --plugin (default: none)."
    )
    beta: float | None = opt(
        None, "NPO's inverse temperature β (default: 0.1; 0.5 for a model organism).", min=0
    )
    option: list[str] | None = opt(
        None, "Option of the objective, e.g. delta=0.5; may be repeated.", metavar=PAIRS
    )
    retain: str | None = opt(
        None,
        "Domains whose refusals are retained: equal (all others), alternate (every second one), "
        "or their names (default: none).",
        metavar=COMMAS,
    )
    retain_weight: list[float] | None = opt(
        None,
        "Weight of the retain loss; several are tried in order until one contains the leakage "
        "(default: 0.03, 0.1, 0.3, 1, 3 as ratios of gradient norms).",
    )
    retain_unit: str | None = opt(
        None,
        "Unit of the retain weight: loss (the forget loss has weight 1), or gradient (ratio of "
        "the gradients' norms at the base model) (default: loss for given weights).",
        metavar="<loss|gradient>",
    )
    retain_ratio: RetainRatio = 1
    retain_objective: str = opt(
        "cross_entropy", "Loss on the retain set: {unlearning.losses:retain_term}."
    )
    adaptive: bool = opt(
        False,
        "Learn one Lagrange multiplier per retained domain, which keeps its loss under a bound.",
    )
    slack: float = opt(
        0.1, "Distance of that bound above the base model's loss, in the retain loss's unit."
    )
    trainable: str | None = opt(
        None,
        "Trained parameters: lora, projections or all (default: lora; projections for a model "
        "organism).",
    )
    lora_rank: LoraRank = 128
    lora_targets: str | None = opt(
        None,
        "Modules of the layers that alone get adapters, by name, e.g. q_proj,mlp.experts "
        "(default: every linear weight of the layers).",
        metavar=COMMAS,
    )
    lora_exclude: str | None = opt(
        None,
        "Modules of the layers that get no adapter, by name, e.g. out_proj (default: only those "
        "that cannot have one).",
        metavar=COMMAS,
    )
    layer: int | None = opt(
        None,
        "Layer whose states rmu and feature_l2 read, from 0 (default: a quarter of the depth).",
        min=0,
    )
    learning_rate: LearningRate = None
    batch_size: TrainBatch = None
    micro_batch_size: MicroBatch = None
    separate_backward: bool = opt(
        False, "Run separate backward passes for forget and retain: less memory."
    )
    gradient_checkpointing: GradientCheckpointing = False
    autocast: Autocast = False
    max_steps: int | None = opt(
        None, "Maximum number of optimizer steps (default: 200; 80 for a model organism).", min=1
    )

    def settings(self, own: TrainingSettings) -> TrainingSettings:
        """``own`` (the model's settings) with the given options."""
        from dataclasses import replace

        from unlearning.losses import FORGET

        FORGET.find(self.objective)
        options = dict(own.options) if self.objective == own.objective else {}
        options |= _named(self.option, "--option")
        if self.beta is not None:
            options["beta"] = self.beta
        # Fields with the same name mean the same, but an arm has one of several given weights.
        asked = {SETTINGS.get(name, name): value for name, value in vars(self).items()}
        shared = {one.name for one in fields(own)} & asked.keys() - {"retain_weight"}
        given = {name: asked[name] for name in shared if asked[name] is not None}
        given |= {name: listed(given[name]) for name in LISTS & given.keys()}
        return replace(own, options=options, lora_alpha=float(self.lora_rank), **given)


def listed(text: str | None) -> tuple[str, ...]:
    """The names in a text, separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _named(pairs: list[str] | None, option: str) -> dict[str, Any]:
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"{option} {pair}: expected name=value")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
