"""Periods: days, weeks and months in a time zone, the period before, and the slices of a picture.

Built from local midnights, so that a day on which the clocks change has its 23 or 25 hours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from squad_otel.errors import QueryError
from squad_otel.events import NS

KINDS = ("daily", "weekly", "monthly")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_NS = (datetime(2200, 1, 1, tzinfo=UTC) - _EPOCH).days * 86400 * NS
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time, `since` inclusive to `until` exclusive, both UTC ns.

    `kind` is daily, weekly, monthly or custom. `end` is where it can be read to: `until`, or now
    where the period still runs.
    """

    kind: str
    since: int
    until: int
    end: int
    title: str

    @property
    def running(self) -> bool:
        """Whether the period is not over yet."""
        return self.end < self.until


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days, weeks and months as people in `zone` count them; None is the machine's own zone."""

    zone: tzinfo | None = None
    week_start: str = "monday"

    def instant(self, local: datetime) -> int:
        """UTC ns of a local wall-clock time; one that the clocks skip is the end of the gap."""
        aware = local.astimezone() if self.zone is None else local.replace(tzinfo=self.zone)
        return (aware - _EPOCH) // timedelta(microseconds=1) * 1000

    def local(self, at_ns: int) -> datetime:
        """The local wall-clock time, without a zone, of UTC ns; cut to microseconds."""
        moment = _EPOCH + timedelta(microseconds=at_ns // 1000)
        return moment.astimezone(self.zone).replace(tzinfo=None)

    def iso(self, at_ns: int) -> str:
        """UTC ns as ISO 8601 with the local offset, to the second."""
        moment = _EPOCH + timedelta(seconds=at_ns // NS)
        return moment.astimezone(self.zone).isoformat()

    def iso_exact(self, at_ns: int) -> str:
        """UTC ns as ISO 8601 with the local offset, to the microsecond."""
        moment = _EPOCH + timedelta(microseconds=at_ns // 1000)
        return moment.astimezone(self.zone).isoformat(timespec="microseconds")

    def zone_name(self, at_ns: int) -> str:
        """The zone's name: `Europe/Berlin`, or the machine's abbreviation at that time."""
        if self.zone is not None:
            return str(self.zone)
        return (_EPOCH + timedelta(seconds=at_ns // NS)).astimezone().tzname() or "local"

    def period(self, kind: str, day: date, now: int) -> Period:
        """The day, week or month that `day` lies in."""
        first, after = self._days(kind, day)
        since, until = self._midnight(first), self._midnight(after)
        end = max(since, min(until, now))
        return Period(kind, since, until, end, self._title(kind, first, after))

    def current(self, kind: str, now: int) -> Period:
        """The day, week or month that runs now."""
        return self.period(kind, self.local(now).date(), now)

    def previous(self, kind: str, now: int) -> Period:
        """The day, week or month before the one that runs now."""
        first, _ = self._days(kind, self.local(now).date())
        return self.period(kind, first - timedelta(days=1), now)

    def custom(self, since: int, until: int, now: int) -> Period:
        """Any period. Raises QueryError when it is empty or lies in the future."""
        if since >= until:
            raise QueryError(
                f"the period is empty: it begins {self.iso(since)} and ends {self.iso(until)}"
            )
        if since >= now:
            raise QueryError(f"the period begins in the future: {self.iso(since)}")
        title = f"{self.moment(since)} {_DASH} {self.moment(until)}"
        return Period("custom", since, until, min(until, now), title)

    def before(self, period: Period, now: int) -> Period:
        """What `period` is compared with.

        Of a calendar period the one before it, cut at the same wall-clock point where `period`
        still runs; of any other the stretch of the same length just before.
        """
        if period.kind == "custom":
            length = period.end - period.since
            return self.custom(period.since - length, period.since, now)
        day = self.local(period.since).date() - timedelta(days=1)
        whole = self.period(period.kind, day, now)
        if not period.running:
            return whole
        passed = self.local(period.end) - self.local(period.since)
        end = min(self.instant(self.local(whole.since) + passed), period.since)
        return replace(whole, end=end, title=f"{whole.title}, until {self.moment(end)}")

    def edges(self, period: Period) -> tuple[int, ...]:
        """Borders of the slices in which a period is drawn, the period's own ends included.

        Hours up to two days, days up to 92, else weeks.
        """
        length = self.local(period.until) - self.local(period.since)
        if length <= timedelta(days=2, hours=1):
            first = self.local(period.since).replace(minute=0, second=0, microsecond=0)
            # Steps of true hours: on a day when the clocks go back one comes twice.
            start, step = self.instant(first), 3600 * NS
            return (period.since, *range(start + step, period.until, step), period.until)
        days = 1 if length <= timedelta(days=92) else 7
        day = self.local(period.since).date()
        borders = [period.since]
        while True:
            day += timedelta(days=days)
            edge = self._midnight(day)
            if edge >= period.until:
                return (*borders, period.until)
            borders.append(edge)

    def moment(self, at_ns: int) -> str:
        """UTC ns for reading: `Thu 26 Nov 2026 18:53`."""
        return f"{self.local(at_ns):%a %-d %b %Y %H:%M}"

    def parse(self, text: str, now: int) -> int:
        """A time as people write it, in UTC ns.

        `90m`, `24h`, `7d`, `2w` (before `now`), `now`, an ISO date (its local midnight) or an ISO
        date and time (local, unless it has an offset), from 1970 to 2200. Raises QueryError.
        """
        at_ns = self._parsed(text, now)
        if not 0 <= at_ns < _LAST_NS:
            raise QueryError(f"{text!r} lies outside of 1970 to 2200")
        return at_ns

    def _parsed(self, text: str, now: int) -> int:
        word = text.strip()
        if word == "now":
            return now
        relative = re.fullmatch(r"(\d{1,6})([mhdw])", word)
        if relative:
            return now - int(relative[1]) * _UNITS[relative[2]] * NS
        try:
            moment = datetime.fromisoformat(word)
            if moment.tzinfo is not None:
                return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
            return self.instant(moment)
        except (ValueError, OverflowError):
            raise QueryError(
                f"{text!r} is no time: write 7d, 24h, 90m, now, 2026-11-26 or 2026-11-26T18:30"
            ) from None

    def _days(self, kind: str, day: date) -> tuple[date, date]:
        if kind == "daily":
            return day, day + timedelta(days=1)
        if kind == "weekly":
            first = day - timedelta(days=(day.weekday() - WEEKDAYS.index(self.week_start)) % 7)
            return first, first + timedelta(days=7)
        if kind == "monthly":
            first = day.replace(day=1)
            return first, (first + timedelta(days=31)).replace(day=1)
        raise QueryError(f"{kind!r} is no kind of period: it must be one of {', '.join(KINDS)}")

    def _midnight(self, day: date) -> int:
        return self.instant(datetime.combine(day, time()))

    def _title(self, kind: str, first: date, after: date) -> str:
        if kind == "daily":
            return f"{first:%A %-d %B %Y}"
        if kind == "monthly":
            return f"{first:%B %Y}"
        last = after - timedelta(days=1)
        if first.year != last.year:
            days = f"{first:%-d %B %Y} {_DASH} {last:%-d %B %Y}"
        elif first.month != last.month:
            days = f"{first:%-d %B} {_DASH} {last:%-d %B %Y}"
        else:
            days = f"{first.day}{_DASH}{last.day} {last:%B %Y}"
        if self.week_start != "monday":
            return f"Week of {days}"
        return f"Week {first.isocalendar().week}, {days}"
