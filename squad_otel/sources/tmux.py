"""tmux, read only: every session's pane, every client, and the text of panes.

One process a look, whatever the number of sessions: the commands go to `tmux source-file -`.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from squad_otel.errors import SourceError

#: The formats of one pane and one client, in the order of the fields of `Pane` and `Client`.
_PANE_FORMAT = (
    "session_name",
    "session_path",
    "session_created",
    "pane_id",
    "pane_dead",
    "pane_title",
    "pane_current_command",
    "cursor_x",
    "cursor_y",
    "pane_width",
    "window_activity",
)
_CLIENT_FORMAT = (
    "client_session",
    "client_pid",
    "client_created",
    "client_width",
    "client_height",
    "client_control_mode",
)

_PANE_ID = re.compile(r"%[0-9]+\Z")


class Pane(msgspec.Struct, frozen=True, kw_only=True):
    """A pane of a session. Times are Unix seconds, as tmux gives them."""

    session: str
    path: str  # where the session was started; it stays when the folder is gone
    created_s: int
    id: str
    dead: bool  # its program ended and remain-on-exit keeps it on the screen
    title: str
    command: str
    cursor_x: int
    cursor_y: int
    width: int
    activity_s: int  # last output of the window

    @property
    def number(self) -> int:
        """The pane's number; of two panes the older one has the smaller."""
        return int(self.id[1:])


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal that shows a session. `created_s` is Unix seconds, the size is in cells."""

    session: str
    pid: int
    created_s: int
    width: int
    height: int
    control: bool  # a program that listens in control mode, nobody's terminal


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at tmux showed; `screens` holds the text of the panes asked for, by id."""

    panes: Sequence[Pane] = ()
    clients: Sequence[Client] = ()
    screens: Mapping[str, str] = {}
    skipped: int = 0  # records that could not be read
    complete: bool = False  # whether tmux came to the end of its commands


class Tmux:
    """The tmux server that `environment` leads to (TMUX, TMUX_TMPDIR; default: this process's)."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        executable: str = "tmux",
        timeout_s: float = 1.0,
    ) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._executable = executable
        self._timeout_s = timeout_s

    def look(self, panes: Iterable[str] = ()) -> View:
        """List all panes and clients, and read the text of `panes` (ids; one may be gone).

        No server is no panes, and none is started. Raises SourceError when there is no tmux, when
        it does not answer in time, or when it says something else.
        """
        wanted = [pane for pane in panes if _PANE_ID.match(pane)]
        token = secrets.token_hex(16)
        try:
            # -u: in any locale, tmux would else replace what is not ASCII.
            done = subprocess.run(
                [self._executable, "-u", "source-file", "-"],
                input=script(token, wanted).encode(),
                capture_output=True,
                timeout=self._timeout_s,
                env=self._environment,
                check=False,
            )
        except FileNotFoundError as error:
            raise SourceError(
                f"{self._executable} was not found; the squad's sessions run in tmux: install it "
                "or put it on PATH"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SourceError(
                f"tmux did not answer within {self._timeout_s:g} s; it is asked again"
            ) from error
        except OSError as error:
            raise SourceError(f"tmux cannot be started: {error}") from error
        view = parse(done.stdout.decode(errors="replace"), token, wanted)
        complaint = done.stderr.decode(errors="replace").strip()
        if view.complete or _is_absence(complaint):
            return view
        raise SourceError(
            f"tmux answered with code {done.returncode}: {complaint.splitlines()[:1]!r}"
        )


def _is_absence(complaint: str) -> bool:
    """Whether tmux says that no server runs (or that it went away while it was asked)."""
    return complaint.startswith(("no server running on", "server exited", "lost server")) or (
        complaint.startswith("error connecting to")
        and complaint.endswith(("(No such file or directory)", "(Connection refused)"))
    )


def script(token: str, panes: Sequence[str]) -> str:
    """The commands of one look. Text of panes and names of folders may hold anything, so what
    separates records and fields is made of `token`, which nobody else can know."""
    lines = [
        f"list-panes -a -F '{_record(token, 'pane', _PANE_FORMAT)}'",
        f"list-clients -F '{_record(token, 'client', _CLIENT_FORMAT)}'",
    ]
    for index, pane in enumerate(panes):
        # The text comes only where the pane lives: else it would be a record of no pane. The
        # mark carries the index because `%1` means something else to display-message.
        lines.append(
            f"if-shell -F -t {pane} '#{{pane_id}}' "
            f'\'display-message -p "{token}:screen{token}|{index}{token}|" ; '
            f"capture-pane -p -t {pane}'"
        )
    lines.append(f"display-message -p '{token}:end'")
    return "\n".join(lines) + "\n"


def _record(token: str, kind: str, names: Sequence[str]) -> str:
    return "".join([f"{token}:{kind}", *(f"{token}|#{{{name}}}" for name in names)])


def parse(output: str, token: str, panes: Sequence[str]) -> View:
    """Read what the commands of `script` printed; any text can be read.

    Each record is either in the view or counted in `skipped`.
    """
    found_panes: list[Pane] = []
    clients: list[Client] = []
    screens: dict[str, str] = {}
    skipped = 0
    complete = False
    for record in output.split(f"{token}:")[1:]:
        kind, *fields = record.removesuffix("\n").split(f"{token}|")
        try:
            if kind == "pane":
                found_panes.append(_pane(fields))
            elif kind == "client":
                clients.append(_client(fields))
            elif kind == "screen":
                index, text = fields
                screens[panes[int(index)]] = text.removeprefix("\n")
            elif kind == "end":
                complete = True
            else:
                skipped += 1
        except (ValueError, IndexError):
            skipped += 1
    return View(
        panes=found_panes, clients=clients, screens=screens, skipped=skipped, complete=complete
    )


def _pane(fields: Sequence[str]) -> Pane:
    session, path, created, pane, dead, title, command, x, y, width, activity = fields
    if not _PANE_ID.match(pane):
        raise ValueError(pane)
    return Pane(
        session=session,
        path=path,
        created_s=int(created),
        id=pane,
        dead=dead == "1",
        title=title,
        command=command,
        cursor_x=int(x),
        cursor_y=int(y),
        width=int(width),
        activity_s=int(activity),
    )


def _client(fields: Sequence[str]) -> Client:
    session, pid, created, width, height, control = fields
    if control == "1":  # it has no size of its own
        width = height = "0"
    return Client(
        session=session,
        pid=int(pid),
        created_s=int(created),
        width=int(width),
        height=int(height),
        control=control == "1",
    )
