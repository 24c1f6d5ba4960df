"""Git, by its reflogs: what was committed, pushed, pulled and branched, at its true time.

No git process is started. The reflogs of sessions are held open, so that what a kill deletes is
read to its end all the same.
"""

# Paths are strings here: a quiet look is a handful of system calls a session.
# ruff: noqa: PTH112, PTH116, PTH117, PTH118, PTH208

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.ids import digest, session_id
from squad_otel.plain import plain_text
from squad_otel.sessions import Session
from squad_otel.sources.reflog import (
    BRANCHES,
    CHUNK_BYTES,
    Bookmark,
    Entry,
    OpenFile,
    Reflog,
    Run,
    branch_names,
    moved,
    operation,
    parse_line,
)

NAME = "git"

#: So young, a new branch that no session owns is left for later, and a folder's modification time
#: does not prove that nothing changed since: git is still at it, and file systems' clocks are slow.
SETTLE_NS = 2 * NS

#: What is older than its session by more than this was somebody else's work on the branch. (The
#: branch and the worktree are made a little before the session is.)
EARLY_NS = 60 * NS

#: A branch made in a worktree of no session may be that of a session not registered yet.
UNREGISTERED_NS = 60 * NS

_MAX_SMALL_FILE = 4096  # bytes
_MAX_NAME = 200
_REMOTES = "refs/remotes"


# Finding the reflogs


class _Log(Reflog):
    """A reflog and whose it is: a branch's, or (`branch` is None) the HEAD's of a worktree."""

    def __init__(self, path: str, repository: _Repository) -> None:
        super().__init__(path)
        self.repository = repository
        self.session: Session | None = None
        self.branch: str | None = None


class _Folder(msgspec.Struct):
    """A folder of reflogs as it was seen: `times` are its modification time and its refs'."""

    times: tuple[int, int]
    folders: list[str]
    files: dict[str, tuple[tuple[int, int, int], str | None]]  # by key: file's state and bookmark
    marks: dict[str, str]  # the bookmarks among them
    settled: bool


class _Repository:
    """A repository: its folder that all worktrees share (`common`), and an id made from it."""

    def __init__(self, common: str) -> None:
        self.common = common
        self.id = digest("repository", common)
        self.reftable = os.path.isdir(os.path.join(common, "reftable"))
        self.folders: dict[str, _Folder] = {}

    def log_path(self, ref: str) -> str:
        return f"{self.common}/logs/{ref}"


class _Place(NamedTuple):
    """Where a session's reflogs are; `git_dir` is None while its worktree is away."""

    repository: _Repository
    git_dir: str | None


def _read_small(path: str) -> str:
    """The first line of one of git's small files; empty where there is none.

    The line or `path` may come from an agent. With a NUL it names nothing that a file could be.
    """
    try:
        with open(path, "rb") as file:
            line = file.read(_MAX_SMALL_FILE).partition(b"\n")[0].rstrip(b"\r")
    except (OSError, ValueError):
        return ""
    return "" if b"\0" in line else os.fsdecode(line)


def _git_dir(worktree: str) -> str | None:
    """The git folder of a worktree: `.git` itself, or what the file of that name says."""
    if not os.path.isabs(worktree):
        return None
    path = os.path.join(worktree, ".git")
    if not os.path.isdir(path):
        line = _read_small(path)
        if not line.startswith("gitdir: "):
            return None
        path = os.path.join(worktree, line.removeprefix("gitdir: "))
    path = os.path.realpath(path)
    return path if os.path.isdir(path) else None


def _common_dir(git_dir: str) -> str | None:
    """The folder that a repository's worktrees share; None while `git worktree add` is at it."""
    shared = _read_small(f"{git_dir}/commondir")
    if shared:
        return os.path.realpath(os.path.join(git_dir, shared))
    return None if git_dir.rpartition("/")[0].endswith("/worktrees") else git_dir


def _time_of(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


# Telling who did what


class _Heads:
    """What the HEADs of all worktrees of a repository tell of who was where, and made what."""

    def __init__(self, repository: _Repository, git_dirs: Sequence[str]) -> None:
        self.arrivals: dict[str, list[tuple[int, str]]] = {}  # by branch: time, git folder
        self.makers: dict[str, set[str]] = {}  # by revision: git folders
        try:
            others = os.listdir(f"{repository.common}/worktrees")
        except OSError:
            others = []
        known = {repository.common, *git_dirs}
        known |= {f"{repository.common}/worktrees/{name}" for name in others}
        for git_dir in sorted(known):
            self._read(git_dir, is_main=git_dir == repository.common)

    def _read(self, git_dir: str, is_main: bool) -> None:
        try:
            file = OpenFile(f"{git_dir}/logs/HEAD")
        except OSError:
            return
        try:
            begin = max(0, file.size_bytes() - CHUNK_BYTES)
            lines = os.pread(file.descriptor, CHUNK_BYTES, begin).split(b"\n")
        finally:
            file.close()
        for number, line in enumerate(lines):
            entry = parse_line(line)
            if entry is None:
                continue
            move = moved(entry.message)
            if move is not None:
                self.arrivals.setdefault(move[1], []).append((entry.at, git_dir))
            elif number == 0 and not is_main and not entry.old.strip("0"):  # a new worktree
                branch = move_from(lines) or head_branch(git_dir)
                self.arrivals.setdefault(branch or "", []).append((entry.at, git_dir))
            elif entry.message and not entry.message.startswith(("reset:", "clone:", "Branch:")):
                self.makers.setdefault(entry.new, set()).add(git_dir)

    def creator(self, branch: str, at: int) -> str | None:
        """The git folder of the worktree in which a branch was made at that time (UTC ns)."""
        for arrived, git_dir in self.arrivals.get(branch, ()):
            if 0 <= arrived - at <= SETTLE_NS:
                return git_dir
        return None

    def maker(self, revision: str) -> str | None:
        """The git folder of the only worktree whose HEAD came to `revision` by making it."""
        found = self.makers.get(revision, set())
        return next(iter(found)) if len(found) == 1 else None


def head_branch(git_dir: str) -> str | None:
    """The branch that is checked out."""
    target = _read_small(f"{git_dir}/HEAD")
    prefix = f"ref: {BRANCHES}/"
    return target.removeprefix(prefix) if target.startswith(prefix) else None


def move_from(lines: Sequence[bytes]) -> str | None:
    """The branch on which HEAD's reflog begins, as its first move tells."""
    for line in lines:
        entry = parse_line(line) if b"\tcheckout: moving from " in line else None
        move = moved(entry.message) if entry else None
        if move is not None:
            return move[0]
    return None


class _Look:
    """One look at one repository: reads its reflogs into the batch."""

    def __init__(
        self,
        repository: _Repository,
        members: Mapping[str, Session],
        owners: Mapping[str, Session],
        batch: Batch,
        offsets: Mapping[str, str],
        now: int,
    ) -> None:
        self._repository = repository
        self._members = members  # by git folder
        self._owners = owners  # by branch
        self._batch = batch
        self._offsets = offsets
        self._now = now
        self._name = min((s.repository for s in owners.values()), default="") or None
        self._seen: set[str] = set()
        self._heads: _Heads | None = None

    def read_branch(self, log: _Log) -> bool:
        """Read the reflog of a session's branch; False when there was nothing new."""
        for run in (runs := log.read(self._offsets.get(log.key), self._batch)):
            names = branch_names(run.entries, log.branch or "")
            for entry, name in zip(run.entries, names, strict=True):
                what = operation(entry.message)
                if what == "commit":
                    self._commit(entry, log.session, name)
                elif what == "pull":
                    self._pull(entry, log.session, name)
                elif what == "branch":
                    self._branch(entry, log.session, name)
        return self._store(log, runs)

    def read_head(self, log: _Log) -> bool:
        """Read a HEAD's reflog; False when there was nothing new.

        What happened on a session's branch stands in that branch's reflog, too, and is left to it;
        only the session's own commits are taken from either, whichever is seen first.
        """
        branch = None
        for run in (runs := log.read(self._offsets.get(log.key), self._batch)):
            branch = run.start.branch if run.start else self._first_branch(log, run)
            for entry in run.entries:
                move = moved(entry.message)
                what = operation(entry.message)
                owner = self._owners.get(branch or "")
                if what == "commit" and (owner is None or _same(owner, log.session)):
                    self._commit(entry, log.session, branch)
                elif what == "pull" and owner is None:
                    self._pull(entry, log.session, branch)
                if move is not None:
                    branch = move[1]
        return self._store(log, runs, branch)

    def _first_branch(self, log: _Log, run: Run) -> str | None:
        for entry in run.entries:
            move = moved(entry.message)
            if move is not None:
                return move[0] or move[1]
        git_dir = log.path.removesuffix("/logs/HEAD")
        return head_branch(git_dir) or (log.session.branch if log.session else None)

    def _store(self, log: _Log, runs: Sequence[Run], branch: str | None = None) -> bool:
        if not runs:
            return False
        run = runs[-1]
        return self._mark(log, run, run.offset, branch)

    def _mark(self, log: _Log, run: Run, offset: int, branch: str | None = None) -> bool:
        """Put a bookmark at `offset`; False when it lies there already."""
        before = self._offsets.get(log.key)
        if not offset:
            return False
        inside = run.inside and offset == run.offset
        inode = run.file.identity[1]
        mark = Bookmark(
            offset, run.file.tail(offset), inode, branch and plain_text(branch, _MAX_NAME), inside
        )
        text = msgspec.json.encode(mark).decode()
        if offset == run.offset:
            log.settle(text, run)
        if text == before:
            return False
        self._batch.offsets[log.key] = text
        return True

    # What belongs to no session

    def read_others(self, held: frozenset[str]) -> None:
        """Read the reflogs of remote-tracking branches, and of branches that no session owns.

        A ref is written by renaming a file, which changes its folder's time; so a folder whose
        times are as they were, and whose bookmarks are stored, needs no look.
        """
        repository = self._repository
        folders = [BRANCHES, _REMOTES]
        while folders:
            name = folders.pop()
            path = repository.log_path(name)
            times = (_time_of(path), _time_of(f"{repository.common}/{name}"))
            known = repository.folders.get(name)
            if known is None or not self._unchanged(known, times):
                known = self._read_folder(name, times, known, held)
                repository.folders[name] = known
            folders += known.folders

    def _unchanged(self, known: _Folder, times: tuple[int, int]) -> bool:
        stored = known.marks.items() <= self._offsets.items()
        return known.settled and known.times == times and stored

    def _read_folder(
        self, name: str, times: tuple[int, int], known: _Folder | None, held: frozenset[str]
    ) -> _Folder:
        folder = _Folder(times, [], {}, {}, settled=max(times) + SETTLE_NS <= self._now)
        present = set()
        for entry in _entries(self._repository.log_path(name)):
            present.add(entry.name)
            if entry.is_dir(follow_symlinks=False):
                folder.folders.append(f"{name}/{entry.name}")
                continue
            log = _Log(entry.path, self._repository)
            if log.key in held or entry.name.endswith(".lock"):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # gone since
                folder.settled = False
                continue
            state = (status.st_size, status.st_mtime_ns, status.st_ino)
            text = self._offsets.get(log.key)
            if known is None or known.files.get(log.key) != (state, text):
                if not self._read_other(f"{name}/{entry.name}", log):
                    folder.settled = False
                    continue
                text = self._batch.offsets.get(log.key, text)
            folder.files[log.key] = (state, text)
            if text is not None:
                folder.marks[log.key] = text
        self._forget(f"{self._repository.log_path(name)}/", present, held)
        return folder

    def _forget(self, prefix: str, present: set[str], held: frozenset[str]) -> None:
        """Take away the bookmarks of reflogs that are gone."""
        for key in self._offsets:
            if key.startswith(prefix) and key not in held:
                name = key.removeprefix(prefix).partition("/")[0]
                if name not in present and "\\" not in name:
                    self._batch.offsets[key] = None

    def _read_other(self, ref: str, log: _Log) -> bool:
        """Read a reflog that is not held open; False when there is more to read later."""
        unreadable = self._batch.skipped.get("unreadable_file")
        log.open(self._batch)
        try:
            runs = log.read(self._offsets.get(log.key), self._batch)
            if not runs:
                return self._batch.skipped.get("unreadable_file") == unreadable
            run = runs[-1]
            offset = run.offset
            if ref.startswith(f"{_REMOTES}/"):
                self._read_remote(ref, run)
            else:
                offset = self._read_unowned(ref.removeprefix(f"{BRANCHES}/"), run)
            self._mark(log, run, offset)
            return run.whole and offset == run.offset
        finally:
            log.close()

    def _read_remote(self, ref: str, run: Run) -> None:
        branch = ref.removeprefix(f"{_REMOTES}/").partition("/")[2]
        for entry in run.entries:
            if operation(entry.message) != "push" or not entry.new.strip("0"):
                continue
            session: Session | None = self._owners.get(branch)
            if session is None:
                session = self._members.get(self._all_heads().maker(entry.new) or "")
            ident = digest(ref, entry.old, entry.new, str(entry.at))
            self._add("push", ident, entry, session, branch, ref=ref)

    def _read_unowned(self, name: str, run: Run) -> int:
        """Tell of new branches; returns the offset up to which all is told."""
        done = run.start.offset if run.start else 0
        names = branch_names(run.entries, name)
        for entry, end, then in zip(run.entries, run.ends, names, strict=True):
            if operation(entry.message) == "branch":
                if 0 <= self._now - entry.at < SETTLE_NS:
                    return done  # HEAD may not have arrived there yet
                self._branch(entry, self._creator(then, entry), then)
            done = end
        return run.offset

    def _creator(self, name: str, entry: Entry) -> Session | str | None:
        """Who made a branch: a session, the id of one that may yet come, or nobody known."""
        git_dir = self._all_heads().creator(name, entry.at)
        if git_dir is None or git_dir == self._repository.common:
            return self._members.get(git_dir or "")
        if git_dir in self._members:
            return self._members[git_dir]
        worktree = _read_small(f"{git_dir}/gitdir").removesuffix("/.git")
        if not os.path.isabs(worktree) or self._now - entry.at >= UNREGISTERED_NS:
            return None
        return session_id(worktree)

    def _all_heads(self) -> _Heads:
        if self._heads is None:
            self._heads = _Heads(self._repository, list(self._members))
        return self._heads

    # Events

    def _commit(self, entry: Entry, session: Session | None, branch: str | None) -> None:
        self._add("commit", entry.new, entry, session, branch)

    def _pull(self, entry: Entry, session: Session | None, branch: str | None) -> None:
        ident = digest(branch or "HEAD", entry.old, entry.new, str(entry.at))
        self._add("pull", ident, entry, session, branch)

    def _branch(self, entry: Entry, session: Session | str | None, name: str) -> None:
        ident = digest(name, entry.new, str(entry.at))
        self._add("branch", ident, entry, session, name, ref=f"{BRANCHES}/{name}")

    def _add(
        self,
        what: str,
        ident: str,
        entry: Entry,
        session: Session | str | None,
        branch: str | None,
        ref: str = "",
    ) -> None:
        key = f"git:{what}:{self._repository.id}:{ident}"
        if key in self._seen:
            return
        self._seen.add(key)
        if isinstance(session, Session) and entry.at < session.started_at - EARLY_NS:
            session = None
        known = session if isinstance(session, Session) else None
        self._batch.events.append(
            Event(
                id=key,
                type=f"git.{what}",
                occurred_at=entry.at,
                source=NAME,
                session=known.id if known else session if isinstance(session, str) else None,
                program=known.program if known else None,
                repository=known.repository if known else self._name,
                branch=plain_text(branch, _MAX_NAME) if branch else None,
                success=True,
                fields={
                    "revision": entry.new,
                    **({"ref": plain_text(ref, _MAX_NAME)} if ref else {}),
                },
            )
        )


def _is_branch(name: str) -> bool:
    """Whether git could call a branch so; `..` would lead to another file than its reflog."""
    return bool(name) and ".." not in name and not name.startswith("/")


def _same(one: Session, other: Session | None) -> bool:
    return other is not None and one.id == other.id


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return


# The source


class GitSource:
    """The reflogs of the repositories and worktrees of the sessions that `poll` is handed.

    Each branch's reflog belongs to the session whose branch it is, each worktree's HEAD to the
    session that works there. What is done in a repository's own checkout belongs to the repository
    and to no session. A bookmark's name is the reflog's path.
    """

    name = NAME
    tier = "exact"

    def __init__(self) -> None:
        self._repositories: dict[str, _Repository] = {}
        self._places: dict[str, tuple[tuple[int, ...], str, _Place]] = {}
        self._logs: dict[str, _Log] = {}
        self._swept = False

    def poll(self, sessions: Mapping[str, Session], offsets: Mapping[str, str], now: int) -> Batch:
        """What is new in the reflogs. Events are in the order of their times."""
        batch = Batch()
        groups = self._groups(sessions)
        for common in [
            *groups,
            *{log.repository.common for log in self._logs.values()} - {*groups},
        ]:
            repository = self._repositories[common]
            if repository.reftable:
                batch.skipped["reftable"] = 1  # its reflogs are no files
            else:
                self._look(repository, groups.get(common, []), batch, offsets, now)
        if not self._swept:
            self._swept = True
            self._sweep(batch, offsets)
        batch.events.sort(key=lambda event: event.occurred_at)
        return batch

    def close(self) -> None:
        """Close the reflogs that are held open."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def _groups(
        self, sessions: Mapping[str, Session]
    ) -> dict[str, list[tuple[Session, str | None]]]:
        """The sessions by repository, each with its git folder."""
        for gone in self._places.keys() - sessions.keys():
            del self._places[gone]
        groups: dict[str, list[tuple[Session, str | None]]] = {}
        # A live session goes before an ended one that had the same branch, a later one before an
        # earlier one.
        for session in sorted(sessions.values(), key=lambda s: (s.live, s.started_at, s.id)):
            place = self._locate(session)
            if place is not None:
                members = groups.setdefault(place.repository.common, [])
                members.append((session, place.git_dir))
        return groups

    def _locate(self, session: Session) -> _Place | None:
        """Where the session's reflogs are; found once, and again when its `.git` changes."""
        try:
            status = os.stat(f"{session.worktree}/.git")
            state: tuple[int, ...] = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stat.S_ISDIR(status.st_mode):
                state = (status.st_ino,)  # its time changes with every command
        except OSError:
            state = ()
        known = self._places.get(session.id)
        if known is not None and known[:2] == (state, session.repository_path):
            return known[2]
        git_dir = _git_dir(session.worktree) if state else None
        common = _common_dir(git_dir) if git_dir else None
        if common is None:
            git_dir = None
            if known is not None:
                common = known[2].repository.common
            else:
                main = _git_dir(session.repository_path)
                common = _common_dir(main) if main else None
        if common is None:
            return None
        place = _Place(self._repository(common), git_dir)
        if git_dir or not state:
            self._places[session.id] = (state, session.repository_path, place)
        return place

    def _repository(self, common: str) -> _Repository:
        if common not in self._repositories:
            self._repositories[common] = _Repository(common)
        return self._repositories[common]

    def _look(
        self,
        repository: _Repository,
        members: Sequence[tuple[Session, str | None]],
        batch: Batch,
        offsets: Mapping[str, str],
        now: int,
    ) -> None:
        before = {p: log for p, log in self._logs.items() if log.repository is repository}
        wanted: set[str] = set()
        for session, git_dir in members:
            if _is_branch(session.branch):
                path = repository.log_path(f"{BRANCHES}/{session.branch}")
                wanted.add(self._hold(path, repository, session, session.branch, batch))
            if git_dir:
                wanted.add(self._hold(f"{git_dir}/logs/HEAD", repository, session, None, batch))
        main = f"{repository.common}/logs/HEAD"
        if members and main not in wanted:
            wanted.add(self._hold(main, repository, None, None, batch))

        leaving = {p: log for p, log in before.items() if p not in wanted}
        sessions = [log.session for log in leaving.values() if log.session]
        owners = {s.branch: s for s in [*sessions, *(s for s, _ in members)] if s.branch}
        git_dirs = {git_dir: session for session, git_dir in members if git_dir}
        look = _Look(repository, git_dirs, owners, batch, offsets, now)
        # Sessions first: what is seen twice in a look is theirs.
        logs = sorted(
            (log for log in self._logs.values() if log.repository is repository),
            key=lambda log: (log.branch is None, log.session is None, log.path),
        )
        for log in logs:
            busy = look.read_head(log) if log.branch is None else look.read_branch(log)
            if log.path in leaving and not busy:
                self._release(log, batch, offsets)
        held = frozenset(log.key for log in self._logs.values() if log.repository is repository)
        if members:
            look.read_others(held)

    def _hold(
        self,
        path: str,
        repository: _Repository,
        session: Session | None,
        branch: str | None,
        batch: Batch,
    ) -> str:
        log = self._logs.get(path)
        if log is None:
            log = self._logs[path] = _Log(path, repository)
        log.session, log.branch = session, branch
        log.open(batch)
        return path

    def _release(self, log: _Log, batch: Batch, offsets: Mapping[str, str]) -> None:
        """Let go of a reflog whose session is gone and whose events are all stored."""
        log.close()
        del self._logs[log.path]
        if log.key in offsets and not os.path.lexists(log.path):
            batch.offsets[log.key] = None

    def _sweep(self, batch: Batch, offsets: Mapping[str, str]) -> None:
        """Take away the bookmarks of reflogs that went while nobody looked."""
        for key in offsets:
            if key not in batch.offsets and not os.path.lexists(key):
                batch.offsets[key] = None
