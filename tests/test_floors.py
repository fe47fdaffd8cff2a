"""The three floors hold: imports run downwards only, and the command line starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("interp", "unlearning", "analyses")
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "umap")
OPTIONAL = ("transformer_lens", "nnsight", "openai", "lm_eval", "ray", "bitsandbytes")


def sources(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of every module imported anywhere in a file, inside functions too."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*parents, *([node.module] if node.module else ())))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


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
def test_imports_run_downwards_only(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    upwards = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(floor)
        for module in imported_modules(path)
        if module.split(".")[0] in above
    ]
    assert not upwards, upwards


@pytest.mark.parametrize("floor", FLOORS)
def test_every_floor_is_typed_and_has_code(floor: str) -> None:
    assert sources(floor)
    assert (ROOT / floor / "py.typed").is_file()


def test_relative_imports_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk above would not be fooled by `from .. import analyses`."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    module = tmp_path / "interp" / "deep" / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text("def f():\n    from ..near import x\n", encoding="utf-8")
    assert "interp.near" in set(imported_modules(module))


def test_help_loads_nothing_heavy() -> None:
    help_screen = (
        "import sys\nfrom analyses.cli import main\nsys.argv = ['spillover', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    assert not modules_after(help_screen) & set(HEAVY + OPTIONAL)


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
