"""``spillover doctor``: what a model is, what works with it, and what one step costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from analyses.commands import command, opt
from analyses.options import GATE_HELP, Model, ModelOptions
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.doctor.examination import Examination


@command
def doctor(
    model: Model,
    model_options: ModelOptions,
    step: bool = opt(True, "Also time one LoRA step, forward and backward (default: yes)."),
    gate: bool = opt(False, GATE_HELP, "--gate"),
    run: Path | None = opt(
        None,
        "With --gate: write gate.json into the folder of this model's run, so that its report "
        "shows it (default: nowhere).",
        metavar="FOLDER",
    ),
) -> Examination:
    """Examine a model: its self-check, template, tokens, layers, sites, massive activations, costs.

    A model whose states cannot be read ends with exit code 2 and the reason, after the facts.
    """
    import warnings

    from analyses.doctor.examination import examine
    from analyses.doctor.plan import gate_plan
    from analyses.report import GATE_FILE, require_chat_of_run, weights_of_run
    from analyses.runs import Progress
    from analyses.study import require_model
    from interp.model import LanguageModel
    from interp.store import write_json

    require_model(model)
    studied = None if run is None else weights_of_run(run, measured=gate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the examination says the same in its lines
        options = model_options.for_loading()
        lm = LanguageModel.load(model, **options)
        if studied is not None and studied != lm.fingerprint():
            raise InputError(
                f"the run in {run} has a base model with other weights than {model}; give the "
                "run's own model, or another folder"
            )
        if run is not None:
            require_chat_of_run(run, lm.chat.fingerprint)
        if gate:
            typer.echo("\n".join(gate_plan(model, options)), err=True)
        found = examine(lm, step=step, gate=gate, progress=Progress())
    typer.echo(found)
    if run is not None and found.gate is not None:
        write_json(run / GATE_FILE, {"weights": studied, "why": "", **found.gate.summary()})
    lm.checked.require_stream(lm.name)
    return found
