"""The plan of phase 1, checked before loading a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.costs import CostedModel, CostEstimate, Work, answering_estimate, once, reading_of
from analyses.deflect.data_set import MANIFEST, MORE
from analyses.paths import require_folder
from analyses.study import Defaults, StudyPlan, defaults_for, require_model, scorer_of
from interp.errors import InputError, expected
from interp.store import read_json
from unlearning.data import DOMAINS
from unlearning.deflections import FEWEST_DEFLECTIONS


@dataclass(frozen=True)
class DeflectPlan:
    """All options of the data set.

    Attributes:
        model: hub id or folder; the model's name on ``server`` with one.
        concept: the domain whose harmful training prompts are asked.
        prompts: a prompts file (default: a model organism's own prompts, else the built-in
            pairs).
        scorer: a name that ``find_scorer`` knows, or ``auto``.
        max_new_tokens: of one answer (default: a model organism's own, else 48).
        temperature, samples, seed: of sampling; ``samples`` answers to each prompt.
        batch_size: prompts in one forward.
        server: address of an OpenAI-compatible server that answers instead of a local model.
        model_options: arguments of ``LanguageModel.load``; with ``server``, ``system`` alone.
        command: the user's command.
    """

    model: str
    concept: str
    prompts: str | None = None
    scorer: str = "auto"
    max_new_tokens: int | None = None
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    batch_size: int = 64
    server: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def defaults(self) -> Defaults:
        """The defaults; for a served model they do not depend on its name."""
        return defaults_for(None if self.server else self.model)

    @property
    def answer_tokens(self) -> int:
        """Maximum number of tokens of an answer."""
        return self.max_new_tokens or self.defaults.answer_tokens

    @property
    def prompts_name(self) -> str:
        """The source of the prompts, in words."""
        return self.prompts or self.defaults.prompts_name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the data set, as JSON values."""
        described = {**asdict(self), "max_new_tokens": self.answer_tokens}
        del described["batch_size"], described["command"]  # they do not change an answer
        return dict(json.loads(json.dumps(described, default=str)))

    @property
    def study(self) -> StudyPlan:
        """A study without arms, for loading the model and scoring its answers."""
        return StudyPlan(
            self.model, (), (self.concept,), scorer=self.scorer, model_options=self.model_options
        )


def checked_deflection(
    plan: DeflectPlan, out: str | Path, *, overwrite: bool = False
) -> pd.DataFrame:
    """The prompts to ask, after every check that needs no model; writes nothing.

    Raises:
        InputError: the plan cannot run in the folder ``out``.
    """
    if plan.server:
        _check_server(plan)
    else:
        require_model(plan.model)
    if plan.samples > 1 and plan.temperature == 0:
        raise InputError(
            f"--samples {plan.samples} of one prompt are all the same at temperature 0; "
            "give --temperature 1"
        )
    scorer_of(plan.study, is_served=bool(plan.server))
    folder = require_folder(out)
    if not overwrite:
        _refuse_another(folder, plan)
    return _asked(plan)


def deflection_plan_lines(plan: DeflectPlan, asked: pd.DataFrame) -> list[str]:
    """The lines of the plan without its cost."""
    answers = len(asked) * plan.samples
    sampling = f"sampled at temperature {plan.temperature:g}" if plan.temperature else "greedy"
    lines = [
        f"model: {plan.model}" + (f" at {plan.server}" if plan.server else ""),
        f"prompts: {len(asked)} harmful training prompts of {plan.concept}, {plan.prompts_name}",
        f"answers: {answers}, {sampling}, at most {plan.answer_tokens} new tokens each",
        f"refusals: as {scorer_of(plan.study, is_served=bool(plan.server)).name} finds them",
    ]
    if answers < FEWEST_DEFLECTIONS:
        lines.append(
            f"note: {answers} answers cannot give the {FEWEST_DEFLECTIONS} refusals that "
            f"unlearning needs; {MORE}"
        )
    return lines


def deflection_costs(
    plan: DeflectPlan, asked: pd.DataFrame, *, timing: bool = True
) -> CostEstimate:
    """The time and memory of asking a local model; with ``timing``, its speed is measured."""
    prompts = list(asked["prompt"])
    usual = plan.defaults.usual_answer
    reading = reading_of(prompts, plan.answer_tokens, plan.model, plan.model_options, usual=usual)
    subject = CostedModel(plan.model, plan.model_options)
    work = reading.answers(len(prompts) * plan.samples) + once(Work(arms=1))
    return answering_estimate([subject], reading, work, plan.batch_size, timing=timing)


def _check_server(plan: DeflectPlan) -> None:
    from unlearning.serving import Endpoint

    assert plan.server is not None
    Endpoint(plan.model, plan.server)  # raises for an invalid address
    if plan.temperature > 0 or plan.samples > 1:
        raise InputError(
            "a server is asked once for each prompt, at temperature 0; leave out --temperature "
            "and --samples, or load the model here without --server"
        )
    others = sorted(set(plan.model_options) - {"system"})
    if others:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise InputError(f"{named} does not apply with --server; set it on the server")


def _asked(plan: DeflectPlan) -> pd.DataFrame:
    """The concept's harmful training prompts."""
    if plan.concept not in DOMAINS:
        raise InputError(f'unknown concept "{plan.concept}"{expected(plan.concept, DOMAINS)}')
    table = plan.defaults.prompts(plan.prompts, required_labels=())
    rows = table[(table["label"] == "harmful") & (table["split"] == "train")]
    asked = rows[rows["domain"] == plan.concept].reset_index(drop=True)
    if asked.empty:
        present = [domain for domain in DOMAINS if (rows["domain"] == domain).any()]
        raise InputError(
            f"{plan.prompts_name}: no harmful training prompts of {plan.concept}; "
            f"domains that have some: {', '.join(present) or 'none'}"
        )
    return asked


def _refuse_another(folder: Path, plan: DeflectPlan) -> None:
    """Refuse to overwrite a data set with other settings."""
    held = read_json(folder / MANIFEST, ()) if (folder / MANIFEST).is_file() else {}
    if held:
        _require_same(folder, held.get("settings") or {}, plan.settings)


def require_same(folder: Path, **facts: Any) -> None:
    """Refuse to overwrite a data set of other weights or prompts, or read by another scorer.

    Raises:
        InputError: the data set in the folder has other facts in its manifest.
    """
    held = read_json(folder / MANIFEST, ()) if (folder / MANIFEST).is_file() else {}
    _require_same(folder, held, {name: fact for name, fact in facts.items() if name in held})


def _require_same(folder: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if differing := [name for name, fact in asked.items() if held.get(name) != fact]:
        raise InputError(
            f"{folder} holds a data set with another {' and another '.join(differing)}; "
            "give another --out, or --overwrite to replace it"
        )
