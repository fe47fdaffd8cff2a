"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.errors import InputError, SpilloverError

if TYPE_CHECKING:
    from analyses.plan import StudyPlan

app = typer.Typer(
    name="spillover",
    help="Measure what narrow unlearning does to everything else in a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
organism_app = typer.Typer(
    help="The embedded model organism: a small model in a planted world.", no_args_is_help=True
)
app.add_typer(organism_app, name="organism")

Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")]
Prompts = Annotated[
    Path, typer.Option("--prompts", help="JSONL, CSV or parquet: prompt, domain, label.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
System = Annotated[str | None, typer.Option(help="System message before every prompt.")]
Template = Annotated[
    Path | None, typer.Option("--chat-template", help="Jinja file that replaces the model's own.")
]
TemplateArgument = Annotated[
    list[str] | None,
    typer.Option("--chat-template-arg", help="name=value, e.g. enable_thinking=false."),
]
Prefix = Annotated[str, typer.Option("--response-prefix", help="Words every answer begins with.")]
Device = Annotated[str | None, typer.Option(help="cuda, cpu, …")]
Remote = Annotated[bool, typer.Option(help="Run model code that comes with the checkpoint.")]
ScorerName = Annotated[str, typer.Option("--scorer", help="auto, grammar or phrases.")]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds.")] = 1,
    plan: PlanOnly = False,
) -> None:
    """The paper's experiment on the embedded organism: NPO, and NPO with a retain set."""
    from analyses.plan import demo_plan

    _carry_out(demo_plan(seeds), out, plan)


@app.command()
def study(
    model: Annotated[str, typer.Option(help="Hub id, model folder or adapter folder.")],
    concept: Annotated[list[str], typer.Option(help="Domain to unlearn; may be repeated.")],
    out: Out,
    prompts: Annotated[Path | None, typer.Option(help="Prompts; an organism has its own.")] = None,
    objective: Annotated[str, typer.Option(help="npo or gradient_ascent.")] = "npo",
    retain: Annotated[
        str | None, typer.Option(help="equal, alternate, or domains separated by commas.")
    ] = None,
    retain_weight: Annotated[
        list[float] | None, typer.Option(help="Several are tried until one contains.")
    ] = None,
    retain_ratio: Annotated[int, typer.Option(min=1, help="Retain per forget example.")] = 1,
    token_mean: Annotated[bool, typer.Option(help="Average the retain CE over tokens.")] = False,
    deflections: Annotated[
        Path | None, typer.Option(help="Ready-made prompt, response; skips phase 1.")
    ] = None,
    trained: Annotated[str | None, typer.Option(help="lora, projections or all.")] = None,
    lora_rank: Annotated[int, typer.Option(min=1)] = 128,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    beta: Annotated[float | None, typer.Option(min=0, help="NPO's β; 0.1.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Forget examples a step; 32.")
    ] = None,
    micro_batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="At most; 200.")] = None,
    stop_at: Annotated[
        float | None, typer.Option(min=0, max=1, help="Dose at which the model is kept; 0.95.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Unlearning seeds.")] = 1,
    control: Annotated[bool, typer.Option(help="Also train a benign-only arm, as null.")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 48,
    scorer: ScorerName = "auto",
    revision: Revision = None,
    system: System = None,
    chat_template: Template = None,
    chat_template_arg: TemplateArgument = None,
    response_prefix: Prefix = "",
    device: Device = None,
    trust_remote_code: Remote = False,
    plan: PlanOnly = False,
) -> None:
    """Unlearn refusal in one domain of any causal LM, and see what else breaks."""
    from dataclasses import replace

    from analyses.context import is_organism, prompts_of
    from analyses.plan import StudyPlan, organism_settings, parse_retain, unlearning_arms
    from interp.model import check_source
    from unlearning.prompts import present_domains, require_concepts
    from unlearning.trainer import TrainingSettings

    check_source(model)
    settings = TrainingSettings()
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    if is_organism(model):
        settings, options = organism_settings(model)
    if stop_at is not None:
        options["stop_at"] = stop_at
    settings = replace(
        settings,
        objective=objective,
        beta=beta or settings.beta,
        retain_ratio=retain_ratio,
        retain_reduction="token_mean" if token_mean else "sum",
        trained=trained or settings.trained,
        lora_rank=lora_rank,
        lora_alpha=float(lora_rank),
        learning_rate=learning_rate or settings.learning_rate,
        batch_size=batch_size or settings.batch_size,
        micro_batch_size=micro_batch_size,
        max_steps=max_steps or settings.max_steps,
    )
    asked = StudyPlan(
        model,
        (),
        tuple(concept),
        prompts=str(prompts) if prompts else None,
        deflections=str(deflections) if deflections else None,
        scorer=scorer,
        model_options=_model_options(
            revision,
            system,
            chat_template,
            chat_template_arg,
            response_prefix,
            device,
            trust_remote_code,
        ),
        command=_command(),
        **options,
    )
    table = prompts_of(asked)
    require_concepts(table, concept)
    present = present_domains(table)
    if deflections and len(concept) > 1:
        raise InputError("--deflections holds one concept's pairs; give one --concept with it")
    arms = unlearning_arms(
        concept,
        settings,
        seeds=range(seeds),
        retain={c: parse_retain(retain, c, present) for c in concept},
        weights=tuple(retain_weight or (1.0,)),
        control=control,
    )
    _carry_out(replace(asked, arms=arms), out, plan)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="The model before: hub id or folder.")],
    after: Annotated[str, typer.Argument(help="The model after: full, or an adapter folder.")],
    prompts: Prompts,
    out: Out = Path("runs/compare"),
    concept: Annotated[str | None, typer.Option(help="What was unlearned, if known.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 48,
    scorer: ScorerName = "auto",
    revision: Revision = None,
    system: System = None,
    chat_template: Template = None,
    chat_template_arg: TemplateArgument = None,
    response_prefix: Prefix = "",
    device: Device = None,
    trust_remote_code: Remote = False,
    plan: PlanOnly = False,
) -> None:
    """Everything but the training, on two models that exist already."""
    from analyses.plan import compare_plan

    options = _model_options(
        revision,
        system,
        chat_template,
        chat_template_arg,
        response_prefix,
        device,
        trust_remote_code,
    )
    asked = compare_plan(
        base,
        after,
        concept=concept,
        prompts=str(prompts),
        scorer=scorer,
        max_new_tokens=max_new_tokens,
        model_options=options,
        command=_command(),
    )
    _carry_out(asked, out, plan)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, finished or not.")],
    show_completions: Annotated[bool, typer.Option(help="Put generated text in it.")] = False,
) -> None:
    """Rebuild a run's tables, figures and report from its arms."""
    from analyses.report import write

    typer.echo(write(folder, show_completions=show_completions))


@organism_app.command("train")
def organism_train(
    seed: Annotated[int, typer.Option(help="Of world, weights and data order.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
) -> None:
    """Train an organism from nothing, as the shipped one was (minutes on two cores)."""
    from analyses.progress import Progress
    from unlearning.organism import train

    progress = Progress()
    with progress.stage(f"organism {seed}: training", None) as advance:
        train(seed, out, progress=lambda _step, _total, _loss: advance(1))
    typer.echo(out)


@organism_app.command("measure")
def organism_measure(
    out: Annotated[Path, typer.Option(help="Folder of organisms, runs and the table.")],
    seeds: Annotated[str, typer.Option(help="Organism seeds.")] = "106,107,108,109,110",
    unlearning_seeds: Annotated[int, typer.Option(min=2, help="For reliability.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Organisms at a time.")] = 2,
) -> None:
    """Measure the instrument: every domain of several organisms unlearned, with two seeds."""
    from analyses.organism_measures import measure_organisms

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {seeds}: expected numbers separated by commas") from error
    found = measure_organisms(numbers, out, unlearning_seeds=unlearning_seeds, workers=workers)
    typer.echo(json.dumps(found, indent=2))


def _carry_out(plan: StudyPlan, out: Path, only_plan: bool) -> None:
    from analyses.context import checked
    from analyses.costs import describe
    from analyses.progress import Progress

    context = checked(plan, out, Progress())
    for line in describe(plan, context.prompts):
        typer.echo(line, err=True)
    if only_plan:
        return
    from analyses.study import carry_out

    typer.echo(carry_out(context))


def _model_options(
    revision: str | None,
    system: str | None,
    chat_template: Path | None,
    template_arguments: list[str] | None,
    response_prefix: str,
    device: str | None,
    trust_remote_code: bool,
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "revision": revision,
        "system": system,
        "response_prefix": response_prefix,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if chat_template is not None:
        try:
            options["template"] = chat_template.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"--chat-template {chat_template}: {error.strerror}") from error
    arguments = {}
    for pair in template_arguments or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--chat-template-arg {pair}: expected name=value")
        try:
            arguments[name] = json.loads(value)
        except json.JSONDecodeError:
            arguments[name] = value
    options["template_arguments"] = arguments
    return {name: value for name, value in options.items() if value}


def _command() -> str:
    import shlex

    return shlex.join(["spillover", *sys.argv[1:]])


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback."""
    # Deprecations inside libraries are nothing that a user can act on.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except SpilloverError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        typer.echo(
            "error: the disk is full; every finished arm is kept: make room, then give the same "
            "command again",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
