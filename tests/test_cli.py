"""What a user gets wrong: one clear line, exit code 2, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from analyses.options import named_values
from interp.model import LanguageModel
from tests.conftest import Spillover
from tests.fuzzing import write_jsonl
from unlearning.data import DOMAINS, matched_pairs
from unlearning.organism import shipped

CONCEPT = "safety"
SPLIT_SIZE = {"train": 32, "validation": 4, "test": 4}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading any model fails the test."""

    def loaded(*_arguments: object, **_options: object) -> None:
        pytest.fail("a model was loaded before the input was checked")

    monkeypatch.setattr(LanguageModel, "load", loaded)


def rows(domains: tuple[str, ...] = ("safety", "privacy", "bias")) -> list[dict[str, str]]:
    """Prompts that say nothing: what the command line checks is their form."""
    return [
        {
            "prompt": f"{label} {domain} {split} {number}",
            "domain": domain,
            "label": label,
            "split": split,
        }
        for domain in domains
        for label in ("harmful", "benign")
        for split, count in SPLIT_SIZE.items()
        for number in range(count)
    ]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", rows())


def one_line(result: tuple[int, str, str]) -> str:
    """The error of a refused command: a single line, exit code 2, nothing else printed."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.rstrip().endswith(errors[0]), err
    assert "Traceback" not in err
    return errors[0]


def unlearn(
    prompts: object, *more: object, concept: str = CONCEPT, model: object = shipped()
) -> list[object]:
    required = [model, "--concept", concept, "--prompts", prompts]
    return ["study", *required, "--out", "run", *more]


# Prompt files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ('{"prompt": "a", "label": "harmful"}\n', 'no column "domain"'),
        ('{"prompt": "a", "domain": "safety", "label": "benign"}\n', "no harmful rows"),
        ('{"prompt": "a", "domain": "safety", "label": "harmful"}\n', "no benign rows"),
        ('{"prompt": "a", "domain": "safety", "label": "benign"}\n{"prompt": "b", "dom', "line 2"),
        ('{"prompt": "a", "domain": "crime", "label": "harmful"}\n', 'unknown domain "crime"'),
        ('{"prompt": "a", "domain": "safety", "label": "evil"}\n', 'unknown label "evil"'),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_a_prompt_file_that_does_not_fit(
    spillover: Spillover, tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    line = one_line(spillover(*unlearn(path)))
    assert expected in line and "bad.jsonl" in line
    assert one_line(spillover("compare", shipped(), shipped(), "--prompts", path)) == line
    assert not (tmp_path / "run").exists() and not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_model")
def test_a_prompt_file_that_is_not_there(spillover: Spillover, tmp_path: Path) -> None:
    assert "absent.jsonl does not exist" in one_line(spillover(*unlearn("absent.jsonl")))
    assert "is a folder" in one_line(spillover(*unlearn(tmp_path)))


COMMANDS_OF_A_MODEL = [
    ["study", "nothere", "--concept", CONCEPT, "--out", "run", "--scorer", "vibes"],
    ["unlearn", "nothere", "--concept", CONCEPT, "--out", "run", "--objective", "wish"],
    ["compare", "nothere", "nothere", "--prompts", "absent.jsonl"],
    ["evaluate", "nothere", "--split", "none"],
    ["deflect", "nothere", "--concept", "none", "--out", "run"],
    ["predict", "nothere", "--concept", CONCEPT, "--dry-run", "--kernel", "none"],
    ["matrix", "nothere", "--out", "run", "--quantity", "none"],
    ["contain", "nothere", "--concept", CONCEPT, "--out", "run", "--engine", "none"],
    ["reproduce", "mushtaq2025", "nothere", "--out", "run", "--tasks", "piqa"],
]


@pytest.mark.parametrize("command", COMMANDS_OF_A_MODEL, ids=lambda command: command[0])
@pytest.mark.usefixtures("no_model")
def test_a_model_that_is_not_there_is_named_before_anything_else(
    spillover: Spillover, tmp_path: Path, command: list[str]
) -> None:
    assert "model nothere not found" in one_line(spillover(*command))
    assert not list(tmp_path.iterdir())


PLANS = [
    ["study", "MODEL", "--concept", CONCEPT, "--out", "run"],
    ["unlearn", "MODEL", "--concept", CONCEPT, "--out", "run"],
    ["compare", "MODEL", "MODEL"],
    ["evaluate", "MODEL", "--scorer", "phrases"],
    ["deflect", "MODEL", "--concept", CONCEPT, "--out", "run"],
    ["predict", "MODEL", "--concept", CONCEPT],
    ["matrix", "MODEL", "--out", "run"],
    ["contain", "MODEL", "--concept", CONCEPT, "--out", "run"],
    ["reproduce", "mushtaq2025", "MODEL", "--out", "run"],
]


@pytest.mark.parametrize("command", PLANS, ids=lambda command: command[0])
@pytest.mark.usefixtures("no_model")
def test_a_model_that_is_no_organism_is_asked_the_built_in_prompts(
    spillover: Spillover, checkpoint_of: Callable[[str], Path], command: list[str]
) -> None:
    model = checkpoint_of("qwen2")
    given = [model if word == "MODEL" else word for word in command]
    code, _, err = spillover(*given, "--dry-run")
    assert code == 0, err
    shown = next(line for line in err.splitlines() if line.startswith("prompts: "))
    assert f"prompts: {len(matched_pairs())}" in shown or "harmful training prompts of" in shown


# Options


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--scorer", "vibes"], "expected one of classifier, grammar"),
        (["--objective", "wish"], "npo"),
        (["--trainable", "some"], "lora"),
        (["--retain", CONCEPT], f"{CONCEPT} cannot be retained"),
        (["--retain", "privacy,crime"], "crime cannot be retained"),
        (["--retain", "toxicity"], "toxicity cannot be retained"),  # has no prompts
        (["--retain", ","], "nothing cannot be retained"),
        (["--batch-size", "32", "--micro-batch-size", "5"], "does not divide"),
        (["--chat-template", "absent.jinja"], "absent.jinja"),
        (["--chat-template", "utf16.jinja"], "utf16.jinja: not UTF-8 text"),
        (["--retain", "bias", "--retain-weight", "-1"], "--retain-weight"),
        (["--retain", "bias", "--retain-weight", "nan"], "--retain-weight"),
        (["--retain-weight", "1"], "give --retain"),
        (["--adaptive"], "give --retain"),
        (["--seed", "-1"], "--seed"),
        (["--chat-template-arg", "enable_thinking"], "name=value"),
        (["--system", " "], "--system is empty"),
        (["--deflections", "absent.jsonl"], "absent.jsonl does not exist"),
        (["--deflections", "few.jsonl"], "holds 31 deflections; unlearning needs at least 32"),
        (["--deflections", "few.jsonl", "--concept", "bias"], "one --concept"),
        (["--concept", "bias", "--concept", "toxicity"], '"toxicity" has no harmful prompts'),
    ],
)
@pytest.mark.parametrize("only_plan", [False, True], ids=["run", "plan"])
@pytest.mark.usefixtures("no_model")
def test_an_option_that_cannot_be_met(
    spillover: Spillover,
    tmp_path: Path,
    prompts: Path,
    more: list[str],
    expected: str,
    only_plan: bool,
) -> None:
    write_jsonl(tmp_path / "few.jsonl", [{"prompt": "a", "response": "No."}] * 31)
    (tmp_path / "utf16.jinja").write_bytes("{{ messages }}".encode("utf-16"))
    line = one_line(spillover(*unlearn(prompts, *more, *["--dry-run"] * only_plan)))
    assert expected in line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
def test_what_is_named_twice_is_done_once(spillover: Spillover, prompts: Path) -> None:
    words = ("--retain", "bias,bias", "--retain-weight", "1", "--retain-weight", "1.0", "--dry-run")
    code, _, said = spillover(*unlearn(prompts, *words))
    [line] = [line for line in said.splitlines() if line.startswith("arms: ")]
    named = line.partition("(")[2].rstrip(")").split(", ")
    assert code == 0 and len(named) == len(set(named)) == 3
    assert "retained in some arms: bias\n" in said


def test_values_of_names_are_json_or_as_python_has_them() -> None:
    """The text "False" would be true in a template."""
    given = ["a=false", "b=False", "c=None", "d=0.5", 'e="False"', "f=2024-01-01", "g=x=y"]
    expected = [False, False, None, 0.5, "False", "2024-01-01", "x=y"]
    assert list(named_values(given, "--option").values()) == expected


@pytest.mark.usefixtures("no_model")
def test_given_deflections_are_in_the_plan_and_so_are_test_prompts_among_them(
    spillover: Spillover, tmp_path: Path, prompts: Path
) -> None:
    tested = [row["prompt"] for row in rows() if row["split"] == "test"][:3]
    for asked, warned in (([], False), ([text.upper() for text in tested], True)):
        pairs = [{"prompt": text, "response": "No."} for text in [*asked, *map(str, range(40))]]
        given = ("--deflections", write_jsonl(tmp_path / "given.jsonl", pairs), "--dry-run")
        code, _, said = spillover(*unlearn(prompts, *given))
        assert code == 0 and f"deflections: those in {tmp_path / 'given.jsonl'}\n" in said, said
        assert ("given.jsonl holds 3 of the " in said) is warned
    _, _, said = spillover(*unlearn(prompts, *given, "--retain", "privacy"))
    assert "given.jsonl; of retained domains: greedy refusals" in said


@pytest.mark.usefixtures("no_model")
def test_too_few_prompts_to_deflect(spillover: Spillover, tmp_path: Path) -> None:
    of_bias = [r for r in rows() if (r["domain"], r["split"]) == ("bias", "train")]
    harmful = [r for r in of_bias if r["label"] == "harmful"]
    few = write_jsonl(tmp_path / "few.jsonl", [r for r in rows() if r not in harmful[:7]])
    three = write_jsonl(tmp_path / "three.jsonl", [r for r in rows() if r not in harmful[3:]])
    for result in (
        spillover(*unlearn(few, "--samples", "0", concept="bias")),
        spillover(*unlearn(three, concept="bias")),  # three times nine answers
    ):
        line = one_line(result)
        assert "harmful training prompts, too few for 32 deflections" in line
        assert "with enough: privacy, safety" in line and "--deflections" in line
    code, _, said = spillover(*unlearn(three, "--retain", "bias,privacy", "--dry-run"))
    [line] = [line for line in said.splitlines() if "left out" in line]
    assert code == 0 and "bias has 3 different harmful training prompts" in line


@pytest.mark.usefixtures("no_model")
def test_a_concept_that_cannot_be_unlearned(
    spillover: Spillover, prompts: Path, tmp_path: Path
) -> None:
    line = one_line(spillover(*unlearn(prompts, concept="crime")))
    assert 'unknown concept "crime"' in line and all(domain in line for domain in DOMAINS)
    line = one_line(spillover(*unlearn(prompts, concept="toxicity")))
    assert "no harmful prompts" in line and "safety" in line
    no_test = [r for r in rows() if (r["domain"], r["split"]) != (CONCEPT, "test")]
    unsplit = write_jsonl(tmp_path / "unsplit.jsonl", no_test)
    assert "none for test" in one_line(spillover(*unlearn(unsplit)))
    compare = ["compare", shipped(), shipped(), "--prompts", prompts, "--concept", "crime"]
    assert 'unknown concept "crime"' in one_line(spillover(*compare))


# Models and folders


@pytest.mark.usefixtures("no_model")
def test_a_folder_that_is_no_model(spillover: Spillover, prompts: Path, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    absent = tmp_path / "absent"
    study = ["study", "--concept", CONCEPT, "--prompts", prompts, "--out", "run"]
    for only_plan in ([], ["--dry-run"]):
        assert "not a model folder" in one_line(spillover(*study, hollow, *only_plan))
        assert "no folder" in one_line(spillover(*study, absent, *only_plan))
        assert "is a file" in one_line(spillover(*study, prompts, *only_plan))
        for pair in ((shipped(), absent), (absent, shipped())):
            compare = ["compare", *pair, "--prompts", prompts, *only_plan]
            assert "no folder" in one_line(spillover(*compare))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_torn_checkpoint(
    spillover: Spillover, prompts: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in shipped().iterdir():
        if file.name != "organism.json":
            (torn / file.name).write_bytes(
                file.read_bytes()[: 100_000 if "model" in file.name else None]
            )
    study = ["study", "--concept", CONCEPT, "--prompts", prompts, "--out", "run", torn]
    assert "could not be loaded" in one_line(spillover(*study))


def test_a_model_without_a_template_is_spoken_to_plainly_and_told_so(
    spillover: Spillover, prompts: Path, tmp_path: Path, checkpoint_of: Callable[[str], Path]
) -> None:
    template = tmp_path / "turns.jinja"
    template.write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}", encoding="utf-8")
    study = unlearn(prompts, "--max-new-tokens", 2, model=checkpoint_of("gpt2"))
    for more, told in (([], True), (["--chat-template", template, "--overwrite"], False)):
        result = spillover(*study, *more)
        # A random model refuses nothing, which is said too.
        assert "0 refusals of " in one_line(result)
        assert ("note: " in result[2] and "--chat-template FILE" in result[2]) == told
        assert "Warning" not in result[2]


@pytest.mark.usefixtures("no_model")
def test_another_study_s_folder_is_left_alone(
    spillover: Spillover, prompts: Path, tmp_path: Path
) -> None:
    arm = tmp_path / "run" / "arms" / "privacy-npo-seed0"
    arm.mkdir(parents=True)
    (arm / "DONE").write_text("key\n", encoding="utf-8")
    line = one_line(spillover(*unlearn(prompts)))
    assert "privacy-npo-seed0" in line and "--out" in line
    assert (arm / "DONE").read_text(encoding="utf-8") == "key\n"
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["arms", arm.name, "DONE"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("unlearn organism", "missing option '--concept' (Domain whose refusals are unlearned)"),
        ("score", "missing argument 'FILE'"),
        ("score a.jsonl --scorr phrases", "--scorer"),
        ("agree a.jsonl --rows many", "invalid value for '--rows'"),
        ("agree a.jsonl --rows", "'--rows' requires an argument"),
        ("stdy", "did you mean 'study'?"),
    ],
)
def test_a_wrong_or_missing_option_is_one_line(
    words: str, expected: str, spillover: Spillover
) -> None:
    code, out, said = spillover(*words.split())
    assert code == 2 and not out
    assert said.startswith("error: ") and said.count("\n") == 1
    assert expected in said or expected in said.replace("Did", "did")


def test_an_interrupt_is_one_line(
    spillover: Spillover, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "load", interrupted)
    given = ("--concept", CONCEPT, "--prompts", prompts, "--no-timing")
    code, _, said = spillover("deflect", shipped(), *given)
    assert code == 130 and said.splitlines()[-1].startswith("error: stopped by Ctrl-C; finished")


def test_no_argument_is_help_and_help_is_no_error(spillover: Spillover) -> None:
    for words, expected in (
        ((), 2),
        (("--help",), 0),
        (("score", "--help"), 0),
        (("--version",), 0),
    ):
        code, out, said = spillover(*words)
        assert code == expected and "error" not in (out + said).splitlines()[0]


def test_a_report_of_nothing(spillover: Spillover, tmp_path: Path) -> None:
    assert "start or resume the run first" in one_line(spillover("report", tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


# Plans


@pytest.mark.usefixtures("no_model")
def test_a_plan_is_printed_and_nothing_written(
    spillover: Spillover, prompts: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    commands = [
        ["demo", "--dry-run"],
        unlearn(prompts, "--retain", "equal", "--dry-run"),
        ["compare", shipped(), shipped(), "--prompts", prompts, "--dry-run"],
    ]
    for command in commands:
        code, out, err = spillover(*command)
        assert (code, out) == (0, "")
        words = ("model: ", "prompts: ", "arms: ", "memory: ", "time: ", "results: ")
        assert all(word in err for word in words)
    code, _, err = spillover(*commands[1])
    assert f"unlearned: {CONCEPT} (objective: npo; trained: " in err
    [retained] = [line for line in err.splitlines() if line.startswith("retained in some arms: ")]
    assert sorted(retained.split(": ")[1].split(", ")) == ["bias", "privacy"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
def test_the_plan_says_when_a_copy_of_the_model_is_held(spillover: Spillover) -> None:
    command = ["unlearn", shipped(), "--concept", CONCEPT, "--out", "run", "--dry-run"]
    kept = ["--retain", "privacy", "--retain-objective"]
    assert "frozen copy" not in spillover(*command, *kept, "cross_entropy")[2]
    assert "frozen copy" in spillover(*command, *kept, "kl")[2]
    assert "frozen copy" not in spillover(*command, *kept, "kl", "--trainable", "lora")[2]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--option", "gamma=1"), "npo has no option gamma; expected beta"),
        (("--option", "beta"), "--option beta: expected name=value"),
        (("--option", "beta=much"), "beta is 'much'; expected a number"),
        (("--retain-objective", "mse"), "no retain term 'mse'; expected one of cross_entropy"),
    ],
)
def test_options_of_objectives_are_checked_first(
    option: tuple[str, ...], message: str, spillover: Spillover
) -> None:
    code, out, error = spillover(
        "unlearn", shipped(), "--concept", CONCEPT, "--out", "run", "--dry-run", *option
    )
    assert code == 2 and not out
    assert message in error and "Traceback" not in error


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("command", "message"),
    [("contain", "distributed.md"), ("matrix", "--workers without a launcher")],
)
def test_several_processes_are_told_where_to_go(
    command: str, message: str, spillover: Spillover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--concept", CONCEPT, "--out", "run"] + ["--workers", "2"] * (command == "matrix")
    code, _, error = spillover(command, shipped(), *options)
    assert code == 2 and message in error


@pytest.mark.usefixtures("no_model")
def test_an_objective_with_a_scale_comes_from_a_file(spillover: Spillover, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from unlearning.losses.registry import objective\n"
        "@objective\n"
        "def with_a_scale(log_probs, mask, *, scale=2.0):\n"
        "    return scale * (log_probs * mask).sum(-1)\n",
        encoding="utf-8",
    )
    command = ["unlearn", shipped(), "--concept", CONCEPT, "--out", "run", "--dry-run"]
    command += ["--objective", "with_a_scale"]
    code, _, error = spillover(*command, "--objective-file", own, "--option", "scale=3")
    assert code == 0, error
    code, _, error = spillover(*command, "--objective-file", tmp_path / "none.py")
    assert code == 2 and "none.py: No such file" in error


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("grad_diff", "needs a retain set"),
        ("cross_entropy", "there is no objective 'cross_entropy'"),  # of retain sets and controls
    ],
)
def test_a_plan_is_refused_for_what_training_would_be(
    objective: str, message: str, spillover: Spillover
) -> None:
    command = ["unlearn", shipped(), "--concept", CONCEPT, "--out", "run", "--dry-run"]
    code, _, error = spillover(*command, "--objective", objective)
    assert code == 2 and message in error


@pytest.mark.usefixtures("no_model")
def test_pairs_need_a_column_of_compliances(spillover: Spillover, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "prompts.jsonl", rows())
    command = ["unlearn", shipped(), "--concept", CONCEPT, "--out", "run", "--dry-run"]
    code, _, error = spillover(*command, "--prompts", prompts, "--objective", "dpo")
    assert code == 2 and "column named compliance" in error
    others = [{**row, "compliance": None if row["domain"] == CONCEPT else "Yes."} for row in rows()]
    prompts = write_jsonl(tmp_path / "others.jsonl", others)
    code, _, error = spillover(*command, "--prompts", prompts, "--objective", "dpo")
    assert code == 2 and f"{CONCEPT} has none" in error
    # A domain that cannot be trained on needs none.
    more = [{**row, "compliance": "Yes."} for row in rows() if row["domain"] != "bias"]
    few = [{**row, "compliance": None} for row in rows(("bias",)) if row["prompt"].endswith(" 0")]
    prompts = write_jsonl(tmp_path / "few.jsonl", more + few)
    command = ["matrix", shipped(), "--out", "run", "--dry-run", "--no-timing"]
    code, _, said = spillover(*command, "--prompts", prompts, "--objective", "dpo")
    assert code == 0 and "left out: bias" in said


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("bound", "kept", "message"),
    [
        ("--utility-bound", {"label": "harmful"}, "benign validation prompts, and there are none"),
        ("--leak-bound", {"domain": CONCEPT}, f"domains other than {CONCEPT}, and there are none"),
    ],
)
def test_a_bound_that_nothing_measures_is_refused(
    bound: str, kept: dict[str, str], message: str, spillover: Spillover, tmp_path: Path
) -> None:
    """Else every model would be within it."""
    measured = [
        row for row in rows() if row["split"] != "validation" or kept.items() <= row.items()
    ]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", measured)
    command = ["unlearn", shipped(), "--concept", CONCEPT, "--out", "run", "--dry-run"]
    code, _, error = spillover(*command, "--prompts", prompts, bound, "0.1")
    assert code == 2 and message in error


def test_help_names_every_option_in_full_at_80_columns(
    spillover: Spillover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = spillover("study", "--help")
    for option in ("--retain-objective", "--gradient-checkpointing", "--chat-template-arg"):
        assert option in out
    assert spillover("--version")[1].strip()
