"""The demo's folder: what it refuses, and that the user's environment does not leak into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from squad_otel.demo.stage import Stage
from squad_otel.errors import ServerError


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ServerError, match=r"not by a demo.*--folder"):
        Stage(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_of_an_earlier_demo_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = Stage(folder)
    first.prepare()
    (folder / "home" / "old").write_text("old")
    with pytest.raises(ServerError, match="another demo plays"):
        Stage(folder).prepare()
    first.release()
    second = Stage(folder)
    second.prepare()
    second.release()
    assert not (folder / "home" / "old").exists()


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"too deep.*--folder"):
        Stage(tmp_path / ("d" * 100)).prepare()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["tmux", "git"])
def test_what_it_cannot_do_without_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in {"tmux", "git"} - {missing}:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(ServerError, match=f"needs {missing}"):
        Stage(tmp_path / "demo").prepare()
    assert not (tmp_path / "demo").exists()


def test_the_environment_of_the_user_does_not_leak_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUAD_SESSION_ID", "TMUX", "OTEL_SDK_DISABLED", "CLAUDE_CONFIG_DIR", "GIT_DIR"):
        monkeypatch.setenv(name, "/somewhere/else")
    monkeypatch.setenv("SQUAD_OTEL_POLL_INTERVAL_S", "60")
    stage = Stage(tmp_path / "demo")
    assert "/somewhere/else" not in stage.environment.values()
    assert "SQUAD_OTEL_POLL_INTERVAL_S" not in stage.environment
    for name in ("HOME", "TMPDIR", "TMUX_TMPDIR", "SQUAD_OTEL_HOME"):
        assert Path(stage.environment[name]).is_relative_to(tmp_path / "demo"), name
    assert stage.environment["PATH"].endswith(os.environ["PATH"])
