"""Finding stored events: filters, the latest, pages, and following a journal that changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.errors import QueryError
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.query import events as query
from squad_otel.query.events import EventReader, Filter, types_named
from squad_otel.sessions import Session

BEGAN = 1_800_000_000 * NS


def session(key: str, name: str, program: str = "claude") -> Session:
    return Session(
        id=key,
        name=name,
        program=program,
        repository=f"repo-{program}",
        branch=f"dev/{key}",
        worktree=f"/w/{key}",
        started_at=BEGAN,
    )


def event(key: str, kind: str, at_s: int, **more: object) -> Event:
    more.setdefault("source", "exec")
    return Event(id=key, type=kind, occurred_at=BEGAN + at_s * NS, **more)  # type: ignore[arg-type]


def append(home: Path, *events: Event, sessions: tuple[Session, ...] = ()) -> None:
    journal = Journal(home, BEGAN)
    journal.append("x", Batch(events=list(events), sessions=list(sessions)), BEGAN + 3600 * NS)
    journal.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Events that arrived in another order than they happened in (the number is the second)."""
    append(
        tmp_path / "home",
        event("c5", "command.executed", 5, session="aaaa1111", success=False, error_type="exit_1"),
        event("g1", "git.commit", 1, session="aaaa1111", source="git", success=True),
        event("g3", "git.push", 3, session="aabb2222", source="git"),
        event("e4", "error", 4, session="aabb2222", error_type="X"),
        event("s2", "system.start", 2),
        event("n6", "prompt.sent", 6, session="nobody knows it"),
        sessions=(session("aaaa1111", "fix it"), session("aabb2222", "aaaa", "codex")),
    )
    return tmp_path / "home"


@pytest.fixture
def reader(home: Path) -> Iterator[EventReader]:
    opened = EventReader(home)
    yield opened
    opened.close()


def ids(reader: EventReader, limit: int | None = None, **chosen: object) -> list[str]:
    found = reader.stored(Filter(**chosen), reader.newest(), limit)  # type: ignore[arg-type]
    return [one.event.id for one in found]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["g1", "s2", "g3", "e4", "c5", "n6"]),
        ({"types": ("git.commit", "git.push")}, ["g1", "g3"]),
        ({"sessions": ("aaaa1111",)}, ["g1", "c5"]),
        ({"sessions": ("fix it", "aabb2222")}, ["g1", "g3", "e4", "c5"]),
        ({"sessions": ("nobody knows it",)}, ["n6"]),
        ({"programs": ("codex",)}, ["g3", "e4"]),
        ({"repositories": ("repo-claude",)}, ["g1", "c5"]),
        ({"branches": ("dev/aabb2222",)}, ["g3", "e4"]),
        ({"failed": True}, ["e4", "c5"]),
        ({"since": BEGAN + 3 * NS}, ["g3", "e4", "c5", "n6"]),
        ({"until": BEGAN + 3 * NS}, ["g1", "s2"]),
        ({"since": BEGAN + 2 * NS, "until": BEGAN + 5 * NS, "failed": True}, ["e4"]),
        ({"branches": ("' OR 1=1 --",)}, []),
    ],
)
def test_a_filter_takes_what_it_names_oldest_first(
    reader: EventReader, chosen: dict[str, object], expected: list[str]
) -> None:
    assert ids(reader, **chosen) == expected
    assert reader.count(Filter(**chosen), reader.newest()) == len(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_limit_takes_the_latest_whatever_the_page(
    reader: EventReader, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(query, "_PAGE", page)
    assert ids(reader) == ["g1", "s2", "g3", "e4", "c5", "n6"]
    assert ids(reader, 2) == ["c5", "n6"]
    assert ids(reader, 1, failed=True) == ["c5"]
    assert ids(reader, 99) == ids(reader)
    assert ids(reader, 0) == []


def test_pages_split_events_of_one_instant_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path, *(event(f"e{n}", "error", 1) for n in range(7)))
    monkeypatch.setattr(query, "_PAGE", 3)
    reader = EventReader(tmp_path)
    assert ids(reader) == [f"e{n}" for n in range(7)]
    assert ids(reader, 4) == [f"e{n}" for n in range(3, 7)]
    reader.close()


def test_all_of_an_event_comes_back(tmp_path: Path) -> None:
    sent = event(
        "t1",
        "tokens.used",
        7,
        session="fix it",
        fields={"model": "m", "input_tokens": 5, "cost_nusd": 12},
    )
    append(tmp_path, sent, sessions=(session("aaaa1111", "fix it"),))
    reader = EventReader(tmp_path)
    (found,) = reader.stored(Filter(), reader.newest())
    reader.close()
    assert found.event.fields == sent.fields
    assert (found.event.session, found.session_name) == ("aaaa1111", "fix it")
    assert (found.event.program, found.fold, found.seq) == ("claude", "live", 1)
    assert found.recorded_at == BEGAN + 3600 * NS


def test_a_session_is_found_by_name_id_or_the_begin_of_its_id(reader: EventReader) -> None:
    assert reader.session("fix it") == "fix it"
    assert reader.session("aabb") == "aabb2222"
    assert reader.session("aaaa") == "aaaa"  # a name wins over the begin of an id
    with pytest.raises(QueryError, match=r"aaaa1111, aabb2222.*write more"):
        reader.session("aa")
    for word in ("zz", "", "%"):
        with pytest.raises(QueryError, match="no session is called"):
            reader.session(word)


def test_a_word_names_a_type_or_a_family() -> None:
    assert types_named("error") == ("error",)
    assert types_named("git") == ("git.commit", "git.push", "git.pull", "git.branch")
    for word in ("gi", "", "git."):
        with pytest.raises(QueryError, match=r"must be one of session\.created"):
            types_named(word)


def test_no_page_leaves_a_transaction_open(home: Path) -> None:
    reader = EventReader(home)
    part = list(islice(reader.stored(Filter(), reader.newest()), 2))
    assert len(part) == 2
    journal = Journal(home, BEGAN)
    journal.append("x", Batch(events=[event("z", "error", 9)]), BEGAN + 3601 * NS)
    # The log can be emptied only when no reader holds an old state of the journal.
    busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    journal.close()
    reader.close()
    assert busy == 0


def test_what_arrives_during_an_export_is_not_in_it(home: Path) -> None:
    reader = EventReader(home)
    found = reader.stored(Filter(), reader.newest())
    append(home, event("late", "error", 99))
    assert "late" not in [one.event.id for one in found]
    reader.close()


class Script:
    """Does one thing each time that there is nothing new; ends the following after the last."""

    def __init__(self, *steps: object) -> None:
        self._steps = list(steps)
        self.notes: list[str] = []

    def wait(self) -> None:
        if not self._steps:
            raise KeyboardInterrupt
        self._steps.pop(0)()  # type: ignore[operator]

    def followed(self, reader: EventReader, after: int, **chosen: object) -> list[str]:
        found: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            for one in reader.follow(Filter(**chosen), after, self.wait, self.notes.append):  # type: ignore[arg-type]
                found.append(one.event.id)
        reader.close()
        return found


def test_following_gives_each_new_event_once_in_order_of_arrival(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "_PAGE", 2)
    reader = EventReader(home)
    script = Script(
        lambda: append(home, *(event(f"n{n}", "error", 100 - n) for n in range(5))),
        lambda: None,
        lambda: append(home, event("x", "prompt.sent", 1), event("n5", "error", 1)),
    )
    expected = ["n0", "n1", "n2", "n3", "n4", "n5"]
    assert script.followed(reader, reader.newest(), types=("error",)) == expected
    assert script.notes == []


def test_following_survives_a_journal_that_is_replaced(home: Path) -> None:
    reader = EventReader(home)

    def gone() -> None:
        for path in home.glob("journal.db*"):
            path.rename(path.with_name(f"old-{path.name}"))

    script = Script(
        lambda: append(home, event("before", "error", 1)),
        gone,
        lambda: None,
        (home / "journal.db").touch,  # begun, but nothing is in it yet
        lambda: None,
        lambda: append(home, event("after", "error", 1)),
    )
    assert script.followed(reader, reader.newest()) == ["before", "after"]
    assert len(script.notes) == 2


def test_the_same_journal_in_another_file_is_not_read_twice(home: Path) -> None:
    reader = EventReader(home)

    def copied() -> None:
        path = home / "journal.db"
        copy = home / "copy"
        copy.write_bytes(path.read_bytes())
        copy.replace(path)

    script = Script(copied, lambda: append(home, event("new", "error", 1)))
    assert script.followed(reader, reader.newest()) == ["new"]


def test_a_replaced_journal_that_is_none_is_said(home: Path) -> None:
    reader = EventReader(home)

    def foreign() -> None:
        (home / "other").write_bytes(b"no database at all, and long enough to be read as one" * 40)
        (home / "other").replace(home / "journal.db")

    found = reader.follow(
        Filter(), reader.newest(), Script(*[foreign, *[lambda: None] * 50]).wait, lambda _: None
    )
    with pytest.raises(Exception, match="no journal or is damaged"):
        next(found)
    reader.close()
