"""Time of the refusal readout: against the bare forward over the same prompts.

    python -m tests.benchmarks.readout --pairs 10

A tree with n inner nodes below its root, half of them in a chain. Random weights of the workload,
prompts of 60 tokens. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch

from interp.model import undisturbed
from interp.readout import last_logits
from tests.benchmarks.collect import interleaved, rows_of
from tests.benchmarks.workload import Workload
from unlearning.refusal import ResponsePrefixes, prefix_masses

NODES = (1, 4, 8)
ROWS, TOKENS = 32, 60


def tree(nodes: int) -> ResponsePrefixes:
    """``nodes`` inner nodes below the root: a chain, and branches of the root."""
    deep = (nodes + 1) // 2
    chain = tuple(range(10, 10 + deep))
    branches = [(100 + k,) for k in range(nodes - deep)]
    inner = [chain, *branches]
    found = ResponsePrefixes(
        tuple((*node, 1) for node in inner), tuple((*node, 2) for node in inner)
    )
    assert len(found.inner) == nodes + 1
    return found


def times(workload: Workload, pairs: int) -> dict[str, list[float]]:
    """Seconds of the forward and of the readout with each number of nodes."""
    lm = workload.model()
    rows = rows_of(workload, [TOKENS] * ROWS)
    every = {
        f"{nodes}_nodes": partial(prefix_masses, lm, rows, tree(nodes), batch_size=ROWS)
        for nodes in NODES
    }
    with undisturbed(lm.model):
        return interleaved({"forward": partial(last_logits, lm, rows), **every}, pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workload", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(times(Workload(**options.workload), options.pairs)))


if __name__ == "__main__":
    main()
