"""Single-point mutants of source files: one operator, constant, argument or statement is changed.

A mutant is drawn by the hash of what it changes, so a change elsewhere in the tree does not draw
others. Annotations, decorators, docstrings, strings, messages of errors and the code that only
draws, prints or parses options are left alone.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Code that only draws, prints or parses options.
SHOWN = re.compile(
    r"figures|panels|/page\.py|/view\.py|/words\.py|wording|/report/|options|commands?\.py|cli\.py"
    r"|__init__|__main__|errors\.py|progress|/costs\.py|lessons|vocabulary|phrase_list|rubrics"
)
#: Arguments without an effect on a number: checks, messages, progress, memory and formats.
WITHOUT_EFFECT = {
    *("strict", "encoding", "stacklevel", "progress", "title", "keepdims", "copy"),
    *("ignore_index", "batch_size", "ensure_ascii", "optimize"),
}
SAYING = re.compile(r"(?:progress|warn|echo|print|say|log|_done)$")
NEGATED: dict[type, type] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
#: Of whole numbers the boundary itself is moved.
WITH_BOUNDARY: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
COMPUTED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip
SWAPPED = {
    "min": "max", "maximum": "minimum", "any": "all", "floor": "ceil", "cos": "sin", "mean": "sum",
    "argmax": "argmin", "nanmean": "nansum", "fmin": "fmax", "std": "var",
}  # fmt: skip
SWAPPED |= {new: old for old, new in SWAPPED.items()}
AXES = {"axis", "dim"}
ROUNDING = 1e-3  # smaller constants guard against rounding errors, at no particular value


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: path from the root of the repository.
        where: qualified name of the function or class, or what the change is about.
        old, new: the text before and after.
        start: offset of ``old`` in the file's bytes; None: it occurs once.
        tests: tests that are tried before all others.
        equivalent: the reason, where no test can notice the change; otherwise empty.
    """

    file: str
    where: str
    old: str
    new: str
    start: int | None = None
    tests: tuple[str, ...] = ()
    equivalent: str = ""

    @property
    def key(self) -> str:
        """Names the change without its place in the file."""
        text = "\x00".join((self.file, self.where, self.old, self.new))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def applied(self, source: bytes) -> bytes | None:
        """The file with the change; None where ``old`` is not there exactly once."""
        old, new = self.old.encode(), self.new.encode()
        if self.start is None:
            return source.replace(old, new) if source.count(old) == 1 else None
        before, here = source[: self.start], source[self.start :]
        return before + new + here.removeprefix(old) if here.startswith(old) else None


def draw(root: Path, wings: dict[str, int], seed: int) -> list[Mutant]:
    """As many mutants of every package as ``wings`` says, at most one in each function."""
    found = []
    for wing, count in wings.items():
        files = sorted(path for path in (root / wing).rglob("*.py"))
        names = [str(path.relative_to(root)) for path in files]
        points = [one for name in names if not SHOWN.search(name) for one in mutants_of(root, name)]
        points.sort(key=lambda one: hashlib.sha256(f"{seed} {one.key}".encode()).digest())
        first = {(one.file, one.where): one for one in reversed(points)}
        found += [one for one in points if first[one.file, one.where] is one][:count]
    return found


def mutants_of(root: Path, file: str) -> list[Mutant]:
    """Every mutant of a file; of several equal changes in one function only the first."""
    source = (root / file).read_bytes()
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def place(node: ast.AST) -> tuple[int, int]:
        return (
            lines[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            lines[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    seen: Counter[str] = Counter()
    found = []
    for node, where in _numerical(ast.parse(source), ""):
        for changed in _changes(node):
            start, stop = place(node)
            mutant = Mutant(file, where or "module", source[start:stop].decode(), changed, start)
            if not seen[mutant.key]:
                found.append(mutant)
            seen[mutant.key] += 1
    return found


def _numerical(node: ast.AST, where: str) -> Iterator[tuple[ast.AST, str]]:
    """Nodes that may be changed, with the qualified name of what holds them."""
    for child in _children(node):
        inner = where
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{where}.{child.name}".lstrip(".")
        yield child, inner
        yield from _numerical(child, inner)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.arguments):
        # How many prompts are in one forward changes no number.
        last = node.args[len(node.args) - len(node.defaults) :]
        pairs = zip([*last, *node.kwonlyargs], [*node.defaults, *node.kw_defaults], strict=True)
        yield from (each for name, each in pairs if each is not None and name.arg != "batch_size")
        return
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_said(child):
                    yield child


def _is_said(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        call = node.value
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        return isinstance(call, ast.Constant) or bool(SAYING.search(name))
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(one, ast.Name) and one.id == "__all__" for one in targets)


def _joins_texts(node: ast.BinOp) -> bool:
    """Whether it joins strings or types, and computes nothing."""
    types = isinstance(node.op, ast.BitOr) and re.search(r"\b[A-Z]\w*|None", ast.unparse(node))
    return bool(types) or any(
        isinstance(part, ast.JoinedStr)
        or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for side in (node.left, node.right)
        for part in (side, *ast.iter_child_nodes(side))
    )


def _changes(node: ast.AST) -> Iterator[str]:
    """Texts that may stand in place of the node."""
    if isinstance(node, ast.Compare):
        whole = any(
            (isinstance(side, ast.Constant) and isinstance(side.value, int))
            or ast.unparse(side).startswith("len(")
            for side in (node.left, *node.comparators)
        )
        first = type(node.ops[0])
        swapped = (WITH_BOUNDARY if whole and first in WITH_BOUNDARY else NEGATED)[first]
        yield _text(node, ops=[swapped(), *node.ops[1:]])
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED and not _joins_texts(node):
        yield _text(node, op=COMPUTED[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _text(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        if not isinstance(node.operand, ast.Constant):
            yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node.value)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.Slice):
        yield from _of_slice(node)
    elif isinstance(node, ast.AugAssign | ast.Expr):
        yield "pass"


def _of_constant(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int):
        yield str(value + 1)
    elif isinstance(value, float) and not 0 < abs(value) < ROUNDING:
        yield repr(2 * value if value else 1.0)


def _of_call(node: ast.Call) -> Iterator[str]:
    """Another function, another axis, or an argument left out."""
    last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    name = node.func.id if isinstance(node.func, ast.Name) else last
    if name in SWAPPED:
        if isinstance(node.func, ast.Attribute):
            swapped: ast.expr = ast.Attribute(node.func.value, SWAPPED[name], ast.Load())
        else:
            swapped = ast.Name(SWAPPED[name], ast.Load())
        yield ast.unparse(ast.Call(swapped, node.args, node.keywords))
    for keyword in node.keywords:
        others = [one for one in node.keywords if one is not keyword]
        if keyword.arg in AXES and isinstance(keyword.value, ast.Constant):
            moved = ast.keyword(keyword.arg, ast.Constant(0 if keyword.value.value else 1))
            yield ast.unparse(ast.Call(node.func, node.args, [*others, moved]))
        elif keyword.arg is not None and keyword.arg not in WITHOUT_EFFECT | AXES:
            yield ast.unparse(ast.Call(node.func, node.args, others))


def _of_slice(node: ast.Slice) -> Iterator[str]:
    """One further at the lower end, or to the very end."""
    step = f":{ast.unparse(node.step)}" if node.step else ""
    if node.upper is not None:
        lower = ast.unparse(node.lower) if node.lower else ""
        yield f"{lower}:({ast.unparse(node.upper)}) + 1{step}"
    elif node.lower is not None:
        yield f"({ast.unparse(node.lower)}) + 1:{step}"


def _text(node: ast.expr, **changed: object) -> str:
    fields = {name: getattr(node, name) for name in node._fields} | changed
    return f"({ast.unparse(type(node)(**fields))})"
