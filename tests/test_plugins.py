"""Plug-ins: the examples of their page work, and what is wrong with a file is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.cli import COMMANDS
from analyses.contain.methods import METHODS
from analyses.predict import PREDICTORS
from analyses.runs import read_run
from interp import plugins
from interp.directions import ESTIMATORS
from interp.registry import Registry, colours, declared_by_plugins
from interp.store import read_json, write_json
from tests.conftest import Spillover
from tests.synthetic_run import write_run
from tests.test_docs import code_blocks
from tests.test_rooms import HEAVY, OPTIONAL
from unlearning.losses import FORGET, RETAIN
from unlearning.organism import load_world, shipped
from unlearning.scoring import SCORERS, find_scorer

ROOT = Path(__file__).resolve().parent.parent
REGISTRIES: tuple[Registry[Any], ...] = (FORGET, RETAIN, PREDICTORS, SCORERS, METHODS, ESTIMATORS)
PAGE = (ROOT / "docs" / "how-to" / "plugins.md").read_text(encoding="utf-8")
EXAMPLES = {block.split("\n")[0].removeprefix("# "): block for block in code_blocks(PAGE, "python")}
METHOD = '@method("{name}", does="nothing"{more})\ndef mine(evidence, concept, pool, seed): ...\n'
IMPORT = "from analyses.study import method\n"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What a test's plug-ins register is gone after it."""
    yield
    for table in REGISTRIES:
        for name, origin in list(table._origins.items()):
            if origin.startswith(("spillover_plugin_", "installed_hinge.")):
                for part in (table._entries, table._abouts, table._origins):
                    del part[name]


def file_of(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return path


# The examples


def of_hinge(entry: Any) -> bool:
    view = {
        "log_probs": torch.tensor([[-1.0, -2.0], [-1.0, -9.0]]),
        "reference": torch.tensor([[-1.0, -2.0], [-1.0, -2.0]]),
        "mask": torch.ones(2, 2, dtype=torch.bool),
    }
    return bool(entry(view, margin=2.0).tolist() == [2.0, 0.0])


def of_shared_words(entry: Any) -> bool:
    prompts = {"a": ["one two"], "b": ["two three"], "c": ["four"]}
    evidence = SimpleNamespace(
        harmful={domain: pd.DataFrame({"prompt": texts}) for domain, texts in prompts.items()}
    )
    expected = np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])
    return np.allclose(entry.predict(evidence)[""], expected)


def of_stay_close(entry: Any) -> bool:
    view = {
        "log_probs": torch.tensor([[-1.0, -5.0]]),
        "reference": torch.tensor([[-1.0, -2.0]]),
        "mask": torch.ones(1, 2, dtype=torch.bool),
    }
    return bool(entry(view).tolist() == [9.0])


def of_starts_with(_entry: Any) -> bool:
    found = find_scorer("starts-with:No").classify(["p", "p"], ["No, sorry.", "Yes: done."])
    return found == ["refusal", "answer"] and find_scorer("starts-with").name.endswith("I can't")


def of_longest(entry: Any) -> bool:
    pool = pd.DataFrame({"response": ["a", "abc"]})
    return list(entry.score(None, "safety", pool, 0)) == [1, 3] and entry.weight_like == "equal"


def of_median_difference(entry: Any) -> bool:
    states = np.arange(24.0).reshape(4, 2, 3)
    fitted = entry.quick().fit(states, [True, True, False, False])
    return np.array_equal(fitted.direction_, np.full((2, 3), -12.0))


KINDS: Mapping[str, tuple[Registry[Any], str, Callable[[Any], bool], str | None]] = {
    "hinge.py": (FORGET, "hinge", of_hinge, "study"),
    "stay_close.py": (RETAIN, "stay_close", of_stay_close, "unlearn"),
    "shared_words.py": (PREDICTORS, "shared words", of_shared_words, None),
    "starts_with.py": (SCORERS, "starts-with", of_starts_with, "score"),
    "longest.py": (METHODS, "longest", of_longest, "contain"),
    "median_difference.py": (ESTIMATORS, "median_difference", of_median_difference, "matrix"),
}


def test_every_example_is_tried() -> None:
    assert EXAMPLES.keys() == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_an_example_of_the_page_works(name: str, tmp_path: Path) -> None:
    table, entry, works, _ = KINDS[name]
    assert entry not in table
    plugins.use(file_of(tmp_path, EXAMPLES[name], name))
    title = declared_by_plugins(table.decorator)[entry].title
    assert entry in table and entry not in table._entries, "known, and not yet run"
    plugins.load_all()
    found = table.find(entry)
    assert found.about == table.abouts[entry] and found.about.title == title
    assert works(found)
    assert len(set(colours(table.abouts).values())) == len(table)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind[3]])
def test_help_lists_the_entry_of_a_plug_in(name: str, spillover: Spillover, tmp_path: Path) -> None:
    _, entry, _, command = KINDS[name]
    path = file_of(tmp_path, EXAMPLES[name], name)
    code, said, _ = spillover(command, "--plugin", path, "--help")
    assert code == 0 and entry in said.replace("-\n", "-").replace("\n", " ")
    plugins._NAMED.clear()
    assert entry not in spillover(command, "--help")[1]


def test_an_installed_plug_in_needs_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spillover: Spillover
) -> None:
    package = file_of(tmp_path, EXAMPLES["hinge.py"], "installed_hinge.py")
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spillover.plugins]\nhinge = installed_hinge\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._installed.cache_clear()
    try:
        assert [plugin.path for plugin in plugins.in_use()] == [str(package)]
        assert "hinge" in spillover("study", "--help")[1]
        assert of_hinge(FORGET.find("hinge"))
        package.write_text("1 / 0", encoding="utf-8")
        plugins._installed.cache_clear()
        del sys.modules["installed_hinge"]
        code, _, err = spillover("report", "nothing")
        assert code == 2 and "installed_hinge.py fails: ZeroDivisionError" in err
    finally:
        monkeypatch.undo()
        plugins._installed.cache_clear()


# What is wrong


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def (", "is not a Python file"),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("from analyses.study import nothing", "fails: ImportError: cannot import name"),
        ("raise SystemExit", "fails: SystemExit"),
        (
            IMPORT + METHOD.format(name="mine", more=', badge="exact"'),
            'mine: unknown badge "exact"; expected one of faithful, simplified, variant',
        ),
        (
            IMPORT + METHOD.format(name="equal", more=""),
            "the containment method name equal is taken by analyses.contain.methods.examples",
        ),
        (
            "from unlearning.losses import objective\n@objective\ndef npo(log_probs, mask): ...",
            "the objective name npo is taken by unlearning.losses.objectives",
        ),
        (
            "from unlearning.losses import objective\n@objective\ndef a(log_probs, labels): ...",
            "a: labels is not a quantity of a batch",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    source: str, expected: str, spillover: Spillover, tmp_path: Path
) -> None:
    given = ["contain", shipped(), "--concept", "safety", "--out", "run", "--dry-run"]
    code, out, err = spillover(*given, "--plugin", file_of(tmp_path, source))
    assert code == 2 and out == "", err
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", ["organism", "prompts"])
def test_help_of_a_group_offers_its_commands_alone(group: str, spillover: Spillover) -> None:
    code, said, _ = spillover(group, "--help")
    assert code == 0 and "Commands:" in said
    assert re.findall(r"--[\w-]+", said.partition("Commands:")[0]) == ["--help"]


def test_a_file_that_is_not_there_is_one_line(spillover: Spillover) -> None:
    code, _, err = spillover("study", "--plugin", "nothing.py", "--help")
    assert code == 2 and err == "error: --plugin nothing.py: No such file or directory\n"


# What is imported


def loaded_after(*commands: list[str], folder: Path = ROOT, first: str = "") -> set[str]:
    """Modules of a fresh process after ``first`` and these command lines."""
    program = (
        f"{first}\nimport io, sys\nfrom contextlib import redirect_stdout\n"
        "from analyses.cli import main\n"
        f"for words in {list(commands)!r}:\n"
        "    sys.argv = ['spillover', *words]\n"
        "    try:\n"
        "        with redirect_stdout(io.StringIO()):\n            main()\n"
        "    except SystemExit as stopped:\n        assert not stopped.code, words\n"
        "print(*sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split())


def test_no_help_loads_anything_heavy(tmp_path: Path) -> None:
    groups = {"organism": ["train"]}
    groups["prompts"] = ["list", "make", "leaks"]
    inner = [[name, one] for name, several in groups.items() for one in several]
    mine = file_of(tmp_path, "\n".join(EXAMPLES.values()))
    lines = [[], *([name] for name in COMMANDS), *inner, ["contain", "--plugin", str(mine)]]
    loaded = loaded_after(*([*words, "--help"] for words in lines))
    assert not loaded & {"numpy", *HEAVY, *OPTIONAL}


def test_a_study_imports_nothing_of_what_builds_on_it(tmp_path: Path) -> None:
    """From its help to its report: a circle behind a late import would show here."""
    world = load_world(shipped()).prompts()
    rows = world[world["domain"].isin(("safety", "bias"))]
    few = [
        rows[rows["split"] == split].groupby(["domain", "label"]).head(count)
        for split, count in (("train", 34), ("validation", 8), ("test", 8))
    ]
    pd.concat(few).to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    study = ["study", str(shipped()), "--concept", "safety", "--out", "run"]
    study += ["--prompts", "prompts.jsonl", "--max-steps", "1", "--no-control", "--no-timing"]
    quick = "from tests.quick import Figure, save_empty; Figure.savefig = save_empty"
    loaded = loaded_after(["study", "--help"], study, folder=tmp_path, first=quick)
    assert (tmp_path / "run" / "report.html").is_file() and "analyses.study.making" in loaded
    later = ("contain", "predict", "explain", "evaluate", "reproduce", "matrix", "deflect")
    assert not [name for name in loaded if name.startswith(tuple(f"analyses.{x}" for x in later))]


# A run that a plug-in made


def test_a_report_takes_the_plug_ins_of_its_run_again(
    spillover: Spillover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", concepts=("safety",), weights=(), rotation=False)
    source = EXAMPLES["hinge.py"].replace('title="hinge"', 'title="hinge of mine"')
    file = file_of(tmp_path, source)
    described = plugins.use(file).described()
    write_json(run / "config.json", read_json(run / "config.json") | {"plugins": [described]})
    arm = run / "arms" / "npo-safety-0" / "config.json"
    write_json(arm, read_json(arm) | {"objective": "hinge"})

    def labels(folder: Path, **_options: object) -> str:
        return ", ".join(arm.label for arm in read_run(folder).arms)

    monkeypatch.setattr("analyses.report.run_report.write_report", labels)
    plugins._NAMED.clear()
    assert spillover("report", run) == (0, "hinge of mine\n", "")
    for change, expected in (
        (lambda: file_of(tmp_path, source + "\n"), "has changed since the run was made"),
        (file.unlink, "is gone; give its new place with --plugin"),
    ):
        plugins._NAMED.clear()
        change()
        code, _, err = spillover("report", run)
        assert code == 0 and err == f"note: the plug-in {file} {expected}\n"
