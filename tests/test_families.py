"""Families of transformers, tiny and random: the right ones pass, the others are never wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from experiments.architectures.checks import CHECKS
from experiments.architectures.table import measure_families, measure_into, page_of, read_table
from experiments.architectures.tiny import save_tiny_model
from experiments.pages import with_table
from interp.errors import InputError
from interp.model import LanguageModel

#: Right everywhere that matters, with default settings; ``more_families`` has seven others.
RIGHT = (
    *("smollm3", "ministral", "olmo", "olmo3", "gemma3_text", "cohere", "cohere2", "glm", "glm4"),
    *("nemotron", "stablelm", "starcoder2", "hunyuan_v1_dense", "ernie4_5", "exaone4", "apertus"),
    *("granite", "gptj", "opt", "bloom", "bamba", "lfm2"),
)
#: A family for each kind of fault, and the checks that are not in tests of their rooms.
KINDS = {
    "fused and shared experts": "qwen2_moe",
    "heads of different widths, and a bypass": "gemma4_text",
    "states between forwards": "recurrent_gemma",
}
SOME = ("states", "heads", "add", "orthogonalise")


@pytest.mark.slow
@pytest.mark.parametrize("family", RIGHT)
def test_right_families_pass_the_self_check(family: str, tmp_path: Path) -> None:
    save_tiny_model(family, tmp_path)
    assert LanguageModel.load(tmp_path).checked.lines() == ()


@pytest.mark.slow
@pytest.mark.parametrize("family", KINDS.values(), ids=KINDS)
def test_other_families_are_right_or_refused(family: str) -> None:
    found = measure_families([family], checks=SOME, progress=lambda _line: None)
    assert list(found["check"]) == ["load", *SOME]
    assert set(found["result"]) <= {"ok", "refused"}
    assert found.set_index("check").loc[["states", "heads", "add"], "result"].eq("ok").all()


def table() -> pd.DataFrame:
    """Four families: all well, one check refused, padding found, and all that reads layers."""
    rows = []
    for family in ("a", "b", "c", "d"):
        said = (
            "padding changes results by 3.0% of their size: only prompts" if family == "c" else ""
        )
        rows.append((family, "load", "ok", said))
        for check in CHECKS:
            refused = (family == "b" and check == "heads") or (family == "d" and check != "answers")
            rows.append((family, check, "refused" if refused else "ok", "why" if refused else ""))
    return pd.DataFrame(rows, columns=["family", "check", "result", "detail"])


def test_the_page_counts_families_and_cells(tmp_path: Path) -> None:
    text = page_of(table())
    assert text.startswith("4 families: 2 ok in every check, 1 refused in some, 1 refused in all")
    assert "read the layers: d." in text.splitlines()[0]
    assert "| heads | 2 | 2 | 0 | 0 |" in text
    assert "| states | 3 | 1 | 0 | 0 |" in text
    assert "| answers | 4 | 0 | 0 | 0 |" in text
    assert "| padding changes results | c |" in text
    page = tmp_path / "page.md"
    page.write_text("before", encoding="utf-8")
    with pytest.raises(InputError, match="no marks"):
        with_table(page, "architectures", text)
    page.write_text(
        "before\n<!-- made by: python -m experiments architectures -->\nold\n<!-- end -->\nafter\n",
        encoding="utf-8",
    )
    made = with_table(page, "architectures", text)
    assert text in made and "old" not in made and made.endswith("<!-- end -->\nafter\n")


def test_finished_families_are_kept_on_request(tmp_path: Path) -> None:
    out, measured = tmp_path / "some.csv", []

    def measure(families: Sequence[str]) -> pd.DataFrame:
        measured.extend(families)
        if families == ["stops"]:
            raise KeyboardInterrupt
        return table().query("family == 'a'").assign(family=families[0])

    with pytest.raises(KeyboardInterrupt):
        measure_into(out, ["d", "b", "stops"], measure=measure)
    assert list(read_table(out)["family"].unique()) == ["b", "d"]
    found = measure_into(out, ["b", "c"], resume=True, measure=measure)
    assert measured == ["d", "b", "stops", "c"]
    pd.testing.assert_frame_equal(read_table(out), found)
    assert list(measure_into(out, ["b"], measure=measure)["family"].unique()) == ["b"]
