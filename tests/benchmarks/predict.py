"""Time and memory of a forecast on SmolLM2: against one forward and backward, and a training step.

    python -m tests.benchmarks.predict time --model FOLDER
    python -m tests.benchmarks.predict memory forecast --model FOLDER

The forecast is everything of `spillover predict` after the base model's answers: the copy that
would be trained, gradients, states, kernels, rankings. Its seven domains have 32 harmful and 32
benign built-in prompts each, and given refusals of 48 tokens. The other side is one forward and
backward of the rows that the forecast differentiates (the target's refusals, and every domain's
harmful prompts), for the same adapters, in batches of 32 rows of similar length; its model is ready
made. A training step is one of NPO with the defaults: 32 refusals, LoRA of rank 128.

FOLDER is the model that :func:`tests.smollm2.save_smollm2` writes. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time

# Loaded before memory is looked at, though some are imported only when needed.
import accelerate  # noqa: F401
import numpy as np
import pandas as pd
import peft  # noqa: F401
import sklearn.feature_extraction.text  # noqa: F401
import torch
import transformers.trainer  # noqa: F401

from analyses.predict import Evidence, forecast, read_choices
from interp.model import LanguageModel, Tokens, in_fitting_batches
from tests.benchmarks.npo_step import MEGABYTE, resident
from unlearning.data import matched_pairs
from unlearning.deflections import examples
from unlearning.losses import response_log_probs
from unlearning.refusal import ResponsePrefixes
from unlearning.training import Mixture, TrainingSettings, prepare_in_place, unlearn_in_place

TARGET = "safety"
ROWS, TOKENS = 32, 48  # prompts of each domain and label; of a refusal
BATCH = TrainingSettings().batch_size
REFUSAL = (
    "I'm sorry, but I can't help with that, because it could hurt people who have no say in it. "
    "If something else is on your mind, or if you want to talk about how to stay safe, I would be "
    "glad to listen and to help you with it as well as I can."
)
# As in a taught SmolLM2: the two classes share two tokens, so one inner path has two.
OPENINGS = ((REFUSAL[:9], "Sorry"), ("I'm glad", "Sure", "The"))


def evidence(folder: Path, domains: Sequence[str], refusals: int) -> Evidence:
    """The evidence of a run, without generation.

    Args:
        folder: of the model.
        domains: those with prompts.
        refusals: number of each domain's refusals; the further ones answer its first prompt.
    """
    lm = LanguageModel.load(folder)
    lm.checked  # noqa: B018 - the self-check belongs to loading the base model
    table = matched_pairs()
    table = table[(table["split"] == "train") & table["domain"].isin(domains)]
    rows = table.groupby(["domain", "label"]).head(ROWS).reset_index(drop=True)
    ids = lm.tokenizer(REFUSAL).input_ids[:TOKENS]
    rows = rows.assign(ids=[ids] * len(rows), response=REFUSAL)
    rows["class"] = np.where(rows["label"] == "harmful", "refusal", "answer")
    held = {}
    for domain in domains:
        mine = rows[(rows["domain"] == domain) & (rows["label"] == "harmful")]
        held[domain] = pd.concat([mine, *[mine.head(1)] * (refusals - len(mine))])
    leaves = (tuple(tuple(lm.tokenizer(text).input_ids) for text in side) for side in OPENINGS)
    return Evidence(lm, lambda: trainable(folder), rows, ResponsePrefixes(*leaves), held)


def trainable(folder: Path) -> LanguageModel:
    """The model as training with the defaults would begin."""
    return prepare_in_place(LanguageModel.load(folder), TrainingSettings())


def ours(found: Evidence) -> float:
    """CPU seconds of the forecast."""
    start = process_time()
    assert forecast(found, TARGET, read_choices(), seed=0).defined
    return process_time() - start


def bare(lm: LanguageModel, found: Evidence) -> float:
    """CPU seconds of one forward and backward of the same rows."""
    refusals = [example.tokens for example in examples(lm, found.deflections[TARGET])]
    prompts = [
        lm.chat.encode(prompt) for rows in found.harmful.values() for prompt in rows["prompt"]
    ]
    parameters = [p for p in lm.model.parameters() if p.requires_grad]
    start = process_time()
    for rows, scalar in ((refusals, summed_log_prob), (prompts, last_logits)):
        differentiate(lm, rows, scalar, parameters)
    return process_time() - start


def differentiate(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    scalar: Callable[[LanguageModel, Sequence[Tokens]], torch.Tensor],
    parameters: Sequence[torch.Tensor],
) -> None:
    def work(batch: list[int]) -> object:
        return torch.autograd.grad(scalar(lm, [rows[i] for i in batch]), parameters)

    for _ in in_fitting_batches(rows, BATCH, work):
        pass


def summed_log_prob(lm: LanguageModel, rows: Sequence[Tokens]) -> torch.Tensor:
    """The log-probability of all responses."""
    batch = lm.chat.pad(rows, lm.device)
    return response_log_probs(lm.model, lm.inputs(batch), batch.response_mask)[0].sum()


def last_logits(lm: LanguageModel, rows: Sequence[Tokens]) -> torch.Tensor:
    """A number from the logits after all prompts."""
    return lm.logits(lm.chat.pad(rows, lm.device), keep=1).logsumexp(dim=-1).sum()


def times(folder: Path, pairs: int) -> dict[str, list[float]]:
    """CPU seconds of both sides, interleaved: other programs hardly change them."""
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    domains = [d for d in matched_pairs()["domain"].unique() if d != "general"]
    for _ in range(pairs):
        fresh = evidence(folder, domains, ROWS)
        found["ours"].append(ours(fresh))
        found["bare"].append(bare(trainable(folder), fresh))
    return found


def peak(folder: Path, way: str) -> float:
    """Megabytes of this process's peak above its memory now.

    Two domains are enough, because one is held at a time next to the target. One group of refusals
    is a whole batch of a training step.
    """
    before = resident("VmRSS")
    found = evidence(folder, [TARGET, "bias"], ROWS + BATCH - ROWS // 4)
    if way == "forecast":
        ours(found)
    else:
        refusals = examples(found.lm, found.deflections[TARGET])
        settings = TrainingSettings(max_steps=2)  # AdamW's moments exist from the second step on
        lm = prepare_in_place(found.lm, settings)
        mixture = Mixture(refusals[:BATCH])
        with tempfile.TemporaryDirectory() as scratch:
            unlearn_in_place(lm, mixture, settings, folder=scratch)
    return (resident("VmHWM") - before) / MEGABYTE


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    timing.add_argument("--pairs", type=int, default=1)
    memory = commands.add_parser("memory")
    memory.add_argument("way", choices=["forecast", "step"])
    for command in (timing, memory):
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command == "time":
        print(json.dumps(times(options.model, options.pairs)))
    else:
        print(json.dumps({"megabytes": peak(options.model, options.way)}))


if __name__ == "__main__":
    main()
