"""The refusal log-odds: refusal from a few forwards, without generation.

p_R and p_C are the probabilities that a response begins with a prefix of R or C (see
:mod:`unlearning.refusal.prefix_tree`): sums over the leaves of the product of their tokens'
probabilities. p_O = 1 − p_R − p_C. The refusal log-odds are log p_R − log(1 − p_R), in nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.model import LanguageModel, Tokens, map_in_batches, shared_beginning, undisturbed
from interp.progress import Advance, silent
from interp.readout import Readout
from unlearning.refusal.following import Following, cached_distributions, distributions, may_cache
from unlearning.refusal.prefix_tree import ResponsePrefix, ResponsePrefixes

# Below this area under the ROC curve the log-odds are not a valid measure of refusal.
VALID_AUC = 0.9


@dataclass(frozen=True)
class Masses:
    """Probabilities at the first answer position, one value per prompt, in float64."""

    p_R: Float[np.ndarray, " prompt"]
    p_C: Float[np.ndarray, " prompt"]
    p_O: Float[np.ndarray, " prompt"]
    log_odds: Float[np.ndarray, " prompt"]

    def columns(self) -> dict[str, Float[np.ndarray, " prompt"]]:
        """The four as columns of a table of scores, where ``margin`` holds the log-odds."""
        return {"p_R": self.p_R, "p_C": self.p_C, "p_O": self.p_O, "margin": self.log_odds}


def prefix_masses(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    prefixes: ResponsePrefixes,
    *,
    batch_size: int = 256,
    progress: Advance = silent,
) -> Masses:
    """The values p_R, p_C, p_O and refusal log-odds of every row.

    One forward over the prompt and, with a cache, one step of a single token for every other inner
    node of the tree. Without a cache (a model whose cache is not exact, or an active edit) there is
    one forward for each of the tree's paths.

    Args:
        rows: prompts as ``lm.chat.encode`` gives them, without a response.
        batch_size: rows in one forward; fewer after a batch did not fit into memory.

    Raises:
        MachineError: a single prompt does not fit into memory.
    """

    def masses(chosen: list[int]) -> Float[np.ndarray, "prompt mass"]:
        part = [rows[i] for i in chosen]
        following = (
            cached_distributions(lm, part, prefixes, beginning)
            if cached
            else distributions(lm, part, prefixes)
        )
        log_R, log_not_R, log_C = class_log_probs(following, prefixes)
        p_R, p_C = log_R.exp(), log_C.exp()
        p_O = (1 - p_R - p_C).clamp(min=0)
        return torch.stack([p_R, p_C, p_O, log_R - log_not_R], dim=1).numpy()

    with undisturbed(lm.model):
        beginning = shared_beginning(lm, rows)
        cached = len(rows) > 0 and may_cache(lm, prefixes, rows, beginning)
        if beginning and not cached:
            beginning = ()
            cached = may_cache(lm, prefixes, rows)
        found = map_in_batches(masses, rows, batch_size, progress)
    return Masses(*np.reshape(found, (-1, 4)).T)


def refusal_log_odds(
    lm: LanguageModel, rows: Sequence[Tokens], prefixes: ResponsePrefixes
) -> Float[Tensor, " batch"]:
    """The log-odds of every row as one float64 tensor, with its graph.

    All rows are one batch, with one forward for each of the tree's paths.
    """
    log_R, log_not_R, _ = class_log_probs(distributions(lm, rows, prefixes), prefixes)
    return log_R - log_not_R


def readout_of(prefixes: ResponsePrefixes) -> Readout:
    """The refusal log-odds as a readout: a function of a model and rows."""
    return partial(refusal_log_odds, prefixes=prefixes)


def class_log_probs(
    following: Iterator[tuple[ResponsePrefix, Following]], prefixes: ResponsePrefixes
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """log p(R), log p(not R) and log p(C), from the next token's distribution at each inner node.

    The response leaves the tree at each inner node with some token. A token ends a prefix of R or
    of C, leads to another inner node, or belongs to neither class.
    """
    leaves = [set(prefixes.refusal), set(prefixes.compliance)]
    inner = set(prefixes.inner)
    reached: dict[ResponsePrefix, Tensor] = {}
    parts: list[list[Tensor]] = [[], [], []]
    for node, log_probs in following:
        joint = log_probs if not node else reached[node][:, None] + log_probs
        ends = [[leaf[-1] for leaf in side if leaf[:-1] == node] for side in leaves]
        onward = [child[-1] for child in inner if child and child[:-1] == node]
        reached |= {(*node, token): joint[:, token] for token in onward}
        others = torch.ones(joint.shape[1], dtype=torch.bool)
        others[[*ends[0], *onward]] = False
        tokens = (_ids(ends[0]), others, _ids(ends[1]))
        for part, chosen in zip(parts, tokens, strict=True):
            part.append(joint[:, chosen].logsumexp(dim=1))
    log_R, log_not_R, log_C = (torch.stack(part).logsumexp(dim=0) for part in parts)
    return log_R, log_not_R, log_C


def _ids(tokens: Sequence[int]) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long)


def log_odds_auc(
    refusal_log_odds: Float[np.ndarray, " prompt"], refused: Float[np.ndarray, " prompt"]
) -> float | None:
    """Area under the ROC curve of the refusal log-odds against refused (1) or not (0).

    The log-odds are valid for a model from 0.9 (``VALID_AUC``). None where only one class occurs.
    """
    if len(set(refused.tolist())) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(refused, refusal_log_odds))
