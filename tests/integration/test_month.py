"""A month in real Prometheis: each says what the journal says, or differs by what lay at the edge.

The numbers come from the generator: by when things happened for the journal, by the scrape that
was the first to show them for Prometheus. SQUAD_OTEL_SEED gives another month.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from squad_otel.events import NS
from squad_otel.metrics import METRICS
from squad_otel.query.journal import JournalBackend
from squad_otel.query.measures import MEASURES, Reading, Unit, add_up, evaluate, evaluate_by
from squad_otel.query.periods import Calendar, Period
from squad_otel.query.prometheus import PrometheusBackend
from squad_otel.report.render import render
from squad_otel.report.sections import Cost, Report, build
from tests.month import (
    DAY,
    END,
    HOLD_NS,
    LATE,
    MINUTE,
    REPLACED,
    SCRAPE_NS,
    START,
    ZONES,
    Increment,
    Life,
    Month,
    Scrape,
    midnights,
)
from tests.stack import Process, ended, free_port, get, program, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

_SEED = int(os.environ.get("SQUAD_OTEL_SEED", "20251026"))
COUNTED = {metric.name: metric for metric in METRICS if metric.feeds}
#: Label values of one series, in the order of the metric's labels.
Key = tuple[str, ...]
Cell = tuple[int, int, tuple[int, ...]]  # total, count, buckets


@dataclass
class Recorded:
    """The month, and where each Prometheus answers: the one, the late one, both in one store."""

    month: Month
    urls: Mapping[str, str]

    def scrapes(self, server: str, life: Life) -> list[Scrape]:
        """Those of the life's journal that this server holds, in the order of their stamps."""
        found = [
            scrape
            for recorder in self.month.recorders
            if recorder.name in server
            for scrape in recorder.scrapes.get(life.id, ())
        ]
        return sorted(found, key=lambda scrape: scrape.wall)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    print(f"SQUAD_OTEL_SEED={_SEED}")
    folder = tmp_path_factory.mktemp("month")
    month = Month(folder, _SEED)
    month.run()
    for recorder in month.recorders:
        text = folder / f"{recorder.name}.txt"
        text.write_text(recorder.text())
        _load(text, folder / recorder.name)
        shutil.copytree(folder / recorder.name, folder / "ab", dirs_exist_ok=True)
    with ExitStack() as running:
        yield Recorded(month, {name: _serve(folder / name, running) for name in ("a", "b", "ab")})


def _load(text: Path, data: Path) -> None:
    # Each block costs one reading of the whole text: make it one block, not one of each two hours.
    load = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q"]
    subprocess.run(
        [*load, "--max-block-duration=1500h", text, data],
        check=True,
        capture_output=True,
        timeout=240,
    )


def _serve(data: Path, running: ExitStack) -> str:
    port = free_port()
    config = data.with_suffix(".yml")
    config.write_text("{}")
    server = Process(
        [
            program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        data.with_suffix(".log"),
        os.environ,
    )
    running.enter_context(ended(server))
    server.start()
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: get(f"{url}/-/ready"), "Prometheus")
    return url


# -- the truth --------------------------------------------------------------------------------


def happened(life: Life, since: int, until: int) -> list[Increment]:
    return [i for i in life.increments if since <= i.occurred_at < until]


def appeared(life: Life, scrapes: Sequence[Scrape], reading: Reading | None) -> list[Increment]:
    """What the scrape at the end of a reading shows, but not the one at its beginning.

    The journal's own beginning shows nothing yet.
    """
    if reading is None:
        return []
    by_stamp = {scrape.wall: scrape for scrape in scrapes}
    end, begin = by_stamp[reading.until], by_stamp.get(reading.since)
    if begin is None:
        assert reading.since == life.created_at
    return [i for i in life.increments if shows(end, i) and not (begin and shows(begin, i))]


def shows(scrape: Scrape, increment: Increment) -> bool:
    shown = increment.shown.get(scrape.recorder)
    return shown is not None and shown <= scrape.true


def bucket(bounds: Sequence[float], value: int) -> int:
    return sum(value > round(bound * 1e9) for bound in bounds)


def table(increments: Sequence[Increment]) -> dict[tuple[str, Key], Cell]:
    """What each series gained."""
    totals: Counter[tuple[str, Key]] = Counter()
    buckets: dict[tuple[str, Key], Counter[int]] = {}
    for increment in increments:
        key = (increment.metric, tuple(value for _, value in increment.labels))
        totals[key] += increment.amount
        bounds = COUNTED[increment.metric].bounds
        if bounds:
            buckets.setdefault(key, Counter())[bucket(bounds, increment.amount)] += 1
    return {
        key: (
            total,
            buckets[key].total() if key in buckets else 0,
            tuple(buckets[key][i] for i in range(len(COUNTED[key[0]].bounds) + 1))
            if key in buckets
            else (),
        )
        for key, total in totals.items()
    }


def truly(name: str, increments: Sequence[Increment]) -> int | float | None:
    """What a measure is, from the single things that happened."""
    measure = MEASURES[name]
    own = [i for i in increments if i.metric == measure.metric]
    meant = [i for i in own if measure.where.items() <= dict(i.labels).items()]
    bounds = COUNTED[measure.metric].bounds

    def amount(some: Sequence[Increment]) -> int:
        return len(some) if bounds else sum(i.amount for i in some)

    match measure.aggregate:
        case "total":
            return amount(meant)
        case "share":
            return amount(meant) / amount(own) if own else None
        case "mean":
            return round(sum(i.amount for i in meant) / len(meant)) if meant else None
    return interpolated(measure.quantile, bounds, [i.amount for i in meant])


def interpolated(share: float, bounds: Sequence[float], lengths: Sequence[int]) -> int | None:
    """A quantile, as far as buckets tell: linear in the one that it lies in."""
    if not lengths:
        return None
    rank, low = share * len(lengths), 0.0
    for bound in bounds:
        below = sum(length <= round(low * 1e9) for length in lengths)
        inside = sum(length <= round(bound * 1e9) for length in lengths) - below
        if below + inside >= rank:
            return round((low + (bound - low) * ((rank - below) / inside)) * 1e9)
        low = bound
    return round(bounds[-1] * 1e9)


# -- what the backends say --------------------------------------------------------------------


def gained(reading: Reading | None) -> dict[tuple[str, Key], Cell]:
    """The gains of a reading by the labels that the metrics carry."""
    found: dict[tuple[str, Key], Cell] = {}
    for name, gains in ({} if reading is None else reading.gains).items():
        for gain in gains:
            key = (name, tuple(gain.labels[label] for label in COUNTED[name].labels))
            total, count, buckets = found.get(key, (0, 0, (0,) * len(gain.buckets)))
            summed = tuple(a + b for a, b in zip(buckets, gain.buckets, strict=True))
            found[key] = (total + gain.total, count + gain.count, summed)
    return {key: cell for key, cell in found.items() if cell[0] or cell[1]}


def from_journal(life: Life, edges: Sequence[int]) -> tuple[Reading | None, list[Reading | None]]:
    backend = JournalBackend(life.home, END)
    try:
        return backend.read(list(COUNTED), edges, list(COUNTED))
    finally:
        backend.close()


def from_prometheus(
    url: str, journal: str | None, edges: Sequence[int]
) -> tuple[Reading | None, list[Reading | None]]:
    backend = PrometheusBackend(url, END, journal)
    try:
        return backend.read(list(COUNTED), edges, list(COUNTED) if len(edges) > 2 else ())
    finally:
        backend.close()


def alike(unit: Unit, told: object, truth: object) -> bool:
    """The same; but a mean or a percentile that is no integer may be rounded either way."""
    if unit is not Unit.DURATION or told is None or truth is None:
        return told == truth
    return abs(told - truth) <= 1  # type: ignore[operator]  # integers


def check_measures(reading: Reading | None, increments: Sequence[Increment]) -> None:
    """Every measure, as one number and by each label that its metric carries."""
    for name, measure in MEASURES.items():
        assert alike(measure.unit, evaluate(measure, reading), truly(name, increments)), name
        own = [i for i in increments if i.metric == measure.metric]
        for label in COUNTED[measure.metric].labels:
            told = evaluate_by(measure, reading, (label,))
            assert set(told) == {(dict(i.labels)[label],) for i in own}
            for (value,), number in told.items():
                group = [i for i in own if dict(i.labels)[label] == value]
                assert alike(measure.unit, number, truly(name, group)), (name, value)


# -- periods ----------------------------------------------------------------------------------


def periods(zone: str) -> list[Period]:
    """Every day, week and month that the month of the test touches."""
    calendar = Calendar(ZoneInfo(zone))
    first = datetime.fromtimestamp(START / NS, UTC).date()
    days = [first + timedelta(days=n) for n in range((END - START) // DAY)]
    found = {
        calendar.period(kind, day, END) for day in days for kind in ("daily", "weekly", "monthly")
    }
    return sorted((p for p in found if p.since < END), key=lambda p: (p.since, p.until))


def before(scrapes: Sequence[Scrape], moment: int) -> Scrape | None:
    """The last one at or before a moment."""
    place = bisect_right(scrapes, moment, key=lambda scrape: scrape.wall)
    return scrapes[place - 1] if place else None


def covered(
    life: Life, scrapes: Sequence[Scrape], since: int, until: int
) -> tuple[int, int] | None:
    """Between which moments a period is read, by the rule.

    The last scrapes before its ends; but at the beginning the journal's own, if that is younger,
    and the first scrape after it, if there was none for as long as the period (a day at least).
    """
    last = before(scrapes, until)
    if last is None or last.wall <= since:
        return None
    if life.created_at >= since:
        return life.created_at, last.wall
    first = before(scrapes, since)
    if first is None or first.wall < since - max(until - since, DAY):
        first = next(scrape for scrape in scrapes if scrape.wall > since)
    return first.wall, last.wall


def quiet(life: Life, scrapes: Sequence[Scrape], edge: int) -> bool:
    """Nothing happened or was counted within the hold and two scrapes of it.

    And there were scrapes all the time, by a clock that ran evenly.
    """
    if edge <= life.created_at:
        return True
    near = HOLD_NS + 2 * SCRAPE_NS
    seen = [s for s in scrapes if edge - near <= s.wall < edge + near]
    steps = [(b.wall - a.wall, b.true - a.true) for a, b in pairwise(seen)]
    if len(seen) < 6 or any(wall != true or wall > SCRAPE_NS for wall, true in steps):
        return False
    return not any(
        edge - near <= moment < edge + near
        for i in life.increments
        for moment in (i.occurred_at, i.folded_at or 0)
    )


# -- the tests --------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_the_journal_is_the_truth(recorded: Recorded, zone: str) -> None:
    calendar = Calendar(ZoneInfo(zone))
    borders = set(midnights(zone))
    for period in periods(zone):
        assert {period.since, period.until} <= borders
        for life in recorded.month.lives:
            edges = calendar.edges(period)
            reading, slices = from_journal(life, edges)
            increments = happened(life, period.since, period.until)
            if reading is None:
                assert not increments
                continue
            assert gained(reading) == table(increments), period
            check_measures(reading, increments)
            for part, since, until in zip(slices, edges, edges[1:], strict=False):
                assert gained(part) == table(happened(life, since, until))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("server", ["a", "b", "ab"])
def test_prometheus_is_exact_between_the_scrapes_that_it_names(
    recorded: Recorded, server: str, zone: str
) -> None:
    """And equal to the journal where both edges are quiet."""
    equal = 0
    for period, life in itertools.product(periods(zone), recorded.month.lives):
        scrapes = recorded.scrapes(server, life)
        reading, _ = from_prometheus(recorded.urls[server], life.id, (period.since, period.until))
        expected = covered(life, scrapes, period.since, period.end)
        if reading is None:
            assert expected is None
            continue
        assert (reading.since, reading.until) == expected, period
        increments = appeared(life, scrapes, reading)
        assert gained(reading) == table(increments), period
        check_measures(reading, increments)
        if all(quiet(life, scrapes, edge) for edge in (period.since, period.end)):
            journal, _ = from_journal(life, (period.since, period.until))
            assert gained(reading) == gained(journal), period
            assert answers(reading) == answers(journal), period
            equal += bool(increments)
        else:
            ours = happened(life, period.since, period.until)
            assert_at_the_edges(ours, increments, period, reading)
    assert equal, "there must be quiet edges"


def answers(reading: Reading | None) -> list[object]:
    return [evaluate(measure, reading) for measure in MEASURES.values()]


def assert_at_the_edges(
    ours: Sequence[Increment], theirs: Sequence[Increment], period: Period, reading: Reading
) -> None:
    """What only one of both counts happened, or was told, at an edge, or between it and the scrape.

    The farthest is what a clock that is set back by an hour makes wait for so long.
    """
    near = 75 * MINUTE
    for increment in set(ours) ^ set(theirs):
        assert any(
            min(ends) - near <= moment <= max(ends) + near
            for ends in ((period.since, reading.since), (period.end, reading.until))
            for moment in (increment.occurred_at, increment.folded_at or 0)
        ), (period, increment)


@pytest.mark.parametrize("server", ["a", "b", "ab"])
def test_the_days_of_a_month_are_read_alike_and_make_the_month(
    recorded: Recorded, server: str
) -> None:
    calendar = Calendar(ZoneInfo("Europe/Berlin"))
    edges = calendar.edges(calendar.period("monthly", date(2025, 10, 9), END))
    assert len(edges) == 32
    for life in recorded.month.lives:
        scrapes = recorded.scrapes(server, life)
        whole, days = from_prometheus(recorded.urls[server], life.id, edges)
        for day in days:
            if day is not None:
                assert gained(day) == table(appeared(life, scrapes, day))
        assert gained(add_up(days)) == gained(whole)
        assert whole is not None
        assert gained(whole) == table(appeared(life, scrapes, whole))


@pytest.mark.parametrize("server", ["a", "b", "ab"])
@pytest.mark.parametrize("kind", ["daily", "weekly", "monthly"])
def test_all_journals_add_up(recorded: Recorded, server: str, kind: str) -> None:
    """The day, week and month in which one was replaced by the other."""
    old, new = recorded.month.lives
    period = Calendar(ZoneInfo("Europe/Berlin")).period(kind, date(2025, 10, 28), END)
    edges = (period.since, period.until)
    both, _ = from_prometheus(recorded.urls[server], None, edges)
    parts = [from_prometheus(recorded.urls[server], life.id, edges)[0] for life in (old, new)]
    assert both is not None
    assert gained(both) == table(
        [
            increment
            for life, part in zip((old, new), parts, strict=True)
            for increment in appeared(life, recorded.scrapes(server, life), part)
        ]
    )
    assert all(gained(part) for part in parts)


def test_a_late_prometheus_reports_from_when_it_covers(recorded: Recorded) -> None:
    """The day on which it began; the journal is older."""
    life, calendar = recorded.month.lives[0], Calendar(ZoneInfo("Europe/Berlin"))
    scrapes = recorded.scrapes("b", life)
    first = scrapes[0].wall
    assert first >= LATE
    report = built(recorded.urls["b"], life.id, calendar, "daily", date(2025, 10, 10))
    assert report.covered is not None
    assert report.covered[0] == first
    assert f"Covered from {calendar.moment(first)}." in render(report, "markdown")
    assert_headlines(report, appeared(life, scrapes, Reading(*report.covered, {})))


@pytest.mark.parametrize("source", ["journal", "a", "b", "ab"])
def test_a_new_journal_reports_from_when_it_began(recorded: Recorded, source: str) -> None:
    old, new = recorded.month.lives
    assert new.id != old.id
    assert new.created_at == REPLACED
    calendar, day = Calendar(ZoneInfo("Europe/Berlin")), date(2025, 10, 28)
    if source == "journal":
        backend = JournalBackend(new.home, END)
        report = build(backend, calendar, calendar.period("daily", day, END), END)
        backend.close()
    else:
        report = built(recorded.urls[source], new.id, calendar, "daily", day)
    assert report.covered is not None
    assert report.covered[0] == REPLACED
    assert f"Covered from {calendar.moment(REPLACED)}." in render(report, "markdown")
    if source == "journal":
        assert_headlines(report, happened(new, REPLACED, report.period.until))
    else:
        scrapes = recorded.scrapes(source, new)
        assert_headlines(report, appeared(new, scrapes, Reading(*report.covered, {})))


def test_a_prometheus_that_was_down_at_the_end_reports_until_when(recorded: Recorded) -> None:
    life, calendar = recorded.month.lives[1], Calendar(ZoneInfo("Europe/Berlin"))
    report = built(recorded.urls["a"], life.id, calendar, "monthly", date(2025, 10, 9))
    last = before(recorded.scrapes("a", life), report.period.until)
    assert last is not None
    assert report.covered == (REPLACED, last.wall)
    begin, end = calendar.moment(REPLACED), calendar.moment(last.wall)
    assert f"Covered from {begin} until {end}." in render(report, "markdown")


def built(url: str, journal: str, calendar: Calendar, kind: str, day: date) -> Report:
    backend = PrometheusBackend(url, END, journal)
    try:
        return build(backend, calendar, calendar.period(kind, day, END), END)
    finally:
        backend.close()


def assert_headlines(report: Report, increments: Sequence[Increment]) -> None:
    assert len(increments) > 9
    for headline in report.headlines:
        value = headline.value.nusd if isinstance(headline.value, Cost) else headline.value
        expected = truly(headline.key, increments)
        assert alike(headline.unit, value, expected), headline.key
