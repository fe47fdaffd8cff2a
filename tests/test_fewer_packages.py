"""The core runs without its backends and without what a machine with a GPU often lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Backends, sources of prompts, UMAP and the extras; torch, transformers, peft and accelerate stay.
LACKING = (
    "transformer_lens", "nnsight", "datasets", "pydantic", "umap", "openai", "lm_eval", "ray",
    "bitsandbytes", "gguf",
)  # fmt: skip
CORE = """
import spillover as sp
lm, prompts = sp.load("organism"), sp.prompts("organism")
some = prompts[prompts["domain"].isin(["safety", "privacy"])].groupby(["domain", "label"]).head(12)
acts = sp.collect(lm, some, layers=[1])
directions = sp.fit_directions(acts, some, sp.MeanDifference())
with sp.ablate(lm, directions["safety", 1]):
    answers = sp.generate(lm, list(some["prompt"][:2]))
sp.score(list(some["prompt"][:2]), answers, scorer="grammar")
from tests.benchmarks.gpu.__main__ import PARTS
for name in ("gpu_step.mistral-7b", "padding", "collect", "forecast"):
    PARTS[name].run(True, 1.0)
"""


@pytest.mark.slow
def test_the_core_and_the_benchmark_of_gpus_run_without_them() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({LACKING!r}))\n{CORE}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_no_code_needs_what_newer_pythons_lack() -> None:
    """Every file compiles without a warning, such as of an escape that will be an error."""
    code = (
        "import pathlib, warnings; warnings.simplefilter('error')\n"
        f"for wing in {('interp', 'unlearning', 'analyses', 'spillover', 'experiments')!r}:\n"
        "    for file in pathlib.Path(wing).rglob('*.py'):\n"
        "        compile(file.read_text(encoding='utf-8'), str(file), 'exec')"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT)
