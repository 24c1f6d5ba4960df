"""Claude Code's transcripts: real ones against what the API answered, and what can go wrong."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from squad_otel.batch import Batch
from squad_otel.events import NS, SUM_FIELDS, Event
from squad_otel.ids import session_id
from squad_otel.journal import Journal
from squad_otel.prices import load_prices
from squad_otel.schema import open_reader
from squad_otel.sessions import Session
from squad_otel.sources import claude
from squad_otel.sources.claude import ClaudeSource, folder_name

FIXTURES = Path(__file__).parents[2] / "fixtures" / "claude"
MAIN = "94ddb477-8b07-444b-8c6a-30df6ff79f2c.jsonl"
FORK = "d088f364-983f-4eaa-874a-4eb18b98c9d2.jsonl"
AGENT = MAIN.removesuffix(".jsonl") + "/subagents/agent-a802ac173f2178ee4.jsonl"
WORKTREE = "/home/dev/.claude-squad/worktrees/dev/alpha_18ea635751ecf2e1"
FOLDER = "-home-dev--claude-squad-worktrees-dev-alpha-18ea635751ecf2e1"
NOW = 1_795_400_000 * NS

TOKENS = SUM_FIELDS[:4]
Counts = tuple[int, ...]


def session_at(worktree: str, **more: Any) -> Session:
    return Session(
        id=session_id(worktree),
        name="alpha",
        program="claude",
        repository="repo",
        branch="dev/alpha",
        worktree=worktree,
        **more,
    )


def squad(*worktrees: str) -> dict[str, Session]:
    return {session.id: session for session in map(session_at, worktrees or (WORKTREE,))}


def source(config: Path) -> ClaudeSource:
    return ClaudeSource([config], load_prices())


def poll(config: Path, offsets: dict[str, str] | None = None, *worktrees: str) -> Batch:
    return source(config).poll(squad(*worktrees), offsets or {}, NOW)


def put(config: Path, *names: str) -> Path:
    """Copies fixtures to where Claude Code would have written them."""
    folder = config / "projects" / FOLDER
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FIXTURES / name, folder / name)
    return folder


def applied(offsets: dict[str, str], batch: Batch) -> dict[str, str]:
    merged = {**offsets, **batch.offsets}
    return {name: value for name, value in merged.items() if value is not None}


def tokens(event: Event) -> Counts:
    return tuple(int(event.fields[name]) for name in TOKENS)


def total(counts: list[Counts]) -> Counts:
    return tuple(map(sum, zip(*counts, strict=True)))


def truth() -> dict[str, Counts]:
    """What the server of the recording answered, by request; see the fixtures' README."""
    found: dict[str, Counts] = {}
    hidden = set()  # a compaction's request leaves no answer in the transcript
    for line in (FIXTURES / "server.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("scene") == "compact":
            hidden.add(record["rid"])
        request = record.get("done") or record.get("aborted")
        if request and request not in hidden:
            n = int(request[-4:])
            output = record["out"] if "done" in record else 1  # cut off after the first token
            found[request] = (10 + n, output, 1000 + 10 * n, 100 + n)
    return found


def answer(request: str = "req_1", *, worktree: str = "/w", **more: Any) -> bytes:
    """A line as Claude Code 2.1.330 writes it, as far as it matters here."""
    usage = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 30}
    usage |= {"cache_creation_input_tokens": 40, **more.pop("usage", {})}
    message = {"id": f"msg_{request}", "model": "claude-opus-5-5", "stop_reason": "end_turn"}
    message |= {"role": "assistant", "usage": usage, **more.pop("message", {})}
    line = {"type": "assistant", "timestamp": "2026-11-22T14:22:07.439Z", "cwd": worktree}
    line |= {"requestId": request, "message": message, **more}
    return json.dumps({k: v for k, v in line.items() if v is not ...}).encode() + b"\n"


def write(config: Path, data: bytes, worktree: str = "/w", name: str = "s.jsonl") -> Path:
    path = config / "projects" / folder_name(worktree) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
    return path


def ids(batch: Batch) -> list[str]:
    return [event.id for event in batch.events]


# -- the recorded conversation ----------------------------------------------------------------


def test_every_answer_of_the_recording_is_counted_once_and_in_full(tmp_path: Path) -> None:
    put(tmp_path, MAIN, FORK, AGENT)
    batch = poll(tmp_path)
    assert {event.id: tokens(event) for event in batch.events} == {
        f"cc:req:{request}": counts for request, counts in truth().items()
    }
    assert len(batch.events) == 52
    assert batch.skipped["api_error"] == 1


def test_a_sum_over_the_lines_is_about_twice_the_truth(tmp_path: Path) -> None:
    names = {"input": "input_tokens", "output": "output_tokens"}
    names |= {"read": "cache_read_input_tokens", "written": "cache_creation_input_tokens"}
    naive = []
    for name in (MAIN, FORK, AGENT):
        for line in (FIXTURES / name).read_text().splitlines():
            record = json.loads(line)
            if record["type"] == "assistant" and not record.get("isApiErrorMessage"):
                naive.append(tuple(record["message"]["usage"][key] for key in names.values()))
    assert total(naive) == (2721, 3676, 117210, 11721)
    put(tmp_path, MAIN, FORK, AGENT)
    right = total([tokens(event) for event in poll(tmp_path).events])
    assert right == total(list(truth().values())) == (1378, 1853, 60580, 6058)


def test_costs_of_the_recording_are_those_that_claude_code_reported(tmp_path: Path) -> None:
    put(tmp_path, MAIN, FORK, AGENT)
    reported = {
        tuple(record[name] for name in TOKENS): round(record["cost_usd"] * 1e9)
        for record in map(json.loads, (FIXTURES / "priced.jsonl").read_text().splitlines())
    }
    met = 0
    for event in poll(tmp_path).events:
        assert event.fields["model"] == "claude-opus-5-5"
        if tokens(event) in reported:
            met += 1
            assert event.fields["cost_nusd"] == reported[tokens(event)]
    assert met == 51  # all but the aborted one, of which no cost was reported


def test_each_conversation_meets_the_sum_that_the_program_wrote(tmp_path: Path) -> None:
    lines: dict[str, list[bytes]] = {}
    sums: dict[str, dict[str, Any]] = {}
    for line in (FIXTURES / "usage-lines.jsonl").read_bytes().splitlines(keepends=True):
        record = json.loads(line)
        lines.setdefault(record["sessionId"], []).append(line)
        if record["type"] == "cost-state":
            sums[record["sessionId"]] = record["modelUsage"]["claude-opus-5-5"]
    assert len(sums) == 5
    for name, own_sum in sums.items():
        write(tmp_path / name, b"".join(lines[name]), "/home/dev/repo")
        events = poll(tmp_path / name, {}, "/home/dev/repo").events
        assert total([tokens(event) for event in events]) == (
            own_sum["inputTokens"],
            own_sum["outputTokens"],
            own_sum["cacheReadInputTokens"],
            own_sum["cacheCreationInputTokens"],
        )
        cost = sum(int(event.fields["cost_nusd"]) for event in events)
        assert cost == round(own_sum["costUSD"] * 1e9)


def test_events_say_whose_they_are_and_when(tmp_path: Path) -> None:
    put(tmp_path, MAIN)
    (session,) = squad().values()
    events = {event.id: event for event in poll(tmp_path).events}
    for event in events.values():
        assert (event.type, event.source, event.session) == ("tokens.used", "claude", session.id)
        assert event.program == "claude"
        assert (event.repository, event.branch) == ("repo", "dev/alpha")
    times = [
        record["timestamp"]
        for record in map(json.loads, (FIXTURES / MAIN).read_text().splitlines())
        if record.get("requestId") == "req_01A0001"
    ]
    assert times[0].startswith("2026-11-23T")
    seconds, milliseconds = divmod(events["cc:req:req_01A0001"].occurred_at // 10**6, 1000)
    assert min(times).endswith(f"{seconds % 60:02}.{milliseconds:03}Z")
    assert abs(seconds - 1795393391) < 5  # the server finished then


def test_an_aborted_answer_may_still_be_corrected_and_no_other(tmp_path: Path) -> None:
    put(tmp_path, MAIN, FORK, AGENT)
    waiting = {event.id: event.settles_at for event in poll(tmp_path).events if event.settles_at}
    assert waiting == {"cc:req:req_01A0026": NOW + 10 * NS}


def test_the_copy_that_a_fork_set_to_zero_is_no_answer_that_cost_nothing(tmp_path: Path) -> None:
    put(tmp_path, FORK)
    batch = poll(tmp_path)
    assert "cc:req:req_01B0013" not in ids(batch)
    expected = truth()
    for event in batch.events:
        assert tokens(event) == expected[event.id.removeprefix("cc:req:")]


@pytest.mark.parametrize("seed", range(4))
def test_read_piece_by_piece_the_journal_has_the_same_sums(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    config, home = tmp_path / "claude", tmp_path / "home"
    whole = {name: (FIXTURES / name).read_bytes() for name in (FORK, MAIN, AGENT)}
    folder = put(config, *whole)
    written = dict.fromkeys(whole, 0)
    for name in whole:
        (folder / name).write_bytes(b"")
    journal = Journal(home, 1)
    reader = source(config)
    journal.append("test", Batch(sessions=list(squad().values())), NOW)
    now = NOW
    while any(written[name] < len(data) for name, data in whole.items()):
        now += NS
        name = chance.choice(list(whole))
        until = written[name] + chance.randint(1, 15_000)
        with (folder / name).open("ab") as file:
            file.write(whole[name][written[name] : until])
        written[name] = min(until, len(whole[name]))
        if chance.random() < 0.3:  # the daemon is started anew
            reader = source(config)
        batch = reader.poll(journal.sessions(), journal.offsets("claude"), now)
        if chance.random() < 0.2:  # it was killed before the commit
            continue
        journal.append("claude", batch, now)
    for _ in range(2):
        batch = reader.poll(journal.sessions(), journal.offsets("claude"), now)
        journal.append("claude", batch, now)
    assert not batch
    journal.settle(now + 60 * NS)
    journal.close()
    with closing(open_reader(home)) as db:
        sums = db.execute(
            f"SELECT {', '.join(f'sum({name})' for name in TOKENS)} FROM events "
            "WHERE type = 'tokens.used' AND state = 'live'"
        ).fetchone()
    db.close()
    assert sums == total(list(truth().values()))


def test_the_same_look_gives_the_same_and_a_restart_goes_on(tmp_path: Path) -> None:
    put(tmp_path, MAIN, FORK, AGENT)
    reader = source(tmp_path)
    first = reader.poll(squad(), {}, NOW)
    assert reader.poll(squad(), {}, NOW) == first  # the batch was lost: it comes again
    offsets = applied({}, first)
    assert not reader.poll(squad(), offsets, NOW)
    assert not poll(tmp_path, offsets)
    assert poll(tmp_path) == first  # replayed from the beginning: the same ids


# -- which lines, which folders ---------------------------------------------------------------


def test_transcripts_of_other_worktrees_are_not_opened(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, answer("req_mine"))
    write(tmp_path, answer("req_private", worktree="/home/dev/secret"), "/home/dev/secret")
    write(tmp_path, answer("req_near", worktree="/w2"), "/w2")
    reader = source(tmp_path)
    opened = []
    real_open = Path.open

    def watched(self: Path, *args: Any, **more: Any) -> Any:
        opened.append(self.parent.name)
        return real_open(self, *args, **more)

    monkeypatch.setattr(Path, "open", watched)
    assert ids(reader.poll(squad("/w"), {}, NOW)) == ["cc:req:req_mine"]
    assert opened == ["-w"]


def test_two_worktrees_with_one_folder_name_keep_their_own(tmp_path: Path) -> None:
    data = answer("a", worktree="/x/a.b") + answer("b", worktree="/x/a-b")
    data += answer("c", worktree="/x/a-b/sub")
    write(tmp_path, data, "/x/a.b")
    one, two = session_at("/x/a.b"), session_at("/x/a-b")
    batch = poll(tmp_path, {}, "/x/a.b")
    assert ids(batch) == ["cc:req:a"]
    assert batch.skipped == {"other_worktree": 2}
    both = poll(tmp_path, applied({}, batch), "/x/a.b", "/x/a-b")  # known only later
    assert {event.id: event.session for event in both.events} == {
        "cc:req:b": two.id,
        "cc:req:c": two.id,
    }
    assert one.id != two.id


def test_an_agent_that_works_elsewhere_is_still_its_session(tmp_path: Path) -> None:
    write(tmp_path, answer("below", worktree="/w/deep/er") + answer("added", worktree="/lib"))
    assert ids(poll(tmp_path, {}, "/w")) == ["cc:req:below", "cc:req:added"]


def test_a_worktree_behind_a_link_is_found(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    write(tmp_path / "c", answer(worktree=str(real)), str(real))
    (event,) = poll(tmp_path / "c", {}, str(tmp_path / "link")).events
    assert event.session == session_id(str(real))


def test_a_long_path_is_found_by_its_beginning(tmp_path: Path) -> None:
    mine, other = "/" + "d" * 210, "/" + "d" * 210 + "/other"
    for worktree, ending in ((mine, "-1a2b3c"), (other, "-9z8y7x")):
        folder = tmp_path / "projects" / (folder_name(worktree)[:200] + ending)
        folder.mkdir(parents=True)
        (folder / "s.jsonl").write_bytes(answer(ending, worktree=worktree))
    assert set(ids(poll(tmp_path, {}, other))) == {"cc:req:-9z8y7x"}


def test_folder_names_follow_the_rule() -> None:
    assert folder_name(WORKTREE) == FOLDER
    assert folder_name("/a_b/Ü.x/😀") == "-a-b---x---"


def test_several_configuration_folders_are_read_and_missing_ones_are_no_error(
    tmp_path: Path,
) -> None:
    write(tmp_path / "one", answer("1"))
    write(tmp_path / "two", answer("2"))
    folders = [tmp_path / name for name in ("one", "none", "two")]
    reader = ClaudeSource(folders, load_prices())
    assert ids(reader.poll(squad("/w"), {}, NOW)) == ["cc:req:1", "cc:req:2"]
    assert not poll(tmp_path / "none", {}, "/w")


def test_a_session_that_ended_is_read_to_its_end_and_one_without_worktree_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, answer())
    write(tmp_path, answer("root", worktree="/"), "/")
    ended = session_at("/w", ended_at=NOW - NS)
    track = session_at("")
    batch = source(tmp_path).poll({"a": ended, "b": track}, {}, NOW)
    assert ids(batch) == ["cc:req:req_1"]


def test_a_folder_that_cannot_be_listed_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "-w").symlink_to(tmp_path / "projects" / "-w")
    folder = put(tmp_path, MAIN)
    (folder / "round").symlink_to(folder / "round")
    batch = poll(tmp_path, {}, "/w", WORKTREE)
    assert {event.session for event in batch.events} == {session_id(WORKTREE)}
    assert batch.skipped["unreadable_folder"] == 1
    assert batch.skipped["unreadable_file"] == 1


# -- one line ---------------------------------------------------------------------------------


def test_lines_of_one_answer_in_two_looks_have_one_id(tmp_path: Path) -> None:
    path = write(tmp_path, answer(usage={"output_tokens": 1}, message={"stop_reason": None}))
    first = poll(tmp_path, {}, "/w")
    write(tmp_path, answer(timestamp="2026-11-22T14:22:09Z"))
    second = poll(tmp_path, applied({}, first), "/w")
    assert ids(first) == ids(second)
    assert [event.settles_at for event in (*first.events, *second.events)] == [NOW + 10 * NS, None]
    path.unlink()
    write(tmp_path, answer(usage={"output_tokens": 1}, message={"stop_reason": None}) + answer())
    (event,) = poll(tmp_path, {}, "/w").events
    assert tokens(event) == (10, 20, 30, 40)
    assert event.settles_at is None


@pytest.mark.parametrize("reverse", [False, True])
def test_an_answer_is_as_old_as_its_first_line_and_final_with_any(
    tmp_path: Path, reverse: bool
) -> None:
    lines = [
        answer(timestamp="2026-11-22T00:00:01.5Z", message={"stop_reason": None}),
        answer(timestamp="2026-11-22T00:00:02.5Z", isAbortedMidStream=False),
    ]
    write(tmp_path, b"".join(lines[::-1] if reverse else lines))
    (event,) = poll(tmp_path, {}, "/w").events
    assert event.occurred_at == 1_795_305_601_500_000_000
    assert event.settles_at is None


def test_an_answer_cut_off_waits_whatever_reason_it_gives(tmp_path: Path) -> None:
    write(tmp_path, answer(isAbortedMidStream=True))
    (event,) = poll(tmp_path, {}, "/w").events
    assert event.settles_at == NOW + 10 * NS


def test_without_a_request_id_the_message_or_the_place_names_the_answer(tmp_path: Path) -> None:
    nameless = answer(requestId=..., message={"id": None})
    write(tmp_path, answer(requestId=...) * 2 + nameless + nameless)
    batch = poll(tmp_path, {}, "/w")
    assert ids(batch)[0] == "cc:msg:msg_req_1"
    assert len(set(ids(batch))) == 3
    assert ids(poll(tmp_path, {}, "/w")) == ids(batch)


def test_tokens_cached_for_an_hour_are_priced_as_such(tmp_path: Path) -> None:
    split = {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 25}
    write(tmp_path, answer("whole"))
    write(tmp_path, answer("split", usage={"cache_creation": split}))
    only = {"cache_creation": split, "cache_creation_input_tokens": None}
    write(tmp_path, answer("only", usage=only))
    write(
        tmp_path, answer("less", usage={"cache_creation": split, "cache_creation_input_tokens": 20})
    )
    costs = {event.id: event.fields["cost_nusd"] for event in poll(tmp_path, {}, "/w").events}
    other = 10 * 4000 + 20 * 20_000 + 30 * 200
    assert costs == {
        "cc:req:whole": other + 40 * 5000,
        "cc:req:split": other + 15 * 5000 + 25 * 8000,
        "cc:req:only": other + 15 * 5000 + 25 * 8000,
        "cc:req:less": other + 20 * 8000,  # the split says more than the count: the count holds
    }


def test_an_answer_without_a_known_price_has_no_cost(tmp_path: Path) -> None:
    write(tmp_path, answer("new", message={"model": "claude-next-1"}))
    write(tmp_path, answer("fast", message={"model": "claude-sonnet-5"}, usage={"speed": "fast"}))
    write(tmp_path, answer("none", message={"model": None}))
    for event in poll(tmp_path, {}, "/w").events:
        assert "cost_nusd" not in event.fields
        assert tokens(event) == (10, 20, 30, 40)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (answer()[:-9] + b"\n", "undecodable"),
        (b'{"type": "assistant", "usage": ' + b"[" * 100_000 + b"\n", "undecodable"),
        (answer(type=7, note="assistant"), "wrong_type"),
        (answer(usage={"input_tokens": "10"}), "wrong_type"),
        (answer(usage={"input_tokens": -1}), "wrong_type"),
        (answer(usage={"input_tokens": 1.5}), "wrong_type"),
        (answer(usage={"input_tokens": 10**30}), "wrong_type"),
        (answer(timestamp="yesterday"), "wrong_type"),
        (answer(timestamp="2026-11-22T14:22:07"), "wrong_type"),  # no time zone
        (answer(timestamp=...), "wrong_type"),
        (answer(timestamp="1969-01-01T00:00:00Z"), "bad_time"),
        (answer(timestamp="9999-01-01T00:00:00Z"), "bad_time"),
        (answer(cwd=...), "wrong_type"),
        (answer("r" * 201), "wrong_type"),
        (answer(message={"model": "a\nb"}), "wrong_type"),
        (answer(message={"model": "<synthetic>"}), "synthetic"),
        (answer(isApiErrorMessage=True), "api_error"),
        (answer(type="api-request-blob"), "api_request_blob"),
    ],
)
def test_a_line_that_is_no_answer_is_skipped_with_its_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    write(tmp_path, answer("a") + line + answer("b"))
    batch = poll(tmp_path, {}, "/w")
    assert ids(batch) == ["cc:req:a", "cc:req:b"]
    assert batch.skipped == {reason: 1}


def test_lines_about_something_else_are_no_skipped_answers(tmp_path: Path) -> None:
    quoted = {"type": "user", "message": 'see "usage" of "assistant"', "usage": 1}
    result = {"type": "user", "toolUseResult": {"usage": {"input_tokens": 9}}, "by": "assistant"}
    lines = [quoted, result, {"type": "cost-state", "usage": {}, "x": "assistant"}]
    write(tmp_path, b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b"\n\nx\n")
    write(tmp_path, answer(message={"usage": None}) + answer(message={"usage": {}}))
    batch = poll(tmp_path, {}, "/w")
    assert batch.events == []
    assert batch.skipped == {}


# -- how a file grows -------------------------------------------------------------------------


def test_a_torn_last_line_waits_for_its_rest(tmp_path: Path) -> None:
    line = answer("b")
    write(tmp_path, answer("a") + line[:50])
    first = poll(tmp_path, {}, "/w")
    assert ids(first) == ["cc:req:a"]
    assert first.skipped == {}
    offsets = applied({}, first)
    reader = source(tmp_path)
    assert not reader.poll(squad("/w"), offsets, NOW)
    write(tmp_path, line[50:])
    assert ids(reader.poll(squad("/w"), offsets, NOW)) == ["cc:req:b"]


def test_a_file_cut_short_or_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = write(tmp_path, answer("a") + answer("b"))
    reader = source(tmp_path)
    offsets = applied({}, reader.poll(squad("/w"), {}, NOW))
    path.write_bytes(answer("c"))  # shorter
    batch = reader.poll(squad("/w"), offsets, NOW)
    assert ids(batch) == ["cc:req:c"]
    offsets = applied(offsets, batch)
    path.write_bytes(answer("d") + answer("e"))  # longer, and another beginning
    batch = reader.poll(squad("/w"), offsets, NOW)
    assert ids(batch) == ["cc:req:d", "cc:req:e"]
    offsets = applied(offsets, batch)
    path.write_bytes(answer("d") + answer("longer than before"))  # the old place is in a line
    batch = reader.poll(squad("/w"), offsets, NOW)
    assert ids(batch) == ["cc:req:d", "cc:req:longer than before"]


def test_a_file_emptied_and_written_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = write(tmp_path, answer("a") + answer("b"))
    reader = source(tmp_path)
    offsets = applied({}, reader.poll(squad("/w"), {}, NOW))
    path.write_bytes(b"")
    offsets = applied(offsets, reader.poll(squad("/w"), offsets, NOW))
    assert offsets == {}
    path.write_bytes(answer("a") + answer("c") + answer("d"))
    assert ids(reader.poll(squad("/w"), offsets, NOW)) == ["cc:req:a", "cc:req:c", "cc:req:d"]


def test_a_backlog_is_read_in_parts_and_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claude, "_CHUNK_BYTES", 3000)
    monkeypatch.setattr(claude, "_POLL_BYTES", 5000)
    names = [f"{part}.{n}" for part in range(3) for n in range(40)]
    for name in names:
        write(tmp_path, answer(name), name=f"{name[0]}.jsonl")
    offsets: dict[str, str] = {}
    seen: list[str] = []
    polls = 0
    while batch := poll(tmp_path, offsets, "/w"):
        assert len(batch.events) * len(answer("0.0")) < 8000  # a poll's share and a chunk
        offsets = applied(offsets, batch)
        seen += ids(batch)
        polls += 1
    assert sorted(seen) == sorted(f"cc:req:{name}" for name in names)
    assert polls > 3


def test_a_line_longer_than_one_read_is_read_and_one_too_long_is_passed_over(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(claude, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(claude, "_MAX_LINE_BYTES", 20_000)
    long, too_long = answer("long", text="x" * 15_000), answer("too", text="x" * 50_000)
    path = write(tmp_path, answer("a") + long + too_long[:-1])
    offsets: dict[str, str] = {}
    seen: list[str] = []
    skipped: dict[str, int] = {}

    def read_on() -> None:
        nonlocal offsets
        while batch := poll(tmp_path, offsets, "/w"):
            offsets = applied(offsets, batch)
            seen.extend(ids(batch))
            skipped.update(batch.skipped)

    read_on()
    assert (seen, skipped) == (["cc:req:a", "cc:req:long"], {})
    write(tmp_path, b"\n" + answer("b"))
    read_on()
    assert seen == ["cc:req:a", "cc:req:long", "cc:req:b"]
    assert skipped == {"line_too_long": 1}
    assert offsets[f"{session_id('/w')}:{path}"].startswith(f"{path.stat().st_size} ")


def test_when_nothing_changed_no_file_is_opened(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, MAIN, FORK, AGENT)
    reader = source(tmp_path)
    offsets = applied({}, reader.poll(squad(), {}, NOW))
    assert not reader.poll(squad(), offsets, NOW)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a file was opened"))
    for _ in range(3):
        assert not reader.poll(squad(), offsets, NOW)


def test_how_far_a_file_was_read_is_forgotten_with_the_file_only(tmp_path: Path) -> None:
    path = write(tmp_path, answer())
    stays = write(tmp_path, answer("2"), name="t.jsonl")
    reader = source(tmp_path)
    offsets = applied({}, reader.poll(squad("/w"), {}, NOW))
    assert len(offsets) == 2
    path.unlink()
    assert not reader.poll({}, offsets, NOW + 60 * NS)
    batch = reader.poll({}, offsets, NOW + 3600 * NS)
    assert list(applied(offsets, batch)) == [f"{session_id('/w')}:{stays}"]
    (tmp_path / "projects").rename(tmp_path / "away")  # a volume that is not mounted now
    assert not source(tmp_path).poll({}, offsets, NOW)
