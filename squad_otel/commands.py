"""Placeholder until command reduction lands."""

from collections.abc import Sequence


def reduce_command(argv: Sequence[str]) -> str:
    return argv[0].rsplit("/", 1)[-1]


def reduce_command_line(text: str) -> str:
    return reduce_command(text.split() or ["unknown"])


def git_operation(argv: Sequence[str]) -> str | None:
    return None
