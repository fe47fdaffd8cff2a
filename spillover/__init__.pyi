from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import analyses as analyses
import interp as interp
import unlearning as unlearning
from analyses.contain.advice import Advice
from analyses.deflect.data_set import Deflected
from analyses.doctor.examination import Examination
from analyses.evaluate.measures import Measures
from analyses.predict.forecasts import Forecast
from analyses.recorded.agreement import AgreementTables
from analyses.reproduce.result import Result
from analyses.runs import LeakageMatrix
from analyses.runs import Run as Run
from analyses.workbench import TrainingRecord as TrainingRecord
from analyses.workbench import UnlearnedModel as UnlearnedModel
from analyses.workbench import collect as collect
from analyses.workbench import example_run as example_run
from analyses.workbench import fit_directions as fit_directions
from analyses.workbench import generate as generate
from analyses.workbench import load as load
from analyses.workbench import patch as patch
from analyses.workbench import prompts as prompts
from analyses.workbench import refusal_log_odds as refusal_log_odds
from analyses.workbench import score as score
from analyses.workbench import state_map as state_map
from analyses.workbench import stitch as stitch
from analyses.workbench import unlearn as unlearn
from interp.directions import ContrastSubspace as ContrastSubspace
from interp.directions import DirectionSet as DirectionSet
from interp.directions import FirstPrincipalComponent as FirstPrincipalComponent
from interp.directions import FittedDirections as FittedDirections
from interp.directions import Leace as Leace
from interp.directions import LogisticProbe as LogisticProbe
from interp.directions import MeanDifference as MeanDifference
from interp.directions import PairedPrincipalComponent as PairedPrincipalComponent
from interp.directions import WhitenedMeanDifference as WhitenedMeanDifference
from interp.errors import InputError as InputError
from interp.errors import MachineError as MachineError
from interp.errors import ModelError as ModelError
from interp.errors import SpilloverError as SpilloverError
from interp.errors import TrainingError as TrainingError
from interp.interventions import ablate as ablate
from interp.interventions import add as add
from interp.interventions import orthogonalise as orthogonalise
from interp.interventions import set_component as set_component
from interp.model import LanguageModel as LanguageModel
from interp.similarity import cosine_map as cosine_map
from interp.similarity import rotation as rotation
from unlearning.data import DOMAINS as DOMAINS

__version__: str

# The commands, as `python -m experiments.front_door_stub` writes them.

def demo(
    *,
    out: str | Path = "runs/demo",
    seeds: int = 1,
    overwrite: bool = False,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Run | Any: ...
def evaluate(
    model: str,
    *,
    prompts: str | Path | None = None,
    base: str | None = None,
    scorer: str | Sequence[str] | None = None,
    server: str | None = None,
    split: str | Sequence[str] | None = None,
    texts: str | Path | None = None,
    tasks: str | Sequence[str] | None = None,
    task_folder: str | Path | None = None,
    task_chat: bool = False,
    task_limit: int | None = None,
    few_shot: int | None = None,
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    positions: int = 8,
    out: str | Path = "runs/evaluate-MODEL",
    show_completions: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Measures | Any: ...
def study(
    model: str,
    *,
    concept: str | Sequence[str],
    objective: str | Sequence[str] = "npo",
    objective_file: str | Path | None = None,
    beta: float | None = None,
    option: str | Sequence[str] | Mapping[str, Any] | None = None,
    retain: str | Sequence[str] | None = None,
    retain_weight: float | Sequence[float] | None = None,
    retain_ratio: int = 1,
    retain_objective: str = "cross_entropy",
    adaptive: bool = False,
    slack: float = 0.1,
    trainable: str | None = None,
    lora_rank: int = 128,
    lora_targets: str | Sequence[str] | None = None,
    lora_exclude: str | Sequence[str] | None = None,
    layer: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    separate_backward: bool = False,
    gradient_checkpointing: bool = False,
    autocast: bool = False,
    max_steps: int | None = None,
    forgetting_level: float | None = None,
    max_new_tokens: int | None = None,
    scorer: str = "auto",
    estimator: str = "mean_difference",
    checkpoint_every: int | None = None,
    overwrite: bool = False,
    report_to: str = "none",
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    prompts: str | Path | None = None,
    deflections: str | Path | None = None,
    out: str | Path = "runs/study-MODEL-CONCEPT",
    seeds: int = 1,
    control: bool = True,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Run | Any: ...
def report(
    folder: str | Path,
    *,
    show_completions: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Run: ...
def doctor(
    model: str,
    *,
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    step: bool = True,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Examination: ...
def compare(
    base: str,
    after: str,
    *,
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    prompts: str | Path | None = None,
    out: str | Path = "runs/compare-BASE-AFTER",
    concept: str | None = None,
    max_new_tokens: int | None = None,
    scorer: str = "auto",
    estimator: str = "mean_difference",
    overwrite: bool = False,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Run | Any: ...
def matrix(
    model: str,
    *,
    objective: str | Sequence[str] = "npo",
    objective_file: str | Path | None = None,
    beta: float | None = None,
    option: str | Sequence[str] | Mapping[str, Any] | None = None,
    retain: str | Sequence[str] | None = None,
    retain_weight: float | Sequence[float] | None = None,
    retain_ratio: int = 1,
    retain_objective: str = "cross_entropy",
    adaptive: bool = False,
    slack: float = 0.1,
    trainable: str | None = None,
    lora_rank: int = 128,
    lora_targets: str | Sequence[str] | None = None,
    lora_exclude: str | Sequence[str] | None = None,
    layer: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    separate_backward: bool = False,
    gradient_checkpointing: bool = False,
    autocast: bool = False,
    max_steps: int | None = None,
    forgetting_level: float | None = None,
    max_new_tokens: int | None = None,
    scorer: str = "auto",
    estimator: str = "mean_difference",
    checkpoint_every: int | None = None,
    overwrite: bool = False,
    report_to: str = "none",
    workers: int = 1,
    engine: str = "local",
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    prompts: str | Path | None = None,
    out: str | Path = "runs/matrix-MODEL",
    concept: str | Sequence[str] | None = None,
    seeds: int = 2,
    control: bool = True,
    quantity: str = "area",
    rescale: bool = False,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> LeakageMatrix | Any: ...
def reproduce(
    paper: str,
    model: str,
    *,
    lora_rank: int | None = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    retain_ratio: int | None = None,
    micro_batch_size: int | None = None,
    gradient_checkpointing: bool = False,
    autocast: bool = False,
    checkpoint_every: int | None = None,
    workers: int = 1,
    engine: str = "local",
    texts: str | Path | None = None,
    tasks: str | Sequence[str] | None = None,
    task_folder: str | Path | None = None,
    task_chat: bool = False,
    task_limit: int | None = None,
    few_shot: int | None = None,
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    concept: str | Sequence[str] | None = None,
    prompts: str | Path | None = None,
    out: str | Path = "runs/PAPER-MODEL",
    grid: bool = False,
    forgetting_level: float | None = None,
    paper_model: str | None = None,
    scorer: str = "auto",
    max_new_tokens: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Result | Any | None: ...
def explain(
    folder: str | Path,
    *,
    arm: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    draws: int = 100,
    place_draws: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> pd.DataFrame | Any: ...
def predict(
    model: str,
    *,
    concept: str,
    objective: str | Sequence[str] = "npo",
    objective_file: str | Path | None = None,
    beta: float | None = None,
    option: str | Sequence[str] | Mapping[str, Any] | None = None,
    retain: str | Sequence[str] | None = None,
    retain_weight: float | Sequence[float] | None = None,
    retain_ratio: int = 1,
    retain_objective: str = "cross_entropy",
    adaptive: bool = False,
    slack: float = 0.1,
    trainable: str | None = None,
    lora_rank: int = 128,
    lora_targets: str | Sequence[str] | None = None,
    lora_exclude: str | Sequence[str] | None = None,
    layer: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    separate_backward: bool = False,
    gradient_checkpointing: bool = False,
    autocast: bool = False,
    max_steps: int | None = None,
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    prompts: str | Path | None = None,
    out: str | Path = "runs/predict-MODEL-CONCEPT",
    max_new_tokens: int | None = None,
    scorer: str = "auto",
    seed: int = 0,
    kernel: str = "trainable",
    overwrite: bool = False,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Forecast | Any: ...
def tournament(
    runs: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path = "runs/tournament-RUNS",
    choices: str | Path | None = None,
    choose: str | Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> dict[str, Any] | Any: ...
def contain(
    model: str,
    *,
    concept: str,
    objective: str | Sequence[str] = "npo",
    objective_file: str | Path | None = None,
    beta: float | None = None,
    option: str | Sequence[str] | Mapping[str, Any] | None = None,
    retain: str | Sequence[str] | None = None,
    retain_weight: float | Sequence[float] | None = None,
    retain_ratio: int = 1,
    retain_objective: str = "cross_entropy",
    adaptive: bool = False,
    slack: float = 0.1,
    trainable: str | None = None,
    lora_rank: int = 128,
    lora_targets: str | Sequence[str] | None = None,
    lora_exclude: str | Sequence[str] | None = None,
    layer: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    separate_backward: bool = False,
    gradient_checkpointing: bool = False,
    autocast: bool = False,
    max_steps: int | None = None,
    forgetting_level: float | None = None,
    max_new_tokens: int | None = None,
    scorer: str = "auto",
    estimator: str = "mean_difference",
    checkpoint_every: int | None = None,
    overwrite: bool = False,
    report_to: str = "none",
    workers: int = 1,
    engine: str = "local",
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    prompts: str | Path | None = None,
    deflections: str | Path | None = None,
    out: str | Path = "runs/contain-MODEL-CONCEPT",
    methods: str | Sequence[str] | None = None,
    examples: str | Sequence[str] = "8,32,128",
    splits: int = 6,
    left_out: int = 3,
    seed: int = 0,
    shallow_recovery: bool = True,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Advice | Any: ...
def deflect(
    model: str,
    *,
    concept: str,
    revision: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    chat_template_arg: str | Sequence[str] | Mapping[str, Any] | None = None,
    response_prefix: str = "",
    device: str | None = None,
    trust_remote_code: bool = False,
    layers_path: str | None = None,
    prompts: str | Path | None = None,
    out: str | Path = "runs/deflect-MODEL-CONCEPT",
    scorer: str = "auto",
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    server: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Deflected | Any: ...
def agree(
    scores: str | Path | Sequence[str | Path],
    *,
    label_column: str = "label",
    model_column: str = "model",
    rows: int = 20,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> AgreementTables: ...
def calibrate(
    file: str | Path,
    *,
    out: str | Path = "runs/calibrate-FILE.jsonl",
    label_column: str | None = None,
    plugin: str | Path | Sequence[str | Path] | None = None,
) -> Mapping[str, int]: ...
