"""Identities: hashes of what a thing is, the same in every process. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path


def digest(*parts: str, size: int = 8) -> str:
    """Hash `parts` to `2 * size` hex digits; the same parts give the same id in any process."""
    return blake2b("\x1f".join(parts).encode(errors="replace"), digest_size=size).hexdigest()


def session_id(worktree: str) -> str:
    """The id of the session whose worktree lies at `worktree` (absolute): 16 hex digits.

    Made from the path with its links resolved, since tmux and git name the same place and it
    survives a pause; where the path is gone, as much of it as exists is resolved.
    """
    return digest("session", os.path.realpath(worktree))


def worktree_of(folder: Path) -> Path | None:
    """The git worktree that `folder` (absolute) lies in, or None."""
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    return None


def current_session(environ: Mapping[str, str] = os.environ) -> str | None:
    """The session that this process belongs to: its id, or its name where only that is given.

    $SQUAD_SESSION_ID names it; else the git worktree that the process stands in does. None where
    there is neither. Whether a session of that id exists is for the journal to know.
    """
    named = environ.get("SQUAD_SESSION_ID")
    if named:
        return named
    try:
        worktree = worktree_of(Path.cwd())
    except OSError:  # the folder was deleted, as a pause does
        return None
    return None if worktree is None else session_id(str(worktree))
