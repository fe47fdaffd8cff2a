"""Options that several commands share, each group in one record.

A command takes a record where it would take its options one by one; ``analyses.commands`` shows
Typer, and Python, the options inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.commands import COMMAS, PAIRS
from interp.errors import InputError

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings


ORGANISM = "organism"


def known_model(source: str | None) -> str | None:
    """``organism`` is the model organism that comes with the package, ``./organism`` a folder."""
    if source != ORGANISM:
        return source
    from unlearning.organism import shipped

    return str(shipped())


MODEL_HELP = "Hub id, model folder or adapter folder, or organism: the packaged model organism."
Model = Annotated[str, typer.Argument(callback=known_model, help=MODEL_HELP)]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Where the results go; a word in capitals is replaced by what it was given. The same "
        "command resumes there.",
    ),
]
DryRunOnly = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan, with what it takes, and do nothing.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="JSONL, CSV or parquet: prompt, domain, label "
        "(default: an organism's own, else the built-in pairs).",
    ),
]
Deflections = Annotated[
    Path | None,
    typer.Option(help="The target's ready-made prompt, response (and preferred); skips phase 1."),
]
Control = Annotated[bool, typer.Option(help="Also train a benign-only arm, as null.")]
AnswerTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", min=1, help="Of a generated answer (default: 48; an organism's own 16)."
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Prompts in one forward; halved where they do not fit.")
]
ScorerName = Annotated[
    str, typer.Option("--scorer", help="auto, or: {unlearning.scoring:scorer} (judge:MODEL@URL).")
]
EstimatorName = Annotated[
    str,
    typer.Option(
        "--estimator",
        help="Estimator of the directions that arms keep: {interp.directions:estimator}.",
    ),
]
CheckpointEvery = Annotated[
    int | None, typer.Option(min=1, help="Steps between checkpoints that a run goes on from.")
]


@dataclass(frozen=True)
class StudyOptions:
    """Attributes of a ``StudyPlan`` that every study may change; ``None`` leaves its own."""

    forgetting_level: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Forgetting level at which the model is kept (default: 0.95, or an organism's "
            "own 0.9).",
        ),
    ] = None
    max_new_tokens: AnswerTokens = None
    scorer: ScorerName = "auto"
    estimator: EstimatorName = "mean_difference"
    checkpoint_every: CheckpointEvery = None
    report_to: Annotated[str, typer.Option(help="Where Trainer reports to: tensorboard, …")] = (
        "none"
    )

    def for_plan(self) -> dict[str, Any]:
        """Attributes of a ``StudyPlan``, by its names."""
        given = dict(vars(self))
        return {"stop_at": given.pop("forgetting_level"), **given}


@dataclass(frozen=True)
class WorkerOptions:
    """Where arms are made."""

    workers: Annotated[int, typer.Option(min=1, help="Arms at a time.")] = 1
    engine: Annotated[str, typer.Option(help="local, or ray (extra ray).")] = "local"


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded and spoken to."""

    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None
    system: Annotated[str | None, typer.Option(help="System message before every prompt.")] = None
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file that replaces the model's own.")
    ] = None
    chat_template_arg: Annotated[
        list[str] | None,
        typer.Option(metavar=PAIRS, help="name=value, e.g. enable_thinking=false."),
    ] = None
    response_prefix: Annotated[str, typer.Option(help="Words every answer begins with.")] = ""
    device: Annotated[str | None, typer.Option(help="cuda, cpu, …")] = None
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run model code that comes with the checkpoint.")
    ] = False

    def for_loading(self) -> dict[str, Any]:
        """Arguments of ``LanguageModel.load``."""
        options: dict[str, Any] = {
            "revision": self.revision,
            "system": self.system,
            "response_prefix": self.response_prefix,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code,
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


# Options whose name is not that of the field of ``TrainingSettings``, which files have as a key.
SETTINGS = {"trainable": "trained", "gradient_checkpointing": "activation_checkpointing"}


@dataclass(frozen=True)
class TrainingOptions:
    """How arms are trained; what is not given is the model's own setting."""

    objective: Annotated[
        str,
        typer.Option(
            metavar=COMMAS,
            help="Loss of the forget set; matrix takes several: {unlearning.losses:objective}.",
        ),
    ] = "npo"
    objective_file: Annotated[
        Path | None, typer.Option(help="A plug-in with an objective; the same as --plugin.")
    ] = None
    beta: Annotated[float | None, typer.Option(min=0, help="NPO's β; 0.1.")] = None
    option: Annotated[
        list[str] | None,
        typer.Option(metavar=PAIRS, help="name=value, for the objective: delta=0.5."),
    ] = None
    retain: Annotated[
        str | None,
        typer.Option(metavar=COMMAS, help="equal, alternate, or domains separated by commas."),
    ] = None
    retain_weight: Annotated[
        list[float] | None, typer.Option(help="Several are tried until one contains.")
    ] = None
    retain_ratio: Annotated[int, typer.Option(min=1, help="Retain per forget example.")] = 1
    retain_objective: Annotated[
        str, typer.Option(help="Loss of the retain set: {unlearning.losses:retain_term}.")
    ] = "cross_entropy"
    adaptive: Annotated[
        bool, typer.Option(help="A multiplier per retained domain holds it under its bound.")
    ] = False
    slack: Annotated[
        float, typer.Option(help="How far above the base a bound lies, in the retain term's unit.")
    ] = 0.1
    trainable: Annotated[str | None, typer.Option(help="lora, projections or all.")] = None
    lora_rank: Annotated[int, typer.Option(min=1)] = 128
    layer: Annotated[
        int | None, typer.Option(min=0, help="Whose states rmu and feature_l2 read.")
    ] = None
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None
    batch_size: Annotated[int | None, typer.Option(min=1, help="Forget examples a step; 32.")] = (
        None
    )
    micro_batch_size: Annotated[int | None, typer.Option(min=1)] = None
    separate_backward: Annotated[
        bool, typer.Option(help="Forget and retain in passes of their own: less memory.")
    ] = False
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Compute activations again: less memory, more time.")
    ] = False
    autocast: Annotated[bool, typer.Option(help="bfloat16 forward over float32 weights.")] = False
    max_steps: Annotated[int | None, typer.Option(min=1, help="At most; 200.")] = None

    def settings(self, own: TrainingSettings) -> TrainingSettings:
        """``own`` (the model's settings) with what was asked for in its place."""
        from dataclasses import replace

        from unlearning.losses import FORGET

        FORGET.find(self.objective)
        options = dict(own.options) if self.objective == own.objective else {}
        options |= _named(self.option, "--option")
        if self.beta is not None:
            options["beta"] = self.beta
        # Fields of one name mean the same; of the weights, several may be given, an arm has one.
        asked = {SETTINGS.get(name, name): value for name, value in vars(self).items()}
        shared = {one.name for one in fields(own)} & asked.keys() - {"retain_weight"}
        given = {name: asked[name] for name in shared if asked[name] is not None}
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
