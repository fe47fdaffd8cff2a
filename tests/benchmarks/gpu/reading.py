"""Reading in bfloat16: left-padded rows against single ones, collecting against a forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.activations import collect
from interp.model import LanguageModel, Tokens
from tests.benchmarks.collect import interleaved
from tests.benchmarks.gpu.models import random_model, random_rows, wait
from tests.benchmarks.paired import median, ratio

OVER_ROUNDING = 2.0  # a padded row's difference, over the largest of rows in unpadded batches
OVER_TRUNK = 1.05


@dataclass(frozen=True)
class ReadingWorkload:
    """Rows to read.

    Attributes:
        rows: in one forward.
        shortest, longest: their lengths in tokens, where these differ.
        pairs: timed rounds.
    """

    rows: int = 16
    shortest: int = 12
    longest: int = 300
    pairs: int = 10


SMALL = ReadingWorkload(rows=4, shortest=3, longest=12, pairs=2)


def padded_against_single(
    name: str, workload: ReadingWorkload = ReadingWorkload()
) -> dict[str, Any]:
    """Relative differences of each row's last logits and states from the row alone.

    A row differs in any batch, because products of other shapes round otherwise: at 28 layers with
    random weights, by some percent in bfloat16, so no fixed number separates rounding from faults.
    Each row is also read in a batch of rows of its length, without padding. Padded rows may differ
    by twice the largest of these differences, because attention with a mask is another kernel and
    rounds once more. Wrong positions or a wrong mask differ by about 1.
    """
    lm = random_model(name)
    lengths = np.linspace(workload.shortest, workload.longest, workload.rows).round().astype(int)
    rows = random_rows(lm, lengths.tolist())
    alone = [_last(lm, [row]) for row in rows]
    together = _last(lm, rows)
    padded = [_distances(alone[i], together, i) for i in range(len(rows))]
    unpadded = []
    for i, row in enumerate(rows):
        others = random_rows(lm, [len(row)] * (len(rows) - 1), seed=i + 1)
        unpadded.append(_distances(alone[i], _last(lm, [row, *others]), 0))
    worst, rounding = np.max(padded, axis=0), np.max(unpadded, axis=0)
    # Where a batch happens to round like a row, one unit in the last place is left.
    allowed = OVER_ROUNDING * np.maximum(rounding, torch.finfo(lm.model.dtype).eps)
    agreeing = np.mean(
        [int(alone[i][0][0].argmax()) == int(together[0][i].argmax()) for i in range(len(rows))]
    )
    return {
        "rows": workload.rows,
        "tokens": lengths.tolist(),
        "padded": {"logits": worst[0], "states": worst[1]},
        "unpadded_batches": {"logits": rounding[0], "states": rounding[1]},
        "same_first_token": float(agreeing),
        "self_check": lm.checked.lines(),
        "met": {"padded": bool((worst <= allowed).all())},
    }


@torch.no_grad()
def _last(lm: LanguageModel, rows: list[Tokens]) -> tuple[Tensor, Tensor]:
    """Logits and the last layer's states of each row's last token."""
    output = lm.model(
        **lm.inputs(lm.chat.pad(rows, lm.device)), use_cache=False, output_hidden_states=True
    )
    return output.logits[:, -1].float().cpu(), output.hidden_states[-1][:, -1].float().cpu()


def _distances(
    alone: tuple[Tensor, Tensor], together: tuple[Tensor, Tensor], row: int
) -> tuple[float, float]:
    logits, states = (
        float((one[0] - many[row]).norm() / one[0].norm())
        for one, many in zip(alone, together, strict=True)
    )
    return logits, states


def collect_against_trunk(
    name: str, workload: ReadingWorkload = ReadingWorkload()
) -> dict[str, Any]:
    """Time of collecting all layers' states at the last token over that of the bare forward."""
    lm = random_model(name)
    rows = random_rows(lm, [workload.longest] * workload.rows)
    inputs: dict[str, Any] = {**lm.inputs(lm.chat.pad(rows, lm.device)), "use_cache": False}
    trunk: Any = lm.model.base_model
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: collect(lm, rows, batch_size=workload.rows).states,
        "trunk": torch.no_grad()(lambda: trunk(**inputs)),
    }
    seconds = interleaved({way: _waited(run) for way, run in ways.items()}, workload.pairs)
    found = ratio(seconds["ours"], seconds["trunk"], OVER_TRUNK)
    return {
        "collect_over_trunk": found,
        "seconds_of_a_pass": {way: median(values) for way, values in seconds.items()},
        "met": {"collect_over_trunk": found["met"]},
    }


def _waited(run: Callable[[], object]) -> Callable[[], object]:
    def timed() -> object:
        found = run()
        wait()
        return found

    return timed
