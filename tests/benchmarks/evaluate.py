"""Time of `spillover evaluate` on SmolLM2: against bare generation of the same answers.

    python -m tests.benchmarks.evaluate --pairs 3

Both sides load the model and generate greedily in batches of 64 rows of similar length. Ours also
checks the model, reads the answers with two scorers, learns and reads the refusal readout, and
measures coherence. Needs the wheel of :mod:`tests.smollm2`. Prints one JSON object: seconds of both
sides, and of ours by stage.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import tempfile
from collections import defaultdict
from contextlib import redirect_stderr
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.evaluate.engine import find_out
from analyses.evaluate.plan import EvaluationPlan, checked_evaluation
from analyses.runs import Progress
from tests.smollm2 import save_smollm2
from unlearning.data import matched_pairs

ROWS, BATCH, TOKENS = 8, 64, 48  # prompts of each domain and label
STAGE = re.compile(r"^(?:\S+: )?(.+?)(?:, \d+)?: ([\d.]+) s$", re.MULTILINE)


def bare(folder: Path, prompts: list[str]) -> float:
    """Seconds to load the model and to generate every answer."""
    start = perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    texts.sort(key=lambda text: len(tokenizer(text).input_ids))
    for first in range(0, len(texts), BATCH):
        rows = tokenizer(texts[first : first + BATCH], return_tensors="pt", padding=True)
        with torch.no_grad():
            model.generate(**rows, max_new_tokens=TOKENS, do_sample=False)
    return perf_counter() - start


def ours(folder: Path, prompts: Path, out: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the same evaluation from its inputs to its findings, and of its stages."""
    said = io.StringIO()
    start = perf_counter()
    plan = EvaluationPlan(str(folder), str(prompts), max_new_tokens=TOKENS, batch_size=BATCH)
    with redirect_stderr(said):
        find_out(checked_evaluation(plan), out, Progress(Console(file=said, width=200)))
    seconds = perf_counter() - start
    stages: dict[str, float] = defaultdict(float)
    for name, taken in STAGE.findall(said.getvalue()):
        stages[re.sub(r"(loading|coherence) .*", r"\1", name)] += float(taken)
    return seconds, stages


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = matched_pairs().groupby(["domain", "label"]).head(ROWS)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = save_smollm2(Path(scratch) / "model")
        prompts = Path(scratch) / "prompts.jsonl"
        table.to_json(prompts, orient="records", lines=True)
        for pair in range(options.pairs):
            found["bare"].append(bare(model, list(table["prompt"])))
            seconds, stages = ours(model, prompts, Path(scratch) / f"run{pair}")
            found["ours"].append(seconds)
    print(json.dumps({**found, "stages": stages, "prompts": len(table)}))


if __name__ == "__main__":
    main()
