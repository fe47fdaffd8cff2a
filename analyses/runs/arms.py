"""The arms in a run's folder: configuration, scores, rotation, headlines.

An arm is finished when its `DONE` file exists. `base` is the model before; `arms/NAME` is a model
after.

A finished run has the base model and the saved weights of its arms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.runs.degenerate import CoherenceBounds
from analyses.runs.leakage import FEWEST_STEPS
from analyses.runs.trajectory import kept_rows, matched_step
from interp.errors import FileError, InputError
from interp.registry import declared, declared_by_plugins
from interp.store import content_key, read_json, read_table

if TYPE_CHECKING:
    from interp.model import LanguageModel

BASE = "base"
PANEL = "panel.json"  # what the panel says about its verdicts on an arm's answers
# Columns and keys that every version has written.
SCORES = (
    *("prompt_id", "split", "domain", "label", "kind"),
    *("p_R", "p_C", "p_O", "margin", "step", "dose"),
)
SCORES_OF_TEXT = ("class", "refused")
ESTIMATES = ("value", "low", "high", "n", "null_low", "null_high", "defined")
ROTATION = ("domain", "layer", "quantity", *ESTIMATES)
COSINE = ("domain_a", "domain_b", "layer", *ESTIMATES)
PREFILLED = ("prompt_id", "domain", "class")
CONFIG = ("concept", "objective", "retain")
# Training settings that differ between an arm and its plain arm, or change no result.
OF_RETAINING = (
    *("retain_objective", "retain_weight", "retain_unit", "retain_shares", "retain_ratio"),
    *("adaptive", "slack", "multiplier_rate"),
    *("micro_batch_size", "separate_backward", "activation_checkpointing"),
)


@dataclass(frozen=True)
class Arm:
    """One model after (or `base`, the model before): its configuration and its scores."""

    name: str
    config: Mapping[str, Any]
    scores: pd.DataFrame
    rotation: pd.DataFrame | None
    prefilled: pd.DataFrame | None = None
    """Classes of harmful test prompts' answers after given first words; None if not measured."""

    @property
    def concept(self) -> str | None:
        """The domain whose refusal was unlearned; None for a model that is only compared."""
        return self.config.get("concept")

    @property
    def objective(self) -> str | None:
        return self.config.get("objective")

    @property
    def retain(self) -> tuple[str, ...] | None:
        """Domains in the retain set; None for a plain arm."""
        retain = self.config.get("retain")
        return ((retain,) if isinstance(retain, str) else tuple(retain)) if retain else None

    @property
    def retain_weight(self) -> float | None:
        return self.config.get("retain_weight") if self.retain else None

    @property
    def seed(self) -> int:
        return int(self.config.get("seed") or 0)

    @property
    def selected(self) -> bool:
        """Whether this contained arm is the one that the study chose to show."""
        return bool(self.retain and self.config.get("selected"))

    @property
    def control(self) -> bool:
        """Whether this is a control arm (trained on benign prompts, say): listed, no headline."""
        return bool(self.config.get("control"))

    @property
    def matched(self) -> bool:
        """Whether it has a target and a curve, so that leakage at a forgetting level exists."""
        return self.concept is not None and self.scores["step"].nunique() >= FEWEST_STEPS

    @property
    def weight_label(self) -> str:
        """The retain weight in figures: `×30` of the loss, or `ratio 0.3` of gradient norms."""
        return weight_label(self.config)

    @property
    def label(self) -> str:
        """Its label in figures: `NPO`, `NPO + retain ratio 0.3`, or the checkpoint's name.

        A containment arm adds method, examples and split: `NPO + retain kernel (8, split 1) ×1`.
        """
        if not self.objective:
            return self.name
        if self.control:
            return "Benign answers only (control)"
        weight = f" {self.weight_label}" if self.retain_weight is not None else ""
        if how := self.config.get("containment"):
            split = "" if how["split"] is None else f", split {how['split'] + 1}"
            weight = f" {how['method']} ({how['examples'] or 'all'}{split}){weight}"
        return objective_title(self.objective) + (f" + retain{weight}" if self.retain else "")

    @cached_property
    def step(self) -> int:
        """The step whose weights were kept: the matched forgetting level of a trained arm."""
        return matched_step(self.scores)

    @cached_property
    def last(self) -> pd.DataFrame:
        """The rows of the kept model."""
        return kept_rows(self.scores)

    @property
    def scale(self) -> float:
        """Share of the weight change at ``step`` that the kept model has; 1 on the path."""
        return float(self.last["scale"].fillna(1).min()) if "scale" in self.last else 1.0

    def on_validation(self) -> Arm:
        """The arm with its validation prompts in place of its test prompts, for choices."""
        validation = self.scores[self.scores["split"] == "validation"]
        copied = pd.concat([validation, validation.assign(split="test")], ignore_index=True)
        return Arm(self.name, self.config, copied, None)

    def contains(self, plain: Arm) -> bool:
        """Whether this arm is `plain` with a retain set, or by a containment study's method."""
        same = (self.concept, self.objective, self.seed)
        return (
            bool(self.retain)
            and not plain.retain
            and same == (plain.concept, plain.objective, plain.seed)
            and ("containment" in self.config or self._trained_as(plain))
        )

    def _trained_as(self, plain: Arm) -> bool:
        """Whether all settings that both have are equal, but for those of the retain set."""
        own, other = (arm.config.get("training") or {} for arm in (self, plain))
        return all(own[name] == other[name] for name in {*own} & {*other} - {*OF_RETAINING})


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's folder: finished arms in a fixed order, names of unfinished arms.

    ``failed`` has the other planned arms: they cannot be trained, for the reason that is given.
    """

    folder: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    base: Arm
    arms: tuple[Arm, ...]
    unfinished: tuple[str, ...]
    cosine: pd.DataFrame | None
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments of ``LanguageModel.load`` for the run's models."""
        return dict(self.config.get("model_options") or {})

    def plain_of(self, contained: Arm) -> Arm | None:
        """The same arm without retain data, if it has finished."""
        return next((arm for arm in self.arms if contained.contains(arm)), None)

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains with harmful prompts, in the order in which the base was scored."""
        scores = self.base.scores
        return tuple(scores.loc[scores["label"] == "harmful", "domain"].drop_duplicates())


def weight_label(config: Mapping[str, Any]) -> str:
    """The retain weight of an arm with this configuration, with its unit."""
    in_gradients = (config.get("training") or {}).get("retain_unit") == "gradient"
    return f"{'ratio ' if in_gradients else '×'}{config['retain_weight']:g}"


def objective_title(name: str) -> str:
    """The title of an objective in figures and the report: its registered title, or its name."""
    abouts = declared("unlearning.losses", "objective") | declared_by_plugins("objective")
    return abouts[name].title if name in abouts else name


def read_run(folder: str | Path, *, only: Collection[str] | None = None) -> RunRecord:
    """Read a run's folder, finished or not.

    Args:
        folder: of the run.
        only: names of the arms to read (default: all); other processes may remake the rest.

    Raises:
        InputError: the base was never scored, or a file is missing or damaged.
    """
    folder = Path(folder)
    if not (folder / "arms" / BASE / "scores.parquet").is_file():
        raise InputError(
            f"{folder} holds no scores of the base model (arms/{BASE}/scores.parquet); "
            "expected a run's folder: start or resume the run first"
        )
    prompts = read_table(folder / "prompts.parquet", ("id",))
    config = _read_or_empty(folder / "config.json")
    found, unfinished = {}, []
    for path in sorted(path for path in (folder / "arms").iterdir() if path.is_dir()):
        if only is not None and path.name not in {BASE, *only}:
            continue
        if path.name == BASE or (path / "DONE").is_file():
            found[path.name] = _read_arm(path, prompts)
        else:
            unfinished.append(path.name)
    base = found.pop(BASE)
    bounds = CoherenceBounds.from_base(base.scores)
    found = {name: _coherent(arm, bounds) for name, arm in found.items()}
    concepts = list(config.get("concepts") or [])

    def order(arm: Arm) -> tuple[int, int, float, str]:
        place = concepts.index(arm.concept) if arm.concept in concepts else len(concepts)
        return place, arm.seed, arm.retain_weight or (0.5 if arm.retain else 0.0), arm.name

    planned = {arm.get("name") for arm in config.get("arms") or ()}
    reasons = {
        one: _read_or_empty(folder / "arms" / one / "config.json").get("failed")
        for one in unfinished
        if one in planned
    }
    failed = {name: why for name, why in reasons.items() if why}
    cosine = folder / "cosine.parquet"
    return RunRecord(
        folder=folder,
        config=config,
        manifest=_read_or_empty(folder / "manifest.json"),
        base=base,
        arms=tuple(sorted(found.values(), key=order)),
        unfinished=tuple(name for name in unfinished if name not in failed),
        cosine=read_table(cosine, COSINE) if cosine.is_file() else None,
        failed=failed,
    )


def _read_arm(path: Path, prompts: pd.DataFrame) -> Arm:
    scores = read_table(path / "scores.parquet", (*SCORES, *SCORES_OF_TEXT))
    if scores.empty:
        raise FileError(f"{path / 'scores.parquet'} has no rows; run the arm again")
    rotation, given = path / "rotation.parquet", path / "prefilled.parquet"
    prefilled = read_table(given, PREFILLED) if given.is_file() else None
    prefilled = None if prefilled is None else with_clusters(prefilled, prompts)
    return Arm(
        name=path.name,
        config=_read_or_empty(path / "config.json")
        if path.name == BASE
        else read_json(path / "config.json", CONFIG),
        scores=with_clusters(scores, prompts),
        rotation=read_table(rotation, ROTATION) if rotation.is_file() else None,
        prefilled=prefilled,
    )


def _coherent(arm: Arm, bounds: CoherenceBounds) -> Arm:
    """The arm with degenerate answers, plain or prefilled, in the class ``gibberish``."""
    given = None if arm.prefilled is None else bounds.applied(arm.prefilled)
    return replace(arm, scores=bounds.applied(arm.scores), prefilled=given)


def with_clusters(scores: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """``scores`` with a column ``cluster``, if prompts are repeated or marked as near-duplicates.

    Otherwise intervals would take every near-duplicate for one prompt more.
    """
    units = unit_of(prompts)
    if units.is_unique:
        return scores
    of_prompt = dict(zip(prompts["id"], units, strict=True))
    return scores.assign(cluster=scores["prompt_id"].map(of_prompt).fillna(scores["prompt_id"]))


def unit_of(prompts: pd.DataFrame) -> pd.Series:
    """What each prompt shares with its near-duplicates: their group, or the id of the same text."""
    same = prompts["id"]
    if "prompt" in prompts:
        same = prompts.groupby(prompts["prompt"].str.strip())["id"].transform("first")
    return (prompts["group"].fillna(same) if "group" in prompts else same).astype(str)


def _read_or_empty(path: Path) -> dict[str, Any]:
    return read_json(path, ()) if path.is_file() else {}


@dataclass(frozen=True)
class Headline:
    """One unlearned concept (or, in a comparison, one model after).

    `sweep`: all contained arms of the same seed by weight. `contained`: the arm shown. `chosen` is
    False if the study chose none; then the arm with the largest recovery is shown, or else the one
    with the smallest weight. `others`: the plain arm under other seeds.
    """

    concept: str | None
    plain: Arm
    contained: Arm | None
    chosen: bool
    sweep: tuple[Arm, ...]
    others: tuple[Arm, ...]

    @property
    def shown(self) -> tuple[Arm, ...]:
        return (self.plain, self.contained) if self.contained else (self.plain,)


def headlines(record: RunRecord) -> tuple[Headline, ...]:
    """The headlines of a run: for each concept and objective its first seed, in the run's order.

    A contained arm needs its plain arm for comparison, so it appears only once that has finished.
    In a run that makes no plain arm, the contained arm is the headline.
    """
    found: dict[tuple[str | None, str | None, str], Headline] = {}
    planned = record.config.get("arms") or [arm.config for arm in record.arms]
    lone = all(arm.get("retain") or arm.get("control") for arm in planned)
    for plain in (arm for arm in record.arms if not arm.control and (lone or not arm.retain)):
        # Compared models have no objective: each has its own headline.
        key = (plain.concept, plain.objective, "" if plain.objective else plain.name)
        if key in found:
            continue
        # Arms of a containment study have a separate section, because there may be hundreds.
        sweep = tuple(a for a in record.arms if a.contains(plain) and "containment" not in a.config)
        selected = [arm for arm in sweep if arm.selected]
        stand_ins = [arm for arm in sweep if arm.config.get("stands_in")]
        found[key] = Headline(
            concept=plain.concept,
            plain=plain,
            contained=next(iter((*selected, *stand_ins, *sweep)), None),
            chosen=bool(selected),
            sweep=sweep,
            others=tuple(
                arm
                for arm in record.arms
                if plain.objective
                and not (arm.retain or arm.control)
                and (arm.concept, arm.objective) == (plain.concept, plain.objective)
                and arm.seed != plain.seed
            ),
        )
    return tuple(found.values())


def base_of(record: RunRecord) -> LanguageModel:
    """The run's base model.

    Raises:
        InputError: its weights or its configuration have changed since the run.
    """
    from interp.model import LanguageModel  # a report of a run needs no torch

    source = record.config["model"]
    base = LanguageModel.load(source, **record.model_options)
    was = (record.manifest.get("hashes") or {}).get("model")
    if was is not None and was != base.fingerprint():
        raise InputError(
            f"the weights of {source} have changed since the run in {record.folder}; "
            "restore the old weights, or run the study again"
        )
    held = _read_or_empty(record.folder / "arms" / BASE / "inputs.json").get("configuration")
    if held is not None and held != content_key("identity", base.configuration):
        raise InputError(
            f"the configuration of {source} has changed since the run in {record.folder}; "
            "restore the old one, or run the study again"
        )
    return base


def after_of(record: RunRecord, arm: Arm) -> LanguageModel:
    """An arm's model; adapters are merged.

    Raises:
        InputError: the run's folder does not hold its weights.
    """
    from interp.model import LanguageModel

    source = weights_of(record, arm)
    if source is None:
        raise InputError(
            f"{record.folder} holds no weights of {arm.name} (adapter/ or model/); "
            "run the study again and keep the weights"
        )
    return LanguageModel.load(source, **record.model_options)


def weights_of(record: RunRecord, arm: Arm) -> str | None:
    """The folder of an arm's weights; None if the run did not keep them."""
    if checkpoint := arm.config.get("checkpoint"):
        return str(checkpoint)
    folder = record.folder / "arms" / arm.name
    kept: tuple[Path, ...] = (folder / "adapter", folder / "model")
    return next((str(path) for path in kept if path.is_dir()), None)
