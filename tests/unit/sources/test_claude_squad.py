from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.claude_squad import check_registry
from squad_otel.batch import Batch
from squad_otel.errors import SourceError
from squad_otel.events import NS, Event
from squad_otel.ids import session_id
from squad_otel.sessions import Session, State
from squad_otel.sources import claude_squad as cs
from squad_otel.sources import tmux
from squad_otel.sources.claude_squad import (
    Instance,
    Own,
    Seat,
    Sight,
    SquadSource,
    Terminal,
    attachment,
    diff,
    find_attachments,
    find_panes,
    insiders,
    parse_registry,
    parse_time,
    read_registry,
    tmux_name,
)
from tests.squad import Instance as SquadInstance
from tests.squad import Squad, wait_until

START = 1_800_000_000 * NS
IDLE_AGENT = "echo idle; exec sleep 600"


def read_word(program: str, pane: Any, before: object, now: int) -> tuple[Any, Any]:
    """A reading for tests: the last word on the screen is the state."""
    words = pane.text.split()
    known = words and words[-1] in list(State)
    return SimpleNamespace(state=State(words[-1]) if known else State.STARTING, reason=""), None


class Watcher:
    """A daemon in small: it hands the source what was committed, and commits what comes."""

    def __init__(self, source: SquadSource) -> None:
        self.source = source
        self.sessions: dict[str, Session] = {}
        self.events: dict[str, Event] = {}
        self.skipped: dict[str, int] = {}
        self.rows = 0
        self.now = START

    def look(self, times: int = 1) -> list[Event]:
        """Poll and commit; the events that are new, in order."""
        new: list[Event] = []
        for _ in range(times):
            new += self.commit(self.poll())
        return new

    def poll(self) -> Batch:
        self.now += NS
        return self.source.poll(self.sessions, {}, self.now)

    def commit(self, batch: Batch) -> list[Event]:
        new = [event for event in batch.events if event.id not in self.events]
        self.events.update((event.id, event) for event in new)
        self.sessions.update((row.id, row) for row in batch.sessions)
        self.rows += len(batch.sessions)
        for reason, count in batch.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count
        return new

    def types(self, times: int = 1) -> list[str]:
        return [event.type.removeprefix("session.") for event in self.look(times)]

    def session(self, name: str) -> Session:
        return next(row for row in self.sessions.values() if row.name == name)


@pytest.fixture
def squad(tmp_path: Path) -> Iterator[Squad]:
    folder = tempfile.mkdtemp(prefix="sq")
    with Squad(tmp_path / "home", Path(folder)) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def repo(squad: Squad, tmp_path: Path) -> Path:
    return squad.make_repo(tmp_path / "code" / "shop")


def source_of(squad: Squad, **options: Any) -> SquadSource:
    options.setdefault("read", read_word)
    return SquadSource(squad.state_file, tmux.Tmux(squad.environment), "dev", **options)


@pytest.fixture
def watcher(squad: Squad) -> Watcher:
    return Watcher(source_of(squad))


def begin(squad: Squad, title: str, repo: Path, program: str = IDLE_AGENT) -> SquadInstance:
    """A session whose agent has come as far as to show that it is idle."""
    one = squad.create(title, repo, program)
    wait_until(lambda: squad.screen(title).strip() == "idle", f"the screen of {title}")
    return one


# A squad at work


def test_a_life_from_end_to_end(squad: Squad, watcher: Watcher, repo: Path) -> None:
    assert watcher.look() == []
    instance = begin(squad, "My Task.1", repo, f"env A=b sh -c '{IDLE_AGENT}'")
    other = begin(squad, "other", repo)
    events = watcher.look()
    identity = session_id(str(instance.worktree))
    assert [event.type for event in events] == ["session.created"] * 2
    assert events[0] == Event(
        id=f"created:{identity}",
        type="session.created",
        occurred_at=events[0].occurred_at,
        source="claude_squad",
        session=identity,
        program="sh",
        repository="shop",
        branch="dev/my-task.1",
    )
    created_ns = round(instance.created_at.timestamp() * 10**6) * 1000
    assert events[0].occurred_at == created_ns
    row = watcher.sessions[identity]
    assert (row.name, row.program, row.repository) == ("My Task.1", "sh", "shop")
    assert (row.branch, row.user, row.origin) == ("dev/my-task.1", "dev", "claude_squad")
    assert (row.worktree, row.repository_path) == (str(instance.worktree), str(repo))
    assert (row.tmux, row.state, row.attached) == (instance.tmux, State.STARTING, False)
    assert (row.started_at, row.sequence) == (created_ns, 0)

    assert watcher.types(3) == ["state", "state"]
    assert watcher.session("My Task.1").state is State.IDLE
    assert watcher.types(2) == []

    squad.attach("My Task.1")
    (attached,) = watcher.look()
    assert (attached.type, attached.id) == ("session.attached", f"{identity}:2")
    assert (attached.occurred_at, attached.session) == (watcher.now, identity)
    assert (attached.program, attached.repository, attached.branch) == ("sh", "shop", row.branch)
    assert watcher.sessions[identity].attached
    assert watcher.look(2) == []
    squad.detach("My Task.1")
    assert watcher.types() == ["detached"]
    assert watcher.look(2) == []

    (instance.worktree / "new").write_text("x\n")
    idle_since = watcher.session("My Task.1").state_since
    squad.pause("My Task.1")
    paused, state = watcher.look()
    assert (paused.type, state.type) == ("session.paused", "session.state")
    assert state.fields == {"state": "paused", "previous": "idle"}
    assert state.duration_ns == watcher.now - idle_since
    assert watcher.session("My Task.1").state is State.PAUSED
    assert watcher.look(3) == []
    squad.resume("My Task.1")
    assert watcher.types() == ["resumed", "state"]
    assert watcher.types(3) == ["state"]
    assert watcher.session("My Task.1").state is State.IDLE

    squad.kill("My Task.1")
    assert watcher.look() == []
    state, killed = watcher.look()
    assert (state.type, killed.type) == ("session.state", "session.killed")
    assert killed.fields == {"reason": "killed"}
    assert killed.duration_ns == watcher.now - created_ns
    ended = watcher.sessions[identity]
    assert (ended.state, ended.ended_at, ended.live) == (State.ENDED, watcher.now, False)
    assert watcher.look(3) == []
    assert watcher.session("other").state is State.IDLE

    numbers = [e.id for e in watcher.events.values() if e.session == identity][1:]
    assert numbers == [f"{identity}:{n}" for n in range(1, len(numbers) + 1)]
    assert ended.sequence == len(numbers)
    assert session_id(str(other.worktree)) in watcher.sessions
    assert watcher.skipped == {}


def test_a_lost_batch_comes_again(squad: Squad, watcher: Watcher, repo: Path) -> None:
    """Whatever is lost before the commit, also with the whole process, is seen again, equal."""

    def twice() -> list[Event]:
        lost = watcher.poll()
        watcher.source = source_of(squad)
        again = watcher.poll()
        assert [event.id for event in again.events] == [event.id for event in lost.events]
        return watcher.commit(again)

    begin(squad, "a", repo)
    begin(squad, "b", repo)
    assert [event.type for event in twice()] == ["session.created"] * 2
    assert watcher.types(3) == ["state", "state"]
    squad.attach("a")
    assert [event.type for event in twice()] == ["session.attached"]
    squad.detach("a")
    assert [event.type for event in twice()] == ["session.detached"]
    squad.pause("a")
    assert [event.type for event in twice()] == ["session.paused", "session.state"]
    squad.resume("a")
    assert [event.type for event in twice()] == ["session.resumed", "session.state"]
    assert watcher.types(3) == ["state"]
    squad.kill("b")
    assert watcher.look() == []
    assert [event.type for event in twice()] == ["session.state", "session.killed"]


def test_an_attach_survives_the_daemon(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    watcher.look(3)
    squad.attach("a")
    assert watcher.types() == ["attached"]
    watcher.source = source_of(squad)
    assert watcher.types(3) == []
    squad.detach("a")
    assert watcher.types() == ["detached"]


def test_the_first_look_finds_somebody_attached(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    squad.attach("a")
    assert watcher.types() == ["created", "created", "attached"]
    squad.detach("a")
    assert watcher.types() == ["detached"]


def test_a_terminal_that_is_resized_is_no_attach(
    squad: Squad, watcher: Watcher, repo: Path
) -> None:
    for title in ("a", "b", "c"):
        begin(squad, title, repo)
    watcher.look(3)
    squad.resize_terminal((150, 60), (240, 75))
    assert watcher.look(2) == []
    squad.attach("b")
    assert watcher.types() == ["attached"]
    squad.detach("b")
    assert watcher.types() == ["detached"]
    squad.resize_terminal((60, 20), (90, 26))
    assert watcher.look(2) == []


def test_quit_and_start(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    squad.attach("a")
    assert watcher.types() == ["attached"]
    squad.quit()
    assert watcher.types() == ["detached"]
    assert watcher.look(2) == []
    squad.start()
    assert watcher.look(2) == []
    squad.attach("b")
    assert watcher.types() == ["attached"]
    assert watcher.session("b").attached


def test_a_persons_own_client(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    person = squad.person_attaches("a")
    assert watcher.look() == []
    assert watcher.types() == ["attached"]
    watcher.source = source_of(squad)
    assert watcher.look(2) == []
    squad.person_leaves("a", person)
    assert watcher.types() == ["detached"]
    squad.quit()
    watcher.look(2)
    person = squad.person_attaches("b")
    assert watcher.types(2) == ["attached"]
    assert watcher.session("b").attached
    squad.start()
    assert watcher.look(2) == []


def test_dead_is_not_killed(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    squad.agent_dies("a")
    assert watcher.look() == []
    (state,) = watcher.look()
    assert state.fields == {"state": "dead", "previous": "idle"}
    assert watcher.look(3) == []
    assert watcher.session("a").live
    squad.tmux("kill-server")  # as a reboot does
    assert [e.fields["state"] for e in watcher.look(2)] == ["dead"]
    assert {row.state for row in watcher.sessions.values()} == {State.DEAD}
    squad.pause("a")
    assert watcher.types() == ["paused", "state"]
    squad.resume("a")  # makes a new tmux session
    wait_until(lambda: squad.screen("a").strip() == "idle", "the new screen")
    assert watcher.types() == ["resumed", "state"]
    assert [e.fields["state"] for e in watcher.look(3)] == ["idle"]
    assert watcher.session("b").state is State.DEAD


def test_a_kill_seen_half_way(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    squad.attach("a")
    watcher.look()
    squad.unregister("a")
    assert watcher.look() == []
    squad.finish_kill("a")
    assert watcher.types() == ["detached", "state", "killed"]
    squad.save()
    assert watcher.look(2) == []


class Meanwhile(tmux.Tmux):
    """A tmux during whose answer something happens, before or after it was given."""

    def __init__(self, squad: Squad) -> None:
        super().__init__(squad.environment)
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []

    def look(self, panes: Iterable[str] = ()) -> tmux.View:
        while self.before:
            self.before.pop()()
        view = super().look(panes)
        while self.after:
            self.after.pop()()
        return view


def test_what_happens_during_a_look(squad: Squad, repo: Path) -> None:
    """A kill is never taken for a pause, nor a birth for a death."""
    server = Meanwhile(squad)
    watcher = Watcher(SquadSource(squad.state_file, server, read=read_word))
    for title in ("a", "b", "c"):
        begin(squad, title, repo)
    watcher.look(3)
    server.before.append(lambda: squad.kill("a"))
    assert watcher.look() == []
    assert watcher.types() == ["state", "killed"]
    server.after.append(lambda: squad.kill("b"))
    assert watcher.look() == []
    assert watcher.types() == ["state", "killed"]
    server.after.append(lambda: begin(squad, "d", repo))
    assert watcher.types() == ["created"]
    assert [e.fields["state"] for e in watcher.look(4)] == ["idle"]
    squad.tmux("kill-session", "-t", "=claudesquad_d")
    watcher.look(2)
    squad.pause("d")
    assert watcher.types() == ["paused", "state"]
    server.after.append(lambda: squad.resume("d"))
    assert watcher.types() == ["resumed", "state"]  # and its new terminal is not missed
    wait_until(lambda: squad.screen("d").strip() == "idle", "the new screen")
    assert [e.fields["state"] for e in watcher.look(4)] == ["idle"]


def test_the_status_in_the_file_is_not_believed(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    squad.pause("a")
    assert watcher.types() == ["paused", "state"]
    squad.kill("b")  # writes the file, in which a is running
    assert [entry["status"] for entry in json.loads(squad.state_file.read_text())["instances"]] == [
        0
    ]
    assert watcher.types(4) == ["state", "killed"]
    assert watcher.session("a").state is State.PAUSED


def test_back_in_the_file_before_it_counts(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    watcher.look(3)
    squad.unregister("a")
    assert watcher.look() == []
    squad.save()
    assert watcher.look() == []
    squad.unregister("a")
    assert watcher.look() == []
    squad.save()
    assert watcher.look(2) == []
    squad.unregister("a")
    assert watcher.types(2) == ["state", "killed"]
    squad.save()  # another claude-squad had written the file without it
    assert watcher.types() == ["state"]
    assert watcher.session("a").live
    assert watcher.types(2) == ["state"]


def test_what_a_kill_leaves_in_other_sessions_is_nobody(
    squad: Squad, watcher: Watcher, repo: Path
) -> None:
    for title in ("a", "b", "c"):
        begin(squad, title, repo)
    watcher.look(3)
    squad.pause("b")
    assert watcher.types() == ["paused", "state"]
    squad.resume("b")
    assert watcher.types(3) == ["resumed", "state", "state"]
    squad.kill("a")
    assert len(squad.clients("b")) == 3
    assert watcher.types(4) == ["state", "killed"]
    squad.attach("b")
    assert watcher.types() == ["attached"]
    squad.collect_garbage()
    assert watcher.look(2) == []
    squad.detach("b")
    assert watcher.types() == ["detached"]
    assert not any(row.attached for row in watcher.sessions.values())


def test_reset_kills_all(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    squad.reset()
    assert watcher.types(2) == ["state", "killed"] * 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"help_screens_seen": 2, "instances": ['])
def test_half_a_file_kills_nobody(
    squad: Squad, watcher: Watcher, repo: Path, content: bytes
) -> None:
    begin(squad, "a", repo)
    watcher.look(3)
    whole = squad.state_file.read_bytes()
    squad.state_file.write_bytes(content)
    squad.tmux("kill-server")  # a kill may be on its way: nothing else is concluded either
    assert watcher.look(3) == []
    assert watcher.skipped == {"state file incomplete": 3}
    squad.state_file.write_bytes(whole)
    assert watcher.types(2) == ["state"]
    assert watcher.session("a").state is State.DEAD


def test_a_deleted_file_kills_nobody(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    watcher.look(3)
    squad.state_file.unlink()
    assert watcher.look(3) == []
    squad.agent_dies("a")
    assert [e.fields["state"] for e in watcher.look(2)] == ["dead"]
    assert watcher.session("a").live


def test_without_claude_squad(tmp_path: Path) -> None:
    """No file, no squad: tmux is not even asked."""
    source = SquadSource(tmp_path / "none" / "state.json", tmux.Tmux({"PATH": "/nonexistent"}))
    assert not source.poll({}, {}, START)


def test_without_tmux_but_with_sessions(squad: Squad, repo: Path) -> None:
    begin(squad, "a", repo)
    source = SquadSource(squad.state_file, tmux.Tmux({"PATH": "/nonexistent"}))
    with pytest.raises(SourceError, match="tmux was not found"):
        source.poll({}, {}, START)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_registry(tmp_path)


def test_while_the_file_is_being_written(squad: Squad, watcher: Watcher, repo: Path) -> None:
    """A writer that never rests: nobody is killed, nobody is born twice."""
    begin(squad, "a", repo)
    begin(squad, "b", repo)
    watcher.look(3)
    state = json.loads(squad.state_file.read_text())
    state["instances"][0]["diff_stats"]["content"] = "+ code\n" * 50_000
    content = json.dumps(state, indent=2).encode()
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            squad.state_file.write_bytes(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        kinds = set()
        for _ in range(300):
            kinds.add(read_registry(squad.state_file).readable)
        assert watcher.look(20) == []
    finally:
        done.set()
        writer.join()
    assert False in kinds  # it was caught half written, else this test says nothing
    assert all(row.live for row in watcher.sessions.values())


def test_a_waiting_screen_is_seen_at_once_the_others_twice(squad: Squad, repo: Path) -> None:
    shown = State.IDLE
    watcher = Watcher(source_of(squad, read=lambda *_: (SimpleNamespace(state=shown), None)))
    begin(squad, "a", repo)
    watcher.look(3)

    def states(state: State, looks: int) -> list[object]:
        nonlocal shown
        shown = state
        return [event.fields["state"] for event in watcher.look(looks)]

    assert watcher.session("a").state is State.IDLE
    assert states(State.RUNNING, 1) == []
    assert states(State.IDLE, 2) == []
    assert states(State.RUNNING, 2) == ["running"]
    running_since = watcher.now
    assert states(State.WAITING, 1) == ["waiting"]
    event = list(watcher.events.values())[-1]
    assert event.fields == {"state": "waiting", "previous": "running"}
    assert event.duration_ns == watcher.now - running_since
    assert watcher.session("a").state_since == watcher.now
    assert states(State.RUNNING, 1) == []
    assert states(State.FAILED, 1) == []
    assert states(State.FAILED, 1) == ["failed"]


def test_the_screen_is_handed_on_as_tmux_tells_it(squad: Squad, repo: Path) -> None:
    """And what was remembered of it comes back in the next look."""
    calls: list[tuple[Any, ...]] = []

    def read(*arguments: Any) -> tuple[Any, Any]:
        calls.append(arguments)
        return SimpleNamespace(state=State.IDLE), len(calls)

    watcher = Watcher(source_of(squad, read=read))
    squad.create("a", repo, "printf '\\033]2;✳ topic\\007\\n  one é'; exec sleep 600")
    server = tmux.Tmux(squad.environment)
    wait_until(lambda: server.look().panes[0].command == "sleep", "the agent")
    watcher.look(3)
    (program, shown, before, now), second = calls
    assert (program, before, now) == ("printf", None, watcher.now - NS)
    assert shown.text.startswith("\n  one é\n")
    assert (shown.title, shown.command) == ("✳ topic", "sleep")
    assert (shown.cursor_y, shown.cursor_x, shown.width) == (1, 7, squad.preview[0])
    assert shown.activity == server.look().panes[0].activity_s
    assert second[2] == 1


def test_rows_are_written_only_when_something_is_new(
    squad: Squad, watcher: Watcher, repo: Path
) -> None:
    begin(squad, "a", repo)
    watcher.look(6)
    rows = watcher.rows
    assert not watcher.poll()
    watcher.look(5)
    assert watcher.rows == rows


def test_a_look_right_after_a_look_is_none(squad: Squad, watcher: Watcher, repo: Path) -> None:
    """What must be there twice must have lasted: a daemon that asks again at once sees nothing."""
    begin(squad, "a", repo)
    watcher.look(3)
    squad.unregister("a")
    watcher.look()
    for _ in range(5):
        assert not watcher.source.poll(watcher.sessions, {}, watcher.now + NS // 100)
    assert watcher.types() == ["state", "killed"]


def test_the_terminal_tab_is_not_the_agent(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "x", repo)
    squad.open_terminal_tab("x")
    begin(squad, "term_y", repo)
    squad.open_terminal_tab("term_y")
    assert watcher.types() == ["created"] * 2
    watcher.look(2)
    assert watcher.session("x").tmux == "claudesquad_x"
    assert watcher.session("term_y").tmux == "claudesquad_term_y"
    squad.agent_dies("x")
    assert [e.fields["state"] for e in watcher.look(2)] == ["dead"]


def test_a_session_that_is_not_registered_is_not_ours(
    squad: Squad, watcher: Watcher, repo: Path
) -> None:
    begin(squad, "a", repo)
    squad.tmux("new-session", "-d", "-s", "claudesquad_new", "-c", str(repo), "sleep 600")
    squad.tmux("new-session", "-d", "-s", "mine", "-c", str(repo), "sleep 600")
    assert watcher.types(5) == ["created", "state"]


def test_a_pane_that_vanishes_between_two_looks(squad: Squad, watcher: Watcher, repo: Path) -> None:
    for title in ("a", "b", "c"):
        begin(squad, title, repo)
    assert watcher.types() == ["created"] * 3  # now their screens will be asked for
    squad.agent_dies("b")
    assert watcher.look() == []
    events = watcher.look()
    assert sorted(str(event.fields["state"]) for event in events) == ["dead", "idle", "idle"]
    assert watcher.skipped == {}


def test_a_home_behind_a_link(squad: Squad, repo: Path, tmp_path: Path) -> None:
    """tmux tells the real path, the file the one that claude-squad was given."""
    instance = begin(squad, "a", repo)
    (tmp_path / "link").symlink_to(squad.home)
    text = squad.state_file.read_text()
    squad.state_file.write_text(text.replace(str(squad.home), str(tmp_path / "link")))
    watcher = Watcher(source_of(squad))
    watcher.look(4)
    assert list(watcher.sessions) == [session_id(str(instance.worktree))]
    assert watcher.session("a").state is State.IDLE


def test_a_session_that_the_track_api_knows_is_taken_over(
    squad: Squad, watcher: Watcher, repo: Path
) -> None:
    instance = begin(squad, "a", repo)
    identity = session_id(str(instance.worktree))
    watcher.sessions[identity] = Session(
        id=identity,
        name="tracked",
        program="p",
        repository="r",
        branch="b",
        worktree=str(instance.worktree),
        origin="track",
        sequence=7,
    )
    watcher.look(3)
    assert watcher.sessions[identity].origin == "claude_squad"
    assert [e.id for e in watcher.events.values()] == [f"created:{identity}", f"{identity}:8"]


def test_sessions_of_others_are_left_alone(squad: Squad, watcher: Watcher, repo: Path) -> None:
    begin(squad, "a", repo)
    row = session(origin="track")
    watcher.sessions[row.id] = row
    watcher.look(4)
    assert watcher.sessions[row.id] == row


# Size


def counted_source(squad: Squad, folder: Path) -> tuple[SquadSource, Path]:
    """A source whose tmux writes a line for each process; nothing else is on PATH."""
    real, log = shutil.which("tmux"), folder / "log"
    executable = folder / "bin" / "tmux"
    executable.parent.mkdir()
    executable.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} "$@"\n')
    executable.chmod(0o755)
    server = tmux.Tmux(squad.environment, str(executable), timeout_s=20)
    return SquadSource(squad.state_file, server, "dev", read=read_word), log


def test_the_number_of_processes_is_the_same_at_5_and_at_50(squad: Squad, tmp_path: Path) -> None:
    entries: list[dict[str, object]] = []

    def grow_to(count: int) -> None:
        for number in range(len(entries), count):
            folder = tmp_path / "w" / str(number)
            folder.mkdir(parents=True)
            name = f"claudesquad_s{number}"
            squad.tmux("new-session", "-d", "-s", name, "-c", str(folder), IDLE_AGENT)
            entries.append(entry(title=f"s{number}", worktree_path=str(folder)))
        squad.state_file.write_text(json.dumps({"instances": entries}))
        server = tmux.Tmux(squad.environment)
        ids = [pane.id for pane in server.look().panes]
        wait_until(
            lambda: all(text.strip() == "idle" for text in server.look(ids).screens.values()),
            "the screens",
        )

    source, log = counted_source(squad, tmp_path)
    watcher = Watcher(source)
    started: list[object] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        # Since Python 3.13 a Popen is a posix_spawn, and says so, too.
        if watching and event in ("subprocess.Popen", "os.fork", "os.system"):
            started.append(arguments)

    sys.addaudithook(hook)  # it stays for good, so it is switched off at the end

    def processes_in_four_looks() -> int:
        started.clear()
        log.unlink(missing_ok=True)
        watcher.look(4)
        assert len(log.read_text().splitlines()) == len(started)
        return len(started)

    try:
        for count in (5, 50):
            grow_to(count)
            assert processes_in_four_looks() == 4
            assert len(watcher.sessions) == count
            assert {row.state for row in watcher.sessions.values()} == {State.IDLE}
    finally:
        watching = False


# The state file


def entry(title: str = "t", worktree_path: str = "/w/t", **more: object) -> dict[str, object]:
    return {
        "title": title,
        "branch": "dev/t",
        "status": 0,
        "created_at": "2026-11-22T14:10:26.51317989Z",
        "program": "/opt/claude --resume",
        "worktree": {
            "repo_path": "/code/shop",
            "worktree_path": worktree_path,
            "branch_name": "dev/t",
        },
        "diff_stats": {"added": 1, "removed": 0, "content": "+ secret"},
        **more,
    }


def registry_of(*entries: object) -> cs.Registry:
    return parse_registry(json.dumps({"help_screens_seen": 2, "instances": entries}).encode())


def test_an_instance() -> None:
    registry = registry_of(entry("My Task.1", "/w/dev/t_18ea"))
    assert list(registry.instances.values()) == [
        Instance(
            id=session_id("/w/dev/t_18ea"),
            name="My Task.1",
            program="claude",
            repository="shop",
            branch="dev/t",
            worktree="/w/dev/t_18ea",
            repository_path="/code/shop",
            created_at=1_795_356_626_513_179_890,
            tmux="claudesquad_MyTask_1",
        )
    ]
    assert (registry.readable, registry.present, registry.skipped) == (True, True, {})


def test_the_diff_is_not_decoded() -> None:
    """Whatever stands there: it is somebody's code, and may be no text at all."""
    data = (
        json.dumps({"instances": [entry()]}).encode().replace(b"+ secret", b"\\u0000\\u001b\\ufffd")
    )
    assert len(parse_registry(data).instances) == 1
    assert "secret" not in repr(registry_of(entry()))


@pytest.mark.parametrize("nobody", [b'{"instances": []}', b'{"instances": null}'])
def test_nobody(nobody: bytes) -> None:
    assert parse_registry(nobody) == cs.Registry()


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"instances": 3}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_state_file_says_nothing(data: bytes) -> None:
    registry = parse_registry(data)
    assert (registry.readable, registry.instances) == (False, {})
    assert registry.skipped == {"state file incomplete": 1}


def test_every_beginning_of_a_file_is_incomplete() -> None:
    data = json.dumps({"instances": [entry()]}, indent=2).encode()
    assert parse_registry(data).readable
    for end in range(len(data)):
        assert not parse_registry(data[:end]).readable


@pytest.mark.parametrize(
    "bad",
    [
        3,
        {},
        entry(title=5),  # type: ignore[arg-type]
        entry(worktree_path=""),
        entry(worktree_path="relative/path"),
        entry(worktree_path="/a\0b"),
        entry(worktree=None),
    ],
)
def test_an_unreadable_entry_spoils_no_other_and_kills_nobody(bad: object) -> None:
    registry = registry_of(entry("good", "/w/good"), bad)
    assert [instance.name for instance in registry.instances.values()] == ["good"]
    assert registry.skipped == {"instance unreadable": 1}
    assert not registry.readable


def test_titles_that_are_empty_equal_or_hostile() -> None:
    registry = registry_of(
        entry("", "/w/nameless_1"),
        entry("same", "/w/a"),
        entry("same", "/w/b"),
        entry("same", "/w/b"),
        entry("one\ntwo\x1b[31m\x07\u202e\tthree", "/w/c"),
        entry("x" * 10_000, "/w/d"),
        entry("\x00\x01", "/w/only_control"),
    )
    names = [instance.name for instance in registry.instances.values()]
    assert names == [
        "nameless_1",
        "same",
        "same",
        "one two[31m three",
        "x" * 100,
        "only_control",
    ]
    assert registry.skipped == {"instance twice": 1}
    assert registry.readable


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
maybe_entries = st.lists(
    json_values
    | st.builds(entry, st.text(), st.text() | st.sampled_from(["/w/a", "/w/b"]))
    | st.builds(entry, json_values, json_values)
)


@given(maybe_entries)
def test_each_entry_is_read_or_counted(entries: list[object]) -> None:
    check_registry(registry_of(*entries), len(entries))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1 * NS),
        ("1970-01-01T02:00:01.000000001+02:00", 1 * NS + 1),
        ("1969-12-31T19:00:01.5-05:00", 1 * NS + 500_000_000),
        ("2026-11-22T14:10:26.51317989Z", 1_795_356_626_513_179_890),
        ("0001-01-01T00:00:00Z", None),
        ("2026-13-22T14:10:26Z", None),
        ("2026-11-22 14:10:26", None),
        ("", None),
        ("soon", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("created_at", "expected"),
    [
        ("2026-11-22T14:10:26Z", 1_795_356_626 * NS),
        ("", 1_799_999_000 * NS),  # then tmux says it
        ("2099-11-22T14:10:26Z", 1_799_999_000 * NS),  # a clock that was wrong
    ],
)
def test_when_it_began(tmp_path: Path, created_at: str, expected: int) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"instances": [entry("t", str(tmp_path), created_at=created_at)]}))

    class Server(tmux.Tmux):
        def look(self, panes: object = ()) -> tmux.View:
            return tmux.View(
                panes=[pane(session="claudesquad_t", path=str(tmp_path), created_s=1_799_999_000)]
            )

    (event,) = SquadSource(path, Server(), read=read_word).poll({}, {}, START).events
    assert event.occurred_at == expected


# Which pane is whose


def pane(**fields: Any) -> tmux.Pane:
    values: dict[str, Any] = {
        "session": "claudesquad_t",
        "path": "/w/t",
        "created_s": 1,
        "id": "%1",
        "dead": False,
        "title": "",
        "command": "claude",
        "cursor_x": 0,
        "cursor_y": 0,
        "width": 80,
        "activity_s": 1,
    }
    return tmux.Pane(**(values | fields))


def instance(title: str, worktree: str) -> Instance:
    (one,) = registry_of(entry(title, worktree)).instances.values()
    return one


def owners(instances: list[Instance], panes: list[tmux.Pane]) -> dict[str, str]:
    found = find_panes(instances, panes)
    return {one.name: found[one.id].id for one in instances if one.id in found}


def test_a_pane_is_found_by_its_path() -> None:
    panes = [
        pane(session="claudesquad_other", path="/w/a", id="%1"),
        pane(session="claudesquad_term_a", path="/w/a", id="%0"),
        pane(session="mine", path="/w/b", id="%2"),
        pane(session="claudesquad_b", path="/elsewhere", id="%3"),
        pane(session="claudesquad_c", path="/w/c", id="%4", dead=True),
    ]
    squad = [instance("a", "/w/a"), instance("b", "/w/b"), instance("c", "/w/c")]
    assert owners(squad, panes) == {"a": "%1", "b": "%3"}


def test_titles_that_collide_are_told_apart_by_path() -> None:
    panes = [pane(session="claudesquad_ab", path="/w/1", id="%1")]
    assert owners([instance("a b", "/w/1"), instance("ab", "/w/2")], panes) == {"a b": "%1"}
    assert owners([instance("ab", "/w/2"), instance("a b", "/w/1")], panes) == {"a b": "%1"}


def test_links_lead_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real, link = str(tmp_path / "real" / "w"), str(tmp_path / "link" / "w")
    for seen, registered in ((real, link), (link, real)):
        panes = [pane(session="claudesquad_renamed", path=seen)]
        assert owners([instance("t", registered)], panes) == {"t": "%1"}


def test_the_oldest_pane_is_the_agents() -> None:
    panes = [pane(id="%12"), pane(id="%9"), pane(id="%30")]
    assert owners([instance("t", "/w/t")], panes) == {"t": "%9"}


def test_tmux_names() -> None:
    assert tmux_name("My Task.1") == "claudesquad_MyTask_1"
    assert tmux_name(" a\tb\n") == "claudesquad_ab"


# Who is attached

SQUAD, SHELL, OTHER_SHELL = 1000, 2000, 3000


def seat(
    pid: int, size: tuple[int, int] = (111, 39), parent: int = SQUAD, created_s: int = 0
) -> Seat:
    return Seat(pid=pid, parent=parent, created_s=created_s or pid, size=size)


def test_insiders() -> None:
    a, b = [seat(1), seat(3, parent=SHELL)], [seat(2)]
    assert insiders({"a": a, "b": b}, ()) == {SQUAD}
    assert insiders({"a": a, "b": []}, ()) == set()
    assert insiders({"a": a, "b": []}, {SQUAD}) == {SQUAD}
    assert insiders({"a": a}, ()) == {SQUAD}
    assert insiders({"a": a}, {SHELL}) == {SHELL}
    assert insiders({"a": [seat(1, parent=0)], "b": [seat(2, parent=0)]}, ()) == set()
    assert insiders({}, {SQUAD}) == set()
    two = [seat(1), seat(4, parent=SHELL)], [seat(2), seat(5, parent=SHELL)]
    assert insiders({"a": two[0], "b": two[1]}, ()) == {SQUAD, SHELL}


#: What is seen in each look, of a session with and without peers: (client, size, peers, expected).
Story = list[tuple[int, tuple[int, int], list[tuple[int, int]], bool]]

STORIES: dict[str, Story] = {
    "alone": [
        (1, (80, 24), [], False),
        (1, (111, 39), [], False),
        (1, (180, 50), [], True),
        (1, (180, 50), [], True),
        (1, (200, 60), [], True),  # resized while attached
        (1, (150, 45), [], True),
        (2, (80, 24), [], False),
        (2, (111, 39), [], False),
    ],
    "a small terminal": [
        (1, (80, 24), [(49, 18)], False),
        (1, (49, 18), [(49, 18)], False),
        (1, (80, 24), [(49, 18)], True),
        (2, (49, 18), [(49, 18)], False),
    ],
    "born, and never smaller": [
        (1, (80, 24), [], False),
        (1, (80, 24), [(49, 18)], False),
    ],
    "resized, not attached": [
        (1, (111, 39), [(111, 39)], False),
        (1, (150, 60), [(150, 60)], False),
        (1, (90, 30), [(90, 30)], False),
    ],
    "only wider": [
        (1, (111, 39), [(111, 39)], False),
        (1, (180, 39), [(111, 39)], False),
        (1, (111, 39), [(111, 39)], False),
    ],
    "shrunk to what it was": [
        (1, (111, 39), [], False),
        (1, (180, 50), [], True),
        (1, (111, 39), [], False),
    ],
    "attached at the first look, then left alone": [
        (1, (180, 50), [(111, 39)], True),
        (1, (180, 50), [], True),
        (2, (111, 39), [], False),
    ],
    "seen half way through a resize": [
        (1, (111, 39), [(111, 39)], False),
        (1, (150, 60), [(111, 39)], True),
        (1, (150, 60), [(150, 60)], False),
    ],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_attachment(story: Story) -> None:
    memory = Terminal()
    for pid, size, peers, expected in story:
        others = [seat(90 + number, peer) for number, peer in enumerate(peers)]
        attached, memory = attachment(memory, [seat(pid, size)], {SQUAD}, others)
        assert attached is expected, (pid, size)
        assert memory.parent == SQUAD
        assert memory.own[0].size != (80, 24)


def test_no_client_is_nobody() -> None:
    before = Terminal(own=(Own(pid=1, size=(111, 39), grown=True),), parent=SQUAD)
    after = Terminal(parent=SQUAD)
    assert attachment(before, [], {SQUAD}, [seat(2, (1, 1))]) == (False, after)


def test_a_second_client_of_the_squads_own_is_nobody() -> None:
    """The one before lingers after a resume; a kill leaves a new one in every session."""
    memory = Terminal()
    looks = [
        ([seat(1)], False),
        ([seat(1), seat(2, (80, 24))], False),
        ([seat(1), seat(2)], False),
        ([seat(1), seat(2), seat(3, (80, 24))], False),
        ([seat(1), seat(2, (180, 50)), seat(3, (80, 24))], True),
        ([seat(2, (180, 50)), seat(3, (80, 24))], True),
        ([seat(3, (80, 24)), seat(4, (80, 24))], False),
        ([seat(4)], False),
    ]
    for seats, expected in looks:
        attached, memory = attachment(memory, seats, {SQUAD}, [seat(9)])
        assert attached is expected
        assert memory.others == ()


def test_somebody_elses_client_must_be_there_twice() -> None:
    own = seat(1)
    memory = Terminal()
    looks = [
        ([own], False),
        ([own, seat(7, parent=SHELL)], False),
        ([own, seat(8, parent=SHELL)], False),
        ([own, seat(8, parent=SHELL)], True),
        ([own, seat(8, parent=SHELL), seat(9, parent=OTHER_SHELL)], True),
        ([own, seat(9, parent=OTHER_SHELL)], True),
        ([own], False),
    ]
    for seats, expected in looks:
        attached, memory = attachment(memory, seats, {SQUAD}, [])
        assert attached is expected


def test_where_no_parent_is_known_the_oldest_client_is_the_squads() -> None:
    memory = Terminal()
    seats = [seat(5, parent=0, created_s=20), seat(9, parent=0, created_s=10)]
    _, memory = attachment(memory, seats, (), [])
    attached, memory = attachment(memory, seats, (), [])
    assert (attached, memory.own[0].pid, memory.others) == (True, 9, (5,))


def attached_of(seats: dict[str, list[Seat]]) -> set[str]:
    """Who is attached at first sight."""
    rows = {name: session(id=name) for name in seats}
    return {name for name, (attached, _) in find_attachments(rows, seats).items() if attached}


def test_peers_are_the_same_squads_other_clients() -> None:
    seats = {"a": [seat(1, (180, 50))], "b": [seat(2)], "c": [seat(3, (80, 24))], "d": []}
    assert attached_of(seats) == {"a"}
    seats["d"] = [seat(4, (200, 70), parent=SHELL)]
    assert attached_of(seats) == {"a"}


def test_a_client_that_was_just_born_is_no_peer() -> None:
    seats = {"a": [seat(1, (79, 24))], "b": [seat(2, (49, 18)), seat(3, (80, 24))]}
    assert attached_of(seats) == {"a"}


def test_two_squads_with_terminals_of_different_sizes() -> None:
    small = {"a": [seat(1, (100, 40))], "b": [seat(2, (60, 30))]}
    large = {
        "a": [seat(3, (150, 60), parent=SHELL)],
        "b": [seat(4, (150, 60), parent=SHELL)],
    }
    assert attached_of({name: small[name] + large[name] for name in "ab"}) == {"a"}


# From one look to the next


def session(**fields: Any) -> Session:
    values: dict[str, Any] = {
        "id": "0123456789abcdef",
        "name": "t",
        "program": "claude",
        "repository": "shop",
        "branch": "dev/t",
        "worktree": "/w/t",
        "state": State.IDLE,
        "state_since": START,
        "started_at": START,
        "last_activity": START,
    }
    return Session(**(values | fields))


def sight(**fields: Any) -> Sight:
    values: dict[str, Any] = {"registered": True, "worktree_there": True, "tmux": "claudesquad_t"}
    return Sight(**(values | fields))


def test_nothing_new() -> None:
    before, _ = diff(session(), sight(), START)
    assert diff(before, sight(), START + NS) == (before, [])


@pytest.mark.parametrize("memory", ["", "no json", "[]", '{"misses": "x"}'])
def test_any_memory_can_be_read(memory: str) -> None:
    after, events = diff(session(memory=memory), sight(registered=False), START + NS)
    assert (cs.remembered(after).misses, events) == (1, [])


def test_an_unreadable_file_neither_counts_nor_forgives() -> None:
    row = session()
    for registered in (False, None, None):
        row, events = diff(row, sight(registered=registered), START + NS)
        assert events == []
    row, events = diff(row, sight(registered=False), START + NS)
    assert [event.type for event in events] == ["session.state", "session.killed"]


@pytest.mark.parametrize("registered", [False, None])
def test_nothing_is_concluded_from_what_a_kill_takes_away(registered: bool | None) -> None:
    row, events = diff(
        session(), sight(registered=registered, worktree_there=False, tmux=None), START + NS
    )
    assert (row.state, events) == (State.IDLE, [])


def test_activity_is_stored_at_steps_and_at_the_end() -> None:
    """60 s of work, a look and an output each second; then silence."""
    row, _ = diff(session(), sight(), START)
    stored = []
    for second in range(1, 80):
        activity = START + min(second, 65) * NS
        after, _ = diff(row, sight(activity_ns=activity), START + second * NS)
        if after != row:
            stored.append((after.last_activity - START) // NS)
        row = after
    assert stored == [10, 20, 30, 40, 50, 60, 65]


def test_a_paused_session_keeps_its_state_whatever_its_screen_shows() -> None:
    row = session(state=State.PAUSED)
    row, events = diff(
        row, sight(worktree_there=False, readings=(State.WAITING, State.WAITING)), START + NS
    )
    assert (row.state, events) == (State.PAUSED, [])


def test_a_clock_that_goes_back_makes_no_negative_times() -> None:
    _, events = diff(session(), sight(readings=(None, State.WAITING)), START - 5 * NS)
    assert [event.duration_ns for event in events] == [0]


sights = st.builds(
    sight,
    registered=st.sampled_from([True, True, True, False, None]),
    worktree_there=st.booleans(),
    tmux=st.sampled_from([None, "claudesquad_t"]),
    attached=st.booleans(),
    readings=st.tuples(
        st.none() | st.sampled_from([State.RUNNING, State.IDLE, State.WAITING, State.FAILED]),
        st.none() | st.sampled_from([State.RUNNING, State.IDLE, State.WAITING, State.FAILED]),
    ),
)


@given(st.lists(sights, max_size=30))
def test_whatever_is_seen_the_account_is_whole(seen: list[Sight]) -> None:
    """Numbers without gaps; states that follow each other; times that add up to the life."""
    row = session()
    events: list[Event] = []
    for number, one in enumerate(seen, 1):
        if not row.live and not one.registered:
            continue
        row, new = diff(row, one, START + number * NS)
        events += new
    assert [event.id for event in events] == [f"{row.id}:{n + 1}" for n in range(row.sequence)]
    states = [event for event in events if event.type == "session.state"]
    chain = [State.IDLE.value, *(event.fields["state"] for event in states)]
    assert [event.fields["previous"] for event in states] == chain[:-1]
    assert row.state.value == chain[-1]
    assert sum(event.duration_ns or 0 for event in states) == row.state_since - START
    switches = [e.type for e in events if e.type in ("session.attached", "session.detached")]
    assert switches == ["session.attached", "session.detached"] * (len(switches) // 2) + [
        "session.attached"
    ] * (len(switches) % 2)
    assert row.attached is bool(len(switches) % 2)
    assert (row.state is State.ENDED) is not row.live
