"""Resolves the model, the prompts and the defaults of every command.

A command looks for its model first. Its prompts come from a file, from the model organism, or from
the built-in matched pairs, in this order. Settings specific to model organisms are made here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.costs import USUAL_ANSWER, lineage
from interp.errors import ModelError, nearest
from interp.store import read_json

if TYPE_CHECKING:
    import pandas as pd

    from analyses.study.plan import StudyPlan
    from interp.model import LanguageModel
    from unlearning.scoring import Reader, Scorer
    from unlearning.training import TrainingSettings

ORGANISM_FILE = "organism.json"
ANSWER_TOKENS = 48
ORGANISMS_ANSWER = 0.5
# The first is the headline; the others are its members, for comparison (the docs compare them).
SCORERS, WITH_READER = ("panel", "phrases", "classifier"), ("probe",)


@dataclass(frozen=True)
class Defaults:
    """The defaults of a command.

    Attributes:
        `organism`: folder of the studied model organism; None for any other model.
    """

    organism: str | None = None

    @property
    def prompts_name(self) -> str:
        """The source of prompts without a file, in words."""
        return "the model organism's prompts" if self.organism else "the built-in matched pairs"

    def prompts(
        self, file: str | Path | None, required_labels: Collection[str] = ("harmful", "benign")
    ) -> pd.DataFrame:
        """The prompts table in ``file``, else the model organism's, else the built-in pairs.

        Raises:
            InputError: the file cannot be used, or has no row of a required label.
        """
        from unlearning.data import matched_pairs, read_prompts
        from unlearning.organism import load_world

        if file is not None:
            return read_prompts(file, required_labels=required_labels)
        return load_world(self.organism).prompts() if self.organism else matched_pairs()

    @property
    def scorers(self) -> tuple[str, ...]:
        """Text scorers, the headline first: a model organism's strict grammar, or the panel."""
        from unlearning.scoring import default_reader

        if self.organism:
            return ("grammar",)
        return SCORERS + WITH_READER * (default_reader() is not None)

    @property
    def answer_tokens(self) -> int:
        """Maximum number of tokens of a generated answer."""
        return self.study.get("max_new_tokens", ANSWER_TOKENS)

    @property
    def usual_answer(self) -> float:
        """Share of the maximum length to which a batch of answers usually goes, for plans."""
        return ORGANISMS_ANSWER if self.organism else USUAL_ANSWER

    @property
    def training(self) -> TrainingSettings:
        """Training settings: those of the model organism, or the package's."""
        from unlearning.training import TrainingSettings

        tuned = self._file.get("unlearning")
        if tuned is None:
            return TrainingSettings()
        return TrainingSettings(
            objective=tuned["objective"],
            options={"beta": tuned["beta"]},
            trained="projections",
            learning_rate=tuned["learning_rate"],
            adam_betas=tuple(tuned["adam_betas"]),
            batch_size=tuned["batch_size"],
            length_window=0,  # a model organism's prompts have almost equal lengths
            max_grad_norm=tuned["max_grad_norm"],
            max_steps=tuned["max_steps"],
        )

    @property
    def study(self) -> dict[str, Any]:
        """Attributes of a ``StudyPlan`` that differ from its own defaults."""
        tuned = self._file.get("unlearning")
        if tuned is None:
            return {}
        return {
            "deflection_count": tuned["deflections"],
            "stop_at": tuned["stop_at"],
            "every_step": True,
            "max_new_tokens": 16,
            "batch_size": 512,
        }

    @property
    def ground_truth(self) -> dict[str, Any] | None:
        """The model organism's coefficients of leakage; None for any other model."""
        return self._file.get("planted")

    @cached_property
    def _file(self) -> dict[str, Any]:
        return dict(read_json(Path(self.organism) / ORGANISM_FILE)) if self.organism else {}


def defaults_for(*models: str | None) -> Defaults:
    """The defaults for models: a model organism's if one of them is, or derives from, one."""
    for model in models:
        for source in lineage(model) if model else ():
            if (Path(source) / ORGANISM_FILE).is_file():
                return Defaults(source)
    return Defaults()


def depth_of(source: str) -> int | None:
    """The number of layers of a model whose configuration is on this machine; else None."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained([*lineage(source)][-1], local_files_only=True)
        return int(config.get_text_config(decoder=True).num_hidden_layers)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None  # loading says what is wrong with it


def require_model(source: str) -> None:
    """Look for a model without loading it: a folder here, or a name that the hub knows.

    Raises:
        ModelError: the model does not exist, or is neither here nor on a hub that can be reached.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    from interp.model import check_source

    check_source(source)
    if Path(source).exists():
        return
    names = ("organism", *(path.name for path in Path().iterdir() if path.is_dir()))
    near = "" if "/" in source else nearest(source, names)
    missing = f"model {source} not found: no such folder here, and "
    try:
        if _is_cached(source):
            return
        HfApi().model_info(source, timeout=10)
    except GatedRepoError:
        return  # loading says how to gain access
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(f"{missing}none on the hub that HF_TOKEN may read{near}") from None
    except Exception as error:
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the hub cannot be reached"
        raise ModelError(f"{missing}none in the hub's cache, and {why}{near}") from error


def _is_cached(source: str) -> bool:
    """Whether any revision of a model of the hub is on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
    return any(folder.glob("snapshots/*/*config.json"))


def prompts_of(plan: StudyPlan) -> pd.DataFrame:
    """The prompts of a study."""
    return defaults_for(plan.model).prompts(plan.prompts)


def scorer_of(
    plan: StudyPlan, given: LanguageModel | None = None, *, is_served: bool = False
) -> Scorer:
    """The text scorer of a study; ``auto`` is the model's default headline.

    The studied base model is the panel's reader if the default reader is not there.

    Args:
        plan: names the scorer and the model.
        given: the base model, if it is in memory.
        is_served: whether a server holds the model, which then reads nothing here.
    """
    from unlearning.scoring import Panel, find_scorer

    name = defaults_for(plan.model).scorers[0] if plan.scorer == "auto" else plan.scorer
    found = find_scorer(name, plan.model_options.get("device"))
    if isinstance(found, Panel) and not is_served:
        return found.or_read_by(lambda: base_reader(plan.model, plan.model_options, given))
    return found


def base_reader(
    model: str, options: Mapping[str, Any], given: LanguageModel | None = None
) -> Reader:
    """A base model as the reader of answers, loaded as the base model itself is."""
    from unlearning.scoring import Reader

    others = {name: value for name, value in options.items() if name != "device"}
    return Reader(model, options.get("device"), options=others, loaded=given)


def name_of(model: str) -> str:
    """The model's name in results."""
    if (Path(model) / ORGANISM_FILE).is_file():
        from unlearning.organism import load_world

        return f"model organism (seed {load_world(model).seed})"
    return Path(model).name
