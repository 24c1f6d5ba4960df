"""Servers around the daemon: Compose where a Docker engine answers, else local processes.

What was started is remembered (see `running`), so that nothing else is ever stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil
import urllib3

from squad_otel.errors import ServerError
from squad_otel.running import Server, Started, save
from squad_otel.settings import Settings
from squad_otel.spool import make_private

#: Where the Collector of the Compose file listens for OTLP/HTTP.
COMPOSE_OTLP = "http://127.0.0.1:14318"

_READY_S = 30.0
_STOP_S = 10.0
_COMPOSE_READY_S = 180

#: Without these services the others are of no use.
_NEEDED = ("collector", "prometheus", "alertmanager")


def bundle_folder() -> Path:
    """The folder with docker-compose.yml, prometheus/, … : in the package, or in the clone."""
    package = Path(__file__).parent
    for folder in (package / "bundle", package.parent):
        if (folder / "docker-compose.yml").exists():
            return folder
    raise ServerError(f"the bundle is missing beside {package}: install squad-otel again")


# -- local processes ------------------------------------------------------------------------------


def start_local(home: Path, settings: Settings, scrape: str, started: Started) -> list[str]:
    """Start Prometheus and Alertmanager if they are on PATH; returns the names of those missing.

    `scrape` is the daemon's address, `host:port`. Those that run already are left alone.
    """
    folder = home / "servers"
    make_private(folder)
    missing = []
    if started.url("alertmanager") is None:
        program = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
        if program is None:
            missing.append("alertmanager")
        else:
            server = _start_alertmanager(program, folder, settings)
            started.local["alertmanager"] = server
            save(home, started)
    if started.url("prometheus") is None:
        program = shutil.which("prometheus")
        if program is None:
            missing.append("prometheus")
        else:
            alertmanager = started.url("alertmanager")
            server = _start_prometheus(program, folder, settings, scrape, alertmanager)
            started.local["prometheus"] = server
            save(home, started)
    return missing


def _start_prometheus(
    program: str, folder: Path, settings: Settings, scrape: str, alertmanager: str | None
) -> Server:
    port = free_port(settings.prometheus_port)
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(prometheus_config(settings, scrape, alertmanager, bundle_folder()), indent=2)
    )
    url = f"http://127.0.0.1:{port}"
    return _spawn(
        "prometheus",
        [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'prometheus-data'}",
            "--storage.tsdb.retention.time=400d",
            f"--web.listen-address=127.0.0.1:{port}",
            # Any page in a browser could read a Prometheus that allows all origins, its default.
            "--web.cors.origin=^$",
            "--log.level=warn",
        ],
        url,
        folder,
    )


def prometheus_config(
    settings: Settings, scrape: str, alertmanager: str | None, bundle: Path
) -> dict[str, object]:
    """Prometheus's configuration for local processes (JSON is YAML); 2.42 understands it."""
    interval = f"{round(settings.scrape_interval_s * 1000)}ms"
    config: dict[str, object] = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(bundle / "prometheus" / "rules" / "*.yml")],
        "scrape_configs": [
            {
                "job_name": "squad",
                "static_configs": [{"targets": [scrape], "labels": {"instance": "squad"}}],
            }
        ],
    }
    if alertmanager is not None:
        target = alertmanager.removeprefix("http://")
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [target]}]}]}
    return config


def _start_alertmanager(program: str, folder: Path, settings: Settings) -> Server:
    port = free_port(settings.alertmanager_port)
    shipped = (bundle_folder() / "alertmanager" / "alertmanager.yml").read_text()
    config = folder / "alertmanager.yml"
    config.write_text(alertmanager_config(shipped, settings.notify_webhook_url))
    config.chmod(0o600)  # a webhook's URL is a secret
    templates = folder / "templates"
    shutil.copytree(bundle_folder() / "alertmanager" / "templates", templates, dirs_exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    return _spawn(
        "alertmanager",
        [
            program,
            f"--config.file={config}",
            f"--storage.path={folder / 'alertmanager-data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ],
        url,
        folder,
    )


def alertmanager_config(shipped: str, webhook_url: str) -> str:
    """The shipped configuration with a webhook in the receivers that have a place for one.

    The places are the lines `#@ webhook`. Without a URL nothing is changed.
    """
    if not webhook_url:
        return shipped
    webhook = f"webhook_configs: [{{url: {json.dumps(webhook_url)}, send_resolved: true}}]"
    return shipped.replace("#@ webhook", webhook)


def _spawn(name: str, arguments: Sequence[str], url: str, folder: Path) -> Server:
    """Start a server of its own session and wait until it says that it is ready."""
    log = folder / f"{name}.log"
    output, begins = open_log(log)
    with output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(
                    f"{name} ended at once; the last lines of {log}:\n{tail(log, begins)}"
                )
            if answers(f"{url}/-/ready"):
                created = psutil.Process(process.pid).create_time()
                return Server(name=name, url=url, pid=process.pid, created=created)
            time.sleep(0.1)
        raise ServerError(f"{name} was not ready within {_READY_S:.0f} s; see {log}")
    except BaseException:  # ctrl-C too: nobody would know of it
        process.kill()
        process.wait()
        raise


def stop(server: Server) -> bool:
    """Stop one of ours: politely, then not. False when it did not run any more."""
    process = server.process
    if process is None:
        return False
    process.terminate()
    if not ends(process, _STOP_S):
        process.kill()
        ends(process, _STOP_S)
    return True


def ends(process: psutil.Process, timeout_s: float) -> bool:
    """Wait until a process has ended; False when it does not in time.

    One that ended and that nobody has asked after yet (a zombie) has ended: not every init is
    quick to ask.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there on loopback, else one that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError("no free port on 127.0.0.1")


def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200."""
    try:
        with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
            return pool.request("GET", url).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def open_log(path: Path) -> tuple[BinaryIO, int]:
    """A log to append to, for its owner alone, and how long it is already."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "ab"), os.fstat(fd).st_size


def tail(path: Path, begins: int = 0, lines: int = 5) -> str:
    """The last lines of a log after its first `begins` bytes, for an error message."""
    try:
        text = path.read_bytes()[begins:].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])
    except OSError as error:
        return str(error)


# -- Compose --------------------------------------------------------------------------------------


def compose_answers() -> str | None:
    """None when a Docker engine with Compose answers, else why not, in a few words."""
    if shutil.which("docker") is None:
        return "no docker command"
    for arguments, reason in (
        (["docker", "compose", "version"], "docker has no compose plugin"),
        (["docker", "info"], "no Docker engine answers"),
    ):
        try:
            subprocess.run(arguments, capture_output=True, check=True, timeout=20)
        except (subprocess.SubprocessError, OSError):
            return reason
    return None


def compose_environ(home: Path, settings: Settings) -> dict[str, str]:
    """What the Compose file is told: ports, and an Alertmanager configuration with the webhook."""
    environ = {
        "SQUAD_PROMETHEUS_PORT": str(settings.prometheus_port),
        "SQUAD_ALERTMANAGER_PORT": str(settings.alertmanager_port),
    }
    if settings.notify_webhook_url:
        folder = home / "servers"
        make_private(folder)
        shipped = (bundle_folder() / "alertmanager" / "alertmanager.yml").read_text()
        config = folder / "alertmanager.yml"
        config.write_text(alertmanager_config(shipped, settings.notify_webhook_url))
        config.chmod(0o644)  # read by another user in the container; the folder is private
        environ["SQUAD_ALERTMANAGER_FILE"] = str(config)
    return environ


def start_compose(home: Path, environ: Mapping[str, str], started: Started) -> list[str]:
    """`docker compose up` of the bundle; returns the services whose image cannot be had.

    Raises ServerError with what Compose said, or when one of those is needed by the others.
    """
    services = json.loads(_compose(["config", "--format", "json"], environ))["services"]
    missing = [
        name for name, service in services.items() if not _have_image(name, service, environ)
    ]
    needed = [name for name in _NEEDED if name in missing]
    if needed:
        raise ServerError(f"no image is to be had for {', '.join(needed)}")
    present = [name for name in services if name not in missing]
    wait = ["--detach", "--wait", f"--wait-timeout={_COMPOSE_READY_S}"]
    _compose(["up", *wait, "--pull", "never", *present], environ)
    started.compose = compose_addresses(_compose(["ps", "--format", "json"], environ))
    save(home, started)
    return missing


def _have_image(name: str, service: Mapping[str, object], environ: Mapping[str, str]) -> bool:
    """Whether a service's image is on this machine, or can be brought here."""
    image = str(service["image"])
    found = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    if found.returncode == 0:
        return True
    try:
        _compose(["pull", "--quiet", name], environ)
    except ServerError:
        return False
    return True


def compose_addresses(shown: str) -> dict[str, str]:
    """Service to URL from `docker compose ps --format json`: an array, or an object a line."""
    rows: list[dict[str, object]] = []
    for line in shown.splitlines():
        found = json.loads(line)
        rows.extend(found if isinstance(found, list) else [found])
    addresses: dict[str, str] = {}
    for row in rows:
        publishers = row.get("Publishers") or []
        assert isinstance(publishers, list)
        for publisher in publishers:
            if publisher.get("PublishedPort"):
                address = f"http://127.0.0.1:{publisher['PublishedPort']}"
                addresses.setdefault(str(row.get("Service")), address)
    return addresses


def stop_compose(environ: Mapping[str, str]) -> None:
    """`docker compose down`; the volumes stay."""
    _compose(["down"], environ)


def _compose_command() -> list[str]:
    file = bundle_folder() / "docker-compose.yml"
    return ["docker", "compose", "--file", str(file)]


def _compose(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run a Compose command of the bundle; returns its stdout. Raises ServerError."""
    try:
        done = subprocess.run(
            [*_compose_command(), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **environ},
            check=False,
        )
    except OSError as error:
        raise ServerError(f"cannot run docker compose: {error.strerror}") from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
        raise ServerError(f"docker compose {arguments[0]} failed:\n{said}")
    return done.stdout
