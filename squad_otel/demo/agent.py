"""A scripted agent: shows recorded screens of a real one, keeps its transcript, does real work.

It runs in a tmux pane under the real one's name. It needs only the standard library: a file of
orders, one JSON object a line, says what to do next, and what became of each is written beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import tty
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Set in the second of its two lives, in which the process bears the agent's name.
_NAMED = "DEMO_AGENT_NAMED"

_TICK_S = 0.05
_VERSION = "2.1.330"


class Scene:
    """One recorded moment of a terminal: its pictures, `every_s` apart, shown over and over."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.name: str = record["scene"]
        self.width: int = record["width"]
        self.alternate = bool(record["alternate"])
        self.every_s: float = record["every_s"] or 0.5
        self.frames: list[dict[str, Any]] = record["frames"]


def read_scenes(program: str) -> list[Scene]:
    """The recorded scenes of `claude` or `codex`."""
    file = Path(__file__).parent / "screens" / f"{program}.jsonl"
    return [Scene(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


class Screen:
    """The terminal. It draws only what changes, as real ones do: an idle agent is silent."""

    def __init__(self, scenes: list[Scene]) -> None:
        self._scenes = scenes
        self._wanted: tuple[str, ...] = ()
        self._scene: Scene | None = None
        self._frame = 0
        self._next_at = 0.0
        self._drawn: list[str] = []
        self._title = ""
        self._terminal: tuple[int, int, bool] = (0, 0, False)

    def show(self, names: tuple[str, ...]) -> None:
        """Show the first of the scenes `names` that was recorded for a terminal as wide."""
        self._wanted = names
        self._scene = None
        self.tick()

    def tick(self) -> None:
        """Draw the next picture if it is time for it, or if the terminal got another size."""
        columns, rows = shutil.get_terminal_size((80, 24))
        scene = self._fitting(columns)
        if scene is None:
            return
        now = time.monotonic()
        if scene is not self._scene:
            self._scene, self._frame, self._next_at = scene, 0, now + scene.every_s
        elif now >= self._next_at:
            self._frame = (self._frame + 1) % len(scene.frames)
            self._next_at = now + scene.every_s
        self._draw(scene, scene.frames[self._frame], columns, rows)

    def _fitting(self, columns: int) -> Scene | None:
        """The scene for this width; of each name the widest one that fits."""
        for width in sorted({scene.width for scene in self._scenes}, reverse=True):
            for name in self._wanted:
                for scene in self._scenes:
                    if scene.name == name and scene.width == width <= columns:
                        return scene
        return None

    def _draw(self, scene: Scene, frame: dict[str, Any], columns: int, rows: int) -> None:
        terminal = (columns, rows, scene.alternate)
        x, y = frame["cursor"]
        first = max(0, y + 3 - rows)  # a terminal too low shows the end
        lines = carried(frame["lines"])[first : first + rows]
        lines += [""] * (rows - len(lines))
        out: list[str] = []
        if terminal != self._terminal:
            out.append("\x1b[?1049h" if scene.alternate else "\x1b[?1049l")
            out.append("\x1b[0m\x1b[2J")
            self._drawn = [""] * rows
            self._terminal = terminal
        out += [
            f"\x1b[{row};1H\x1b[0m\x1b[2K{new}"
            for row, (old, new) in enumerate(zip(self._drawn, lines, strict=True), start=1)
            if old != new
        ]
        self._drawn = lines
        if scene.alternate and frame["title"] != self._title:  # none before it shows itself
            self._title = frame["title"]
            out.append(f"\x1b]0;{self._title}\x07")
        if out:
            out.append(f"\x1b[0m\x1b[{y - first + 1};{x + 1}H")
            sys.stdout.write("".join(out))
            sys.stdout.flush()


_STYLE = re.compile(r"\x1b\[[0-9;:]*m")


def carried(lines: list[str]) -> list[str]:
    """Each line with the style that the lines before it left switched on."""
    style: list[str] = []
    result = []
    for line in lines:
        result.append("".join(style) + line if line else "")
        for code in _STYLE.findall(line):
            style = [] if code in ("\x1b[0m", "\x1b[m") else [*style, code]
    return result


class Transcript:
    """What Claude Code writes of a session below the home folder: a line for each thing said.

    An answer is written as a line for each of its blocks, and each repeats the whole usage.
    """

    def __init__(self, home: Path, worktree: Path, branch: str) -> None:
        self.session = str(uuid.uuid4())
        folder = home / ".claude" / "projects" / re.sub(r"[^a-zA-Z0-9]", "-", str(worktree))
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{self.session}.jsonl"
        self._common = {
            "userType": "external",
            "entrypoint": "cli",
            "cwd": str(worktree),
            "sessionId": self.session,
            "version": _VERSION,
            "gitBranch": branch,
        }
        self._parent: str | None = None
        self._prompt = ""
        self._prompts = 0
        self._tool = ""
        self._began = 0.0
        self._write({"type": "mode", "mode": "normal", "sessionId": self.session})
        self._write(
            {"type": "permission-mode", "permissionMode": "default", "sessionId": self.session}
        )

    def prompt(self, text: str) -> None:
        """Somebody typed something."""
        self._prompt, self._began = str(uuid.uuid4()), time.monotonic()
        self._prompts += 1
        self._chain(
            {
                "promptId": self._prompt,
                "type": "user",
                "message": {"role": "user", "content": text},
                "permissionMode": "default",
                "origin": {"kind": "human"},
                "promptSource": "typed",
                "turnOrigin": "human",
                "turnPosition": {"promptIndex": self._prompts, "turnIndex": self._prompts},
            }
        )

    def answer(self, text: str, command: str, usage: dict[str, int], model: str) -> None:
        """The model answered with a text, and with a command to run unless that is empty."""
        message, request = f"msg_{uuid.uuid4().hex[:24]}", f"req_{uuid.uuid4().hex[:24]}"
        self._write(
            {
                "type": "api-request",
                "sessionId": self.session,
                "id": str(uuid.uuid4()),
                "timestamp": _now(),
                "version": _VERSION,
                "querySource": "repl_main_thread",
            }
        )
        blocks: list[dict[str, object]] = [{"type": "text", "text": text}]
        if command:
            self._tool = f"toolu_{uuid.uuid4().hex[:24]}"
            arguments = {"command": command, "description": text}
            blocks.append(
                {"type": "tool_use", "id": self._tool, "name": "Bash", "input": arguments}
            )
        reference = str(uuid.uuid4())
        for index, block in enumerate(blocks):
            self._chain(
                {
                    "message": {
                        "id": message,
                        "type": "message",
                        "role": "assistant",
                        "model": model,
                        "content": [block],
                        "stop_reason": "tool_use" if command else "end_turn",
                        "stop_sequence": None,
                        "usage": _usage(usage),
                        "stop_details": None,
                    },
                    "apiBlockIndex": index,
                    "requestId": request,
                    "requestRef": reference,
                    "requestedModel": model,
                    "promptCacheRequested": "5m",
                    "type": "assistant",
                    "effort": "medium",
                    "perTurnEffort": "medium",
                    "madeBy": "model",
                    "session_id": self.session,
                }
            )

    def result(self, output: str, code: int) -> None:
        """The command that the last answer asked for ended."""
        content = f"Exit code {code}\n{output}" if code else output
        self._chain(
            {
                "promptId": self._prompt,
                "type": "user",
                "message": {
                    "role": "user",
                    "content": [
                        {
                            "tool_use_id": self._tool,
                            "type": "tool_result",
                            "content": content,
                            "is_error": code != 0,
                        }
                    ],
                },
                "toolUseResult": f"Error: {content}"
                if code
                else {"stdout": output, "stderr": "", "interrupted": False, "isImage": False},
                "sourceToolAssistantUUID": self._parent,
                "session_id": self.session,
            }
        )

    def overloaded(self) -> None:
        """The model's service refused again and again; the turn is over."""
        text = (
            "API Error: Repeated 529 Overloaded errors. The API is at capacity — this is usually "
            "temporary. Try again in a moment."
        )
        self._chain(
            {
                "type": "assistant",
                "message": {
                    "id": str(uuid.uuid4()),
                    "model": "<synthetic>",
                    "role": "assistant",
                    "stop_reason": "stop_sequence",
                    "stop_sequence": "",
                    "type": "message",
                    "usage": _usage({}),
                    "content": [{"type": "text", "text": text}],
                },
                "requestId": f"req_{uuid.uuid4().hex[:24]}",
                "error": "server_error",
                "isApiErrorMessage": True,
                "apiErrorStatus": 529,
                "apiErrorType": "overloaded_error",
                "perTurnEffort": "medium",
                "madeBy": "model",
            }
        )

    def end_turn(self) -> None:
        """The agent has nothing more to say."""
        self._chain(
            {
                "type": "system",
                "subtype": "turn_duration",
                "durationMs": round((time.monotonic() - self._began) * 1000),
                "messageCount": self._prompts * 6,
                "isMeta": False,
            }
        )

    def _chain(self, line: dict[str, object]) -> None:
        identity = str(uuid.uuid4())
        head = {"parentUuid": self._parent, "isSidechain": False}
        self._write({**head, **line, "uuid": identity, "timestamp": _now(), **self._common})
        self._parent = identity

    def _write(self, line: dict[str, object]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def _usage(usage: dict[str, int]) -> dict[str, object]:
    creation = usage.get("cache_creation", 0)
    return {
        "input_tokens": usage.get("input", 0),
        "cache_creation_input_tokens": creation,
        "cache_read_input_tokens": usage.get("cache_read", 0),
        "output_tokens": usage.get("output", 0),
        "output_tokens_details": {"thinking_tokens": 0},
        "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        "service_tier": "standard",
        "cache_creation": {
            "ephemeral_1h_input_tokens": 0,
            "ephemeral_5m_input_tokens": creation,
        },
        "inference_geo": "",
        "iterations": [],
        "speed": "standard",
        "fallback_credit": None,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Agent:
    """Takes orders from `<folder>/<worktree's name>.orders` and answers in `.answers`."""

    def __init__(self, program: str, folder: Path) -> None:
        self._worktree = Path(os.environ.get("PWD") or Path.cwd())
        self._orders = folder / f"{self._worktree.name}.orders"
        self._answers = folder / f"{self._worktree.name}.answers"
        self._read_bytes = 0
        self._screen = Screen(read_scenes(program))
        self._transcript: Transcript | None = None
        self._asking: int | None = None
        if program == "claude":
            branch = _git_branch(self._worktree)
            self._transcript = Transcript(Path.home(), self._worktree, branch)

    def work(self) -> None:
        """Until the terminal goes away."""
        while True:
            self._screen.tick()
            for order in self._new_orders():
                self._follow(order)
            self._listen()

    def _new_orders(self) -> list[dict[str, Any]]:
        try:
            with open(self._orders, "rb") as file:
                file.seek(self._read_bytes)
                piece = file.read()
        except FileNotFoundError:
            return []
        piece = piece[: piece.rfind(b"\n") + 1]
        self._read_bytes += len(piece)
        return [json.loads(line) for line in piece.splitlines()]

    def _listen(self) -> None:
        """Enter answers a dialog; other keys do nothing."""
        ready, _, _ = select.select([sys.stdin], [], [], _TICK_S)
        if not ready:
            return
        keys = os.read(sys.stdin.fileno(), 1024)
        if not keys:
            sys.exit(0)
        if self._asking is not None and (b"\r" in keys or b"\n" in keys):
            self._reply(self._asking, 0, "")
            self._asking = None

    def _follow(self, order: dict[str, Any]) -> None:
        number: int = order["number"]
        what: str = order["do"]
        if what in ("show", "ask"):
            self._screen.show(tuple(order["scenes"]))
        elif what == "write":
            (self._worktree / order["file"]).write_text(order["text"], encoding="utf-8")
        elif what == "run":
            self._reply(number, *self._run(order["command"]))
            return
        elif self._transcript is not None:  # prompt, answer, result…
            getattr(self._transcript, what)(**order["with"])
        if what == "ask":
            self._asking = number
        else:
            self._reply(number, 0, "")

    def _run(self, command: list[str]) -> tuple[int, str]:
        """Run a command in the worktree, with the screen going on."""
        child = subprocess.Popen(
            command,
            cwd=self._worktree,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while True:
            try:
                output, _ = child.communicate(timeout=_TICK_S)
                return child.returncode, output
            except subprocess.TimeoutExpired:
                self._screen.tick()

    def _reply(self, number: int, code: int, output: str) -> None:
        line = json.dumps({"number": number, "code": code, "output": output})
        with open(self._answers, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _git_branch(worktree: Path) -> str:
    done = subprocess.run(
        ["git", "branch", "--show-current"],
        cwd=worktree,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def main() -> None:
    """`agent.py NAME ORDERS_FOLDER`: become a process called NAME, then follow the orders."""
    program, folder = sys.argv[1:]
    if os.environ.pop(_NAMED, None) is None:
        # tmux tells a program by its first argument. Python finds itself by it, too, so it has
        # to be told where it is.
        place = f"{sys.base_prefix}:{sys.base_exec_prefix}"
        environ = {**os.environ, _NAMED: "1", "PYTHONHOME": place}
        os.execve(  # noqa: S606 - the very program that runs already
            os.path.realpath(sys.executable), [program, "-S", __file__, program, folder], environ
        )
    os.environ.pop("PYTHONHOME", None)
    tty.setcbreak(sys.stdin)
    with contextlib.suppress(KeyboardInterrupt):
        Agent(program, Path(folder)).work()


if __name__ == "__main__":
    main()
