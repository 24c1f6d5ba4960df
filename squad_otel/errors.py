"""The exception tree. A message says what is wrong, with which value, and what to do next."""

from __future__ import annotations


class SquadOtelError(Exception):
    """Any error this package raises on purpose; the command line prints it without a traceback."""


class SettingsError(SquadOtelError):
    """A settings file, environment variable or flag cannot be used."""


class JournalError(SquadOtelError):
    """The journal cannot be opened, read or written."""


class JournalBusyError(JournalError):
    """Another process holds the writer's lock."""


class SpoolError(SquadOtelError):
    """A spool file or folder cannot be used. `written` records were appended before it failed."""

    def __init__(self, message: str, written: int = 0) -> None:
        super().__init__(message)
        self.written = written


class SourceError(SquadOtelError):
    """A source could not be read this time; it is counted and tried again."""


class QueryError(SquadOtelError):
    """A question cannot be asked of this backend, or the backend did not answer."""


class ExportError(SquadOtelError):
    """What was sent by OTLP was not accepted; it is sent again later."""


class ServerError(SquadOtelError):
    """A server (Prometheus, Alertmanager, Compose) could not be started or reached."""
