"""Every counter, from its first event on, read from a live Prometheus: to the unit.

Three minutes at a one-second scrape; the daemon and Prometheus are killed in the middle of periods,
series are born at any moment. The truth is written by whoever makes the events.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import pytest
import urllib3

from squad_otel import spool
from squad_otel.errors import SpoolError
from squad_otel.metrics import BY_NAME
from tests.stack import Prometheus, Stack, ended, get, wait_for

pytestmark = pytest.mark.integration

_PERIOD_S = 34.0
#: The birth is held for two scrapes; then two more, and a round of the daemon.
_QUIET_S = 7.0
_RATE = 8.0  # events a second
_SEED = 20261126

Key = tuple[str, ...]


class Producer(threading.Thread):
    """Appends records to the spool at a steady rate and keeps the truth: metric, labels, amount."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home = home
        self._random = random.Random(_SEED)
        self._on = threading.Event()
        self._end = threading.Event()
        self.truth: list[tuple[float, Counter[tuple[str, Key]]]] = []
        self._born = 1  # repositories that exist so far

    def pause(self) -> None:
        self._on.clear()
        time.sleep(3 / _RATE)

    def go(self) -> None:
        self._on.set()

    def finish(self) -> None:
        self._end.set()
        self._on.set()

    def run(self) -> None:
        while not self._end.is_set():
            self._on.wait()
            if self._end.is_set():
                return
            record, amounts = self._make()
            try:
                spool.append(self._home, [spool.encode(record)])
            except SpoolError:
                continue
            self.truth.append((time.time(), amounts))
            time.sleep(1 / _RATE)

    def _make(self) -> tuple[dict[str, object], Counter[tuple[str, Key]]]:
        rnd = self._random
        if rnd.random() < 0.06 and self._born < 45:  # within the budget of the label
            self._born += 1
        program = rnd.choice(["claude", "codex"])
        repository = f"repo{rnd.randrange(self._born)}"
        common = {"program": program, "repository": repository, "at": time.time_ns()}
        amounts: Counter[tuple[str, Key]] = Counter()
        kind = rnd.choice(["command", "command", "prompt", "error", "tokens", "push"])
        if kind == "command":
            failed = rnd.random() < 0.3
            name = rnd.choice(["git status", "pytest", "cargo test"])
            duration_ns = rnd.randrange(1, 5_000_000_000)
            fields = {"command": name, "tool": "exec", "exit_code": int(failed)}
            error = "exit_1" if failed else ""
            amounts[
                "squad.commands", ("error" if failed else "ok", program, repository, "exec")
            ] = 1
            histogram = "squad.command.duration"
            labels = (name, *([error] if error else []), program, "exec")
            amounts[histogram + "#count", labels] = 1
            amounts[histogram + "#sum", labels] = duration_ns
            if failed:
                amounts["squad.errors", ("command", error, program, repository, "error")] = 1
            return {
                **common,
                "type": "command.executed",
                "duration_ns": duration_ns,
                "success": not failed,
                "error_type": error or None,
                "fields": fields,
            }, amounts
        if kind == "prompt":
            amounts["squad.prompts", (program, repository)] = 1
            return {**common, "type": "prompt.sent"}, amounts
        if kind == "error":
            amounts["squad.errors", ("mcp", "Timeout", program, repository, "warning")] = 1
            fields = {"severity": "warning", "component": "mcp"}
            return {**common, "type": "error", "error_type": "Timeout", "fields": fields}, amounts
        if kind == "push":
            amounts["squad.git.operations", ("push", "error", program, repository)] = 1
            return {**common, "type": "git.push", "success": False, "error_type": "exit_1"}, amounts
        counts = {f"{name}_tokens": rnd.randrange(1, 9000) for name in ("input", "output")}
        cost = rnd.randrange(1, 10**9)
        amounts["squad.token.usage", ("m1", program, repository, "input")] = counts["input_tokens"]
        amounts["squad.token.usage", ("m1", program, repository, "output")] = counts[
            "output_tokens"
        ]
        amounts["squad.cost.usage", ("m1", program, repository)] = cost
        return {
            **common,
            "type": "tokens.used",
            "fields": {"model": "m1", "cost_nusd": cost, **counts},
        }, amounts

    def between(self, start: float, end: float) -> Counter[tuple[str, Key]]:
        total: Counter[tuple[str, Key]] = Counter()
        for at, amounts in self.truth:
            if start <= at < end:
                total.update(amounts)
        return total


class Reader:
    """Reads differences as the documentation says: at the last scrapes before both ends."""

    def __init__(self, prometheus: Prometheus, journal: str) -> None:
        self._prometheus = prometheus
        self._journal = journal

    def last_scrape(self, at_s: float) -> float:
        heartbeat = BY_NAME["squad.otel.heartbeat.timestamp"].prometheus
        query = urlencode(
            {"query": f'{heartbeat}{{journal="{self._journal}"}}[5m]', "time": f"{at_s:.3f}"}
        )
        with urllib3.PoolManager() as pool:
            body = pool.request("GET", f"{self._prometheus.url}/api/v1/query?{query}").json()
        (series,) = body["data"]["result"]
        return float(series["values"][-1][0])

    def value(self, name: str, at_s: float) -> dict[Key, float]:
        return self._prometheus.query(
            "max without (job, instance, journal) "
            f'(last_over_time({name}{{journal="{self._journal}"}}[1ms]))',
            at_s,
        )

    def difference(self, name: str, start: float, end: float) -> dict[Key, float]:
        before, after = self.value(name, start), self.value(name, end)
        return {key: value - before.get(key, 0) for key, value in after.items()}


def test_every_counter_equals_the_truth_over_every_period(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    prometheus = Prometheus(
        tmp_path / "prometheus",
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [
                {
                    "job_name": "squad",
                    "static_configs": [{"targets": [f"127.0.0.1:{stack.http_port}"]}],
                }
            ],
        },
    )
    producer = Producer(stack.home)
    with ended(stack.daemon, prometheus):
        stack.start_daemon()
        prometheus.start()
        wait_for(lambda: prometheus.query("up == 1"), "the first scrape")
        producer.start()
        edges = [_quiet_edge()]
        disturbances = [
            lambda: None,
            lambda: _kill_daemon(stack),
            lambda: _kill_prometheus(prometheus),
            lambda: (_kill_daemon(stack), _kill_prometheus(prometheus)),
        ]
        for disturb in disturbances:
            producer.go()
            time.sleep(_PERIOD_S / 2)
            disturb()
            time.sleep(_PERIOD_S / 2)
            producer.pause()
            edges.append(_quiet_edge())
        producer.finish()
        wait_for(lambda: time.time() > edges[-1] + 2, "the last edge")

        per_second = len(producer.truth) / (len(disturbances) * _PERIOD_S)
        assert per_second >= 5, f"only {per_second:.1f} events a second"
        reader = Reader(prometheus, _journal_id(stack))
        spans = [*itertools.pairwise(edges), (edges[0], edges[-1])]
        for start, end in spans:
            _compare(reader, producer.between(start, end), start, end)


def _quiet_edge() -> float:
    time.sleep(_QUIET_S)
    edge = time.time()
    time.sleep(1.5)
    return edge


def _kill_daemon(stack: Stack) -> None:
    stack.daemon.kill()
    time.sleep(3)
    stack.start_daemon()


def _kill_prometheus(prometheus: Prometheus) -> None:
    prometheus.kill()
    time.sleep(3)
    prometheus.start()


def _journal_id(stack: Stack) -> str:
    for line in get(f"{stack.url}/metrics").splitlines():
        if line.startswith(BY_NAME["squad.otel.info"].prometheus):
            return line.split('journal="')[1].split('"')[0]
    raise AssertionError("no info metric")


def _compare(reader: Reader, truth: Counter[tuple[str, Key]], start: float, end: float) -> None:
    first, last = reader.last_scrape(start), reader.last_scrape(end)
    metrics = {name.partition("#")[0] for name, _ in truth}
    assert len(metrics) == 7, "the producer fed every kind of counter in this period"
    for name in sorted(metrics):
        metric = BY_NAME[name]
        parts = ("_count", "_sum") if metric.bounds else ("",)
        for part in parts:
            read = reader.difference(metric.prometheus + part, first, last)
            key = name + part.replace("_", "#")
            expected = {labels: n for (kind, labels), n in truth.items() if kind == key}
            scale = 1 if part == "_count" else metric.scale
            exact = {labels: round(value / scale) for labels, value in read.items()}
            assert {k: v for k, v in exact.items() if v} == expected, (
                f"{metric.prometheus}{part} over {end - start:.1f} s"
            )
