"""Choice of retained examples: a score for every deflection of the other domains.

A score depends on the example and the target alone, so one ranking serves all splits, and held-out
domains do not influence the choice in other domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.predict import Evidence, at_depth, direction_of, read_choices, slopes_along
from analyses.study import METHODS, method
from interp.activations import collect
from interp.directions import mean_difference

#: Scores of the other domains' deflections; the largest are taken first.
Scores = Float[np.ndarray, " example"]

# Fall of the target's refusal log-odds in the virtual step of unlearning, in nats.
STEP_NATS = 0.05


def rank_examples(
    evidence: Evidence, concept: str, pool: pd.DataFrame, methods: Sequence[str], *, seed: int
) -> pd.DataFrame:
    """Score every example of ``pool`` by every method that chooses.

    Args:
        evidence: from the base model.
        concept: the target.
        pool: deflections of the other domains (rows of ``responses``).
        methods: names in ``METHODS``; those that do not choose are skipped.
        seed: of random draws.

    Returns:
        Columns ``id, domain`` and one for each method.
    """
    table = pool[["id", "domain"]].reset_index(drop=True)
    for name in methods:
        if (score := METHODS.find(name).score) is not None:
            table[name] = score(evidence, concept, pool, seed)
    return table


@method(
    "equal",
    title="equal share",
    does="cross-entropy on other domains' deflections in equal shares (the paper)",
    on_all=True,
    paper="Mushtaq et al. 2025, arXiv 2511.14017",
    badge="faithful",
    colour="#4c72b0",
)
def equal_shares(_evidence: Evidence, _concept: str, pool: pd.DataFrame, seed: int) -> Scores:
    """Random order within a domain, in turn over domains."""
    order = pd.Series(np.random.default_rng(seed).permutation(len(pool)), index=pool.index)
    return -order.groupby(pool["domain"]).rank(method="first").to_numpy(dtype=np.float64)


@method(
    "random",
    title="random",
    does="cross-entropy on random deflections: the baseline of every choice",
    weight_like="equal",
    colour="#8c8c8c",
)
def at_random(_evidence: Evidence, _concept: str, pool: pd.DataFrame, seed: int) -> Scores:
    return np.random.default_rng((seed, 1)).random(len(pool))


@method(
    "twins",
    option="wording",
    title="nearest wording",
    does="cross-entropy on deflections of prompts with the wording most similar to a forgotten one",
    weight_like="equal",
    colour="#dd8452",
)
def nearest_wording(evidence: Evidence, concept: str, pool: pd.DataFrame, _seed: int) -> Scores:
    """Wording similarity to the nearest forgotten prompt: 2·matches/words, in order (difflib)."""
    forgotten = [text.split() for text in evidence.harmful[concept]["prompt"]]
    found = []
    for prompt in pool["prompt"]:
        matcher = SequenceMatcher(None, autojunk=False)
        matcher.set_seq2(prompt.split())  # cached between comparisons
        best = 0.0
        for words in forgotten:
            matcher.set_seq1(words)
            if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best:
                best = max(best, matcher.ratio())
        found.append(best)
    return np.array(found)


@method(
    "cosine",
    title="cosine",
    does="cross-entropy on deflections of prompts whose states have the largest cosine with the "
    "target's direction",
    weight_like="equal",
    contrasts=lambda target, _retained: [target],
    colour="#55a868",
)
def along_direction(evidence: Evidence, concept: str, pool: pd.DataFrame, _seed: int) -> Scores:
    """Cosine of the state minus the controls' mean with the target's mean difference.

    The depth is the frozen one of the mean-difference cosine (``spillover tournament``).
    """
    frozen, lm = read_choices(), evidence.lm
    variant = at_depth(frozen["choices"]["mean-difference cosine"], frozen["layers"], lm.n_layers)
    layer = int(variant.removeprefix("layer "))
    states = collect(
        lm, list(pool["prompt"]), layers=[layer], batch_size=evidence.batch_size
    ).states[:, 0]
    contrast = evidence.contrast_of(concept)
    centre = contrast.negative[:, layer].mean(axis=0)
    direction = mean_difference(contrast.positive[:, layer], contrast.negative[:, layer])
    moved = states.astype(np.float64) - centre
    lengths = np.linalg.norm(moved, axis=1) * np.linalg.norm(direction)
    return moved @ direction / np.maximum(lengths, np.finfo(float).tiny)


@method(
    "kernel",
    title="kernel",
    does="cross-entropy on the deflections that a step of unlearning lowers most",
    weight_like="equal",
    needs_log_odds=True,
    colour="#c44e52",
)
def by_first_step(evidence: Evidence, concept: str, pool: pd.DataFrame, _seed: int) -> Scores:
    """⟨P ∇S_a, ∇m_e⟩ of every example e: the fall of its log-odds in unlearning's first step.

    It is a directional derivative, so it needs no gradient per example: the function reads the
    refusal log-odds at both ends of one virtual step, in which the target loses 0.05 nats.
    """
    lm = evidence.untrained
    forgetting = evidence.gradients_of_deflections(concept)
    step = direction_of(forgetting, 1.0, without=-1, adam=True)
    log_odds = evidence.gradients_of_log_odds(concept).of
    both = [(step[n], g.mean(dim=0)) for n, g in log_odds.items() if n in step]
    slope = abs(sum(float((change * mean).sum()) for change, mean in both))
    size = STEP_NATS / max(slope, np.finfo(float).tiny)
    texts = [lm.chat.encode(prompt) for prompt in pool["prompt"]]
    return slopes_along(
        lm, texts, evidence.read_log_odds, step, size, batch_size=evidence.batch_size
    )
