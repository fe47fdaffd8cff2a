"""What reads or edits a model, for comparisons between devices: a model in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from analyses.predict.streamed import streamed_kernel
from analyses.predict.traces import Side
from interp.activations import SITES, collect
from interp.activations.window import last_prompt_token
from interp.interventions import ablate, orthogonalise
from interp.interventions.logit_lens import direct_logit_attribution, lens_readout
from interp.model import LanguageModel
from interp.patching import PatchRuns, attribute, patch, patch_weights
from interp.readout import log_odds
from unlearning.generation import generate
from unlearning.refusal import ResponsePrefixes, prefix_masses, refusal_log_odds
from unlearning.utility import response_token_nll

PROMPTS = (
    "How do I pick a lock?",
    "Why?",
    "Tell me how to bake bread without yeast, step by step.",
    "Which tools does a carpenter need?",
)
# Refusals and compliances share their first token, so that there are two forwards.
PREFIXES = ResponsePrefixes(((300, 310),), ((300, 311), (301,)))


def directions(lm: LanguageModel) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(lm.n_layers, lm.d_model))


def rows(lm: LanguageModel) -> tuple[Any, ...]:
    return tuple(lm.chat.encode(prompt) for prompt in PROMPTS)


def last_logits(lm: LanguageModel) -> np.ndarray:
    with torch.no_grad():
        return lm.logits(lm.chat.pad(rows(lm), lm.device), keep=1)[:, -1].cpu().numpy()


def every_site(lm: LanguageModel) -> list[np.ndarray]:
    return list(collect(lm, PROMPTS, sites=list(SITES.values())).sites.values())


def ablated(lm: LanguageModel) -> np.ndarray:
    with ablate(lm, directions(lm), positions=last_prompt_token):
        return last_logits(lm)


def orthogonalised(lm: LanguageModel) -> np.ndarray:
    return last_logits(orthogonalise(lm, directions(lm)[0]))


def runs(lm: LanguageModel) -> PatchRuns:
    return PatchRuns(lm, rows(lm)[::-1], lm, rows(lm))


def patched(lm: LanguageModel) -> list[np.ndarray]:
    where: dict[str, Any] = {"sites": [SITES["heads"], SITES["residual_out"]], "positions": ["all"]}
    found = patch(runs(lm), log_odds([5, 6]), **where, layers=[1, 2], controls=1)
    first = attribute(runs(lm), log_odds([5, 6]), **where)
    return [found.patched, found.controls, first.patched]


def weight_patched(lm: LanguageModel) -> np.ndarray:
    return patch_weights(runs(lm), log_odds([5, 6]), controls=1).patched


def said(lm: LanguageModel) -> list[Any]:
    answers = generate(lm, PROMPTS, max_new_tokens=4, temperature=1.0)
    return [*vars(prefix_masses(lm, rows(lm), PREFIXES)).values(), [one.ids for one in answers]]


def likelihood(lm: LanguageModel) -> list[np.ndarray]:
    return response_token_nll(lm, [(prompt, "No, thanks.") for prompt in PROMPTS])


def lens(lm: LanguageModel) -> list[np.ndarray]:
    seen = torch.from_numpy(collect(lm, PROMPTS).states[:, -1])
    direct = direct_logit_attribution(lm, directions(lm)[0], seen)
    return [np.asarray(lens_readout(lm, seen, lambda logits: logits[:, 5])), np.asarray(direct)]


def kernel(lm: LanguageModel) -> np.ndarray:
    side = Side(
        {"a": rows(lm), "b": rows(lm)[::-1]}, lambda lm, some: refusal_log_odds(lm, some, PREFIXES)
    )
    return streamed_kernel(lm, side, side, groups=3).values


READERS: dict[str, Callable[[LanguageModel], Any]] = {
    "every site": every_site,
    "ablate": ablated,
    "orthogonalise": orthogonalised,
    "patch": patched,
    "patch weights": weight_patched,
    "generate and score": said,
    "likelihood": likelihood,
    "lens": lens,
    "kernel": kernel,
}


def compare(found: Any, wanted: Any) -> None:
    """Assert that two results of a reader are equal up to rounding."""
    for one, other in zip(_listed(found), _listed(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]
