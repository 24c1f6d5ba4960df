"""claude-squad's state file: titles and branches are what somebody typed, or an agent wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from fuzz.stored import check_session, check_text
from squad_otel.sessions import Session
from squad_otel.sources.claude_squad import Registry, parse_registry


def check(data: bytes) -> None:
    """Any bytes are read; of a file that is whole, each entry is read or counted."""
    registry = parse_registry(data)
    try:
        entries = json.loads(data)["instances"] or []
        given = len(entries)
        assert isinstance(entries, list)
    except (ValueError, RecursionError, KeyError, TypeError, AssertionError):
        given = None
    check_registry(registry, given)


def check_registry(registry: Registry, given: int | None) -> None:
    """Fail unless each of the `given` entries (None: not known) is read or counted."""
    counted = sum(registry.skipped.values())
    if registry.readable and given is not None:
        assert len(registry.instances) + counted == given
    assert registry.readable or counted
    for instance in registry.instances.values():
        check_text(instance.name)
        assert instance.name
        assert instance.created_at is None or instance.created_at > 0
        check_session(
            Session(
                id=instance.id,
                name=instance.name,
                program=instance.program,
                repository=instance.repository,
                branch=instance.branch,
                worktree=instance.worktree,
                repository_path=instance.repository_path,
            )
        )
        msgspec.json.encode(instance.tmux)


def seeds() -> Iterator[bytes]:
    """A state file as claude-squad writes it, and one that was caught half written."""
    worktree = {"repo_path": "/code/shop", "worktree_path": "/w/t", "branch_name": "dev/t"}
    instance = {
        "title": "a task",
        "program": "/opt/claude --resume",
        "created_at": "2026-11-22T14:10:26.51317989Z",
        "worktree": worktree,
        "diff_stats": {"added": 1, "content": "+"},
    }
    whole = json.dumps({"help_screens_seen": 2, "instances": [instance]}).encode()
    yield whole
    yield whole[:-40]
    yield json.dumps({"instances": [instance, instance, {**instance, "worktree": 1}]}).encode()
    yield b'{"instances":null}'
