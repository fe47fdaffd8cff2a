"""``import spillover as sp``: it is light, it names what is there, and its examples run."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spillover as sp
from interp.errors import InputError
from tests.test_rooms import HEAVY, modules_after

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def lm() -> sp.LanguageModel:
    return sp.load("organism")


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    return few(sp.prompts("organism"))


def few(table: pd.DataFrame) -> pd.DataFrame:
    """A part of the organism's prompts: 40 harmful training prompts a domain."""
    sizes = {"train": 40, "validation": 8, "test": 8}
    kept = [
        table[table["split"] == split].groupby(["domain", "label"]).head(size)
        for split, size in sizes.items()
    ]
    return pd.concat(kept, ignore_index=True)


def fewer(prompts: pd.DataFrame) -> pd.DataFrame:
    """What safety is unlearned with, and 8 prompts of each other kind of two domains."""
    trained_on = (prompts["domain"] == "safety") & (prompts["label"] == "harmful")
    others = prompts[~trained_on & prompts["domain"].isin(["safety", "privacy"])]
    others = others.groupby(["label", "split"]).head(8)
    return pd.concat([prompts[trained_on], others], ignore_index=True)


@pytest.fixture(scope="module")
def after(lm: sp.LanguageModel, prompts: pd.DataFrame) -> sp.UnlearnedModel:
    return sp.unlearn(lm, prompts, concept="safety", max_steps=8, quiet=True)


def test_importing_it_loads_nothing_heavy() -> None:
    assert not modules_after("import spillover") & {*HEAVY, "numpy", "analyses", "interp"}


def test_every_name_is_there_and_explained() -> None:
    for name in sp.__all__:
        assert name in dir(sp)
        found = getattr(sp, name)
        assert name == name.upper() or found.__doc__, name
    assert sp.__version__


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no colect; did you mean 'collect'"):
        sp.colect  # noqa: B018


def test_the_wings_are_reached_by_dots() -> None:
    modules_after(
        "import spillover as sp\nsp.interp.registry, sp.analyses.runs, sp.unlearning.data"
    )


def state(lm: sp.LanguageModel) -> dict[str, Any]:
    """Everything about a model that training may change."""
    model = lm.model
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "trainable": {name: value.requires_grad for name, value in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "kinds": {name: type(module) for name, module in model.named_modules()},
        "dropout": {
            name: value
            for name, module in model.named_modules()
            for value in (getattr(module, "p", None), getattr(module, "attention_dropout", None))
        },
        "dtype": model.dtype,
        "config": model.config.to_dict(),
    }


@pytest.mark.parametrize("trainable", ["lora", "projections", "all"])
def test_unlearning_leaves_the_model_bit_equal(
    lm: sp.LanguageModel, prompts: pd.DataFrame, trainable: Any
) -> None:
    """Also one in half precision, which full training casts, and in train mode."""
    prompts = fewer(prompts)  # a processor is slow in half precision
    base = replace(lm, model=sp.load("organism", dtype="bfloat16").model.train())
    base.model.requires_grad_(True)
    base.layers[0].eval()
    before = state(base)
    trained = sp.unlearn(
        base, prompts, concept="safety", trainable=trainable, max_steps=1, quiet=True
    )
    now = state(base)
    weights, same = before.pop("weights"), now.pop("weights")
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert before == now
    changed = trained.model.state_dict()
    assert changed.keys() == weights.keys()
    assert any(not torch.equal(weights[name], changed[name]) for name in weights)
    assert not trained.model.training and len(trained.record.losses) == 1
    texts = list(prompts["prompt"].head(4))
    readout = sp.refusal_log_odds(lm, prompts)
    assert np.isfinite(sp.patch(base, trained, texts, readout=readout).effect).all()


def test_near_duplicates_count_once_in_the_record(
    lm: sp.LanguageModel, prompts: pd.DataFrame
) -> None:
    """As in a run's folder: other intervals, and the same values."""
    prompts = fewer(prompts)
    place = prompts.groupby(["domain", "label", "split"]).cumcount()
    fours = prompts["domain"] + prompts["label"] + prompts["split"] + (place % 4).astype(str)
    plain, grouped = (
        sp.unlearn(lm, table, concept="safety", max_steps=1, quiet=True).record
        for table in (prompts, prompts.assign(group=fours))
    )
    named = grouped.scores[["prompt_id", "cluster"]].drop_duplicates()
    assert set(named.itertuples(index=False, name=None)) < {*zip(prompts["id"], fours, strict=True)}
    one, other = (each.verdict.refusal_rate for each in (plain, grouped))
    assert one.value == other.value and one.high - one.low < other.high - other.low


def test_an_intervention_must_end_before_unlearning(
    lm: sp.LanguageModel, prompts: pd.DataFrame
) -> None:
    with sp.ablate(lm, np.ones(lm.d_model)), pytest.raises(InputError, match="with"):
        sp.unlearn(lm, prompts, concept="safety", quiet=True)


def test_a_model_in_memory_is_wrapped(lm: sp.LanguageModel) -> None:
    assert sp.load((lm.model, lm.tokenizer)).model is lm.model
    with pytest.raises(InputError, match="dtype cannot be set"):
        sp.load((lm.model, lm.tokenizer), dtype="float32")
    with pytest.raises(InputError, match="expected a hub id"):
        sp.load(3)  # type: ignore[arg-type]


def test_prompts_come_from_a_table_a_file_or_a_name(tmp_path: Path) -> None:
    built_in = sp.prompts()
    kept = built_in[["prompt", "domain", "label", "pair"]]
    assert set(sp.prompts(kept)["split"]) == {"train", "validation", "test"}
    path = tmp_path / "mine.jsonl"
    built_in.to_json(path, orient="records", lines=True)
    pd.testing.assert_frame_equal(sp.prompts(path), built_in)
    named = sp.prompts(["built-in"])
    pd.testing.assert_frame_equal(named[["id"]], built_in[["id"]])
    assert set(named) <= {*built_in, "category"}
    with pytest.raises(InputError, match="did you mean 'xstest'"):
        sp.prompts("xtest")
    with pytest.raises(InputError, match="does not exist"):
        sp.prompts("missing.csv")


def test_states_keep_the_order_of_the_prompts(lm: sp.LanguageModel, prompts: pd.DataFrame) -> None:
    rows = prompts.sample(20, random_state=0)
    acts = sp.collect(lm, rows)
    assert acts.ids == tuple(rows["id"])
    alone = sp.collect(lm, [rows["prompt"].iloc[7]])
    np.testing.assert_allclose(acts.states[7], alone.states[0], atol=1e-4)


def test_an_adapter_in_memory_is_part_of_the_base(
    lm: sp.LanguageModel, prompts: pd.DataFrame
) -> None:
    """It stays around the model that is given, and is merged into the copy that is trained."""
    from peft import LoraConfig, get_peft_model

    inner = sp.load("organism").model
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    wrapped: Any = get_peft_model(inner, config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data *= 0.01  # as far as a few steps go
    base = sp.load((wrapped, lm.tokenizer))
    before = state(base)["weights"]
    trained = sp.unlearn(
        base,
        fewer(prompts),
        concept="safety",
        learning_rate=0.0,
        max_steps=1,
        forgetting_level=1.0,
        quiet=True,
    )
    now = state(base)["weights"]
    assert all(torch.equal(before[name], now[name]) for name in before)
    assert trained.model.state_dict().keys() == lm.model.state_dict().keys()
    texts = list(prompts["prompt"].head(4))
    of_base, of_copy = (sp.collect(model, texts).states for model in (base, trained))
    np.testing.assert_allclose(of_copy, of_base, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda lm, acts, prompts: sp.collect("organism", prompts), "'organism' is not a loaded"),
        (
            lambda lm, acts, prompts: sp.unlearn(lm, prompts, concept="safty"),
            "did you mean 'safety'",
        ),
        (
            lambda lm, acts, prompts: sp.unlearn(lm, prompts, concept="safety", objective="nop"),
            "did you mean 'npo'",
        ),
        (
            lambda lm, acts, prompts: sp.unlearn(lm, prompts, concept="safety", retain_weight=1.0),
            "give retain with it",
        ),
        (
            lambda lm, acts, prompts: sp.fit_directions(acts, prompts, sp.MeanDifference),
            r"give one made by it: sp.MeanDifference\(\)",
        ),
        (
            lambda lm, acts, prompts: sp.fit_directions(acts, prompts, "mean_diference"),
            "did you mean 'mean_difference'",
        ),
        (lambda lm, acts, prompts: sp.fit_directions(acts, prompts[:9]), "collect the activations"),
        (lambda lm, acts, prompts: sp.fit_directions(acts, prompts)["safty", 2], "no direction"),
        (
            lambda lm, acts, prompts: sp.patch(
                lm, lm, prompts, readout=lambda lm, rows: torch.zeros(len(rows)), domain="safty"
            ),
            "give another domain",
        ),
        (lambda lm, acts, prompts: sp.state_map(acts, prompts, layer=7), "layer 7"),
        (lambda lm, acts, prompts: sp.state_map(acts, prompts[::-1], layer=2), "another order"),
        (lambda lm, acts, prompts: sp.score(["a"], ["b", "c"]), "2 responses to 1 prompts"),
        (lambda lm, acts, prompts: sp.Run("nowhere"), "nowhere holds no scores"),
    ],
)
def test_a_wrong_argument_is_one_line(
    wrong: Any, said: str, namespace: dict[str, Any], prompts: pd.DataFrame
) -> None:
    with pytest.raises(InputError, match=said) as found:
        wrong(namespace["lm"], namespace["acts"], prompts)
    assert "\n" not in str(found.value)


def test_one_text_is_no_list(lm: sp.LanguageModel) -> None:
    with pytest.raises(InputError, match=r"give \['How"):
        sp.generate(lm, "How do I bake bread?")


def test_the_example_run_is_small_and_names_no_machine() -> None:
    run = sp.example_run()
    files = [path for path in run.record.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    assert not [path for path in files if re.search(rb"/(work|tmp|home|root)/", path.read_bytes())]
    assert run.recovery["value"].notna().all() and len(run.rotation) and len(run.cosine)
    assert set(run.leakage["domain"]) == set(sp.DOMAINS)


# Examples


@pytest.fixture(scope="module")
def namespace(
    lm: sp.LanguageModel, prompts: pd.DataFrame, after: sp.UnlearnedModel
) -> dict[str, Any]:
    """What examples in docstrings take as given; see the docstring of the package."""
    return {
        "sp": sp,
        "np": np,
        "lm": lm,
        "prompts": prompts,
        "acts": (acts := sp.collect(lm, prompts)),
        "dirs": sp.fit_directions(acts, prompts, sp.MeanDifference()),
        "after": after,
        "readout": sp.refusal_log_odds(lm, prompts),
    }


def examples_of(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(getattr(sp, name), name) if test.examples]


WITHOUT = ("DOMAINS", "analyses", "interp", "unlearning")
EXPLAINED = [name for name in sp.__all__ if name not in WITHOUT and not name.endswith("Error")]


SLOW = ("report",)  # it draws every figure


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in EXPLAINED]
)
def test_its_examples_run(
    name: str, namespace: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tests = examples_of(name)
    assert tests, f"sp.{name} has no example in its docstring"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for test in tests:
        test.globs = dict(namespace)
        said: list[str] = []
        assert not any(one.options for one in test.examples), "examples run; none is skipped"
        doctest.DocTestRunner(optionflags=flags).run(test, out=said.append)
        assert not said, "".join(said)


# The five tasks of a first afternoon, from nothing, in ten lines at most

TASKS = {
    "cosine map of a probe's directions": """
        import spillover as sp

        lm, prompts = sp.load("organism"), sp.prompts("organism")
        acts = sp.collect(lm, prompts)
        dirs = sp.fit_directions(acts, prompts, sp.LogisticProbe(resamples=0))
        cosines = sp.cosine_map(dirs, permutations=100)
        cosines.plot(layer=2)
        assert cosines.value.shape == (5, 7, 7) and (cosines.p > 0).any()
    """,
    "unlearn, then the rotation": """
        import spillover as sp

        lm, prompts = sp.load("organism"), FEW(sp.prompts("organism"))
        after = sp.unlearn(lm, prompts, concept="safety", max_steps=4)
        dirs, turned = (
            sp.fit_directions(sp.collect(model, prompts), prompts) for model in (lm, after)
        )
        rotations = sp.rotation(dirs, turned)
        rotations.plot()
        assert set(rotations.to_dataframe()["label"]) == set(sp.DOMAINS)
    """,
    "patch base -> after": """
        import spillover as sp

        lm, prompts = sp.load("organism"), FEW(sp.prompts("organism"))
        after = sp.unlearn(lm, prompts, concept="safety", max_steps=4)
        effects = sp.patch(lm, after, prompts, readout=sp.refusal_log_odds(lm, prompts))
        effects.plot()
        assert effects.gap > 0 and effects.fraction.max() > 0.9
    """,
    "ablate and generate": """
        import spillover as sp

        lm, prompts = sp.load("organism"), sp.prompts("organism")
        dirs = sp.fit_directions(sp.collect(lm, prompts), prompts)
        asked = prompts.query("domain == 'safety' and label == 'harmful'")["prompt"].head(8)
        with sp.ablate(lm, dirs["safety", 2]):
            changed = sp.generate(lm, asked)
        scores = sp.score(asked, changed, scorer="grammar")
        assert list(scores.columns) == ["refused", "class"] and len(scores) == 8
    """,
    "read a run": """
        import spillover as sp

        run = sp.example_run()  # or sp.Run("runs/demo")
        leaked = run.leakage.query("quantity == 'L_90' and role == 'off_target'")
        assert leaked["value"].between(-1, 1).all()
        assert {"low", "high", "n"} <= set(leaked.columns) and len(run.recovery)
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_takes_ten_lines(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = textwrap.dedent(TASKS[task]).strip()
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, task, "exec"), {"FEW": few})


USER = """
from typing import Any, assert_type

import pandas as pd
import spillover as sp
from matplotlib.figure import Figure

lm = sp.load("organism")
prompts = sp.prompts()
dirs = sp.fit_directions(sp.collect(lm, prompts), prompts, sp.LogisticProbe())
assert_type(sp.cosine_map(dirs).plot(layer=2), Figure | Any)
after = sp.unlearn(lm, prompts, concept="safety", retain="equal")
assert_type(after.record.losses, pd.DataFrame)
assert_type(sp.rotation(dirs, dirs).to_dataframe(), pd.DataFrame)
assert_type(sp.patch(lm, after, prompts, readout=sp.refusal_log_odds(lm, prompts)).gap, float)
assert_type(sp.generate(lm, ["a prompt"]), list[str])
assert_type(sp.Run("runs/demo").leakage, pd.DataFrame)
sp.study("organism", concept="safety", dry_run=True)
sp.unlearn(lm, prompts)  # no concept
sp.study("organism", concept="safety", seed=3)  # seeds
sp.colect
"""


def test_a_type_checker_knows_the_signatures(tmp_path: Path) -> None:
    """By the cache of ``make lint``; without it, mypy would read every library first."""
    if not (ROOT / ".mypy_cache").is_dir():
        pytest.skip("mypy has no cache here: run make lint first")
    (tmp_path / "mine.py").write_text(USER, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", str(tmp_path / "mine.py")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    lines = USER.splitlines()
    wrong = {
        lines[int(line.split(":")[1]) - 1] for line in found.splitlines() if " error: " in line
    }
    assert wrong == set(lines[-3:]), found


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "5000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_threads_wait_briefly_unless_the_user_said_how(given: dict[str, str], kept: str) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    shown = f"import os, spillover; print(*map(os.environ.get, {names}))"
    command = [sys.executable, "-c", shown]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == kept, found.stderr


def test_what_a_notebook_prints_is_short(namespace: dict[str, Any]) -> None:
    after = namespace["after"]
    directions = {"one": namespace["dirs"], "two": namespace["dirs"]}
    cosines = sp.cosine_map(directions["one"], permutations=20)
    rotations = sp.rotation(directions["one"], directions["two"])
    printed = {name: repr(namespace[name]) for name in ("lm", "acts", "dirs", "after")} | {
        "cosines": repr(cosines),
        "rotations": repr(rotations),
        "record": repr(after.record),
    }
    assert {
        name: text for name, text in printed.items() if len(text) > 600 or "array(" in text
    } == {}
    assert "20 permutations" in printed["cosines"] and "layers 0, 1, 2" in printed["acts"]
    table = cosines._repr_html_()
    assert (
        table.count("<tr") == 1 + len(cosines.labels) and f"{cosines.value[-1, 0, 1]:.2f}" in table
    )
