"""tmux: titles of panes, names of folders and whole screens are what agents print."""

from __future__ import annotations

import re
from collections.abc import Iterator

from squad_otel.sources.claude_squad import find_panes
from squad_otel.sources.tmux import parse

TOKEN = "0123456789abcdef"
FIELD = f"{TOKEN}|"


def check(data: bytes) -> None:
    """Each record is a pane, a client, a screen, the end, or is counted."""
    output = data.decode(errors="replace")
    view = parse(output, TOKEN, ["%1", "%2"])
    records = output.split(f"{TOKEN}:")[1:]
    kinds = [re.split(rf"\n\Z|{TOKEN}\|", record)[0] for record in records]
    screens = len(records) - kinds.count("end") - view.skipped
    screens -= len(view.panes) + len(view.clients)
    assert len(view.screens) <= screens  # the same pane may be there twice
    assert bool(screens) == bool(view.screens)
    assert view.complete == ("end" in kinds)
    for pane in view.panes:
        assert pane.number >= 0
    find_panes((), view.panes)


def seeds() -> Iterator[bytes]:
    """What tmux prints for one pane, one client and one screen."""
    pane = ["claudesquad_a", "/w", "7", "%1", "0", "title", "sh", "1", "2", "80", "7"]
    yield f"{TOKEN}:pane{FIELD}{FIELD.join(pane)}\n{TOKEN}:end\n".encode()
    yield f"{TOKEN}:client{FIELD}{FIELD.join(['s', '1', '2', '3', '4', '0'])}\n".encode()
    yield f"{TOKEN}:screen{FIELD}0{FIELD}\ntext\n\n{TOKEN}:end\n".encode()
