"""Days, weeks and months in time zones whose clocks change."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squad_otel.errors import QueryError
from squad_otel.events import NS
from squad_otel.query.periods import KINDS, WEEKDAYS, Calendar

BERLIN = Calendar(ZoneInfo("Europe/Berlin"))
HOUR = 3600 * NS


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


LATE = utc("2030-01-01T00:00")


@pytest.mark.parametrize(
    ("day", "since", "until"),
    [
        (date(2026, 11, 26), "2026-11-25T23:00", "2026-11-26T23:00"),
        (date(2026, 3, 29), "2026-03-28T23:00", "2026-03-29T22:00"),  # 23 hours
        (date(2026, 10, 25), "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
    ],
)
def test_a_day_goes_from_local_midnight_to_local_midnight(
    day: date, since: str, until: str
) -> None:
    period = BERLIN.period("daily", day, LATE)
    assert (period.since, period.until) == (utc(since), utc(until))
    assert len(BERLIN.edges(period)) - 1 == (utc(until) - utc(since)) // HOUR


def test_a_week_in_which_the_clocks_change_has_seven_days() -> None:
    period = BERLIN.period("weekly", date(2026, 10, 25), LATE)
    assert (period.since, period.until) == (utc("2026-10-18T22:00"), utc("2026-10-25T23:00"))
    lengths = [(b - a) // HOUR for a, b in pairwise(BERLIN.edges(period))]
    assert lengths == [24] * 6 + [25]


def test_midnight_that_the_clocks_skip_is_where_the_day_begins() -> None:
    santiago = Calendar(ZoneInfo("America/Santiago"))  # 24:00 of 5 September became 01:00
    period = santiago.period("daily", date(2026, 9, 6), LATE)
    assert (period.until - period.since) // HOUR == 23
    assert santiago.local(period.since) == datetime(2026, 9, 6, 1, 0)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("day", "first", "title"),
    [
        # ISO: the year's last days may belong to week 1, its first to week 52 or 53.
        (date(2027, 1, 1), "2026-12-28", "Week 53, 28 December 2026 \N{EN DASH} 3 January 2027"),
        (date(2025, 12, 31), "2025-12-29", "Week 1, 29 December 2025 \N{EN DASH} 4 January 2026"),
        (date(2026, 11, 26), "2026-11-23", "Week 48, 23\N{EN DASH}29 November 2026"),
        (date(2026, 4, 1), "2026-03-30", "Week 14, 30 March \N{EN DASH} 5 April 2026"),
    ],
)
def test_weeks_are_those_of_iso_8601(day: date, first: str, title: str) -> None:
    period = Calendar(UTC).period("weekly", day, LATE)
    assert period.since == utc(first)
    assert period.until - period.since == 7 * 24 * HOUR
    assert period.title == title


def test_a_week_may_begin_on_another_day() -> None:
    period = Calendar(UTC, "sunday").period("weekly", date(2026, 11, 26), LATE)
    assert period.since == utc("2026-11-22")
    assert period.title == "Week of 22\N{EN DASH}28 November 2026"


def test_months_have_their_length() -> None:
    period = Calendar(UTC).period("monthly", date(2028, 2, 29), LATE)
    assert (period.since, period.until) == (utc("2028-02-01"), utc("2028-03-01"))
    december = Calendar(UTC).period("monthly", date(2026, 12, 31), LATE)
    assert (december.since, december.until) == (utc("2026-12-01"), utc("2027-01-01"))
    assert len(Calendar(UTC).edges(december)) == 32


def test_a_running_period_is_compared_with_the_same_part_of_the_one_before() -> None:
    now = utc("2026-10-28T09:30")  # Wednesday 10:30 in Berlin, after the clocks went back
    period = BERLIN.current("weekly", now)
    assert period.running
    assert period.end == now
    before = BERLIN.before(period, now)
    assert before.since == utc("2026-10-18T22:00")
    assert before.end == utc("2026-10-21T08:30")  # Wednesday 10:30 in summer time
    assert before.title.endswith("until Wed 21 Oct 2026 10:30")


def test_the_part_of_a_shorter_month_ends_with_it() -> None:
    now = utc("2026-03-31T12:00")
    before = Calendar(UTC).before(Calendar(UTC).current("monthly", now), now)
    assert (before.since, before.end) == (utc("2026-02-01"), utc("2026-03-01"))


def test_a_period_that_is_over_is_compared_with_the_whole_one_before() -> None:
    period = BERLIN.previous("monthly", utc("2026-11-26"))
    assert period.title == "October 2026"
    assert not period.running
    before = BERLIN.before(period, utc("2026-11-26"))
    assert before.title == "September 2026"
    assert (before.until, before.end) == (period.since, period.since)


def test_any_other_period_is_compared_with_the_same_length_before() -> None:
    now = utc("2026-11-26T12:00")
    period = Calendar(UTC).custom(utc("2026-11-20"), utc("2026-11-22"), now)
    before = Calendar(UTC).before(period, now)
    assert (before.since, before.end) == (utc("2026-11-18"), utc("2026-11-20"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-26T12:00"),
        ("90m", "2026-11-26T10:30"),
        ("24h", "2026-11-25T12:00"),
        ("7d", "2026-11-19T12:00"),
        ("2w", "2026-11-12T12:00"),
        ("2026-11-26", "2026-11-25T23:00"),
        ("2026-11-26T10:00", "2026-11-26T09:00"),
        ("2026-11-26T10:00:00Z", "2026-11-26T10:00"),
        ("2026-11-26 10:00-05:00", "2026-11-26T15:00"),
    ],
)
def test_times_as_people_write_them(text: str, expected: str) -> None:
    assert BERLIN.parse(text, utc("2026-11-26T12:00")) == utc(expected)


@pytest.mark.parametrize("text", ["", "yesterday", "7", "d", "-3d", "2026-13-01", "7 days"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(QueryError, match=r"write 7d, 24h"):
        BERLIN.parse(text, LATE)


@pytest.mark.parametrize("text", ["999999w", "1969-12-01", "0001-01-02", "9999-01-01"])
def test_a_time_that_no_journal_reaches_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="1970 to 2200"):
        BERLIN.parse(text, LATE)


def test_empty_and_future_periods_are_refused() -> None:
    now = utc("2026-11-26")
    with pytest.raises(QueryError, match="empty"):
        BERLIN.custom(now - HOUR, now - HOUR, now)
    with pytest.raises(QueryError, match="future"):
        BERLIN.custom(now + HOUR, now + 2 * HOUR, now)


def test_without_a_zone_the_machines_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        period = Calendar().period("daily", date(2026, 11, 1), LATE)  # the clocks go back
        assert (period.since, period.until) == (utc("2026-11-01T04:00"), utc("2026-11-02T05:00"))
        assert len(Calendar().edges(period)) - 1 == 25
        assert Calendar().zone_name(period.since) == "EDT"
        assert Calendar().iso(period.until) == "2026-11-02T00:00:00-05:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@given(
    st.datetimes(datetime(2001, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(KINDS),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.sampled_from(WEEKDAYS),
)
def test_periods_leave_no_gap_and_slices_fill_them(
    moment: datetime, kind: str, zone: str, week_start: str
) -> None:
    calendar = Calendar(ZoneInfo(zone), week_start)
    now = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * NS
    period = calendar.current(kind, now)
    assert period.since <= now < period.until
    assert calendar.previous(kind, now).until == period.since
    before = calendar.before(period, now)
    assert before.since <= before.end <= period.since
    edges = calendar.edges(period)
    assert (edges[0], edges[-1]) == (period.since, period.until)
    assert list(edges) == sorted(set(edges))
