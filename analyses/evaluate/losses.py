"""What else the model lost: distance to its base, perplexity of texts, tasks with right answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.evaluate.findings import BASE, MODEL
from analyses.evaluate.plan import Inputs
from analyses.evaluate.subjects import EvaluatedModel, at_work
from analyses.runs import Progress, write_table
from interp.store import content_key, read_json, write_json
from unlearning.utility import answer_logits, kl_table, run_tasks, text_likelihood

# Prompts whose logits are held for KL: 256 of them at 8 positions and a vocabulary of 150,000 are
# 0.6 GB in bfloat16.
MOST_DIVERGENCES = 256


def divergence_from_base(
    subjects: Sequence[EvaluatedModel], inputs: Inputs, progress: Progress
) -> pd.DataFrame | None:
    """KL(base ‖ model) along the base's answers to (a sample of) the benign prompts."""
    if len(subjects) < 2 or any(subject.lm is None for subject in subjects):
        return None
    counted = inputs.prompts["id"].isin(inputs.counted["id"])
    places = np.flatnonzero(counted & (inputs.prompts["label"] == "benign"))
    if not places.size:
        return None
    # Evenly over the file, so over all its domains.
    kept = np.linspace(0, places.size - 1, min(places.size, MOST_DIVERGENCES)).round().astype(int)
    places = places[kept]
    texts = list(inputs.prompts["prompt"].iloc[places])
    answers = [subjects[-1].answers[place].ids for place in places]
    positions = inputs.plan.positions
    logits = {}
    for subject in subjects:
        stage = f"{subject.name}: along the base's answers"
        with at_work(subject, inputs.plan) as lm, progress.stage(stage, len(texts)) as advance:
            logits[subject.role] = answer_logits(
                lm, texts, answers, positions=positions, progress=advance
            )
    table = kl_table(logits[BASE], logits[MODEL], positions)
    chosen = inputs.prompts.iloc[places]
    return pd.DataFrame(
        {
            "prompt_id": np.repeat(chosen["id"].to_numpy(), positions),
            "domain": np.repeat(chosen["domain"].to_numpy(), positions),
            "kind": np.repeat(chosen["kind"].to_numpy(), positions),
            "position": np.tile(np.arange(1, positions + 1), len(places)),
            "nats": table.ravel(),
        }
    )


def likelihood_of_texts(
    subjects: Sequence[EvaluatedModel], inputs: Inputs, progress: Progress
) -> pd.DataFrame | None:
    """The likelihood of the plain texts under every model that is loaded."""
    if not inputs.texts:
        return None
    parts = []
    for subject in subjects:
        if subject.lm is None:
            continue
        with at_work(subject, inputs.plan) as lm, progress.stage(f"{subject.name}: texts"):
            found = text_likelihood(lm, inputs.texts)
        columns = {"role": subject.role, "text": range(len(inputs.texts)), **vars(found)}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def scores_on_tasks(
    subjects: Sequence[EvaluatedModel], inputs: Inputs, folder: Path, progress: Progress
) -> pd.DataFrame | None:
    """Every item's score on the tasks; read from the folder where it was asked before."""
    asked = inputs.plan.tasks
    if asked is None:
        return None
    parts = []
    for subject in subjects:
        if subject.lm is None:
            continue

        def score(subject: EvaluatedModel = subject) -> pd.DataFrame:
            with at_work(subject, inputs.plan) as lm:
                return run_tasks(
                    lm,
                    asked.names,
                    chat_template=asked.chat_template,
                    folder=asked.folder,
                    few_shot=asked.few_shot,
                    limit=asked.limit,
                )

        chat = subject.lm.chat.fingerprint if asked.chat_template else None
        key = content_key("tasks", subject.fingerprint, chat, asked)
        progress.say(f"{subject.name}: tasks …")  # the harness shows how far it is
        table = _kept(folder / "tasks" / f"{subject.role}.parquet", key, score)
        parts.append(table.assign(role=subject.role))
    return pd.concat(parts, ignore_index=True)


def _kept(path: Path, key: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table at ``path`` if it was made under ``key``; else made, and kept there."""
    mark = path.with_suffix(".json")
    if path.is_file() and mark.is_file() and read_json(mark)["key"] == key:
        return pd.read_parquet(path)
    mark.unlink(missing_ok=True)
    table = make()
    write_table(path, table)
    write_json(mark, {"key": key})
    return table
