"""Time of a study of SmolLM2: against the sum of what its parts must take.

    python -m tests.benchmarks.study

A small study of two domains, with one NPO arm of a few steps and no control arm. The model is
SmolLM2, first taught a refusal (:mod:`tests.smollm2`), so that it has something to unlearn. Every
part's floor is measured on the same prompts, answers and rows:

    loading     the model and its tokenizer, for the base and for the arm
    answers     Hugging Face's generation in batches of similar length, prefilled answers included
    states      a forward of the trunk over the evaluated prompts, for the base and for the arm
    steps       forward and backward of the trunk, and of the head at response positions
    read-outs   one reading at each scored step, and of all prompts before and after
    scorers     loading the panel's reader, one pass of the panel over every answer that the study
                has it read, and of the base model over the arm's answers for their coherence

Two more parts are necessary, and were not in the first list. They are given apart, so that both
ratios can be read:

    references  NPO's log-probabilities of the refusals that it trains on, under the base model
    coherence   a pass of the base model over the answers that are read along training

Seconds are CPU time of this process, so that other processes do not count. The classifier learns
before, because it learns once in a process. Prints one JSON object: seconds of the study, of each
part's floor and of each further part's, and the wall seconds of the study's stages.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.runs import Progress
from analyses.study.baseline import Baseline, scored_base
from analyses.study.context import Context, study_context
from analyses.study.engine import run_checked_study
from analyses.study.keeping import READINGS
from analyses.study.mixing import mixture_of
from analyses.study.plan import StudyPlan, unlearning_arms
from analyses.study.prefilling import opening_of, prompts_to_prefill
from interp.model import LanguageModel
from tests.smollm2 import save_taught_smollm2
from unlearning.data import matched_pairs
from unlearning.deflections import Sampling
from unlearning.losses import reference_log_probs
from unlearning.refusal import prefix_masses
from unlearning.scoring import Classifier, Reader, find_scorer
from unlearning.scoring.reader import reader_of
from unlearning.training import TrainingSettings, prepare_in_place
from unlearning.training.mixture import collator
from unlearning.utility import response_nll

TARGET, OTHER = "safety", "privacy"
# Validation prompts, as many test prompts, and training prompts.
ROWS = {TARGET: (8, 40), OTHER: (8, 8), "general": (16, 24)}
STEPS, TOKENS, BATCH = 6, 24, 64
STAGE = re.compile(r"^(.+?): ([\d.]+) s$", re.MULTILINE)


def small_prompts() -> pd.DataFrame:
    """Some of the built-in harmful prompts of two domains, and general benign ones."""
    table = matched_pairs()
    table = table[(table["domain"] == "general") | (table["label"] == "harmful")]
    parts = []
    for (domain, split), rows in table.groupby(["domain", "split"]):
        if domain in ROWS:
            parts.append(rows.head(ROWS[domain][split == "train"]))
    return pd.concat(parts, ignore_index=True)


def small_plan(model: Path, prompts: Path) -> StudyPlan:
    """NPO with the package's defaults on one domain, for a few steps."""
    settings = replace(TrainingSettings(), max_steps=STEPS)
    arms = unlearning_arms((TARGET,), settings, seeds=(0,), retain={}, control=False)
    return StudyPlan(
        str(model), arms, (TARGET,), prompts=str(prompts), max_new_tokens=TOKENS,
        batch_size=BATCH, sampling=Sampling(samples=0),
    )  # fmt: skip


def study(
    context: Context, said: io.StringIO
) -> tuple[float, dict[str, float], list[tuple[str, str]]]:
    """Seconds of the study from its loading to its report and of its stages; what is read.

    That is every different prompt and answer that the panel's reader reads.
    """
    start = process_time()
    with patch.object(Reader, "states", autospec=True, side_effect=Reader.states) as reading:
        run_checked_study(context)
    seconds = process_time() - start
    pairs = [pair for call in reading.call_args_list for pair in zip(*call.args[1:], strict=True)]
    stages: dict[str, float] = defaultdict(float)
    for name, taken in STAGE.findall(said.getvalue()):
        stages[re.sub(r"loading /.*", "loading", name)] += float(taken)
    return seconds, dict(stages), list(dict.fromkeys(pairs))


def floors(
    context: Context, answers: Sequence[tuple[str, str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each part's floor, and of the further ones, for the finished study.

    Args:
        answers: with their prompts, what the panel's reader has read.
    """
    plan, folder = context.plan, Path(context.plan.model)
    [arm] = plan.arms
    arm_folder = context.run.arm(arm.name)
    loaded, loading = timed(lambda: (bare_model(folder), bare_model(folder)))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    baseline = scored_base(context)
    after = context.load(arm_folder / "adapter")
    base, trained = loaded[0], after.model
    scores = pd.read_parquet(arm_folder / "scores.parquet")
    evaluated, harmful = list(context.evaluated["prompt"]), list(context.harmful["prompt"])
    forced = prompts_to_prefill(context.evaluated) if opening_of(baseline.responses) else ()
    prefilled = list(forced["prompt"]) if len(forced) else []
    target = context.harmful[context.harmful["domain"] == TARGET]
    along = list(target.loc[target["split"] == "validation", "prompt"])
    readings = len(pd.read_parquet(arm_folder / READINGS))
    end = list(context.harmful.loc[context.harmful["split"] == "test", "prompt"])
    is_kept_last = bool((scores.groupby("step")["kept"].max()).iloc[-1])
    asked = [
        (base, list(context.prompts["prompt"])),
        *[(model, prefilled) for model in (base, trained)],
        *[(trained, along)] * readings,
        *[(trained, end)] * (not is_kept_last),
        (trained, evaluated),
    ]
    scored_steps = int(scores["step"].nunique()) - 1
    _, answering = timed(lambda: [generated(*one, tokenizer) for one in asked])
    _, stating = timed(lambda: [read_trunk(m, evaluated, tokenizer) for m in (base, trained)])
    rows, some = ([after.chat.encode(text) for text in texts] for texts in (evaluated, harmful))

    def read_out() -> None:
        if baseline.prefixes is None:  # the study reads answers alone
            return
        for read in (*[some] * scored_steps, rows, rows):
            prefix_masses(after, read, baseline.prefixes, batch_size=BATCH)

    _, reading = timed(read_out)
    said = pd.read_parquet(arm_folder / "completions.parquet")

    def score() -> None:
        reader_of.cache_clear()  # the study's reader keeps the states of what it has read
        find_scorer("panel").classify(*map(list, zip(*answers, strict=True)))
        coherence(list(said["prompt"]))

    def coherence(prompts: Sequence[str]) -> None:
        given = said.set_index("prompt")["completion"]
        rows = [(prompt, str(given[prompt])) for prompt in prompts]
        response_nll(context.reference, rows, batch_size=BATCH)

    def coherence_along() -> None:
        for prompts in (*[along] * readings, *[end] * (not is_kept_last)):
            coherence(prompts)

    forget = [example.tokens for example in mixture_of(context, baseline, arm).forget]
    _, scoring = timed(score)
    parts = {
        "loading": loading,
        "answers": answering,
        "states": stating,
        "steps": training_floor(context, baseline),
        "read-outs": reading,
        "scorers": scoring,
    }
    _, referring = timed(lambda: reference_log_probs(context.reference, forget))
    return parts, {"references": referring, "coherence": timed(coherence_along)[1]}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` gives, and its seconds."""
    start = process_time()
    return work(), process_time() - start


def bare_model(folder: Path) -> Any:
    """The model as Transformers loads it, with its tokenizer."""
    AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def batches(prompts: Sequence[str], tokenizer: Any) -> Iterator[Any]:
    """Padded batches of rendered prompts of similar length."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    texts.sort(key=lambda text: len(tokenizer(text).input_ids))
    for first in range(0, len(texts), BATCH):
        yield tokenizer(texts[first : first + BATCH], return_tensors="pt", padding=True)


@torch.no_grad()
def generated(model: Any, prompts: Sequence[str], tokenizer: Any) -> None:
    """Answer every prompt greedily."""
    for rows in batches(prompts, tokenizer):
        model.generate(**rows, max_new_tokens=TOKENS, do_sample=False)


@torch.no_grad()
def read_trunk(model: Any, prompts: Sequence[str], tokenizer: Any) -> None:
    """One forward of every prompt without the head."""
    for rows in batches(prompts, tokenizer):
        model.model(**rows, use_cache=False)


def training_floor(context: Context, baseline: Baseline) -> float:
    """Seconds of forward and backward alone, on the rows of the arm's steps."""
    [arm] = context.plan.arms
    log = pd.read_parquet(context.run.arm(arm.name) / "log.parquet")
    lm = prepare_in_place(LanguageModel.load(context.plan.model), arm.settings)
    lm.model.train()
    batch = arm.settings.batch_size
    stream = mixture_of(context, baseline, arm).stream(
        STEPS, batch, window=arm.settings.length_window
    )
    collate = collator(lm.chat)
    steps = [
        collate([stream[k] for k in range(batch * step, batch * (step + 1))])
        for step in range(len(log))
    ]
    model: Any = lm.model
    causal = model.get_base_model()

    def train() -> None:
        for rows in steps:
            states = causal.model(
                input_ids=rows["input_ids"],
                attention_mask=rows["attention_mask"],
                position_ids=rows["position_ids"],
                use_cache=False,
            ).last_hidden_state
            logits = causal.lm_head(states[:, :-1][rows["response_mask"][:, 1:]])
            logits.backward(torch.ones_like(logits))
            model.zero_grad()

    return timed(train)[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", type=Path, help="a model that refuses (default: SmolLM2)")
    parser.add_argument("--profile", type=Path, help="write the profile of the study to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Classifier().classify([""], [""])
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or save_taught_smollm2(Path(scratch) / "model")
        prompts = Path(scratch) / "prompts.jsonl"
        small_prompts().to_json(prompts, orient="records", lines=True)
        said = io.StringIO()
        progress = Progress(Console(file=said, width=200))
        context = study_context(small_plan(model, prompts), Path(scratch) / "run", progress)
        profile = cProfile.Profile(process_time)
        if options.profile:
            profile.enable()
        seconds, stages, answers = study(context, said)
        if options.profile:
            profile.disable()
            profile.dump_stats(options.profile)
        parts, more = floors(context, answers)
    print(json.dumps({"study": seconds, "stages": stages, "floors": parts, "more": more}))


if __name__ == "__main__":
    main()
