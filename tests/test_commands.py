"""One command line: its names, its defaults, its help; and the Python function of every command."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import spillover
from analyses.cli import COMMANDS, GROUPS, app
from analyses.command_help import with_entries
from analyses.commands import OLD_OPTIONS, OLD_VALUES, Command, DryRun, default_out
from analyses.options import known_model
from experiments.front_door_stub import command_functions, stub_text
from interp.errors import InputError
from interp.store import write_json
from tests.conftest import Spillover
from unlearning.organism import shipped


def every_command() -> Iterator[tuple[str, Any]]:
    """All commands that do something, by what one types."""

    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield path, command
            return
        for name in command.list_commands(None):
            yield from walk(command.commands[name], f"{path} {name}".strip())

    yield from walk(typer.main.get_command(app), "")


EVERY = dict(every_command())
OF_A_MODEL = [
    path
    for path, one in EVERY.items()
    if {"model", "base"} & {p.name for p in one.params} and path != "doctor"  # it writes nothing
]
FUNCTIONS = command_functions()
TIMED = re.compile(r"(?m)^(time|memory|device): .*$")  # measured at this moment
# What a dry run needs besides its model.
GIVEN: dict[str, dict[str, Any]] = {
    "demo": {"seeds": 2},
    "evaluate": {"scorer": ["grammar", "phrases"], "split": "test", "max_new_tokens": 8},
    "study": {
        "concept": ["safety", "privacy"],
        "retain": ["bias", "toxicity"],
        "retain_weight": [1, 0.5],
        "option": {"beta": 0.2},
        "learning_rate": 1e-4,
        "control": False,
    },
    "compare": {"concept": "safety", "chat_template_arg": {"enable_thinking": False}},
    "matrix": {"objective": ("npo", "sim_npo"), "seeds": 1, "forgetting_level": 0.5},
    "reproduce": {"concept": "cybersecurity", "epochs": 1, "grid": True},
    "predict": {"concept": "safety", "trainable": "lora", "kernel": "adapters"},
    "contain": {"concept": "safety", "methods": ["equal", "random"], "examples": [8], "splits": 1},
    "deflect": {"concept": "safety", "samples": 2, "temperature": 1},
    "organism_teach": {"concept": "safety", "circuits": "routed", "minutes": 5},
}
ARGUMENTS = {
    "demo": (),
    "compare": ("organism", "organism"),
    "reproduce": ("mushtaq2025", "organism"),
}


def arguments_of(name: str) -> tuple[str, ...]:
    return ARGUMENTS.get(name, ("organism",))


# Names and defaults


@pytest.mark.parametrize("path", OF_A_MODEL)
def test_a_command_of_a_model_has_the_same_form_as_the_others(path: str) -> None:
    """MODEL comes first without a name; prompts and the folder of results have defaults."""
    of = {one.name: one for one in EVERY[path].params}
    assert all(of[n].param_type_name == "argument" for n in ("model", "after") if n in of)
    assert "--model" not in {name for one in of.values() for name in one.opts}
    assert not of["prompts"].required and not of["out"].required
    assert of["out"].default.parts[0] == "runs"
    assert of["dry_run"].opts == ["--dry-run"]


@pytest.mark.parametrize("path", EVERY)
def test_an_option_is_named_alike_everywhere(path: str) -> None:
    """In Python as on the command line; where results go has a default in every command."""
    for one in EVERY[path].params:
        named = one.name if one.param_type_name == "argument" else "--" + one.name.replace("_", "-")
        assert one.opts[0] == named
        assert one.name != "out" or not one.required


def test_the_same_option_has_the_same_help_everywhere() -> None:
    texts: dict[str, set[str]] = {}
    for command in EVERY.values():
        for one in command.params:
            texts.setdefault(one.opts[0], set()).add(one.help)
    several = {name for name, found in texts.items() if len(found) > 1}
    # One or several of a thing, a file instead of a folder, or what an option is of: teaching has
    # settings with the names of unlearning's.
    once = ["concept", "scorer", "out", "label-column", "batch-size", "seed", "lora-rank",
            "samples", "temperature", "learning-rate", "max-steps", "prompts",
            "circuits"]  # fmt: skip
    assert several <= {f"--{name}" for name in (*once, "retain-ratio")} | {
        "file", "folder", "model", "name",
    }  # fmt: skip


@pytest.mark.parametrize("path", EVERY)
def test_help_is_a_phrase_that_says_what_an_option_does(path: str) -> None:
    for one in EVERY[path].params:
        text = with_entries(one.help or "")
        assert len(text.split()) > 3 and text[0].isupper() and text.endswith("."), text
        unsaid = one.default in (None, "") and not one.required and not one.multiple
        assert not unsaid or "default" in text, text


@pytest.mark.parametrize("path", EVERY)
def test_every_command_says_in_a_sentence_what_it_does(path: str) -> None:
    first = EVERY[path].help.partition("\n\n")[0]
    assert len(first.split()) > 3 and first.endswith("."), first


@pytest.mark.parametrize("path", ["", "prompts", *EVERY])
def test_h_is_help_at_every_level(path: str, spillover: Spillover) -> None:
    code, said, _ = spillover(*path.split(), "-h")
    assert code == 0 and said == spillover(*path.split(), "--help")[1] and "-h, --help" in said


def test_commands_are_shown_by_group(spillover: Spillover) -> None:
    said = spillover("--help")[1]
    places = [said.index(f"\n{title}:") for title in GROUPS]
    assert places == sorted(places)
    assert all(re.search(rf"^  {name} ", said, re.MULTILINE) for name in COMMANDS)


# Old names


def renamed_in(old: str, new: str) -> Any:
    """A command that has an option, or argument, under its new name alone."""
    names = ({n for p in one.params for n in (*p.opts, p.name.upper())} for one in EVERY.values())
    return next(
        one for one, has in zip(EVERY.values(), names, strict=True) if new in has and old not in has
    )


@pytest.mark.parametrize(("old", "new"), OLD_OPTIONS)
def test_an_old_name_is_taken_and_the_new_one_told(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = renamed_in(old, new)
    for typed in ([old, "x"], [f"{old}=x"]):
        words = command.with_new_names(["--before", *typed, "--", "after"])
        told = capsys.readouterr().err
        assert told == f"{old} is now {new}; version 0.3 removes the old name\n"
        if new.isupper():
            assert words == ["--before", "--", "after", "x"]
        else:
            assert words == [
                "--before",
                new + typed[0].removeprefix(old),
                *typed[1:],
                "--",
                "after",
            ]
    assert command.with_new_names(["--before", new, "x"]) == ["--before", new, "x"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("option", "old"), OLD_VALUES)
def test_an_old_value_is_taken_and_the_new_one_told(
    option: str, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = renamed_in(old, option)
    new = OLD_VALUES[option, old]
    assert command.with_new_names([option, old]) == [option, new]
    assert command.with_new_names([f"{option}={old}"]) == [f"{option}={new}"]
    assert command.with_new_names([option, f"a,{old},b"]) == [option, f"a,{new},b"]
    assert capsys.readouterr().err.count(f"{option} {old} is now {option} {new}") == 3


def test_a_command_as_it_was_typed_plans_the_same(spillover: Spillover) -> None:
    old = ["study", "--model", "organism", "--concept", "safety", "--stop-at", "0.5", "--plan"]
    new = ["study", "organism", "--concept", "safety", "--forgetting-level", "0.5", "--dry-run"]
    told, planned = spillover(*old)[2], spillover(*new)[2]
    assert TIMED.sub("", told).endswith(TIMED.sub("", planned))
    assert told.count("; version 0.3 removes the old name") == 3
    assert spillover("contain", "--no-residue")[2].startswith(
        "--no-residue is now --no-shallow-recovery;"
    )
    # A name that means something else in a command stays.
    assert Command.with_new_names(EVERY["prompts make"], ["--label", "harmful"]) == [
        "--label", "harmful",
    ]  # fmt: skip


def test_a_method_has_its_old_name_in_files() -> None:
    plans = [
        FUNCTIONS["contain"]("organism", concept="safety", methods=name, splits=1, dry_run=True)
        for name in ("wording", "twins")
    ]
    assert plans[0].lines[:3] == plans[1].lines[:3]
    assert any(arm.name.startswith("safety-npo-twins-") for arm in plans[0].plan.arms)


# The nearest name


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("stdy", "study"),
        ("prompts mke", "make"),
        ("study organism --concpt safety", "--concept"),
        ("study organism --concept safty", "safety"),
        ("study organism --concept safety --objective npoo", "npo"),
        ("study organism --concept safety --scorer phrase", "phrases"),
        ("study organism --concept safety --estimator mean_diference", "mean_difference"),
        ("study organism --concept safety --retain privcy", "privacy"),
        ("study organism --concept safety --retain-objective cross-entropy", "cross_entropy"),
        ("study organism --concept safety --trainable lore", "lora"),
        ("evaluate organism --split tset", "test"),
        ("deflect organism --concept safty", "safety"),
        ("predict organism --concept safety --kernel adapter", "adapters"),
        ("matrix organism --quantity L_9", "L_90"),
        ("matrix organism --engine locl", "local"),
        ("contain organism --concept safety --methods equl", "equal"),
        ("reproduce mushtaq organism", "mushtaq2025"),
        ("prompts make harmbnch", "harmbench"),
        ("score answers.jsonl --scale refusals", "refusal"),
    ],
)
def test_the_nearest_name_is_suggested(words: str, near: str, spillover: Spillover) -> None:
    code, _, said = spillover(*words.split())
    assert code == 2
    assert f"did you mean '{near}'?" in said.lower().replace(near.lower(), near) or (
        f"Possible options: {near}" in said
    )


# The organism, and where results go


def test_the_organism_has_a_name(spillover: Spillover, tmp_path: Path) -> None:
    assert known_model("organism") == str(shipped())
    assert known_model("./organism") == "./organism"
    (tmp_path / "organism").mkdir()
    _, _, by_name = spillover("deflect", "organism", "--concept", "safety", "--dry-run")
    assert f"model: {shipped()}" in by_name
    _, _, by_path = spillover("deflect", "./organism", "--concept", "safety", "--dry-run")
    assert "not a model folder" in by_path
    _, _, as_base = spillover("evaluate", "organism", "--base", "organism", "--dry-run")
    assert str(shipped()) in as_base and "not found" not in as_base


def test_results_go_where_the_inputs_say(tmp_path: Path) -> None:
    answers = tmp_path / "answers.v2.jsonl"
    answers.touch()
    given = {
        "model": "Qwen/Qwen2.5-1.5B-Instruct",
        "concept": ["safety", "bias"],
        "base": str(shipped()),
        "after": "runs/one/arms/safety-npo-seed0/adapter",
        "file": answers,
        "scorer": "judge:gpt@http://host",
        "none": None,
    }
    for template, path in {
        "runs/study-MODEL-CONCEPT": "runs/study-Qwen2.5-1.5B-Instruct-safety-bias",
        "runs/compare-BASE-AFTER": "runs/compare-organism-safety-npo-seed0",
        "runs/score-FILE-SCORER.jsonl": "runs/score-answers.v2-judge-gpt-host.jsonl",
        "runs/x-NONE": "runs/x",
    }.items():
        assert default_out(template, given) == Path(path)
    with pytest.raises(InputError, match="--out"):
        default_out("runs/tournament-FILE", {"file": [f"run-of-a-long-name-{n}" for n in range(9)]})


def test_a_folder_keeps_its_results_from_other_settings(
    spillover: Spillover, tmp_path: Path
) -> None:
    planned = FUNCTIONS["study"]("organism", concept="safety", dry_run=True)
    from analyses.study import name_of, prompts_of

    folder = tmp_path / "runs" / "study-organism-safety"
    for arm in planned.plan.arms:
        write_json(folder / "arms" / arm.name / "config.json", arm.describe(planned.plan.stop_at))
        (folder / "arms" / arm.name / "DONE").touch()
    config = {"model_name": name_of(str(shipped())), "estimator": "mean_difference"}
    write_json(folder / "config.json", config)
    prompts_of(planned.plan).to_parquet(folder / "prompts.parquet")
    same = ["study", "organism", "--concept", "safety", "--dry-run"]
    assert spillover(*same)[0] == 0
    for other, name in (
        (["--learning-rate", 1], "another learning_rate"),
        (["--forgetting-level", 0.5], "another stop_at"),
        (["--estimator", "logistic_probe"], "another estimator"),
    ):
        code, _, said = spillover(*same, *other)
        assert code == 2 and name in said and "give another --out" in said
        assert spillover(*same, *other, "--out", "elsewhere")[0] == 0


# Python


@pytest.mark.parametrize("name", GIVEN)
def test_a_function_plans_what_its_command_plans(name: str, spillover: Spillover) -> None:
    planned = FUNCTIONS[name](*arguments_of(name), dry_run=True, **GIVEN[name])
    assert isinstance(planned, DryRun)
    words = [*name.split("_"), *arguments_of(name), *typed(GIVEN[name])]
    code, shown, said = spillover(*words, "--dry-run")
    assert (code, shown) == (0, "") and TIMED.sub("", said) == TIMED.sub("", f"{planned}\n")


def typed(given: dict[str, Any]) -> list[object]:
    """Keywords as they are typed; written here anew, by hand as it were."""
    words: list[object] = []
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-"))
        elif isinstance(value, dict):
            words += [part for k, v in value.items() for part in (option, f"{k}={json.dumps(v)}")]
        elif name in ("retain", "objective", "methods", "examples"):
            words += [option, ",".join(map(str, value))]
        else:
            several = value if isinstance(value, list) else [value]
            words += [part for one in several for part in (option, one)]
    return words


def test_a_function_keeps_the_command_that_one_would_type() -> None:
    planned = FUNCTIONS["study"](
        "organism", concept="safety", system="-v says 'hi'", prompts=None, dry_run=True
    )
    assert planned.plan.command == (
        "spillover study organism --concept safety '--system=-v says '\"'\"'hi'\"'\"'' --dry-run"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"forgetting_level": 7}, "'--forgetting-level': Input should be less than or equal to 1"),
        ({"seeds": 0}, "'--seeds'"),
        ({"seeds": 1.5}, "'--seeds'"),
        ({"seeds": [1, 2]}, "seeds is [1, 2]; expected one value"),
        ({"control": "no"}, "control is 'no'; expected True or False"),
        ({"concept": "safty"}, "did you mean 'safety'? Expected one of"),
        ({"prompts": "absent.jsonl"}, "absent.jsonl does not exist"),
        ({"out": "s3://bucket/run"}, "s3://bucket/run is not on a file system of this machine"),
    ],
)
def test_what_a_command_refuses_its_function_refuses(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        FUNCTIONS["study"]("organism", **{"concept": "safety", "dry_run": True, **given})


def test_an_unknown_keyword_is_a_type_error_that_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"study\(\) has no option 'sed'; did you mean 'seed"):
        FUNCTIONS["study"]("organism", concept="safety", sed=1)
    with pytest.raises(TypeError, match="concept"):
        FUNCTIONS["study"]("organism")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_its_command_s_options(name: str) -> None:
    function, command = FUNCTIONS[name], EVERY[name.replace("_", " ")]
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [one.name for one in command.params]
    assert function.__name__ == name
    for one in command.params:
        assert f"    {one.name}: " in (function.__doc__ or "")
        default = parameters[one.name].default
        assert (default is inspect.Parameter.empty) == one.required
        given = str(one.default) if one.name == "out" and one.default else one.default
        assert one.required or default == given


def test_the_front_door_s_stub_has_every_function() -> None:
    """What the package has is what is written today."""
    tree = ast.parse(stub_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert functions.keys() == FUNCTIONS.keys()
    shipped_stub = ast.parse((Path(spillover.__file__).with_suffix(".pyi")).read_text())
    given_out = {node.name: node for node in shipped_stub.body if isinstance(node, ast.FunctionDef)}
    for name, node in functions.items():
        assert ast.unparse(given_out[name]) == ast.unparse(node), (
            "see experiments/front_door_stub.py"
        )
    for name, node in functions.items():
        names = [one.arg for one in (*node.args.args, *node.args.kwonlyargs)]
        assert names == list(inspect.signature(FUNCTIONS[name]).parameters)
