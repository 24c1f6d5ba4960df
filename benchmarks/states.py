"""The state read from a pane against the truth: real screens, alone and in bursts, as matrices."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from squad_otel.sessions import State
from squad_otel.sources.screens import PROGRAMS, Reading
from tests.screens import Sample, read_bursts, read_single

STATES = (
    State.STARTING,
    State.RUNNING,
    State.IDLE,
    State.WAITING,
    State.FAILED,
    State.DEAD,
)
WAITING = State.WAITING

Matrix = Counter[tuple[State, State]]


def matrix(readings: Iterable[tuple[Sample, Reading]], agent: str) -> Matrix:
    """How often a truth was read as a state."""
    return Counter((one.truth, reading.state) for one, reading in readings if one.agent == agent)


def headline(matrices: Iterable[Matrix]) -> str:
    """The waiting screens that were missed or invented, over all matrices."""
    total: Matrix = Counter()
    for one in matrices:
        total.update(one)
    waiting = sum(count for (truth, _), count in total.items() if truth is WAITING)
    false = sum(
        count for (truth, said), count in total.items() if said is WAITING and truth is not WAITING
    )
    right = sum(count for (truth, said), count in total.items() if truth is said)
    return (
        f"called waiting: {total[WAITING, WAITING]} of {waiting} that wait, {false} of "
        f"{total.total() - waiting} that do not; right in all: {right} of {total.total()}"
    )


def show(title: str, found: Matrix) -> None:
    """Print one matrix: a row for each truth, a column for each reading."""
    print(f"\n{title}")
    print(f"{'truth':<10}" + "".join(f"{state:>10}" for state in STATES))
    for truth in STATES:
        print(f"{truth:<10}" + "".join(f"{found[truth, said] or '.':>10}" for said in STATES))


def main() -> None:
    """Print the headline of both ways first, then every matrix."""
    ways = {"single screens": list(read_single()), "in bursts": list(read_bursts())}
    found = {way: {agent: matrix(seen, agent) for agent in PROGRAMS} for way, seen in ways.items()}
    for way, agents in found.items():
        print(f"{way}: {headline(agents.values())}")
    for way, agents in found.items():
        for agent, one in agents.items():
            show(f"{agent}, {way}", one)


if __name__ == "__main__":
    main()
