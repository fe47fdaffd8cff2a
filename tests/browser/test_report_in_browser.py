"""The report as a reader uses it: real clicks and keys, in a real browser without a network."""

from __future__ import annotations

import random
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.browser.conftest import PROMPT, PROMPTS

LARGEST = 4_000_000  # bytes of a page
CELL = """([name, i, j]) => {
  const figure = document.getElementById(`${name}-figure`);
  figure.scrollIntoView({ block: "center" });
  const { _size: size, xaxis, yaxis } = figure._fullLayout;
  const box = figure.querySelector(".main-svg").getBoundingClientRect();
  return [box.x + size.l + xaxis.c2p(j), box.y + size.t + yaxis.c2p(i)];
}"""
HOVERED = """([name, cell]) => {
  const lines = document.querySelectorAll(`#${name}-figure .hoverlayer .hovertext tspan.line`);
  const text = [...lines].map((line) => line.textContent).join(" ");
  return text.startsWith(cell) && text;
}"""
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("main *")]
    .filter((one) => one.getBoundingClientRect().right > width + 1)
    .map((one) => `${one.tagName}.${one.className}`).slice(0, 12);
}"""
SETTLING = 40  # half seconds, after a change of width or colours
LUMINANCE_OF_TEXT = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


def hovered(page: Any, name: str, row: int, column: int) -> str:
    """What the page says over a cell, once it speaks of that cell at the slider's layer."""
    axes = axes_of(page, name)
    layer = page.inner_text(f'[data-section="{name}"] .field output')
    x, y = page.evaluate(CELL, [name, row, column])
    page.mouse.move(1, 1)
    page.mouse.move(x, y)
    cell = f"{axes[1]['labels'][row]} → {axes[2]['labels'][column]}, layer {layer} "
    return page.wait_for_function(HOVERED, arg=[name, cell]).json_value()


def axes_of(page: Any, name: str) -> list[dict[str, Any]]:
    return page.evaluate(
        "name => JSON.parse(document.getElementById('data').textContent).runs[0].maps[name].axes",
        name,
    )


def column(table: Any, name: str) -> list[float]:
    """The numbers of a column in the order shown."""
    names = table.locator("th[data-column]").evaluate_all("all => all.map(e => e.dataset.column)")
    cells = table.locator(f"tbody td:nth-child({names.index(name) + 1})").all_inner_texts()
    return [float(text.replace("−", "-")) for text in cells]


def said(page: Any, section: str) -> str:
    return page.inner_text(f'[data-section="{section}"] > .said')


def left_of(page: Any, expression: str) -> list[str]:
    """What an expression finds, once it finds nothing or the page has had time to settle."""
    for _ in range(SETTLING):
        if not (found := page.evaluate(expression)):
            break
        page.wait_for_timeout(500)
    return found


def set_layer(page: Any, section: str, place: int) -> None:
    page.locator(f'[data-section="{section}"] input[type=range]').fill(str(place))


def printed(value: float, digits: int) -> str:
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return str(rounded + 0).replace("-", "−")


@pytest.mark.parametrize("run", ["example", "deep"])
@pytest.mark.parametrize(("name", "digits", "unit"), [("cosine", 4, ""), ("rotation", 2, "°")])
def test_hovered_cells_are_those_of_the_csv_files(
    run: str, name: str, digits: int, unit: str, opened: Any, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(run)
    table = pd.read_csv(folder / f"{name}.csv")
    if name == "rotation":
        table = table[table["quantity"] == "angle_degrees"]
    page = opened(folder / "report.html").page
    rows, columns = ["domain_a", "domain_b"] if name == "cosine" else ["arm", "domain"]
    axes = axes_of(page, name)
    layers = [int(key) for key in axes[0]["keys"]]
    assert layers == sorted(table["layer"].unique())
    draw = random.Random(f"{run}{name}")
    for layer in draw.sample(layers, 3):
        set_layer(page, name, layers.index(layer))
        for _ in range(2):
            i, j = draw.randrange(len(axes[1]["keys"])), draw.randrange(len(axes[2]["keys"]))
            cell = table[
                (table["layer"] == layer)
                & (table[rows] == axes[1]["keys"][i])
                & (table[columns] == axes[2]["keys"][j])
            ].iloc[0]
            text = hovered(page, name, i, j)
            if not cell["defined"]:
                assert "undefined: the split halves do not agree" in text
                continue
            numbers = [printed(cell[end], digits) + unit for end in ("value", "low", "high")]
            assert "{} ({} to {})".format(*numbers) in text
            assert text.endswith(f"n = {cell['n']} prompts")
            if pd.notna(cell["null_low"]):
                band = [printed(cell[end], digits) + unit for end in ("null_low", "null_high")]
                assert "null: {} to {}".format(*band) in text


def test_the_slider_moves_the_layer_by_mouse_and_keys(deep: Path, opened: Any) -> None:
    page = opened(deep / "report.html").page
    slider = page.locator('[data-section="cosine"] input[type=range]')
    before = hovered(page, "cosine", 0, 1)
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.inner_text('[data-section="cosine"] .field output') == "1"
    assert slider.get_attribute("aria-valuetext") == "layer 1"
    after = hovered(page, "cosine", 0, 1)
    assert "layer 1" in after and after != before


def test_a_cell_opens_its_pair_by_click_and_by_enter(deep: Path, opened: Any) -> None:
    page = opened(deep / "report.html").page
    panel = page.locator(".pair")
    assert not panel.is_visible()
    x, y = page.evaluate(CELL, ["leakage", 0, 3])
    page.mouse.click(x, y)
    assert panel.locator("h3").inner_text() == "Safety: NPO → Bias"
    assert "rotation after layer 28" in panel.inner_text()
    assert panel.locator(".line").count() == 3
    leak = pd.read_csv(deep / "leakage.csv").query(
        "arm == 'npo-safety-0' and domain == 'bias' and quantity == 'L_90'"
    )
    assert printed(leak["value"].iloc[0], 4) in panel.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Safety: NPO → Bias"
    panel.get_by_role("button", name="Close").click()
    assert not panel.is_visible()
    assert page.evaluate("document.activeElement.id") == "leakage-figure"
    for key in ("ArrowDown", "ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert panel.locator("h3").inner_text() == "Safety: NPO → Sensitive" or panel.is_visible()


def test_the_table_filters_searches_and_sorts(deep: Path, opened: Any) -> None:
    page = opened(deep / "report.html").page
    table = page.locator('[data-section="prompts"]')
    total = int(said(page, "prompts").split("(")[1].split()[0])
    table.get_by_label("Domain").select_option("bias")
    table.get_by_label("Kind").select_option("harmful")
    table.get_by_label("Split").select_option("test")
    assert f"{PROMPTS} of {PROMPTS} " in said(page, "prompts") and total > PROMPTS
    assert set(table.locator("td.domain").all_inner_texts()) == {"bias"}
    table.get_by_role("button", name="log-odds after").click()
    after = column(table, "log_odds_after")
    assert after == sorted(after) and len(set(after)) > 5
    assert table.locator('th[aria-sort="ascending"]').inner_text().startswith("log-odds after")
    page.keyboard.press("Enter")  # the focus stays on the header
    assert column(table, "log_odds_after") == after[::-1]
    table.get_by_role("button", name="forecast").click()
    forecasts = column(table, "forecast")
    assert forecasts == sorted(forecasts) and len(set(forecasts)) == PROMPTS
    table.get_by_label("Search").fill("no such prompt")
    assert "0 of 0" in said(page, "prompts")


def test_a_prompt_with_html_stays_text(deep: Path, opened: Any) -> None:
    found = opened(deep / "report.html")
    page = found.page
    page.locator('[data-section="prompts"]').get_by_label("Search").fill("onerror")
    assert page.locator("td.prompt").first.inner_text() == PROMPT
    assert page.locator("td.completion").first.inner_text() == f"said {PROMPT}"
    assert page.evaluate("window.ran") is None
    assert page.locator('img[src="x"]').count() == 0 and not found.complaints


def test_everything_is_reached_by_the_keyboard(deep: Path, opened: Any) -> None:
    page = opened(deep / "report.html").page
    page.locator("nav a").first.focus()
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => {
                  const at = document.activeElement;
                  const section = at.closest("[data-section]")?.dataset.section ?? "page";
                  return `${section} ${at.tagName} ${at.type ?? ""}`.trim();
                }"""
            )
        )
    for section in ("leakage", "cosine", "rotation", "gain", "patching"):
        assert f"{section} DIV" in reached and f"{section} BUTTON button" in reached
    for section in ("cosine", "rotation", "gain", "patching"):
        assert f"{section} INPUT range" in reached
    assert {"leakage SELECT select-one", "prompts INPUT search"} <= reached


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_aa_and_fits_the_width(
    scheme: str, width: int, deep: Path, opened: Any
) -> None:
    """One page begins light and wide, the other dark and narrow, as on a phone."""
    phone = {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}}
    page = opened(deep / "report.html", **(phone if scheme == "dark" else {})).page
    page.set_viewport_size({"width": width, "height": 800})
    if not page.locator(".pair").is_visible():
        x, y = page.evaluate(CELL, ["leakage", 0, 0])  # in sight on a phone, too
        page.mouse.click(x, y)
    page.wait_for_selector(".pair .line .main-svg")
    assert not left_of(page, TOO_WIDE)
    assert not left_of(page, LUMINANCE_OF_TEXT)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_follows_the_reader_from_light_to_dark(
    scheme: str, deep: Path, opened: Any
) -> None:
    page = opened(deep / "report.html").page
    page.emulate_media(color_scheme=scheme)
    assert not left_of(page, LUMINANCE_OF_TEXT)


def test_without_javascript_every_figure_is_a_picture(example: Path, opened: Any) -> None:
    page = opened(example / "report.html", java_script_enabled=False).page
    names = {path.stem for path in (example / "figures").glob("*.svg")}
    shown = page.locator("img[data-name]")
    assert {image.get_attribute("data-name") for image in shown.all()} == names
    assert all(image.is_visible() for image in shown.all())
    assert not page.locator(".needs-script").first.is_visible()


def test_every_figure_is_downloaded_as_svg_png_and_csv(example: Path, opened: Any) -> None:
    page = opened(example / "report.html").page
    begins = {"SVG": (b"<svg", b"<?xml"), "PNG": (b"\x89PNG",), "CSV": (b"arm,", b"layer,")}
    for figure in ('figure:has(img[data-name="leakage"])', '[data-section="cosine"]'):
        for kind, starts in begins.items():
            button = page.locator(figure).get_by_role("button", name=kind)
            with page.expect_download() as started:
                button.click()
            content = Path(started.value.path()).read_bytes()
            assert content.startswith(starts), content[:40]
    shown = pd.read_csv(started.value.path())
    written = pd.read_csv(example / "cosine.csv")
    defined = written["value"].where(written["defined"])
    np.testing.assert_allclose(shown["value"], defined, rtol=0, atol=0.5001e-4)


def test_two_runs_stand_side_by_side(compared: Path, opened: Any) -> None:
    page = opened(compared).page
    assert page.locator(".sides > section").count() >= 2
    sliders = page.locator('[data-section="rotation"] input[type=range]')
    assert sliders.count() == 2
    sliders.first.fill("7")
    outputs = page.locator('[data-section="rotation"] .field output')
    assert outputs.all_inner_texts() == ["7", "7"]  # both sides show the same layer
    assert "less lost" in page.inner_text("main")
    table = page.locator('[data-section="prompts"]')
    assert table.get_by_role("button", name="class after, second model").count() == 1


@pytest.mark.parametrize("run", ["example", "deep", "compared"])
def test_the_page_asks_for_nothing_and_complains_of_nothing(
    run: str, opened: Any, request: pytest.FixtureRequest
) -> None:
    """Nor did it in the tests above, which share the page."""
    path = request.getfixturevalue(run)
    path = path if path.is_file() else path / "report.html"
    found = opened(path)
    assert [url for url in found.requests if not url.startswith(("data:", "blob:"))] == [
        path.as_uri()
    ]
    assert not found.complaints
    assert path.stat().st_size < LARGEST
