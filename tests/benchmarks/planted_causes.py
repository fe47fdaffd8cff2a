"""How often a planted cause is named, and how often one is named where none was planted.

    python -m tests.benchmarks.planted_causes --cases 20

Prints one line per case, then the table: what was planted against what was named.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from interp.causes import CAUSES
from interp.causes.verdict import MIXED
from tests.planted_causes import PLANTS, Ground, explained
from unlearning.organism import shipped

NAMES = (*CAUSES, MIXED, None)


def main() -> None:
    """Run all cases on one organism."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20, help="of each kind")
    parser.add_argument("--draws", type=int, default=100, help="controls a case")
    parser.add_argument("--organism", type=Path, default=shipped())
    options = parser.parse_args()
    ground = Ground.load(options.organism)
    named: Counter[tuple[str, str | None]] = Counter()
    for kind in PLANTS:
        for seed in range(options.cases):
            plant = ground.draw(kind, seed)
            verdict, _ = explained(ground, plant, draws=options.draws)
            named[kind, verdict.cause] += 1
            shares = verdict.shares.shapley
            print(
                f"{kind} {seed}: {plant.domain}, layer {plant.layer}, size {plant.size:.2f} -> "
                f"layer {verdict.layer}, lost {verdict.gap:.2f}, "
                f"{verdict.cause or 'not decided (' + verdict.because + ')'}; "
                + ", ".join(
                    f"{p} {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" for p, s in shares.items()
                )
                + f"; controls {verdict.control_high:.2f}",
                flush=True,
            )
    print(table(named))


def table(named: Counter[tuple[str, str | None]]) -> str:
    """What was planted against what was named, as the page shows it."""
    lines = ["| ground truth | " + " | ".join(name or "not decided" for name in NAMES) + " |"]
    lines.append("|---" * (len(NAMES) + 1) + "|")
    for kind in PLANTS:
        lines.append(f"| {kind} | " + " | ".join(str(named[kind, name]) for name in NAMES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
