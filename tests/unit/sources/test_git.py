from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.events import EVENT_TYPES, NS, Event
from squad_otel.ids import session_id
from squad_otel.sessions import Session, State
from squad_otel.sources import reflog
from squad_otel.sources.git import EARLY_NS, SETTLE_NS, GitSource


class Lab:
    """Real git in a folder: a repository with a bare remote, and worktrees with their sessions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_EDITOR": "true",
            "GIT_AUTHOR_NAME": "Ada Author",
            "GIT_AUTHOR_EMAIL": "ada@example.com",
            "GIT_COMMITTER_NAME": "Carl Committer",
            "GIT_COMMITTER_EMAIL": "carl@example.com",
        }
        self.repo = folder / "repo"
        self.remote = folder / "remote.git"
        self.git("init", "-q", "--bare", "-b", "main", str(self.remote), cwd=folder)
        self.git("init", "-q", "-b", "main", str(self.repo), cwd=folder)
        self.commit(self.repo, "first")
        self.git("remote", "add", "origin", str(self.remote))
        self.git("push", "-q", "-u", "origin", "main")

    def git(self, *words: str, cwd: Path | None = None, ok: bool = True, at: int = 0) -> str:
        """Run git; `at` is the committer's time in seconds."""
        environment = self.environment | ({"GIT_COMMITTER_DATE": f"{at} +0200"} if at else {})
        done = subprocess.run(
            ["git", *words],
            cwd=cwd or self.repo,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stderr
        return done.stdout.strip()

    def commit(self, where: Path, subject: str, *options: str, at: int = 0) -> str:
        """Commit a file named after the subject; the revision."""
        (where / subject.replace(" ", "_")).write_text(subject)
        self.git("add", ".", cwd=where)
        self.git("commit", "-q", "-m", subject, *options, cwd=where, at=at)
        return self.head(where)

    def head(self, where: Path) -> str:
        return self.git("rev-parse", "HEAD", cwd=where)

    def worktree(self, name: str) -> Path:
        return self.folder / "worktrees" / name

    def session(self, name: str, program: str = "claude") -> Session:
        """A worktree on a new branch dev/NAME, as claude-squad makes it, and its session."""
        path = self.worktree(name)
        self.git("worktree", "add", "-q", "-b", f"dev/{name}", str(path))
        return Session(
            id=session_id(str(path)),
            name=name,
            program=program,
            repository="repo",
            branch=f"dev/{name}",
            worktree=str(path),
            repository_path=str(self.repo),
            started_at=time.time_ns(),
        )

    def clone(self, branch: str) -> Path:
        """Another clone of the remote, on `branch`, in which a colleague works."""
        path = self.folder / f"clone-{branch.replace('/', '-')}"
        if not path.exists():
            self.git("clone", "-q", "-b", branch, str(self.remote), str(path), cwd=self.folder)
        self.git("pull", "-q", cwd=path)
        return path

    def kill(self, name: str) -> None:
        """What claude-squad does to git when a session is killed."""
        self.git("worktree", "remove", "-f", str(self.worktree(name)))
        self.git("branch", "-q", "-D", f"dev/{name}")


class Watcher:
    """A daemon in small: hands over what was committed, and commits what comes.

    Each look asks twice, for a batch may be lost: the second must tell the same again.
    """

    def __init__(self, *sessions: Session) -> None:
        self.source = GitSource()
        self.sessions = {session.id: session for session in sessions}
        self.offsets: dict[str, str] = {}
        self.events: dict[str, Event] = {}
        self.skipped: Counter[str] = Counter()

    def look(self, later_ns: int = 0) -> list[Event]:
        """Look, and commit; the events that are new, in order."""
        now = time.time_ns() + later_ns
        lost = self.source.poll(self.sessions, self.offsets, now)
        batch = self.source.poll(self.sessions, self.offsets, now)
        assert batch.events == lost.events
        self.skipped.update(batch.skipped)
        return self.commit(Batch(events=batch.events, offsets={**lost.offsets, **batch.offsets}))

    def look_late(self) -> list[Event]:
        """Look when also that is settled which belongs to no session."""
        return self.look(SETTLE_NS + 2 * NS)

    def commit(self, batch: Batch) -> list[Event]:
        for key, text in batch.offsets.items():
            if text is None:
                self.offsets.pop(key, None)
            else:
                self.offsets[key] = text
        new = [event for event in batch.events if event.id not in self.events]
        self.events.update((event.id, event) for event in new)
        return new

    def restart(self) -> None:
        self.source.close()
        self.source = GitSource()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path.resolve())


@pytest.fixture
def alpha(lab: Lab) -> Session:
    return lab.session("alpha")


@pytest.fixture
def watcher(alpha: Session) -> Iterator[Watcher]:
    """Watches the session alpha; what was there before is told already."""
    watcher = Watcher(alpha)
    watcher.look_late()
    yield watcher
    watcher.source.close()


def told(events: list[Event]) -> list[tuple[str, object]]:
    return [(event.type, event.fields["revision"]) for event in events]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_the_first_look_tells_what_the_reflogs_hold(lab: Lab, alpha: Session) -> None:
    watcher = Watcher(alpha)
    made = lab.commit(Path(alpha.worktree), "one")
    first = lab.head(lab.repo)
    events = watcher.look_late()
    assert sorted(told(events)) == sorted(
        [("git.branch", first), ("git.commit", first), ("git.commit", made), ("git.push", first)]
    )
    by_type = {(event.type, event.fields["revision"]): event for event in events}
    assert by_type["git.commit", first].session is None  # a person's, in the repository itself
    assert by_type["git.push", first].session is None
    assert by_type["git.commit", made].session == alpha.id
    assert by_type["git.branch", first].session == alpha.id
    assert watcher.look_late() == []
    watcher.source.close()


def test_a_commit_is_told_once_with_what_is_known_of_it(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    at = time.time_ns() // NS - 7
    made = lab.commit(Path(alpha.worktree), "a secret subject", at=at)
    (event,) = watcher.look()
    assert event.type == "git.commit"
    assert event.fields == {"revision": made}
    assert event.occurred_at == at * NS
    assert event.source == "git"
    assert (event.session, event.program) == (alpha.id, "claude")
    assert (event.repository, event.branch) == ("repo", "dev/alpha")
    assert event.success is True
    assert watcher.look() == []


def test_no_word_of_messages_names_and_addresses_is_kept(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    lab.commit(work, "SUBJECT")
    lab.git("push", "-q", f"file://{lab.remote}", "HEAD:dev/alpha", cwd=work)
    clone = lab.clone("dev/alpha")
    lab.commit(clone, "SUBJECT two")
    lab.git("push", "-q", cwd=clone)
    lab.git("pull", "-q", f"file://{lab.remote}", "dev/alpha", cwd=work)
    events = watcher.look()
    assert [event.type for event in events] == ["git.commit", "git.pull"]
    kept = repr(events) + repr(watcher.offsets)
    for word in ("SUBJECT", "Ada", "Carl", "example.com", "file://"):
        assert word not in kept


def test_every_event_has_only_the_fields_of_its_type(lab: Lab, alpha: Session) -> None:
    watcher = Watcher(alpha)
    lab.git("push", "-q", "-u", "origin", "dev/alpha", cwd=Path(alpha.worktree))
    events = watcher.look_late()
    assert {event.type for event in events} == {"git.commit", "git.push", "git.branch"}
    for event in events:
        assert event.fields.keys() <= EVENT_TYPES[event.type].fields.keys()
    watcher.source.close()


def test_amend_merge_cherry_pick_and_revert_are_commits(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    expected = [lab.commit(work, "one")]
    lab.git("commit", "-q", "--amend", "-m", "one!", cwd=work)
    expected.append(lab.head(work))
    lab.git("checkout", "-q", "-b", "side", "HEAD~1", cwd=work)
    expected.append(lab.commit(work, "on the side"))
    lab.git("checkout", "-q", "dev/alpha", cwd=work)
    lab.git("merge", "-q", "--no-ff", "--no-edit", "side", cwd=work)
    expected.append(lab.head(work))
    lab.git("revert", "--no-edit", "-m", "1", "HEAD", cwd=work)
    expected.append(lab.head(work))
    lab.git("cherry-pick", "side", cwd=work)
    expected.append(lab.head(work))
    lab.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", "", cwd=work)
    expected.append(lab.head(work))
    commits = [event for event in watcher.look() if event.type == "git.commit"]
    assert sorted(str(event.fields["revision"]) for event in commits) == sorted(expected)
    assert {event.session for event in commits} == {alpha.id}
    branches = {event.fields["revision"]: event.branch for event in commits}
    assert branches[expected[2]] == "side"
    assert branches[expected[3]] == "dev/alpha"


def test_what_makes_no_commit_tells_of_none(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    work = Path(alpha.worktree)
    lab.commit(lab.repo, "ahead")
    two = [lab.commit(work, "two"), lab.commit(work, "three")]
    assert [e.fields["revision"] for e in watcher.look() if e.session] == two
    lab.git("reset", "-q", "--hard", "HEAD~1", cwd=work)
    lab.git("merge", "-q", two[1], cwd=work)  # goes forward
    lab.git("rebase", "-q", "main", cwd=work)
    lab.git("checkout", "-q", "--detach", cwd=work)
    lab.git("checkout", "-q", "dev/alpha", cwd=work)
    (work / "left").write_text("over")
    lab.git("stash", "-q", "-u", cwd=work)
    lab.git("stash", "pop", "-q", cwd=work)
    lab.git("tag", "v1", cwd=work)
    assert watcher.look_late() == []


def test_a_commit_on_no_branch_is_told_from_head(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    lab.git("checkout", "-q", "--detach", cwd=work)
    made = lab.commit(work, "detached")
    (event,) = watcher.look()
    assert (event.type, event.fields["revision"], event.session) == ("git.commit", made, alpha.id)


def test_pushes_belong_to_the_session_whose_branch_it_is(lab: Lab, alpha: Session) -> None:
    beta = lab.session("beta", "codex")
    watcher = Watcher(alpha, beta)
    watcher.look_late()
    lab.git("remote", "add", "backup", str(lab.remote))
    made = lab.commit(Path(beta.worktree), "one")
    lab.git("push", "-q", "-u", "origin", "dev/beta", cwd=Path(beta.worktree))
    lab.git("push", "-q", "backup", "dev/beta", cwd=Path(alpha.worktree))  # wherever from
    pushes = [event for event in watcher.look() if event.type == "git.push"]
    assert [(e.session, e.program, e.branch) for e in pushes] == 2 * [
        (beta.id, "codex", "dev/beta")
    ]
    assert {event.fields["ref"] for event in pushes} == {
        "refs/remotes/origin/dev/beta",
        "refs/remotes/backup/dev/beta",
    }
    assert {event.fields["revision"] for event in pushes} == {made}
    assert watcher.look_late() == []
    watcher.source.close()


def test_a_push_to_another_name_belongs_to_who_made_the_commit(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    made = lab.commit(Path(alpha.worktree), "one")
    lab.git("push", "-q", "origin", "dev/alpha:for/review", cwd=Path(alpha.worktree))
    lab.git("push", "-q", "origin", "main:copy")
    pushes = {e.branch: e for e in watcher.look() if e.type == "git.push"}
    assert pushes["for/review"].session == alpha.id
    assert pushes["for/review"].fields["revision"] == made
    assert pushes["copy"].session is None
    assert pushes["copy"].repository == "repo"


def test_a_forced_push_there_and_back_is_three_pushes(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    revisions = [lab.commit(work, "one")]
    lab.git("push", "-q", "-u", "origin", "dev/alpha", cwd=work)
    lab.git("commit", "-q", "--amend", "-m", "two", cwd=work)
    revisions.append(lab.head(work))
    lab.git("push", "-q", "--force", cwd=work)
    lab.git("reset", "-q", "--hard", revisions[0], cwd=work)
    lab.git("push", "-q", "--force", cwd=work)
    pushes = [event for event in watcher.look() if event.type == "git.push"]
    assert [event.fields["revision"] for event in pushes] == [*revisions, revisions[0]]


def test_a_rejected_push_leaves_nothing(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    work = Path(alpha.worktree)
    lab.git("push", "-q", "-u", "origin", "dev/alpha", cwd=work)
    clone = lab.clone("dev/alpha")
    lab.commit(clone, "theirs")
    lab.git("push", "-q", cwd=clone)
    watcher.look()
    mine = lab.commit(work, "mine")
    lab.git("push", "-q", cwd=work, ok=False)
    lab.git("fetch", "-q", cwd=work)
    assert told(watcher.look()) == [("git.commit", mine)]


@pytest.mark.parametrize("how", ["forward", "merge", "rebase"])
def test_a_pull_is_one_pull_however_it_comes_together(
    lab: Lab, alpha: Session, watcher: Watcher, how: str
) -> None:
    work = Path(alpha.worktree)
    lab.git("push", "-q", "-u", "origin", "dev/alpha", cwd=work)
    clone = lab.clone("dev/alpha")
    lab.commit(clone, "theirs")
    lab.git("push", "-q", cwd=clone)
    if how != "forward":
        lab.commit(work, "mine")
        lab.commit(work, "mine two")
    watcher.look()
    options = {"forward": [], "merge": ["--no-rebase", "--no-edit"], "rebase": ["--rebase"]}
    lab.git("pull", "-q", *options[how], cwd=work)
    (event,) = watcher.look()
    assert (event.type, event.session, event.branch) == ("git.pull", alpha.id, "dev/alpha")
    assert event.fields["revision"] == lab.head(work)
    lab.git("pull", "-q", cwd=work)  # brings nothing
    assert watcher.look_late() == []


def test_a_pull_on_a_branch_of_the_agents_own_is_told_from_head(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    lab.git("checkout", "-q", "-b", "side", cwd=work)
    lab.git("push", "-q", "-u", "origin", "side", cwd=work)
    clone = lab.clone("side")
    lab.commit(clone, "theirs")
    lab.git("push", "-q", cwd=clone)
    lab.commit(work, "mine")
    lab.git("pull", "-q", "--rebase", cwd=work)
    pulls = [event for event in watcher.look_late() if event.type == "git.pull"]
    assert [(e.session, e.branch) for e in pulls] == [(alpha.id, "side")]


def test_two_sessions_that_pull_the_same_in_the_same_second_pull_twice(
    lab: Lab, alpha: Session
) -> None:
    beta = lab.session("beta")
    watcher = Watcher(alpha, beta)
    watcher.look_late()
    lab.commit(lab.repo, "ahead")
    lab.git("push", "-q")
    watcher.look()
    at = time.time_ns() // NS
    for session in (alpha, beta):
        lab.git("pull", "-q", "origin", "main", cwd=Path(session.worktree), at=at)
    pulls = [event for event in watcher.look() if event.type == "git.pull"]
    assert sorted(str(event.session) for event in pulls) == sorted([alpha.id, beta.id])
    watcher.source.close()


def test_a_new_branch_belongs_to_the_worktree_that_went_there(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    lab.git("switch", "-q", "-c", "agents/one", cwd=Path(alpha.worktree))
    lab.git("branch", "persons")
    assert watcher.look() == []  # too young: HEAD could still be on its way
    events = {event.branch: event for event in watcher.look_late()}
    assert events.keys() == {"agents/one", "persons"}
    assert events["agents/one"].session == alpha.id
    assert events["agents/one"].program == "claude"
    assert events["agents/one"].fields["ref"] == "refs/heads/agents/one"
    assert events["persons"].session is None
    assert events["persons"].program is None
    assert events["persons"].repository == "repo"


def test_a_branch_of_a_session_not_registered_yet_names_it(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    beta = lab.session("beta", "codex")  # in git, and not yet among the sessions
    (early,) = watcher.look_late()
    assert (early.type, early.session, early.program) == ("git.branch", beta.id, None)
    watcher.sessions[beta.id] = beta
    assert watcher.look_late() == []


def test_renaming_and_copying_branches(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    lab.git("branch", "old")
    assert [event.branch for event in watcher.look_late()] == ["old"]
    lab.git("branch", "-m", "old", "new")
    assert watcher.look_late() == []
    lab.git("branch", "-c", "new", "copy")
    assert [event.branch for event in watcher.look_late()] == ["copy"]


def test_a_renamed_session_branch_goes_on(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    work = Path(alpha.worktree)
    first = lab.commit(work, "one")
    lab.git("branch", "-m", "dev/other", cwd=work)
    second = lab.commit(work, "two")
    assert told(watcher.look_late()) == [("git.commit", first), ("git.commit", second)]
    third = lab.commit(work, "three")
    (event,) = watcher.look_late()
    assert (event.fields["revision"], event.session) == (third, alpha.id)


def test_two_worktrees_of_one_repository_tell_each_their_own(lab: Lab, alpha: Session) -> None:
    beta = lab.session("beta", "codex")
    watcher = Watcher(alpha, beta)
    watcher.look_late()
    truth = {}
    for name in ("one", "two", "three"):
        truth[lab.commit(Path(alpha.worktree), f"alpha {name}")] = alpha.id
        truth[lab.commit(Path(beta.worktree), f"beta {name}")] = beta.id
        truth[lab.commit(lab.repo, f"person {name}")] = None
    events = watcher.look()
    assert {str(e.fields["revision"]): e.session for e in events} == truth
    assert len(events) == len(truth)
    watcher.source.close()


def test_a_persons_commit_on_a_sessions_branch_is_the_sessions(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    lab.git("worktree", "remove", "-f", alpha.worktree)  # paused, and tried out by a person
    lab.git("checkout", "-q", "dev/alpha")
    lab.commit(lab.repo, "by hand")
    lab.git("checkout", "-q", "main")
    own = lab.commit(lab.repo, "on main")
    events = watcher.look()
    assert [event.session for event in events if event.fields["revision"] != own] == [alpha.id]
    assert [event.session for event in events if event.fields["revision"] == own] == [None]


def test_work_older_than_the_session_is_not_the_sessions(lab: Lab, alpha: Session) -> None:
    started = alpha.started_at // NS
    theirs = lab.commit(Path(alpha.worktree), "theirs", at=started - EARLY_NS // NS - 1)
    own = lab.commit(Path(alpha.worktree), "own", at=started - EARLY_NS // NS + 1)
    watcher = Watcher(alpha)
    sessions = {event.fields["revision"]: event.session for event in watcher.look()}
    assert sessions[theirs] is None
    assert sessions[own] == alpha.id
    watcher.source.close()


@pytest.mark.parametrize("ids", [("0" * 16, "f" * 16), ("f" * 16, "0" * 16)])
def test_a_branch_belongs_to_the_live_session_on_it(
    lab: Lab, alpha: Session, ids: tuple[str, str]
) -> None:
    ended, live = (Session(**{**vars_of(alpha), "id": ident}) for ident in ids)  # type: ignore[arg-type]
    ended = Session(**{**vars_of(ended), "worktree": "/gone", "ended_at": time.time_ns()})  # type: ignore[arg-type]
    watcher = Watcher(live, ended)
    made = lab.commit(Path(alpha.worktree), "one")
    sessions = {event.fields["revision"]: event.session for event in watcher.look()}
    assert sessions[made] == live.id
    watcher.source.close()


def test_a_session_in_the_repository_itself_owns_its_head(lab: Lab, alpha: Session) -> None:
    here = Session(
        id=session_id(str(lab.repo)),
        name="here",
        program="aider",
        repository="repo",
        branch="main",
        worktree=str(lab.repo),
        origin="track",
        started_at=time.time_ns(),
    )
    watcher = Watcher(alpha, here)
    watcher.look_late()
    made = lab.commit(lab.repo, "in place")
    (event,) = watcher.look()
    assert (event.session, event.program, event.branch) == (here.id, "aider", "main")
    assert event.fields["revision"] == made
    watcher.source.close()


def test_a_kill_right_after_commits_that_nobody_saw_loses_nothing(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    on_branch = lab.commit(work, "one")
    lab.git("checkout", "-q", "--detach", cwd=work)
    detached = lab.commit(work, "two")
    lab.kill("alpha")
    del watcher.sessions[alpha.id]
    events = watcher.look()
    assert told(events) == [("git.commit", on_branch), ("git.commit", detached)]
    assert {event.session for event in events} == {alpha.id}
    assert {event.program for event in events} == {"claude"}


@pytest.mark.parametrize("passed", ["still live", "ended", "not at all"])
def test_after_a_kill_the_files_are_closed_and_the_bookmarks_go(
    lab: Lab, alpha: Session, passed: str
) -> None:
    before = descriptors()
    watcher = Watcher(alpha)
    watcher.look_late()
    assert descriptors() > before
    made = lab.commit(Path(alpha.worktree), "one")
    lab.kill("alpha")
    if passed == "ended":
        ended = {**vars_of(alpha), "state": State.ENDED, "ended_at": time.time_ns()}
        watcher.sessions[alpha.id] = Session(**ended)  # type: ignore[arg-type]
    elif passed == "not at all":
        watcher.sessions.clear()
    assert told(watcher.look()) == [("git.commit", made)]
    watcher.sessions.clear()
    for _ in range(3):
        assert watcher.look() == []
    assert descriptors() == before
    assert [key for key in watcher.offsets if not Path(key).exists()] == []


def vars_of(session: Session) -> dict[str, object]:
    return {name: getattr(session, name) for name in Session.__struct_fields__}


def test_a_batch_lost_after_a_kill_comes_again(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    made = lab.commit(Path(alpha.worktree), "one")
    lab.kill("alpha")
    watcher.sessions.clear()
    for _ in range(5):
        lost = watcher.source.poll({}, watcher.offsets, time.time_ns())
        assert told(lost.events) == [("git.commit", made)]
    assert told(watcher.look()) == [("git.commit", made)]


def test_a_branch_killed_and_made_anew_between_two_looks_is_read_whole(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    first = lab.commit(Path(alpha.worktree), "one")
    lab.kill("alpha")
    again = lab.session("alpha")
    assert again.id == alpha.id
    second = lab.commit(Path(alpha.worktree), "another one")
    commits = [event for event in watcher.look() if event.type == "git.commit"]
    assert told(commits) == [("git.commit", first), ("git.commit", second)]
    third = lab.commit(Path(alpha.worktree), "third")
    assert told(watcher.look()) == [("git.commit", third)]
    assert watcher.look() == []


def test_a_pause_and_a_resume_tell_of_the_pauses_commit_only(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    work = Path(alpha.worktree)
    paused = lab.commit(work, "update (paused)")
    lab.git("worktree", "remove", "-f", str(work))
    lab.git("worktree", "prune")
    assert told(watcher.look()) == [("git.commit", paused)]
    assert watcher.look() == []
    lab.git("worktree", "add", "-q", str(work), "dev/alpha")
    assert watcher.look() == []
    resumed = lab.commit(work, "resumed")
    assert told(watcher.look()) == [("git.commit", resumed)]


def test_a_session_paused_when_the_daemon_starts_is_found_by_its_repository(
    lab: Lab, alpha: Session
) -> None:
    work = Path(alpha.worktree)
    made = lab.commit(work, "one")
    lab.git("worktree", "remove", "-f", str(work))
    watcher = Watcher(alpha)
    assert ("git.commit", made) in told(watcher.look_late())
    lab.git("worktree", "add", "-q", str(work), "dev/alpha")
    lab.git("checkout", "-q", "--detach", cwd=work)
    detached = lab.commit(work, "two")
    assert told(watcher.look()) == [("git.commit", detached)]
    watcher.source.close()


def test_a_restart_tells_nothing_twice_and_misses_nothing(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    lab.commit(Path(alpha.worktree), "one")
    watcher.look_late()
    watcher.restart()
    now = time.time_ns() + SETTLE_NS + 2 * NS
    assert watcher.source.poll(watcher.sessions, watcher.offsets, now).events == []
    watcher.restart()
    made = lab.commit(Path(alpha.worktree), "two")
    assert told(watcher.look_late()) == [("git.commit", made)]


def test_without_bookmarks_the_same_ids_come_again(lab: Lab, alpha: Session) -> None:
    watcher = Watcher(alpha)
    work = Path(alpha.worktree)
    lab.git("push", "-q", "-u", "origin", "dev/alpha", cwd=work)
    clone = lab.clone("dev/alpha")
    lab.commit(clone, "theirs")
    lab.git("push", "-q", cwd=clone)
    watcher.look_late()
    lab.commit(work, "mine")
    lab.git("pull", "-q", "--rebase", cwd=work)
    watcher.look_late()
    lab.git("switch", "-q", "-c", "side", cwd=work)
    lab.commit(work, "on the side")
    watcher.look_late()
    lab.git("branch", "-m", "side", "renamed", cwd=work)
    lab.commit(work, "renamed")
    watcher.look_late()
    assert {event.type.removeprefix("git.") for event in watcher.events.values()} == {
        "commit",
        "push",
        "pull",
        "branch",
    }
    watcher.restart()
    again = watcher.source.poll(watcher.sessions, {}, time.time_ns() + 4 * NS).events
    assert {event.id: event.session for event in again} == {
        key: event.session for key, event in watcher.events.items()
    }
    watcher.source.close()


def test_watched_all_the_time_while_agents_work_and_are_killed(lab: Lab, alpha: Session) -> None:
    beta = lab.session("beta")
    watcher = Watcher(alpha, beta)
    watcher.look_late()
    before = set(watcher.events)
    truth: dict[tuple[str, object], str] = {}

    def work(session: Session) -> None:
        where = Path(session.worktree)
        for number in range(12):
            made = lab.commit(where, f"{session.name} {number}")
            truth["git.commit", made] = session.id
            if number % 3 == 0:
                lab.git("push", "-q", "origin", session.branch, cwd=where)
                truth["git.push", made] = session.id
        lab.kill(session.name)

    with ThreadPoolExecutor() as agents:
        jobs = [agents.submit(work, session) for session in (alpha, beta)]
        while not all(job.done() for job in jobs):
            watcher.commit(watcher.source.poll(watcher.sessions, watcher.offsets, time.time_ns()))
    for job in jobs:
        job.result()
    watcher.sessions.clear()
    watcher.look()
    events = [event for key, event in watcher.events.items() if key not in before]
    assert {told([event])[0]: event.session for event in events} == truth
    assert len(events) == len(truth)
    watcher.source.close()


def test_an_expired_reflog_tells_nothing_twice(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    work = Path(alpha.worktree)
    long_ago = time.time_ns() // NS - 5000
    lab.commit(work, "old", at=long_ago)
    kept = lab.commit(work, "kept")
    watcher.look()
    path = lab.repo / ".git/logs/refs/heads/dev/alpha"
    before = path.read_bytes()
    lab.git("reflog", "expire", f"--expire={long_ago + 100}", "--all")
    lab.git("gc", "-q")
    assert len(path.read_bytes()) < len(before)
    assert kept.encode() in path.read_bytes()
    assert watcher.look_late() == []
    made = lab.commit(work, "after")
    assert told(watcher.look()) == [("git.commit", made)]
    lab.git("reflog", "expire", "--expire=now", "--all")
    assert path.read_bytes() == b""
    assert watcher.look_late() == []
    last = lab.commit(work, "last")
    assert told(watcher.look()) == [("git.commit", last)]
    watcher.restart()
    assert watcher.look_late() == []


def test_a_line_half_written_waits_for_its_end(lab: Lab, alpha: Session, watcher: Watcher) -> None:
    path = lab.repo / ".git/logs/refs/heads/dev/alpha"
    new = "ab" * 20
    line = f"{lab.head(lab.repo)} {new} A <a@b.c> {time.time_ns() // NS} +0000\tcommit: x\n"
    for position in range(0, len(line), 13):
        with open(path, "a") as file:
            file.write(line[position : position + 13])
        complete = position + 13 >= len(line)
        assert told(watcher.look()) == ([("git.commit", new)] if complete else [])
    assert watcher.skipped == {}


def test_a_line_half_written_when_its_file_goes_is_counted(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    before = descriptors()
    with open(lab.repo / ".git/logs/refs/heads/dev/alpha", "a") as file:
        file.write("0" * 30)
    assert watcher.look() == []
    lab.kill("alpha")
    watcher.sessions.clear()
    for _ in range(3):
        assert watcher.look() == []
    assert watcher.skipped == {"torn_line": 1}
    assert descriptors() < before


def test_a_line_that_stands_in_heads_reflog_first_is_still_the_sessions(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    lab.git("worktree", "remove", "-f", alpha.worktree)
    lab.git("checkout", "-q", "dev/alpha")
    new = "ab" * 20
    line = f"{lab.head(lab.repo)} {new} A <a@b.c> {time.time_ns() // NS} +0000\tcommit: x\n"
    with open(lab.repo / ".git/logs/HEAD", "a") as file:
        file.write(line)
    assert watcher.look() == []
    with open(lab.repo / ".git/logs/refs/heads/dev/alpha", "a") as file:
        file.write(line)
    (event,) = watcher.look()
    assert (event.fields["revision"], event.session) == (new, alpha.id)


def test_a_push_within_the_same_tick_of_the_file_systems_clock_is_seen(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    lab.git("push", "-q", "origin", "main:other")
    watcher.look()
    folders = [
        lab.repo / ".git" / name for name in ("refs/remotes/origin", "logs/refs/remotes/origin")
    ]
    times = [folder.stat().st_mtime_ns for folder in folders]
    made = lab.commit(lab.repo, "more")
    lab.git("push", "-q", "origin", "main:other")
    for folder, at in zip(folders, times, strict=True):
        os.utime(folder, ns=(at, at))
    assert ("git.push", made) in told(watcher.look())


def test_lines_that_are_none_are_counted_and_passed_over(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    path = lab.repo / ".git/logs/refs/heads/dev/alpha"
    with open(path, "ab") as file:
        file.write(b"\xff\x00 no line of a reflog\n\n")
    batch = watcher.source.poll(watcher.sessions, watcher.offsets, time.time_ns())
    assert batch.skipped == {"no_reflog_line": 2}
    watcher.commit(batch)
    made = lab.commit(Path(alpha.worktree), "after")
    assert told(watcher.look()) == [("git.commit", made)]


def test_a_huge_reflog_is_read_in_pieces(
    lab: Lab, alpha: Session, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflog, "CHUNK_BYTES", 1000)
    at = time.time_ns() // NS
    revisions = [f"{number:040x}" for number in range(1, 101)]
    lines = [f"{'0' * 40} {new} A <a@b.c> {at} +0000\tcommit: x\n" for new in revisions]
    lines[50:50] = ["x" * 2500 + "\n"]
    with open(lab.repo / ".git/logs/refs/heads/dev/alpha", "a") as file:
        file.write("".join(lines))
    seen: list[object] = []
    for _ in range(40):
        events = watcher.look()
        assert len(events) <= 10
        seen += [event.fields["revision"] for event in events]
    assert seen == revisions
    assert watcher.skipped == {"line_too_long": 1}


def test_reflogs_that_are_no_files_are_named_once_a_look(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    beta = lab.session("beta")
    watcher.restart()
    (lab.repo / ".git/reftable").mkdir()
    watcher.sessions[beta.id] = beta
    batch = watcher.source.poll(watcher.sessions, {}, time.time_ns())
    assert (batch.events, batch.skipped) == ([], {"reftable": 1})


def test_a_session_outside_git_is_passed_over(tmp_path: Path) -> None:
    plain = Session(
        id="0" * 16, name="x", program="p", repository="r", branch="", worktree=str(tmp_path)
    )
    lost = Session(
        id="1" * 16, name="y", program="p", repository="r", branch="b", worktree="relative"
    )
    watcher = Watcher(plain, lost)
    assert watcher.look() == []
    assert watcher.offsets == {}
    assert watcher.skipped == {}


def test_a_repository_that_appears_later_is_found(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    work = folder / "repo"
    work.mkdir()
    session = Session(
        id=session_id(str(work)), name="x", program="p", repository="repo", branch="main",
        worktree=str(work),
    )  # fmt: skip
    watcher = Watcher(session)
    assert watcher.look() == []
    lab = Lab(folder)
    assert told(watcher.look())[0] == ("git.commit", lab.head(work))
    watcher.source.close()


def test_bookmarks_of_another_making_are_no_obstacle(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    known = set(watcher.events)
    watcher.restart()
    bad = ["", "{", '{"offset":-5,"tail":""}', '{"offset":99999999,"tail":"00"}', "[]"]
    for number, key in enumerate(watcher.offsets):
        watcher.offsets[key] = bad[number % len(bad)]
    events = watcher.source.poll(watcher.sessions, watcher.offsets, time.time_ns() + 4 * NS).events
    assert {event.id for event in events} == known


def test_bookmarks_of_reflogs_long_gone_are_taken_away(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    lab.git("branch", "brief")
    watcher.look_late()
    key = str(lab.repo / ".git/logs/refs/heads/brief")
    assert key in watcher.offsets
    lab.git("branch", "-q", "-D", "brief")
    watcher.look_late()
    assert key not in watcher.offsets
    watcher.offsets["/nowhere/logs/HEAD"] = "{}"
    watcher.restart()
    watcher.look()
    assert "/nowhere/logs/HEAD" not in watcher.offsets


def test_a_quiet_look_opens_and_reads_no_file(
    lab: Lab, alpha: Session, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        lab.git("branch", f"many/{number}")
    watcher.look_late()
    # Once more when the folders' times are old enough to be believed.
    later = 10 * NS
    watcher.look(later)
    calls: Counter[str] = Counter()
    for name in ("open", "pread", "scandir", "stat", "fstat"):
        real = getattr(os, name)

        def counted(*arguments: object, _real: object = real, _name: str = name, **more: object):  # type: ignore[no-untyped-def]
            calls[_name] += 1
            return _real(*arguments, **more)  # type: ignore[operator]

        monkeypatch.setattr(os, name, counted)
    watcher.source.poll(watcher.sessions, watcher.offsets, time.time_ns() + later)
    assert calls["open"] == calls["pread"] == calls["scandir"] == 0
    # `.git`, three reflogs held (two calls each), six folders of refs and of their logs
    assert calls["stat"] + calls["fstat"] <= 1 + 3 * 2 + 6 * 2


def test_fifos_and_links_in_place_of_reflogs_do_no_harm(
    lab: Lab, alpha: Session, watcher: Watcher
) -> None:
    logs = lab.repo / ".git/logs/refs/heads"
    os.mkfifo(logs / "pipe")
    (logs / "link").symlink_to("/etc/passwd")
    (logs / "loop").symlink_to(logs)
    watcher.restart()
    assert watcher.look_late() == []


def test_a_branch_leads_to_no_file_but_its_reflog(tmp_path: Path) -> None:
    """claude-squad's file may say anything; what lies elsewhere is not read as a reflog."""
    lab = Lab(tmp_path)
    elsewhere = lab.repo / ".git" / "elsewhere"
    elsewhere.write_text((lab.repo / ".git" / "logs" / "HEAD").read_text())
    now = time.time_ns()
    for branch in ("../../../elsewhere", f"/../..{elsewhere}", "a/../../../../elsewhere"):
        session = Session(
            id="s",
            name="s",
            program="claude",
            repository="repo",
            branch=branch,
            worktree="/gone",
            repository_path=str(lab.repo),
            started_at=now,
        )
        source = GitSource()
        batch = source.poll({"s": session}, {}, now)
        source.close()
        assert str(elsewhere) not in {os.path.realpath(name) for name in batch.offsets}
        assert not [event for event in batch.events if event.session == "s"]
