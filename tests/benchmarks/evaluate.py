"""Cost of `spillover evaluate` on SmolLM2: against its parts, generation and the panel's pass.

    python -m tests.benchmarks.evaluate --pairs 3

Both sides load the model, generate greedily in batches of 64 rows of similar length, and read the
answers with the panel, whose reader each side loads. Ours also checks the model, reads with another
scorer, learns and reads the refusal readout, and measures coherence. Needs the wheel of
:mod:`tests.smollm2`. Prints one JSON object: CPU seconds of both sides and of their parts, and
seconds of ours by stage. CPU seconds of one thread are what an idle machine takes; a busy one
changes them less.
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
from time import process_time

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.evaluate.engine import find_out
from analyses.evaluate.plan import EvaluationPlan, checked_evaluation
from analyses.runs import Progress
from tests.smollm2 import save_smollm2
from unlearning.data import matched_pairs
from unlearning.scoring import Classifier, find_scorer
from unlearning.scoring.reader import reader_of

ROWS, BATCH, TOKENS = 8, 64, 48  # prompts of each domain and label
STAGE = re.compile(r"^(?:\S+: )?(.+?)(?:, \d+)?: ([\d.]+) s$", re.MULTILINE)


def parts(folder: Path, prompts: list[str]) -> tuple[float, float]:
    """CPU seconds to load the model and generate the answers, and of the panel reading them."""
    start = process_time()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompts = sorted(prompts, key=lambda prompt: len(tokenizer(prompt).input_ids))
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    answers: list[str] = []
    for first in range(0, len(texts), BATCH):
        rows = tokenizer(texts[first : first + BATCH], return_tensors="pt", padding=True)
        with torch.no_grad():
            found = model.generate(**rows, max_new_tokens=TOKENS, do_sample=False)
        written = found[:, rows.input_ids.shape[1] :]
        answers += tokenizer.batch_decode(written, skip_special_tokens=True)
    generated = process_time()
    reader_of.cache_clear()  # it keeps the states of what it has read
    find_scorer("panel").classify(prompts, answers)
    return generated - start, process_time() - generated


def ours(folder: Path, prompts: Path, out: Path) -> tuple[float, dict[str, float]]:
    """CPU seconds of the same evaluation from its inputs to its findings; seconds of its stages."""
    said = io.StringIO()
    reader_of.cache_clear()
    start = process_time()
    plan = EvaluationPlan(str(folder), str(prompts), max_new_tokens=TOKENS, batch_size=BATCH)
    with redirect_stderr(said):
        find_out(checked_evaluation(plan), out, Progress(Console(file=said, width=200)))
    seconds = process_time() - start
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
    found: dict[str, list[float]] = {"ours": [], "generate": [], "panel": []}
    Classifier().classify([""], [""])  # it learns once in a process
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = save_smollm2(Path(scratch) / "model")
        prompts = Path(scratch) / "prompts.jsonl"
        table.to_json(prompts, orient="records", lines=True)
        for pair in range(options.pairs):
            generated, read = parts(model, list(table["prompt"]))
            found["generate"].append(generated)
            found["panel"].append(read)
            seconds, stages = ours(model, prompts, Path(scratch) / f"run{pair}")
            found["ours"].append(seconds)
    print(json.dumps({**found, "stages": stages, "prompts": len(table)}))


if __name__ == "__main__":
    main()
