"""A daemon, a Prometheus, 32 producers and a small squad, and who kills them at random moments."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import urllib3

from squad_otel.events import NS
from squad_otel.ids import digest
from squad_otel.schema import journal_path, open_reader
from squad_otel.spool import SHELL_SEGMENT, encode, segment_name
from tests.otlp_sink import Sink
from tests.soak import account, recount
from tests.soak.writer import PAUSE, SHELL, mark
from tests.squad import Squad
from tests.stack import ROOT, Prometheus, Stack, get, wait_for

_CREW = {"track": 14, "shell": 10, "lines": 4, "exec": 4}
_WRITER = Path(__file__).parent / "writer.py"

#: Twenty kills: "young" is two of them.
DECK = (
    *("daemon",) * 3,
    *("young",) * 3,
    *("commit",) * 3,
    *("paused",) * 2,
    *("flush",) * 2,
    *("python", "exec", "shell", "prometheus"),
)


@dataclass(frozen=True)
class Kill:
    """One kill and how many records, of how many bytes, waited in the spool at that moment."""

    kind: str
    waiting: int
    size_bytes: int


@dataclass
class _Writing:
    kind: str
    number: int
    process: subprocess.Popen[bytes]
    ledger: Path


class SquadAtWork(threading.Thread):
    """A claude-squad whose agents commit in their worktrees; remembers every commit it made."""

    def __init__(self, squad: Squad, repo: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.commits: list[str] = []
        self.created = 0
        self._squad = squad
        self._repo = repo
        self._random = random.Random(seed)
        self._working = threading.Lock()
        self._end = threading.Event()
        for _ in range(3):
            self.create()

    def create(self) -> None:
        """One session more."""
        self._squad.create(f"task {self.created}", self._repo, "sleep 3600")
        self.created += 1

    def run(self) -> None:
        while not self._end.wait(self._random.uniform(0.5, 1.5)):
            with self._working:
                self._commit()

    def _commit(self) -> None:
        tree = self._random.choice(list(self._squad.instances.values())).worktree
        (tree / "work").write_text(str(len(self.commits)))
        self._squad.git(tree, "add", "work")
        self._squad.git(tree, "commit", "-q", "-m", "work")
        self.commits.append(self._squad.git(tree, "rev-parse", "HEAD"))

    def pause(self) -> None:
        self._working.acquire()

    def go(self) -> None:
        self._working.release()

    def finish(self) -> None:
        self._end.set()
        self.join()


@dataclass
class Soak:
    """One run in `folder` (a short path, for tmux's socket). Enter it, `play`, read `found`."""

    folder: Path
    seed: int
    sabotage: str = ""
    ack_first: bool = False
    with_squad: bool = True
    deck: Sequence[str] = DECK
    patience_s: float = 20  # how long an account may differ at a quiet edge
    kills: list[Kill] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    summary: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._sink = Sink(self.folder / "sink")
        environ = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{self._sink.url}/v1/traces",
            "TMUX_TMPDIR": str(self.folder / "tmux"),
        }
        if self.sabotage:
            environ["SABOTAGE"] = self.sabotage
            environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'sabotage'}"
        self._stack = Stack(self.folder, environ)
        self._prometheus = Prometheus(
            self.folder / "prometheus",
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [
                    {
                        "job_name": "squad",
                        "static_configs": [{"targets": [f"127.0.0.1:{self._stack.http_port}"]}],
                    }
                ],
            },
        )
        self._crew: list[_Writing] = []
        self._numbers = 0
        self._repo = self.folder / "code" / "shop"
        self._squad: Squad | None = None
        self._worked: SquadAtWork | None = None
        self._gaps: list[tuple[int, int]] = []  # when Prometheus did not look (UTC ns)
        self._began = time.monotonic()

    # -- beginning and end --------------------------------------------------------------------

    def __enter__(self) -> Soak:
        with ExitStack() as begun:
            begun.callback(self._end)
            for name in ("ledgers", "programs"):
                (self.folder / name).mkdir()
            nothing = self.folder / "programs" / "nothing"
            nothing.write_text("#!/bin/sh\n")
            nothing.chmod(0o755)
            self._sink.start()
            if self.with_squad:
                self._squad = Squad(self.folder, self.folder / "tmux")
                self._squad.make_repo(self._repo)
                time.sleep(1.1)  # what was there before the journal is another second's
            self._stack.start_daemon()
            self._prometheus.start()
            if self._squad is not None:
                self._worked = SquadAtWork(self._squad, self._repo, self.seed)
                self._worked.start()
            for kind, number in _CREW.items():
                for _ in range(number):
                    self._hire(kind)
            self._begun = begun.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._begun.close()

    def _end(self) -> None:
        for writing in self._crew:
            _kill_group(writing.process)
        for process in (self._stack.daemon, self._prometheus):
            process.kill()
        if self._worked is not None:
            self._worked.finish()
        if self._squad is not None:
            self._squad.close()
        self._sink.stop()

    def _hire(self, kind: str) -> None:
        """Another producer, with a number that nobody had."""
        self._numbers += 1
        number = self._numbers
        ledger = self.folder / "ledgers" / f"{number}-{kind}"
        environ = {
            **self._stack.environ,
            "LEDGER": str(ledger),
            "FIRST": str(mark(number, 0)),
            "REST": f"{self._random.uniform(0.2, 0.5):.2f}",
        }
        seed = str(self._random.randrange(10**9))
        python = [sys.executable, str(_WRITER), kind, str(number), seed, str(self.folder)]
        if self.ack_first:
            python.append("ack-first")
        process = subprocess.Popen(
            ["/bin/sh", "-c", SHELL] if kind == "shell" else python,
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._crew.append(_Writing(kind, number, process, ledger))

    # -- the kills ----------------------------------------------------------------------------

    def play(self, kills: int, edge_every: int = 50) -> None:
        """Kill that often; at quiet edges, and at the end, compare. What differs is in `found`."""
        deck: list[str] = []
        next_edge = edge_every
        while len(self.kills) < kills and not self.found:
            if not deck:
                deck = self._random.sample(self.deck, len(self.deck))
            time.sleep(self._random.uniform(0.2, 2.0))
            getattr(self, f"_kill_{deck.pop()}")()
            if len(self.kills) >= next_edge and len(self.kills) < kills:
                next_edge += edge_every
                if self._worked is not None:
                    self._worked.create()
                self._quiet_edge()
        self._quiet_edge()

    def _note(self, kind: str) -> None:
        self.kills.append(Kill(kind, *self._backlog()))

    def _kill_daemon(self) -> None:
        """At any moment, and away for a while."""
        self._note("daemon")
        self._daemon_dies()
        time.sleep(self._random.uniform(0.05, 1.0))
        self._stack.daemon.start()

    def _daemon_dies(self) -> None:
        code = self._stack.daemon.kill()
        if code != -signal.SIGKILL:
            self.found.append(f"the daemon had ended by itself, with {code}: {self._log()}")

    def _kill_young(self) -> None:
        """Twice in succession: a daemon that has hardly begun."""
        self._kill_daemon()
        time.sleep(self._random.choice([0.0, 1.2]) * self._random.random())
        self._note("young daemon")
        self._daemon_dies()
        self._stack.daemon.start()

    def _kill_commit(self) -> None:
        """In the middle of a transaction, or right after its first byte; it has a lot to write."""
        wait_for(lambda: get(f"{self._stack.url}/healthz"), f"the daemon: {self._log()}")
        os.kill(self._stack.daemon.pid, signal.SIGSTOP)
        time.sleep(self._random.uniform(0.3, 1.5))
        waiting = self._backlog()
        journal = str(journal_path(self._stack.home))
        with open(f"{journal}-shm", "rb") as shared:
            written = _written(Path(f"{journal}-wal"))
            begun: Callable[[], bool] = self._random.choice(
                [
                    lambda: _in_transaction(shared.fileno()),
                    lambda: _written(Path(f"{journal}-wal")) != written,
                ]
            )
            os.kill(self._stack.daemon.pid, signal.SIGCONT)
            deadline = time.monotonic() + 3
            while not begun() and time.monotonic() < deadline:
                pass
            after = self._random.choice([0.0005, 0.006]) * self._random.random()
            _wait_until(time.monotonic() + after)
            self._daemon_dies()
        self.kills.append(Kill("daemon in a commit", *waiting))
        self._stack.daemon.start()

    def _kill_paused(self) -> None:
        """Stopped while the others write on; then killed."""
        os.kill(self._stack.daemon.pid, signal.SIGSTOP)
        time.sleep(self._random.uniform(0.3, 1.5))
        self._note("paused daemon")
        self._daemon_dies()
        self._stack.daemon.start()

    def _kill_flush(self) -> None:
        """A producer between the beginning of a batch and its acknowledgement, if one is met."""
        kind, least = self._random.choice([("track", 100), ("lines", 1)])
        found = self._one_of(kind)
        crew = [w for w in self._crew if w.kind == kind]
        sizes = {w.number: _size(w.ledger) for w in crew}
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            grown = [w for w in crew if _size(w.ledger) != sizes[w.number]]
            sizes.update({w.number: _size(w.ledger) for w in grown})
            begun = [w for w in grown if _last_batch(w.ledger) >= least]
            if begun:
                found = begun[0]
                break
        _wait_until(time.monotonic() + self._random.choice([0, 0.002, 0.006]))
        self._replace(found, "producer in a flush")

    def _kill_python(self) -> None:
        self._replace(self._one_of("track", "lines"), "producer")

    def _kill_exec(self) -> None:
        self._replace(self._one_of("exec"), "exec")

    def _kill_shell(self) -> None:
        self._replace(self._one_of("shell"), "shell")

    def _one_of(self, *kinds: str) -> _Writing:
        return self._random.choice([w for w in self._crew if w.kind in kinds])

    def _replace(self, writing: _Writing, kind: str) -> None:
        _kill_group(writing.process)
        self._note(kind)
        self._crew.remove(writing)
        self._tear()
        self._hire(writing.kind)

    def _tear(self) -> None:
        """What a killed producer may leave of a line that its libc wrote in two pieces."""
        record = encode({"type": "command.executed", "program": "torn", "duration_ns": 1})
        piece = record[: self._random.randrange(1, len(record) - 1)]
        segment = self._random.choice([SHELL_SEGMENT, segment_name(time.time())])
        fd = os.open(
            self._stack.home / "spool" / segment, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        os.write(fd, piece)
        os.close(fd)

    def _kill_prometheus(self) -> None:
        self._note("prometheus")
        began = time.time_ns()
        self._prometheus.kill()
        time.sleep(self._random.uniform(0, 1.5))
        self._prometheus.start()
        self._gaps.append((began - 2 * NS, time.time_ns() + 2 * NS))

    # -- what waits ---------------------------------------------------------------------------

    def _backlog(self) -> tuple[int, int]:
        """Records in the spool that no commit has taken, and their bytes."""
        with closing(open_reader(self._stack.home)) as db:
            offsets = dict(
                db.execute("SELECT name, value FROM offsets WHERE source = 'spool'").fetchall()
            )
        records = size_bytes = 0
        for path in (self._stack.home / "spool").iterdir():
            try:
                with path.open("rb") as file:
                    file.seek(int(offsets.get(path.name, "0")))
                    rest = file.read()
            except FileNotFoundError:  # taken away just now
                continue
            records += rest.count(b"\n")
            size_bytes += len(rest)
        return records, size_bytes

    # -- quiet edges --------------------------------------------------------------------------

    def _quiet_edge(self) -> None:
        """Everybody rests, all is read and shown; then all accounts must agree."""
        (self.folder / PAUSE).touch()
        if self._worked is not None:
            self._worked.pause()
        try:
            self._settle()
            self.summary = self._summed_up()
        finally:
            (self.folder / PAUSE).unlink()
            if self._worked is not None:
                self._worked.go()

    def _settle(self) -> None:
        self._try_until_none(self._unwritten, 20)
        wait_for(lambda: get(f"{self._stack.url}/healthz"), f"the daemon: {self._log()}")
        self._try_until_none(self._journal_differences, self.patience_s)
        if self.found:
            return
        wait_for(self._all_shown, "the end of the hold of every series", 30)
        self._try_until_none(self._prometheus_differences, 15)
        self._try_until_none(self._span_differences, 30)

    def _unwritten(self) -> list[str]:
        """The producers that have begun what they have not acknowledged."""
        lasts = {w.ledger.name: _last_line(w.ledger) for w in self._crew}
        return [f"{name} does not rest: {last}" for name, last in lasts.items() if last[:1] in "bx"]

    def _try_until_none(self, differences: Callable[[], list[str]], timeout_s: float) -> None:
        """It may take a moment until all has arrived: what still differs then is found."""
        deadline = time.monotonic() + timeout_s
        while (found := differences()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.found += found

    def _journal_differences(self) -> list[str]:
        with closing(open_reader(self._stack.home)) as db:
            db.execute("BEGIN")
            (pending,) = db.execute(
                "SELECT count(*) FROM events WHERE state = 'pending'"
            ).fetchone()
            found = account.differences(db, account.read_ledgers(self.folder / "ledgers"))
            if self._worked is not None:
                worked = self._worked
                found += account.git_differences(db, worked.commits, worked.created)
            found += recount.differences(db)
        return found + ([f"{pending} events are pending"] if pending else [])

    def _all_shown(self) -> bool:
        with closing(open_reader(self._stack.home)) as db:
            query = "SELECT count(*) FROM series WHERE released_at IS NULL"
            return db.execute(query).fetchone() == (0,)

    def _prometheus_differences(self) -> list[str]:
        with closing(open_reader(self._stack.home)) as db:
            (journal,) = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
            expected = recount.samples(db)
        names = "|".join(recount.sample_names())
        chosen = f'{{__name__=~"{names}", journal="{journal}"}}'
        found = recount.prometheus_differences(self._ask(chosen), expected)
        for name in recount.sample_names():
            if any(self._ask(f'resets({name}{{journal="{journal}"}}[3h]) > 0').values()):
                found.append(f"{name} went down in Prometheus")
        return found or self._birth_differences(journal)

    def _birth_differences(self, journal: str) -> list[str]:
        """The series that Prometheus, though it looked all the time, did not see at 0 at first."""
        with closing(open_reader(self._stack.home)) as db:
            rows = db.execute("SELECT metric, labels, born_at, released_at FROM series").fetchall()
        least: dict[recount.Sample, float] = {}
        for name in recount.sample_names():
            answer = self._ask(f'min_over_time({name}{{journal="{journal}"}}[3h])')
            least.update({(name, labels): value for (_, labels), value in answer.items()})
        found = []
        for metric, labels, born_at, released_at in rows:
            if any(born_at < end and released_at > begin for begin, end in self._gaps):
                continue
            name = recount.first_name(metric)
            key = frozenset((k, v) for k, v in json.loads(labels).items() if v)
            if least.get((name, key)) != 0:
                found.append(f"{name}{dict(key)} began with {least.get((name, key))}")
        return found

    def _ask(self, query: str) -> dict[recount.Sample, float]:
        with urllib3.PoolManager(retries=False, timeout=10.0) as pool:
            answer = pool.request(
                "GET", f"{self._prometheus.url}/api/v1/query", fields={"query": query}
            ).json()
        assert answer["status"] == "success", answer
        rows: dict[recount.Sample, float] = {}
        for row in answer["data"]["result"]:
            labels = {**row["metric"]}
            name = labels.pop("__name__", "")
            for added in ("journal", "job", "instance"):
                labels.pop(added, None)
            rows[name, frozenset(labels.items())] = float(row["value"][1])
        return rows

    def _span_differences(self) -> list[str]:
        """Distinct ids at the sink, each always the same span, against the journal's events."""
        with closing(open_reader(self._stack.home)) as db:
            expected = _span_ids(db)
        arrived: dict[str, set[int]] = {}
        with (self._sink.folder / "spans.jsonl").open() as lines:
            for line in lines:
                span = json.loads(line)
                arrived.setdefault(span["span_id"], set()).add(hash(span["raw"]))
        changed = [key for key, forms in arrived.items() if len(forms) > 1]
        found = [f"{len(changed)} spans were sent again as others"] if changed else []
        if arrived.keys() != expected:
            missing, more = expected - arrived.keys(), arrived.keys() - expected
            found.append(f"{len(missing)} spans are missing, {len(more)} belong to no event")
        return found

    # -- what came of it ----------------------------------------------------------------------

    def _log(self) -> str:
        return self._stack.daemon.log.read_text()[-2000:]

    def _summed_up(self) -> str:
        kinds = Counter(kill.kind for kill in self.kills)
        waiting = [kill.waiting for kill in self.kills]
        known = account.read_ledgers(self.folder / "ledgers")
        with closing(open_reader(self._stack.home)) as db:
            events, live = db.execute("SELECT count(*), sum(state = 'live') FROM events").fetchone()
            marks = account.recorded(db)
        lines = [
            f"seed {self.seed}, {len(self.kills)} kills, {time.monotonic() - self._began:.0f} s: ",
            f"with a backlog: {sum(n > 0 for n in waiting)} of {len(waiting)}; records waiting: ",
            f"producers: {self._numbers}, {known.in_flight} killed before an acknowledgement",
            f"records acknowledged {len(known.acknowledged)}, begun {len(known.begun)}, ",
            f"commits {len(self._worked.commits) if self._worked else 0}; ",
        ]
        lines[0] += ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        lines[1] += f"median {statistics.median(waiting):.0f}, most {max(waiting)}, "
        lines[1] += f"{max(kill.size_bytes for kill in self.kills)} bytes"
        lines[3] += f"recorded {len(marks)}; lost {len(known.acknowledged - marks.keys())}, "
        lines[3] += f"doubled {sum(n > 1 for n in marks.values())}"
        lines[4] += f"events in the journal {events}, live {live}"
        return "\n".join(lines)


def _span_ids(db: sqlite3.Connection) -> set[str]:
    rows = db.execute(
        "SELECT id, session, type FROM events WHERE state = 'live' AND owned = 1 AND (type LIKE "
        "'git.%' OR type IN ('session.killed', 'command.executed', 'operation.completed'))"
    )
    return {
        digest("span", "session", session)
        if kind == "session.killed"
        else digest("span", "event", key)
        for key, session, kind in rows
    }


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(path: Path) -> str:
    """The last line of a ledger; `-` while there is none."""
    text = path.read_text() if path.exists() else ""
    return text.rstrip("\n").rpartition("\n")[2] or "-"


def _in_transaction(shared: int) -> bool:
    """Whether somebody writes the journal now: the lock on byte 120 of its `-shm` file says so.

    It takes a microsecond to ask. The lock's structure is that of Linux.
    """
    asked = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 120, 1, 0)
    (held, *_) = struct.unpack("hhqqi", fcntl.fcntl(shared, fcntl.F_GETLK, asked))
    return bool(held != fcntl.F_UNLCK)


def _last_batch(ledger: Path) -> int:
    """How many records the batch has that a producer began last."""
    begun = [int(line[2:]) for line in ledger.read_text().splitlines() if line[0] == "b"]
    return begun[-1] - (begun[-2] if len(begun) > 1 else 0) if begun else 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _written(path: Path) -> tuple[int, int]:
    """Size and time of a file: what changes when somebody writes to it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _wait_until(moment: float) -> None:
    """To the microsecond: `sleep` is some 60 µs late."""
    time.sleep(max(0.0, moment - time.monotonic() - 0.001))
    while time.monotonic() < moment:
        pass
