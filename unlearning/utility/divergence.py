"""How far a model moved from its base on text where nothing should have changed.

Two measures that need no labels: the Kullback-Leibler divergence from the base model along the
base's own answers to benign prompts, and the perplexity of texts. Tasks with right answers are in
:mod:`unlearning.utility.tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError, ModelError
from interp.model import LanguageModel, Tokens, map_in_batches, undisturbed
from interp.progress import Advance, silent
from interp.selection import next_token_divergence
from unlearning.losses import forced_logits, reference_log_probs

POSITIONS = 8
# Tokens read at once: enough for most texts and within the context of most models.
WINDOW = 1024


def answer_logits(
    lm: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    *,
    positions: int = POSITIONS,
    batch_size: int = 16,
    progress: Advance = silent,
) -> list[Float[Tensor, "position vocab"]]:
    """Logits that predict the first ``positions`` tokens of each given answer, teacher-forced.

    The logits are on the CPU and in the model's number format, so they stay exact while another
    model takes the memory. An answer of fewer tokens has fewer rows.

    Raises:
        MachineError: a single row does not fit into memory; larger batches are halved first.
        ModelError: the logits are NaN, so there is no divergence.
    """
    rows = [
        lm.chat.encode(prompt, tuple(answer)[:positions])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]

    def read(chosen: list[int]) -> list[Tensor]:
        logits, _, mask = forced_logits(lm, [rows[i] for i in chosen])
        return [values[where].cpu() for values, where in zip(logits, mask, strict=True)]

    with undisturbed(lm.model):
        found = map_in_batches(read, rows, batch_size, progress)
    if any(logits.isnan().any() for logits in found):
        raise ModelError(
            f"{lm.name} gives NaN as logits: its weights hold NaN, or overflow in "
            f"{lm.model.dtype}; load it in float32, or take an earlier checkpoint"
        )
    return found


def kl_divergence(
    base: Float[Tensor, "position vocab"], other: Float[Tensor, "position vocab"]
) -> Float[np.ndarray, " position"]:
    """KL(base ‖ other) in nats at every position, from logits, in float64.

    A token that the base rules out (logit −∞) adds 0. A token that only ``other`` rules out makes
    the divergence infinite.

    Raises:
        InputError: the two have different vocabularies.
    """
    if base.shape != other.shape:
        raise InputError(
            f"logits of shape {tuple(base.shape)} and {tuple(other.shape)}: the two models have "
            "different vocabularies, so the KL divergence is not defined"
        )
    return next_token_divergence(base, other).numpy()


def kl_to_base(
    base: LanguageModel,
    lm: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    *,
    positions: int = POSITIONS,
    batch_size: int = 16,
) -> Float[np.ndarray, "prompt position"]:
    """KL(base ‖ model) in nats at the first ``positions`` positions of the base's own answers.

    Args:
        base, lm: two models of one vocabulary; both read the same token ids.
        prompts: benign ones, usually.
        answers: token ids that the base model generated.
        positions: 1 compares the first answer token only, which shows a change of style but not
            always a change of content.

    Returns:
        One row per prompt; NaN after the end of its answer.

    Raises:
        InputError: the models have different vocabularies.
    """
    before, after = (
        answer_logits(each, prompts, answers, positions=positions, batch_size=batch_size)
        for each in (base, lm)
    )
    return kl_table(before, after, positions)


def kl_table(
    base: Sequence[Float[Tensor, "position vocab"]],
    other: Sequence[Float[Tensor, "position vocab"]],
    positions: int = POSITIONS,
) -> Float[np.ndarray, "prompt position"]:
    """:func:`kl_divergence` of every prompt's logits; NaN where an answer has ended."""
    found = np.full((len(base), positions), np.nan)
    for row, one, another in zip(found, base, other, strict=True):
        row[: len(one)] = kl_divergence(one, another)
    return found


@dataclass(frozen=True)
class TextLikelihood:
    """The likelihood of each text under a model.

    Attributes:
        nats: minus the log-probability of all tokens of a text that have a token before them.
        tokens: number of these tokens; 0 in a text of a single token.
        bytes: size of the text in UTF-8, which does not depend on the tokenizer.
    """

    nats: Float[np.ndarray, " text"]
    tokens: Int[np.ndarray, " text"]
    bytes: Int[np.ndarray, " text"]

    @property
    def perplexity(self) -> float:
        """exp(nats per token), over all texts together; NaN without a token."""
        total = self.tokens.sum()
        return float(np.exp(self.nats.sum() / total)) if total else float("nan")


def text_likelihood(
    lm: LanguageModel,
    texts: Sequence[str],
    *,
    window: int = WINDOW,
    batch_size: int = 8,
    progress: Advance = silent,
) -> TextLikelihood:
    """Likelihood of plain texts: no chat template; BOS where the tokenizer adds one.

    A text longer than ``window`` (or than the model's limit) is read in pieces. Each piece begins
    with the last token of the one before and has no other context. The result is comparable
    between models read with the same window, and a little higher than with the full context.
    """
    window = max(2, min(window, _longest(lm)))
    owners: list[int] = []
    rows: list[Tokens] = []
    for owner, text in enumerate(texts):
        ids = lm.tokenizer(text)["input_ids"]
        for start in range(0, len(ids) - 1, window - 1):
            piece = tuple(ids[start : start + window])
            rows.append(Tokens(piece, {"response": slice(1, len(piece))}))
            owners.append(owner)
    nats, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    for start in range(0, len(rows), 16 * batch_size):
        batch = slice(start, start + 16 * batch_size)
        found = reference_log_probs(lm, rows[batch], batch_size=batch_size, progress=progress)
        for owner, log_probs in zip(owners[batch], found, strict=True):
            nats[owner] -= float(log_probs.double().sum())
            tokens[owner] += len(log_probs)
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    return TextLikelihood(nats, tokens, np.array(sizes, dtype=np.int64))


def _longest(lm: LanguageModel) -> int:
    config = lm.model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or WINDOW)
