"""What people read uses one term for each thing, and plain English.

People read docstrings, messages, captions, help strings, pages and notebooks. Code, and whatever
stands between backticks, is exempt: the keys of files and the names of options stay as they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parent.parent
#: What is not said → what is said instead.
TERMS = {
    r"embedded (?:model|organism)s?": "model organism",
    r"(?<!model[ \n])organisms?": "model organism",
    r"openers?": "refusal prefixes, compliance prefixes",
    r"margins?": "refusal log-odds",
    r"doses?|dose–response": "forgetting level",
    r"potency|susceptibility|entanglement": "source effect, target effect, interaction",
    r"twins?": "matched benign prompts",
    r"collapsed|collapses?": "degenerate",
    r"donors?|receivers?": "source and target of a patch",
    r"(?:is|are|was|were|what is) planted": "ground truth",
    r"turned(?! (?:on|off|into|out|to))|turns(?= (?:the|a) direction)": "rotated",
    r"residues?|forced openers?|looks? under|looked under|cues?": "shallow-recovery tests",
    r"beside": "next to, and, compared with",
    r"told? apart|tells? .{0,30}\bapart": "distinguished",
    r"(?<!there )(?:is|are) no(?! (?:longer|more|less|larger|smaller|better|worse))": "is not",
    r"of (?:its|their|one's|his) own": "separate, its own …",
    r"whose is it": "Source, target and interaction effects",
    r"--plan|--trained|--activation-checkpointing": "the option's new name",
}
NOT_SAID = {
    re.compile(rf"(?<![\w`-])(?:{term})(?![\w`-])", re.IGNORECASE): say
    for term, say in TERMS.items()
}
CODE = re.compile(
    r"```.*?```|``.*?``|`[^`]*`|<!--.*?-->|\{[{%].*?[%}]\}|\{[^{}]*\}|\"organism\""
    r"|^ *(?:>>>|\.\.\.) .*?$",
    re.DOTALL | re.MULTILINE,
)
#: Where the old words have to stand: they name what used to be, or quote somebody.
EXEMPT = {"docs/reference/migration.md", "CHANGELOG.md"}
#: Sentences that need one of the words in another sense.
MEANT = (
    # values in files
    *("answer opener", "refusal opener", "not told apart", "margin kernel", "base margin"),
    *("dose ", "margin + "),
    *(
        "GGUF file, or organism",
        "organism:ungated",
        "model: organism",
    ),  # names of the packaged ones
    "My answer is no:",  # a refusal
)


def texts_of_source(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings and other strings of more than one word, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def texts_of_notebook(path: Path) -> Iterator[tuple[int, str]]:
    for number, cell in enumerate(jupytext.read(path).cells):
        if cell.cell_type == "markdown":
            yield number, cell.source


def texts(path: Path) -> Iterator[tuple[int, str]]:
    if path.parent.name == "notebooks":
        return texts_of_notebook(path)
    if path.suffix == ".py":
        return texts_of_source(path)
    return iter([(1, path.read_text(encoding="utf-8"))])


def pages() -> list[Path]:
    wings = [ROOT / name for name in ("spillover", "interp", "unlearning", "analyses")]
    found = [path for wing in wings for path in wing.rglob("*.py")]
    found += [path for wing in wings for path in wing.rglob("*.jinja")]
    found += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.py")]
    found += [*ROOT.glob("*.md")]
    return sorted(p for p in found if p.relative_to(ROOT).as_posix() not in EXEMPT)


def said(text: str) -> Iterator[tuple[str, str]]:
    """What is not to be said in a text, with what to say instead."""
    plain = re.sub(r"\]\([^)]*\)", "]", CODE.sub("", text))  # and without addresses of links
    for meant in MEANT:
        plain = plain.replace(meant, "")
    plain = re.sub(r"\s+", " ", plain)
    for pattern, instead in NOT_SAID.items():
        for found in pattern.finditer(plain):
            yield plain[max(0, found.start() - 30) : found.end() + 20], instead


@pytest.mark.parametrize("wing", ["spillover", "interp", "unlearning", "analyses", "docs", "."])
def test_one_term_for_each_thing(wing: str) -> None:
    places = [page for page in pages() if page.relative_to(ROOT).parts[0] == wing]
    if wing == ".":
        places = [page for page in pages() if page.parent in (ROOT, ROOT / "notebooks")]
    found = [
        f"{page.relative_to(ROOT)}:{line}: …{where}… → {instead}"
        for page in places
        for line, text in texts(page)
        for where, instead in said(text)
    ]
    assert not found, "\n".join(found)


def test_the_words_are_found_where_they_stand() -> None:
    assert [say for _, say in said("The twins of the organism's `twin` column")] == [
        "model organism",
        "matched benign prompts",
    ]
    assert [say for _, say in said("Organisms stand at the start. Beside them, others.")] == [
        "model organism",
        "next to, and, compared with",
    ]
    assert not list(said("A model organism; matched benign prompts; `--plan` was its name"))
