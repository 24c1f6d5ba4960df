"""What the producers' ledgers and the squad say happened, against what the journal holds."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.writer import mark, tokens

_SHOWN = 8


@dataclass
class Account:
    """Marks of records: acknowledged ones, ones that were begun, and what writers complained of."""

    acknowledged: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    in_flight: int = 0  # writers that were killed between the two


def read_ledgers(folder: Path) -> Account:
    """All ledgers of the run. A torn last line says nothing."""
    account = Account()
    for path in sorted(folder.iterdir()):
        writer = int(path.name.partition("-")[0])
        text = path.read_text()
        begun = done = 0
        for line in text[: text.rfind("\n") + 1].splitlines():
            word, _, what = line.partition(" ")
            if word == "x":
                account.complaints.append(f"{path.name}: {what}")
            elif word == "b":
                begun = int(what)
            else:
                done = int(what)
        account.begun.update(mark(writer, record) for record in range(1, begun + 1))
        account.acknowledged.update(mark(writer, record) for record in range(1, done + 1))
        account.in_flight += begun > done
    return account


def recorded(db: sqlite3.Connection) -> Counter[int]:
    """How often the journal holds each mark, as a live event: by what it says, not by its id."""
    found: Counter[int] = Counter()
    for source, key, command, duration_ns in db.execute(
        "SELECT source, id, json_extract(fields, '$.command'), duration_ns FROM events "
        "WHERE state = 'live' AND source IN ('track', 'exec')"
    ):
        if key.startswith("soak:"):
            found[int(key.removeprefix("soak:"))] += 1
        elif source == "exec":
            found[int(command.removeprefix("m"))] += 1
        elif command is not None:
            found[round(duration_ns / 1000)] += 1
    return found


def differences(db: sqlite3.Connection, account: Account) -> list[str]:
    """Lost, doubled and invented records, one sentence each."""
    found = recorded(db)
    said = list(account.complaints)
    said += _named("lost (acknowledged, not recorded)", account.acknowledged - found.keys())
    said += _named("doubled", (key for key, n in found.items() if n > 1))
    said += _named("recorded, never written", found.keys() - account.begun)
    said += _named("without the final tokens", _unfinished(db, account))
    twice = db.execute(
        "SELECT session FROM events WHERE type IN ('session.created', 'session.killed') "
        "GROUP BY session, type HAVING count(*) > 1"
    ).fetchall()
    return said + _named("sessions that began or ended twice", (key for (key,) in twice))


def git_differences(db: sqlite3.Connection, commits: Iterable[str], sessions: int) -> list[str]:
    """The squad's commits, each once and no other; its branches and its sessions."""
    rows = db.execute(
        "SELECT json_extract(fields, '$.revision') FROM events "
        "WHERE type = 'git.commit' AND owned = 1 AND state = 'live'"
    ).fetchall()
    found, made = Counter(row[0] for row in rows), set(commits)
    said = _named("commits lost", made - found.keys())
    said += _named("commits doubled", (key for key, n in found.items() if n > 1))
    said += _named("commits that nobody made", found.keys() - made)
    for what, query in (
        ("branches", "type = 'git.branch' AND owned = 1"),
        ("sessions", "type = 'session.created' AND source = 'claude_squad'"),
    ):
        (count,) = db.execute(
            f"SELECT count(*) FROM events WHERE state = 'live' AND {query}"
        ).fetchone()
        if count != sessions:
            said.append(f"{what}: {sessions} happened, {count} recorded")
    return said


def _unfinished(db: sqlite3.Connection, account: Account) -> list[int]:
    return [
        key
        for key, count in _answers(db).items()
        if key in account.acknowledged and count != tokens(key, final=True)
    ]


def _answers(db: sqlite3.Connection) -> dict[int, int]:
    rows = db.execute("SELECT id, output_tokens FROM events WHERE type = 'tokens.used'")
    return {int(key.removeprefix("soak:")): count for key, count in rows}


def _named(what: str, keys: Iterable[object]) -> list[str]:
    names = sorted(str(key) for key in keys)
    if not names:
        return []
    return [f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' …' * (len(names) > _SHOWN)}"]
