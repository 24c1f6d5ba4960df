from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.tmux import TOKEN, check
from squad_otel.errors import SourceError
from squad_otel.sources.tmux import Client, Pane, Tmux, View, parse, script
from tests.squad import TerminalClient, wait_until


@pytest.fixture
def server() -> Iterator[dict[str, str]]:
    """The environment of a tmux server of this test's own; it is ended afterwards."""
    folder = tempfile.mkdtemp(prefix="sq")
    environment = {"PATH": os.environ["PATH"], "TMUX_TMPDIR": folder, "LANG": "C", "TERM": "screen"}
    yield environment
    run(environment, "kill-server", check=False)
    shutil.rmtree(folder)


def run(environment: dict[str, str], *arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["tmux", "-f", "/dev/null", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=check,
    )
    return done.stdout.strip()


def new_session(environment: dict[str, str], name: str, folder: Path, program: str) -> str:
    """Start a session and return its pane's id."""
    return run(
        environment,
        *("new-session", "-d", "-P", "-F", "#{pane_id}", "-s", name, "-c", str(folder), program),
    )


def shows(environment: dict[str, str], pane: str, text: str) -> None:
    wait_until(lambda: text in Tmux(environment).look([pane]).screens.get(pane, ""), text)


def test_panes_clients_and_screens(server: dict[str, str], tmp_path: Path) -> None:
    before = int(tmp_path.stat().st_mtime)
    pane = new_session(server, "one", tmp_path, "printf 'a\\n  b é\\n'; exec sleep 60")
    shows(server, pane, "b é")
    client = TerminalClient(["tmux", "attach-session", "-t", "one"], (90, 30), server)
    try:
        wait_until(lambda: len(Tmux(server).look().clients) == 1, "the client")
        view = Tmux(server).look([pane])
    finally:
        client.close()
    (seen,) = view.panes
    assert (seen.session, seen.path, seen.id, seen.dead) == ("one", str(tmp_path), pane, False)
    assert (seen.command, seen.cursor_x, seen.cursor_y, seen.width) == ("sleep", 0, 2, 90)
    assert seen.created_s >= before
    assert seen.activity_s >= seen.created_s
    (who,) = view.clients
    assert (who.session, who.pid, who.width, who.height) == ("one", client.pid, 90, 30)
    assert view.screens[pane].startswith("a\n  b é\n")
    assert view.screens[pane].count("\n") == 28  # 29 rows, the 30th is tmux's status line
    assert (view.skipped, view.complete) == (0, True)


def test_the_rows_of_a_screen_are_the_panes_rows(server: dict[str, str], tmp_path: Path) -> None:
    """An empty first row is a row: the cursor's row counts from it."""
    pane = new_session(server, "one", tmp_path, "printf '\\n\\nthird'; exec sleep 60")
    shows(server, pane, "third")
    view = Tmux(server).look([pane])
    assert view.screens[pane].split("\n")[view.panes[0].cursor_y] == "third"


def test_hostile_names_and_texts(server: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "a\nb\tc #{pane_id} %H ' \" ; kill-server é"
    folder.mkdir()
    screen = tmp_path / "screen"
    screen.write_text(f"{TOKEN}:end\n'; kill-server\n#{{pane_id}} $(exit)\n")
    started_in = Path(str(folder).replace("#", "##"))  # new-session reads formats in it
    pane = new_session(server, "x y.z:'w\"", started_in, f"cat {screen}; exec sleep 60")
    run(server, "select-pane", "-t", pane, "-T", "##{pane_id} '\" ; kill-server")
    shows(server, pane, "$(exit)")
    view = Tmux(server).look([pane])
    (seen,) = view.panes
    assert seen.path == str(folder)
    assert seen.title == "#{pane_id} '\" ; kill-server"
    assert view.screens[pane].rstrip("\n") == screen.read_text().rstrip("\n")
    assert view.skipped == 0


def test_what_is_no_pane_id_is_not_asked_for(server: dict[str, str], tmp_path: Path) -> None:
    new_session(server, "one", tmp_path, "exec sleep 60")
    view = Tmux(server).look(["%0 ; kill-server", "%0\nkill-server", "one", ""])
    assert len(view.panes) == 1
    assert view.screens == {}
    assert len(Tmux(server).look().panes) == 1


def test_a_vanished_pane_spoils_no_other(server: dict[str, str], tmp_path: Path) -> None:
    panes = [
        new_session(server, name, tmp_path, f"printf 'I am {name}'; exec sleep 60")
        for name in ("one", "two", "three")
    ]
    for pane, name in zip(panes, ("one", "two", "three"), strict=True):
        shows(server, pane, f"I am {name}")
    run(server, "kill-session", "-t", "two")
    view = Tmux(server).look(panes)
    assert {pane: text.strip() for pane, text in view.screens.items()} == {
        panes[0]: "I am one",
        panes[2]: "I am three",
    }
    assert [pane.session for pane in view.panes] == ["one", "three"]
    assert (view.skipped, view.complete) == (0, True)


def test_no_server_is_nothing_and_none_is_started(server: dict[str, str], tmp_path: Path) -> None:
    assert Tmux(server).look(["%0"]) == View(panes=[], clients=[])
    assert run(server, "list-sessions", check=False) == ""
    new_session(server, "one", tmp_path, "exec sleep 60")
    run(server, "kill-server")
    wait_until(lambda: Tmux(server).look(["%0"]).panes == [], "the server's end")


def test_a_server_without_sessions(server: dict[str, str]) -> None:
    run(server, "start-server", ";", "set-option", "-g", "exit-empty", "off")
    view = Tmux(server).look(["%0"])
    assert (view.panes, view.clients, view.complete) == ([], [], True)


def test_a_dead_pane_and_a_control_client_are_told_apart(
    server: dict[str, str], tmp_path: Path
) -> None:
    new_session(server, "one", tmp_path, "exec sleep 60")
    run(server, "set-option", "-g", "remain-on-exit", "on")
    new_session(server, "two", tmp_path, "exit 3")
    wait_until(
        lambda: [pane.dead for pane in Tmux(server).look().panes] == [False, True], "a dead pane"
    )
    control = subprocess.Popen(
        ["tmux", "-C", "attach-session", "-t", "one"],
        env=server,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(Tmux(server).look().clients) == 1, "the client")
        assert [client.control for client in Tmux(server).look().clients] == [True]
    finally:
        control.communicate(timeout=10)


def test_without_tmux() -> None:
    with pytest.raises(SourceError, match=r"tmux was not found.*PATH"):
        Tmux({"PATH": "/nonexistent"}).look()


def fake_tmux(folder: Path, body: str) -> Tmux:
    executable = folder / "tmux"
    executable.write_text(f"#!/bin/sh\n{body}\n")
    executable.chmod(0o755)
    return Tmux({"PATH": os.environ["PATH"]}, str(executable), timeout_s=0.2)


def test_a_tmux_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="did not answer"):
        fake_tmux(tmp_path, "exec sleep 60").look()


def test_a_tmux_that_says_something_else(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"code 1.*access not allowed"):
        fake_tmux(tmp_path, "cat > /dev/null; echo access not allowed >&2; exit 1").look()


def test_a_tmux_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tmux").write_text("")
    with pytest.raises(SourceError, match="cannot be started"):
        Tmux({"PATH": "/bin"}, str(tmp_path / "tmux")).look()


def test_one_process_a_look(server: dict[str, str], tmp_path: Path) -> None:
    """The commands are one text, whatever the number of panes."""
    assert script(TOKEN, [f"%{n}" for n in range(50)]).count("capture-pane") == 50
    log = tmp_path / "log"
    real = shutil.which("tmux")
    executable = tmp_path / "tmux"
    executable.write_text(f'#!/bin/sh\necho run >> {log}\nexec {real} "$@"\n')
    executable.chmod(0o755)
    pane = new_session(server, "one", tmp_path, "exec sleep 60")
    Tmux(server, str(executable)).look([pane, *(f"%{n}" for n in range(10, 60))])
    assert log.read_text() == "run\n"


# Text that is no answer

pieces = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            [f"{TOKEN}:", f"{TOKEN}|", "pane", "client", "screen", "end", "0", "\n", "%1"]
        ),
    )
).map("".join)


@given(pieces)
def test_each_record_is_read_or_counted(output: str) -> None:
    check(output.encode(errors="replace"))


names = st.text().filter(lambda text: TOKEN not in text and not text.endswith("\n"))
numbers = st.integers(0, 2**31)


@given(
    st.lists(st.tuples(names, names, names, numbers, st.booleans())), st.lists(names, max_size=3)
)
def test_any_names_come_through(
    panes: list[tuple[str, str, str, int, bool]], texts: list[str]
) -> None:
    """What tmux would print for these panes is read as these panes."""
    field = f"{TOKEN}|"
    output = ""
    for session, path, title, number, dead in panes:
        values = [session, path, number, f"%{number}", int(dead), title, "sh", 1, 2, 80, 7]
        output += f"{TOKEN}:pane{field}{field.join(map(str, values))}\n"
    output += f"{TOKEN}:client{field}{field.join(['s', '1', '2', '3', '4', '0'])}\n"
    for index, text in enumerate(texts):
        output += f"{TOKEN}:screen{field}{index}{field}\n{text}\n"
    output += f"{TOKEN}:end\n"
    view = parse(output, TOKEN, ["%0", "%1", "%2"])
    assert view.panes == [
        Pane(
            session=session,
            path=path,
            created_s=number,
            id=f"%{number}",
            dead=dead,
            title=title,
            command="sh",
            cursor_x=1,
            cursor_y=2,
            width=80,
            activity_s=7,
        )
        for session, path, title, number, dead in panes
    ]
    assert view.clients == [
        Client(session="s", pid=1, created_s=2, width=3, height=4, control=False)
    ]
    assert view.screens == {f"%{index}": text for index, text in enumerate(texts)}
    assert (view.skipped, view.complete) == (0, True)
