"""The refusal log-odds: refusal from one forward, without generation.

Two classes of prefixes are found in the base model's responses and then frozen: R, the prefixes of
its refusals (over all domains), and C, the prefixes of its answers to benign prompts. At the first
answer position p_R and p_C are their probabilities and p_O = 1 − p_R − p_C. The refusal log-odds
are log p_R − log(1 − p_R), in nats. A prefix is one token, or two where refusals and answers begin
with the same token ("I can't", "I'd be happy to").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.model import LanguageModel, Tokens, map_in_batches, undisturbed
from interp.progress import Advance, silent
from interp.readout import Readout, log_odds

ResponsePrefix = tuple[int, ...]

# Least share of a prefix in its class: rarer prefixes are often mistakes of the scorer.
RAREST = 0.005
# Shared prefixes are dropped while together they begin at most this share of either class.
SHARED_AT_MOST = 0.05
# Below this area under the ROC curve the log-odds are not a valid measure of refusal.
VALID_AUC = 0.9


@dataclass(frozen=True)
class ResponsePrefixes:
    """The classes R and C, frozen: token ids, one or two of them for each prefix."""

    refusal: tuple[ResponsePrefix, ...]
    compliance: tuple[ResponsePrefix, ...]

    def readout(self) -> Readout:
        """The refusal log-odds as a readout of last-position logits.

        Raises:
            InputError: some refusals differ from answers only in their second token.
        """
        if any(len(prefix) > 1 for prefix in self.refusal):
            raise InputError(
                "refusals and answers begin with the same token, so the log-odds need two "
                "forwards and cannot be a readout; give the shared words with --response-prefix"
            )
        return log_odds([prefix[0] for prefix in self.refusal])


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


def find_prefixes(
    refusals: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> ResponsePrefixes:
    """R and C from the base model's refusals and its answers to benign prompts, as token ids.

    First tokens found in both classes are dropped from both, rarest first, while together they
    begin at most 5% of either. For the other shared first tokens the second tokens decide.

    Raises:
        InputError: one of the two is empty, or two tokens do not separate them.
    """
    if not refusals or not answers:
        raise InputError(
            f"the model gave {len(refusals)} refusals and {len(answers)} answers to benign "
            "prompts; both are needed to find refusal prefixes. Check that the model is aligned,"
            " that --scorer knows its refusals, and that --max-new-tokens is large enough"
        )
    refusal, compliance = _shares(refusals, 1), _shares(answers, 1)
    shared = refusal.keys() & compliance.keys()
    kept_R = [t for t in refusal if t not in shared]
    kept_C = [t for t in compliance if t not in shared]
    dropped = 0.0
    for share, prefix in sorted((max(refusal[t], compliance[t]), t) for t in shared):
        dropped += share
        if dropped <= SHARED_AT_MOST:
            continue
        after_R = _shares([r for r in refusals if tuple(r[:1]) == prefix], 2)
        after_C = _shares([a for a in answers if tuple(a[:1]) == prefix], 2)
        both = after_R.keys() & after_C.keys()
        lost = max(sum(after[t] for t in both) for after in (after_R, after_C))
        if lost * share > SHARED_AT_MOST:
            raise InputError(
                f"refusals and answers share their first two tokens in {lost:.0%} of the cases "
                f"that begin with token {prefix[0]}: log-odds cannot separate them; give the "
                "shared words with --response-prefix"
            )
        kept_R += [t for t in after_R if t not in both]
        kept_C += [t for t in after_C if t not in both]
    if not kept_R or not kept_C:
        raise InputError("refusals and answers have the same prefixes: no log-odds are possible")
    return ResponsePrefixes(tuple(sorted(kept_R)), tuple(sorted(kept_C)))


def _shares(responses: Sequence[Sequence[int]], length: int) -> dict[ResponsePrefix, float]:
    """Share of each prefix of ``length`` tokens, without the rarest."""
    counts = Counter(tuple(int(t) for t in r[:length]) for r in responses if len(r) >= length)
    total = counts.total()
    return {prefix: n / total for prefix, n in counts.items() if n / total >= RAREST}


def prefix_masses(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    prefixes: ResponsePrefixes,
    *,
    batch_size: int = 256,
    progress: Advance = silent,
) -> Masses:
    """The values p_R, p_C, p_O and refusal log-odds at the first answer position of every row.

    One forward; a second one for each first token that R and C share.

    Args:
        rows: prompts as ``lm.chat.encode`` gives them, without a response.
        batch_size: rows in one forward; fewer after a batch did not fit into memory.

    Raises:
        MachineError: a single prompt does not fit into memory.
    """

    def masses(chosen: list[int]) -> Float[np.ndarray, "prompt mass"]:
        log_R, log_not_R, log_C = _class_log_probs(lm, [rows[i] for i in chosen], prefixes)
        p_R, p_C = log_R.exp(), log_C.exp()
        p_O = (1 - p_R - p_C).clamp(min=0)
        return torch.stack([p_R, p_C, p_O, log_R - log_not_R], dim=1).numpy()

    with undisturbed(lm.model):
        found = map_in_batches(masses, rows, batch_size, progress)
    return Masses(*np.reshape(found, (-1, 4)).T)


def refusal_log_odds(
    lm: LanguageModel, rows: Sequence[Tokens], prefixes: ResponsePrefixes
) -> Float[Tensor, " batch"]:
    """The log-odds of every row as one float64 tensor, with its graph: one batch, one forward."""
    log_R, log_not_R, _ = _class_log_probs(lm, rows, prefixes)
    return log_R - log_not_R


def _class_log_probs(
    lm: LanguageModel, rows: Sequence[Tokens], prefixes: ResponsePrefixes
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(R), log p(not R) and log p(C), each of shape (batch,)."""
    first = _next_log_probs(lm, rows)
    heads = sorted({o[0] for o in (*prefixes.refusal, *prefixes.compliance) if len(o) == 2})
    terms: list[list[Tensor]] = [[], [], []]
    singles = [_singles(prefixes.refusal), None, _singles(prefixes.compliance)]
    singles[1] = sorted(set(range(first.shape[1])) - set(singles[0] or ()) - set(heads))
    for parts, ids in zip(terms, singles, strict=True):
        parts.append(first[:, ids or []])
    for head in heads:
        longer = [Tokens((*row.ids, head), row.spans) for row in rows]
        joint = first[:, [head]] + _next_log_probs(lm, longer)
        seconds_R, seconds_C = (
            [o[1] for o in side if len(o) == 2 and o[0] == head]
            for side in (prefixes.refusal, prefixes.compliance)
        )
        not_R = sorted(set(range(joint.shape[1])) - set(seconds_R))
        for parts, ids in zip(terms, (seconds_R, not_R, seconds_C), strict=True):
            parts.append(joint[:, ids])
    log_R, log_not_R, log_C = (torch.cat(parts, dim=1).logsumexp(dim=1) for parts in terms)
    return log_R, log_not_R, log_C


def _singles(prefixes: Sequence[ResponsePrefix]) -> list[int]:
    return [prefix[0] for prefix in prefixes if len(prefix) == 1]


def _next_log_probs(lm: LanguageModel, rows: Sequence[Tokens]) -> Float[Tensor, "batch vocab"]:
    batch = lm.chat.pad(rows, lm.device)
    return lm.logits(batch, keep=1)[:, -1].cpu().double().log_softmax(dim=-1)


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
