"""A journal full of hostile names, from the spool to every page, list and scrape."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import urllib3
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from squad_otel.batch import Batch
from squad_otel.daemon import Daemon
from squad_otel.events import EVENT_TYPES, NS, Event
from squad_otel.report.text import clean
from squad_otel.sessions import Session, State
from squad_otel.settings import Settings
from squad_otel.sources.spool import SpoolSource
from squad_otel.spool import append, encode
from tests import hostile
from tests.squad import wait_until
from tests.unit.cli.test_status import run

NAMES = tuple(name.encode(errors="replace").decode() for name in hostile.EVIL)
NOW = time.time_ns()
FORMATS = ("table", "json", "csv", "html", "markdown")


class Raw:
    """A source that cleans nothing: what a renderer would have to stand if one forgot to."""

    name, tier = "raw", "sampled"

    def poll(self, sessions: Mapping[str, Session], offsets: Mapping[str, str], now: int) -> Batch:
        if f"{0:06}-raw" in sessions:
            return Batch()
        return Batch(
            sessions=[
                Session(
                    id=f"{n:06}-raw",
                    name=name,
                    program=name,
                    repository=name,
                    branch=name,
                    worktree=name,
                    state=State.WAITING,
                    started_at=NOW,
                    state_since=NOW,
                    last_activity=NOW,
                )
                for n, name in enumerate(NAMES)
            ],
            events=[event for n, name in enumerate(NAMES) for event in raw_events(n, name)],
        )

    def close(self) -> None:
        """Nothing is held open."""


def fields_of(kind: str, name: str) -> dict[str, str | int]:
    return {f: name if of is str else 7 for f, of in EVENT_TYPES[kind].fields.items()}


def raw_events(number: int, name: str) -> Iterator[Event]:
    for kind in EVENT_TYPES:
        yield Event(
            id=f"{number}:{kind}:{name}",
            type=kind,
            occurred_at=NOW,
            source="git",
            session=f"{number:06}-raw",
            branch=name,
            duration_ns=NS,
            success=number % 2 == 0,
            error_type=name,
            fields=fields_of(kind, name),
        )


def spooled() -> Iterator[bytes]:
    """What a program with hostile names leaves by the track API: a session, and all types."""
    for number, name in enumerate(NAMES):
        own = dict.fromkeys(("program", "repository", "branch", "error_type"), name[:300])
        session = f"{number:06}-spool"
        begin = {"type": "session.created", "new_session": name[:300] or "x"}
        for kind in EVENT_TYPES:
            record = {"type": kind, "at": NOW, "session": session, "fields": fields_of(kind, name)}
            record["id"] = f"{number}/{kind}"
            yield encode({**record, **own, **(begin if kind == begin["type"] else {})})


@pytest.fixture(scope="module")
def statements() -> Iterator[list[str]]:
    """Every SQL text that is handed to SQLite, before anything is bound."""
    found: list[str] = []

    class Listening(sqlite3.Connection):
        def execute(self, sql, *values):
            found.append(sql)
            return super().execute(sql, *values)

        def executemany(self, sql, *values):
            found.append(sql)
            return super().executemany(sql, *values)

        def executescript(self, sql):
            found.append(sql)
            return super().executescript(sql)

        def cursor(self, *values):
            raise AssertionError("a cursor's statements would not be heard")

    with pytest.MonkeyPatch.context() as patch:
        connect = sqlite3.connect
        patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Listening, **k))
        yield found


@pytest.fixture(scope="module")
def scrapes(
    tmp_path_factory: pytest.TempPathFactory, statements: list[str]
) -> Iterator[tuple[Path, str, str]]:
    """A real daemon that has read it all: its home, /metrics as text and as OpenMetrics."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    append(home, spooled())
    daemon = Daemon(home, Settings(http_port=0, poll_interval_s=0.2), [SpoolSource(home), Raw()])
    thread = threading.Thread(target=daemon.run)
    thread.start()
    url = f"http://127.0.0.1:{daemon.port}/metrics"
    try:
        with urllib3.PoolManager() as pool:

            def scrape(accept: str = "") -> str:
                return pool.request("GET", url, headers={"Accept": accept}).data.decode()

            everything = f'squad_otel_events_total{{journal="{daemon.journal.id}",source="'
            for source in ("spool", "raw"):
                line = f'{everything}{source}"}} {float(len(NAMES) * len(EVENT_TYPES))}\n'
                wait_until(lambda line=line: line in scrape(), line)
            yield home, scrape(), scrape("application/openmetrics-text;version=1.0.0")
    finally:
        daemon.stop()
        thread.join()


def test_metrics_can_be_scraped_and_no_series_is_there_twice(
    scrapes: tuple[Path, str, str],
) -> None:
    _, text, openmetrics = scrapes
    for families in (plain_text(text), open_metrics(openmetrics)):
        series = [(s.name, tuple(sorted(s.labels.items()))) for f in families for s in f.samples]
        assert len(series) == len(set(series))
        branches = {
            dict(labels)["branch"]
            for name, labels in series
            if name.endswith("_info") and "branch" in dict(labels)
        }
        assert set(NAMES) <= branches
        for name, labels in series:
            if name.endswith("_total"):
                assert all(value.isprintable() for _, value in labels)
    assert "squad_otel_skipped_total" not in text


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_is_harmless(scrapes: tuple[Path, str, str], form: str) -> None:
    text = run(scrapes[0], "report", "--since", "1h", "--format", form)
    check(form, text)


@pytest.mark.parametrize("form", FORMATS[:3])
@pytest.mark.parametrize("words", [("status",), ("sessions", "list", "--limit", "1000")])
def test_status_and_sessions_are_harmless(
    scrapes: tuple[Path, str, str], form: str, words: tuple[str, ...]
) -> None:
    text = run(scrapes[0], *words, "--format", form)
    check(form, text)
    if form == "json":
        found = {row["session"] for row in json.loads(text)["sessions"]}
        assert found >= set(map(clean, NAMES))


def check(form: str, text: str) -> None:
    checks = {
        "table": hostile.check_terminal,
        "json": hostile.check_json,
        "csv": hostile.check_csv,
        "html": hostile.check_html,
        "markdown": hostile.check_markdown,
    }
    checks[form](text)


def test_no_name_is_part_of_a_statement(
    scrapes: tuple[Path, str, str], statements: list[str]
) -> None:
    assert len(statements) > 20
    for sql in set(statements):
        for name in NAMES:
            assert len(name) < 4 or name not in sql
    with sqlite3.connect(scrapes[0] / "journal.db") as db:
        (count,) = db.execute("SELECT count(*) FROM events").fetchone()
    db.close()
    assert count >= 2 * len(NAMES) * len(EVENT_TYPES)
