"""How well do scorers classify answers as refusal, answer, other text or gibberish?

Model organisms are unlearned with good and bad settings, and their arms generate answers. The
grammar gives the true class of each answer. A panel of scorers is calibrated on answers of SOME
model organisms, and on answers of the tested base model to its training prompts. It then classifies
new answers of the arms of ANOTHER model organism, the same number per class. No setting is chosen
on the new answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from analyses.runs import Progress
from interp.model import LanguageModel
from interp.statistics import rate_of
from interp.store import atomic_write, write_json
from unlearning.deflections import examples, refusals_of, respond, with_preferred
from unlearning.losses import for_forgetting
from unlearning.organism import Grammar, load_world, recipe_of, shipped, train
from unlearning.scoring import (
    CLASSES,
    Classifier,
    Fluency,
    Phrases,
    Scorer,
    WithFluency,
    at_other_prompts,
    find_scorer,
    measure_fluency,
)
from unlearning.training import Mixture, TrainingSettings, prepare_in_place, unlearn_in_place
from unlearning.utility import response_token_nll

LONGEST = 24
BATCH = 200
REFERENCE = 200
HELD_OUT = 600
# Classes with few different texts are repeated, so that all classes have about the same size.
COMMON = 150

# Usable and degenerate arms: objective, options, rate, steps.
ARMS: tuple[tuple[str, Mapping[str, float], float, int], ...] = (
    ("npo", {"beta": 0.5}, 3e-4, 25),
    ("gradient_ascent", {}, 3e-4, 40),
    ("rmu", {}, 3e-4, 50),
    ("rmu", {}, 1.5e-3, 10),
    ("dpo", {}, 3e-4, 50),
)
ARM_TEMPERATURES = (1.0, 1.5)
# Only at a high temperature does the base model generate many answers of the class other.
BASE_TEMPERATURES = (1.0, 1.5, 2.0, 2.5)


@dataclass(frozen=True)
class CompletionSource:
    """Completions of one model organism: the unlearned domain, their number, the seed."""

    seed: int
    concept: str
    from_base: int
    draw: int


CALIBRATION = (
    CompletionSource(201, "safety", from_base=1200, draw=0),
    CompletionSource(202, "privacy", from_base=1200, draw=0),
    CompletionSource(203, "sensitive", from_base=1200, draw=0),
)
# The packaged model organism; its arms on this domain were not used before.
FRESH_CONCEPT, FRESH_FROM_BASE, FROM_ARM = "toxicity", 400, 40
EACH = 50  # fresh completions of every class


def measure_scorers(out: str | Path, *, draw: int = 1) -> dict[str, Any]:
    """Calibrate the panel, draw 50 completions of every class, and measure the accuracy.

    Args:
        out: folder of the calibration model organisms (trained if they are missing), the answers
            (``calibration.jsonl``, ``fresh.jsonl``) and ``scorers.json``.
        draw: seed of unlearning, of sampling and of the choice of new completions.

    Returns:
        Every scorer's accuracy and recall of every class with Wilson intervals, and the share of
        the base model's held-out answers that count as gibberish.
    """
    folder, progress = Path(out), Progress()
    said = []
    for source in CALIBRATION:
        organism = folder / f"organism-{source.seed}"
        with progress.stage(f"organism {source.seed}: training, breaking, asking"):
            if not (organism / "organism.json").is_file():
                train(source.seed, organism, recipe_of())
            said.append(completions(organism, source.concept, source.from_base, source.draw))
    base = LanguageModel.load(shipped())
    own = own_answers(base, "train", REFERENCE, seed=0)
    fluency = measure_fluency(base, list(own["prompt"]), list(own["ids"]), batch_size=BATCH)
    learned = calibration_rows(pd.concat(said, ignore_index=True), own)
    with progress.stage("the shipped organism: breaking, asking"):
        fresh = completions(shipped(), FRESH_CONCEPT, FRESH_FROM_BASE, draw)
    drawn = pd.concat(
        [rows.sample(EACH, random_state=draw) for _, rows in fresh.groupby("class")],
        ignore_index=True,
    )
    _write(learned, folder / "calibration.jsonl")
    _write(drawn, folder / "fresh.jsonl")
    calibrated = Classifier().calibrated(learned)
    knows_other = ("refusal", "answer")
    scorers: dict[str, Scorer] = {
        "grammar": Grammar(),
        "phrases": Phrases(),
        "classifier": Classifier(),
        "probe": find_scorer("probe"),
        "panel": find_scorer("panel"),
        "panel+fluency": WithFluency(find_scorer("panel"), base, fluency),
        "classifier+fluency": WithFluency(Classifier(), base, fluency),
        "calibrated": calibrated,
        "calibrated+fluency": WithFluency(calibrated, base, fluency, overrules=knows_other),
    }
    found = {
        "drawn_from": fresh["class"].value_counts().to_dict(),
        "calibrated_on": learned["class"].value_counts().to_dict(),
        "fluency": {"level": fluency.level, "limit": fluency.limit},
        "own_answers_as_gibberish": mistaken_for_gibberish(base, fluency),
        "scorers": {name: scorer_accuracy(scorer, drawn) for name, scorer in scorers.items()},
    }
    write_json(folder / "scorers.json", found)
    return found


def completions(organism: Path, concept: str, from_base: int, draw: int) -> pd.DataFrame:
    """Answers of a model organism and its arms to test prompts, with their classes by the grammar.

    Returns:
        Columns ``arm, temperature, prompt, response, class`` (and those of the prompts).
    """
    prompts = load_world(organism).prompts()
    base, grammar = LanguageModel.load(organism), Grammar()
    asked = prompts[prompts["split"] == "test"]

    def say(lm: LanguageModel, arm: str, number: int, temperature: float, seed: int) -> None:
        rows = asked.sample(number, random_state=seed, replace=number > len(asked))
        told = respond(
            lm, rows, grammar, max_new_tokens=LONGEST, batch_size=BATCH,
            temperature=temperature, seed=seed,
        )  # fmt: skip
        found.append(told.assign(arm=arm, temperature=temperature))

    found: list[pd.DataFrame] = []
    for turn, temperature in enumerate(BASE_TEMPERATURES):
        say(base, "base", from_base, temperature, 1000 * draw + turn)
    trained = prompts[(prompts["split"] == "train") & (prompts["domain"] == concept)]
    refusals = refusals_of(respond(base, trained, grammar, max_new_tokens=LONGEST), concept)
    for number, (objective, options, rate, steps) in enumerate(ARMS):
        settings = TrainingSettings(
            objective=objective, options=options, trained="projections", learning_rate=rate,
            adam_betas=(0.9, 0.95), max_steps=steps, seed=draw,
        )  # fmt: skip
        on_pairs = for_forgetting(objective).on_pairs
        forget = with_preferred(refusals, objective) if on_pairs else refusals
        lm = prepare_in_place(LanguageModel.load(organism), settings)
        with TemporaryDirectory() as scratch:
            unlearn_in_place(lm, Mixture(examples(lm, forget), seed=draw), settings, folder=scratch)
        for turn, temperature in enumerate(ARM_TEMPERATURES):
            seed = 1000 * draw + 100 + 10 * number + turn
            say(lm, f"{objective} {rate:g} {steps}", FROM_ARM, temperature, seed)
    return pd.concat(found, ignore_index=True)


def calibration_rows(said: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Examples for the classifier: every broken answer once, some other answers, and ``own``."""
    broken = said[said["class"].isin(("other", "gibberish"))].drop_duplicates("response")
    whole = said[said["class"].isin(("refusal", "answer"))]
    some = whole.groupby("class", group_keys=False).sample(COMMON, random_state=0)
    parts = [part[["response", "class"]] for part in (broken, some, own)]
    return pd.concat(parts, ignore_index=True)


def own_answers(base: LanguageModel, split: str, number: int, seed: int) -> pd.DataFrame:
    """The base model's answers to prompts of a split, at temperature 1."""
    prompts = load_world(shipped()).prompts()
    asked = prompts[prompts["split"] == split].sample(number, random_state=seed)
    return respond(
        base, asked, Grammar(), max_new_tokens=LONGEST, batch_size=BATCH, temperature=1.0, seed=seed
    )


def mistaken_for_gibberish(base: LanguageModel, fluency: Fluency) -> dict[str, Any]:
    """Shares of the base model's answers to test prompts that count as gibberish."""
    held_out = own_answers(base, "test", HELD_OUT, seed=1)
    asked = list(held_out["prompt"])
    found: dict[str, Any] = {}
    for name, prompts in (("own_prompt", asked), ("other_prompt", at_other_prompts(asked, 1))):
        rows = list(zip(prompts, held_out["ids"], strict=True))
        nll = response_token_nll(base, rows, batch_size=BATCH)
        found[name] = _share([not fluency.finds_language(tokens) for tokens in nll])
    return found


def scorer_accuracy(scorer: Scorer, drawn: pd.DataFrame) -> dict[str, Any]:
    """Accuracy, recall of every class, and the confusions (truth → verdict → number)."""
    said = pd.Series(scorer.classify(list(drawn["prompt"]), list(drawn["response"])))
    truth = drawn["class"]
    present = [name for name in CLASSES if (truth == name).any()]
    return {
        "accuracy": _share(said == truth),
        "recall": {name: _share((said == truth)[truth == name]) for name in present},
        "confusion": {name: said[truth == name].value_counts().to_dict() for name in present},
    }


def _share(hits: Sequence[bool] | pd.Series) -> dict[str, Any]:
    return rate_of(int(np.sum(hits)), len(hits)).to_json()


def _write(rows: pd.DataFrame, path: Path) -> None:
    columns = [c for c in ("arm", "temperature", "prompt", "response", "class") if c in rows]
    with atomic_write(path) as scratch:
        rows[columns].to_json(scratch, orient="records", lines=True, force_ascii=False)
