"""The real servers for tests: our daemon, Prometheus and Alertmanager, each in its own folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import urllib3

from squad_otel.running import state_path

ROOT = Path(__file__).parents[1]


def program(name: str) -> str:
    """A server's program, from .tools/bin or PATH. Its absence is a failure, not a skip."""
    found = shutil.which(name, path=f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")
    assert found is not None, f"{name} is missing: `make setup` brings it"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, accept: str = "") -> str:
    with urllib3.PoolManager(retries=False, timeout=5.0) as pool:
        answer = pool.request("GET", url, headers={"Accept": accept} if accept else {})
    assert answer.status == 200, f"{url}: {answer.status} {answer.data[:500]!r}"
    return answer.data.decode()


def wait_for(
    seen: Callable[[], object], what: str, timeout_s: float = 30.0, every_s: float = 0.1
) -> None:
    """Wait until `seen()` is true; what it raises counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: object = None
        try:
            last = seen()
            if last:
                return
        except Exception as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {what} ({last!r})")
        time.sleep(every_s)


class Process:
    """A server of ours: started, killed, started again with the same files and port."""

    def __init__(self, arguments: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = dict(environ)
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ,
                start_new_session=True,
            )

    def kill(self) -> int:
        """kill -9; returns the exit code, -9 where it had not ended before."""
        return self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._child is None:
            return 0
        self._child.send_signal(number)
        code = self._child.wait(timeout=20)
        self._child = None
        return code


class Stack:
    """A home with a daemon, and the servers around it."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.home = folder / "squad-otel"
        self.http_port = free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SQUAD_", "OTEL_", "TMUX", "CLAUDE_"))
        }
        self.environ = {
            **kept,
            "PATH": f"{ROOT / '.tools' / 'bin'}:{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "SQUAD_OTEL_HOME": str(self.home),
            "SQUAD_OTEL_HTTP_PORT": str(self.http_port),
            "SQUAD_OTEL_POLL_INTERVAL_S": "0.3",
            "SQUAD_OTEL_SCRAPE_INTERVAL_S": "1",
            "SQUAD_OTEL_PUSH_INTERVAL_S": "1",
            **(environ or {}),
        }
        self.daemon = Process(
            [sys.executable, "-m", "squad_otel", "daemon", "run"],
            folder / "daemon.log",
            self.environ,
        )

    def start_daemon(self) -> None:
        self.daemon.start()
        wait_for(
            lambda: (
                json.loads(state_path(self.home).read_text())["pid"] == self.daemon.pid
                and get(f"{self.url}/healthz")
            ),
            f"the daemon\n{self.daemon.log.read_text()}",
        )

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A `squad-otel` command in this home."""
        done = subprocess.run(
            [sys.executable, "-m", "squad_otel", *arguments],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr + done.stdout
        return done


class Prometheus(Process):
    """A Prometheus that scrapes one target each second."""

    def __init__(self, folder: Path, config: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        (folder / "prometheus.yml").write_text(json.dumps(config))
        super().__init__(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            folder / "prometheus.log",
            os.environ,
        )

    def start(self) -> None:
        super().start()
        wait_for(lambda: get(f"{self.url}/-/ready"), "Prometheus")

    def query(self, expression: str, at_s: float | None = None) -> dict[tuple[str, ...], float]:
        """Sorted label values (without the name) to value, of an instant query."""
        with urllib3.PoolManager(retries=False, timeout=10.0) as pool:
            fields = {"query": expression} | ({} if at_s is None else {"time": f"{at_s:.3f}"})
            answer = pool.request_encode_body(
                "POST", f"{self.url}/api/v1/query", fields=fields, encode_multipart=False
            )
        body = answer.json()
        assert body["status"] == "success", body
        return {
            tuple(v for k, v in sorted(row["metric"].items()) if k != "__name__"): float(
                row["value"][1]
            )
            for row in body["data"]["result"]
        }


@contextlib.contextmanager
def ended(*processes: Process) -> Iterator[None]:
    """Whatever happens, these processes are gone afterwards."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
