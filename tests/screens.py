"""Real screens of Claude Code 2.1.330 and Codex 0.169.0 in tmux, with what was true at the time.

The truth comes from the script that drove the agents and the API behind them, not from the screen.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from squad_otel.sessions import State
from squad_otel.sources.screens import Look, Pane, Reading, read

_FILE = Path(__file__).parent / "fixtures" / "screens.jsonl.gz"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at one pane. `time` is Unix seconds; `state` is the truth."""

    agent: str
    version: str
    state: str
    scene: str
    width: int
    cursor_x: int
    cursor_y: int
    title: str
    command: str
    time: float
    text: str

    @property
    def truth(self) -> State:
        return State.DEAD if self.state == "exited" else State(self.state)

    @property
    def now(self) -> int:
        return int(self.time * 1e9)

    @property
    def pane(self) -> Pane:
        return Pane(
            text=self.text,
            title=self.title,
            cursor_y=self.cursor_y,
            cursor_x=self.cursor_x,
            command=self.command,
            activity=int(self.time),
            width=self.width,
        )


def samples() -> list[Sample]:
    """All screens: two thirds of the scenes that were captured."""
    decoder = msgspec.json.Decoder(Sample)
    return [decoder.decode(line) for line in gzip.decompress(_FILE.read_bytes()).splitlines()]


def bursts() -> list[list[Sample]]:
    """The looks at the same scene in the same pane, less than a second apart, in order."""

    def key(sample: Sample) -> tuple[str, str, int, float]:
        return sample.agent, sample.scene, sample.width, sample.time

    found: list[list[Sample]] = []
    for _, group in groupby(sorted(samples(), key=key), lambda sample: key(sample)[:3]):
        burst: list[Sample] = []
        for sample in group:
            if burst and sample.time - burst[-1].time > 5:
                found.append(burst)
                burst = []
            burst.append(sample)
        found.append(burst)
    return found


def read_single() -> Iterator[tuple[Sample, Reading]]:
    """Every screen, read without memory."""
    for sample in samples():
        yield sample, read(sample.agent, sample.pane, None, sample.now)[0]


def read_burst(burst: Sequence[Sample]) -> list[Reading]:
    """The looks of one burst, each read with what the one before left."""
    readings: list[Reading] = []
    look: Look | None = None
    for sample in burst:
        reading, look = read(sample.agent, sample.pane, look, sample.now)
        readings.append(reading)
    return readings


def read_bursts() -> Iterator[tuple[Sample, Reading]]:
    """Every screen, read within its burst."""
    for burst in bursts():
        yield from zip(burst, read_burst(burst), strict=True)
