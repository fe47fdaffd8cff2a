"""The relearning test: how fast recovered refusals fall in a second training.

The test trains the contained model on the target once more without a retain set, in two ways: it
unlearns the target's deflections again with the settings of the contained run, or it trains on the
plain model's answers. A model without a masked loss loses the other domains' refusals no faster
than the base does in the same training; a model that masks the loss may lose them faster. Any
change may make a model less robust, so there is a second control: the base with random noise on
every parameter, as large as the contained run's change, trained in other orders.

The two ways differ. Unlearning again has little gradient if the target no longer refuses, or if
masking keeps its refusals near 1 (the gradient of log p_R vanishes there), so a negative result
says little. Training on answers acts on the masking directly.

Speed does not depend on the forgetting level: u_b(s) = 1 − p_R(s)/p_R(0) by step, from each start's
own p_R; the area is its mean over the steps, the onset the first at which u_b ≥ .5.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from transformers import TrainerCallback

from analyses.contain.shallow_recovery.others import Others, Probe, compared_rows
from analyses.runs import LOW_BASE, ONSET_AT, at_crossing, relative_drop, running_maximum
from interp.model import LanguageModel, copied, require_plain_weights
from interp.patching import moved_by
from interp.statistics import Draws, bootstrap_interval, weighted_means
from unlearning.deflections import examples, respond
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    is_scored,
    prepare_in_place,
    unlearn_in_place,
)

BASE_AGAIN = "base"
DEFLECTIONS, ANSWERS = "deflections", "answers"
SCORED_PER_DOUBLING = 12  # a dozen prompts each, so scoring is cheap here
FEWEST_ANSWERS = 32  # the same minimum as for deflections


@dataclass(frozen=True)
class Training:
    """Examples and settings of a second training.

    Attributes:
        examples: of the target, without references: each start is its own reference.
        settings: their retain set is ignored.
    """

    examples: Sequence[Example]
    settings: TrainingSettings


@dataclass(frozen=True)
class Speed:
    """The others' p_R along one training.

    Attributes:
        steps: the scored steps; the first is 0, the start.
    """

    steps: Int[np.ndarray, " step"]
    p_refuse: Float[np.ndarray, "prompt step"]


def trainings_of(
    plain: LanguageModel,
    forget: Sequence[Example],
    settings: TrainingSettings,
    prompts: pd.DataFrame,
    probe: Probe,
) -> dict[str, Training]:
    """Both ways: ``deflections`` and, if the plain model gives enough of them, ``answers``."""
    asked = prompts[
        (prompts["split"] == "train")
        & (prompts["label"] == "harmful")
        & (prompts["domain"] == probe.concept)
    ].head(len(forget))
    found = {DEFLECTIONS: Training(forget, settings)}
    said = respond(
        plain, asked, probe.scorer,
        max_new_tokens=probe.max_new_tokens, batch_size=probe.batch_size,
    )  # fmt: skip
    answers = said[said["class"] == "answer"]
    if len(answers) >= FEWEST_ANSWERS:
        on_answers = replace(settings, objective="cross_entropy", options={})
        found[ANSWERS] = Training(examples(plain, answers), on_answers)
    return found


def relearn(lm: LanguageModel, training: Training, probe: Probe) -> Speed:
    """Train a copy of ``lm`` and measure the others' p_R during training.

    Args:
        lm: the start of training; it does not change, so memory must hold it twice.
        training: examples and settings.
        probe: prompts to score after every step up to 12, then at log-spaced steps.

    Raises:
        InputError: the objective needs a retain set.
    """
    settings = training.settings
    start = prepare_in_place(lm.with_model(copied(lm.model)), settings)
    watch = _Watch(lambda: probe.masses(start, list(probe.others.table["prompt"]))["p_R"])
    mixture = Mixture(training.examples, seed=settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        unlearn_in_place(start, mixture, settings, folder=folder, callbacks=[watch])
    steps, readings = zip(*watch.found.items(), strict=True)
    return Speed(np.array(steps), np.stack(readings, axis=1))


def moved_as_far(base: LanguageModel, changed: LanguageModel, seed: int) -> LanguageModel:
    """A copy of ``base``, every parameter moved by noise as far as ``changed`` is from it."""
    generator = torch.Generator().manual_seed(seed)
    model = copied(base.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            there = changed.model.get_parameter(name).to(parameter.device).float()
            length = (there - parameter.float()).norm()
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.copy_(moved_by(parameter.data, noise * (length / noise.norm())))
    return base.with_model(model)


def relearning(
    base: LanguageModel,
    contained: Mapping[str, LanguageModel],
    training: Training,
    probe: Probe,
    *,
    draws: int = 3,
) -> dict[str, Speed]:
    """Speeds of one training from the base, every contained model and equally large changes.

    Returns:
        By name of the start: ``base``, the contained models', and :func:`random_name`.

    Raises:
        ModelError: the base's weights are packed.
    """
    require_plain_weights(
        base.model, "a random change of weights", "load the model without quantisation"
    )

    def run(start: LanguageModel, order: int = 0) -> Speed:
        settings = replace(training.settings, seed=training.settings.seed + order)
        return relearn(start, replace(training, settings=settings), probe)

    found = {BASE_AGAIN: run(base)}
    for name in contained:
        lm = contained[name]
        found[name] = run(lm)
        for draw in range(draws):
            start = moved_as_far(base, lm, probe.seed + draw)
            found[random_name(name, draw)] = run(start, order=1 + draw)
    return found


def random_name(contained: str, draw: int) -> str:
    """The name of a training from a random change as large as a contained model's."""
    return f"{contained} random {draw}"


def is_random_of(name: str, contained: str) -> bool:
    """Whether ``name`` is that of a random change as large as a contained model's."""
    return name.startswith(f"{contained} random ")


def areas(speed: Speed, others: Others) -> dict[str, Draws]:
    """Mean of u_b over the steps, by domain and for all; undefined if p_R starts under .2."""
    return _by_domain(speed, others, _area)


def onsets(speed: Speed, others: Others) -> dict[str, Draws]:
    """The step at which half of p_R is gone, linear between scored steps; undefined if never."""
    return _by_domain(speed, others, _onset)


def _by_domain(
    speed: Speed,
    others: Others,
    statistic: Callable[[Speed, np.ndarray], Float[np.ndarray, "*resample"]],
) -> dict[str, Draws]:
    found = {}
    for name, members in others.members().items():
        values, count = speed.p_refuse[members], int(members.sum())
        mean = values.mean(axis=0)
        if mean[0] < LOW_BASE:
            found[name] = Draws.undefined(f"low base: p_R {mean[0]:.2f} at the start", count)
            continue
        drawn = weighted_means(values, others.resamples(members))
        value = float(statistic(speed, relative_drop(mean)))
        reason = None if math.isfinite(value) else f"not by step {speed.steps[-1]}"
        freedom = others.freedom(members)
        found[name] = Draws(value, statistic(speed, relative_drop(drawn)), count, reason, freedom)
    return found


def _area(speed: Speed, u: np.ndarray) -> Float[np.ndarray, "*resample"]:
    return np.trapezoid(u, speed.steps, axis=-1) / speed.steps[-1]


def _onset(speed: Speed, u: np.ndarray) -> Float[np.ndarray, "*resample"]:
    time = np.broadcast_to(speed.steps.astype(np.float64), u.shape)
    return at_crossing(running_maximum(u), time, ONSET_AT)


def relearning_table(speeds: Mapping[str, Mapping[str, Speed]], others: Others) -> pd.DataFrame:
    """Areas and onsets of every training, and paired differences from the base's.

    Returns:
        Columns ``training, model, against`` (None for a level), ``quantity`` (``area``,
        ``onset``), ``domain, value, low, high, n, reason``.
    """
    rows: list[dict[str, object]] = []
    for training, of_starts in speeds.items():
        for quantity, measure in (("area", areas), ("onset", onsets)):
            found = {name: measure(speed, others) for name, speed in of_starts.items()}
            for name, own in found.items():
                against = {} if name == BASE_AGAIN else {BASE_AGAIN: found[BASE_AGAIN]}
                rows += compared_rows(quantity, own, against, training=training, model=name)
    return pd.DataFrame(rows)


def curves_table(speeds: Mapping[str, Mapping[str, Speed]], others: Others) -> pd.DataFrame:
    """u of all others by step: columns ``training, model, step, value, low, high``."""
    parts = []
    for training, of_starts in speeds.items():
        for name, speed in of_starts.items():
            everyone = np.ones(len(others), dtype=bool)
            drawn = relative_drop(weighted_means(speed.p_refuse, others.resamples(everyone)))
            value = relative_drop(speed.p_refuse.mean(axis=0))
            freedom = others.freedom(everyone)
            low, high = bootstrap_interval(value, drawn, freedom)
            columns = {"step": speed.steps, "value": value, "low": low, "high": high}
            parts.append(pd.DataFrame(columns).assign(training=training, model=name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


class _Watch(TrainerCallback):
    """Stores the result of ``read`` at the start and after scored steps."""

    def __init__(self, read: Callable[[], Float[np.ndarray, " prompt"]]) -> None:
        self.read = read
        self.found: dict[int, Float[np.ndarray, " prompt"]] = {}

    def on_train_begin(self, *_arguments: Any, **_keywords: Any) -> None:
        self.found[0] = self.read()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (
            is_scored(state.global_step, SCORED_PER_DOUBLING)
            or state.global_step >= state.max_steps
        ):
            self.found[state.global_step] = self.read()
