"""A page for every command, with its arguments and options, from the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from analyses.cli import GROUPS, app
from analyses.command_help import with_entries

FOLDER = "reference/commands"
SPECIAL = re.compile(r"([\\*_{}\[\]<>|$])")
CODE = re.compile(r"(`[^`]*`|(?<![\w-])--[a-z][\w-]*)")
PAGE_OF = re.compile(r"`spillover (\w+)[^`]*` \| \[[^]]*\]\(docs/([^)]*)\)")


def command_pages(readme: Path) -> Iterator[tuple[str, str]]:
    """Path and text of the page of every command, and of their list.

    Args:
        readme: its table names the page that explains a command.
    """
    pages = dict(PAGE_OF.findall(readme.read_text(encoding="utf-8")))
    program = typer.main.get_command(app)
    listed = []
    for title, names in GROUPS.items():
        listed += ["", f"## {title}", "", "| Command | What it does | Page |", "|---|---|---|"]
        for name in names:
            command = program.commands[name]  # type: ignore[attr-defined]
            more = f"[{Path(pages[name]).stem}](../../{pages[name]})" if name in pages else ""
            short = escaped(command.get_short_help_str(limit=200))
            listed.append(f"| [`{name}`]({name}.md) | {short} | {more} |")
            yield f"{FOLDER}/{name}.md", "\n".join(command_page(name, command, more)) + "\n"
    tree = ["", "```{toctree}", ":hidden:", "", *(n for g in GROUPS.values() for n in g), "```"]
    yield f"{FOLDER}/index.md", "\n".join([*INTRODUCTION, *listed, *tree]) + "\n"


INTRODUCTION = [
    "# Commands",
    "",
    "On these pages you can look up every command and option of `spillover`. They are made from",
    "the command line itself; `spillover COMMAND --help` prints the same. Each command is also a",
    'Python function: `sp.study(MODEL, concept="safety")`.',
]


def command_page(name: str, command: Any, more: str) -> Iterator[str]:
    """The lines of one command's page; a group's subcommands are sections."""
    yield f"# spillover {name}"
    yield from ("", escaped(command.help or ""))
    if more:
        yield from ("", f"The page {more} explains what it measures and how to read the result.")
    for sub in getattr(command, "commands", {"": command}).values():
        line = f"spillover {name}"
        if sub is not command:
            line = f"{line} {sub.name}"
            yield from ("", f"## {line}", "", escaped(sub.help or ""))
        yield from options_of(line, sub)


def options_of(line: str, command: Any) -> Iterator[str]:
    """The usage line and every parameter, each with its help."""
    with typer.Context(command, info_name=line, **command.context_settings) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        yield from ("", "```console", f"$ {line} {usage}", "```")
        yield from ("", "```{program} " + line, "```")
        for parameter in command.params:
            help_text = with_entries(getattr(parameter, "help", None) or "")
            record = parameter.get_help_record(context)
            names, said = record if record else (parameter.human_readable_name, help_text)
            if parameter.param_type_name == "argument":
                names, said = parameter.name.upper(), help_text
            yield from ("", "````{option} " + names, escaped(with_entries(said)), "````")


def escaped(text: str) -> str:
    """Plain text in Markdown: paragraphs are kept, options become code."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_escaped(" ".join(one.split())) for one in paragraphs)


def _escaped(line: str) -> str:
    parts = CODE.split(line)  # every second part is code
    parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"`{part.strip('`')}`" for part in parts[1::2]]
    return "".join(parts)
