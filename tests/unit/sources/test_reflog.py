from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.reflog import check_message
from squad_otel.events import NS
from squad_otel.sources.reflog import (
    Entry,
    branch_names,
    moved,
    operation,
    parse_line,
)

OLD, NEW = "1" * 40, "2" * 40

# What git 2.39 wrote in these cases.
MESSAGES = [
    ("commit: one", "commit"),
    ("commit:", "commit"),
    ("commit (initial): init", "commit"),
    ("commit (amend): one!", "commit"),
    ("commit (merge): done", "commit"),
    ("commit (cherry-pick): conf", "commit"),
    ("cherry-pick: side", "commit"),
    ("cherry-pick: fast-forward", None),
    ('revert: Revert "mrg"', "commit"),
    ("am: a patch", "commit"),
    ("merge side: Merge made by the 'ort' strategy.", "commit"),
    ("merge a b: Merge made by the 'octopus' strategy.", "commit"),
    ("merge origin/u/alpha: Fast-forward", None),
    ("pull -q: Fast-forward", "pull"),
    ("pull: Fast-forward", "pull"),
    ("pull: Merge made by the 'ort' strategy.", "pull"),
    ("pull -q --no-rebase https://u:p@host/x.git main: Merge made by the 'ort' strategy.", "pull"),
    ("pull -q --rebase (start): checkout d7bf59ea", None),
    ("pull -q --rebase (pick): zz", None),
    ("pull -q --rebase (pick): like this: Fast-forward", None),
    ("pull -q --rebase (finish): refs/heads/u/alpha onto d7bf59ea", "pull"),
    ("pull -q --rebase (finish): returning to refs/heads/u/alpha", "pull"),
    ("initial pull", "pull"),
    ("pull -q: fast-forward", None),  # in a remote-tracking reflog
    ("fetch -q: fast-forward", None),
    ("fetch -q: storing head", None),
    ("update by push", "push"),
    ("branch: Created from HEAD", "branch"),
    ("branch: Reset to HEAD~1", None),
    ("Branch: copied refs/heads/a to refs/heads/b", "branch"),
    ("Branch: renamed refs/heads/a to refs/heads/b", None),
    ("checkout: moving from main to commit: x", None),
    ("reset: moving to HEAD~1", None),
    ("rebase (pick): commit: x", None),
    ("rebase (finish): returning to refs/heads/a", None),
    ("clone: from https://u:p@host/x.git", None),
    ("committed: to nothing", None),
    ("", None),
]


@pytest.mark.parametrize(("message", "expected"), MESSAGES)
def test_operation(message: str, expected: str | None) -> None:
    assert operation(message) == expected


@given(st.text())
def test_any_message_can_be_classified(message: str) -> None:
    check_message(message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("checkout: moving from main to u/side", ("main", "u/side")),
        ("Branch: renamed refs/heads/a to refs/heads/u/b", ("a", "u/b")),
        ("rebase (finish): returning to refs/heads/topic", (None, "topic")),
        ("commit: checkout: moving from a to b", None),
    ],
)
def test_moved(message: str, expected: object) -> None:
    assert moved(message) == expected


def test_a_line_is_read_with_its_time_in_nanoseconds() -> None:
    line = f"{OLD} {NEW} A. U. Thor <a@b.c> 1795392710 +0530\tcommit: x\ty"
    assert parse_line(line.encode()) == Entry(OLD, NEW, 1795392710 * NS, "commit: x\ty")


def test_a_line_without_a_message_and_with_longer_hashes() -> None:
    line = f"{OLD + '0' * 24} {NEW + '0' * 24}  <> 1 -0000"
    entry = parse_line(line.encode())
    assert entry is not None
    assert (entry.at, entry.message, len(entry.new)) == (NS, "", 64)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no line",
        f"{OLD} {NEW[:-1]} A <a> 1 +0000\tx",
        f"{OLD} {NEW} A 1 +0000\tx",
        f"{OLD} {NEW} A <a> -1 +0000\tx",
        f"{OLD} {NEW} A <a> 999999999999 +0000\tx",  # beyond what 64 bits of nanoseconds hold
        f"{OLD} {NEW} A <a> 1 +0000 x",
    ],
)
def test_what_is_no_line_of_a_reflog(line: str) -> None:
    assert parse_line(line.encode()) is None


def test_branch_names_before_and_after_a_renaming() -> None:
    messages = [
        "branch: Created from HEAD",
        "commit: a",
        "Branch: renamed refs/heads/a to refs/heads/b",
        "commit: b",
        "Branch: copied refs/heads/b to refs/heads/c",
        "commit: c",
    ]
    entries = [Entry(OLD, NEW, 0, message) for message in messages]
    assert branch_names(entries, "c") == ["a", "a", "b", "b", "c", "c"]
