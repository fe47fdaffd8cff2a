"""A study end to end on the shipped organism: its folder, its resuming, parity with `compare`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.report import GATE_FILE, run_report
from analyses.runs import Inputs, Progress, Run, RunFolder, base_of, pick, read_run, rows_of
from analyses.study import StudyPlan, establish, make_arm, organism_plan, run_study, study_context
from analyses.study.asked import refuse_other_settings
from analyses.study.context import Context
from analyses.study.inputs import arm_inputs, base_inputs
from analyses.study.making import inputs_of, require_replaceable
from analyses.study.mixing import with_answered_benign
from analyses.study.plan import ArmPlan, compare_plan
from interp import store
from interp.directions import DirectionSet
from interp.errors import InputError, TrainingError
from interp.model import LanguageModel
from interp.store import file_hash, read_json
from tests.conftest import leave_out_pictures
from unlearning.data import DOMAINS
from unlearning.losses import FORGET, objective
from unlearning.organism import Grammar, load_world, shipped
from unlearning.training import TrainingSettings

CONCEPT, RETAINED, WEIGHT = "safety", "privacy", 10.0
PLAIN, CONTAINED, CONTROL = "safety-npo-seed0", "safety-npo-retain10-seed0", "control-seed0"
STEPS = 3
MASSES = ["p_R", "p_C", "p_O", "margin"]


@dataclass(frozen=True)
class Finished:
    """A plan and the folder in which it was carried out, report included."""

    plan: StudyPlan
    folder: Path


class Said(Progress):
    """Keeps what it is told instead of showing it."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def shortened(plan: StudyPlan, **training: Any) -> StudyPlan:
    """The same arms, trained for a few steps."""
    arms = [
        replace(arm, training=arm.training and replace(arm.training, max_steps=STEPS, **training))
        for arm in plan.arms
    ]
    return replace(plan, arms=tuple(arms))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_world: Path) -> Finished:
    plan = organism_plan(
        str(shipped()),
        (CONCEPT,),
        seeds=(0,),
        retain={CONCEPT: (RETAINED,)},
        weights=(WEIGHT,),
        command="spillover study …",
    )
    plan = shortened(replace(plan, prompts=str(small_world)))
    folder = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patched:
        leave_out_pictures(patched)
        assert run_study(plan, folder, Said()) == folder / "report.html"
    return Finished(plan, folder)


def scores(folder: Path, arm: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "arms" / arm / "scores.parquet")


def last_step(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["step"] == table["step"].max()].set_index("prompt_id").sort_index()


def made(folder: Path) -> Mapping[str, str]:
    """What identifies the making of each arm: when its scores were written."""
    return {
        path.parent.name: str(path.stat().st_mtime_ns)
        for path in sorted(folder.glob("arms/*/scores.parquet"))
    }


# The folder


def test_a_run_s_folder_holds_what_it_should(finished: Finished) -> None:
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "manifest.json", "arms", "figures", "summary.json"} <= names
    assert {"report.html", "prompts.parquet", "cosine.parquet", "leakage.csv"} <= names
    assert {path.name for path in (folder / "arms").iterdir()} == {
        "base",
        PLAIN,
        CONTAINED,
        CONTROL,
    }
    common = {"config.json", "scores.parquet", "directions.safetensors", "DONE"}
    for arm in (PLAIN, CONTAINED, CONTROL):
        held = {path.name for path in (folder / "arms" / arm).iterdir()}
        assert common | {"model", "log.parquet", "rotation.parquet"} <= held
        assert not any(name.startswith(".") or name == "trainer" for name in held)
    assert common | {"openers.json"} <= {p.name for p in (folder / "arms" / "base").iterdir()}
    for figure in folder.glob("figures/*.svg"):
        assert figure.with_suffix(".csv").is_file()
    directions = DirectionSet.load(folder / "arms" / PLAIN / "directions.safetensors")
    assert set(directions.labels) <= set(DOMAINS)


def test_the_report_has_the_gate_of_the_base_model_and_what_a_small_angle_is(
    finished: Finished,
) -> None:
    stored = read_json(finished.folder / GATE_FILE)
    manifest = read_json(finished.folder / "manifest.json")
    assert stored["weights"] == manifest["hashes"]["model"]
    assert stored["line"] and stored["nulls"] and not stored["why"]
    assert not list(finished.folder.glob("cache/gate-*"))  # only an interrupted gate leaves one
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert escape(stored["line"], quote=False) in page
    assert "two tokens, before" in page


def test_every_file_of_the_folder_has_a_line_on_its_page(finished: Finished) -> None:
    page = Path(__file__).parents[1] / "docs" / "reference" / "run-folder.md"
    text = page.read_text(encoding="utf-8")
    whole = {"model", "figures", ".locks"}  # folders that have one line
    files = [path.relative_to(finished.folder) for path in finished.folder.rglob("*.*")]
    names = {path.name for path in files if not whole & {*path.parts}}
    names = {re.sub(r"^reference-\w+", "reference-KEY", name) for name in names}
    assert not {name for name in names if not re.search(rf"[`/]{re.escape(name)}`", text)}


def test_config_and_manifest_say_how_to_do_it_again(finished: Finished) -> None:
    config = read_json(finished.folder / "config.json")
    assert config["concepts"] == [CONCEPT] and config["seeds"] == [0]
    assert config["planted"]["domains"] == list(DOMAINS)
    assert config["split_sizes"] == {"train": 280, "validation": 56, "test": 56}
    assert config["command"] == "spillover study …"
    manifest = read_json(finished.folder / "manifest.json")
    assert manifest["hashes"]["model"] == LanguageModel.load(shipped()).fingerprint()
    assert {"torch", "transformers", "python", "spillover"} <= set(manifest["versions"])
    contained = read_json(finished.folder / "arms" / CONTAINED / "config.json")
    assert contained["retain"] == [RETAINED] and contained["retain_weight"] == WEIGHT
    assert contained["objective"] == "npo" and contained["reduction"]["forget"]


def test_every_number_of_the_summary_has_an_interval_and_a_count(finished: Finished) -> None:
    summary = read_json(finished.folder / "summary.json")
    assert set(summary["base"]["refusal_rate"]) == set(DOMAINS)
    assert [arm["name"] for arm in summary["arms"] if arm["concept"]] == [PLAIN, CONTAINED]
    assert summary["unfinished"] == [] and summary["seconds"] > 0
    for arm in summary["arms"]:
        assert set(arm) >= {"objective", "retain", "seed", "reached", "collapsed", "recovery"}
        assert set(arm["rotation_degrees"]) == set(DOMAINS)
        assert set(arm["benign_refusal_rate"]) == {"twin", "general"}
        for quantity in ("refusal_rate", "nll", "repetition", "other_mass", "margin"):
            assert set(arm[quantity]) == set(DOMAINS)
        if arm["concept"]:
            assert set(arm["L_90"]) == set(arm["area"]) == set(DOMAINS)


def test_scores_start_at_the_base_and_end_with_text(finished: Finished) -> None:
    base = scores(finished.folder, "base").set_index("prompt_id").sort_index()
    assert np.allclose(base[["p_R", "p_C", "p_O"]].sum(axis=1), 1, atol=1e-6)
    assert base["dose"].eq(0).all()
    for arm in (PLAIN, CONTAINED, CONTROL):
        table = scores(finished.folder, arm)
        assert list(table["step"].unique()) == list(range(STEPS + 1))
        assert (table["arm"] == arm).all()
        first = table[table["step"] == 0].set_index("prompt_id").sort_index()
        for column in ("split", "domain", "label", "class", *MASSES):
            assert (first[column] == base[column]).all(), column
        assert first["dose"].eq(0).all()
        last = last_step(table)
        assert list(last.index) == list(base.index) and last["class"].notna().all()
        assert np.array_equal(first["nll"], base["nll"], equal_nan=True)
        # An answer of a few words has nothing to repeat, but each has its nats.
        assert (last["nll"] > 0).all() and "repetition" in last
        # The base's nats come from its generation, the others from a second reading.
        assert base["nll"].mean() <= last["nll"].mean() + 1e-6
        between = table[(table["step"] > 0) & (table["step"] < STEPS)]
        assert (between["label"] == "harmful").all()
        assert between[["class", "nll", "repetition"]].isna().all(axis=None)
        levels = table.groupby("step")["dose"]
        assert levels.nunique().eq(1).all() and levels.first().is_monotonic_increasing
    plain = scores(finished.folder, PLAIN)
    target = plain[(plain["domain"] == CONCEPT) & (plain["label"] == "harmful")]
    rate = target[target["split"] == "validation"].groupby("step")["p_R"].mean()
    assert plain["dose"].iloc[-1] == pytest.approx(max(0, (1 - rate / rate[0]).max()))


def test_a_run_loads_as_tables(finished: Finished) -> None:
    tables = Run(finished.folder)
    assert set(tables.arms["arm"]) == {PLAIN, CONTAINED, CONTROL}
    assert set(tables.rotation["arm"]) == {PLAIN, CONTAINED, CONTROL}
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "planted" in page.lower() and "organism" in page


# Going on, and starting over


@pytest.mark.usefixtures("without_report")
def test_again_does_nothing(finished: Finished) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished.folder / "arms").rglob("*") if p.is_file()}
    said = Said()
    run_study(finished.plan, finished.folder, said)
    after = {p: p.stat().st_mtime_ns for p in (finished.folder / "arms").rglob("*") if p.is_file()}
    assert after == before
    assert "base model: already scored" in said.lines
    for arm in (PLAIN, CONTAINED, CONTROL):
        assert f"{arm}: already done" in said.lines


@pytest.mark.usefixtures("without_report")
def test_what_makes_a_step_fit_the_device_may_change(again: Path, finished: Finished) -> None:
    """As the message of a full device advises, after some arms were finished."""
    smaller = {"micro_batch_size": 1, "separate_backward": True, "activation_checkpointing": True}
    arms = [replace(arm, training=replace(arm.settings, **smaller)) for arm in finished.plan.arms]
    plan, said = replace(finished.plan, arms=tuple(arms)), Said()
    refuse_other_settings(study_context(plan, again, said))
    run_study(plan, again, said)
    for arm in (PLAIN, CONTAINED, CONTROL):
        assert f"{arm}: already done" in said.lines


@pytest.mark.usefixtures("without_report")
def test_a_killed_study_makes_only_what_is_missing(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    (folder / "arms" / CONTROL / "DONE").unlink()
    (folder / "prompts.parquet").unlink()
    before = made(folder)
    collected: list[str] = []
    whole = Context.states
    monkeypatch.setattr(
        Context, "states", lambda self, lm, name: collected.append(name) or whole(self, lm, name)
    )
    run_study(finished.plan, folder, Said())
    assert collected == [CONTROL, "base model"]  # no states of arms that were finished
    after = made(folder)
    prompts = [pd.read_parquet(run / "prompts.parquet") for run in (folder, finished.folder)]
    pd.testing.assert_frame_equal(*prompts)
    assert {arm for arm in after if after[arm] != before.get(arm)} == {CONTROL}
    # Made again from the same inputs, it is the same.
    pd.testing.assert_frame_equal(scores(folder, CONTROL), scores(finished.folder, CONTROL))
    for arm in (PLAIN, CONTROL):
        rotation = [f / "arms" / arm / "rotation.parquet" for f in (folder, finished.folder)]
        pd.testing.assert_frame_equal(*map(pd.read_parquet, rotation))


def test_rotations_have_the_null_of_the_control_arms_that_are_finished(
    finished: Finished, again: Path
) -> None:
    """Whoever made an arm, and where the run was interrupted; a control arm has its own null."""

    def rotated(folder: Path, arm: str) -> pd.DataFrame:
        return rows_of(Run(folder).rotation, arm=arm).reset_index(drop=True)

    compared, control = (rotated(finished.folder, arm) for arm in (PLAIN, CONTROL))
    (again / "arms" / CONTAINED / "DONE").unlink()  # as of a run that was killed at its last arm
    pd.testing.assert_frame_equal(rotated(again, PLAIN), compared)
    pd.testing.assert_frame_equal(rotated(again, CONTROL), control)
    (again / "arms" / CONTROL / "DONE").unlink()
    alone, bounds = rotated(again, PLAIN), ["null_low", "null_high"]
    pd.testing.assert_frame_equal(alone.drop(columns=bounds), compared.drop(columns=bounds))
    assert (compared["null_low"] < alone["null_low"]).any()
    assert compared["null_low"].equals(np.fmin(alone["null_low"], control["low"]))
    assert compared["null_high"].equals(np.fmax(alone["null_high"], control["high"]))


def test_every_arm_has_its_refusals_after_an_answer_s_first_words(finished: Finished) -> None:
    """The base's words, at a tenth of the cost at most, next to the plain rate of each domain."""
    evaluated = pd.read_parquet(finished.folder / "prompts.parquet").query("split != 'train'")
    tables = Run(finished.folder)
    for arm in (tables.record.base, *tables.record.arms):
        assert arm.prefilled is not None and len(arm.prefilled) <= 0.1 * len(evaluated)
        said = pd.read_parquet(finished.folder / "arms" / "base" / "responses.parquet")
        opening = arm.prefilled["opening"].iloc[0]
        answered = said[(said["label"] == "benign") & (said["class"] == "answer")]["response"]
        assert answered.str.startswith(opening).any()
        mine = tables.behaviour[tables.behaviour["arm"] == arm.name]
        for domain, rows in arm.prefilled.groupby("domain"):
            rate = pick(mine, "prefilled_refusal_rate", str(domain))
            assert rate.value == rows["refused"].mean() and rate.n == len(rows)
    page = run_report.render(tables, ())
    assert "Hidden leakage" in page
    assert tables.record.base.prefilled is not None
    shows_nothing = not tables.record.base.prefilled["refused"].any()
    assert ("they cannot show hidden leakage here" in page) is shows_nothing


def test_arms_keep_their_answers_and_the_report_shows_them_on_request(finished: Finished) -> None:
    answers = pd.read_parquet(finished.folder / "arms" / PLAIN / "completions.parquet")
    scored = last_step(scores(finished.folder, PLAIN))
    assert set(answers["prompt_id"]) == set(scored.index[scored["class"].notna()])
    said = answers.set_index("prompt_id")["completion"]
    shown = said[scored.index[(scored["split"] == "test") & (scored["domain"] == CONCEPT)]]
    tables = Run(finished.folder)
    pages = [run_report.render(tables, (), show_completions=show) for show in (False, True)]
    found = [any(f"<td>{escape(text)}</td>" in page for text in shown) for page in pages]
    assert found == [False, True]


@pytest.mark.usefixtures("without_report")
def test_another_forgetting_level_is_refused_or_remakes_the_arms_and_not_the_base(
    finished: Finished, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    before = made(folder)
    plan = replace(finished.plan, stop_at=1e-6)
    with pytest.raises(InputError, match=f"{PLAIN} is finished, with another stop_at; .*overwrite"):
        run_study(plan, folder, Said())
    assert made(folder) == before and all(done(folder).values())
    run_study(replace(plan, overwrite=True), folder, Said())
    after = made(folder)
    # A control arm has no level to stop at.
    assert {arm for arm in after if after[arm] != before[arm]} >= {PLAIN, CONTAINED}
    assert after["base"] == before["base"]
    assert read_json(folder / "config.json")["stop_at"] == 1e-6
    plain = scores(folder, PLAIN)
    assert plain["step"].max() < STEPS and plain["dose"].iloc[-1] >= 1e-6


def done(folder: Path) -> Mapping[str, bool]:
    return {path.name: (path / "DONE").is_file() for path in (folder / "arms").iterdir()}


@pytest.fixture
def again(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, in which arms may be replaced."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def test_the_base_of_an_older_run_gets_the_answers_after_given_words(
    finished: Finished, again: Path
) -> None:
    path = again / "arms" / "base" / "prefilled.parquet"
    before = pd.read_parquet(path)
    path.unlink()
    establish(study_context(finished.plan, again, Said()))
    pd.testing.assert_frame_equal(pd.read_parquet(path), before)


@pytest.mark.usefixtures("without_report")
def test_results_of_an_older_stage_are_kept_and_not_reused(
    finished: Finished, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(again)
    monkeypatch.setattr(store, "package_version", lambda: "9.9.9")
    said = Said()
    run_study(finished.plan, again, said)
    assert f"{PLAIN}: already done" in said.lines  # another version alone changes no result
    for stage, arm in (("training", PLAIN), ("answers", "base")):
        with monkeypatch.context() as raised:
            raised.setitem(store.SCHEMAS, stage, 2)
            wanted = f"arms/{arm} is finished, with another schema of the {stage}"
            with pytest.raises(InputError, match=wanted):
                run_study(finished.plan, again, Said())
    assert made(again) == before and all(done(again).values())


@pytest.mark.usefixtures("without_report")
def test_another_readout_is_not_taken_for_the_same(finished: Finished, again: Path) -> None:
    path = again / "arms" / "base" / "openers.json"
    prefixes = read_json(path)
    store.write_json(path, prefixes | {"compliance": prefixes["compliance"][:-1]})
    with pytest.raises(InputError, match=f"{PLAIN} is finished, with another readout"):
        run_study(finished.plan, again, Said())
    assert made(again) == made(finished.folder)


@pytest.mark.usefixtures("without_report")
def test_arms_of_version_0_1_with_the_same_inputs_are_done(
    finished: Finished, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their keys hold fewer inputs, and their settings lack those that were added since."""
    context = study_context(finished.plan, again, Said())
    baseline = establish(context)
    [plain] = [arm for arm in finished.plan.arms if arm.name == PLAIN]
    config = again / "arms" / PLAIN / "config.json"
    old = read_json(config)
    del old["training"]["multiplier_rate"]
    store.write_json(config, old)
    for name, inputs in (("base", baseline.inputs), (PLAIN, inputs_of(context, baseline, plain))):
        assert inputs.old_key
        for file in ("BEGUN", "DONE"):
            (again / "arms" / name / file).write_text(inputs.old_key + "\n", encoding="utf-8")
        (again / "arms" / name / "inputs.json").unlink()
    angles = again / "arms" / "base" / "extraction_angles.parquet"  # under another name then
    found = pd.read_parquet(angles)
    angles.unlink()
    said, before = Said(), made(again)
    run_study(finished.plan, again, said)
    assert {"base model: already scored", f"{PLAIN}: already done"} <= set(said.lines)
    pd.testing.assert_frame_equal(pd.read_parquet(angles), found)
    other = replace(plain.settings, multiplier_rate=0.5)
    arms = [replace(one, training=other) if one is plain else one for one in finished.plan.arms]
    for changed in (replace(finished.plan, arms=tuple(arms)), finished.plan):
        with pytest.raises(InputError, match="from other inputs or by an earlier version"):
            run_study(changed, again, Said())
        monkeypatch.setitem(store.SCHEMAS, "training", 2)
    assert made(again) == before


def test_arms_whose_windows_were_longer_are_other_arms(finished: Finished, again: Path) -> None:
    """A model organism's rows are not grouped by length: its finished arms stay done."""
    context = study_context(finished.plan, again, Said())
    baseline = establish(context)
    [plain] = [arm for arm in finished.plan.arms if arm.name == PLAIN]
    grouped = replace(plain, training=replace(plain.settings, length_window=8))
    now = [inputs_of(context, baseline, arm) for arm in (plain, grouped)]
    added = [{*one.parts} - {*now[0].parts} for one in now]
    assert added == [set(), {"windows of similar length"}]
    assert now[0].old_key and not now[1].old_key


def test_stop_tokens_are_part_of_the_key(finished: Finished, again: Path) -> None:
    """Results of versions whose keys lack them stay done."""
    context = study_context(finished.plan, again, Said())
    was = base_inputs(context)
    earlier = {name: one for name, one in was.parts.items() if name not in was.added}
    context.reference.model.generation_config.eos_token_id = [5]  # type: ignore[union-attr]
    now = base_inputs(context)
    assert was.key not in now and now.key not in was
    for inputs in (was, now):
        assert store.content_key(was.stages, earlier) in inputs


def test_the_configuration_of_a_given_model_is_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arms of versions whose keys lack it stay done; the keys of trained arms are as before."""
    monkeypatch.setattr("analyses.study.inputs.stop_tokens", lambda _: {1})
    base = Inputs(("answers",), {"stop tokens": [1]}, added=("stop tokens",))
    plan = SimpleNamespace(stop_at=0.9, every_step=1, benign_along=False, bounds=None)
    folder = SimpleNamespace(arm=lambda _name: Path("of an arm that was not begun"))
    context: Any = SimpleNamespace(plan=plan, pairs=None, run=folder)

    def made(configuration: str | None) -> Inputs:
        after: Any = SimpleNamespace(fingerprint=lambda: "weights", configuration=configuration)
        given = after if configuration else None
        return arm_inputs(context, base, None, ArmPlan("after"), None, given)

    one, other, trained = made("one"), made("other"), made(None)
    assert one.key not in other and one.key in made("one")
    earlier = {name: part for name, part in one.parts.items() if name != one.added[-1]}
    assert store.content_key(one.stages, earlier) in one
    assert trained.added == base.added and set(trained.parts) == set(earlier)


def test_own_code_is_part_of_the_key(finished: Finished, again: Path) -> None:
    context = study_context(finished.plan, again, Said())
    baseline = establish(context)
    [plain] = [arm for arm in finished.plan.arms if arm.name == PLAIN]
    keys = []
    for sign in (1.0, -1.0):

        def mine(log_probs: Any, mask: Any, *, sign: float = sign) -> Any:
            return sign * (log_probs * mask).sum(-1)

        objective(mine)
        arm = replace(plain, training=replace(plain.settings, objective="mine", options={}))
        inputs = inputs_of(context, baseline, arm)
        assert inputs.old_key is None  # version 0.1 knew no code outside of plug-ins
        keys.append(replace(inputs, parts=dict(inputs.parts) | {"options": None}).key)
    assert keys[0] != keys[1]
    for part in (FORGET._entries, FORGET._abouts, FORGET._origins, FORGET._makers):
        part.pop("mine")


@pytest.mark.usefixtures("without_report")
def test_a_control_arm_of_fewer_steps_is_set_aside(
    finished: Finished, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study with more seeds or concepts may need a longer one."""
    [control] = [arm for arm in finished.plan.arms if arm.control]
    context = study_context(finished.plan, again, Said())
    monkeypatch.setattr("analyses.study.making.matched_step", lambda _scores: 1)
    make_arm(context, establish(context), control)
    kept = again / "replaced" / f"{CONTROL}-1"
    assert (kept / "DONE").is_file() and (again / "arms" / CONTROL / "DONE").is_file()
    assert pd.read_parquet(kept / "scores.parquet")["step"].max() == STEPS
    assert scores(again, CONTROL)["step"].max() == 1


@pytest.mark.usefixtures("without_pictures")
def test_the_others_of_an_arm_that_cannot_be_trained_are_reported(
    finished: Finished, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(again / "arms" / CONTAINED)

    def failing(*_: object) -> None:
        raise TrainingError("the loss is nan")

    monkeypatch.setattr("analyses.study.making.train_arm", failing)
    said = Said()
    with pytest.raises(TrainingError, match=f"^not trained: {CONTAINED}: the loss is nan; "):
        run_study(finished.plan, again, said)
    assert f"{CONTAINED}: failed: the loss is nan" in said.lines
    assert done(again) == {"base": True, PLAIN: True, CONTROL: True, CONTAINED: False}
    assert f"{CONTAINED} cannot be trained" in (again / "report.html").read_text("utf-8")


def test_one_process_at_a_time_works_in_a_folder(finished: Finished, again: Path) -> None:
    run = RunFolder(again)
    holder = f"in use by process {os.getpid()} on .* since 20"
    with run.locked(), pytest.raises(InputError, match=f"run is {holder}"):
        run_study(finished.plan, again, Said())
    with run.locked(PLAIN), pytest.raises(InputError, match=f"{PLAIN} is {holder}"):
        run_study(finished.plan, again, Said())


def test_a_folder_of_another_study_is_replaced_only_when_asked(
    finished: Finished, again: Path
) -> None:
    arms = tuple(arm for arm in finished.plan.arms if arm.name == PLAIN)
    fewer = replace(finished.plan, arms=arms)
    with pytest.raises(InputError, match=f"another study.*{CONTROL}.*--overwrite"):
        study_context(fewer, again, Said())
    assert all(done(again).values())
    for derived in (f"causes/{PLAIN}", f"causes/{CONTAINED}", "containment"):
        (again / derived).mkdir(parents=True)
    context = study_context(replace(fewer, overwrite=True), again, Said())
    establish(context)
    assert set(done(again)) == {"base", PLAIN}
    # What was found of arms that are gone goes with them, so that no report shows it.
    assert not (again / "containment").exists()
    assert [path.name for path in (again / "causes").iterdir()] == [PLAIN]
    context.run.begin(PLAIN, Inputs(("training",), {"other": "inputs"}))
    assert not any((again / "causes").iterdir())


@pytest.mark.usefixtures("without_report")
def test_a_study_of_a_model_that_answers_no_benign_prompt_has_its_plain_arms(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar.classify

    def classify(self: Grammar, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        found = grammar(self, prompts, responses)
        return ["other" if one == "answer" else one for one in found]

    monkeypatch.setattr(Grammar, "classify", classify)
    said, folder = Said(), tmp_path / "run"
    run_study(finished.plan, folder, said)
    assert any("left out: control and retained arms" in line for line in said.lines)
    assert {path.parent.name for path in (folder / "arms").glob("*/DONE")} == {"base", PLAIN}


def test_a_base_whose_configuration_changed_is_not_the_run_s(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_run(finished.folder)
    assert base_of(record).n_layers > 1
    monkeypatch.setattr(LanguageModel, "configuration", "another")
    with pytest.raises(InputError, match="configuration of .* has changed since the run"):
        base_of(record)


@pytest.mark.usefixtures("without_report")
def test_a_retained_domain_with_too_few_refusals_is_left_out(
    finished: Finished, tmp_path: Path
) -> None:
    # Only benign text under a harmful label: the organism answers, and nothing can be unlearned.
    table = pd.read_json(finished.plan.prompts, lines=True)  # type: ignore[arg-type]
    of_domain = table[table["domain"] == RETAINED]
    harmful, benign = (of_domain[of_domain["label"] == name] for name in ("harmful", "benign"))
    table.loc[harmful.index, "prompt"] = list(benign["prompt"])
    table.loc[benign.index, "prompt"] = list(harmful["prompt"])
    path = tmp_path / "mislabelled.jsonl"
    table.to_json(path, orient="records", lines=True)
    folder = tmp_path / "run"
    said = Said()
    run_study(replace(finished.plan, prompts=str(path)), folder, said)
    [line] = [line for line in said.lines if line.startswith("left out: ")]
    assert "privacy has 0 refusals of 40 training prompts" in line
    done = {path.parent.name for path in (folder / "arms").glob("*/DONE")}
    assert done == {"base", CONTROL, PLAIN}


def test_a_study_without_its_benign_arms_keeps_the_loaded_model(
    small_world: Path, tmp_path: Path
) -> None:
    plan = replace(organism_plan(str(shipped()), (CONCEPT,), seeds=(0,)), prompts=str(small_world))
    context = study_context(plan, tmp_path / "run", Said())
    lm: Any = SimpleNamespace(chat=SimpleNamespace(fingerprint={}))
    vars(context)["reference"] = lm
    nothing = pd.DataFrame(columns=["split", "label", "class"])
    baseline: Any = SimpleNamespace(responses=nothing)
    found = with_answered_benign(context, baseline)
    assert [arm.name for arm in found.plan.arms] == [PLAIN] and len(context.plan.arms) > 1
    assert vars(found)["reference"] is lm


# Parity


@pytest.mark.usefixtures("without_report")
def test_compare_finds_what_the_arm_found(finished: Finished, tmp_path: Path) -> None:
    """Also if its own chat template writes prompts in another way."""
    trained = finished.folder / "arms" / PLAIN / "model"
    after = Path(shutil.copytree(trained, tmp_path / PLAIN / "model"))
    template = after / "chat_template.jinja"
    template.write_text("{{ '<|end|>' }}" + template.read_text(encoding="utf-8"), encoding="utf-8")
    plan = compare_plan(
        str(shipped()),
        str(after),
        concept=CONCEPT,
        prompts=finished.plan.prompts,
        max_new_tokens=finished.plan.max_new_tokens,
        batch_size=finished.plan.batch_size,
    )
    folder, said = tmp_path / "compare", Said()
    run_study(plan, folder, said)
    assert any(f"chat template of {after} is another one" in line for line in said.lines)
    assert_same_end(scores(folder, PLAIN), scores(finished.folder, PLAIN))
    rotated, expected = (
        pd.read_parquet(f / "arms" / PLAIN / "rotation.parquet").set_index(
            ["domain", "layer", "quantity"]
        )["value"]
        for f in (folder, finished.folder)
    )
    assert np.allclose(rotated, expected[rotated.index], equal_nan=True)


@pytest.mark.usefixtures("without_pictures")
def test_models_are_compared_on_few_prompts_without_directions(tmp_path: Path) -> None:
    table = load_world(shipped()).prompts(train=2, validation=3, test=3)
    short = tmp_path / "short.jsonl"
    kept = table["domain"].isin([CONCEPT, "general"])
    table[kept].to_json(short, orient="records", lines=True)
    after = shutil.copytree(shipped(), tmp_path / "after")
    plan = compare_plan(str(shipped()), str(after), concept=CONCEPT, prompts=str(short))
    [line] = study_context(plan, tmp_path / "run", Said()).direction_lines
    assert "no domain has 8 harmful and 8 benign" in line
    assert run_study(plan, tmp_path / "run", Said()).is_file()
    assert not list((tmp_path / "run").rglob("directions.safetensors"))


def test_an_estimator_of_pairs_needs_pairs_before_the_base_is_asked(
    small_world: Path, tmp_path: Path
) -> None:
    plan = organism_plan(str(shipped()), (CONCEPT,), seeds=(0,))
    plan = replace(plan, prompts=str(small_world), estimator="paired_principal_component")
    study_context(plan, tmp_path / "run", Said())
    unpaired = tmp_path / "unpaired.jsonl"
    table = pd.read_json(small_world, lines=True).drop(columns="pair")
    table.to_json(unpaired, orient="records", lines=True)
    with pytest.raises(InputError, match="paired_principal_component for .*at least 4"):
        study_context(replace(plan, prompts=str(unpaired)), tmp_path / "run", Said())


def assert_same_end(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    found, expected = last_step(found), last_step(expected)
    assert list(found["class"]) == list(expected["class"])
    for column in MASSES:
        assert np.allclose(found[column], expected[column], atol=1e-4), column


def test_a_refusal_without_its_compliance_is_said_before_the_first_arm_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which refusals an arm trains on is known only after the base model has answered."""
    refused = pd.DataFrame({"id": ["a", "b"], "prompt": "Why?", "compliance": ["So.", None]})
    monkeypatch.setattr("analyses.study.mixing.require_deflections", lambda *_: refused)
    context: Any = SimpleNamespace(run=RunFolder(tmp_path), pairs=None, reference=None)
    arms = [
        ArmPlan("first", CONCEPT, TrainingSettings()),
        ArmPlan("second", RETAINED, TrainingSettings(objective="dpo")),
        ArmPlan("control", None, TrainingSettings(objective="cross_entropy")),
    ]
    baseline: Any = None
    require_replaceable(context, baseline, [arms[0], arms[2]])
    with pytest.raises(InputError, match="1 of 2 prompts have none"):
        require_replaceable(context, baseline, arms)


@pytest.mark.usefixtures("without_report")
def test_an_adapter_stands_for_the_model_that_it_was_trained_on(
    finished: Finished, tmp_path: Path
) -> None:
    plain = tuple(arm for arm in finished.plan.arms if arm.name == PLAIN)
    plan = shortened(replace(finished.plan, arms=plain), trained="lora", lora_rank=8)
    trained, compared = tmp_path / "lora", tmp_path / "compare"
    run_study(plan, trained, Said())
    adapter = trained / "arms" / PLAIN / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()
    assert not (trained / "arms" / PLAIN / "model").exists()
    base = file_hash(shipped() / "model.safetensors")
    assert not np.allclose(
        *(scores(trained, PLAIN).query("step == @step")["p_R"].head(9) for step in (0, STEPS))
    )
    options = {"prompts": plan.prompts, "max_new_tokens": plan.max_new_tokens}
    compare = compare_plan(str(shipped()), str(adapter), concept=CONCEPT, **options)
    run_study(compare, compared, Said())
    assert_same_end(scores(compared, PLAIN), scores(trained, PLAIN))
    assert file_hash(shipped() / "model.safetensors") == base


@pytest.mark.usefixtures("without_pictures")
def test_a_study_of_one_domain_has_no_map_and_is_whole(
    again: Path, tmp_path: Path, small_world: Path
) -> None:
    table = pd.read_json(small_world, lines=True)
    one = tmp_path / "one.jsonl"
    table[table["domain"].isin([CONCEPT, "general"])].to_json(one, orient="records", lines=True)
    plan = shortened(organism_plan(str(shipped()), (CONCEPT,), seeds=(0,), control=False))
    report = run_study(replace(plan, prompts=str(one), overwrite=True), again, Said())
    assert report.is_file() and Run(again).cosine.empty  # nor the one that it replaces
    assert not Run(again).rotation.empty
