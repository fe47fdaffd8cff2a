"""Everything that the results of the base model, and of an arm, depend on: for their keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from analyses.runs import BASE, Inputs
from analyses.study.context import Context
from analyses.study.methods import METHODS
from analyses.study.plan import ArmPlan, StudyPlan
from analyses.study.readout import other_reader
from interp.directions import ESTIMATORS
from interp.model import LanguageModel, linear_weights
from interp.plugins import own_source
from interp.store import content_key, read_json
from unlearning.generation import stop_tokens
from unlearning.losses import FORGET, RETAIN
from unlearning.refusal import ResponsePrefixes
from unlearning.training import FITTING, Example, Mixture, TrainingSettings

BASE_STAGES = ("answers", "readout", BASE)
ARM_STAGES = (*BASE_STAGES, "references", "training")
STOPS, CONFIGURATION = "stop tokens", "configuration"
CONFIGURATION_AFTER = "configuration of the model after"


def base_inputs(context: Context) -> Inputs:
    """The inputs of the base model's results."""
    plan, lm = context.plan, context.reference
    weights, chat = context.fingerprint, lm.chat.fingerprint
    prompts, scorer = context.prompts.to_json(orient="records"), context.scorer
    scorer_code, other = own_source(type(scorer)), other_reader(scorer)
    parts = {
        "model": weights,
        "chat format": chat,
        "table of prompts": prompts,
        "rendering of the prompts": [
            lm.chat.encode(text).ids for text in context.prompts["prompt"]
        ],
        "scorer": [scorer.name, scorer.version, scorer_code],
        **({"second scorer": [other.name, other.version]} if other else {}),
        "answer length": plan.max_new_tokens,
        STOPS: sorted(stop_tokens(lm)),
        CONFIGURATION: lm.configuration,
        **_code(plan),
    }
    # As version 0.1 made it, which knew no code outside of plug-ins.
    known = {name: chat[name] for name in ("before", "after", "response_prefix", "fallback")}
    old = content_key(
        BASE_STAGES, weights, known, prompts, scorer.name, scorer.version, plan.max_new_tokens,
        *plan.more_inputs,
    )  # fmt: skip
    opened = chat.get("thoughts", [None])[0]  # version 0.1 read thoughts as answers
    old_key = None if opened or _uncovered(scorer_code, plan) else old
    return Inputs(BASE_STAGES, parts, old_key, added=(STOPS, CONFIGURATION))


def arm_inputs(
    context: Context,
    base: Inputs,
    prefixes: ResponsePrefixes | None,
    arm: ArmPlan,
    trained_on: Mixture | None,
    after: LanguageModel | None = None,
) -> Inputs:
    """The inputs of an arm's results.

    Args:
        base: those of the base model's results.
        prefixes: of the refusal readout; None if it is the text of answers.
        trained_on: the arm's training examples.
        after: the model of an arm that is not trained.
    """
    plan = context.plan
    settings = _as_json(arm.describe(plan.stop_at))
    trained = settings["training"] or {}
    config = context.run.arm(arm.name) / "config.json"
    held = (read_json(config, ()).get("training") if config.is_file() else None) or {}
    code = _code_of(arm)
    parts = {
        **base.parts,
        "readout": asdict(prefixes) if prefixes else "text",
        **{name: one for name, one in settings.items() if name != "training"},
        **{name: one for name, one in trained.items() if name not in FITTING},
        "way of scoring": [plan.every_step, plan.benign_along, plan.bounds],
        "table of deflections": _pairs(context),
        "set of training examples": _described(trained_on) if trained_on else None,
        "model after": after.fingerprint() if after else None,
        "code of the objective or method": code,
    }
    added = base.added
    if after:
        parts[STOPS] = [base.parts[STOPS], sorted(stop_tokens(after))]
        parts[CONFIGURATION_AFTER] = after.configuration
        added = (*added, CONFIGURATION_AFTER)
    parameters = _parameters(context, arm)
    if parameters:
        parts["weights outside of linear modules"] = parameters
    if is_grouped := bool(trained.get("length_window")):
        # Once they were longer, and the copies of an example filled a batch.
        parts["windows of similar length"] = "one pass at most"
    old = None
    if base.old_key and after is None and not (parameters or is_grouped or _uncovered(code, plan)):
        old = _old_key(context, base.old_key, arm, settings)
    fitted = {name: held[name] for name in FITTING if name in held}
    return Inputs(ARM_STAGES, parts, old, added, fitted)


def _parameters(context: Context, arm: ArmPlan) -> list[str]:
    """Trained weights that no plain linear module holds; version 0.1 left most of them frozen."""
    if arm.training is None or arm.training.trained == "all":
        return []
    return [weight.name for weight in linear_weights(context.reference) if not weight.is_plain]


def _code(plan: StudyPlan) -> dict[str, Any]:
    """The plug-ins in use, and a user's estimator of the directions that every arm saves."""
    return {
        "plug-in": [plugin.sha256 for plugin in plan.plugins],
        "estimator": [plan.estimator, ESTIMATORS.own_source(plan.estimator)],
    }


def _code_of(arm: ArmPlan) -> dict[str, str]:
    """The user's own code that makes the arm, by entry; empty if it is all the package's."""
    found = {}
    if arm.training:
        objective, retained = arm.training.objective, arm.training.retain_objective
        found[objective] = (FORGET if objective in FORGET else RETAIN).own_source(objective)
        if arm.retain:
            found[retained] = RETAIN.own_source(retained)
    if arm.containment:
        found[arm.containment.method] = METHODS.own_source(arm.containment.method)
    return {name: source for name, source in found.items() if source}


def _uncovered(code: object, plan: StudyPlan) -> bool:
    """Whether a user's code ran that the plug-ins' hashes do not cover."""
    return bool(code) and not plan.plugins


def _pairs(context: Context) -> str | None:
    return None if context.pairs is None else context.pairs.to_json(orient="records")


def _described(mixture: Mixture) -> dict[str, Any]:
    def ids(one: Example) -> tuple[Any, ...]:
        start = one.tokens.spans["response"].start
        return one.tokens.ids, start, one.preferred and one.preferred.ids

    groups = {name: list(map(ids, group)) for name, group in mixture.groups.items()}
    return {"groups": groups, "ratio": mixture.ratio, "seed": mixture.seed}


def _old_key(context: Context, base: str, arm: ArmPlan, settings: dict[str, Any]) -> str | None:
    """The arm's key in version 0.1, which lacked the settings that have been added since.

    None if an arm of that version cannot have been made with these settings.
    """
    plan = context.plan
    config = context.run.arm(arm.name) / "config.json"
    was = read_json(config, ()) if config.is_file() else settings
    added = _added(settings, was)
    defaults = _as_json({one.name: _default(one) for one in dataclasses.fields(TrainingSettings)})
    if any(value not in (None, False, defaults.get(name)) for name, value in added.items()):
        return None
    pairs = _pairs(context)
    return content_key(
        ARM_STAGES, base, _without(settings, added), plan.every_step, plan.benign_along,
        plan.bounds, *([] if pairs is None else [pairs]), *plan.more_inputs,
    )  # fmt: skip


def _added(now: Mapping[str, Any], was: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, also of the training, that ``was`` does not have."""
    found = {name: value for name, value in now.items() if name not in was}
    if now.get("training") and was.get("training"):
        found |= {k: v for k, v in now["training"].items() if k not in was["training"]}
    return found


def _without(settings: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without(value, names) if name == "training" and value else value
        for name, value in settings.items()
        if name not in names
    }


def _default(field: Any) -> Any:
    missing = dataclasses.MISSING
    return field.default if field.default is not missing else field.default_factory()


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
