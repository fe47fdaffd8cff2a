"""The hash of a user's code changes with what the code computes, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from interp.plugins import own_source
from unlearning.losses.objectives import npo

MINE = """
import math
import functools
import numpy as np
{imports}
SCALE = {scale}
TABLE = {{"a": {{1, 2, 3}}, "b": np.arange(3)}}
def helper(x):
    return {sign}x * SCALE
bound = functools.partial(helper)
class Kept:
    def __init__(self, k): self.k = k
    def run(self, x): return helper(x) + self.k
KEPT = Kept({kept})
UNUSED = {unused}
def loss(log_probs, mask, *, beta={beta}):
    {comment}
    return [KEPT.run(v) for v in log_probs] + [TABLE, {call}, bound]
"""
PLAIN = {
    "imports": "",
    "scale": "1.0",
    "sign": "-",
    "kept": "2",
    "unused": "1",
    "beta": "0.1",
    "comment": "pass",
    "call": "math.pi",
}


def made(tmp_path: Path, **changed: str) -> types.FunctionType:
    """The loss of a plug-in file with some parts changed, as plug-ins are run."""
    from interp import plugins

    path = tmp_path / "mine.py"
    path.write_text(MINE.format(**{**PLAIN, **changed}), encoding="utf-8")
    plugins.use(path)
    plugins._LOADED.clear()
    plugins.load_all()
    [module] = (m for name, m in sys.modules.items() if getattr(m, "__file__", "") == str(path))
    return module.loss


def test_code_of_the_package_is_known_by_its_schema() -> None:
    assert own_source(npo) is None


@pytest.mark.parametrize(
    "changed",
    [{"sign": ""}, {"scale": "2.0"}, {"kept": "3"}, {"beta": "0.2"}, {"call": "math.e"}],
    ids=lambda one: next(iter(one)),
)
def test_the_hash_changes_with_what_is_computed(tmp_path: Path, changed: dict[str, str]) -> None:
    assert own_source(made(tmp_path, **changed)) != own_source(made(tmp_path))


def test_the_hash_does_not_change_with_what_is_not_read(tmp_path: Path) -> None:
    before = own_source(made(tmp_path))
    assert own_source(made(tmp_path, unused="2", imports="import json")) == before
    (tmp_path / "moved").mkdir()
    assert own_source(made(tmp_path / "moved")) == before


def test_the_code_of_imported_files_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for sign in ("-", "+"):
        (tmp_path / "mine_more.py").write_text(f"def more(x):\n    return {sign}x\n")
        for how, call in (("import mine_more", "mine_more.more(1)"),
                          ("from mine_more import more", "more(1)")):  # fmt: skip
            monkeypatch.delitem(sys.modules, "mine_more", raising=False)
            monkeypatch.setattr(sys, "dont_write_bytecode", True)
            found.append(own_source(made(tmp_path, imports=how, call=call)))
    assert len(set(found)) == 4


def test_a_closure_s_value_is_part_of_the_function() -> None:
    def scaled(by: float) -> types.FunctionType:
        def loss(x: float) -> float:
            return by * x

        return loss  # type: ignore[return-value]

    assert own_source(scaled(1.0)) != own_source(scaled(-1.0))
    assert own_source(scaled(1.0)) == own_source(scaled(1.0))


def test_the_hash_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Sets are in another order there, and objects at other addresses."""
    here = own_source(made(tmp_path))
    code = (
        "from interp import plugins; from interp.plugins import own_source; import sys;"
        f"plugins.use({str(tmp_path / 'mine.py')!r}); plugins.load_all();"
        "m = [m for n, m in sys.modules.items() if n.startswith('spillover_plugin')];"
        "print(own_source(m[0].loss))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert there.stdout.strip() == here, there.stderr


FLIPPED = """
def times(f):
    @functools.wraps(f)
    def g(x):
        return {}f(x)
    return g
@times
def inner(x):
    return x
"""


def test_a_decorator_s_code_is_read_too(tmp_path: Path) -> None:
    found = [
        own_source(made(tmp_path, imports=FLIPPED.format(sign), call="inner(1)"))
        for sign in ("", "-")
    ]
    assert found[0] != found[1]


def test_functions_typed_into_a_prompt_are_known_by_their_code() -> None:
    def typed(sign: str) -> types.FunctionType:
        scope: dict[str, object] = {"__name__": "__main__"}
        exec(f"def loss(x):\n    return [{sign}y for y in x]", scope)
        return scope["loss"]  # type: ignore[return-value]

    assert own_source(typed("-")) != own_source(typed("+"))
    assert own_source(typed("-")) == own_source(typed("-"))
