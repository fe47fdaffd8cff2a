"""What a wheel would hold, and whether the exact versions fit the stated ranges."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_exact_versions_fit_the_ranges() -> None:
    """Of core, extras and development together; and no range is an exact version itself."""
    stated = PROJECT["project"]["dependencies"] + [
        requirement
        for extra in PROJECT["project"]["optional-dependencies"].values()
        for requirement in extra
    ]
    pins = pinned_versions()
    for requirement in map(Requirement, stated):
        if requirement.name == PROJECT["project"]["name"]:
            continue  # development takes some of the extras
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
        assert "==" not in str(requirement.specifier)


def test_exact_versions_hold_on_any_machine() -> None:
    for name, version in pinned_versions().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version} is machine-specific"


@pytest.mark.parametrize("package", ["interp", "unlearning", "analyses", "spillover"])
def test_every_data_file_goes_into_the_wheel(package: str) -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    data = [
        path
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    left_out = [
        str(path.relative_to(ROOT))
        for path in data
        if not any(fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert not left_out, f"add to package-data in pyproject.toml: {left_out}"
