"""What the documentation names exists: imports, modules, files, commands and their options."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from analyses.cli import app
from experiments.__main__ import app as experiments
from experiments.pages import with_table
from experiments.registries import registry_table
from unlearning.scoring import COARSE, refused

ROOT = Path(__file__).resolve().parent.parent
MIGRATION = ROOT / "docs" / "reference" / "migration.md"
# The changelog and the left side of the migration table name what used to be.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CURRENT = [page for page in PAGES if page != MIGRATION]
PACKAGES = "interp|unlearning|analyses|experiments"
PROGRAMS = {"spillover": app, "python -m experiments": experiments}
# Options of vLLM, accelerate, and tests.benchmarks.
FOREIGN = {"--generation-config", "--mixed_precision", "--parts", "--peak-teraflops", "--small"}
each_page = pytest.mark.parametrize(
    "page", CURRENT, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def name_exists(dotted: str) -> bool:
    """Whether ``package.module.name`` is a module, or a name that it has."""
    found: Any = None
    parts = dotted.split(".")
    for number, part in enumerate(parts, 1):
        try:
            found = import_module(".".join(parts[:number]))
        except ModuleNotFoundError:
            try:
                found = getattr(found, part)
            except AttributeError:
                return False
    return True


def is_defined(dotted: str) -> bool:
    """The same, read from the sources: nothing is imported."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent
    sources = (module.with_suffix(".py"), module / "__init__.pyi", module / "__init__.py")
    for source in filter(Path.is_file, sources):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            named = getattr(node, "names", ()) or getattr(node, "targets", ())
            named = [node, getattr(node, "target", node), *named]
            if any(
                path.name in (getattr(one, "name", ""), getattr(one, "id", "")) for one in named
            ):
                return True
    return False


def code_blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks of these languages, without their fences."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def commands_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every command line of ours in shell blocks and between backticks: program, words."""
    shell = "\n".join(code_blocks(text, "", "bash", "console")).replace("\\\n", " ")
    lines = [*shell.splitlines(), *re.findall(r"`([^`\n]+)`", text)]
    for line in lines:
        for program in PROGRAMS:
            if line.strip().startswith(f"{program} "):
                words = line.strip().removeprefix(program).partition("  #")[0].partition(" # ")[0]
                yield program, shlex.split(words.replace("'", " "))


@cache
def command_of(program: str) -> Any:
    return typer.main.get_command(PROGRAMS[program])


@cache
def options_of(program: str) -> frozenset[str]:
    """The options of every command of a program."""

    def walk(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for name in getattr(command, "commands", ()):
            yield from walk(command.commands[name])

    return frozenset(walk(command_of(program))) | {"--help"}


def unknown_words(program: str, words: list[str]) -> list[str]:
    """What a command line names and its command does not have."""
    command, path = command_of(program), []
    while words and hasattr(command, "commands"):
        if words[0].startswith("-") or not words[0].isidentifier():
            break
        if words[0] not in command.commands:
            return [" ".join((program, *path, words[0]))]
        command = command.commands[words[0]]
        path.append(words.pop(0))
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    asked = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    return [" ".join((program, *path, one)) for one in asked if one not in known | {"--help"}]


def test_the_readme_s_table_is_that_of_the_registries() -> None:
    page = ROOT / "README.md"
    assert page.read_text(encoding="utf-8") == with_table(page, "registries", registry_table()), (
        "run: python -m experiments registries README.md"
    )


def test_the_page_on_scoring_defines_every_class() -> None:
    """With ``refused`` and the class among the four that it counts as."""
    text = (ROOT / "docs" / "explanation" / "scoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([01]) \| `(\w+)` \| \w", text, re.MULTILINE)
    assert rows == [(fine, str(refused(one)), one) for fine, one in COARSE.items()]


def test_the_readme_is_short() -> None:
    """At most 700 words besides code and tables."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```|^\|.*?$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 700


def test_the_migration_table_leads_somewhere() -> None:
    """Every new place exists, and no old one that is called gone does."""
    text = MIGRATION.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|(?: (.*) \|)?", text, re.MULTILINE)
    assert len(rows) > 300
    doors = {door for row in rows for door in re.findall(r"`([\w.]+)`", row[2])}
    assert not [new for new in [*doors, *(row[1] for row in rows)] if not is_defined(new)]
    gone = re.findall(r"^\| `([\w.]+)` \| [^`]", text.partition("## Gone")[2], re.MULTILINE)
    assert gone and not [old for old in gone if is_defined(old)]


@each_page
def test_every_import_resolves(page: Path) -> None:
    """And what is read from an imported module of ours is there."""
    missing = []
    for block in code_blocks(page.read_text(encoding="utf-8"), "python"):
        modules = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and re.match(PACKAGES, str(node.module)):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    modules[alias.asname or alias.name] = full
                    missing += [] if name_exists(full) else [full]
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and (module := modules.get(node.value.id))
            ):
                full = f"{module}.{node.attr}"
                missing += [] if name_exists(full) else [full]
    assert not missing


@each_page
def test_every_module_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"\b(?<![/\w.])((?:{PACKAGES})(?:\.\w+)+)", text))
    named = {one for one in named if not one.endswith((".py", ".toml"))}
    assert not [one for one in sorted(named) if not name_exists(one)]
    run = set(re.findall(r"python -m ([\w.]+)", text)) - {"venv", "pip"}
    assert not [one for one in sorted(run) if find_spec(one) is None]


@each_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    inside = rf"(?:{PACKAGES}|tests|docs|notebooks)/[\w./-]*\w"
    named = {ROOT / path for path in re.findall(rf"(?<![\w/.])({inside})", text)}
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    named |= {page.parent / link for link in links}
    assert not [str(path.relative_to(ROOT)) for path in named if not path.exists()]


@each_page
def test_every_command_and_option_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    unknown = [one for command in commands_of(text) for one in unknown_words(*command)]
    known = options_of("spillover") | options_of("python -m experiments") | FOREIGN
    unknown += [one for one in re.findall(r"`(--[a-z][\w-]*)", text) if one not in known]
    assert not unknown
