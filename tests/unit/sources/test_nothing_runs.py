"""Titles, branches, folders and panes that are commands: they are read, and nothing runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from squad_otel.ids import session_id
from squad_otel.sources.claude_squad import SquadSource
from squad_otel.sources.git import GitSource
from squad_otel.sources.tmux import Tmux
from tests.squad import wait_until

#: `{mark}` is a file that must never be; git takes no blanks in a branch's name.
COMMANDS = (
    "$(touch${{IFS}}{mark})",
    "`touch${{IFS}}{mark}`",
    ";touch${{IFS}}{mark};",
    "|touch${{IFS}}{mark}",
    "#(touch${{IFS}}{mark})",
    "'$(touch${{IFS}}{mark})'",
    '"$(touch${{IFS}}{mark})"',
    "--upload-pack=touch${{IFS}}{mark}",
    "}}#(touch${{IFS}}{mark})#{{q}}",
)


@pytest.fixture
def tmux() -> Iterator[dict[str, str]]:
    """The environment of a tmux server of this test's own; it is ended afterwards."""
    folder = tempfile.mkdtemp(prefix="sq")
    environment = {"PATH": os.environ["PATH"], "TMUX_TMPDIR": folder, "TERM": "screen"}
    yield environment
    subprocess.run(["tmux", "kill-server"], env=environment, capture_output=True, check=False)
    shutil.rmtree(folder)


def git(folder: Path, *words: str) -> None:
    who = {"HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    for name in ("AUTHOR", "COMMITTER"):
        who |= {f"GIT_{name}_NAME": "A", f"GIT_{name}_EMAIL": "a@example.com"}
    subprocess.run(["git", *words], cwd=folder, env={"PATH": os.environ["PATH"], **who}, check=True)


def test_commands_in_names_are_names(
    tmp_path: Path, tmux: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "m"
    repository = tmp_path / "repo"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    git(repository, "commit", "-q", "--allow-empty", "-m", "first")
    entries = []
    branches = {}
    for number, command in enumerate(COMMANDS):
        title = command.format(mark=mark)
        branch = f"b/{command.format(mark='m')}"
        worktree = tmp_path / f"{number}{command.format(mark='m')}"
        git(repository, "worktree", "add", "-q", "-b", branch, str(worktree))
        git(worktree, "commit", "-q", "--allow-empty", "-m", title)
        (tmp_path / f"title{number}").write_text(title)
        # tmux itself expands what `new-session` is told: only the folder and the pane are hostile.
        program = (
            f'title=$(cat "{tmp_path}/title{number}"); '
            'printf \'\\033]2;%s\\007%s\\n\' "$title" "$title"; exec sleep 60'
        )
        subprocess.run(
            [
                "tmux",
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-s",
                f"claudesquad_{number}",
                program,
            ],
            env=tmux,
            cwd=worktree,
            check=True,
        )
        branches[session_id(str(worktree))] = branch
        entries.append(
            {
                "title": f"{number}{title}",
                "program": f"claude {title}",
                "worktree": {
                    "worktree_path": str(worktree),
                    "repo_path": str(repository),
                    "branch_name": branch,
                },
            }
        )
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"instances": entries}))
    server = Tmux(tmux)
    titles = {command.format(mark=mark) for command in COMMANDS}
    wait_until(lambda: titles <= {pane.title for pane in server.look().panes}, "titles")

    squad = SquadSource(state, server)
    now = time.time_ns()
    batch = squad.poll({}, {}, now)
    sessions = {session.id: session for session in batch.sessions}
    assert {key: session.branch for key, session in sessions.items()} == branches
    assert all(session.tmux.startswith("claudesquad_") for session in sessions.values())
    squad.poll(sessions, {}, now + 10**9)  # now with the text of the panes
    screens = server.look([pane.id for pane in server.look().panes]).screens
    assert titles <= {"".join(text.split("\n")) for text in screens.values()}

    source = GitSource()
    found = source.poll(sessions, {}, now + 10**9)
    source.close()
    commits = {e.session: e.branch for e in found.events if e.type == "git.commit" and e.session}
    assert commits == branches
    time.sleep(0.3)  # tmux runs what is between #( and ) in the background
    assert not mark.exists()
