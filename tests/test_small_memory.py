"""Everything that reads a model backs off on a small device, finds the same and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from interp.activations import RESIDUAL_IN, RESIDUAL_OUT, collect
from interp.causes import Change, undo
from interp.errors import MachineError
from interp.interventions.logit_lens import direct_logit_attribution, lens_logits, lens_readout
from interp.model import LanguageModel
from interp.patching import PatchRuns, attribute, patch, stitch
from interp.readout import log_odds
from interp.selection import Prompts, score_candidates
from interp.statistics import Contrast
from unlearning.losses import reference_log_probs
from unlearning.refusal import ResponsePrefixes, prefix_masses
from unlearning.scoring import LocalJudge
from unlearning.scoring.sequence_classifier import SequenceClassifier
from unlearning.utility import answer_logits, response_token_nll

Checkpoints = Callable[[str], Path]
Read = Callable[[LanguageModel], list[Any]]

PROMPTS = [f"{start} do bees build {end}" for start in ("Why", "How") for end in ("a hive?", "x")]
SAID = ["Bees build cells of wax.", "No.", "They dance, and then they build.", "Of wax."]
# R and C share their first token, so that there are two forwards.
PREFIXES = ResponsePrefixes(((300, 310),), ((300, 311), (301,)))


def masses(lm: LanguageModel) -> list[Any]:
    found = prefix_masses(lm, [lm.chat.encode(p) for p in PROMPTS], PREFIXES, batch_size=4)
    return list(vars(found).values())


def log_probs(lm: LanguageModel) -> list[Any]:
    rows = [lm.chat.encode(*pair) for pair in zip(PROMPTS, SAID, strict=True)]
    return [values.numpy() for values in reference_log_probs(lm, rows, batch_size=4)]


def nll(lm: LanguageModel) -> list[Any]:
    return response_token_nll(lm, list(zip(PROMPTS, SAID, strict=True)), batch_size=4)


def logits(lm: LanguageModel) -> list[Any]:
    answers = [lm.chat.encode("", said).ids[-3:] for said in SAID]
    return [rows.numpy() for rows in answer_logits(lm, PROMPTS, answers, batch_size=4)]


def states(lm: LanguageModel) -> list[Any]:
    found = collect(lm, PROMPTS, sites=[RESIDUAL_IN, RESIDUAL_OUT], batch_size=4)
    return list(found.sites.values())


def lens(lm: LanguageModel) -> list[Any]:
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=(4, lm.d_model))).float()
    return [
        lens_logits(lm, drawn, batch_size=4).numpy(),
        lens_readout(lm, drawn, lambda logits: logits[:, 5], batch_size=4),
        direct_logit_attribution(lm, drawn[0], drawn, batch_size=4).numpy(),
    ]


def patches(lm: LanguageModel) -> list[Any]:
    rows = tuple(lm.chat.encode(prompt) for prompt in PROMPTS)
    runs = PatchRuns(lm, rows[::-1], lm, rows)
    where: dict[str, Any] = {"sites": [RESIDUAL_OUT], "positions": ["all"], "batch_size": 4}
    found = patch(runs, log_odds([5, 6]), layers=[1], controls=1, **where)
    return [found.patched, found.controls, attribute(runs, log_odds([5, 6]), **where).patched]


def stitched(lm: LanguageModel) -> list[Any]:
    found = stitch(lm, lm, PROMPTS, log_odds([5, 6]), layers=[1], batch_size=4)
    return [found.base, found.after, found.base_below, found.after_below]


def undone(lm: LanguageModel) -> list[Any]:
    drawn = np.random.default_rng(0).normal(size=(2, 8, lm.n_layers, lm.d_model))
    sides = np.arange(8) < len(PROMPTS)
    change = Change(*(Contrast.from_labels(one, sides) for one in drawn), tuple(range(lm.n_layers)))
    found = undo(lm, lm, PROMPTS, change, log_odds([5, 6]), layers=[1], batch_size=4)
    return [one.values for one in found]


def candidates(lm: LanguageModel) -> list[Any]:
    def readout(model: LanguageModel, rows: Any) -> torch.Tensor:
        return log_odds([5, 6])(model, rows) + torch.tensor([sides[row.ids] for row in rows])

    prompts = Prompts([PROMPTS[0], PROMPTS[2]] * 2, [PROMPTS[1], PROMPTS[3]] * 2)
    sides = {
        lm.chat.encode(prompt).ids: sign * 50.0
        for part, sign in ((prompts.positive, 1), (prompts.negative, -1))
        for prompt in part
    }
    done: list[int] = []
    found = score_candidates(
        lm, prompts, prompts, readout, layers=[1], batch_size=4, progress=done.append
    )
    assert sum(done) == found.bypass.size + found.induce.size  # each once, retried or not
    return [found.bypass, found.induce, found.kl]


@contextmanager
def holding(model: nn.Module, rows: int) -> Iterator[list[int]]:
    """A device on which only so many rows fit; gives the sizes that were tried."""
    tried: list[int] = []

    def enter(_module: nn.Module, _arguments: Any, keywords: dict[str, Any]) -> None:
        tried.append(len(keywords["input_ids"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = model.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield tried
    finally:
        handle.remove()


READERS = [masses, log_probs, nll, logits, states, lens, patches, stitched, undone, candidates]


@pytest.mark.parametrize("read", READERS)
def test_a_smaller_batch_finds_the_same(read: Read, checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gpt2"))  # with dropout, which must not be there
    expected = read(lm)
    lm.model.train()
    lm.layers[1].eval()  # as training code leaves a part that it froze
    modes = [module.training for module in lm.model.modules()]
    before = torch.random.get_rng_state()
    with holding(lm.model, 3) as tried:
        found = read(lm)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert max(tried) == 4 and {n for n in tried if n > 1} == {4, 2}
    with holding(lm.model, 0), pytest.raises(MachineError, match="a single prompt of"):
        read(lm)
    assert [module.training for module in lm.model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before) and torch.is_grad_enabled()


def test_a_collection_on_disk_goes_on_after_memory_ran_out(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    with holding(lm.model, 2):
        found = collect(lm, PROMPTS, folder=tmp_path / "states", batch_size=4)
    np.testing.assert_allclose(found.states, collect(lm, PROMPTS).states, atol=2e-5)


def test_a_judge_backs_off(checkpoint_of: Checkpoints) -> None:
    judge = LocalJudge(str(checkpoint_of("qwen2")), least_mass=0.0)
    expected = judge.probabilities(PROMPTS, SAID)
    with holding(judge.lm.model, 2) as tried:
        np.testing.assert_allclose(judge.probabilities(PROMPTS, SAID), expected, rtol=1e-4)
    assert tried == [4, 2, 2]


def test_a_sequence_classifier_backs_off(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_of("qwen2"))
    tokenizer.save_pretrained(tmp_path)
    Qwen2ForSequenceClassification(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=64, id2label={0: "refusal", 1: "answer"},
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    classifier = SequenceClassifier(str(tmp_path), batch_size=4)
    expected = classifier.logits(PROMPTS, SAID)
    with holding(classifier._model, 2) as tried:
        torch.testing.assert_close(classifier.logits(PROMPTS, SAID), expected)
    assert tried == [4, 2, 2]
