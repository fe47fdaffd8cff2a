"""Baseline predictors that need no mechanism."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.predict.evidence import Evidence
from analyses.predict.registry import Predictions, predictor
from interp.store import content_key


@predictor("base margin", "trivial", title="base log-odds")
def base_log_odds(evidence: Evidence) -> Predictions:
    """Expect more leakage to domains with low refusal log-odds."""
    return {"": _by_target([-evidence.log_odds[d].mean() for d in evidence.domains])}


@predictor("base rate", "trivial")
def base_rate(evidence: Evidence) -> Predictions:
    """Expect more leakage to domains that the model refuses less often."""
    rates = [-(rows["class"] == "refusal").mean() for rows in evidence.harmful.values()]
    return {"": _by_target(rates)}


@predictor("length", "trivial")
def length(evidence: Evidence) -> Predictions:
    """Similarity of prompt length (mean number of characters)."""
    means = np.array([rows["prompt"].str.len().mean() for rows in evidence.harmful.values()])
    return {"": -np.abs(means[:, None] - means)}


@predictor("template", "trivial")
def template(evidence: Evidence) -> Predictions:
    """Similar beginnings of prompts: overlap of the distributions of their first two words."""
    openings = [
        rows["prompt"].str.split().str[:2].str.join(" ").value_counts(normalize=True)
        for rows in evidence.harmful.values()
    ]
    shares = pd.concat(openings, axis=1).fillna(0.0).to_numpy()
    return {"": np.minimum(shares[:, :, None], shares[:, None, :]).sum(axis=0)}  # Σ min(p, q)


@predictor("TF-IDF", "trivial")
def tf_idf(evidence: Evidence) -> Predictions:
    """Cosine between the domains' mean TF-IDF vectors."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = {d: list(rows["prompt"]) for d, rows in evidence.harmful.items()}
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    vectorizer.fit([text for domain in texts.values() for text in domain])
    means = np.vstack([vectorizer.transform(t).mean(axis=0) for t in texts.values()])
    units = np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))
    return {"": units @ units.T}


@predictor("random", "trivial")
def noise(evidence: Evidence) -> Predictions:
    """Noise, drawn once for a model and its prompts: a null whose skill must be 0."""
    prompts = [text for rows in evidence.harmful.values() for text in rows["prompt"]]
    key = content_key("identity", evidence.lm.fingerprint(), prompts)
    n = len(evidence.domains)
    return {"": np.random.default_rng(int(key[:16], 16)).normal(size=(n, n))}


def _by_target(values: list[float]) -> np.ndarray:
    return np.tile(np.array(values, dtype=float), (len(values), 1))
