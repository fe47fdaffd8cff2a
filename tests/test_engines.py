"""Arms in other processes and on a local Ray cluster, with workers that are lost or late.

(That arms made in other processes are what one process makes is tested with the matrix.)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analyses.options import ALONE, WorkerOptions
from analyses.runs import Progress, RunFolder, TargetOutcome
from analyses.study import ArmPlan, StudyPlan, arms_in_workers, require_workers
from analyses.study.engine import contained_arms, make_arms, recorded
from analyses.study.jobs import Lost, make_in_turn
from analyses.study.local_workers import LocalWorkers
from analyses.study.ray_workers import RayWorkers, _gpus, _require_shared_folder
from analyses.study.workers import ENGINES
from interp.errors import InputError, MachineError, SpilloverError, TrainingError
from interp.plugins import Plugin
from interp.store import read_json, write_json
from tests.lost_worker import make_late, make_or_be_lost
from unlearning.training import TrainingSettings

COMPLIED, DEGENERATE = TargetOutcome.COMPLIED, TargetOutcome.DEGENERATE
STILL_REFUSES, UNKNOWN = TargetOutcome.STILL_REFUSES, TargetOutcome.UNKNOWN
ARMS = ["finished", "interrupted", "later"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # other tests use the same processors
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield ray
        ray.shutdown()


def made(plan: Any, folder: Path, make_one: Any = None, **given: Any) -> list[str]:
    """The attempts at arms that were made in workers."""
    options: Any = {"workers": WorkerOptions(**given), "make_one": make_one}
    scored = folder / "arms" / "base" / "DONE"
    if folder.is_dir():
        scored.parent.mkdir(parents=True, exist_ok=True)
        scored.touch()
    with arms_in_workers(plan, folder, Progress(quiet=True), **options) as together:
        together(plan, [ArmPlan(name) for name in ARMS])
    return (folder / "attempts.txt").read_text(encoding="utf-8").split()


def assert_all_there(folder: Path) -> None:
    for arm in ARMS:
        assert (folder / "arms" / arm / "DONE").is_file()
        assert (folder / "arms" / arm / "scores.txt").read_text().startswith(f"{arm} by")


def impossible(_plan: Any, _out: Path, _name: str, _threads: int) -> str:
    raise InputError("these inputs cannot be used")


@pytest.mark.slow
def test_on_ray_a_lost_worker_s_arm_is_made_again_and_nothing_finished_is_lost(
    cluster: Any, tmp_path: Path
) -> None:
    plan: Any = "interrupted"  # all that the stand-in for make_one has to know
    attempts = made(plan, tmp_path, make_or_be_lost, engine="ray")
    assert attempts == ["finished", "interrupted", "interrupted", "later"]
    assert_all_there(tmp_path)
    assert not list(tmp_path.glob(".worker-*"))
    with pytest.raises(InputError, match="these inputs cannot be used"):
        made(plan, tmp_path, impossible, engine="ray", workers=2)
    unwritable = tmp_path / "a file"
    unwritable.touch()
    with pytest.raises(InputError, match="worker cannot write .*--out"):
        made(plan, unwritable / "run", impossible, engine="ray")


@pytest.mark.slow
def test_on_ray_an_arm_in_the_queue_has_not_begun(cluster: Any, tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(model="late", model_options={})
    engine = RayWorkers(plan, tmp_path, WorkerOptions(engine="ray"), make_late)
    jobs = [engine.start(plan, "late") for _ in range(3)]  # for two processors
    until = time.monotonic() + 100
    while sum(map(engine.has_begun, jobs)) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    assert sum(map(engine.has_begun, jobs)) == 2
    for job in jobs:
        engine.stop(job)
    assert not list(tmp_path.glob(".worker-*"))


@pytest.mark.slow
def test_a_worker_on_ray_runs_the_plug_ins_of_the_plan(cluster: Any, tmp_path: Path) -> None:
    """The arm itself is refused, after the plug-in ran: its model does not exist."""
    ran, file = tmp_path / "ran.txt", tmp_path / "mine.py"
    source = f"import os\nopen({str(ran)!r}, 'w').write(str(os.getpid()))\n"
    plugin = Plugin(str(file), source)
    plan = StudyPlan(str(tmp_path / "no model"), (), plugins=(plugin,))
    with pytest.raises(SpilloverError, match="no model"):
        made(plan, tmp_path, engine="ray")
    assert int(ran.read_text(encoding="utf-8")) != os.getpid()


@pytest.mark.slow
def test_a_lost_worker_of_this_machine_is_replaced(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(model="interrupted", model_options={"device": "cpu"})
    attempts = made(plan, tmp_path, make_or_be_lost, workers=2)
    assert sorted(attempts) == ["finished", "interrupted", "interrupted", "later"]
    assert_all_there(tmp_path)


@pytest.mark.slow
def test_a_stopped_worker_of_this_machine_ends(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(model="interrupted", model_options={"device": "cpu"})
    engine = LocalWorkers(plan, tmp_path, WorkerOptions(), make_late)
    engine.prepare()
    [loading] = engine.loading.values()
    for process in engine.pools[0]._processes.values():  # lost before it has any arm to make
        process.kill()
    assert loading.exception(20) is not None
    job = engine.start(plan, "interrupted")
    assert not engine.wait([job], 0)
    [process] = engine.pools[0]._processes.values()
    engine.stop(job)
    process.join(20)
    assert not process.is_alive()
    engine.close()


@pytest.mark.slow
def test_a_worker_of_this_machine_that_is_lost_without_an_arm_is_replaced(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(model="none is lost", model_options={"device": "cpu"})
    engine = LocalWorkers(plan, tmp_path, WorkerOptions(), make_or_be_lost)
    engine.prepare()
    [loading] = engine.loading.values()
    loading.result(100)
    pool: Any = engine.pools[0]
    [process] = pool._processes.values()
    process.kill()
    pool._executor_manager_thread.join(20)  # which notices that the process is gone
    job = engine.start(plan, "later")
    assert engine.wait([job], 100) == [job]
    engine.result(job)
    engine.close()
    assert (tmp_path / "arms" / "later" / "DONE").is_file()


class Scripted:
    """An engine whose attempts at an arm end as they are told to: well, lost or never."""

    def __init__(self, **ends: str) -> None:
        self.ends = {name: list(each) for name, each in ends.items()}
        self.begun: list[str] = []
        self.stopped = 0

    def prepare(self) -> None:
        self.begun.append("prepared")

    def start(self, _plan: StudyPlan, name: str) -> Any:
        self.begun.append(name)
        return len(self.begun), self.ends[name].pop(0)

    def has_begun(self, _job: Any) -> bool:
        return True

    def wait(self, jobs: Sequence[Any], seconds: float | None) -> Sequence[Any]:
        ended = [job for job in jobs if job[1] != "never"]
        if not ended:
            assert seconds is not None
            time.sleep(seconds)
        return ended

    def result(self, job: Any) -> None:
        if job[1] == "lost":
            raise Lost
        if job[1] == "nan":
            raise TrainingError("the loss is nan")

    def stop(self, _job: Any) -> None:
        self.stopped += 1

    def close(self) -> None:
        self.begun.append("closed")


def in_turn(engine: Scripted, **given: Any) -> None:
    limits = WorkerOptions(arm_minutes=0.0005, **given)
    arms = [ArmPlan(name) for name in engine.ends]
    make_in_turn(engine, StudyPlan("model", ()), arms, limits, Progress(quiet=True))


def test_what_is_lost_or_late_is_tried_again() -> None:
    engine = Scripted(a=["lost", "never", "well"], b=["well"])
    in_turn(engine, workers=2)
    assert sorted(engine.begun) == ["a", "a", "a", "b"]
    assert engine.stopped == 1 and not any(engine.ends.values())
    # Lost too often: the study itself makes it. Late too often: an error, after the others.
    in_turn(Scripted(a=["lost"] * 2, b=["well"]), retries=1)
    engine = Scripted(a=["never"] * 2, b=["well"])
    with pytest.raises(MachineError, match="^a: not finished in .* minutes.*--arm-minutes"):
        in_turn(engine, retries=1)
    assert engine.begun == ["a", "a", "b"] and engine.stopped == 2


def test_time_in_a_queue_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an arm that waits three times as long as it may run."""
    looks = iter([False] * 3 + [True] * 99)
    engine = Scripted(a=["never"])
    engine.has_begun = lambda _job: next(looks)  # type: ignore[method-assign]
    monkeypatch.setattr("analyses.study.jobs.LOOK_EVERY", 0.03)
    begun = time.monotonic()
    with pytest.raises(MachineError, match="^a: not finished"):
        in_turn(engine, retries=0)
    assert engine.stopped == 1 and time.monotonic() - begun > 4 * 0.03
    assert next(looks) and len(list(looks)) > 90, "after that nobody looks for its begin"


def test_the_processes_stay_for_the_next_arms_and_end_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Scripted] = []

    def start(*_: Any) -> Scripted:
        started.append(Scripted(a=["well"], b=["lost", "lost"], c=["never"]))
        return started[-1]

    monkeypatch.setitem(ENGINES, "local", start)  # type: ignore[misc]
    a, b, c = (ArmPlan(name) for name in "abc")
    plan, silent = StudyPlan("model", ()), Progress(quiet=True)
    with arms_in_workers(plan, tmp_path, silent, workers=ALONE) as together:
        assert together(plan, [a, b]) == [a, b]
    assert not started
    done = tmp_path / "arms" / "base" / "DONE"
    done.parent.mkdir(parents=True)
    done.touch()
    limits = WorkerOptions(workers=2, retries=0, arm_minutes=0.0005)
    with (
        pytest.raises(MachineError, match="^c: not finished"),
        arms_in_workers(plan, tmp_path, silent, workers=limits) as together,
    ):
        assert not together(plan, [])
        assert not started
        assert together(plan, [a, b]) == [b]
        together(plan, [c])
    [engine] = started
    assert engine.begun == ["a", "b", "c", "closed"] and engine.stopped == 1
    done.unlink()  # while the base is scored, the processes import what they need
    with arms_in_workers(plan, tmp_path, silent, workers=limits):
        assert started[-1].begun == ["prepared"]
    assert started[-1].begun == ["prepared", "closed"]


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(InputError, match="unknown engine mpi; expected one of local, ray"):
        require_workers(StudyPlan("model", ()), WorkerOptions(engine="mpi"))


def test_on_ray_an_arm_takes_the_nodes_own_devices() -> None:
    def gpus(device: str | None, has_gpus: bool, **given: Any) -> float:
        plan = StudyPlan("model", (), model_options={"device": device} if device else {})
        return _gpus(plan, WorkerOptions(engine="ray", **given), has_gpus=has_gpus)

    assert gpus(None, True) == gpus("cuda", True) == 1
    assert gpus(None, True, gpus_per_arm=0.5) == 0.5
    assert gpus(None, False) == gpus("cpu", True) == 0
    with pytest.raises(InputError, match="no GPU"):
        gpus(None, False, gpus_per_arm=0.5)
    with pytest.raises(InputError, match="leave --device out"):
        gpus("cuda:1", True)


class OtherNode:
    """A stand-in for Ray whose worker sees the folders of another node."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def remote(self, work: Any = None, **_options: Any) -> Any:
        if work is None:
            return self.remote

        def elsewhere(mark: Path, token: str) -> Any:
            return work(mark if self.root is None else self.root / mark.name, token)

        return SimpleNamespace(remote=elsewhere)

    def get(self, result: Any) -> Any:
        return result


def test_a_worker_writes_the_run_s_folder_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _require_shared_folder(OtherNode(None), out)
    assert list(out.iterdir()) == []
    with pytest.raises(InputError, match="its file does not arrive here.*every node mounts"):
        _require_shared_folder(OtherNode(tmp_path / "of another node"), out)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a Ray worker cannot write"):
        _require_shared_folder(OtherNode(None), tmp_path / "file" / "run")


def test_what_follows_an_arm_goes_before_what_waits_and_not_after_a_lost_one() -> None:
    names = ("a", "b", "c", "a2", "a3", "lost", "after")
    engine = Scripted(**{name: ["lost" if name == "lost" else "well"] for name in names})
    following = {"a": ["a2"], "a2": ["a3"], "lost": ["after"]}
    limits = WorkerOptions(arm_minutes=0.0005, retries=0)

    def then(arm: ArmPlan) -> list[ArmPlan]:
        return [ArmPlan(name) for name in following.get(arm.name, ())]

    first = [ArmPlan(name) for name in ("a", "b", "lost", "c")]
    left = make_in_turn(engine, StudyPlan("m", ()), first, limits, Progress(quiet=True), then)
    assert engine.begun == ["a", "a2", "a3", "b", "lost", "c"] and left == [ArmPlan("lost")]


def test_an_arm_that_cannot_be_trained_leaves_the_others_going() -> None:
    engine = Scripted(a=["nan"], a2=["well"], b=["well"])
    said: list[str] = []

    def then(arm: ArmPlan) -> list[ArmPlan]:
        return [ArmPlan("a2")] if arm.name == "a" else []

    first, progress = [ArmPlan("a"), ArmPlan("b")], Progress(quiet=True)
    progress.say = said.append  # type: ignore[method-assign]
    left = make_in_turn(engine, StudyPlan("m", ()), first, WorkerOptions(), progress, then)
    assert engine.begun == ["a", "a2", "b"] and not left
    assert "a: failed (1 of 2): the loss is nan" in said and said[-1] == "b: done (3 of 3)"


@pytest.mark.parametrize("together", [True, False])
def test_sweeps_go_on_together_and_each_ends_by_itself(
    together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safety is contained by the second weight, bias and privacy never.

    Larger weights would not comply, or not reach the forgetting level.
    """
    outcomes = {
        "safety .03": (0.1, 1.0, COMPLIED), "safety .1": (0.8, 0.9, COMPLIED),
        "bias .03": (0.2, 1.0, COMPLIED), "bias .1": (0.4, 0.9, COMPLIED),
        "bias .3": (0.9, 0.5, STILL_REFUSES), "privacy .03": (math.nan, 0.9, COMPLIED),
        "alone": (0.0, 0.0, STILL_REFUSES),
    }  # fmt: skip
    settings = TrainingSettings()
    weights = (".03", ".1", ".3", "1")
    arms = [
        ArmPlan(f"{concept} {weight}", concept, settings, retain=("privacy",), sweep=True)
        for concept in ("safety", "bias", "privacy")
        for weight in weights
    ] + [ArmPlan("alone", "toxicity", settings, retain=("privacy",))]
    control = ArmPlan("control", None, settings, control=True)
    context: Any = SimpleNamespace(run=RunFolder(tmp_path), progress=Progress(quiet=True))
    context.plan = StudyPlan("model", (control, *arms))
    begun: list[str] = []

    def make_one(_context: Any, _baseline: Any, arm: ArmPlan) -> None:
        begun.append(arm.name)
        write_json(context.run.arm(arm.name) / "config.json", {})

    def workers(_plan: Any, chosen: Sequence[ArmPlan], then: Any) -> list[ArmPlan]:
        """All arms at a time; the first of bias is lost."""
        left = []
        while chosen:
            done = [arm for arm in chosen if arm.name != "bias .03"]
            left += [arm for arm in chosen if arm not in done]
            for arm in done:
                make_one(None, None, arm)
            chosen = [follower for arm in done for follower in then(arm)]
        return left

    def alone(_plan: Any, chosen: Sequence[ArmPlan], _then: Any) -> Sequence[ArmPlan]:
        return chosen

    monkeypatch.setattr("analyses.study.engine.make_arm", make_one)
    monkeypatch.setattr("analyses.study.engine.containment", lambda _, arm: outcomes[arm.name])
    make_arms(context, Any, workers if together else alone)
    first = ["control", "safety .03"]
    assert begun == first + (
        ["privacy .03", "alone", "safety .1", "bias .03", "bias .1", "bias .3"]
        if together
        else ["safety .1", "bias .03", "bias .1", "bias .3", "privacy .03", "alone"]
    )
    config = {name: read_json(context.run.arm(name) / "config.json", ()) for name in outcomes}
    assert {name for name, held in config.items() if held.get("selected")} == {
        "safety .1", "alone",
    }  # fmt: skip
    assert {name for name, held in config.items() if held.get("stands_in")} == {
        "safety .1", "bias .1",
    }  # fmt: skip


def test_another_session_s_choice_replaces_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that was given alone is shown; with more weights, the one that contains is."""
    recoveries = {"safety .03": 0.1, "safety .1": 0.8, "safety 1": 0.9}
    outcomes = {name: (value, 0.9, COMPLIED) for name, value in recoveries.items()}
    arms = [ArmPlan(n, "safety", TrainingSettings(), retain=("privacy",)) for n in outcomes]
    context: Any = SimpleNamespace(run=RunFolder(tmp_path), progress=Progress(quiet=True))
    for arm in arms:
        write_json(context.run.arm(arm.name) / "config.json", {})
    monkeypatch.setattr("analyses.study.engine.containment", lambda _, arm: outcomes[arm.name])

    def each_in_turn(arms: Sequence[ArmPlan], then: Any) -> None:
        for arm in arms:
            each_in_turn(then(arm), then)

    def said(plan: Sequence[ArmPlan], what: str) -> list[str]:
        contained_arms(context, plan, each_in_turn)
        read = ((arm.name, context.run.arm(arm.name) / "config.json") for arm in arms)
        return [name for name, path in read if read_json(path, ()).get(what)]

    for alone in (arms[0], arms[2]):
        assert alone.name in said([alone], "selected")
    swept = [replace(arm, sweep=True) for arm in arms]
    assert said(swept, "selected") == said(swept, "stands_in") == ["safety .1"]


@pytest.mark.parametrize(
    ("first", "begun", "why"),
    [
        ((math.nan, 0.3, DEGENERATE), [".03", ".1"], "contains the leakage"),
        ((0.9, 0.9, DEGENERATE), [".03", ".1"], "contains the leakage"),
        ((math.nan, 0.3, STILL_REFUSES), [".03"], "already keeps the target's refusals"),
        ((math.nan, math.nan, UNKNOWN), [".03"], "has no defined recovery"),
    ],
)
def test_a_degenerate_target_ends_no_sweep_and_one_that_refuses_does(
    first: tuple[float, float, TargetOutcome], begun: list[str], why: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    outcomes = {".03": first, ".1": (0.8, 0.9, COMPLIED), ".3": (0.9, 0.9, COMPLIED)}
    arms = [
        ArmPlan(name, "safety", TrainingSettings(), retain=("privacy",), sweep=True)
        for name in outcomes
    ]
    said: list[str] = []
    context: Any = SimpleNamespace(
        run=RunFolder(tmp_path), progress=SimpleNamespace(say=said.append)
    )
    monkeypatch.setattr("analyses.study.engine.containment", lambda _, arm: outcomes[arm.name])
    made: list[str] = []

    def make(arms: Sequence[ArmPlan], then: Any) -> None:
        for arm in arms:
            made.append(arm.name)
            write_json(context.run.arm(arm.name) / "config.json", {})
            make(then(arm), then)

    contained_arms(context, arms, make)
    assert made == begun
    assert said[-1] == f".3: not needed, because a smaller weight {why}"
    chosen = [one for one in made if read_json(tmp_path / f"arms/{one}/config.json")["selected"]]
    assert chosen == begun[1:]


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_seconds_of_a_run_that_is_replaced_do_not_count(
    tmp_path: Path, overwrite: bool
) -> None:
    write_json(tmp_path / "manifest.json", {"seconds": 1000.0})
    checked = SimpleNamespace(require_stream=lambda _: None, to_json=dict)
    context: Any = SimpleNamespace(
        run=RunFolder(tmp_path), fingerprint="",
        reference=SimpleNamespace(checked=checked, name="", device="cpu"),
        plan=SimpleNamespace(overwrite=overwrite, seeds=()),
    )  # fmt: skip
    with recorded(context):
        pass
    seconds = read_json(tmp_path / "manifest.json", ())["seconds"]
    assert seconds < 100 if overwrite else seconds > 1000
