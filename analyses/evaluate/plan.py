"""The plan of an evaluation, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.costs import (
    CHARACTERS_A_TOKEN,
    CostedModel,
    CostEstimate,
    Work,
    answering_estimate,
    once,
    reading_of,
    with_readers,
)
from analyses.paths import require_folder
from analyses.study import Defaults, base_reader, check_line, defaults_for, name_of, require_model
from interp.errors import InputError, expected
from interp.store import file_hash
from unlearning.scoring import Panel, Scorer, find_scorer, readers_of

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.scoring import ResponseReader

ANOTHER = "give another --out, or --overwrite to replace them"


@dataclass(frozen=True)
class TaskPlan:
    """Tasks of the LM Evaluation Harness: arguments of :func:`unlearning.utility.run_tasks`."""

    names: tuple[str, ...]
    chat_template: bool = False
    folder: str | None = None
    few_shot: int | None = None
    limit: int | None = None

    @property
    def files(self) -> list[list[str]]:
        """Name and hash of the files that define the tasks of ``folder``; empty without one."""
        if not self.folder:
            return []
        # Next to the definitions lies their data; in other folders, what the harness has cached.
        places = {one.parent for one in Path(self.folder).rglob("*.y*ml")}
        files = sorted(one for place in places for one in place.iterdir() if one.is_file())
        return [[one.name, file_hash(one)] for one in files]


@dataclass(frozen=True)
class EvaluationPlan:
    """One evaluation.

    Attributes:
        model: hub id, model folder or adapter folder; the model's name on ``server`` with one.
        prompts: a file of prompts (default: a model organism's own, else the built-in pairs).
        base: the model before the change, for comparison.
        scorers: names of text scorers, the headline first; empty for the default panel.
        server: address of an OpenAI-compatible server that answers in the model's place.
        splits: count only prompts of these (default: all, because nothing is trained here).
        max_new_tokens: of a generated answer (default: a model organism's own, else 48).
        batch_size: prompts in one forward.
        positions: number of answer tokens for the KL to the base.
        texts: a file of plain texts for perplexity.
        tasks: tasks with right answers.
        model_options: arguments of ``LanguageModel.load``.
        command: the user's command, for the report.
    """

    model: str
    prompts: str | None = None
    base: str | None = None
    scorers: tuple[str, ...] = ()
    server: str | None = None
    splits: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    batch_size: int = 64
    positions: int = 8
    texts: str | None = None
    tasks: TaskPlan | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None

    @property
    def defaults(self) -> Defaults:
        """The defaults for the model and its base."""
        return defaults_for(self.model, self.base)

    def name_of(self, source: str) -> str:
        """The model's name in results: the distinctive part of its folder."""
        name = name_of(source)
        is_plain = Path(source).exists() and name == Path(source).name
        return "/".join(Path(source).parts[-2:]) if is_plain else source

    @property
    def answer_tokens(self) -> int:
        """Maximum number of tokens of an answer."""
        return self.max_new_tokens or self.defaults.answer_tokens

    @property
    def panel(self) -> tuple[str, ...]:
        """Names of the scorers; the strict grammar for model organisms."""
        return self.scorers or self.defaults.scorers

    @property
    def base_options(self) -> Mapping[str, Any]:
        """Those of the base model, which is another repository; with a server, they are its own."""
        names = self.model_options if self.server else self.model_options.keys() - {"revision"}
        return {name: self.model_options[name] for name in names}

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models that are loaded here, the evaluated one first."""
        return tuple(
            source for source in (None if self.server else self.model, self.base) if source
        )

    @property
    def prompts_name(self) -> str:
        """The source of the prompts, in words."""
        return self.prompts or self.defaults.prompts_name


@dataclass(frozen=True)
class Inputs:
    """A plan with its inputs, read and checked."""

    plan: EvaluationPlan
    prompts: pd.DataFrame
    panel: Mapping[str, Scorer]
    texts: tuple[str, ...]

    @property
    def headline(self) -> str:
        """Name of the headline scorer."""
        return next(iter(self.panel))

    @property
    def counted(self) -> pd.DataFrame:
        """The prompts that rates count."""
        splits = self.plan.splits
        rows = self.prompts[self.prompts["split"].isin(splits)] if splits else self.prompts
        return rows.reset_index(drop=True)


# Options of rendering, by their names in ``LanguageModel.load``.
RENDERING = {
    "response_prefix": "--response-prefix",
    "template": "--chat-template",
    "template_arguments": "--chat-template-arg",
}


def checked_evaluation(plan: EvaluationPlan) -> Inputs:
    """The plan's inputs, after every check that needs no model; writes nothing.

    Raises:
        InputError: the plan cannot run.
    """
    from unlearning.data import SPLITS

    for source in plan.loaded:
        require_model(source)
    if plan.server:
        from unlearning.serving import Endpoint

        Endpoint(plan.model, plan.server)  # raises for an invalid address
        if rendering := [flag for name, flag in RENDERING.items() if plan.model_options.get(name)]:
            raise InputError(
                f"{', '.join(rendering)} does not apply with --server, which renders the prompts; "
                "set it there"
            )
    if not plan.loaded and (plan.texts or plan.tasks):
        raise InputError(
            "perplexity and tasks need a model's probabilities, which a server does not give; "
            "leave out --texts and --tasks, or give a model to load with --base"
        )
    if plan.tasks:
        from unlearning.utility import require_harness

        require_harness()
    repeated = sorted({name for name in plan.panel if plan.panel.count(name) > 1})
    if repeated:
        raise InputError(f"--scorer {', '.join(repeated)} is given twice; name each once")
    device = plan.model_options.get("device")
    panel = {name: find_scorer(name, device) for name in plan.panel}
    if base := plan.base:
        panel = {
            name: one.or_read_by(lambda: base_reader(base, plan.base_options))
            if isinstance(one, Panel)
            else one
            for name, one in panel.items()
        }
    unknown = sorted(set(plan.splits) - set(SPLITS))
    if unknown:
        raise InputError(f"unknown split {', '.join(unknown)}{expected(unknown[0], SPLITS)}")
    prompts = plan.defaults.prompts(plan.prompts, required_labels=())
    inputs = Inputs(plan, prompts, panel, texts_in(plan.texts) if plan.texts else ())
    if inputs.counted.empty:
        raise InputError(f"{plan.prompts_name}: no prompt is in {' or '.join(plan.splits)}")
    return inputs


def require_own_folder(plan: EvaluationPlan, folder: Path, *, overwrite: bool = False) -> None:
    """Refuse to overwrite the evaluation of another model or of other prompts.

    Raises:
        InputError: the folder holds such an evaluation, or something else.
    """
    from interp.store import read_json

    config = require_folder(folder) / "config.json"
    if overwrite or not config.is_file():
        return
    held = read_json(config, ())
    if any(held.get(name) != getattr(plan, name) for name in ("model", "base", "server")):
        of = held.get("model", "something else")
        against = f" against {held['base']}" if held.get("base") else ""
        raise InputError(f"{folder} holds results of {of}{against}; {ANOTHER}")
    if held.get("prompts") != plan.prompts_name:
        raise InputError(f"{folder} holds results on {held.get('prompts')}; {ANOTHER}")


def texts_in(path: str) -> tuple[str, ...]:
    """Texts in the column ``text`` of a JSONL, CSV or parquet file, or a .txt's paragraphs.

    Raises:
        InputError: the file cannot be read or has no text.
    """
    from unlearning.data import read_records, require_characters, require_columns, require_scalars

    if path.endswith(".txt"):
        try:
            whole = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error
        found = [part.strip() for part in whole.split("\n\n")]
    else:
        records = read_records(path)
        require_columns(records, ("text",), path)
        require_scalars(records, ("text",), path)
        require_characters(records, path)
        found = [str(record.fields["text"]) for record in records]
    texts = tuple(text for text in found if text.strip())
    if not texts:
        raise InputError(f"{path} has no text in it")
    return texts


def evaluation_plan_lines(inputs: Inputs) -> list[str]:
    """The plan in lines, without its time and memory."""
    from unlearning.scoring import ModelScorer

    plan, prompts = inputs.plan, inputs.prompts
    counts = inputs.counted.assign(kind=inputs.counted["kind"].fillna("harmful"))["kind"]
    named = counts.replace("twin", "matched benign").value_counts()
    shown = ", ".join(f"{n} {name}" for name, n in named.items())
    counted = f", of which counted: {len(inputs.counted)}" if plan.splits else ""
    lines = [
        f"model: {plan.model}" + (f" at {plan.server}" if plan.server else ""),
        *([f"base: {plan.base}"] if plan.base else []),
        f"prompts: {len(prompts)}{counted} ({shown}), {plan.prompts_name}",
        f"scorers: {', '.join(inputs.panel)}",
        *([] if plan.server else [check_line(plan.model)]),
    ]
    answers = len(prompts) * (1 + bool(plan.base))
    for name, scorer in inputs.panel.items():
        if isinstance(scorer, ModelScorer):
            lines.append(f"{name}: {_reading(scorer.reader, list(prompts['prompt']), plan)}")
    if plan.tasks:
        template = "in the chat format" if plan.tasks.chat_template else "without a chat template"
        lines.append(f"tasks: {', '.join(plan.tasks.names)}, {template}")
    lines.append(f"answers: {answers}, of at most {plan.answer_tokens} tokens")
    return lines


def evaluation_costs(inputs: Inputs, *, timing: bool = True) -> CostEstimate | None:
    """The time and memory of the models that are loaded here, without tasks and model scorers."""
    if not inputs.plan.loaded:
        return None
    plan, prompts = inputs.plan, list(inputs.prompts["prompt"])
    source = plan.loaded[0]
    usual = plan.defaults.usual_answer
    reading = reading_of(prompts, plan.answer_tokens, source, plan.model_options, usual=usual)
    rows, models = len(prompts), len(plan.loaded)
    texts = sum(map(len, inputs.texts)) / CHARACTERS_A_TOKEN
    work = once(Work(arms=1, read=texts)) + reading.answers(rows) + reading.masses(rows)
    work = work.times(models) + once(Work(pages=1.2))
    if plan.base:  # reads the answers, for their coherence; and both models, for the divergence
        work += reading.forced(rows).times(1 + models)
    subjects = [CostedModel(one, plan.model_options) for one in plan.loaded]
    estimate = answering_estimate(subjects, reading, work, plan.batch_size, timing=timing)
    readers = readers_of(inputs.panel.values())
    return with_readers(estimate, readers, work, reading, timing=timing)


def _reading(reader: ResponseReader, prompts: Sequence[str], plan: EvaluationPlan) -> str:
    """Upper bound on the text that a judge or a model classifier reads."""
    from unlearning.scoring import workload_of

    answer = "word " * plan.answer_tokens  # as long as an answer can be
    asked = workload_of(reader, prompts, [answer] * len(prompts))
    models = 1 + bool(plan.base)
    text = (
        f"at most {models * asked.calls} answers to read, {models * asked.read / 1e6:.2f} M tokens"
    )
    return text + " (a provider may charge for them)" if asked.paid else text
