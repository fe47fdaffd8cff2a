"""Do the tests notice a wrong line? Change one line at a time, and run the tests that come near.

The mutants are the 62 that lived when the tests of version 0.1 were tried (``mutants.toml``) and
others that are drawn from the three packages (:mod:`experiments.mutation`). Each is made in a copy
of the tree. The test files that import the changed file run until one test fails
(:mod:`experiments.related_tests`), the nearest files first. At the end every test that noticed a
mutant has to pass on the unchanged copy. Mutants without an effect are listed in ``mutants.toml``
with the reason.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from experiments.mutation import Mutant, draw
from experiments.related_tests import ROOTS, related_tests

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
WINGS = {"interp": 20, "unlearning": 19, "analyses": 19}
SEED = 16
FILES_AT_ONCE = (2, 4, 8)
#: Without its parameters, whose texts may hold anything.
FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)
#: A busy machine gives tests their processor time later.
WALL_PER_PROCESSOR_TIME = 4.0
#: Heavy and never changed: imported once, before the processes of all mutants part.
HEAVY = ("torch", "transformers", "peft", "pandas", "scipy.stats", "sklearn.linear_model", "pytest")


def known_mutants() -> list[Mutant]:
    """The survivors of version 0.1."""
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))
    reasons = _reasons()
    found = []
    for row in listed["survivor"]:
        one = Mutant(
            row["file"], row["about"], row["old"], row["new"], tests=tuple(row.get("tests", ()))
        )
        found.append(_judged(one, reasons))
    return found


def all_mutants(seed: int = SEED, counts: dict[str, int] | None = None) -> list[Mutant]:
    """The survivors of version 0.1, and of every package as many drawn mutants as in ``counts``."""
    reasons = _reasons()
    drawn = draw(ROOT, WINGS if counts is None else counts, seed)
    return [*known_mutants(), *(_judged(one, reasons) for one in drawn)]


def _reasons() -> dict[tuple[str, str, str, str], str]:
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return {
        (row["file"], row["where"], row["old"], row["new"]): row["because"]
        for row in listed.get("equivalent", [])
    }


def _judged(one: Mutant, reasons: dict[tuple[str, str, str, str], str]) -> Mutant:
    return replace(one, equivalent=reasons.get((one.file, one.where, one.old, one.new), ""))


def try_mutants(
    mutants: Sequence[Mutant], results: Path, *, seconds: float = 1e9, each: float = 150.0
) -> pd.DataFrame:
    """Run the tests on every mutant that ``results`` does not hold as noticed yet.

    Args:
        mutants: what to try.
        results: JSON lines, one per mutant; later lines replace earlier ones of the same mutant.
            The test that a line names is tried before all others.
        seconds: no mutant is begun after this time.
        each: limit of one mutant's tests, in seconds of processor time.

    Returns:
        One row per mutant: ``key, file, where, old, new, verdict, by, seconds``.
    """
    began = time.monotonic()
    done = _read(results)
    # Those with a test that is likely to notice them are quick.
    quick_first = sorted(mutants, key=lambda one: not (one.tests or one.key in done))
    with TemporaryDirectory() as folder:
        tree = _copy_of_the_tree(Path(folder))
        for one in quick_first:
            if done.get(one.key, {}).get("verdict") in ("killed", "equivalent", "absent"):
                continue
            if time.monotonic() - began > seconds:
                break
            row = _tried(one, tree, each, str(done.get(one.key, {}).get("by", "")))
            done[one.key] = row
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(
                f"{row['verdict']:10} {row['seconds']:5.0f} s  {one.file}: {one.where}", flush=True
            )
    rows = [done[one.key] for one in mutants if one.key in done]
    return pd.DataFrame(rows)


def false_alarms(table: pd.DataFrame) -> list[str]:
    """Tests that noticed a mutant and fail on the unchanged tree, too."""
    names = sorted(set(table.loc[table["verdict"] == "killed", "by"]) - {"import", "time"})
    with TemporaryDirectory() as folder:
        tree = _copy_of_the_tree(Path(folder))
        code, failed = _run(tree, names, 900.0, stop=False)
    return [] if code == 0 else sorted(failed) or ["the tests do not run"]


def _tried(one: Mutant, tree: Path, each: float, last: str) -> dict[str, object]:
    began, by, verdict = _spent(), "", "survived"
    path = tree / one.file
    own = path.read_bytes()
    changed = one.applied(own)
    if one.equivalent:
        verdict = "equivalent"
    elif changed is None:
        verdict = "absent"
    else:
        try:
            path.write_bytes(changed)
            for names in _batches(one, tree, last):
                left = each - (_spent() - began)
                if left <= 5:
                    break
                code, failed = _run(tree, names, left)
                if failed or code in (2, 3, 4):
                    verdict, by = "killed", min(failed, default="import")
                    break
        finally:
            path.write_bytes(own)
    return {
        **{"key": one.key, "file": one.file, "where": one.where, "old": one.old, "new": one.new},
        **{"verdict": verdict, "by": by, "seconds": round(_spent() - began, 1)},
        "because": one.equivalent,
    }


def _spent() -> float:
    """Processor time of all tests so far, in seconds."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def _batches(one: Mutant, tree: Path, last: str) -> Iterator[list[str]]:
    """Tests to run together: the named ones, then the files that come near."""
    named = [last, *one.tests] if "::" in last else one.tests
    tests = [test for test in dict.fromkeys(named) if _is_there(tree, test)]
    if tests:
        yield tests
    rest = [test for test in related_tests(ROOT, one.file) if test not in tests]
    for count in FILES_AT_ONCE:
        if rest:
            yield rest[:count]
        rest = rest[count:]


def _is_there(tree: Path, test: str) -> bool:
    """Whether the test has its name still: pytest's error about one that is gone kills nothing."""
    file, _, name = test.partition("::")
    path = tree / file
    return path.is_file() and f"def {name}(" in path.read_text(encoding="utf-8")


def _run(
    tree: Path, names: Sequence[str], seconds: float, *, stop: bool = True
) -> tuple[int, list[str]]:
    """Run tests in a new process; return its exit code and the failed tests."""
    said = tree.parent / "said"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=no"]
    child = multiprocessing.get_context("fork").Process(
        target=_pytest, args=(tree, [*options, *(["-x"] if stop else []), *names], said, seconds)
    )
    child.start()
    child.join(WALL_PER_PROCESSOR_TIME * seconds)
    if child.is_alive():
        child.terminate()
        child.join(10)
        child.kill()
        return -1, []
    if child.exitcode == -signal.SIGXCPU:
        return -1, []
    if (child.exitcode or 0) < 0:  # some libraries' threads do not outlive a fork
        return _run_afresh(tree, [*options, *(["-x"] if stop else []), *names], seconds)
    text = said.read_text(encoding="utf-8", errors="replace")
    # Code 5: no test was there. Errors in a fixture notice a mutant as failures do.
    return child.exitcode or 0, FAILED.findall(text)


def _run_afresh(tree: Path, arguments: list[str], seconds: float) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "pytest", *arguments, "-o", "addopts="]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    try:
        ran = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            timeout=WALL_PER_PROCESSOR_TIME * seconds,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return -1, []
    return ran.returncode, FAILED.findall(ran.stdout)


def _pytest(tree: Path, arguments: list[str], said: Path, seconds: float) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, most))
    with said.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        os.setsid()
        for name in [one for one in sys.modules if one.split(".")[0] in ROOTS]:
            del sys.modules[name]
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path[:] = [str(tree), *(one for one in sys.path if one not in ("", str(ROOT)))]
        sys.dont_write_bytecode = True
        import pytest
        from hypothesis import Phase, settings

        # That an example fails is enough: no smaller one is looked for.
        phases = (Phase.explicit, Phase.reuse, Phase.generate)
        settings.register_profile("mutants", phases=phases)
        settings.load_profile("mutants")
        code = int(pytest.main([*arguments, "-o", "addopts="]))
        sys.stdout.flush()
        os._exit(code)


def _copy_of_the_tree(folder: Path) -> Path:
    """The files that git has or would take, as they are."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            __import__(name)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "tree" / name)
    return folder / "tree"


def _read(results: Path) -> dict[str, dict[str, object]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def page_of(table: pd.DataFrame) -> str:
    """The page of the docs: counts by package, and a line per mutant."""
    wing = table["file"].str.split("/").str[0]
    verdicts = ["killed", "equivalent", "survived", "absent"]
    counts = pd.crosstab(wing, table["verdict"]).reindex(columns=verdicts, fill_value=0)
    counts.loc["all"] = counts.sum()
    lines = [
        "| package | mutants | killed | equivalent | survived |", "|---|---|---|---|---|",
        *(f"| {name} | {row.sum()} | {row['killed']} | {row['equivalent']} | {row['survived']} |"
          for name, row in counts.iterrows()),
        "", "| file | where | change | noticed by |", "|---|---|---|---|",
        *(_line(row) for row in table.to_dict("records")),
    ]  # fmt: skip
    return "\n".join(lines)


def _line(row: Mapping[Hashable, Any]) -> str:
    change = f"`{_short(row['old'])}` → `{_short(row['new'])}`"
    by = {"killed": f"`{row['by'].removeprefix('tests/')}`", "survived": "**nothing**"}
    noticed = by.get(row["verdict"], f"{row['verdict']}: {row['because']}")
    return f"| `{row['file']}` | `{row['where']}` | {change} | {noticed} |"


def _short(text: str, most: int = 60) -> str:
    said = " ".join(text.split()).replace("|", "∣").replace("`", "'")
    return said if len(said) <= most else said[: most - 1] + "…"


def chosen(mutants: Iterable[Mutant], part: str) -> list[Mutant]:
    """Mutants whose file or description holds ``part``."""
    return [one for one in mutants if part in f"{one.file} {one.where}"]
