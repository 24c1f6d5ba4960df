"""One target under atheris, in a process of its own: `python -m fuzz.instrumented spool …`."""

from __future__ import annotations

import importlib
import sys

import atheris

#: Parsers in Python whose branches count, too.
WATCHED = ["squad_otel", "tomllib"]


def main() -> None:
    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=WATCHED):
        module = importlib.import_module(f"fuzz.{target}")
    atheris.Setup(sys.argv, module.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
