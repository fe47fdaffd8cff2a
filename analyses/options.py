"""Options that several commands share; each group is a record.

A command takes a record instead of single options; ``analyses.commands`` gives its fields to Typer
and to Python as options.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.commands import PAIRS, opt
from interp.errors import InputError

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
        help="File of the target's refusals to train on: prompt, response and, for dpo and "
        "fine_tuning, compliance (default: the model's own answers, collected first)."
    ),
]
Concept = Annotated[str, typer.Option(help="Domain whose refusals are unlearned.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="Number of unlearning seeds; each arm is trained once per seed.")
]
MOST_SEED = 2**32 - 1  # NumPy's largest
Seed = Annotated[
    int, typer.Option(min=0, max=MOST_SEED, help="Seed of every random choice of this command.")
]
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
        help="Share of the target's refusal that is gone in the kept model; 1: all steps are made, "
        "and the last one is kept (default: 0.95; 0.9 for a model organism; reproduce: 1 for other "
        "models).",
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(min=0, help="Learning rate (default: 5e-5; a model organism's own, 3e-4)."),
]
TrainBatch = Annotated[
    int | None,
    typer.Option(min=1, help="Number of forget examples per optimizer step (default: 32)."),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of forget examples in one forward pass; a divisor of --batch-size "
        "(default: as many as fit the device; reproduce: all of a step).",
    ),
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        help="Recompute activations in the backward pass: less memory, more time. Also used where "
        "too few rows fit without it (not by reproduce)."
    ),
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

    @property
    def processes(self) -> int:
        """Processes of this machine that may work at a time."""
        return self.workers if self.engine == "local" else 1


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
                options["template"] = self.chat_template.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "not UTF-8 text"
                raise InputError(f"--chat-template {self.chat_template}: {why}") from error
            if not options["template"].strip():
                raise InputError(f"--chat-template {self.chat_template} is empty")
        if self.system is not None and not self.system.strip():
            raise InputError(
                "--system is empty; leave it out for the template's own system message, or give "
                "--chat-template FILE without one"
            )
        options["template_arguments"] = named_values(self.chat_template_arg, "--chat-template-arg")
        return {name: value for name, value in options.items() if value}


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """The command-line options that give :meth:`ModelOptions.for_loading`'s arguments.

    FILE stands for the file of the chat template. The device is left out.
    """
    found = []
    for name in ("revision", "system", "response_prefix", "layers_path"):
        if name in options:
            found += [f"--{name.replace('_', '-')}", str(options[name])]
    if "template" in options:
        found += ["--chat-template", "FILE"]
    for name, value in options.get("template_arguments", {}).items():
        found += ["--chat-template-arg", f"{name}={json.dumps(value)}"]
    return found + ["--trust-remote-code"] * bool(options.get("trust_remote_code"))


# As Python has them: the text "False" is true in a template.
PYTHONS = {"True": True, "False": False, "None": None}


def listed(text: str | None) -> tuple[str, ...]:
    """The names in a text, separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def named_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """The values of ``NAME=VALUE`` pairs by name: JSON, ``True``, ``False``, ``None``, else text.

    ``option`` is what gave them.

    Raises:
        InputError: a pair has no equals sign.
    """
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"{option} {pair}: expected name=value")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = PYTHONS.get(value, value)
    return found
