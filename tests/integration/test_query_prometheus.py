"""Four days in a real Prometheus: it must say what the journal says, to the unit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from squad_otel.errors import QueryError
from squad_otel.events import NS
from squad_otel.export import prometheus as exposition
from squad_otel.export.points import points
from squad_otel.gauges import OwnCounts, own_samples
from squad_otel.journal import Journal
from squad_otel.metrics import BY_NAME
from squad_otel.query.journal import JournalBackend
from squad_otel.query.measures import MEASURES, Reading, evaluate, evaluate_by
from squad_otel.query.periods import Calendar
from squad_otel.query.prometheus import PrometheusBackend, promql
from squad_otel.report.sections import build
from tests import week
from tests.stack import Process, Prometheus, ended, free_port, get, program, wait_for
from tests.week import DAY, HOUR, START

pytestmark = pytest.mark.integration

DAYS = 4
END = START + DAYS * DAY
ALL = sorted({measure.metric for measure in MEASURES.values()})
#: Two days without any scrape would hide what this is about; these hours are enough.
GAP = range(START + 2 * DAY + 10 * HOUR, START + 2 * DAY + 15 * HOUR)
#: This Prometheus saw a second journal from its beginning, and the first one late.
LATE = START + DAY + 12 * HOUR


@dataclass
class Recorded:
    """Two homes, and a Prometheus that holds what both showed."""

    home: Path
    other: Path
    url: str
    journal: str
    other_journal: str
    truth: week.Truth
    other_truth: week.Truth


class _Recorder:
    """Writes what /metrics shows each hour as OpenMetrics text with timestamps."""

    def __init__(self, first: int, labels: str) -> None:
        self._first = first
        self._labels = labels
        self.lines: list[str] = []
        self.journal = ""

    def scrape(self, journal: Journal, now: int) -> None:
        self.journal = journal.id
        at = now - 7 * NS  # never exactly at an edge
        if at < self._first or now in GAP:
            return
        journal.release(now, 0)
        samples = own_samples(OwnCounts(), "test", at, journal.created_at, 0)
        body, _ = exposition.render(points(journal.id, journal.shown(), samples), "")
        for line in body.decode().splitlines():
            if line.startswith("#"):
                continue
            series, _, value = line.rpartition(" ")
            # As if two jobs scraped the daemon: it must not count twice.
            for job in ("one", "two"):
                told = series.replace("{", f'{{job="{job}",{self._labels},', 1)
                self.lines.append(f"{told} {value} {at / NS:.3f}")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    late, early = _Recorder(LATE, 'instance="a"'), _Recorder(START, 'instance="b"')
    truth = week.write(folder / "home", DAYS, late.scrape)
    other_truth = week.write(folder / "other", DAYS, early.scrape, lambda name: name + "-b")
    text = folder / "metrics.txt"
    text.write_text("\n".join([*early.lines, *late.lines, "# EOF", ""]))
    data = folder / "prometheus" / "data"
    subprocess.run(
        [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q", text, data],
        check=True,
        capture_output=True,
        timeout=240,
    )
    port = free_port()
    (folder / "prometheus" / "prometheus.yml").write_text("{}")
    server = Process(
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus' / 'prometheus.yml'}",
            f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        folder / "prometheus.log",
        os.environ,
    )
    url = f"http://127.0.0.1:{port}"
    with ended(server):
        server.start()
        wait_for(lambda: get(f"{url}/-/ready"), "Prometheus")
        yield Recorded(
            folder / "home",
            folder / "other",
            url,
            late.journal,
            early.journal,
            truth,
            other_truth,
        )


def answers(reading: Reading | None) -> dict[str, object]:
    return {name: evaluate(measure, reading) for name, measure in MEASURES.items()}


def by_journal(home: Path, since: int, until: int) -> Reading | None:
    backend = JournalBackend(home, END)
    try:
        return backend.read(ALL, (since, until))[0]
    finally:
        backend.close()


def by_prometheus(url: str, journal: str | None, since: int, until: int) -> Reading | None:
    backend = PrometheusBackend(url, END, journal)
    try:
        return backend.read(ALL, (since, until))[0]
    finally:
        backend.close()


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (START + 2 * DAY, START + 3 * DAY),
        (START + 2 * DAY, END),
        (START + 3 * DAY, END + 3 * DAY),  # it still runs
        (START, END),  # since the journal began
        (START - 5 * DAY, END),
    ],
)
def test_every_measure_is_what_the_journal_says(recorded: Recorded, since: int, until: int) -> None:
    ours = answers(by_journal(recorded.other, since, until))
    theirs = answers(by_prometheus(recorded.url, recorded.other_journal, since, until))
    assert theirs == ours
    assert ours["commands"], "there must be something to compare"


def test_and_so_for_every_group(recorded: Recorded) -> None:
    ours = by_journal(recorded.other, START + DAY, START + 3 * DAY)
    theirs = by_prometheus(recorded.url, recorded.other_journal, START + DAY, START + 3 * DAY)
    for measure in MEASURES.values():
        labels = BY_NAME[measure.metric].labels
        for by in (labels, labels[:1]):
            told = {key: value for key, value in evaluate_by(measure, theirs, by).items() if value}
            assert told == {k: v for k, v in evaluate_by(measure, ours, by).items() if v}


def test_both_ends_are_scrapes_and_are_said(recorded: Recorded) -> None:
    reading = by_prometheus(
        recorded.url, recorded.other_journal, START + 2 * DAY + 90 * NS, START + 3 * DAY
    )
    assert reading is not None
    assert (reading.since, reading.until) == (START + 2 * DAY - 7 * NS, START + 3 * DAY - 7 * NS)


def test_an_end_in_a_gap_moves_to_the_last_scrape_before_it(recorded: Recorded) -> None:
    in_gap = START + 2 * DAY + 12 * HOUR
    seen = START + 2 * DAY + 9 * HOUR - 7 * NS
    reading = by_prometheus(recorded.url, recorded.other_journal, START + 2 * DAY, in_gap)
    assert reading is not None
    assert reading.until == seen
    expected = len(recorded.other_truth.of(week.Command, START + 2 * DAY, seen))
    assert evaluate(MEASURES["commands"], reading) == expected
    # What happened in the gap is in the period that begins there.
    after = by_prometheus(recorded.url, recorded.other_journal, in_gap, START + 3 * DAY)
    whole = by_journal(recorded.other, START + 2 * DAY, START + 3 * DAY)
    total = evaluate(MEASURES["commands"], after)
    assert total is not None
    assert expected + total == evaluate(MEASURES["commands"], whole)


def test_a_prometheus_that_began_late_says_from_when_it_covers(recorded: Recorded) -> None:
    """The journal is older than the period's beginning, the first scrape younger."""
    reading = by_prometheus(recorded.url, recorded.journal, START + DAY, START + 3 * DAY)
    assert reading is not None
    first = LATE + HOUR - 7 * NS
    assert reading.since == first
    assert evaluate(MEASURES["commands"], reading) == len(
        recorded.truth.of(week.Command, first, START + 3 * DAY)
    )
    # A journal younger than the period began at nothing, whenever the first scrape came.
    whole = by_prometheus(recorded.url, recorded.journal, START - DAY, END)
    assert whole is not None
    assert whole.since == START
    assert answers(whole) == answers(by_journal(recorded.home, START - DAY, END))


def test_all_journals_together(recorded: Recorded) -> None:
    since, until = START + 3 * DAY, END
    reading = by_prometheus(recorded.url, None, since, until)
    commands = len(recorded.truth.of(week.Command, since, until))
    others = len(recorded.other_truth.of(week.Command, since, until))
    assert evaluate(MEASURES["commands"], reading) == commands + others


def test_nothing_is_known_before_and_after(recorded: Recorded) -> None:
    for since, until in ((START - 9 * DAY, START - DAY), (END + DAY, END + 2 * DAY)):
        assert by_prometheus(recorded.url, recorded.other_journal, since, until) is None
    assert by_prometheus(recorded.url, "00000000", START, END) is None


def test_reports_of_both_sources_agree(recorded: Recorded) -> None:
    calendar = Calendar()
    now = END
    period = calendar.custom(START + DAY, START + 3 * DAY, now)
    journal = JournalBackend(recorded.other, now)
    ours = build(journal, calendar, period, now)
    journal.close()
    prometheus = PrometheusBackend(recorded.url, now, recorded.other_journal)
    theirs = build(prometheus, calendar, period, now)
    assert theirs.headlines == ours.headlines
    for section in theirs.sections:
        if section.key == "sessions":
            assert not section.covered
        elif section.key == "repositories":
            columns = ours.section(section.key).columns
            assert section.columns == columns[:-1]
            assert "P95 by repository: only from the journal" in section.note
            rows = [row[:-1] for row in ours.section(section.key).rows]
            assert list(section.rows) == rows
        elif section.key != "activity":  # its hours hold edges that are not quiet
            assert section.rows == ours.section(section.key).rows
    columns = [column.key for column in theirs.section("activity").columns]
    told = [row[columns.index("commands")] for row in theirs.section("activity").rows]
    assert sum(n for n in told if isinstance(n, int)) == theirs.headline("commands").value
    assert told.count(None) == len(GAP) // HOUR


def test_percentiles_are_those_of_histogram_quantile(recorded: Recorded) -> None:
    server = Prometheus.__new__(Prometheus)  # only to ask
    server.url = recorded.url
    metric = BY_NAME["squad.command.duration"]
    since, until = START + 2 * DAY, START + 3 * DAY
    reading = by_prometheus(recorded.url, recorded.other_journal, since, until)
    assert reading is not None
    labels = (*metric.labels, "le")
    ends = [
        promql(f"{metric.prometheus}_bucket", recorded.other_journal, labels, at // 1_000_000)
        for at in (reading.until, reading.since)
    ]
    for measure in MEASURES.values():
        if measure.metric != metric.name or not measure.quantile:
            continue
        answer = server.query(
            f"histogram_quantile({measure.quantile}, "
            f"sum by (le) ({ends[0]} - ({ends[1]} or {ends[0]} * 0)))",
            END / NS,
        )
        assert evaluate(measure, reading) == pytest.approx(answer[()] * 1e9, rel=1e-9)


def test_who_does_not_answer_is_named(recorded: Recorded) -> None:
    port = free_port()
    with pytest.raises(QueryError, match=f"no answer from Prometheus at http://127.0.0.1:{port}"):
        by_prometheus(f"http://127.0.0.1:{port}", "x", START, END)
    with pytest.raises(QueryError, match="not like Prometheus"):
        by_prometheus(f"{recorded.url}/nowhere", "x", START, END)
    with pytest.raises(QueryError, match="refuses"):
        PrometheusBackend(recorded.url, END, "x").values("no name", "x", (), 0)
