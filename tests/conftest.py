"""Fixtures that several folders of tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import week


def pytest_sessionstart() -> None:
    """Signals as in a terminal: a shell that runs tests in the background ignores some of them,
    and children inherit it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, week.Truth]:
    """A home whose journal holds the made-up fortnight, and what happened in it. Only to read."""
    home = tmp_path_factory.mktemp("fortnight") / "home"
    return home, week.write(home)
