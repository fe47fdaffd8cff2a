"""Options that several commands share, each group in one record.

A command takes a record where it would take its options one by one; ``expanded`` shows Typer the
options inside.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from interp import plugins
from interp.errors import InputError
from interp.registry import declared, declared_by_plugins

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings


ENTRIES = re.compile(r"\{([\w.]+):(\w+)\}")

Model = Annotated[str, typer.Argument(help="Hub id, model folder or adapter folder.")]
Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")]
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

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="Python file that registers entries of your own; may be repeated."
    ),
]


@dataclass(frozen=True)
class StudyOptions:
    """Attributes of a ``StudyPlan`` that every study may change; ``None`` leaves its own."""

    stop_at: Annotated[
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
        list[str] | None, typer.Option(help="name=value, e.g. enable_thinking=false.")
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


@dataclass(frozen=True)
class TrainingOptions:
    """How arms are trained; what is not given is the model's own setting."""

    objective: Annotated[
        str, typer.Option(help="Loss of the forget set: {unlearning.losses:objective}.")
    ] = "npo"
    objective_file: Annotated[
        Path | None, typer.Option(help="A plug-in with an objective; the same as --plugin.")
    ] = None
    beta: Annotated[float | None, typer.Option(min=0, help="NPO's β; 0.1.")] = None
    option: Annotated[
        list[str] | None, typer.Option(help="name=value, for the objective: delta=0.5.")
    ] = None
    retain: Annotated[
        str | None, typer.Option(help="equal, alternate, or domains separated by commas.")
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
    trained: Annotated[str | None, typer.Option(help="lora, projections or all.")] = None
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
    activation_checkpointing: Annotated[
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
        shared = {one.name for one in fields(own)} & vars(self).keys() - {"retain_weight"}
        given = {name: getattr(self, name) for name in shared}
        given = {name: value for name, value in given.items() if value is not None}
        return replace(own, options=options, lora_alpha=float(self.lora_rank), **given)


class Command(TyperCommand):
    """A command that takes plug-ins, and whose help names the entries of registries.

    ``{package:decorator}`` in a help text stands for the names that the package's modules, and the
    plug-ins in use, declare with that decorator.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take plug-ins first: wherever ``--help`` stands, it knows their entries."""
        for place, word in enumerate(args):
            if word == "--plugin" and place + 1 < len(args):
                plugins.use(args[place + 1])
            elif word.startswith("--plugin="):
                plugins.use(word.partition("=")[2])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the plug-ins, then the command: a plug-in that fails does so before anything else."""
        plugins.load_all()
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Fill in the names of entries."""
        for parameter in self.params:
            if text := getattr(parameter, "help", None):
                parameter.help = ENTRIES.sub(_names_of_entries, text)  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)


def _names_of_entries(found: re.Match[str]) -> str:
    return ", ".join({**declared(*found.groups()), **declared_by_plugins(found[2])})


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as Typer takes it: the fields of records as options, and ``--plugin``.

    Records are the dataclasses among its parameters; :class:`Command` acts on ``--plugin``.
    """
    hints = get_type_hints(command, include_extras=True)
    records: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    shown = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in records:
            shown.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(records[name], include_extras=True)
        shown += [_option(one.name, types[one.name], one.default) for one in fields(records[name])]
    shown.append(_option("plugin", Plugins, None))

    @wraps(command)
    def run(plugin: object, **given: Any) -> None:
        made = {
            name: kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            for name, kind in records.items()
        }
        command(**given, **made)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


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
