"""Screens: whatever an agent prints is read as some state, and remembered in bounds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from squad_otel.events import NS
from squad_otel.sessions import State
from squad_otel.sources.screens import PROGRAMS, Look, Pane, read

NOW = 1_795_000_000 * NS
FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "screens.jsonl.gz"
COMMANDS = ("claude", "codex", "bash", "-zsh", "", "node")


def check(data: bytes) -> None:
    """Program, command and cursor are the first bytes; looks are parted by form feeds."""
    head, rest = data[:4].ljust(4, b"\0"), data[4:]
    program = (*PROGRAMS, "aider")[head[0] % 3]
    panes = []
    for number, screen in enumerate(rest.decode(errors="replace").split("\f")):
        title, _, text = screen.partition("\v")
        pane = Pane(
            text=text,
            title=title,
            cursor_y=head[1] - 2,
            cursor_x=head[2],
            command=COMMANDS[head[3] % len(COMMANDS)],
            activity=(NOW // NS) + number - head[2] % 8,
            width=80,
        )
        panes.append((pane, NOW + number * NS))
    check_looks(program, panes)


def check_looks(program: str, looks: list[tuple[Pane, int]]) -> None:
    """Any screens, one after the other (with their times), have a state and a memory."""
    look: Look | None = None
    for pane, now in looks:
        reading, look = read(program, pane, look, now)
        assert reading.state in State
        assert (program, reading.state) != ("aider", State.WAITING)
        assert msgspec.json.decode(msgspec.json.encode(look), type=Look) == look


def seeds() -> Iterator[bytes]:
    """Every fortieth of the real screens."""
    for line in gzip.decompress(FIXTURE.read_bytes()).splitlines()[::40]:
        sample = json.loads(line)
        head = [PROGRAMS.index(sample["agent"]), sample["cursor_y"] + 2, sample["cursor_x"], 0]
        screen = sample["title"] + "\v" + sample["text"]
        yield bytes(n % 256 for n in head) + screen.encode(errors="replace")
