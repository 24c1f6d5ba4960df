"""What happens in the demo: who does what, in which order, and the truth about it.

The truth is written by whoever does a thing, when it is done. It knows nothing of what is watched.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squad_otel.demo.squad import Instance, Squad
from squad_otel.demo.stage import Stage
from squad_otel.errors import ServerError

#: The terminal of a session that nobody is attached to, and the whole one; a row is tmux's.
PREVIEW, FULL = (80, 51), (160, 53)

_MODEL = "claude-opus-5-5"
_ANSWER_S = 20.0
_ALERT_S = 90.0
_SEEN_S = 10.0

#: Which recorded screens show what a program does; of several, one that fits the terminal.
_SCENES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "claude": {
        "starting": ("starting_after_trust",),
        "ready": ("fresh_idle",),
        "working": ("tool_running", "spinner"),
        "asking": ("perm_edit",),
        "done": ("finished_long",),
        "failed": ("error_529_final",),
    },
    "codex": {
        "starting": ("starting_before_trust", "fresh_idle"),
        "ready": ("fresh_idle",),
        "working": ("working", "tool_running"),
        "done": ("finished", "finished_after_edit"),
    },
}

_FILES: Mapping[str, Mapping[str, str]] = {
    "webshop": {
        "README": "A web shop.\n",
        "prices.py": "def total(prices):\n    return sum(prices)\n",
        "test_prices.py": (
            "import unittest\n\nfrom prices import total\n\n\n"
            "class Total(unittest.TestCase):\n"
            "    def test_sum(self):\n        self.assertEqual(total([1, 2]), 3)\n"
        ),
    },
    "payments": {
        "README": "Payments.\n",
        "retry.py": "def delays(count):\n    return [2**n for n in range(count)]\n",
        "test_retry.py": (
            "import unittest\n\nfrom retry import delays\n\n\n"
            "class Delays(unittest.TestCase):\n"
            "    def test_doubles(self):\n        self.assertEqual(delays(3), [1, 2, 4])\n"
        ),
    },
}


@dataclass
class Truth:
    """What happened, by those who did it.

    `counts` are of (event type, program, repository, whether it succeeded), `tokens` of
    (model, kind), `states` of (session, state) for states that must be seen exactly so often,
    `commits` of sessions. `ended` are the sessions that were killed.
    """

    counts: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)
    sessions: list[dict[str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    alert: dict[str, object] = field(default_factory=dict)
    steps: list[dict[str, object]] = field(default_factory=list)

    def total(self, event: str, succeeded: bool = True) -> int:
        """How often something happened."""
        return sum(n for key, n in self.counts.items() if key[0] == event and key[3] is succeeded)

    def live(self) -> list[str]:
        """The sessions that were not killed, by their names."""
        return [s["name"] for s in self.sessions if s["name"] not in self.ended]

    def write(self, file: Path) -> None:
        """Write all of it as JSON."""
        counts = [
            {"event": e, "program": p, "repository": r, "succeeded": s, "count": n}
            for (e, p, r, s), n in sorted(self.counts.items())
        ]
        document = {
            "sessions": self.sessions,
            "counts": counts,
            "tokens": [
                {"model": model, "kind": kind, "count": n}
                for (model, kind), n in sorted(self.tokens.items())
            ],
            "states": [
                {"session": session, "state": state, "times": n}
                for (session, state), n in sorted(self.states.items())
            ],
            "commits": self.commits,
            "ended": self.ended,
            "alert": self.alert,
            "steps": self.steps,
        }
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


@dataclass
class Player:
    """One session of the demo: gives orders to its agent and waits for what came of them."""

    instance: Instance
    program: str
    repository: str
    folder: Path
    idle: Callable[[float], None]
    orders: int = 0
    answers: int = 0

    @property
    def title(self) -> str:
        return self.instance.title

    def order(self, what: str, **more: object) -> int:
        """Give an order; returns its number."""
        self.orders += 1
        line = json.dumps({"number": self.orders, "do": what, **more}) + "\n"
        with open(self._file("orders"), "a", encoding="utf-8") as file:
            file.write(line)
        return self.orders

    def wait(self, number: int, timeout_s: float = _ANSWER_S) -> tuple[int, str]:
        """Wait until an order was followed; returns an exit code and what was printed."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                for line in self._file("answers").read_text().splitlines():
                    answer = json.loads(line)
                    if answer["number"] == number:
                        return int(answer["code"]), str(answer["output"])
            self.idle(0.05)
        raise ServerError(f"the agent of {self.title!r} did not answer within {timeout_s:g} s")

    def show(self, what: str) -> None:
        """Let the agent's screen show what it does."""
        self.wait(self.order("show", scenes=_SCENES[self.program][what]))

    def write(self, file: str, text: str) -> None:
        """Let the agent write a file of its worktree."""
        self.wait(self.order("write", file=file, text=text))

    def tell(self, what: str, **arguments: object) -> None:
        """Let the agent write something into its transcript."""
        self.wait(self.order(what, **{"with": arguments}))

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.instance.worktree.name}.{kind}"


class Scenario:
    """The play. `say(session, text, style)` tells of a step, `idle(s)` passes time."""

    def __init__(
        self,
        stage: Stage,
        say: Callable[[str, str, str], None],
        idle: Callable[[float], None],
        seen: Callable[[str, str], int],
    ) -> None:
        """`seen(session, event)` counts what is recorded: a person waits that long, too."""
        self._stage = stage
        self._say = say
        self._idle = idle
        self._seen = seen
        self._answers = 0
        self.truth = Truth()
        self.players: dict[str, Player] = {}
        self._squad: Squad | None = None

    # -- before -------------------------------------------------------------------------------

    def build(self) -> None:
        """The repositories, each with a remote and a colleague's clone; and the squad's program."""
        for name, files in _FILES.items():
            remote = self._stage.folder / "remotes" / f"{name}.git"
            seed = self._stage.folder / "tmp" / name
            seed.mkdir()
            self._git(seed, "init", "-q", "-b", "main")
            for file, text in {".gitignore": "__pycache__/\n", **files}.items():
                (seed / file).write_text(text)
            self._git(seed, "add", ".")
            self._git(seed, "commit", "-q", "-m", f"Begin {name}")
            self._git(seed, "clone", "-q", "--bare", str(seed), str(remote))
            for place in (self._stage.code, self._stage.folder / "colleague"):
                self._git(seed, "clone", "-q", str(remote), str(place / name))
        stage = self._stage
        self._squad = Squad(stage.home, stage.tmux_folder, PREVIEW, FULL, prefix="sam/")
        self._squad.environment = {**stage.environment, "TERM": "xterm-256color"}

    # -- the play -----------------------------------------------------------------------------

    def play(self, alert: bool) -> None:
        """All acts. With `alert`, one session waits until its alert is delivered."""
        shop = self._enter("checkout page", "webshop", "claude")
        login = self._enter("fix login", "webshop", "claude")
        retry = self._enter("retry payments", "payments", "codex")
        flaky = self._enter("flaky test", "payments", "claude")
        self._idle(1)
        asked = self._ask(login)
        self._pull(shop)
        self._begin_retry(retry)
        self._fail(flaky)
        self._reject(retry)
        self._finish_shop(shop)
        self._pause(retry)
        self._overload(flaky)
        if alert:
            self._await_alert(login)
        self._answer(login, asked)
        self._resume(retry)
        self._kill(flaky)

    def close(self) -> None:
        """End the squad."""
        if self._squad is not None:
            self._squad.close()

    def _enter(self, title: str, repository: str, program: str) -> Player:
        instance = self._the_squad.create(title, self._stage.code / repository, program)
        player = Player(instance, program, repository, self._stage.orders, self._idle)
        self.players[title] = player
        self.truth.sessions.append(
            {
                "name": title,
                "program": program,
                "repository": repository,
                "branch": instance.branch,
                "worktree": str(instance.worktree),
            }
        )
        self._did(player, f"starts: {program} in {repository}", "session.created", "git.branch")
        player.show("starting")
        self._idle(0.4)
        player.show("ready")
        return player

    def _ask(self, player: Player) -> int:
        self._prompt(player, "let names end in a blank")
        self._idle(2)
        self._spend(player, "I read the file first.", "cat f.txt")
        number = player.order("ask", scenes=_SCENES[player.program]["asking"])
        self.truth.states[player.title, "waiting"] += 1
        self.truth.alert = {
            "session": player.title,
            "program": player.program,
            "repository": player.repository,
            "branch": player.instance.branch,
            "waits_since": time.time(),
        }
        self._did(player, "asks whether it may edit a file: it waits for a human", style="yellow")
        return number

    def _pull(self, player: Player) -> None:
        self._colleague(player.repository, "main", "vat.py", "VAT = 0.19\n")
        self._prompt(player, "show the total with tax")
        self._spend(player, "I get what is new first.", "git pull")
        self._run(player, "git", "pull", "-q", "origin", "main")
        player.tell("result", output="", code=0)
        self._did(player, "pulls what a colleague pushed", "git.pull")
        self._idle(1)
        player.write(
            "prices.py", "from vat import VAT\n\n\ndef total(prices):\n    return sum(prices)\n"
        )
        self._commit(player, "Take the tax in")
        self._exec(player, "python3", "-m", "unittest", "-q")

    def _begin_retry(self, player: Player) -> None:
        self._prompt(player, "give up after five tries")
        self._idle(1)
        player.write(
            "retry.py", "def delays(count):\n    return [2**n for n in range(min(count, 5))]\n"
        )
        self._commit(player, "Give up after five tries")
        self._exec(player, "python3", "-m", "unittest", "-q")
        self._run(player, "git", "push", "-q", "-u", "origin", "HEAD")
        self._did(player, "pushes", "git.push")
        self._run(player, "git", "checkout", "-q", "-b", "keep-keys")
        self._run(player, "git", "checkout", "-q", "-")
        self._did(player, "makes a branch, keep-keys", "git.branch")

    def _fail(self, player: Player) -> None:
        self._prompt(player, "find out why the test is flaky")
        self._spend(player, "I write a test that shows it.", "python3 -m unittest -q")
        player.write(
            "test_order.py",
            "import unittest\n\n\nclass Order(unittest.TestCase):\n"
            "    def test_order(self):\n        self.assertEqual([2, 1], sorted([2, 1]))\n",
        )
        self._commit(player, "Show the failure")
        code, output = self._exec(player, "python3", "-m", "unittest", "-q", fails=True)
        player.tell("result", output=output, code=code)
        self._idle(1)

    def _reject(self, player: Player) -> None:
        branch = player.instance.branch
        self._colleague(player.repository, branch, "NOTES", "Ask the bank first.\n")
        player.write("keys.py", "def key(order):\n    return f'pay-{order}'\n")
        self._commit(player, "Use a key for each order")
        self._exec(player, "git", "push", fails=True, event="git.push")
        self._idle(1)
        self._run(player, "git", "pull", "-q", "--rebase")
        self._did(player, "pulls what was in the way", "git.pull")
        self._exec(player, "git", "push", event="git.push")
        self._idle(1)

    def _finish_shop(self, player: Player) -> None:
        self._spend(player, "Now the receipt.", "")
        player.write("receipt.py", "def receipt(total):\n    return f'{total:.2f}'\n")
        self._commit(player, "Print a receipt")
        self._exec(player, "git", "push", "-u", "origin", "HEAD", event="git.push")
        self._spend(player, "The total shows the tax, and the receipt is there.", "")
        player.tell("end_turn")
        player.show("done")
        self._did(player, "is done")

    def _pause(self, player: Player) -> None:
        player.show("done")
        player.write("unfinished.py", "# to be continued\n")
        self._idle(2)
        self._the_squad.pause(player.title)
        self._did(
            player, "is paused; what was unfinished is committed", "session.paused", "git.commit"
        )
        self._until_seen(player, "session.paused")

    def _overload(self, player: Player) -> None:
        player.tell("overloaded")
        player.show("failed")
        self.truth.states[player.title, "failed"] += 1
        self._did(player, "gives up: its API is overloaded", style="red")
        self._idle(3)

    def _await_alert(self, player: Player) -> None:
        self._did(player, "still waits, until its alert is delivered", style="yellow")
        deadline = time.monotonic() + _ALERT_S
        while not self._delivered():
            if time.monotonic() > deadline:
                raise ServerError(f"no alert was delivered within {_ALERT_S:g} s")
            self._idle(0.2)
        self._did(player, "its alert is delivered to the webhook", style="green")

    def _delivered(self) -> bool:
        return any(
            alert["status"] == "firing"
            and alert["labels"].get("alertname") == "SquadSessionWaiting"
            for alert in self._stage.deliveries()
        )

    def _answer(self, player: Player, asked: int) -> None:
        squad = self._the_squad
        squad.attach(player.title)
        self._did(player, "a human attaches", "session.attached")
        self._until_seen(player, "session.attached")
        squad.tmux("send-keys", "-t", f"={player.instance.tmux}:", "Enter")
        player.wait(asked)
        player.show("working")
        self._did(player, "a human answers")
        player.write("login.py", "def login(name):\n    return name.strip()\n")
        player.tell("result", output="", code=0)
        self._idle(2)
        squad.detach(player.title)
        self._did(player, "a human detaches", "session.detached")
        self._until_seen(player, "session.detached")
        self._commit(player, "Names may end in a blank")
        self._spend(player, "The login takes names that end in a blank.", "")
        player.tell("end_turn")
        player.show("done")
        self._did(player, "is done")

    def _resume(self, player: Player) -> None:
        self._the_squad.resume(player.title)
        self._did(player, "is resumed", "session.resumed")
        self._until_seen(player, "session.resumed")
        player.show("working")
        player.write("unfinished.py", "DONE = True\n")
        self._commit(player, "Finish it")
        self._idle(2)
        player.show("done")

    def _kill(self, player: Player) -> None:
        self._commit(player, "One more try", empty=True)
        self._the_squad.kill(player.title)
        self._did(player, "is killed, with its branch", "session.killed")
        self._until_seen(player, "session.killed")

    # -- its means ----------------------------------------------------------------------------

    @property
    def _the_squad(self) -> Squad:
        assert self._squad is not None, "build() comes first"
        return self._squad

    def _did(
        self, player: Player, text: str, *events: str, succeeded: bool = True, style: str = ""
    ) -> None:
        """Write down what was done, and tell it."""
        for event in events:
            self.truth.counts[event, player.program, player.repository, succeeded] += 1
        self.truth.commits[player.title] += events.count("git.commit")
        if "session.killed" in events:
            self.truth.ended.append(player.title)
        step = {"at": time.time(), "session": player.title, "what": text, "events": events}
        self.truth.steps.append(step)
        self._say(player.title, text, style if succeeded else "red")

    def _until_seen(self, player: Player, event: str) -> None:
        """Stay like this as a person would, who is not faster than two looks of the daemon."""
        deadline = time.monotonic() + _SEEN_S
        self._idle(1)
        while time.monotonic() < deadline and not self._seen(player.title, event):
            self._idle(0.1)

    def _prompt(self, player: Player, text: str) -> None:
        player.tell("prompt", text=text)
        player.show("working")
        self._did(player, f"prompt: {text}")

    def _spend(self, player: Player, text: str, command: str) -> None:
        """An answer of the model, and the tokens that it took."""
        n = self._answers = self._answers + 1
        usage = {
            "input": 4 + n,
            "cache_creation": 1_100 + 37 * n,
            "cache_read": 14_000 + 1_201 * n,
            "output": 180 + 23 * n,
        }
        player.tell("answer", text=text, command=command, usage=usage, model=_MODEL)
        for kind, count in usage.items():
            self.truth.tokens[_MODEL, kind] += count
        self.truth.counts["tokens.used", player.program, player.repository, True] += 1

    def _commit(self, player: Player, message: str, empty: bool = False) -> None:
        self._run(player, "git", "add", ".")
        self._run(
            player, "git", "commit", "-q", "-m", message, *(["--allow-empty"] if empty else [])
        )
        self._did(player, f"commits: {message}", "git.commit")

    def _exec(
        self, player: Player, *command: str, fails: bool = False, event: str = ""
    ) -> tuple[int, str]:
        """A command through `squad-otel exec`."""
        code, output = self._run(player, "squad-otel", "exec", "--", *command, check=False)
        if (code != 0) is not fails:
            raise ServerError(f"{' '.join(command)} ended with {code}:\n{output}")
        events = ["command.executed", event] if event else ["command.executed"]
        text = f"runs {' '.join(command)}" + (f", which fails ({code})" if fails else "")
        self._did(player, text, *events, succeeded=not fails)
        return code, output

    def _run(self, player: Player, *command: str, check: bool = True) -> tuple[int, str]:
        code, output = player.wait(player.order("run", command=command))
        if check and code:
            raise ServerError(f"{' '.join(command)} ended with {code}:\n{output}")
        return code, output

    def _colleague(self, repository: str, branch: str, file: str, text: str) -> None:
        """Somebody else, whom nobody watches, pushes a commit."""
        clone = self._stage.folder / "colleague" / repository
        robin = ("-c", "user.name=Robin", "-c", "user.email=robin@example.com")
        self._git(clone, "fetch", "-q")
        self._git(clone, "checkout", "-q", branch)
        self._git(clone, "reset", "-q", "--hard", f"origin/{branch}")
        (clone / file).write_text(text)
        self._git(clone, "add", ".")
        self._git(clone, *robin, "commit", "-q", "-m", f"Add {file}")
        self._git(clone, "push", "-q", "origin", branch)

    def _git(self, folder: Path, *arguments: str) -> str:
        return self._stage.run("git", "-C", os.fspath(folder), *arguments).stdout


def delivered_alert(alerts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The alert of the waiting session, as it was delivered first."""
    for alert in alerts:
        if alert["labels"].get("alertname") == "SquadSessionWaiting":
            return alert
    return None
