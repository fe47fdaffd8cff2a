"""Rooms and their doors, and how light the command line starts. Imports are import-linter's."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("interp", "unlearning", "analyses")
ROOMS = [
    ".".join(path.relative_to(ROOT).parent.parts)
    for floor in FLOORS
    for path in sorted((ROOT / floor).glob("*/__init__.pyi"))
]
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "umap")
OPTIONAL = ("transformer_lens", "nnsight", "openai", "lm_eval", "ray", "bitsandbytes")


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter by a statement."""
    report = "import sys; print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    loaded = next(line for line in run.stdout.splitlines() if line.startswith("LOADED"))
    return set(loaded.split()[1:])


@pytest.mark.parametrize("floor", FLOORS)
def test_every_floor_is_typed_and_has_code(floor: str) -> None:
    assert sources(floor)
    assert (ROOT / floor / "py.typed").is_file()


@pytest.mark.parametrize("floor", FLOORS)
def test_the_top_of_a_floor_is_read_at_a_glance(floor: str) -> None:
    top = [path.name for path in (ROOT / floor).glob("*.py") if not path.name.startswith("__")]
    assert len(top) <= 8, top


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_opens_on_what_it_names(room: str) -> None:
    """Every name is there, and no file of the room has it: the file would hide the name."""
    door = importlib.import_module(room)
    files = {path.stem for path in ROOT.joinpath(*room.split(".")).glob("*.py")}
    assert door.__doc__ and door.__all__
    assert not files & set(door.__all__)
    for name in door.__all__:
        assert getattr(door, name) is not None


def test_no_two_public_definitions_share_a_name() -> None:
    """Apart from the workbench: a step on a table of prompts is named as the step on its texts."""
    places: dict[str, set[str]] = {}
    for room in set(ROOMS) - {"analyses.workbench"}:
        door = importlib.import_module(room)
        for name in door.__all__:
            home = getattr(getattr(door, name), "__module__", room)
            if callable(getattr(door, name)):
                places.setdefault(name, set()).add(home)
    assert not {name: homes for name, homes in places.items() if len(homes) > 1}


def test_no_public_name_says_too_little() -> None:
    bare = {"write", "describe", "carry_out", "checked", "described", "save", "text", "summary"}
    assert not [room for room in ROOMS if bare & set(importlib.import_module(room).__all__)]


def test_core_does_without_optional_packages() -> None:
    """Where transformer-lens, nnsight or an extra is not installed, every module still imports."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for floor in FLOORS
        for path in sources(floor)
        if "adapters" not in path.parts and path.name != "__main__.py"
    ]
    hidden = f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
    imports = "\n".join(f"import {name}" for name in names)
    modules_after(hidden + imports)
