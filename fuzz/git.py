"""Git's small files: an agent can write into its own `.git` whatever it likes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.stored import check_batch
from squad_otel.events import NS
from squad_otel.sessions import Session
from squad_otel.sources.git import GitSource

NOW = 1_795_400_000 * NS
LINE = f"{'0' * 40} {'9' * 40} A <a@b> 1795399000 +0000\tcommit (initial): x\n".encode()
PARTS = 7


def check(data: bytes) -> None:
    """Parted by form feeds: `.git`, `commondir`, HEAD, two reflogs, and what is registered.

    A second, sound repository is read whatever stands in the first.
    """
    dot_git, common, head, log, other, branch, path = (data.split(b"\f") + [b""] * PARTS)[:PARTS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        git_dir = folder / "main" / ".git" / "worktrees" / "w"
        for logs in (git_dir / "logs", folder / "main/.git/logs/refs/heads", folder / "w"):
            logs.mkdir(parents=True)
        (folder / "w" / ".git").write_bytes(dot_git.replace(b"HERE", bytes(git_dir)))
        (git_dir / "commondir").write_bytes(common)
        (git_dir / "HEAD").write_bytes(head)
        (git_dir / "logs" / "HEAD").write_bytes(log)
        (folder / "main/.git/logs/refs/heads/b").write_bytes(other)
        sessions = [
            _session("hostile", folder / "w", branch.decode(errors="replace"), path),
            _session("sound", _sound(folder), "main", b""),
        ]
        source = GitSource()
        try:
            batch = source.poll({session.id: session for session in sessions}, {}, NOW)
        finally:
            source.close()
    check_batch(batch)
    own = [event for event in batch.events if event.session == "sound"]
    assert [event.type for event in own] == ["git.commit"]
    given = log.count(b"\n") + other.count(b"\n") + 1
    assert len(batch.events) <= given


def _session(identity: str, worktree: Path, branch: str, repository: bytes) -> Session:
    return Session(
        id=identity,
        name=identity,
        program="claude",
        repository="r",
        branch=branch if branch.isprintable() else "b",
        worktree=str(worktree),
        repository_path=repository.decode(errors="replace"),
    )


def _sound(folder: Path) -> Path:
    """A repository with one commit on its branch."""
    git_dir = folder / "sound" / ".git"
    for name in ("logs/HEAD", "logs/refs/heads/main"):
        (git_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (git_dir / name).write_bytes(LINE)
    (git_dir / "HEAD").write_bytes(b"ref: refs/heads/main\n")
    return git_dir.parent


def seeds() -> Iterator[bytes]:
    """A worktree as git makes it, and a repository whose worktree is away."""
    move = LINE.replace(b"commit (initial): x", b"checkout: moving from main to b")
    parts = [b"gitdir: HERE\n", b"../..\n", b"ref: refs/heads/b\n", move + LINE, LINE, b"b"]
    yield b"\f".join(parts)
    yield b"\f".join([b"gitdir: /nowhere\n", *parts[1:], b"/code/shop"])
    yield b"\f".join([b"gitdir: HERE\n", b"", b"", LINE, b"", b"../../b"])
