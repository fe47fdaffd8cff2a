"""A readout of several forwards, under patches: the numbers of a model that is really changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.activations import HEADS, RESIDUAL_OUT
from interp.model import LanguageModel, Tokens
from interp.patching import WHOLE, attribute, between_models, patch, stitch
from interp.readout import last_logits
from tests.patched_models import PROMPTS, changed, linear_model
from unlearning.refusal import ResponsePrefixes, prefix_masses, readout_of

TREE = ResponsePrefixes(
    refusal=((300,), (40, 50, 60), (41, 42, 43)),
    compliance=((302,), (40, 50, 61), (40, 51), (41, 42, 44)),
)


@pytest.fixture(scope="module")
def models(checkpoint_of: Any) -> tuple[LanguageModel, LanguageModel]:
    base = LanguageModel.load(checkpoint_of("llama"), dtype=torch.float64)
    return base, changed(base, lambda name: "layers" in name, scale=0.5)


def log_odds(lm: LanguageModel) -> np.ndarray:
    return prefix_masses(lm, [lm.chat.encode(p) for p in PROMPTS], TREE).log_odds


def test_a_stitched_model_reads_as_the_model_with_both_halves(
    models: tuple[LanguageModel, LanguageModel],
) -> None:
    base, after = models
    found = stitch(base, after, PROMPTS, readout_of(TREE), layers=[1])
    assert found.base == pytest.approx(log_odds(base), abs=1e-4)
    assert found.after == pytest.approx(log_odds(after), abs=1e-4)
    for below, above, values in ((base, after, found.base_below), (after, base, found.after_below)):
        mixed = replace(above, model=copy.deepcopy(above.model))
        for i in (0, 1):
            mixed.layers[i].load_state_dict(below.layers[i].state_dict())
        wanted = log_odds(mixed)
        assert values[0] == pytest.approx(wanted, abs=1e-4)
        assert np.abs(wanted - found.base).max() > 1e-2


def test_a_patched_state_is_seen_by_every_token_of_the_response(
    models: tuple[LanguageModel, LanguageModel],
) -> None:
    """Each prompt alone, each prefix alone, with the one state put there by hand."""
    base, after = models
    runs = between_models(base, after, PROMPTS)
    where: dict[str, Any] = {"layers": [1], "positions": ["post_instruction[-1]"]}
    found = patch(runs, readout_of(TREE), **where)
    one_by_one = patch(runs, readout_of(TREE), batch_size=1, **where)
    assert one_by_one.patched == pytest.approx(found.patched, abs=1e-4)
    for i, row in enumerate(runs.target_rows):
        place = row.spans["post_instruction[-1]"].start
        given = base.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[2]

        def put(_module: Any, _inputs: Any, output: Any, at: int = place, h: Tensor = given) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            new = torch.cat([hidden[:, :at], h[:, at : at + 1], hidden[:, at + 1 :]], dim=1)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = after.layers[1].register_forward_hook(put)
        with torch.no_grad():
            p_R = sum(_chance(after, row, prefix) for prefix in TREE.refusal)
        handle.remove()
        assert found.patched[0, i] == pytest.approx(np.log(p_R) - np.log1p(-p_R), abs=1e-4)
    assert np.abs(found.patched[0] - found.target).max() > 1e-3


def _chance(lm: LanguageModel, row: Tokens, prefix: Sequence[int]) -> float:
    ids = torch.tensor([[*row.ids, *prefix]])
    log_probs = lm.model(ids).logits[0].double().log_softmax(-1)
    first = len(row) - 1
    return float(sum(log_probs[first + k, token] for k, token in enumerate(prefix)).exp())


def test_attribution_adds_up_over_the_forwards_of_a_readout(checkpoint_of: Any) -> None:
    """Exact in a linear model, also where a readout appends tokens to the prompts."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    one, other = (linear_model(lm, seed=seed) for seed in (0, 1))

    def readout(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
        longer = [Tokens((*row.ids, 5, 6), row.spans) for row in rows]
        return last_logits(lm, rows)[:, 7] - 2 * last_logits(lm, longer)[:, 11]

    runs = between_models(one, other, PROMPTS)
    options: dict[str, Any] = {"sites": [RESIDUAL_OUT], "positions": [WHOLE, "instruction"]}
    exact, approximate = patch(runs, readout, **options), attribute(runs, readout, **options)
    assert approximate.patched == pytest.approx(exact.patched, abs=1e-9)
    assert np.abs(exact.patched - exact.target).max() > 1e-3


def test_a_readout_that_runs_another_number_of_forwards_is_named(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    asked = 0

    def readout(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
        nonlocal asked
        asked += 1
        return sum(last_logits(lm, rows)[:, 7] for _ in range(asked))  # type: ignore[return-value]

    with pytest.raises(RuntimeError, match="run the same forwards for every model"):
        patch(between_models(lm, lm, PROMPTS), readout, sites=[HEADS], layers=[0])
