"""``spillover doctor``: what a model is, what works with it, and what one step costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import command
from analyses.options import Model, ModelOptions

if TYPE_CHECKING:
    from analyses.doctor.examination import Examination


@command
def doctor(
    model: Model,
    model_options: ModelOptions,
    step: Annotated[
        bool, typer.Option(help="Also time one LoRA step, forward and backward (default: yes).")
    ] = True,
) -> Examination:
    """Examine a model: its self-check, chat template, tokens, layers, sites, and one step's cost.

    A model whose states cannot be read ends with exit code 2 and the reason, after the facts.
    """
    import warnings

    from analyses.doctor.examination import examine
    from analyses.study import require_model
    from interp.model import LanguageModel

    require_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the examination says the same in its lines
        lm = LanguageModel.load(model, **model_options.for_loading())
        found = examine(lm, step=step)
    typer.echo(found)
    lm.checked.require_stream(lm.name)
    return found
