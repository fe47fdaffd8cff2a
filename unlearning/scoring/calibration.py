"""Adapt a classifier to a user's labelled answers, whose register it may not know.

Let q(c | x) be the classifier's probability of class c for answer x. The adapted classifier is

    p(c | x) ∝ q(c | x)^a · exp(w_c · f(x)),   a ~ N(1, 1) with a ≥ 0,   w ~ N(0, C),

with the most probable a and w for the labelled answers. Where a is 0, the classifier knows nothing
of the register, and w replaces it. Only then is this reading used: where a is not 0, w learns how
one model writes, and harms the reading of another one.

f(x) are the runs of one to ``LONGEST_RUN`` words and marks, with both edges of the answer; case
matters. Words and runs that only one labelled answer has are as new as those that none has
(Good-Turing), so they become one sign for a new word, and one for a new run of each length. The
signs tell what breaks the pattern of a register: a TF-IDF leaves new words out, and an answer with
a stray word looks as if it had none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import log_softmax

from unlearning.scoring.classes import spoken

#: Raise it with every change of the features or of the fit.
VERSION = "1"
WORDS_READ = 300
LONGEST_RUN = 4
# Equally good from 1 to 10 on model organisms without labels; 1 is best on long English answers.
INVERSE_REGULARISATION = 1.0

_EDGE, _NEW = "\n", "\t"  # no word or mark is white space

LogProbabilities = Float[np.ndarray, "answer class"]


@dataclass(frozen=True)
class Adaptation:
    """What labelled answers change in a classifier's log-probabilities.

    Attributes:
        trust: a, the weight of the classifier's log-probabilities.
        runs: a fitted scikit-learn transformer from texts to runs of words.
        weight: w, of each run and class.
    """

    trust: float
    runs: Any
    weight: Float[np.ndarray, "run class"]

    def log_probabilities(self, texts: Sequence[str], known: LogProbabilities) -> LogProbabilities:
        """The adapted ones, from those of the classifier."""
        return log_softmax(self.trust * known + self.runs.transform(texts) @ self.weight, axis=1)


def adapt(texts: Sequence[str], classes: Sequence[int], known: LogProbabilities) -> Adaptation:
    """Adapt to labelled answers.

    Args:
        texts, classes: the answers, and the column in ``known`` of each one's class.
        known: the classifier's log-probabilities of them.
    """
    runs = runs_of_words(texts)
    found = runs.transform(texts).astype(np.float64)
    shape = (found.shape[1], known.shape[1])
    truth = np.eye(shape[1])[list(classes)]

    def loss(values: Float[np.ndarray, " value"]) -> tuple[float, Float[np.ndarray, " value"]]:
        trust, weight = values[0], values[1:].reshape(shape)
        logs = log_softmax(trust * known + found @ weight, axis=1)
        error = np.exp(logs) - truth
        penalty = (trust - 1) ** 2 + np.sum(weight**2) / INVERSE_REGULARISATION
        slope = found.T @ error + weight / INVERSE_REGULARISATION
        return (
            penalty / 2 - np.sum(truth * logs),
            np.append(np.sum(error * known) + trust - 1, slope),
        )

    bounds = [(0, None), *[(None, None)] * (shape[0] * shape[1])]
    start = np.append(1.0, np.zeros(shape))
    best = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000}
    ).x
    return Adaptation(float(best[0]), runs, best[1:].reshape(shape))


def runs_of_words(texts: Sequence[str]) -> Any:
    """A transformer to the presence of each run that two of ``texts`` have, and of new ones."""
    from sklearn.feature_extraction.text import CountVectorizer

    words = _in_two(map(_words, texts))

    def every_run(text: str) -> list[str]:
        said = [_EDGE, *(w if w in words else _NEW for w in _words(text)), _EDGE]
        sizes = range(1, LONGEST_RUN + 1)
        return [" ".join(said[i : i + n]) for n in sizes for i in range(len(said) - n + 1)]

    familiar = _in_two(map(every_run, texts))

    def known_runs(text: str) -> list[str]:
        return [run if run in familiar else _NEW * (run.count(" ") + 2) for run in every_run(text)]

    return CountVectorizer(analyzer=known_runs, binary=True).fit(texts)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", spoken(text))[:WORDS_READ]


def _in_two(texts: Iterable[Sequence[str]]) -> set[str]:
    """What at least two texts have."""
    counts = Counter(part for text in texts for part in set(text))
    return {part for part, count in counts.items() if count > 1}
