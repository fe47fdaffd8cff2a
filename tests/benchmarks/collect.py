"""Time of collecting activations: against the bare forward, and against other ways.

    python -m tests.benchmarks.collect time --pairs 20
    python -m tests.benchmarks.collect sorted --pairs 5

All on the 50M-parameter Qwen2 of ``workload``. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch

from interp.activations import collect
from interp.model import LanguageModel, Tokens
from tests.benchmarks.workload import Workload

ROWS, TOKENS, BATCH = 16, 64, 32
# Prompts as people write them: log-normal in length, within a chat template.
MEDIAN, SPREAD, TEMPLATE = 18, 0.9, 20
SORTED_ROWS = 1024


def rows_of(workload: Workload, lengths: Sequence[int]) -> list[Tokens]:
    """Random tokens."""
    rng = np.random.default_rng(0)
    return [
        Tokens(tuple(rng.integers(0, workload.vocabulary, length).tolist()), {})
        for length in lengths
    ]


def ways(workload: Workload) -> dict[str, Callable[[], object]]:
    """Each way to the states after all layers at the last token, of one batch without padding.

    ``trunk`` is what every way must do: the model's forward without its head, nothing kept.
    ``early_exit`` wants layers 0–3 only. Wrapping the model is not timed.
    """
    lm = workload.model()
    lm.model.eval()
    rows = rows_of(workload, [TOKENS] * ROWS)
    inputs: dict[str, Any] = {**lm.inputs(lm.chat.pad(rows)), "use_cache": False}
    trunk: Any = lm.model.base_model
    first = range(max(1, workload.layers // 3))
    return {
        "ours": lambda: collect(lm, rows).states,
        "early_exit": lambda: collect(lm, rows, layers=first).states,
        "trunk": torch.no_grad()(lambda: trunk(**inputs)),
        "output_hidden_states": torch.no_grad()(lambda: _hidden_states(lm, inputs)),
        "transformer_lens": torch.no_grad()(_transformer_lens(workload, inputs)),
        "nnsight": torch.no_grad()(_nnsight(workload, inputs)),
    }


def _hidden_states(lm: LanguageModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Hugging Face's own; its last one is behind the final norm."""
    found = lm.model(**inputs, output_hidden_states=True).hidden_states[1:]
    return torch.stack([hidden[:, -1] for hidden in found], dim=1)


def _transformer_lens(workload: Workload, inputs: dict[str, Any]) -> Callable[[], torch.Tensor]:
    from transformer_lens.model_bridge import TransformerBridge

    lm = workload.model()
    bridge = TransformerBridge.boot_transformers(
        "benchmark", hf_model=lm.model.eval(), tokenizer=copy.deepcopy(lm.tokenizer), device="cpu"
    )
    options = {key: value for key, value in inputs.items() if key != "input_ids"}
    names = [f"blocks.{i}.hook_resid_post" for i in range(workload.layers)]

    def run() -> torch.Tensor:
        _, cache = bridge.run_with_cache(inputs["input_ids"], names_filter=names, **options)
        return torch.stack([cache[name][:, -1] for name in names], dim=1)

    return run


def _nnsight(workload: Workload, inputs: dict[str, Any]) -> Callable[[], torch.Tensor]:
    from nnsight import TransformersModel, save

    lm = workload.model()
    traced = TransformersModel(
        lm.model.eval(), tokenizer=copy.deepcopy(lm.tokenizer), task="text-generation"
    )

    def run() -> torch.Tensor:
        with traced.trace(**inputs):
            kept: list[torch.Tensor] = save([])
            for layer in traced.model.layers:
                kept.append(layer.output[:, -1])
        return torch.stack(list(kept), dim=1)

    return run


def times(workload: Workload, pairs: int) -> dict[str, list[float]]:
    """Seconds of ``pairs`` rounds of every way, in random order; the first round warms up."""
    return interleaved(ways(workload), pairs)


def sorted_times(workload: Workload, pairs: int, count: int = SORTED_ROWS) -> dict[str, Any]:
    """Seconds for ``count`` prompts in batches of 32: sorted, and in the order they come in.

    After layers 0 and 1 only: every layer gains the same. With more prompts to sort the gain
    grows, by the padded tokens from 1.7 (128 prompts) over 2.6 (1,024) to 2.9 (4,096).
    """
    lm = workload.model()
    lm.model.eval()
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), SPREAD, count)
    rows = rows_of(workload, [TEMPLATE + max(1, round(length)) for length in drawn])

    def unsorted() -> None:
        for start in range(0, count, BATCH):
            collect(lm, rows[start : start + BATCH], layers=[0, 1], batch_size=BATCH)

    def in_order() -> None:
        collect(lm, rows, layers=[0, 1], batch_size=BATCH)

    every = {"sorted": in_order, "unsorted": unsorted}
    return interleaved(every, pairs)


def interleaved(every: dict[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    """What slows the machine down for a while slows all of them down."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for i in range(pairs + 1):
        for name in rng.permutation(list(every)):
            start = perf_counter()
            every[name]()
            if i:
                seconds[name].append(perf_counter() - start)
    return seconds


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["time", "sorted"])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workload", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    workload = Workload(**options.workload)
    measured = times if options.command == "time" else sorted_times
    print(json.dumps(measured(workload, options.pairs)))


if __name__ == "__main__":
    main()
