"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Folder of public prompts and completions; tests that want it skip where there is none."""
    folder = os.environ.get("SPILLOVER_TEST_DATA")
    if not folder:
        pytest.skip("SPILLOVER_TEST_DATA names no folder of public prompts")
    return Path(folder)
