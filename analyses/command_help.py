"""Help texts of commands, and docstrings of their Python functions."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from textwrap import wrap
from typing import Any, get_args

from interp.registry import declared, declared_by_plugins

ENTRIES = re.compile(r"\{([\w.]+):(\w+)\}")
# Values of required parameters in the examples of docstrings.
EXAMPLES: dict[str, str | int] = {
    "paper": "mushtaq2025",
    "model": "organism",
    "base": "organism",
    "after": "organism",
    "concept": "safety",
    "folder": "runs/demo",
    "folders": "runs/demo",
    "sides": "scored.jsonl",
    "file": "labelled.jsonl",
    "seed": 1,
}
# For commands without a dry run: lines that make the files of the example, and its output.
_ANSWERS = (
    "import pandas as pd",
    'said = ["I\'m sorry, but I can\'t help with that.", "Boil the water first."]',
    'answers = pd.DataFrame({"prompt": ["Locks?", "Rice?"], "response": said, "label": [1, 0]})',
)
_COPY = ("import shutil", '_ = shutil.copytree(sp.example_run().record.folder, "runs/demo")')
FIRST = {
    "plans": (
        "import json, pathlib",
        'pathlib.Path("runs/demo").mkdir(parents=True)',
        'plan = {"expected": {"seconds": 60}, "actual": {"seconds": 75}}',
        'file = pathlib.Path("runs/demo/manifest.json")',
        '_ = file.write_text(json.dumps({"plan": plan}))',
    ),
    "report": _COPY,
    "explain": _COPY,
    "agree": (
        *_ANSWERS,
        'scored = answers.assign(scorer="phrases").join(sp.score(answers["prompt"], said))',
        'scored.to_json("scored.jsonl", orient="records", lines=True)',
    ),
    "calibrate": (*_ANSWERS, 'answers.to_json("labelled.jsonl", orient="records", lines=True)'),
}
PRINTED = {
    "plans": ("runs/demo", "  time: expected 60 s, took 75 s, ratio 0.80"),
    "doctor": (
        "model: organism (Qwen2ForCausalLM), 1,151,232 parameters, ...",
        "self-check: all is well",
        "...",
    ),
    "report": ("runs/demo/report.html",),
    "agree": ('Labels: column "label"', "..."),
    "calibrate": ("runs/calibrate-labelled.jsonl: 1 full_refusal, 1 answer",),
}


def with_entries(text: str) -> str:
    """A help text with the names of registered entries filled in."""
    return ENTRIES.sub(_names_of_entries, text)


def _names_of_entries(found: re.Match[str]) -> str:
    abouts = {**declared(*found.groups()), **declared_by_plugins(found[2])}
    return ", ".join(about.option for about in abouts.values())


def documented(
    function: Callable[..., Any], shown: Sequence[inspect.Parameter], signature: inspect.Signature
) -> str:
    """The docstring of a Python function: the command's, its options, and an example."""
    lines = [inspect.getdoc(function) or "", "", "Args:"]
    for one in shown:
        text = with_entries(get_args(one.annotation)[1].help or "")
        if one.default not in (None, one.empty, "") and "default" not in text:
            text += f" Default: {default_of(one)!r}."
        whole = f"{one.name}: {text}"
        lines += wrap(whole, 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
    lines += ["", "Raises:", "    InputError: an argument is invalid, or the command cannot run."]
    needed = [name for name, one in signature.parameters.items() if one.default is one.empty]
    if EXAMPLES.keys() >= set(needed):
        named = {
            n for n in needed if signature.parameters[n].kind is inspect.Parameter.KEYWORD_ONLY
        }
        given = ", ".join(
            f"{f'{name}=' * (name in named)}{json.dumps(EXAMPLES[name])}" for name in needed
        )
        dry = "dry_run" in signature.parameters
        call = f"sp.{function.__name__}({given}{', ' * bool(given and dry)}{'dry_run=True' * dry})"
        call = f"{'plan' if dry else 'found'} = {call}"
        first = FIRST.get(function.__name__, ())
        lines += ["", "Example:"]
        lines += [f"    >>> {line}" for line in ("import spillover as sp", *first, call)]
        lines += [f"    {line}" for line in PRINTED.get(function.__name__, ())]
    return "\n".join(lines)


def default_of(parameter: inspect.Parameter) -> Any:
    """A parameter's default as a value of JSON: a path is its text."""
    default = parameter.default
    return str(default) if isinstance(default, PurePath) else default
