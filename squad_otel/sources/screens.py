"""The state of a session, read from what its pane shows: one table of marks for each agent.

Pure. A mark counts only at its place (cursor row, input box, footer), never anywhere in the text.
"""

# ruff: noqa: RUF001 - the agents' own signs

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from squad_otel.events import NS
from squad_otel.ids import digest
from squad_otel.sessions import State

#: Output this recent is work, for a program that has no table.
ACTIVE_NS = 3 * NS

#: So long work is believed to go on when the screen has no mark for it. Answers come in bursts
#: with pauses of a second or two between them.
HOLD_NS = 4 * NS

_SHELLS = {"ash", "bash", "csh", "dash", "fish", "ksh", "nu", "pwsh", "sh", "tcsh", "zsh"}


@dataclass(frozen=True, slots=True)
class Pane:
    """One look at one pane; every field comes from tmux."""

    text: str  # capture-pane -p, plain
    title: str  # pane_title
    cursor_y: int  # row in the visible screen, from 0
    cursor_x: int  # column, from 0
    command: str  # pane_current_command
    activity: int  # window_activity, Unix seconds
    width: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What the session is doing, and the rule that said so (a short constant word)."""

    state: State
    reason: str


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look leaves to the next of the same pane. Times are UTC nanoseconds."""

    state: State
    at: int = 0
    above: str = ""  # hash of the end of the transcript
    changed_at: int = 0  # when the transcript last grew; 0 is never
    busy_at: int = 0  # when work was last certain; 0 is never


class _Claude:
    """Claude Code 2.1.330, seen on 2026-11-26 at 80 and 160 columns, 16 and 50 rows."""

    # The selected option of a dialog has a plain space; the input box has a no-break space.
    SELECTOR = re.compile(r"( *)❯ ")
    BOX = re.compile(r"[❯!#&]\xa0")
    RULE = re.compile(r"─{2,}")
    # A typed command or file name opens a menu above the box.
    MENU = re.compile(r"[❯!#&]\xa0(?:/|(?:.*\s)?@\S*$)", re.DOTALL)
    # The footer of an input box whose first row has scrolled away.
    MODE = re.compile(r" {1,4}(?:⏸|⏵⏵) ")
    INTERRUPT = re.compile(r"\besc to (?:interrupt|i?n?t?e?r?r?u?p?…)")
    AGENT = re.compile(r" *(?:❯ )?◯ \S.* \d+[smh]\b")
    VIEW = re.compile(r" {1,4}(?:(dialog waiting|working) · |Showing d)")
    HINT = re.compile(r"\b(?:enter|esc|tab|space|ctrl\+\w) to \w", re.IGNORECASE)
    # A panel that the user opened to look at something. It may hold a list, but asks nothing.
    PANEL = re.compile(r"▔{2,}")
    CLOSE = re.compile(r"\besc to (?:close|go back)\b", re.IGNORECASE)
    CONFIRM = re.compile(
        r" *(?:Press )?enter to (?:confirm|select|submit|continue|approve|apply|save)\b",
        re.IGNORECASE,
    )
    # Lines of the transcript that stand at its left edge.
    HEADER = re.compile(r" ?[▐▝▘▎]|[ ▐▛▜█]{2,16}Claude Code v\d")  # its logo comes late
    ENTRY = re.compile(r"[●⏺] ")
    PROMPT = re.compile(r"[❯>!] ")
    STATUS = re.compile(r"[·✢✳✶✻✽*] ")
    SPINNER = re.compile(r"[·✢✳✶✻✽*] (?:[^…]{1,80}…(?: \(.*)?$|.*\bretrying in \d)")
    AGENTS = re.compile(r"[·✢✳✶✻✽*] Waiting for \d+ background agents? to finish")
    NOTE = re.compile(r" {1,4}⎿\s+(.*)")
    # What an error says: as an entry, and as the note that hangs on a prompt or an entry.
    ERROR = re.compile(r"API Error(?::| \()|Usage limit reached\b")
    ERROR_NOTE = re.compile(
        r"API Error\b|Prompt is too long|Credit balance|Invalid API key|Please run /login"
        r"|Not logged in|OAuth token|You've (?:hit|reached) your\b|[\w' -]{1,24}limit reached\b"
        r"|Unable to connect|Request timed out|Connection error",
        re.IGNORECASE,
    )
    RESEND = re.compile(r"❯\xa0(?:Once fixed, r|R)esend your message")
    # The title once the first screen stands; before that it is the host's name.
    TITLE = re.compile(r"[✳◐◑] ")


class _Codex:
    """Codex CLI 0.169.0, seen on 2026-11-26 at 80 and 160 columns, 50 rows."""

    TITLE_RUNNING = re.compile(r"[\u2800-\u28ff] ")
    TITLE_WAITING = re.compile(r"\[ [!.] \] Action Required\b")
    COMPOSER = re.compile(r"›(?: |$)")
    HINT = re.compile(r" *(?:press )?enter (?:to )?(?:confirm|continue|select)\b", re.IGNORECASE)
    ENTRY = re.compile(r"[•◦■✗✔✓⚠›] ")
    WORKING = re.compile(r"[•◦] .*\(\d.*• esc to interrupt\)")
    ERROR = re.compile(r"■ (?!Conversation interrupted)")


#: The program names that have a table.
PROGRAMS = ("claude", "codex")


def read(program: str, pane: Pane, before: Look | None, now: int) -> tuple[Reading, Look]:
    """The state that `pane` shows at `now` (UTC ns), and what the next look must be given.

    `before` is what the last look at this pane left, or None. A program without a table is
    judged by its output alone and is never said to wait.
    """
    if program == "claude":
        return _read_claude(pane, before, now)
    if program == "codex":
        reading = _read_codex(pane, before)
    elif now - pane.activity * NS <= ACTIVE_NS:
        reading = Reading(State.RUNNING, "output")
    else:
        reading = Reading(State.IDLE, "silence")
    return reading, Look(state=reading.state)


# Claude Code


@dataclass(frozen=True, slots=True)
class _Box:
    """The input box: rows of its two rules (`top`, `bottom`) on the screen."""

    top: int
    bottom: int


def _read_claude(pane: Pane, before: Look | None, now: int) -> tuple[Reading, Look]:
    rows = _without_panel(_rows(pane.text))
    box = _box(rows)
    above, changed_at, busy_at = _growth(rows, box, before, now)
    reading = _claude_mark(pane, rows, box, before, now)
    if reading is None:  # a prompt with an answer above it that may still grow
        if busy_at and now - busy_at <= HOLD_NS:
            reading = Reading(State.RUNNING, "growth")
        elif before is None or not before.above or now - before.at > HOLD_NS:
            reading = Reading(State.RUNNING, "open-answer")  # until stillness says otherwise
            busy_at = now
        else:
            state = State.FAILED if before.state is State.FAILED else State.IDLE
            reading = Reading(state, "stillness")
    elif reading.state is State.RUNNING:
        busy_at = now
    else:
        changed_at = busy_at = 0
    look = Look(state=reading.state, at=now, above=above, changed_at=changed_at, busy_at=busy_at)
    return reading, look


def _growth(
    rows: Sequence[str], box: _Box | None, before: Look | None, now: int
) -> tuple[str, int, int]:
    """The hash of the transcript's end, when it last changed, and when that last proved work."""
    if box is None:
        return "", 0, before.busy_at if before else 0
    above = digest(*_transcript(rows, box)[-4:])
    if before is None or not before.above:
        return above, 0, before.busy_at if before else 0
    menu = _Claude.MENU.match("\n".join(rows[box.top + 1 : box.bottom]))
    if menu or above == before.above or now - before.at > HOLD_NS:
        return above, before.changed_at, before.busy_at
    # One change alone may be a late repaint; a second, or one while at work, is growth.
    known = max(before.changed_at, before.busy_at)
    proven = known > 0 and now - known <= HOLD_NS
    return above, now, now if proven else before.busy_at


def _claude_mark(
    pane: Pane, rows: Sequence[str], box: _Box | None, before: Look | None, now: int
) -> Reading | None:
    """What the screen says by itself, or None where only change can tell."""
    if box is not None:
        return _claude_prompt(rows, box)
    if view := _Claude.VIEW.match(rows[-1] if rows else ""):
        return _claude_view(rows, view[1] or "")
    if _is_panel(rows):
        return _claude_unmarked(pane, rows, before, now)
    shell = pane.command.lstrip("-") in _SHELLS
    if _on_option(rows, pane.cursor_y, strict=shell):
        return Reading(State.WAITING, "selector")
    if shell and rows:  # a shell at rest shows its prompt; one that starts the agent is blank
        return Reading(State.DEAD, "shell")
    if any(_Claude.CONFIRM.match(row) for row in rows[-3:]):
        return Reading(State.WAITING, "confirm-hint")
    return _claude_unmarked(pane, rows, before, now)


def _claude_view(rows: Sequence[str], word: str) -> Reading:
    """The detailed transcript lies over everything; its last row tells what is below it."""
    if word == "dialog waiting":
        return Reading(State.WAITING, "view")
    if word == "working":
        return Reading(State.RUNNING, "view")
    if _is_failed(rows[:-2]):
        return Reading(State.FAILED, "error-entry")
    return Reading(State.IDLE, "view")


def _claude_prompt(rows: Sequence[str], box: _Box) -> Reading | None:
    """The input box is there, so nothing is asked: what does the agent do meanwhile?"""
    footer = rows[box.bottom + 1 :]
    if any(_Claude.INTERRUPT.search(row) for row in footer):
        return Reading(State.RUNNING, "interrupt-hint")
    transcript = _transcript(rows, box)
    last = next((row for row in reversed(transcript) if _at_edge(row)), "")
    if _Claude.SPINNER.match(last):
        return Reading(State.RUNNING, "spinner")
    if _Claude.AGENTS.match(last) or any(_Claude.AGENT.match(row) for row in footer):
        return Reading(State.RUNNING, "agents")
    if _is_failed(transcript):
        return Reading(State.FAILED, "error-entry")
    if any(_Claude.RESEND.match(row) for row in rows[box.top + 1 : box.bottom]):
        return Reading(State.FAILED, "resend-hint")
    if not _is_open(transcript):
        return Reading(State.IDLE, "closed-answer")
    typed = "".join(rows[box.top + 1 : box.bottom])[2:].strip()
    hint = "".join(footer[:1]).strip()
    if typed or not hint or hint.startswith("Press ") or hint.endswith("…"):
        return None  # the interrupt hint may be hidden
    return Reading(State.IDLE, "prompt")


def _claude_unmarked(pane: Pane, rows: Sequence[str], before: Look | None, now: int) -> Reading:
    """Neither box nor dialog: not drawn yet, half drawn, a panel, or an editor."""
    titled = _Claude.TITLE.match(pane.title)
    if before is not None and (rows or titled):
        if before.state is State.RUNNING and now - pane.activity * NS > HOLD_NS:
            return Reading(State.IDLE, "silence")
        if before.state in (State.RUNNING, State.IDLE, State.FAILED):
            return Reading(before.state, "kept")
        if before.state is State.WAITING and _is_dialog(rows):
            return Reading(before.state, "kept")
    if rows and titled:
        return Reading(State.IDLE, "unknown")
    return Reading(State.STARTING, "not-drawn")


def _is_panel(rows: Sequence[str]) -> bool:
    closes = any(_Claude.CLOSE.search(row) for row in rows[-3:])
    return closes and any(_Claude.PANEL.match(row) for row in rows)


def _is_dialog(rows: Sequence[str]) -> bool:
    """Whether a list with a hint below it still stands at the end, wherever the cursor is."""
    hinted = any(_Claude.HINT.search(row) for row in rows[-3:])
    return hinted and any(_Claude.SELECTOR.match(row) for row in rows[-20:])


def _box(rows: Sequence[str]) -> _Box | None:
    """The input box, between the last two rules at the left edge; a quoted one is indented."""
    rules = [index for index, row in enumerate(rows) if _Claude.RULE.match(row)][-2:]
    if len(rules) < 2:
        return None
    top, bottom = rules
    scrolled = any(_Claude.MODE.match(row) for row in rows[bottom + 1 :])
    return _Box(top, bottom) if scrolled or _Claude.BOX.match(rows[top + 1]) else None


def _on_option(rows: Sequence[str], cursor: int, *, strict: bool) -> bool:
    """Whether the cursor stands in the selected option of a list.

    An option may take several rows, and text may be typed into it. Below a list is a hint, or
    its options are numbered; a shell's own prompt may look the same, so `strict` asks for both
    a hint and another option.
    """
    if not 0 <= cursor < len(rows):
        return False
    for index in range(cursor, max(cursor - 8, -1), -1):
        if selected := _Claude.SELECTOR.match(rows[index]):
            break
        if not rows[index].startswith("  "):
            return False
    else:
        return False
    indent = len(selected[1]) + 2
    near = rows[max(index - 12, 0) : index + 13]
    hinted = any(_Claude.HINT.search(row) for row in rows[cursor + 1 :])
    if strict:
        return hinted and any(re.match(rf" {{{indent}}}\S", row) for row in near)
    number = re.match(r"(\d+)\. ", rows[index][indent:])
    beside = {int(number[1]) - 1, int(number[1]) + 1} if number else set()
    others = (re.match(rf" {{{indent}}}(\d{{1,3}})\. ", row) for row in near)
    return hinted or any(other and int(other[1]) in beside for other in others)


def _transcript(rows: Sequence[str], box: _Box) -> list[str]:
    """The non-blank rows above the box; the row just above it is kept for notices."""
    return [row for row in rows[: max(box.top - 1, 0)] if row.strip()]


def _at_edge(row: str) -> bool:
    marks = (_Claude.ENTRY, _Claude.PROMPT, _Claude.STATUS, _Claude.HEADER)
    return any(mark.match(row) for mark in marks)


def _last_entry(transcript: Sequence[str]) -> Sequence[str]:
    """The last line at the left edge and what hangs on it; all rows where there is none."""
    for index in range(len(transcript) - 1, -1, -1):
        if _at_edge(transcript[index]):
            return transcript[index:]
    return transcript


def _is_failed(transcript: Sequence[str]) -> bool:
    entry = _last_entry(transcript)
    if not entry:
        return False
    answer = _Claude.ENTRY.match(entry[0])
    if answer and _Claude.ERROR.match(entry[0], answer.end()):
        return True
    if not answer and not entry[0].startswith("❯ "):  # a shell command's output says anything
        return False
    notes = [note[1] for row in entry if (note := _Claude.NOTE.match(row))]
    return bool(notes) and bool(_Claude.ERROR_NOTE.match(notes[-1]))


def _is_open(transcript: Sequence[str]) -> bool:
    """Whether the last entry is an answer that may still grow: no result, no closing line."""
    entry = _last_entry(transcript)
    if not entry or any(_Claude.NOTE.match(row) for row in entry):
        return False
    return bool(_Claude.ENTRY.match(entry[0])) or not _at_edge(entry[0])


# Codex


def _read_codex(pane: Pane, before: Look | None) -> Reading:
    rows = _rows(pane.text)
    # Below the input field there is always a footer, so a hint in the last row is a dialog's.
    hinted = bool(rows) and bool(_Codex.HINT.match(rows[-1]))
    dialog = hinted and any(_Codex.COMPOSER.match(row) for row in rows)
    composer = _composer(rows, pane.cursor_y)
    shell = pane.command.lstrip("-") in _SHELLS
    if shell and rows and composer is None and not dialog:
        return Reading(State.DEAD, "shell")
    if _Codex.TITLE_WAITING.match(pane.title):
        return Reading(State.WAITING, "title")
    if dialog:
        return Reading(State.WAITING, "confirm-hint")
    if _Codex.TITLE_RUNNING.match(pane.title):
        return Reading(State.RUNNING, "title")
    if composer is None:
        if before is not None and before.state in (State.RUNNING, State.IDLE, State.FAILED):
            return Reading(before.state, "kept")
        if rows and (before is None or before.state is not State.STARTING):
            return Reading(State.IDLE, "unknown")
        return Reading(State.STARTING, "not-drawn")
    last = next((row for row in reversed(rows[:composer]) if _Codex.ENTRY.match(row)), "")
    if _Codex.WORKING.match(last):
        return Reading(State.RUNNING, "working")
    if _Codex.ERROR.match(last):
        return Reading(State.FAILED, "error-entry")
    return Reading(State.IDLE, "prompt")


def _composer(rows: Sequence[str], cursor: int) -> int | None:
    """The first row of the input field that the cursor stands in; its footer is below."""
    if not 0 <= cursor < len(rows) - 1:
        return None
    for index in range(cursor, -1, -1):
        if _Codex.COMPOSER.match(rows[index]):
            return index
        if rows[index].strip() and not rows[index].startswith("  "):
            return None
    return None


# Rows


def _rows(text: str) -> list[str]:
    """The rows of a screen without the blank ones at its end."""
    rows = [row.rstrip(" ") for row in text.split("\n")]
    while rows and not rows[-1].strip():
        rows.pop()
    return rows


def _without_panel(rows: Sequence[str]) -> Sequence[str]:
    """Cut off a panel at the right: a border in one column, down to the last row."""
    if not rows or "│" not in rows[-1]:
        return rows
    borders = Counter(row.index("│") for row in rows if "│" in row)
    column = rows[-1].index("│")
    if borders[column] * 2 < len(rows):
        return rows
    return [_cut(row, column).rstrip(" ") for row in rows]


def _cut(row: str, cells: int) -> str:
    """The first `cells` columns of `row`, in which some characters are two columns wide."""
    if row.isascii() or row[cells : cells + 1] == "│":
        return row[:cells]
    used = 0
    for index, letter in enumerate(row):
        if used >= cells:
            return row[:index]
        if not unicodedata.combining(letter):
            used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return row
