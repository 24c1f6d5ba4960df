"""claude-squad: who is in the squad, from its state file; what each session does, from tmux.

The state file says only which sessions exist. Everything else in it is old, and it is not read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import psutil

from squad_otel.batch import Batch
from squad_otel.commands import agent_name
from squad_otel.errors import SourceError
from squad_otel.events import NS, Event, FieldValue
from squad_otel.ids import session_id
from squad_otel.plain import plain_text
from squad_otel.sessions import Session, State
from squad_otel.sources import screens, tmux

NAME = "claude_squad"

#: So often in a row a thing must be missing before it is believed to be gone.
LOOKS = 2

#: `Session.last_activity` of a busy session is stored at steps of this length, and exactly as soon
#: as the session was quiet for the second: a row per session and second would be for nothing.
ACTIVITY_STEP_NS = 10 * NS
ACTIVITY_QUIET_NS = 3 * NS

#: Two looks that follow each other faster are one: what is there twice in a row must have lasted.
LOOK_INTERVAL_NS = NS // 10

_MAX_STATE_BYTES = 256 << 20
_MAX_NAME = 100

Size = tuple[int, int]

#: The size that claude-squad's clients are born with, before they get that of its preview.
BIRTH_SIZE: Size = (80, 24)


# The state file


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it is registered. `created_at` is UTC nanoseconds, None where unreadable."""

    id: str
    name: str
    program: str
    repository: str
    branch: str
    worktree: str
    repository_path: str
    created_at: int | None
    tmux: str  # the name that claude-squad gives its tmux session


class _Worktree(msgspec.Struct):
    repo_path: str = ""
    worktree_path: str = ""
    branch_name: str = ""


class _Instance(msgspec.Struct):
    """What is wanted of an instance. Its diff is code: it is never decoded."""

    worktree: _Worktree
    title: str = ""
    program: str = ""
    created_at: str = ""


class _StateFile(msgspec.Struct):
    instances: list[msgspec.Raw] | None


_decode_file = msgspec.json.Decoder(_StateFile).decode
_decode_instance = msgspec.json.Decoder(_Instance).decode


class Registry(msgspec.Struct, kw_only=True):
    """The state file at one moment.

    `readable` is False when the file was caught half written: then nothing can be said about who
    is missing. `present` is False when there is no file.
    """

    instances: dict[str, Instance] = {}
    readable: bool = True
    present: bool = True
    skipped: dict[str, int] = {}


def read_registry(path: Path) -> Registry:
    """Read the state file. Raises SourceError when it is there but cannot be opened."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_STATE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Registry(present=False)
    except OSError as error:
        raise SourceError(f"claude-squad's state file cannot be read: {error}") from error
    if len(data) > _MAX_STATE_BYTES:
        raise SourceError(f"claude-squad's state file is too large: {path}")
    return parse_registry(data)


def parse_registry(data: bytes) -> Registry:
    """Read the state file's content; any bytes can be read.

    It is written in place, so it may be empty or end anywhere. An entry that cannot be read may
    be anybody's, so then too nobody is missing.
    """
    registry = Registry()
    try:
        entries = _decode_file(data).instances or []
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Registry(readable=False, skipped={"state file incomplete": 1})
    for entry in entries:
        instance = _instance(entry)
        if instance is None:
            registry.readable = False
            _count(registry.skipped, "instance unreadable")
        elif instance.id in registry.instances:
            _count(registry.skipped, "instance twice")
        else:
            registry.instances[instance.id] = instance
    return registry


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1


def _instance(entry: msgspec.Raw) -> Instance | None:
    try:
        raw = _decode_instance(entry)
        worktree = raw.worktree.worktree_path
        if not worktree.startswith("/"):
            return None
        identity = session_id(worktree)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # a NUL in the path is a ValueError
        return None
    repository_path = raw.worktree.repo_path
    return Instance(
        id=identity,
        name=_plain(raw.title) or _plain(Path(worktree).name) or "unnamed",
        program=_plain(agent_name(raw.program)),
        repository=_plain(Path(repository_path).name) or "unknown",
        branch=_plain(raw.worktree.branch_name),
        worktree=worktree,
        repository_path=repository_path,
        created_at=parse_time(raw.created_at),
        tmux=tmux_name(raw.title),
    )


def _plain(text: str) -> str:
    return plain_text(text, _MAX_NAME)


def tmux_name(title: str) -> str:
    """The name of the tmux session that claude-squad makes for an instance of this title."""
    return "claudesquad_" + "".join(title.split()).replace(".", "_")


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> int | None:
    """RFC 3339 with up to nine decimals to UTC nanoseconds; None when it is none after 1970."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    seconds, decimals, zone = match.groups()
    try:
        moment = datetime.fromisoformat(seconds + zone.replace("Z", "+00:00"))
        whole_s = int(moment.timestamp())
    except (ValueError, OverflowError):
        return None
    return whole_s * NS + int((decimals or "0").ljust(9, "0")) if whole_s > 0 else None


# Which pane and which clients are whose


def find_panes(
    instances: Iterable[Instance | Session], panes: Iterable[tmux.Pane]
) -> dict[str, tmux.Pane]:
    """The agent's pane of each instance (by id) that has one.

    A tmux session belongs to the instance in whose worktree it was started; where none was, to
    the one whose name it bears. In each worktree there may be two: the second one
    (`claudesquad_term_…`) is the shell of claude-squad's terminal tab, unless an instance is
    called so. Of a session's panes the oldest one is the agent's, the others were split off.
    """
    by_session: dict[str, tmux.Pane] = {}
    for pane in panes:
        if pane.session.startswith("claudesquad_") and not pane.dead:
            known = by_session.get(pane.session)
            if known is None or pane.number < known.number:
                by_session[pane.session] = pane
    by_place: dict[str, list[tmux.Pane]] = {}
    for pane in by_session.values():
        by_place.setdefault(_resolved(pane.path), []).append(pane)

    found: dict[str, tmux.Pane] = {}
    elsewhere_named: list[Instance | Session] = []
    for instance in instances:
        here = by_place.pop(_resolved(instance.worktree), [])
        named = [pane for pane in here if pane.session == instance.tmux]
        agents = named or [p for p in here if not p.session.startswith("claudesquad_term_")]
        if agents:
            found[instance.id] = min(agents, key=lambda pane: pane.number)
        else:
            elsewhere_named.append(instance)
    elsewhere = {pane.session: pane for group in by_place.values() for pane in group}
    for instance in elsewhere_named:
        if instance.tmux in elsewhere:
            found[instance.id] = elsewhere.pop(instance.tmux)
    return found


def _resolved(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:
        return path


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A client of a session, and who started it: claude-squad has one for itself in each session.

    `parent` is the process that started the client, 0 where that is not known.
    """

    pid: int
    parent: int
    created_s: int
    size: Size


def insiders(seats: Mapping[str, Sequence[Seat]], remembered: Collection[int]) -> set[int]:
    """The processes that are a claude-squad: what starts clients in several sessions, or did.

    `seats` has the clients of each session whose worktree is there. With one session only, its
    first client counts as claude-squad's: an attach is rather missed than invented.
    """
    sessions_of = Counter(
        parent for group in seats.values() for parent in {s.parent for s in group}
    )
    inside = {parent for parent, count in sessions_of.items() if count > 1 or parent in remembered}
    if len(seats) == 1:
        (group,) = seats.values()
        if group and not any(seat.parent in inside for seat in group):
            inside.add(min(group, key=_age).parent)
    return inside - {0}


def _age(seat: Seat) -> tuple[int, int]:
    return seat.created_s, seat.pid


class Own(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One client of claude-squad's: the size that it has when nobody is attached ((0, 0): not
    seen yet), and whether it was larger in the last look."""

    pid: int
    size: Size = (0, 0)
    grown: bool = False


class Terminal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a session's clients: claude-squad's own, who started the newest of
    them, and the clients of others."""

    own: tuple[Own, ...] = ()
    parent: int = 0
    others: tuple[int, ...] = ()


def attachment(
    before: Terminal, seats: Sequence[Seat], inside: Collection[int], peers: Sequence[Seat]
) -> tuple[bool, Terminal]:
    """Whether a person is attached to a session, and what to remember for the next look.

    claude-squad always is: it keeps a client of its own in each session, as large as its preview.
    When a person attaches, this client grows to the whole terminal; when they leave, it is
    replaced by a new one. So a person is attached

    - while a client of claude-squad's is larger in both dimensions than all it can be compared
      with: than itself when nobody was attached, and than its peers, the same claude-squad's
      clients in other sessions. If the terminal is resized, the peers grow too, so that is none.
      (With one session there is no peer: then a terminal that grows reads as an attach.)
      A client is born with 80x24, so that size alone means nothing: it is no baseline, and it
      counts as large only in a client that was smaller.
    - when a client that claude-squad did not start is there in two looks: their own `tmux attach`.

    `inside` are the processes that are a claude-squad (see `insiders`), `peers` its clients in
    other sessions. After a resume, and in all sessions after a kill, it has a second client for
    minutes: each is compared with its own past.
    """
    own = _own_seats(seats, inside)
    others = tuple(sorted(seat.pid for seat in seats if seat not in own))
    known = {client.pid: client for client in before.own}
    after = Terminal(
        own=tuple(_measured(seat, known.get(seat.pid, Own(pid=seat.pid)), peers) for seat in own),
        parent=own[-1].parent if own else before.parent,
        others=others,
    )
    grown = any(client.grown for client in after.own)
    return grown or any(pid in before.others for pid in others), after


def _measured(seat: Seat, before: Own, peers: Sequence[Seat]) -> Own:
    """Whether a client of claude-squad's is larger than when nobody is attached."""
    compared = [p.size for p in peers if p.parent == seat.parent and p.size != BIRTH_SIZE]
    if before.size != (0, 0):
        compared.append(before.size)
    if seat.size == BIRTH_SIZE and before.size == (0, 0):
        grown = False
    elif compared:
        grown = all(seat.size[0] > size[0] and seat.size[1] > size[1] for size in compared)
    else:
        grown = before.grown
    if grown:
        return Own(pid=seat.pid, size=before.size, grown=True)
    return Own(pid=seat.pid, size=(0, 0) if seat.size == BIRTH_SIZE else seat.size)


def _own_seats(seats: Sequence[Seat], inside: Collection[int]) -> list[Seat]:
    """claude-squad's own clients in one session, oldest first. Where it is not known who started
    a client, the session's oldest one is taken for it."""
    ordered = sorted(seats, key=_age)
    return [
        seat
        for index, seat in enumerate(ordered)
        if seat.parent in inside or (seat.parent == 0 and index == 0)
    ]


def find_attachments(
    squad: Mapping[str, Session], seats: Mapping[str, Sequence[Seat]]
) -> dict[str, tuple[bool, Terminal]]:
    """`attachment` of each session (by id), each compared with its peers."""
    before = {identity: remembered(row).terminal for identity, row in squad.items()}
    inside = insiders(seats, {terminal.parent for terminal in before.values()})
    own = {identity: _own_seats(group, inside) for identity, group in seats.items()}
    return {
        identity: attachment(
            terminal,
            seats.get(identity, ()),
            inside,
            [seat for other, group in own.items() if other != identity for seat in group],
        )
        for identity, terminal in before.items()
    }


# From one look to the next


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `Session.memory` holds, as JSON. All of it changes seldom."""

    misses: int = 0  # looks in a row in which the registry did not name the session
    absences: int = 0  # looks in a row in which it had a worktree and no terminal
    terminal: Terminal = Terminal()


def remembered(session: Session) -> Memory:
    """The session's memory; an empty one where it cannot be read."""
    try:
        return msgspec.json.decode(session.memory or "{}", type=Memory)
    except (msgspec.MsgspecError, ValueError):
        return Memory()


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What one look shows of one session.

    `registered` is None when the registry could not be read. `readings` are what the screen was
    read as in this look and in the one before (None: not seen).
    """

    registered: bool | None
    worktree_there: bool
    tmux: str | None  # the name of its tmux session, None when there is none
    activity_ns: int = 0
    attached: bool = False
    terminal: Terminal = Terminal()
    readings: tuple[State | None, State | None] = (None, None)


class _Step:
    """A session on its way through one look: each transition is numbered and makes an event."""

    def __init__(self, session: Session, now: int) -> None:
        self.session = session
        self.events: list[Event] = []
        self._now = now

    def emit(self, event: str, duration_ns: int | None = None, **fields: FieldValue) -> None:
        sequence = self.session.sequence + 1
        self.set(sequence=sequence)
        identity = f"{self.session.id}:{sequence}"
        self.events.append(_event(self.session, identity, event, self._now, duration_ns, fields))

    def enter(self, state: State) -> None:
        session = self.session
        if state is not session.state:
            self.set(state=state, state_since=self._now)
            self.emit(
                "session.state",
                max(0, self._now - session.state_since),
                state=state.value,
                previous=session.state.value,
            )

    def set(self, **changes: object) -> None:
        self.session = msgspec.structs.replace(self.session, **changes)


def _event(
    session: Session,
    identity: str,
    event: str,
    at: int,
    duration_ns: int | None = None,
    fields: dict[str, FieldValue] | None = None,
) -> Event:
    return Event(
        id=identity,
        type=event,
        occurred_at=at,
        source=NAME,
        session=session.id,
        program=session.program,
        repository=session.repository,
        branch=session.branch,
        duration_ns=duration_ns,
        fields=fields or {},
    )


def diff(session: Session, sight: Sight, now: int) -> tuple[Session, list[Event]]:
    """What happened to `session` between the journal's view of it and what is seen now (UTC ns).

    Returns the session as it stands now and the events that led there, in order. Each change of
    state is one `session.state`, so that these cover the whole life.
    """
    step = _Step(session, now)
    memory = remembered(session)
    if sight.registered is False:
        memory = msgspec.structs.replace(memory, misses=memory.misses + 1)
        if memory.misses >= LOOKS:
            _end(step, now)
            return step.session, step.events
        # Gone, or caught between two writes: until it is certain, nothing else is concluded.
    else:
        if sight.registered:
            memory = _follow(step, sight, msgspec.structs.replace(memory, misses=0))
        _follow_screen(step, sight)
        memory = msgspec.structs.replace(memory, terminal=sight.terminal)
        if sight.attached is not session.attached:
            step.set(attached=sight.attached)
            step.emit("session.attached" if sight.attached else "session.detached")
    if sight.tmux is not None:
        step.set(tmux=sight.tmux)
    step.set(
        memory=msgspec.json.encode(memory).decode(),
        last_activity=_activity(step.session.last_activity, sight.activity_ns, now),
    )
    return step.session, step.events


def _follow(step: _Step, sight: Sight, memory: Memory) -> Memory:
    """Paused, resumed and dead, of a registered session.

    A pause leaves nothing in tmux or in the file: only the worktree goes, and it comes back. It
    is not a kill on its way, for that unregisters first, and the registry is read last.
    """
    if not step.session.live:  # it was believed to be killed, and is in the file again
        step.set(ended_at=None)
        step.enter(State.STARTING)
    if not sight.worktree_there:
        if step.session.state is not State.PAUSED:
            step.emit("session.paused")
            step.enter(State.PAUSED)
        return msgspec.structs.replace(memory, absences=0)
    if step.session.state is State.PAUSED:
        step.emit("session.resumed")
        step.enter(State.STARTING)
    if sight.tmux is not None:
        return msgspec.structs.replace(memory, absences=0)
    if step.session.state is not State.DEAD:
        memory = msgspec.structs.replace(memory, absences=memory.absences + 1)
    if memory.absences >= LOOKS:
        step.enter(State.DEAD)
    return memory


def _follow_screen(step: _Step, sight: Sight) -> None:
    """The state that the screen shows, when it shows it twice; a dialog that waits, at once."""
    before, reading = sight.readings
    if sight.tmux is None or reading is None or step.session.state is State.PAUSED:
        return
    if reading is State.WAITING or reading is before:
        step.enter(reading)


def _end(step: _Step, now: int) -> None:
    if step.session.attached:
        step.set(attached=False)
        step.emit("session.detached")
    step.enter(State.ENDED)
    step.emit("session.killed", max(0, now - step.session.started_at), reason="killed")
    step.set(ended_at=now, memory="")


def _activity(known: int, seen: int, now: int) -> int:
    worth = seen - known >= ACTIVITY_STEP_NS or now - seen >= ACTIVITY_QUIET_NS
    return seen if seen > known and worth else known


# The source


class _Recent(msgspec.Struct, kw_only=True):
    """What the last look showed of a session. When this is lost, a state is seen a look later."""

    pane: str
    look: screens.Look | None = None
    reading: State | None = None


Read = Callable[
    [str, screens.Pane, "screens.Look | None", int], "tuple[screens.Reading, screens.Look]"
]


def parent_of(pid: int) -> int:
    """The process that started `pid`; 0 where that is not known."""
    try:
        return psutil.Process(pid).ppid()
    except (psutil.Error, ValueError, OverflowError):
        return 0


class SquadSource:
    """Watches the sessions that claude-squad registers in `state_file`.

    The registry alone says who is born and who is gone. A tmux session that it does not name (it
    is made a moment before it is registered) is none of ours until it does. Without a state file
    there is no claude-squad and nothing to see; when the file is deleted, the sessions known are
    watched on and none counts as killed.

    What decides a transition is in the `Session` rows (`state`, `attached`, `sequence`, `memory`).
    The object keeps only what changes with every look: each session's pane, and how its screen
    looked the last time.
    """

    name = NAME
    tier = "sampled"

    def __init__(
        self,
        state_file: Path,
        server: tmux.Tmux,
        user: str = "",
        read: Read = screens.read,
        parent_of: Callable[[int], int] = parent_of,
    ) -> None:
        self._state_file = state_file
        self._server = server
        self._user = user
        self._read = read
        self._parent_of = parent_of
        self._recent: dict[str, _Recent] = {}
        self._looked_at = -LOOK_INTERVAL_NS

    def poll(
        self,
        sessions: Mapping[str, Session],
        offsets: Mapping[str, str],  # noqa: ARG002 - nothing here is read on from a place
        now: int,
    ) -> Batch:
        """Look at the squad; nothing is seen when the last look was less than 0.1 s ago.

        Raises SourceError when tmux or the state file cannot be read.
        """
        batch = Batch()
        if abs(now - self._looked_at) < LOOK_INTERVAL_NS:
            return batch
        self._looked_at = now
        known = {row.id: row for row in sessions.values() if row.origin == NAME}
        live = {identity: row for identity, row in known.items() if row.live}
        self._recent = {i: recent for i, recent in self._recent.items() if i in live}
        if not live and not read_registry(self._state_file).instances:
            return batch

        # The registry comes last. A kill unregisters first and then takes away the rest, so what
        # is seen missing here is missing in the file already.
        view = self._server.look(recent.pane for recent in self._recent.values())
        there = {i: _is_there(row.worktree) for i, row in live.items()}
        registry = read_registry(self._state_file)
        if view.skipped:
            batch.skip("tmux record unreadable", view.skipped)
        for reason, count in registry.skipped.items():
            batch.skip(reason, count)

        watched = {i: known.get(i, instance) for i, instance in registry.instances.items()} | live
        for identity, row in watched.items():
            if identity not in there:
                there[identity] = _is_there(row.worktree)
        panes = find_panes(watched.values(), view.panes)
        squad: dict[str, Session] = {}
        for identity, row in watched.items():
            if isinstance(row, Instance):
                squad[identity], created = self._birth(
                    row, panes.get(identity), sessions.get(identity), now
                )
                batch.events.append(created)
            else:
                squad[identity] = row

        seats = self._seats({i: panes[i] for i in panes if there[i]}, view.clients)
        attachments = find_attachments(squad, seats)
        for identity, row in squad.items():
            attached, terminal = attachments[identity]
            pane = panes.get(identity)
            after, events = diff(
                row,
                Sight(
                    registered=_registered(identity, registry),
                    worktree_there=there[identity],
                    tmux=pane.session if pane else None,
                    activity_ns=pane.activity_s * NS if pane else 0,
                    attached=attached,
                    terminal=terminal,
                    readings=self._readings(row, pane if there[identity] else None, view, now),
                ),
                now,
            )
            batch.events += events
            if after != sessions.get(identity):
                batch.sessions.append(after)
        return batch

    def close(self) -> None:
        """Nothing is held open."""

    def _birth(
        self, instance: Instance, pane: tmux.Pane | None, other: Session | None, now: int
    ) -> tuple[Session, Event]:
        """The row of a session that is seen for the first time, and its `session.created`.

        `other` is what another source knows under this id: its numbering is continued.
        """
        times = (instance.created_at, pane.created_s * NS if pane else None)
        started_at = next((at for at in times if at is not None and at <= now), now)
        row = Session(
            id=instance.id,
            name=instance.name,
            program=instance.program,
            repository=instance.repository,
            branch=instance.branch,
            worktree=instance.worktree,
            repository_path=instance.repository_path,
            user=self._user,
            origin=NAME,
            tmux=instance.tmux,
            state_since=now,
            started_at=started_at,
            last_activity=started_at,
            sequence=other.sequence if other else 0,
        )
        return row, _event(row, f"created:{row.id}", "session.created", started_at)

    def _seats(
        self, panes: Mapping[str, tmux.Pane], clients: Sequence[tmux.Client]
    ) -> dict[str, list[Seat]]:
        """The clients of each of these sessions, with who started them."""
        by_name: dict[str, list[Seat]] = {pane.session: [] for pane in panes.values()}
        for client in clients:
            if client.session in by_name and not client.control:
                by_name[client.session].append(
                    Seat(
                        pid=client.pid,
                        parent=self._parent_of(client.pid),
                        created_s=client.created_s,
                        size=(client.width, client.height),
                    )
                )
        return {identity: by_name[pane.session] for identity, pane in panes.items()}

    def _readings(
        self, row: Session, pane: tmux.Pane | None, view: tmux.View, now: int
    ) -> tuple[State | None, State | None]:
        """What the screen was read as in the look before and is read as now."""
        if pane is None:
            self._recent.pop(row.id, None)
            return None, None
        recent = self._recent.get(row.id)
        if recent is None or recent.pane != pane.id:
            recent = self._recent[row.id] = _Recent(pane=pane.id)
        text = view.screens.get(pane.id)
        if text is None:  # its text is asked for in the next look
            return None, None
        reading, look = self._read(
            row.program,
            screens.Pane(
                text=text,
                title=pane.title,
                cursor_y=pane.cursor_y,
                cursor_x=pane.cursor_x,
                command=pane.command,
                activity=pane.activity_s,
                width=pane.width,
            ),
            recent.look,
            now,
        )
        before = recent.reading
        self._recent[row.id] = _Recent(pane=pane.id, look=look, reading=reading.state)
        return before, reading.state


def _is_there(folder: str) -> bool:
    try:
        return Path(folder).is_dir()
    except (OSError, ValueError):  # no name that a folder could have
        return False


def _registered(identity: str, registry: Registry) -> bool | None:
    if identity in registry.instances or not registry.present:
        return True
    return False if registry.readable else None
