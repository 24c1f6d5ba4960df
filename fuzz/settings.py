"""Settings: a TOML file and the environment; what is no setting is refused by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from squad_otel.errors import SettingsError
from squad_otel.settings import FILE_NAME, ROWS, Settings, load


def check(data: bytes) -> None:
    """Up to the first NUL the file, then `NAME=VALUE` parted by NULs: settings or a SettingsError.

    Settings that are accepted are accepted when they are written down again.
    """
    content, *pairs = data.split(b"\0")
    environ = {}
    for pair in pairs:
        name, _, value = pair.decode(errors="replace").partition("=")
        environ[f"SQUAD_OTEL_{name}"] = value
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / FILE_NAME).write_bytes(content)
        try:
            found = load(home, environ)
        except SettingsError as error:
            assert str(error)
            return
        (home / FILE_NAME).write_text("")
        again = {f"SQUAD_OTEL_{key.upper()}": str(getattr(found, key)) for key in ROWS}
        assert load(home, again) == found
    for key, row in ROWS.items():
        value = getattr(found, key)
        assert type(value) is type(row.default)
        assert "\0" not in str(value)


def seeds() -> Iterator[bytes]:
    """Each setting in the file, and some in the environment."""
    defaults = Settings()
    for key in ROWS:
        value = getattr(defaults, key)
        yield f"{key} = {value!r}\n".encode()
    yield b"\0POLL_INTERVAL_S=2\0TIME_ZONE=Europe/Berlin"
    yield b'prometheus_url = "http://127.0.0.1:9090"\n\0HTTP_PORT=0'
    yield b"x = [[[1]]]\n[a.b]\nc = 1979-05-27T07:32:00Z\n"
