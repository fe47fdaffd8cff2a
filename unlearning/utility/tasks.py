"""Tasks with right answers, by EleutherAI's LM Evaluation Harness (the extra ``utility``).

The harness gets the loaded model and its tokenizer and does not download another one. Its tasks
fetch their data from the hub. Your tasks are YAML files in a folder. Results are kept item by
item, so two models can be compared on the same items.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, first_line
from interp.model import LanguageModel

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["task", "item", "metric", "value"]


def require_harness() -> None:
    """Check that the extra is installed.

    Raises:
        InputError: it is not installed; the message says how to install it.
    """
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise InputError(
            "tasks are run by the LM Evaluation Harness, which is not installed: "
            "pip install 'spillover[utility]'"
        )


def run_tasks(
    lm: LanguageModel,
    tasks: Sequence[str],
    *,
    chat_template: bool = False,
    folder: str | Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Every item's score on every task.

    Args:
        tasks: names of the harness's tasks or groups (``mmlu_philosophy``), or of yours.
        chat_template: put every item into the model's chat format. Multiple choice by likelihood is
            usually reported without, and the two are not comparable.
        folder: YAML files of your tasks.
        few_shot: examples before each item; the task's number by default.
        limit: first items of each task only.
        seed: of the few-shot examples where they are sampled.

    Returns:
        Columns ``task, item, metric, value``: a row for each item and each metric that is a mean
        over items. If a task reads answers by filters, its metrics are named ``METRIC,FILTER``.

    Raises:
        InputError: the harness is not installed, or a task is unknown or its data out of reach.
    """
    require_harness()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager, unknown = None, list(tasks)
    if folder is not None:
        # The harness has thousands of tasks; they are searched only if needed.
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        manager = TaskManager(include_path=None if folder is None else str(folder))
        unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise InputError(
            f"the harness has no task {', '.join(unknown)}; see `lm-eval ls tasks`, or give the "
            "folder of your tasks with --task-folder"
        )
    # The harness adds a padding token to a tokenizer; ours must not change.
    tokenizer = copy.deepcopy(lm.tokenizer)
    if lm.chat.template is not None:
        tokenizer.chat_template = lm.chat.template
    padded = lm.checked.rows == lm.checked.decoding == "padded"
    harnessed = HFLM(
        pretrained=lm.model,
        tokenizer=tokenizer,
        batch_size=batch_size if padded else 1,  # the harness pads
        chat_template_args=lm.chat.template_arguments,
    )
    try:
        found = simple_evaluate(
            model=harnessed,
            tasks=list(tasks),
            num_fewshot=few_shot,
            limit=limit,
            apply_chat_template=chat_template,
            system_instruction=lm.chat.system if chat_template else None,
            task_manager=manager,
            bootstrap_iters=0,
            # The caller's random generators stay unchanged.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"tasks {', '.join(tasks)} could not be run: {first_line(error)}; the harness's own "
            "tasks take their data from the hub"
        ) from error
    return _by_item(found or {})


def _by_item(found: Any) -> pd.DataFrame:
    import pandas as pd

    # Some tasks read each answer by several filters, as the harness's own metric names say.
    rows = [
        {
            "task": task,
            "item": int(sample["doc_id"]),
            "metric": metric if sample["filter"] == "none" else f"{metric},{sample['filter']}",
            "value": float(value),
        }
        for task, samples in found.get("samples", {}).items()
        for sample in samples
        for metric in sample.get("metrics", ())
        if isinstance(value := sample.get(metric), (int, float))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
