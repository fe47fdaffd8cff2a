"""Logistic regression over several classes, as two arrays that can be stored and shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp

FOLDS = 5
# Log-probability of a class without examples, next to those that have some.
ABSENT = -30.0


@dataclass(frozen=True)
class LinearClasses:
    """Log-probabilities of classes, linear in the features up to normalisation.

    Attributes:
        weight, bias: of each class.
    """

    weight: Float[np.ndarray, "feature class"]
    bias: Float[np.ndarray, " class"]

    def log_probabilities(
        self, features: Float[np.ndarray, "row feature"]
    ) -> Float[np.ndarray, "row class"]:
        """The natural logarithm of each class's probability."""
        return log_softmax(features.astype(np.float64) @ self.weight + self.bias, axis=1)


def log_odds(
    log_probabilities: Float[np.ndarray, "row class"], place: int = 0
) -> Float[np.ndarray, " row"]:
    """Log-odds of one class against all others."""
    others = logsumexp(np.delete(log_probabilities, place, axis=1), axis=1)
    return log_probabilities[:, place] - others


def learn(
    features: Float[np.ndarray, "row feature"],
    classes: Int[np.ndarray, " row"],
    count: int,
    inverse_regularisation: float,
) -> LinearClasses:
    """Fit to the standardised features.

    Args:
        features: a row for each example.
        classes: the number of each example's class, from 0.
        count: of classes; one without examples gets a negligible probability.
        inverse_regularisation: scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    features = features.astype(np.float64)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    regression = LogisticRegression(C=inverse_regularisation, max_iter=5000)
    regression.fit((features - mean) / scale, classes)
    weight, bias = np.zeros((features.shape[1], count)), np.full(count, ABSENT)
    weight[:, regression.classes_] = (regression.coef_ / scale).T
    bias[regression.classes_] = regression.intercept_
    return LinearClasses(weight, bias - mean @ weight)


def folds(groups: Sequence[str]) -> list[tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]]:
    """The rows to fit and the rows to read, for each of five folds; a group is in one fold."""
    from sklearn.model_selection import GroupKFold

    codes = np.unique(groups, return_inverse=True)[1]
    return list(GroupKFold(FOLDS).split(codes, groups=codes))
