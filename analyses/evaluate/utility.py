"""Other losses: divergence from the base, perplexity of texts, tasks with right answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.evaluate.findings import BASE, MODEL
from analyses.evaluate.plan import TaskPlan
from analyses.evaluate.subjects import Session, on_device
from analyses.runs import unit_of
from interp.model import LanguageModel
from interp.numbers import evenly_spread
from interp.store import content_key, read_json, write_json, write_table
from unlearning.utility import answer_logits, kl_table, run_tasks, text_likelihood

# Prompts whose logits are held for KL: 256 of them at 8 positions and a vocabulary of 150,000 are
# 0.6 GB in bfloat16.
MOST_DIVERGENCES = 256


def divergence_from_base(session: Session) -> pd.DataFrame | None:
    """KL(base ‖ model) along the base's answers to (a sample of) the benign prompts."""
    if len(session.loaded) < 2:
        return None
    prompts, positions = session.inputs.prompts, session.plan.positions
    counted = prompts["id"].isin(session.inputs.counted["id"])
    places = np.flatnonzero(counted & (prompts["label"] == "benign"))
    if not places.size:
        return None
    places = places[evenly_spread(places.size, MOST_DIVERGENCES)]
    chosen = prompts.iloc[places]
    answers = [session.reference.answers[place].ids for place in places]
    logits = {}
    for one in session.models:
        stage = f"{one.name}: along the base's answers"
        with session.at_work(one, stage, len(places)) as (lm, advance):
            logits[one.role] = answer_logits(
                lm, list(chosen["prompt"]), answers, positions=positions, progress=advance
            )
    table = chosen[["id", "domain", "kind"]].rename(columns={"id": "prompt_id"})
    table["cluster"] = unit_of(chosen)
    return table.loc[table.index.repeat(positions)].assign(
        position=np.tile(np.arange(1, positions + 1), len(places)),
        nats=kl_table(logits[BASE], logits[MODEL], positions).ravel(),
    ).reset_index(drop=True)  # fmt: skip


def likelihood_of_texts(session: Session) -> pd.DataFrame | None:
    """The likelihood of the plain texts under every loaded model."""
    texts = session.inputs.texts
    if not texts:
        return None
    parts = []
    for one in session.loaded:
        with session.at_work(one, f"{one.name}: texts") as (lm, _):
            found = vars(text_likelihood(lm, texts))
        parts.append(pd.DataFrame({"role": one.role, "text": range(len(texts)), **found}))
    return pd.concat(parts, ignore_index=True)


def scores_on_tasks(session: Session) -> pd.DataFrame | None:
    """Every item's score on the tasks; existing scores come from the folder."""
    tasks = session.plan.tasks
    if tasks is None:
        return None
    parts = []
    for one in session.loaded:
        assert one.lm is not None
        chat = one.lm.chat.fingerprint if tasks.chat_template else None
        read_by = [one.fingerprint, one.lm.configuration, one.lm.chat.tokenization, chat]
        key = content_key("tasks", "tasks", *read_by, tasks, *tasks.files)
        session.progress.say(f"{one.name}: tasks …")  # the harness shows its own progress
        path = session.folder / "tasks" / f"{one.role}.parquet"
        table = task_scores(tasks, path, key, partial(on_device, one, session.plan))
        parts.append(table.assign(role=one.role))
    return pd.concat(parts, ignore_index=True)


def task_scores(
    tasks: TaskPlan,
    path: Path,
    key: str,
    model: Callable[[], AbstractContextManager[LanguageModel]],
) -> pd.DataFrame:
    """Every item's score: the table at ``path`` if it has this ``key``; else computed and stored.

    Args:
        model: context that gives the model.
    """
    mark = path.with_suffix(".json")
    if path.is_file() and mark.is_file() and read_json(mark)["key"] == key:
        return pd.read_parquet(path)
    mark.unlink(missing_ok=True)
    with model() as lm:
        table = run_tasks(
            lm,
            tasks.names,
            chat_template=tasks.chat_template,
            folder=tasks.folder,
            few_shot=tasks.few_shot,
            limit=tasks.limit,
        )
    write_table(path, table)
    write_json(mark, {"key": key})
    return table
