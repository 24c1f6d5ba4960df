"""A producer to be killed: leaves records for the daemon, and keeps a ledger of its own.

`python writer.py KIND NUMBER SEED FOLDER [ack-first]`. A ledger's line `b 7` is written before the
records up to 7, `d 7` when all up to 7 are acknowledged, `x …` when one was refused.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import squad_otel
from squad_otel import spool

KINDS = ("track", "lines", "exec", "shell")
PER_WRITER = 100_000
PAUSE = "pause"

#: What a hook does, again and again: one line of shell, as the README has it.
SHELL = """\
n=0
while :; do
  while [ -e pause ]; do sleep 0.1; done
  n=$((n + 1))
  echo "b $n" >> "$LEDGER"
  printf '{"v":1,"type":"command.executed","program":"claude","repository":"hooks",\
"duration_ns":%d000,"success":true,"fields":{"command":"hook","tool":"hook"}}\\n' $((FIRST + n)) \
    >> "$SQUAD_OTEL_HOME/spool/shell.jsonl" && echo "d $n" >> "$LEDGER"
  sleep "$REST"
done
"""

_REST_S = {"track": (0.5, 1.5), "lines": (0.5, 1.5), "exec": (1.5, 4.0), "shell": (0.2, 0.5)}


def mark(writer: int, record: int) -> int:
    """The number that tells a record of a writer from all others."""
    return writer * PER_WRITER + record


class Ledger:
    """The producer's own account; each line is written before it goes on."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(self, word: str, what: object) -> None:
        """Append one line."""
        os.write(self._fd, f"{word} {what}\n".encode())


class Writer:
    """One producer at work until it is killed."""

    def __init__(self, kind: str, number: int, seed: int, folder: Path, ack_first: bool) -> None:
        self._kind = kind
        self._number = number
        self._random = random.Random(seed)
        self._folder = folder
        self._ledger = Ledger(folder / "ledgers" / f"{number}-{kind}")
        self._ack_first = ack_first
        self._home = spool.home_folder()
        self._began = False

    def run(self) -> None:
        """Batch after batch. Some are large: it takes longer to write them."""
        write = {"track": self._track, "lines": self._lines, "exec": self._exec}[self._kind]
        last = 0
        while True:
            while (self._folder / PAUSE).exists():
                time.sleep(0.1)
            large = self._random.random() < 1 / 40
            size = 1 if self._kind == "exec" else 200 if large else self._random.randint(1, 8)
            records = range(last + 1, last + size + 1)
            last += size
            self._ledger.say("b", last)
            if self._ack_first:
                self._ledger.say("d", last)
            if write(records) and not self._ack_first:
                self._ledger.say("d", last)
            time.sleep(self._random.uniform(*_REST_S[self._kind]))

    def _track(self, records: range) -> bool:
        if not self._began:
            self._began = True
            squad_otel.init()
            repository = self._random.choice(["shop", "payments", "infra"])
            squad_otel.session(f"writer {self._number}", program="codex", repository=repository)
        for record in records:
            squad_otel.command(
                self._random.choice(["pytest -q", "git status", "cargo test"]),
                duration_s=mark(self._number, record) / 1e6,
                exit_code=self._random.choice([0, 0, 1]),
            )
        if not squad_otel.flush():
            self._ledger.say("x", "the flush did not write all")
            return False
        return True

    def _lines(self, records: range) -> bool:
        """Events of other types, by the ids they bring; an answer's tokens come in two copies."""
        spool.append(self._home, [self._line(record, final=False) for record in records])
        time.sleep(self._random.uniform(0, 0.4))
        spool.append(self._home, [self._line(record, final=True) for record in records])
        return True

    def _line(self, record: int, *, final: bool) -> bytes:
        key = mark(self._number, record)
        common = {"id": f"soak:{key}", "program": "claude", "repository": "shop"}
        kinds: list[dict[str, object]] = [
            {"type": "prompt.sent"},
            {"type": "git.push", "success": False, "error_type": "exit_1"},
            {
                "type": "error",
                "error_type": "Timeout",
                "fields": {"severity": "warning", "component": "mcp"},
            },
            {
                "type": "tokens.used",
                "fields": {"model": "m1", "input_tokens": 7, "output_tokens": tokens(key, final)},
            },
        ]
        return spool.encode({**common, "at": time.time_ns(), **kinds[record % len(kinds)]})

    def _exec(self, records: range) -> bool:
        """`squad-otel exec` of a program whose name tells the record."""
        (record,) = records
        program = self._folder / "programs" / f"m{mark(self._number, record)}"
        os.link(self._folder / "programs" / "nothing", program)
        done = subprocess.run(
            [sys.executable, "-m", "squad_otel", "exec", "--", str(program)],
            capture_output=True,
            text=True,
            check=False,
        )
        program.unlink()
        if done.returncode or done.stderr:
            self._ledger.say("x", repr((done.returncode, done.stderr[-300:])))
            return False
        return True


def tokens(key: int, final: bool) -> int:
    """How many tokens an answer has, so far and at its end."""
    return key % 97 + (1000 if final else 1)


if __name__ == "__main__":
    kind, number, seed, folder, *more = sys.argv[1:]
    Writer(kind, int(number), int(seed), Path(folder), more == ["ack-first"]).run()
