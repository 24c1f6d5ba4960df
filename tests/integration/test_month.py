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
    REPLACED,
    SCRAPE_NS,
    START,
    ZONES,
    Increment,
    Life,
    Month,
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

    def stamps(self, server: str, life: Life) -> list[int]:
        """When the life's journal was scraped, by what this server holds."""
        return sorted(
            stamp
            for recorder in self.month.recorders
            if recorder.name in server
            for stamp in recorder.stamps.get(life.id, ())
        )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    print(f"SQUAD_OTEL_SEED={_SEED}")
    folder = tmp_path_factory.mktemp("month")
    month = Month(folder, _SEED)
    month.run()
    for recorder in month.recorders:
        text = folder / f"{recorder.name}.txt"
        text.write_text("".join([*recorder.lines, "# EOF\n"]))
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


def first_shown(increment: Increment, server: str) -> int | None:
    """The first scrape that showed it, of the Prometheis whose samples this server holds."""
    return min((increment.shown[name] for name in server if name in increment.shown), default=None)


def appeared(life: Life, server: str, reading: Reading | None) -> list[Increment]:
    """What the scrapes from a reading's beginning to its end were the first to show.

    From the journal's beginning on it is everything, whenever that was.
    """
    if reading is None:
        return []
    since = 0 if reading.since <= life.created_at else reading.since
    return [
        increment
        for increment in life.increments
        if since < (first_shown(increment, server) or 0) <= reading.until
    ]


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


def before(stamps: Sequence[int], moment: int) -> int | None:
    """The last scrape at or before a moment."""
    place = bisect_right(stamps, moment)
    return stamps[place - 1] if place else None


def covered(life: Life, stamps: Sequence[int], since: int, until: int) -> tuple[int, int] | None:
    """Which two scrapes a period is read at, by the rule.

    The last ones before its ends; but at the beginning the journal's own, if that is younger, and
    the first scrape after it, if there was none for as long as the period (a day at least).
    """
    last = before(stamps, until)
    if last is None or last <= since:
        return None
    if life.created_at >= since:
        return life.created_at, last
    first = before(stamps, since)
    if first is None or first < since - max(until - since, DAY):
        first = next(stamp for stamp in stamps if stamp > since)
    return first, last


def quiet(life: Life, stamps: Sequence[int], edge: int) -> bool:
    """Nothing happened or was counted within the hold and two scrapes; and scrapes there were."""
    if edge <= life.created_at:
        return True
    near = HOLD_NS + 2 * SCRAPE_NS
    scrapes = [s for s in stamps if edge - near <= s <= edge + near]
    if len(scrapes) < 5 or max(s for s in (scrapes or [0]) if s <= edge) < edge - SCRAPE_NS:
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
        stamps = recorded.stamps(server, life)
        reading, _ = from_prometheus(recorded.urls[server], life.id, (period.since, period.until))
        expected = covered(life, stamps, period.since, period.end)
        if reading is None:
            assert expected is None
            continue
        assert (reading.since, reading.until) == expected, period
        increments = appeared(life, server, reading)
        assert gained(reading) == table(increments), period
        check_measures(reading, increments)
        if all(quiet(life, stamps, edge) for edge in (period.since, period.end)):
            ours, _ = from_journal(life, (period.since, period.until))
            assert gained(reading) == gained(ours), period
            assert answers(reading) == answers(ours), period
            equal += bool(increments)
        else:
            assert_at_the_edges(life, server, period, reading)
    assert equal >= 3, "there must be quiet edges"


def answers(reading: Reading | None) -> list[object]:
    return [evaluate(measure, reading) for measure in MEASURES.values()]


def assert_at_the_edges(life: Life, server: str, period: Period, reading: Reading) -> None:
    """What only one of both counts was on its way when the period, or its reading, began or ended.

    Or it lies between the two: where the reading begins late.
    """
    ours = set(happened(life, period.since, period.until))
    for increment in ours ^ set(appeared(life, server, reading)):
        first = first_shown(increment, server) or END
        low, high = sorted((increment.occurred_at, first))
        assert any(
            low <= max(ends) and high >= min(ends)
            for ends in ((period.since, reading.since), (period.end, reading.until))
        ), (period, increment)


@pytest.mark.parametrize("server", ["a", "b", "ab"])
def test_the_days_of_a_month_are_read_alike_and_make_the_month(
    recorded: Recorded, server: str
) -> None:
    calendar = Calendar(ZoneInfo("Europe/Berlin"))
    edges = calendar.edges(calendar.period("monthly", date(2025, 10, 9), END))
    assert len(edges) == 32
    for life in recorded.month.lives:
        whole, days = from_prometheus(recorded.urls[server], life.id, edges)
        for day in days:
            if day is not None:
                assert gained(day) == table(appeared(life, server, day))
        assert gained(add_up(days)) == gained(whole)
        assert whole is not None
        assert gained(whole) == table(appeared(life, server, whole))


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
            for increment in appeared(life, server, part)
        ]
    )
    assert all(
        len(appeared(life, server, p)) > 9 for life, p in zip((old, new), parts, strict=True)
    )


def test_a_late_prometheus_reports_from_when_it_covers(recorded: Recorded) -> None:
    """The day on which it began; the journal is older."""
    life, calendar = recorded.month.lives[0], Calendar(ZoneInfo("Europe/Berlin"))
    first = recorded.stamps("b", life)[0]
    assert first >= LATE
    report = built(recorded.urls["b"], life.id, calendar, "daily", date(2025, 10, 10))
    assert report.covered is not None
    assert report.covered[0] == first
    assert f"Covered from {calendar.moment(first)}." in render(report, "markdown")
    since, until = report.covered
    assert_headlines(report, [i for i in life.increments if since < i.shown.get("b", 0) <= until])


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
    midnight = report.period.until
    if source == "journal":
        assert_headlines(report, happened(new, REPLACED, midnight))
    else:
        reading, _ = from_prometheus(recorded.urls[source], new.id, (report.period.since, midnight))
        assert_headlines(report, appeared(new, source, reading))


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
