"""The model's answers, as the token ids that it generated.

An answer is a function of the model, the chat format, the prompt and the settings. It does not
depend on other prompts, on batches or on interruptions of the run. (Except for rounding: batches of
different sizes use different kernels, which may decide between two almost equally likely tokens.)

Sampling depends on the seed and the prompt, and not on the other prompts of a batch.

The libraries' samplers draw a whole batch from one stream. Their answers change with the batch
size, the order of the prompts and the answers before an interruption. Here every answer has a
separate stream with one uniform number u per token. u inverts the cumulative distribution: it picks
the first token at which the distribution exceeds u. The distribution is softmax(logits /
temperature) over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from interp.errors import InputError
from interp.model import (
    LanguageModel,
    Tokens,
    active_edits,
    begin,
    doubled,
    equal_up_to_rounding,
    in_fitting_batches,
    require_room,
    same_numbers,
    shared_beginning,
    undisturbed,
)
from interp.progress import Advance, silent
from interp.store import content_key
from unlearning.data import text_hash
from unlearning.generation.answer_log import Answer, AnswerLog, AskedPrompt, answer_all, each_asked

# Checkpoints come with decoding settings (Qwen2.5's with a repetition penalty, even in greedy
# decoding). These change the model's distribution, so they are off here.
AS_IT_IS = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "watermarking_config": None,
}


# Steps of the check of a shared beginning.
_FIRST_STEPS = 3
_BEGUN = "generates from a shared beginning"


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    first_sample: int = 0,
    opening: Sequence[int] = (),
    progress: Advance = silent,
    log: AnswerLog | None = None,
) -> list[Answer]:
    """Answer every prompt: greedily at temperature 0, else sampled from the full distribution.

    Args:
        lm: the model, in eval mode while it answers; the decoding settings of its checkpoint are
            not used.
        prompts: a prompt that occurs n times is sampled n times.
        max_new_tokens: of one answer; ``finished`` is False where this ended it.
        batch_size: prompts in one forward; fewer after a batch did not fit into memory.
        temperature: divides the logits.
        seed: of sampling.
        first_sample: number of each prompt's first sample. Samples 0 to 3 of one call are those of
            two calls with 0 and 2 and half as many occurrences.
        opening: token ids with which every answer is forced to begin; they are part of it.
        progress: called with the number of prompts just done.
        log: answers in it are not generated again, and new ones are added batch by batch. Its key
            is :func:`answers_key` of the same model and settings. Not used while an edit is active.

    Raises:
        InputError: a prompt is longer than the model's context, or ``max_new_tokens`` is below 1.
        MachineError: a single prompt does not fit into memory, or the log's disk is full.
    """
    require_new_tokens(max_new_tokens)
    stops = stop_tokens(lm)
    if active_edits(lm.model):
        log = None  # these are not the model's own answers

    def batches(asked: Sequence[AskedPrompt]) -> Iterator[dict[AskedPrompt, Answer]]:
        rows = [lm.chat.encode(one.prompt, tuple(opening) or None) for one in asked]
        require_room(lm.model, lm.tokenizer, rows, new_tokens=max_new_tokens)

        def answer(chosen: list[int]) -> list[Answer]:
            inputs = _inputs(lm, [rows[i] for i in chosen], beginning)
            width = inputs["input_ids"].shape[1]
            heard = TokenNLL()
            processors: list[LogitsProcessor] = [heard]
            if temperature > 0:
                numbers = uniform_numbers([asked[i] for i in chosen], seed, max_new_tokens)
                processors.append(Draw(numbers, temperature, width))
            # PreTrainedModel inherits generate from a mixin that the stubs do not see.
            output = lm.model.generate(  # type: ignore[operator]
                **inputs,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(stops),
                use_cache=lm.checked.cache,
                pad_token_id=min(stops),
                logits_processor=processors,
                **AS_IT_IS,
            )
            nats = heard.of(output).tolist() if not opening else [None] * len(chosen)
            said = output[:, width:].tolist()
            return [
                _cut(lm, [*opening, *ids], stops, nll) for ids, nll in zip(said, nats, strict=True)
            ]

        with undisturbed(lm.model):
            beginning = shared_beginning(lm, rows)
            if beginning and not same_numbers(
                lm,
                _BEGUN,
                [*rows, _ended(rows, max_new_tokens)],
                partial(_same_first_steps, lm, beginning, min(_FIRST_STEPS, max_new_tokens)),
            ):
                beginning = ()
            together = lm.together(rows, decoding=True)
            for chosen, answers in in_fitting_batches(rows, batch_size, answer, together):
                yield {asked[i]: one for i, one in zip(chosen, answers, strict=True)}

    asked = each_asked(prompts, sampled=temperature > 0, first_sample=first_sample)
    return answer_all(asked, batches, log=log, progress=progress)


def answers_key(
    lm: LanguageModel,
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    opening: Sequence[int] = (),
    fingerprint: str | None = None,
) -> str:
    """The key of an :class:`AnswerLog`: everything on which an answer of :func:`generate` depends.

    Args:
        lm, max_new_tokens, temperature, seed, opening: as given to :func:`generate`.
        fingerprint: the model's, if known; else every weight is read, which takes seconds on a
            large model.
    """
    sampling = [float(temperature), seed] if temperature > 0 else None
    stops = sorted(stop_tokens(lm))
    fingerprint = fingerprint or lm.fingerprint()
    parts: list[object] = [fingerprint, lm.configuration]
    parts += [lm.chat.fingerprint, lm.chat.tokenization]
    parts += [stops, max_new_tokens, sampling]
    check = lm.checked
    if check.decoding != "padded" or not check.cache:
        parts.append([check.decoding, check.cache])
    return content_key(
        "answers", *parts, *([list(opening)] if opening else [])
    )  # old logs stay readable


def require_new_tokens(max_new_tokens: int) -> None:
    """Refuse a length of answers that has no token.

    Raises:
        InputError: ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; expected at least 1")


def stop_tokens(lm: LanguageModel) -> frozenset[int]:
    """Ids that end an answer: the generation config's, the tokenizer's, the template's."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    ids.add(lm.tokenizer.eos_token_id)
    if len(lm.chat.end_of_turn) == 1:
        ids.update(lm.chat.end_of_turn)
    return frozenset(i for i in ids if i is not None)


def _inputs(
    lm: LanguageModel, rows: Sequence[Tokens], beginning: tuple[int, ...]
) -> dict[str, Any]:
    """Inputs of the model's ``generate``: what rows begin with is in the cache already."""
    if not beginning:
        batch = lm.chat.pad(rows, lm.device)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    rest, cache = begin(lm, rows, beginning)
    ids = torch.tensor(beginning, device=lm.device).expand(len(rows), -1)
    return {
        "input_ids": torch.cat([ids, rest["input_ids"]], dim=1),
        "attention_mask": rest["attention_mask"],
        "past_key_values": cache,
    }


def _ended(rows: Sequence[Tokens], max_new_tokens: int) -> Tokens:
    """A row as long as the longest with its answer: its columns are those of the last step."""
    ids = max(rows, key=len).ids
    return Tokens((*ids, *ids[-1:] * (max_new_tokens - _FIRST_STEPS)), {})


def _same_first_steps(
    lm: LanguageModel, beginning: tuple[int, ...], most: int, rows: Sequence[Tokens]
) -> bool:
    def first_steps(beginning: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        output = lm.model.generate(  # type: ignore[operator]
            **_inputs(lm, rows, beginning),
            max_new_tokens=most,
            pad_token_id=min(stop_tokens(lm)),
            return_dict_in_generate=True,
            output_logits=True,
            **AS_IT_IS,
        )
        logits = torch.stack(output.logits, dim=1).cpu().double().log_softmax(-1)
        return output.sequences[:, -logits.shape[1] :].cpu(), logits

    plain, wanted = first_steps(())
    try:
        begun, found = first_steps(beginning)
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError, InputError):
        return False  # of a cache with another interface, or beyond the context
    steps = min(plain.shape[1], begun.shape[1])
    # A later step can be compared only where all tokens before it are equal.
    equal = (plain[:, :steps] == begun[:, :steps]).cumprod(dim=1)
    comparable = torch.cat([torch.ones_like(equal[:, :1]), equal[:, :-1]], dim=1).bool()
    return equal_up_to_rounding(lm, wanted[:, :steps][comparable], found[:, :steps][comparable])


def _cut(
    lm: LanguageModel, ids: list[int], stops: frozenset[int], nll: list[float] | None
) -> Answer:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    length = len(ids) if end is None else end + 1
    kept = tuple(ids[:length])
    nats = None if nll is None else tuple(round(value, 6) for value in nll[:length])
    return Answer(kept, lm.chat.read(kept), end is not None, nats)


def uniform_numbers(
    asked: Sequence[AskedPrompt], seed: int, steps: int
) -> Float[np.ndarray, "row step"]:
    """Numbers in [0, 1) that decide the tokens of each answer; fewer steps give the first ones."""
    keys = (text_hash("sample", str(seed), str(one.sample), one.prompt) for one in asked)
    return np.stack([np.random.default_rng(int(key, 16)).random(steps) for key in keys])


class TokenNLL(LogitsProcessor):
    """Records -log p of the chosen tokens; it comes before processors that change the logits.

    The token that was chosen from one step's logits is known in the next step, so only these
    logits are held.
    """

    def __init__(self) -> None:
        self._last: Float[Tensor, "row vocab"] | None = None
        self._nll: list[Float[Tensor, " row"]] = []

    def __call__(
        self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row vocab"]:
        self._read(input_ids)
        self._last = scores
        return scores

    def of(self, output: Int[Tensor, "row token"]) -> Float[Tensor, "row step"]:
        """Nats of every new token of the finished ``output``, in float32."""
        self._read(output)
        return torch.stack(self._nll, dim=1)

    def _read(self, ids: Int[Tensor, "row token"]) -> None:
        if self._last is not None:
            logits = self._last.float()
            chosen = logits.gather(1, ids[:, -1:]).squeeze(1)
            self._nll.append(logits.logsumexp(1) - chosen)


class Draw(LogitsProcessor):
    """Keeps in every row's logits only the token that its number picks.

    Args:
        numbers: in [0, 1); a row's column t decides its new token t.
        temperature: more than 0.
        width: columns of the padded prompts; new tokens follow them.
    """

    def __init__(
        self, numbers: Float[np.ndarray, "row step"], temperature: float, width: int
    ) -> None:
        self.numbers = torch.from_numpy(numbers)
        self.temperature = temperature
        self.width = width

    def __call__(
        self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row vocab"]:
        step = input_ids.shape[1] - self.width
        # Sums over a vocabulary need float64.
        cumulative = (doubled(scores) / self.temperature).softmax(-1).cumsum(-1)
        wanted = self.numbers[:, step : step + 1].to(cumulative) * cumulative[:, -1:]
        # right=True: never a token of probability 0.
        token = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token.to(scores.device), 0.0)
