"""Which test files come near a source file: by their imports, followed through the lazy doors."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

ROOTS = ("interp", "unlearning", "analyses", "spillover", "experiments", "tests")


def related_tests(root: Path, file: str) -> list[str]:
    """Test files that import ``file``, directly first, then by way of other files.

    Among files at one distance those that say more of its names come first. Files that no path of
    imports reaches are left out: they run commands, which all others' tests do not need.
    """
    importers = _importers(root)
    distance, border = {file: 0}, [file]
    while border:
        found = {one for each in border for one in importers[each]} - distance.keys()
        distance |= dict.fromkeys(found, distance[border[0]] + 1)
        border = sorted(found)
    names = _names_of(root / file)
    said = re.compile(rf"\b(?:{'|'.join(names)})\b") if names else None
    tests = [one for one in distance if re.match(r"tests/test_\w+\.py$", one)]

    def order(test: str) -> tuple[int, int, str]:
        count = len(said.findall((root / test).read_text(encoding="utf-8"))) if said else 0
        return (0 if count else 1, distance[test] - min(count, 9), test)

    return sorted(tests, key=order)


def _names_of(path: Path) -> list[str]:
    nodes = ast.parse(path.read_bytes()).body
    named = [n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return [name for name in named if len(name) > 3]


@lru_cache(maxsize=1)
def _importers(root: Path) -> dict[str, set[str]]:
    """Files by the file that they import."""
    found: dict[str, set[str]] = defaultdict(set)
    for wing in ROOTS:
        for path in sorted((root / wing).rglob("*.py")):
            for imported in _imports(root, path):
                found[imported].add(str(path.relative_to(root)))
    return found


def _imports(root: Path, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in ROOTS:
            continue
        folder = root / (node.module or "").replace(".", "/")
        if not folder.is_dir():
            yield str(folder.with_suffix(".py").relative_to(root))
            continue
        doors = _behind_door(folder)
        for alias in node.names:
            inside = folder / f"{alias.name}.py"
            # A folder without a lazy door imports its names in its own file.
            own = inside if inside.is_file() else folder / "__init__.py"
            yield str(doors.get(alias.name, own).relative_to(root))


@cache
def _behind_door(folder: Path) -> dict[str, Path]:
    """Where the public names of a folder are defined."""
    stub = folder / "__init__.pyi"
    lines = stub.read_text(encoding="utf-8") if stub.is_file() else ""
    found = re.findall(r"^from \.([\w.]+) import (\w+)", lines, re.MULTILINE)
    return {name: (folder / module.replace(".", "/")).with_suffix(".py") for module, name in found}
