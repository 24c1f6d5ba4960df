"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import week


@pytest.fixture(scope="session")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, week.Truth]:
    """A home whose journal holds the made-up fortnight, and what happened in it. Only to read."""
    home = tmp_path_factory.mktemp("fortnight") / "home"
    return home, week.write(home)
