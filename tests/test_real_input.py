"""Public prompts on small Mistral and Qwen2 checkpoints that were taught to refuse: no crash.

What is asserted is that the instrument reads such a model and says what it found. The checkpoints
are far too small for their leakage to mean anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.runs import Progress
from analyses.study import StudyPlan, run_study
from analyses.study.plan import compare_plan, parse_retain, unlearning_arms
from interp.model import LanguageModel
from interp.store import read_json
from tests.conftest import Spillover, leave_out_report
from unlearning.data import present_domains, read_prompts
from unlearning.organism import table_lessons, teach
from unlearning.organism.training import Stage
from unlearning.training import TrainingSettings

pytestmark = pytest.mark.usefixtures("without_pictures")
DOMAINS = ("safety", "cybersecurity", "toxicity", "general")
LONGEST, MOST = 90, 90
STAGES = (Stage(60, 3e-3, compliance=1.0, batch_size=12), Stage(300, 2e-3, 0.1, batch_size=12))


def taught_on_public_prompts(
    public_data: Path, checkpoint: Path, family: str, folder: Path
) -> tuple[Path, Path, pd.DataFrame]:
    """A checkpoint that was taught to refuse, a file of prompts, and its rows."""
    rows = read_prompts(public_data / "prompts.jsonl")
    rows = rows[rows["domain"].isin(DOMAINS) & (rows["prompt"].str.len() <= LONGEST)]
    rows = rows.groupby(["domain", "label"]).head(MOST)
    prompts = folder / "prompts.jsonl"
    rows.to_json(prompts, orient="records", lines=True)
    model = taught(checkpoint, rows[rows["split"] == "train"], folder / family)
    return model, prompts, rows


@pytest.mark.slow
def test_a_study_and_a_comparison_of_its_adapter_on_a_small_qwen2(
    public_data: Path, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    family = "qwen2"
    model, prompts, rows = taught_on_public_prompts(
        public_data, checkpoint_of(family), family, tmp_path
    )
    training = TrainingSettings(lora_rank=8, lora_alpha=8, learning_rate=2e-3, max_steps=6)
    retained = parse_retain("alternate", "safety", present_domains(rows))
    assert retained == ("cybersecurity",)
    arms = unlearning_arms(
        ["safety"], training, seeds=(0,), retain={"safety": retained}, weights=(1.0,)
    )
    options = {"prompts": str(prompts), "scorer": "grammar", "max_new_tokens": 24}
    plan = StudyPlan(str(model), arms, ("safety",), **options)
    run = tmp_path / "run"
    page = run_study(plan, run, Progress(quiet=True)).read_text(encoding="utf-8")
    # How well refusing carries over to unseen prompts is the model's affair; p_R must tell it.
    assert read_json(run / "arms" / "base" / "config.json")["margin_auc"] > 0.9
    assert set(read_json(run / "summary.json")["base"]["refusal_rate"]) == set(DOMAINS[:3])
    assert family in page and "safety" in page.lower()
    # The answers of the report's table of prompts were not asked for.
    assert '"class":' in page and '"completion":' not in page

    adapter = run / "arms" / "safety-npo-seed0" / "adapter"
    compared = tmp_path / "compare"
    compare = compare_plan(str(model), str(adapter), concept="safety", **options)
    with pytest.MonkeyPatch.context() as patched:
        leave_out_report(patched)
        run_study(compare, compared, Progress(quiet=True))
    found, expected = (last_scores(folder) for folder in (compared, run))
    for column in ("p_R", "p_C", "p_O"):
        assert np.allclose(found[column], expected[column], atol=1e-3), column


@pytest.mark.slow
def test_the_papers_protocol_on_a_small_mistral(
    public_data: Path, checkpoint_of: Callable[[str], Path], spillover: Spillover, tmp_path: Path
) -> None:
    family = "mistral"
    model, prompts, _ = taught_on_public_prompts(
        public_data, checkpoint_of(family), family, tmp_path
    )
    asked = [model, "--prompts", prompts, "--concept", "cybersecurity", "--lora-rank", 8]
    asked += ["--epochs", 1, "--scorer", "grammar", "--max-new-tokens", 24, "--out", "paper"]
    asked += ["--paper-model", family]
    code, said, error = spillover("reproduce", "mushtaq2025", *asked, "--yes")
    assert code == 0, error
    result = read_json(tmp_path / "paper" / "reproduction.json")
    assert result["published_is_of_this_model"] and "cybersecurity" in said.lower()
    [npo] = [
        r for r in result["rows"] if (r["concept"], r["objective"]) == ("cybersecurity", "npo")
    ]
    cell = npo["columns"]["safety"]
    assert cell["measured"]["low"] <= cell["measured"]["value"] <= cell["measured"]["high"]
    assert cell["published"] > 0 and np.isfinite(cell["difference"]["value"])
    assert (tmp_path / "paper" / "reproduction.html").is_file()


def taught(checkpoint: Path, rows: pd.DataFrame, folder: Path) -> Path:
    """A copy of the checkpoint that refuses the harmful ones of ``rows``."""
    lm = LanguageModel.load(checkpoint)
    teach(lm.model, lm.chat, table_lessons(rows), seed=0, stages=STAGES)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def last_scores(folder: Path) -> pd.DataFrame:
    table = pd.read_parquet(folder / "arms" / "safety-npo-seed0" / "scores.parquet")
    return table[table["step"] == table["step"].max()].set_index("prompt_id").sort_index()
