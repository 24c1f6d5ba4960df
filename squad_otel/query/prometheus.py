"""Prometheus as a backend, or anything that answers like it: exact reads at two scrapes.

No `increase()`: it extrapolates. Both ends move to a scrape, where each series is read as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import msgspec
import urllib3

from squad_otel.errors import QueryError
from squad_otel.export.points import JOURNAL_LABEL
from squad_otel.metrics import BY_NAME, Kind, Metric
from squad_otel.query.measures import Gain, Reading, add_up

_MS = 1_000_000  # nanoseconds in a millisecond
_DAY_MS = 86_400_000
#: How far back the last scrape before an edge is looked for, step by step.
_WIDTHS_MS = (600_000, 7_200_000, _DAY_MS)
_SEARCH_POINTS = 1000  # Prometheus refuses more than 11,000

_HEARTBEAT = BY_NAME["squad.otel.heartbeat.timestamp"].prometheus
_CREATED = BY_NAME["squad.otel.journal.created.timestamp"].prometheus

Labels = tuple[str, ...]


#: Unix seconds of a sample, in what nanoseconds can hold.
_Stamp = Annotated[float, msgspec.Meta(ge=0, le=2.0**32)]
_LARGEST = 2.0**63


class _Row(msgspec.Struct):
    metric: dict[str, str] = {}
    value: tuple[_Stamp, str] | None = None
    values: list[tuple[_Stamp, str]] = []


class _Data(msgspec.Struct):
    result: list[_Row]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | list[dict[str, str]] | None = None
    error: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, slots=True)
class _Totals:
    """A lifetime series at one scrape; `buckets` are cumulative."""

    total: int = 0
    count: int = 0
    buckets: tuple[int, ...] = ()


def promql(name: str, journal: str, labels: Sequence[str], at_ms: int) -> str:
    """PromQL for the series `name` of one journal exactly at the scrape at `at_ms`.

    One millisecond wide: after a crash Prometheus writes no marker that a series ended, and an
    ordinary read would see old samples for minutes. `max by` makes one series of what came on
    several ways (two jobs, scrape and push, replicas): a lifetime total is the same on all.
    """
    return (
        f"max by ({', '.join(labels)}) (last_over_time("
        f"{name}{{{JOURNAL_LABEL}={_quoted(journal)}}}[1ms] @ {at_ms / 1000:.3f}))"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class PrometheusBackend:
    """Reads over Prometheus's HTTP API at `url`."""

    name = "prometheus"

    def __init__(self, url: str, now: int, journal: str | None, timeout_s: float = 60.0) -> None:
        """`journal` is the id of the journal that is meant; None means all that there are.

        `now` is UTC ns. Nothing is asked yet. Raises QueryError for what is no URL.
        """
        try:
            parsed = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError as error:
            raise QueryError(f"{url!r} is no URL: {error}") from error
        headers = urllib3.make_headers(basic_auth=parsed.auth) if parsed.auth else {}
        self.detail = parsed._replace(auth=None).url.rstrip("/")
        self.journals: Sequence[str] = () if journal is None else (journal,)
        self._all = journal is None
        self._now_ms = now // _MS
        self._pool = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=5.0, read=timeout_s),
            headers=headers,
        )

    def close(self) -> None:
        self._pool.clear()

    def read(
        self, metrics: Sequence[str], edges: Sequence[int], sliced: Sequence[str] = ()
    ) -> tuple[Reading | None, list[Reading | None]]:
        """See `measures.Backend`. Each edge moves to the last scrape before it."""
        edges_ms = [edge // _MS for edge in edges]
        journals = self._find(edges_ms[0], edges_ms[-1]) if self._all else self.journals
        if self._all:
            self.journals = tuple(dict.fromkeys((*self.journals, *journals)))
        answers = [self._read_journal(name, metrics, edges_ms, sliced) for name in journals]
        whole = add_up([answer[0] for answer in answers])
        slices = [answer[1] for answer in answers]
        return whole, [
            add_up([own[i] for own in slices]) for i in range(len(edges) - 1 if sliced else 0)
        ]

    def _read_journal(
        self, journal: str, metrics: Sequence[str], edges: Sequence[int], sliced: Sequence[str]
    ) -> tuple[Reading | None, list[Reading | None]]:
        nothing: list[Reading | None] = [None] * (len(edges) - 1 if sliced else 0)
        end = min(edges[-1], self._now_ms)
        last = self._last_scrape(journal, end, end - edges[0])
        if last is None or last <= edges[0]:
            return None, nothing
        created = self._created(journal, last)
        first = self._baseline(journal, edges[0], end, last, created)
        at_ends = _Ends(self, journal, created)
        whole = at_ends.gained(metrics, first, last)
        if not sliced:
            return whole, nothing
        points = [first]
        for edge in edges[1:-1]:
            at = last if edge >= end else self._edge(journal, edge, first)
            points.append(min(max(at, points[-1]), last))
        points.append(last)
        return whole, [
            at_ends.gained(sliced, a, b) if b > a and edge < end else None
            for (a, b), edge in zip(pairwise(points), edges, strict=False)
        ]

    def _edge(self, journal: str, edge: int, first: int) -> int:
        if edge <= first:
            return first
        return self._last_scrape(journal, edge, edge - first) or first

    def _baseline(self, journal: str, start: int, end: int, last: int, created: int) -> int:
        """Where the period can be read from, in ms: a scrape, or the journal's beginning."""
        if created >= start:
            return created  # younger than the period: its series began at 0 there
        scrape = self._last_scrape(journal, start, min(max(end - start, _DAY_MS), start - created))
        return scrape or self._first_scrape(journal, start, last)

    def _last_scrape(self, journal: str, at: int, furthest: int) -> int | None:
        """The last heartbeat's timestamp at or before `at`, not further back than `furthest`."""
        for width in (*(w for w in _WIDTHS_MS if w < furthest), furthest):
            if width <= 0:
                return None
            stamps = self._stamps(journal, at, width)
            if stamps:
                return max(stamps)
        return None

    def _first_scrape(self, journal: str, start: int, last: int) -> int:
        """The first heartbeat's timestamp after `start`; `last` is known to be one."""
        step = max((last - start) // _SEARCH_POINTS, 1000)
        rows = self._ask(
            "query_range",
            query=f"count(last_over_time({self._heartbeat(journal)}[{step}ms]))",
            start=_seconds(start + step),
            end=_seconds(last + step),
            step=_seconds(step),
        )
        seen = [_ms(at) for row in rows for at, _ in row.values]
        stamps = self._stamps(journal, min(seen), step) if seen else []
        return min(stamps, default=last)

    def _stamps(self, journal: str, at: int, width: int) -> list[int]:
        rows = self._ask("query", query=f"{self._heartbeat(journal)}[{width}ms]", time=_seconds(at))
        return [_ms(row.values[i][0]) for row in rows if row.values for i in (0, -1)]

    def _heartbeat(self, journal: str) -> str:
        return f"{_HEARTBEAT}{{{JOURNAL_LABEL}={_quoted(journal)}}}"

    def _created(self, journal: str, at: int) -> int:
        """When the journal began, in ms."""
        values = self.values(_CREATED, journal, (), at)
        if () not in values:
            raise QueryError(
                f"Prometheus at {self.detail} has heartbeats of journal {journal}, "
                f"but no {_CREATED} beside them"
            )
        created = round(values[()] * 1000)
        if not 0 <= created <= at + _DAY_MS:  # the two machines' clocks may differ a little
            raise QueryError(
                f"Prometheus at {self.detail} says that journal {journal} begins at "
                f"{values[()]:g}, which is after its heartbeats"
            )
        return created

    def values(
        self, name: str, journal: str, labels: Sequence[str], at: int
    ) -> dict[Labels, float]:
        """The values of a series of one journal by these labels, exactly at the scrape `at`."""
        rows = self._ask("query", query=promql(name, journal, labels, at), time=_seconds(at))
        found: dict[Labels, float] = {}
        for row in rows:
            if row.value is None:
                raise QueryError(f"Prometheus at {self.detail} answers with no instant vector")
            value = _number(row.value[1])
            if not abs(value) <= _LARGEST:  # NaN is not, either
                raise QueryError(f"Prometheus at {self.detail} says that {name} is {value:g}")
            found[tuple(row.metric.get(label, "") for label in labels)] = value
        return found

    def _find(self, start: int, end: int) -> tuple[str, ...]:
        """The journals that were scraped in the period."""
        answer = self._post(
            "series",
            {
                "match[]": _HEARTBEAT,
                "start": _seconds(start),
                "end": _seconds(min(end, self._now_ms)),
            },
        )
        if not isinstance(answer, list):
            raise QueryError(f"Prometheus at {self.detail} answers with no list of series")
        return tuple(sorted({row[JOURNAL_LABEL] for row in answer if JOURNAL_LABEL in row}))

    def _ask(self, endpoint: str, **form: str) -> Iterable[_Row]:
        answer = self._post(endpoint, form)
        if not isinstance(answer, _Data):
            raise QueryError(f"Prometheus at {self.detail} answers with no result")
        return answer.result

    def _post(self, endpoint: str, form: Mapping[str, str]) -> _Data | list[dict[str, str]] | None:
        url = f"{self.detail}/api/v1/{endpoint}"
        status, body = self.fetch(url, form)
        try:
            answer = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise QueryError(f"{url} answers {status}, but not like Prometheus: {error}") from error
        if answer.status != "success":
            raise QueryError(f"Prometheus at {self.detail} refuses: {answer.error}")
        return answer.data

    def fetch(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """POST a form; the answer's status and body."""
        try:
            response = self._pool.request_encode_body(
                "POST", url, fields=dict(form), encode_multipart=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise QueryError(
                f"no answer from Prometheus at {self.detail} ({error}): is it running, and is "
                "prometheus_url right?"
            ) from error
        return response.status, response.data


class _Ends:
    """What series were at the scrapes at both ends of a period; each scrape is read once."""

    def __init__(self, backend: PrometheusBackend, journal: str, created: int) -> None:
        self._backend = backend
        self._journal = journal
        self._created = created
        self._known: dict[tuple[str, int], dict[Labels, _Totals]] = {}

    def gained(self, names: Sequence[str], start: int, end: int) -> Reading:
        """The gains between two scrapes (ms)."""
        gains: dict[str, Sequence[Gain]] = {}
        for name in names:
            metric = BY_NAME[name]
            before = {} if start <= self._created else self._totals(metric, start)
            after = self._totals(metric, end)
            gains[name] = [
                _difference(metric, labels, before.get(labels, _Totals()), totals)
                for labels, totals in after.items()
            ]
        return Reading(start * _MS, end * _MS, gains)

    def _totals(self, metric: Metric, at: int) -> dict[Labels, _Totals]:
        key = (metric.name, at)
        if key not in self._known:
            read = self._histogram if metric.kind is Kind.HISTOGRAM else self._counter
            self._known[key] = read(metric, at)
        return self._known[key]

    def _counter(self, metric: Metric, at: int) -> dict[Labels, _Totals]:
        return {
            labels: _Totals(_integer(value, metric.scale))
            for labels, value in self._values(metric, "", metric.labels, at).items()
        }

    def _histogram(self, metric: Metric, at: int) -> dict[Labels, _Totals]:
        counts = self._values(metric, "_count", metric.labels, at)
        sums = self._values(metric, "_sum", metric.labels, at)
        buckets: dict[Labels, dict[float, int]] = {}
        for (*labels, bound), value in self._values(
            metric, "_bucket", (*metric.labels, "le"), at
        ).items():
            buckets.setdefault(tuple(labels), {})[_number(bound)] = _integer(value, 1)
        return {
            labels: _Totals(
                _integer(sums.get(labels, 0.0), metric.scale),
                _integer(count, 1),
                self._in_order(metric, buckets.get(labels, {})),
            )
            for labels, count in counts.items()
        }

    def _in_order(self, metric: Metric, buckets: Mapping[float, int]) -> tuple[int, ...]:
        missing = [bound for bound in (*metric.bounds, math.inf) if bound not in buckets]
        if missing:
            raise QueryError(
                f"{metric.prometheus} at {self._backend.detail} has no bucket le={missing[0]:g}"
            )
        return tuple(buckets[bound] for bound in (*metric.bounds, math.inf))

    def _values(
        self, metric: Metric, part: str, labels: Sequence[str], at: int
    ) -> dict[Labels, float]:
        return self._backend.values(metric.prometheus + part, self._journal, labels, at)


def _difference(metric: Metric, labels: Labels, before: _Totals, after: _Totals) -> Gain:
    earlier = before.buckets or (0,) * len(after.buckets)
    cumulative = [a - b for a, b in zip(after.buckets, earlier, strict=True)]
    return Gain(
        dict(zip(metric.labels, labels, strict=True)),
        after.total - before.total,
        after.count - before.count,
        tuple(b - a for a, b in zip([0, *cumulative], cumulative, strict=False)),
    )


def _number(text: str) -> float:
    """A number as Prometheus writes it; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _integer(value: float, scale: float) -> int:
    return round(value / scale)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f}"
