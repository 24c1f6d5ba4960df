"""The track API as a program uses it: in processes of their own, over a real spool."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from squad_otel.events import NS, Event
from squad_otel.ids import session_id
from squad_otel.sources.spool import SpoolSource

ROOT = Path(__file__).parents[2]
NOW = time.time_ns() + 3600 * NS  # after all that is written, before anything is old


def run(
    code: str, home: Path, cwd: Path | None = None, *, check: bool = True, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **{k: v for k, v in os.environ.items() if k != "SQUAD_SESSION_ID"},
            "SQUAD_OTEL_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            **environ,
        },
        cwd=cwd or home,
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )


def spooled(home: Path) -> list[Event]:
    return SpoolSource(home).poll({}, {}, NOW).events


def test_everything_that_is_recorded_arrives_with_its_values(tmp_path: Path) -> None:
    run(
        """
import squad_otel
squad_otel.init()
squad_otel.command("git push --force https://user:secret@host/x", duration_s=0.25, exit_code=1)
squad_otel.command(["cargo", "test"], duration_s=2)
squad_otel.git("push", success=False, duration_s=0.5, error_type="rejected")
squad_otel.git("nonsense")
squad_otel.prompt()
squad_otel.error("TimeoutError", severity="critical", component="mcp")
with squad_otel.timer("build"):
    pass
try:
    with squad_otel.timer("deploy"):
        raise KeyError("private")
except KeyError:
    pass
@squad_otel.timer("load")
def load(): return 5
assert load() == 5
assert squad_otel.flush()
""",
        tmp_path,
        SQUAD_SESSION_ID="s-7",
    )
    events = spooled(tmp_path)
    assert [e.type for e in events] == [
        "command.executed",
        "command.executed",
        "git.push",
        "prompt.sent",
        "error",
        "operation.completed",
        "operation.completed",
        "operation.completed",
    ]
    assert {e.session for e in events} == {"s-7"}
    assert len({e.id for e in events}) == len(events)
    push, cargo, git, _, error, build, deploy, load = events
    assert (push.fields["command"], push.success, push.error_type) == ("git push", False, "exit_1")
    assert push.duration_ns == NS // 4
    assert (cargo.fields["command"], cargo.success) == ("cargo test", True)
    assert (git.success, git.error_type, git.duration_ns) == (False, "rejected", NS // 2)
    assert (error.error_type, error.fields) == (
        "TimeoutError",
        {"severity": "critical", "component": "mcp"},
    )
    assert (build.success, build.fields) == (True, {"operation": "build"})
    assert (deploy.success, deploy.error_type) == (False, "KeyError")
    assert load.fields == {"operation": "load"}
    text = next((tmp_path / "spool").iterdir()).read_text()
    assert "secret" not in text
    assert "private" not in text


def test_unconfigured_nothing_happens(tmp_path: Path) -> None:
    run(
        """
import squad_otel, threading
squad_otel.command("git push"); squad_otel.prompt(); squad_otel.error("X")
with squad_otel.timer("build"): pass
with squad_otel.session("s"): pass
assert squad_otel.flush()
assert threading.active_count() == 1
""",
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


def test_importing_loads_no_third_party_package(tmp_path: Path) -> None:
    result = run(
        """
import sys
before = set(sys.modules)
import squad_otel
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
""",
        tmp_path,
    )
    assert result.stdout.split() == ["squad_otel"]


def test_without_a_name_the_worktree_one_stands_in_names_the_session(tmp_path: Path) -> None:
    worktree = tmp_path / "wt"
    (worktree / "src" / "deep").mkdir(parents=True)
    (worktree / ".git").write_text("gitdir: elsewhere\n")
    home = tmp_path / "home"
    run("import squad_otel as s; s.init(); s.prompt()", home_made(home), worktree / "src" / "deep")
    (event,) = spooled(home)
    assert event.session == session_id(str(worktree))


def home_made(home: Path) -> Path:
    home.mkdir()
    return home


def test_a_declared_session_owns_what_follows_and_ends(tmp_path: Path) -> None:
    run(
        """
import squad_otel
squad_otel.init()
with squad_otel.session("nightly", program="mybot", repository="shop", branch="main") as s:
    squad_otel.prompt()
squad_otel.prompt()
""",
        tmp_path,
    )
    batch = SpoolSource(tmp_path).poll({}, {}, NOW)
    created, prompt, killed, after = batch.events
    assert created.type == "session.created"
    assert created.session == prompt.session == killed.session
    assert after.session is None
    assert killed.type == "session.killed"
    begun, ended = batch.sessions
    assert (begun.name, begun.program, begun.repository) == ("nightly", "mybot", "shop")
    assert begun.live
    assert not ended.live
    assert ended.id == begun.id == created.session


def test_what_is_not_flushed_is_written_at_exit(tmp_path: Path) -> None:
    run("import squad_otel as s; s.init(); [s.prompt() for _ in range(1000)]", tmp_path)
    assert len(spooled(tmp_path)) == 1000


def test_flushed_records_survive_kill_9(tmp_path: Path) -> None:
    result = run(
        """
import os, squad_otel as s
s.init()
for _ in range(500): s.prompt()
assert s.flush()
os.kill(os.getpid(), 9)
""",
        tmp_path,
        check=False,
    )
    assert result.returncode == -9
    assert len(spooled(tmp_path)) == 500


def test_the_background_thread_writes_without_being_asked(tmp_path: Path) -> None:
    run(
        """
import os, time, pathlib, squad_otel as s
s.init()
s.prompt()
folder = pathlib.Path(os.environ["SQUAD_OTEL_HOME"], "spool")
for _ in range(600):
    if any(path.stat().st_size for path in folder.glob("*")): os._exit(0)
    time.sleep(0.05)
os._exit(1)
""",
        tmp_path,
    )
    assert len(spooled(tmp_path)) == 1


def test_a_forked_child_records_its_own_and_not_its_parents(tmp_path: Path) -> None:
    run(
        """
import os, squad_otel as s
s.init()
for _ in range(10): s.prompt()
pid = os.fork()
s.error("in_child" if pid == 0 else "in_parent")
assert s.flush()
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
""",
        tmp_path,
    )
    events = spooled(tmp_path)
    assert len(events) == len({e.id for e in events}) == 12
    assert sorted(e.error_type for e in events if e.type == "error") == ["in_child", "in_parent"]


def test_many_threads_and_processes_lose_nothing(tmp_path: Path) -> None:
    code = """
import threading, squad_otel as s
s.init()
def work():
    for _ in range(500): s.command("git status", duration_s=0.1)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert s.flush()
"""
    environ = {**os.environ, "SQUAD_OTEL_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environ) for _ in range(4)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0, 0, 0]
    source = SpoolSource(tmp_path)
    offsets: dict[str, str] = {}
    ids: list[str] = []
    while batch := source.poll({}, offsets, NOW):
        assert not batch.skipped
        offsets.update({k: v for k, v in batch.offsets.items() if v})
        ids += [e.id for e in batch.events]
    assert len(ids) == len(set(ids)) == 4 * 8 * 500


def test_an_unwritable_home_never_reaches_the_host(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    result = run(
        """
import squad_otel as s
s.init()
s.prompt(); s.prompt()
assert s.flush() is False
s.prompt()
assert s.flush() is False
print("host goes on")
""",
        tmp_path,
        SQUAD_OTEL_HOME=str(blocked / "home"),
    )
    assert result.stdout == "host goes on\n"
    assert result.stderr.count("squad-otel cannot record") == 1


def test_values_that_are_no_json_are_dropped_and_counted(tmp_path: Path) -> None:
    run(
        """
import squad_otel as s
s.init()
s.error(object())
s.command("make", duration_s=float("nan"))
s.command("make", duration_s=float("inf"))
s.command("make", duration_s="1")
s.command("make", exit_code="one")
s.git("push", duration_s=float("nan"))
s.error("x" * 100_000)
s.prompt()
assert s.flush() is False
s.prompt()
assert s.flush() is True
""",
        tmp_path,
    )
    batch = SpoolSource(tmp_path).poll({}, {}, NOW)
    assert [e.type for e in batch.events] == ["prompt.sent", "prompt.sent"]
    assert batch.skipped == {"dropped_by_producer": 7}


def test_an_exit_code_may_be_a_truth_value(tmp_path: Path) -> None:
    run(
        """
import squad_otel as s
s.init()
s.command("make", exit_code=False)
s.command("make", exit_code=True)
assert s.flush()
""",
        tmp_path,
    )
    events = spooled(tmp_path)
    assert [(e.success, e.error_type) for e in events] == [(True, None), (False, "exit_1")]


def test_a_signal_handler_may_flush_while_a_flush_is_under_way(tmp_path: Path) -> None:
    run(
        """
import signal, squad_otel as s
from squad_otel import api
answers = []
signal.signal(signal.SIGUSR1, lambda *_: answers.append(s.flush()))
append = api.append
def interrupted(home, lines):
    signal.raise_signal(signal.SIGUSR1)
    append(home, lines)
api.append = interrupted
s.init()
s.prompt()
while False not in answers:  # the background thread may have been faster
    s.prompt()
    s.flush()
""",
        tmp_path,
    )
    assert spooled(tmp_path)
