"""One Chromium for all browser tests: Debian's own, driven by Playwright, cut off from the network.

Without a browser the tests skip, except where ``SPILLOVER_BROWSER=required``: there they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.report.comparison import write_comparison
from analyses.report.run_report import render, write_report
from analyses.runs import Run
from tests import synthetic_run

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 120_000  # milliseconds, for a busy machine
WIDE = {"width": 1400, "height": 800}
RESET = """() => {
  for (const panel of document.querySelectorAll(".pair")) panel.hidden = true;
  scrollTo(0, 0);
}"""
PROMPTS = 16  # of a domain, kind and split of the deep run
PROMPT = '</script><img src=x onerror="window.ran = 1"><b>bold</b> &amp; "quoted"'
EXAMPLE = Path(__file__).resolve().parents[2] / "analyses" / "workbench" / "example"


def _missing(reason: str) -> None:
    if os.environ.get("SPILLOVER_BROWSER") == "required":
        pytest.fail(f"SPILLOVER_BROWSER=required, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The installed Chromium, headless."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        _missing("there is no chromium on the path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield launched
        launched.close()


@dataclass
class Opened:
    """A page, and what it asked for or complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def opened(browser: Any) -> Iterator[Any]:
    """``opened(path, **options of a context)``: the page, once it has drawn everything.

    Tests share the page of a path and options; each finds it light, wide, at its top and without an
    open pair.
    """
    pages: dict[str, Opened] = {}

    def open_page(path: Path, **options: Any) -> Opened:
        key = f"{path} {options}"
        if key not in pages:
            pages[key] = load(path, options)
        found = pages[key]
        if not options:
            found.page.emulate_media(color_scheme="light")
            found.page.set_viewport_size(WIDE)
            found.page.evaluate(RESET)
        return found

    def load(path: Path, options: dict[str, Any]) -> Opened:
        context = browser.new_context(**{"viewport": WIDE, **options})
        context.set_offline(True)
        found = Opened(context.new_page())
        found.page.set_default_timeout(PATIENCE)
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on(
            "console",
            lambda said: found.complaints.append(said.text) if said.type == "error" else None,
        )
        found.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            found.page.wait_for_selector("html[data-drawn]", state="attached")
        return found

    yield open_page
    for found in pages.values():
        found.page.context.close()


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model organism's example run with its report."""
    folder = tmp_path_factory.mktemp("browser") / "example"
    shutil.copytree(EXAMPLE, folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 layers with hostile prompts, causes and completions, and its page."""
    folder = tmp_path_factory.mktemp("browser") / "deep"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic_run, "LAYERS", 30)
        patched.setattr(synthetic_run, "PROMPTS", PROMPTS)
        synthetic_run.write_run(folder, concepts=("safety",), weights=(synthetic_run.SELECTED,))
    import pandas as pd

    prompts = pd.read_parquet(folder / "prompts.parquet")
    prompts.loc[prompts["id"] == "bias-harmful-test-000", "prompt"] = PROMPT
    prompts["forecast"] = np.arange(len(prompts)) / 100
    prompts.to_parquet(folder / "prompts.parquet")
    said = pd.DataFrame({"prompt_id": prompts["id"], "completion": "said so"})
    said["completion"] = said["completion"].where(prompts["prompt"] != PROMPT, f"said {PROMPT}")
    said.to_parquet(folder / "arms" / "npo-safety-0" / "completions.parquet")
    _explain(folder / "causes" / "npo-safety-0")
    run = Run(folder)
    run.write()
    (folder / "report.html").write_text(render(run, (), show_completions=True), encoding="utf-8")
    return folder


def _explain(folder: Path) -> None:
    """What ``spillover explain`` leaves of one domain: a sentence, and patches by layer."""
    import pandas as pd

    from interp.store import write_json

    sentence = "Bias lost 2.0 nats, most of it in a rotation after layer 28."
    write_json(folder / "bias.json", {"cause": "rotation", "sentence": sentence, "place": ""})
    rng = np.random.default_rng(1)
    rows = [
        {"layer": layer, "component": component, "position": position, "head": None, "n": 40}
        for layer in range(30)
        for component, position in (("residual_out", "instruction"), ("mlp", None))
    ]
    table = pd.DataFrame(rows)
    table["fraction"] = rng.uniform(0, 1, len(table))
    for name, shift in (("low", -0.1), ("high", 0.1)):
        table[f"fraction_{name}"] = table["fraction"] + shift
        table[f"control_fraction_{name}"] = shift
    table["stands_out"] = table["fraction"] > 0.5
    states = table["position"].notna()
    table[states].to_csv(folder / "bias-states.csv", index=False)
    table[~states].to_csv(folder / "bias-weights.csv", index=False)


@pytest.fixture(scope="session")
def compared(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that compares the deep run with a copy of other effects."""
    other = tmp_path_factory.mktemp("browser") / "other"
    planted = synthetic_run.PLANTED_LEAKAGE["safety"]
    less = {name: share if name == "safety" else share / 2 for name, share in planted.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic_run, "LAYERS", 30)
        patched.setattr(synthetic_run, "PROMPTS", PROMPTS)
        patched.setattr(synthetic_run, "PLANTED_LEAKAGE", {"safety": less})
        synthetic_run.write_run(other, concepts=("safety",), weights=(synthetic_run.SELECTED,))
    shutil.copy(deep / "prompts.parquet", other / "prompts.parquet")
    return write_comparison(deep, other)
