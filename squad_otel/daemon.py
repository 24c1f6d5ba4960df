"""The daemon: looks at the sources, writes the journal, serves /metrics, sends OTLP."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from squad_otel import __version__
from squad_otel.batch import Batch, Source
from squad_otel.errors import JournalError, SquadOtelError
from squad_otel.events import NS, Event
from squad_otel.export.otlp import MetricPusher, SpanSender
from squad_otel.export.points import Point, Sample, points
from squad_otel.export.prometheus import render
from squad_otel.gauges import (
    OwnCounts,
    Usage,
    own_samples,
    session_samples,
    threshold_samples,
)
from squad_otel.http import HttpServer
from squad_otel.ids import digest
from squad_otel.journal import Appended, Journal
from squad_otel.prices import load_prices
from squad_otel.running import state_path
from squad_otel.sessions import Session
from squad_otel.settings import Settings
from squad_otel.sources.claude import ClaudeSource
from squad_otel.sources.claude_squad import SquadSource
from squad_otel.sources.git import GitSource
from squad_otel.sources.spool import SpoolSource
from squad_otel.sources.tmux import Tmux
from squad_otel.spool import make_private

log = logging.getLogger("squad_otel.daemon")

#: Sessions that ended stay visible to the sources this long, for the last lines they left.
RECENT_NS = 300 * NS

#: A Prometheus that is started with us finds its targets within 5 s: until it has looked, nothing
#: that is new is shown as more than 0.
_FIRST_LOOK_NS = 10 * NS

_MAX_BACKOFF_S = 60.0
_MAX_BACKLOG_POLLS = 16  # looks at one source in a round while it has more to give
_SPAN_INTERVAL_S = 1.0
_PRUNE_INTERVAL_S = 60.0
_START_ATTEMPTS = 20  # of half a second each

#: A clock may be ahead for a while; so far ahead of our own count of time, it prunes nothing.
_CLOCK_SLACK_NS = 3600 * NS


@dataclass(slots=True)
class _Watch:
    """One source and how it fares."""

    source: Source
    failures: int = 0
    next_at: float = 0.0  # on the monotonic clock


class Daemon:
    """Everything of one running daemon. `clock` gives UTC ns."""

    def __init__(
        self,
        home: Path,
        settings: Settings,
        sources: Sequence[Source],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open the journal and bind the port. Raises SquadOtelError when one is not to be had."""
        self._home = home
        self._settings = settings
        self._clock = clock
        self._watches = [_Watch(source) for source in sources]
        self._stop = threading.Event()
        self._counts = OwnCounts()
        self._usage: dict[str, Usage] = {}
        self._started_at = clock()
        self._heartbeat = self._started_at
        self._began = time.monotonic()
        self._prune_next = 0.0  # on the monotonic clock
        # One that never succeeds must be seen to fail: it counts from the start.
        self._counts.source_success_at = {s.name: self._started_at for s in sources}
        self.journal = Journal(home, self._started_at)
        self._threads: list[threading.Thread] = []
        try:
            make_private(home / "spool")  # so that a line of shell can append to it
            self._count_usage(None)
            self._http = HttpServer(settings.http_port, self._render, self._health)
            own = f"{self._http.host}:{self._http.port}"
            self._pusher = MetricPusher.from_settings(settings.otlp_endpoint, own)
            self._sender = SpanSender.from_settings(settings.otlp_endpoint, own)
        except BaseException:
            self.journal.close()
            raise
        # A new series has to be seen as 0 once before its value, on each way out.
        intervals = [settings.scrape_interval_s]
        if self._pusher is not None:
            intervals.append(settings.push_interval_s)
        self._hold_ns = round(2 * NS * max(intervals))

    @property
    def port(self) -> int:
        """The port of /metrics."""
        return self._http.port

    def run(self) -> None:
        """Work until `stop`; then put everything away in order. At most 2 s pass after `stop`."""
        self._write_state_file()
        self._record_start()
        if self._pusher is not None:
            self._start_thread("otlp-metrics", self._push_metrics)
        if self._sender is not None:
            self._start_thread("otlp-spans", self._send_spans)
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self.round()
                left = self._settings.poll_interval_s - (time.monotonic() - began)
                self._stop.wait(max(left, 0.05))
        finally:
            self._close()

    def stop(self) -> None:
        """Ask the daemon to end; returns at once and may be called from a signal handler."""
        self._stop.set()

    def round(self) -> None:
        """Look at every source that is due, fold what settled, release what was held."""
        for watch in self._watches:
            if self._stop.is_set():
                return
            if time.monotonic() >= watch.next_at:
                self._look(watch)
        now = self._clock()
        try:
            self.journal.settle(now)
            if now - self._started_at >= _FIRST_LOOK_NS:
                self.journal.release(now, self._hold_ns)
            self._prune(now)
        except SquadOtelError as error:
            self._complain("journal", error)
            return
        self._heartbeat = now

    def _prune(self, now: int) -> None:
        """Delete old events: a few each round, and where there are none, look once a minute."""
        if time.monotonic() < self._prune_next:
            return
        awake_ns = round((time.monotonic() - self._began) * NS)
        now = min(now, self._started_at + awake_ns + _CLOCK_SLACK_NS)
        keep_ns = self._settings.retention_days * 86400 * NS
        pruned = self.journal.prune(now, keep_ns, self._settings.journal_size_mb * 10**6)
        self._counts.pruned += pruned
        if not pruned:
            self._prune_next = time.monotonic() + _PRUNE_INTERVAL_S

    # -- one source ---------------------------------------------------------------------------

    def _look(self, watch: _Watch) -> None:
        source = watch.source
        try:
            for _ in range(_MAX_BACKLOG_POLLS):
                batch = source.poll(
                    self._visible_sessions(), self.journal.offsets(source.name), self._clock()
                )
                for reason, count in batch.skipped.items():
                    self._counts.skipped[source.name, reason] += count
                if not batch:
                    break
                self._append(source.name, batch)
                # A sampled source has nothing more to give: it would only look twice as often.
                if source.tier == "sampled" or not batch.events or self._stop.is_set():
                    break
        except Exception as error:  # one bad source must not stop the others
            watch.failures += 1
            watch.next_at = time.monotonic() + min(2.0 ** (watch.failures - 1), _MAX_BACKOFF_S)
            self._counts.source_errors[source.name] += 1
            self._complain(f"source {source.name}", error, first=watch.failures == 1)
            return
        if watch.failures:
            log.warning("source %s is read again", source.name)
        watch.failures = 0
        watch.next_at = 0.0
        self._counts.source_success_at[source.name] = self._clock()

    def _visible_sessions(self) -> dict[str, Session]:
        since = self._clock() - RECENT_NS
        return {
            key: session
            for key, session in self.journal.sessions().items()
            if session.ended_at is None or session.ended_at >= since
        }

    def _append(self, source: str, batch: Batch) -> Appended:
        result = self.journal.append(source, batch, self._clock())
        self._counts.events[source] += result.new
        for reason, count in result.left_out.items():
            if count:
                self._counts.skipped[source, reason] += count
        for label, count in result.overflow.items():
            self._counts.overflow[label] += count
        spent = {e.session for e in batch.events if e.type == "tokens.used" and e.session}
        if spent:
            self._count_usage(spent)
        return result

    def _count_usage(self, sessions: set[str] | None) -> None:
        """Sum up again what these sessions used; all live ones when None."""
        if sessions is None:
            sessions = {key for key, s in self.journal.sessions().items() if s.live}
        for key in sessions:
            usage = self.journal.usage(key)
            if usage is not None:
                self._usage[key] = Usage(*usage)

    def _complain(self, what: str, error: Exception, *, first: bool = True) -> None:
        """Say an error once; a bug of ours with its traceback."""
        if not first:
            return
        expected = isinstance(error, SquadOtelError | OSError | sqlite3.Error)
        log.warning("%s: %s", what, error, exc_info=None if expected else error)
        if not expected and "PYTEST_CURRENT_TEST" in os.environ:
            raise error

    # -- what the outside sees ----------------------------------------------------------------

    def _samples(self) -> list[Sample]:
        live = [session for session in self.journal.sessions().values() if session.live]
        return [
            *session_samples(live, self._usage),
            *threshold_samples(self._settings),
            *own_samples(
                self._counts,
                __version__,
                self._heartbeat,
                self.journal.created_at,
                self.journal.size_bytes(),
            ),
        ]

    def _points(self) -> list[Point]:
        return points(self.journal.id, self.journal.shown(), self._samples())

    def _render(self, accept: str) -> tuple[bytes, str]:
        return render(self._points(), accept)

    def _health(self) -> tuple[bool, dict[str, Any]]:
        age_s = (self._clock() - self._heartbeat) / NS
        well = age_s < max(10.0, 5 * self._settings.poll_interval_s)
        failing = [watch.source.name for watch in self._watches if watch.failures]
        return well, {
            "status": "ok" if well else "stuck",
            "version": __version__,
            "journal": self.journal.id,
            "heartbeat_age_s": round(age_s, 3),
            "sources_failing": failing,
        }

    # -- sending ------------------------------------------------------------------------------

    def _start_thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _push_metrics(self) -> None:
        assert self._pusher is not None
        failures = 0
        while not self._stop.wait(self._settings.push_interval_s):
            try:
                self._pusher.push(
                    self.journal.id,
                    self._points(),
                    self.journal.created_at,
                    self._started_at,
                    self._clock(),
                )
                failures = 0
            except Exception as error:  # a dead collector costs nothing but delay
                failures += 1
                self._counts.export_errors["metrics"] += 1
                self._complain("pushing metrics", error, first=failures == 1)

    def _send_spans(self) -> None:
        assert self._sender is not None
        failures = 0
        pause_s = _SPAN_INTERVAL_S
        while not self._stop.wait(pause_s):
            try:
                while not self._stop.is_set() and self._sender.step(self.journal):
                    pass
                self._counts.skipped["spans", "refused"] = self._sender.refused
                failures = 0
                pause_s = _SPAN_INTERVAL_S
            except Exception as error:  # what was not sent is sent later, from the cursor
                failures += 1
                pause_s = min(2.0**failures, _MAX_BACKOFF_S)
                self._counts.export_errors["spans"] += 1
                self._complain("sending spans", error, first=failures == 1)

    # -- beginning and end --------------------------------------------------------------------

    def _record_start(self) -> None:
        """A daemon begins also while somebody has events removed and the file is locked."""
        batch = Batch(events=[self._system_event("system.start")])
        for _ in range(_START_ATTEMPTS):
            try:
                self._append("daemon", batch)
                return
            except JournalError as error:
                problem = error
        log.warning("the start was not recorded: %s", problem)

    def _system_event(self, kind: str) -> Event:
        now = self._clock()
        return Event(
            id=f"{kind}:{digest(self.journal.id, str(now))}",
            type=kind,
            occurred_at=now,
            source="daemon",
            fields={"version": __version__},
        )

    def _write_state_file(self) -> None:
        state = {
            "pid": os.getpid(),
            "http": f"http://{self._http.host}:{self._http.port}",
            "started_at": self._started_at,
            "version": __version__,
            "otlp": self._settings.otlp_endpoint,
        }
        path = state_path(self._home)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(state) + "\n")
        fresh.chmod(0o600)
        fresh.replace(path)

    def _close(self) -> None:
        for sending in (self._pusher, self._sender):
            if sending is not None:
                sending.close()
        for watch in self._watches:
            watch.source.close()
        try:
            self._append("daemon", Batch(events=[self._system_event("system.stop")]))
        except SquadOtelError as error:
            log.warning("the stop was not recorded: %s", error)
        self._http.close()
        for thread in self._threads:
            thread.join(timeout=0.5)
        self.journal.close()
        state_path(self._home).unlink(missing_ok=True)


def run_until_signal(daemon: Daemon) -> None:
    """Run in the foreground; SIGTERM, SIGINT and SIGHUP end it in order."""

    def end(_number: int, _frame: FrameType | None) -> None:
        daemon.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: what is ignored stays so
            signal.signal(number, end)
    daemon.run()


def sources(home: Path, settings: Settings, environ: Mapping[str, str]) -> list[Source]:
    """The table of sources, in the order in which a round looks at them."""
    user_home = Path(environ.get("HOME") or Path.home())

    def expanded(path: str) -> Path:
        return user_home / path[2:] if path.startswith("~/") else Path(path)

    return [
        SquadSource(
            expanded(settings.claude_squad_state), Tmux(environ), user=environ.get("USER", "")
        ),
        SpoolSource(home),
        GitSource(),
        ClaudeSource(
            _claude_folders(settings, environ, user_home),
            load_prices(expanded(settings.prices_file) if settings.prices_file else None),
        ),
    ]


def _claude_folders(settings: Settings, environ: Mapping[str, str], user_home: Path) -> list[Path]:
    named = settings.claude_config_dirs or environ.get("CLAUDE_CONFIG_DIR", "").replace(",", ":")
    if named:
        return [Path(part).expanduser() for part in named.split(":") if part]
    return [user_home / ".claude", user_home / ".config" / "claude"]
