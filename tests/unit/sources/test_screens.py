"""The state of a session from its pane, held to real screens and to what could mislead."""

# ruff: noqa: RUF001 - the agents' own signs

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.screens import check_looks
from squad_otel.sessions import State
from squad_otel.sources.screens import HOLD_NS, PROGRAMS, Look, Pane, Reading, read
from tests.screens import Sample, bursts, read_burst, read_bursts, read_single, samples

SECOND = 1_000_000_000
NOW = 1_795_400_000 * SECOND

Readings = Callable[[], Iterator[tuple[Sample, Reading]]]
both_ways = pytest.mark.parametrize("readings", [read_single, read_bursts])


def share(readings: Readings, agent: str, truth: State) -> float:
    """The share of the screens of one state that are read as that state."""
    right = [
        reading.state is truth
        for sample, reading in readings()
        if sample.agent == agent and sample.truth is truth
    ]
    return sum(right) / len(right)


def state(program: str, pane: Pane, before: Look | None = None, now: int = NOW) -> State:
    return read(program, pane, before, now)[0].state


def screen(*rows: str, cursor: tuple[int, int], title: str = "✳ Work") -> Pane:
    """A pane of Claude Code with `rows` and the cursor at (row, column)."""
    return Pane(
        text="\n".join(rows),
        title=title,
        cursor_y=cursor[0],
        cursor_x=cursor[1],
        command="claude",
        activity=NOW // SECOND,
        width=80,
    )


def prompt(*transcript: str, typed: str = "", footer: str = "  ⏸ manual mode on") -> Pane:
    """Claude Code's input box below a transcript."""
    lines = typed.split("\n")
    box = [f"❯\xa0{lines[0]}", *(f"  {line}" for line in lines[1:])]
    rows = [*transcript, "", "─" * 80, *box, "─" * 80, footer]
    return screen(*rows, cursor=(len(rows) - 3, 2 + len(lines[-1])))


def replace_state(look: Look, state: State) -> Look:
    return msgspec.structs.replace(look, state=state, busy_at=0)


def named(scene: str, width: int = 80) -> Sample:
    return next(one for one in samples() if (one.scene, one.width) == (scene, width))


def dialogs() -> dict[str, list[str]]:
    """What each dialog shows, without the screen around it."""
    return {
        sample.scene: [row for row in sample.text.split("\n") if row.strip()][-10:]
        for sample in samples()
        if sample.truth is State.WAITING
    }


# The requirement, over real screens


def test_the_captures_hold_screens_of_every_state() -> None:
    counts = [
        (agent, state, sum((one.agent, one.state) == (agent, state) for one in samples()))
        for agent in PROGRAMS
        for state in ("waiting", "running", "idle", "failed", "starting", "exited")
    ]
    assert counts == [
        ("claude", "waiting", 65),
        ("claude", "running", 133),
        ("claude", "idle", 61),
        ("claude", "failed", 20),
        ("claude", "starting", 9),
        ("claude", "exited", 7),
        ("codex", "waiting", 12),
        ("codex", "running", 26),
        ("codex", "idle", 27),
        ("codex", "failed", 2),
        ("codex", "starting", 5),
        ("codex", "exited", 2),
    ]


@both_ways
def test_no_screen_that_does_not_wait_is_called_waiting(readings: Readings) -> None:
    assert [
        (sample.agent, sample.scene, sample.width, reading.reason)
        for sample, reading in readings()
        if reading.state is State.WAITING and sample.truth is not State.WAITING
    ] == []


@both_ways
@pytest.mark.parametrize("agent", PROGRAMS)
@pytest.mark.parametrize("truth", [State.WAITING, State.RUNNING, State.IDLE])
def test_at_least_97_of_100_are_seen(readings: Readings, agent: str, truth: State) -> None:
    assert share(readings, agent, truth) >= 0.97


@both_ways
@pytest.mark.parametrize("agent", PROGRAMS)
@pytest.mark.parametrize("truth", [State.FAILED, State.STARTING, State.DEAD])
def test_errors_starts_and_exits_are_seen(readings: Readings, agent: str, truth: State) -> None:
    assert share(readings, agent, truth) == 1


def test_a_reading_does_not_flicker_within_a_burst() -> None:
    flickering = [
        (burst[0].agent, burst[0].scene, burst[0].width)
        for burst in bursts()
        if len({reading.state for reading in read_burst(burst)}) > 1
    ]
    assert flickering == []


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("agent", PROGRAMS)
def test_a_scene_leaves_nothing_to_the_next(agent: str, width: int) -> None:
    wrong = []
    look = None
    scenes = [one for one in samples() if (one.agent, one.width) == (agent, width)]
    for sample in sorted(scenes, key=lambda one: one.time):
        reading, look = read(agent, sample.pane, look, sample.now)
        if reading.state is not sample.truth:
            wrong.append((sample.scene, reading))
    assert wrong == []


# What could be mistaken for a dialog


def test_a_cursor_that_is_caught_anywhere_does_not_make_a_screen_wait() -> None:
    waiting = [
        (sample.scene, row)
        for sample in samples()
        if sample.truth is not State.WAITING
        for row in range(0, 50, 3)
        if state(sample.agent, replace(sample.pane, cursor_y=row)) is State.WAITING
    ]
    assert waiting == []


@pytest.mark.parametrize("indent", [2, 5])
@pytest.mark.parametrize("scene", sorted(dialogs()))
def test_a_dialog_quoted_in_the_transcript_changes_nothing(scene: str, indent: int) -> None:
    quoted = [" " * indent + row for row in dialogs()[scene]]
    idle = prompt("● It looks like this:", *quoted, "✻ Baked for 1s · done 1:18 AM")
    running = prompt(
        "● It looks like this:", *quoted, footer="  ⏸ manual mode on · esc to interrupt"
    )
    for row in range(len(quoted) + 6):
        assert state("claude", replace(idle, cursor_y=row)) is State.IDLE
        assert state("claude", replace(running, cursor_y=row)) is State.RUNNING


@pytest.mark.parametrize("scene", sorted(dialogs()))
def test_a_dialog_typed_into_the_box_is_unsent_text(scene: str) -> None:
    pane = prompt("✻ Baked for 1s · done 1:18 AM", typed="\n".join(dialogs()[scene]))
    for row in range(len(pane.text.split("\n"))):
        assert state("claude", replace(pane, cursor_y=row)) is State.IDLE


def test_a_long_unsent_text_whose_first_row_has_scrolled_away_is_no_dialog() -> None:
    rule = "─" * 80
    pane = screen(rule, "  ❯ 1. Yes", "    2. No", rule, "  ⏸ manual mode on", cursor=(1, 5))
    assert state("claude", pane) is State.IDLE


def test_a_diff_beside_the_transcript_is_not_read() -> None:
    rows = prompt("● Done.", "✻ Baked for 1s · done 1:18 AM").text.split("\n")
    rows = [f"{row:<90}│ + 'esc to interrupt'" for row in rows]
    assert state("claude", screen(*rows, cursor=(4, 2))) is State.IDLE


def test_a_diff_beside_wide_letters_is_cut_at_its_column() -> None:
    rows = prompt("● 完了", "✻ Baked for 1s · done 1:18 AM").text.split("\n")
    rows = [row.ljust(90 - sum(letter in "完了" for letter in row)) + "│ x" for row in rows]
    rows[-1] += " esc to interrupt"
    assert state("claude", screen(*rows, cursor=(4, 2))) is State.IDLE


def test_a_shell_whose_prompt_looks_like_an_option_has_lost_its_agent() -> None:
    for shell in ("zsh", "-zsh", "bash", "fish"):
        pane = screen("Resume this session with:", "  claude --resume", "❯ ", cursor=(2, 2))
        assert state("claude", replace(pane, command=shell)) is State.DEAD


@pytest.mark.parametrize(
    "scene", ["perm_bash_after_8s", "finished", "tool_running", "trust_dialog"]
)
def test_an_agent_started_by_a_shell_script_is_not_dead(scene: str) -> None:
    sample = named(scene)
    assert state("claude", replace(sample.pane, command="bash")) is sample.truth


@pytest.mark.parametrize(
    ("scene", "width"), [("approval_exec", 160), ("unsent_text", 80), ("trust_dialog", 160)]
)
def test_codex_started_by_a_shell_script_is_not_dead(scene: str, width: int) -> None:
    found = [
        one for one in samples() if (one.agent, one.scene, one.width) == ("codex", scene, width)
    ]
    assert found
    for sample in found:
        assert state("codex", replace(sample.pane, command="bash")) is sample.truth


# Dialogs other than the captured ones


@pytest.mark.parametrize("removed", range(0, 60, 4))
def test_a_dialog_in_a_low_pane_waits(removed: int) -> None:
    for sample in samples():
        if sample.agent == "claude" and sample.truth is State.WAITING:
            top = min(removed, sample.cursor_y)
            text = "\n".join(sample.text.split("\n")[top:])
            pane = replace(sample.pane, text=text, cursor_y=sample.cursor_y - top)
            assert state("claude", pane) is State.WAITING


def test_an_own_answer_of_several_rows_still_waits() -> None:
    rows = [
        "─" * 80,
        "Which?",
        "",
        "  1. A",
        "❯ 2. a long answer",
        "     that goes on",
        "",
        " Esc to cancel",
    ]
    assert state("claude", screen(*rows, cursor=(5, 10))) is State.WAITING


def test_a_form_with_a_text_field_waits() -> None:
    rows = [
        "─" * 80,
        " The server asks for a name",
        "",
        "  Name: anna",
        "",
        " Enter to submit · Esc to cancel",
    ]
    assert state("claude", screen(*rows, cursor=(3, 12))) is State.WAITING


def test_a_codex_dialog_is_seen_where_the_title_is_switched_off() -> None:
    sample = named("approval_exec", 160)
    assert state("codex", replace(sample.pane, title="devbox")) is State.WAITING


def test_codex_working_is_seen_where_the_title_is_switched_off() -> None:
    sample = named("tool_running", 160)
    assert sample.agent == "codex"
    assert state("codex", replace(sample.pane, title="devbox")) is State.RUNNING


def test_a_list_in_a_pane_of_20_rows_waits_wherever_codex_parks_the_cursor() -> None:
    rows = [
        "  Update Model Permissions",
        "",
        "› 1. Ask for approval",
        "  2. Full Access",
        "",
        "  enter select · esc back",
    ]
    for row, column in ((3, 16), (5, 40), (1, 0)):
        pane = replace(screen(*rows, cursor=(row, column), title="proj"), command="codex")
        assert state("codex", pane) is State.WAITING


def test_codex_text_that_reads_like_a_hint_is_unsent_text() -> None:
    rows = [
        "› first",
        "  › 1. Yes",
        "  Press enter to confirm or esc to cancel",
        "",
        "  gpt-5 default · ~/proj",
    ]
    for row in range(3):
        pane = replace(screen(*rows, cursor=(row, 9), title="proj"), command="codex")
        assert state("codex", pane) is State.IDLE


def test_codex_says_by_its_title_alone_that_it_waits() -> None:
    sample = named("approval_exec", 160)
    pane = replace(sample.pane, text="\n".join(sample.text.split("\n")[:-3]))
    assert sample.title.endswith("Action Required | proj")
    assert state("codex", pane) is State.WAITING


def test_submit_selected_in_a_list_waits_though_the_cursor_is_parked_below() -> None:
    rows = [
        "─" * 40,
        "  1. [ ] A",
        "  2. [ ] B",
        "❯    Submit",
        "─" * 40,
        "  3. Chat about this",
        "",
    ]
    hint = ["Enter to select · ↑/↓ to navigate ·", "ctrl+g to edit in Vim · Esc to cancel"]
    assert state("claude", screen(*rows, *hint, cursor=(8, 0))) is State.WAITING


def test_the_row_of_the_detailed_transcript_may_be_cut_off() -> None:
    rows = ["● Bash(rm -rf build)", "  ⎿ \xa0Waiting…", "", "─" * 40]
    for last, expected in (
        ("  dialog waiting · Showing detailed tra…", State.WAITING),
        ("  dialog waiting · Sho…", State.WAITING),
        ("  working · Showing detailed transcript…", State.RUNNING),
        ("  Showing detailed transcript · ctrl+o …", State.IDLE),
    ):
        assert state("claude", screen(*rows, last, cursor=(4, 0))) is expected


def test_the_detailed_transcript_shows_a_failed_turn() -> None:
    rows = [
        "❯ go on",
        "  ⎿ \xa0Invalid API key",
        "",
        "─" * 80,
        "  Showing detailed transcript · ctrl+o",
    ]
    assert state("claude", screen(*rows, cursor=(4, 0))) is State.FAILED


@pytest.mark.parametrize(
    "hint", ["  ←/→ to switch · Esc to close", "  Enter to view · Esc to close"]
)
def test_a_panel_that_the_user_opened_asks_nothing(hint: str) -> None:
    rows = ["▔" * 80, "  Hooks", "", "  ❯ All events", "    Other events", "", hint]
    pane = screen(*rows, cursor=(3, 2))
    assert state("claude", pane) is State.IDLE
    running = Look(state=State.RUNNING, at=NOW)
    assert state("claude", pane, running) is State.RUNNING
    silent = replace(pane, activity=NOW // SECOND - 10)
    assert state("claude", silent, running) is State.IDLE


def test_a_list_without_numbers_or_hint_is_not_certain() -> None:
    assert state("claude", screen("❯ one", "  two", cursor=(0, 2))) is State.IDLE
    assert state("claude", screen("❯ 1. one", "  2. two", cursor=(0, 2))) is State.WAITING


def test_a_shell_prompt_above_a_list_of_completions_has_lost_its_agent() -> None:
    pane = screen("❯ git ", "  add  branch  commit", cursor=(0, 6), title="")
    assert state("claude", replace(pane, command="zsh")) is State.DEAD
    hinted = screen("❯ 1. run", "tab to complete", cursor=(0, 6), title="")
    assert state("claude", replace(hinted, command="zsh")) is State.DEAD


@pytest.mark.parametrize("command", ["claude", "sh", "bash"])
def test_a_shell_that_is_starting_the_agent_is_not_dead(command: str) -> None:
    blank = replace(screen("", cursor=(0, 0), title="devbox"), command=command)
    assert state("claude", blank) is State.STARTING
    assert state("codex", blank) is State.STARTING


# Work that has no interrupt hint


@pytest.mark.parametrize("sign", ["•", "◦"])
def test_a_codex_that_reconnects_is_at_work(sign: str) -> None:
    row = f"{sign} Reconnecting... waiting for network (2s • esc to interrupt)"
    rows = ["› hello", "", row, "  └ Connection failed", "", "› ", "", "  gpt-5 default"]
    pane = replace(screen(*rows, cursor=(5, 2), title="devbox"), command="codex")
    assert state("codex", pane) is State.RUNNING


def test_work_goes_on_for_a_while_when_typing_hides_its_mark() -> None:
    _, look = read("claude", prompt("● Here", footer="  ⏸ · esc to interrupt"), None, NOW)
    typed = prompt("● Here", typed="text")
    assert state("claude", typed, look, NOW + HOLD_NS) is State.RUNNING
    _, look = read("claude", typed, look, NOW + HOLD_NS)
    assert state("claude", typed, look, NOW + HOLD_NS + SECOND) is State.IDLE


@pytest.mark.parametrize(
    "row",
    [
        "✻ Musing…",
        "· Working… (5s · ↓ 20 tokens)",
        "* API error · retrying in 9s · attempt 5/10",
        "✻ Waiting for 2 background agents to finish",
    ],
)
def test_a_status_line_at_the_end_is_work(row: str) -> None:
    pane = prompt("● Done.", row, "  ⎿ \xa0Tip: Use /theme", typed="text")
    assert state("claude", pane) is State.RUNNING
    later = prompt(row, "● Done.", "✻ Baked for 1s · done 1:18 AM", typed="text")
    assert state("claude", later) is State.IDLE


def test_sub_agents_listed_below_the_box_are_work() -> None:
    done = ["● Done.", "✻ Baked for 1s · done 1:18 AM"]
    agents = [
        "  ⏸ manual mode on",
        "",
        "  ● main",
        "  ◯ general-purpose  find esc to interrupt   3s",
    ]
    assert state("claude", prompt(*done, footer="\n".join(agents))) is State.RUNNING


def test_an_answer_whose_first_line_has_scrolled_away_is_open() -> None:
    assert state("claude", prompt("  and so on", "  and on", typed="text")) is State.RUNNING


def test_a_start_screen_whose_logo_is_not_drawn_yet_is_idle() -> None:
    pane = prompt(
        "           Claude Code v2.1.330", "           Opus 5.5", footer="  ⏸ manual mode on · ? …"
    )
    assert state("claude", pane) is State.IDLE


def test_the_footer_of_one_ctrl_c_hides_the_interrupt_hint() -> None:
    pane = prompt("● Here is how", footer="  Press Ctrl-C again to exit")
    assert state("claude", pane) is State.RUNNING


# Where only change can tell


def typed_over(*answer: str, typed: str = "and the tests") -> Pane:
    return prompt("❯ explain", *answer, typed=typed)


def test_an_open_answer_that_stands_still_is_idle_after_a_while() -> None:
    pane = typed_over("● Here is how", "  it works.")
    look: Look | None = None
    seen = []
    for second in range(8):
        reading, look = read("claude", pane, look, NOW + second * SECOND)
        seen.append(reading.state)
    hold = HOLD_NS // SECOND
    assert seen == [State.RUNNING] * (hold + 1) + [State.IDLE] * (7 - hold)


def test_an_answer_that_grows_is_running_though_text_is_being_typed() -> None:
    answer = ["● Here is how"]
    look: Look | None = None
    for second in range(30):
        answer.append(f"  line {second // 2}")
        pane = typed_over(*answer, typed="x" * (second + 1))
        reading, look = read("claude", pane, look, NOW + second * SECOND)
        assert reading.state is State.RUNNING


def test_one_late_repaint_is_not_growth() -> None:
    still = Look(state=State.IDLE, at=NOW, above="another")
    reading, look = read("claude", typed_over("● Here"), still, NOW + SECOND)
    assert reading.state is State.IDLE
    assert read("claude", typed_over("● Here", "  is"), look, NOW + 2 * SECOND)[0] == Reading(
        State.RUNNING, "growth"
    )


def test_a_menu_above_the_box_is_not_growth() -> None:
    look: Look | None = Look(state=State.IDLE, at=NOW, above="another")
    for second in range(1, 6):
        pane = typed_over("● Here", f"  ❯ /command{second}", typed="/c")
        reading, look = read("claude", pane, look, NOW + second * SECOND)
        assert reading.state is State.IDLE


def test_a_blank_screen_starts_unless_the_agent_has_shown_itself() -> None:
    blank = screen("", "", cursor=(0, 0), title="devbox")
    assert state("claude", blank) is State.STARTING
    assert state("codex", replace(blank, command="codex")) is State.STARTING
    for before in (State.WAITING, State.DEAD):
        assert state("claude", blank, Look(state=before, at=NOW)) is State.STARTING
    drawn_before = Look(state=State.RUNNING, at=NOW)
    assert state("claude", replace(blank, title="✳ Work"), drawn_before) is State.RUNNING


def test_an_editor_over_the_screen_keeps_the_state_but_never_a_wait() -> None:
    editor = screen("# notes", "~", "~", cursor=(0, 0))
    assert state("claude", editor, Look(state=State.RUNNING, at=NOW)) is State.RUNNING
    assert state("claude", editor, Look(state=State.FAILED, at=NOW)) is State.FAILED
    assert state("claude", editor, Look(state=State.WAITING, at=NOW)) is State.IDLE


def test_a_dialog_caught_half_drawn_goes_on_waiting() -> None:
    sample = named("perm_edit")
    elsewhere = replace(sample.pane, cursor_y=0)
    assert state("claude", elsewhere, Look(state=State.WAITING, at=NOW)) is State.WAITING


# Errors


def test_a_suggestion_to_resend_is_a_failed_turn() -> None:
    pane = prompt("  the error has scrolled away", typed="Resend your message to try again")
    assert state("claude", pane) is State.FAILED


def test_a_failed_turn_stays_failed_while_nothing_moves() -> None:
    pane = prompt("  the error has scrolled away", typed="text")
    _, look = read("claude", pane, None, NOW)
    failed = replace_state(look, State.FAILED)
    assert state("claude", pane, failed, NOW + SECOND) is State.FAILED


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["❯ go on", "  ⎿ \xa0Invalid API key · Fix external API key"], State.FAILED),
        (["● Read(a.py)", "  ⎿ \xa0Read 3 lines", "  ⎿ \xa0Context limit reached"], State.FAILED),
        (["❯ go on", "● API Error: 500 Internal server error"], State.FAILED),
        (["● API Error: 500", "❯ again", "● Done.", "✻ Baked for 1s · done 1:18 AM"], State.IDLE),
        (["● API Error handling is in client.py.", "✻ Baked for 1s · done 1:18 AM"], State.IDLE),
        (["! cat log", "  ⎿ \xa0Invalid API key"], State.IDLE),
        (["❯ go on", "  ⎿ \xa0Interrupted · What should Claude do instead?"], State.IDLE),
    ],
)
def test_only_the_last_entry_fails_a_turn(rows: list[str], expected: State) -> None:
    assert state("claude", prompt(*rows, footer="  ⏸ manual mode on · ? for shortcuts")) is expected


# Programs without a table


@pytest.mark.parametrize("program", ["aider", "gemini", "bash", "", "Claude"])
def test_a_program_without_a_table_is_judged_by_its_output_alone(program: str) -> None:
    dialog = named("perm_bash", 160).pane
    for silence_s, expected in ((0, State.RUNNING), (3, State.RUNNING), (4, State.IDLE)):
        pane = replace(dialog, activity=NOW // SECOND - silence_s)
        assert state(program, pane) is expected


# Anything at all

pieces = st.sampled_from(
    ["❯ ", "❯\xa0", "› ", "─" * 20, "\n", "│", "esc to interrupt", "✻ ", "● ", "  ⎿  ", "完", "1. "]
)
texts = st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=5))).map("".join))
panes = st.builds(
    Pane,
    text=texts,
    title=st.text(max_size=20),
    cursor_y=st.integers(-2, 10_000),
    cursor_x=st.integers(-2, 10_000),
    command=st.sampled_from(["claude", "codex", "bash", "-zsh", "", "node"]),
    activity=st.integers(0, 2**40),
    width=st.integers(0, 10_000),
)


@given(st.sampled_from([*PROGRAMS, "aider"]), st.lists(st.tuples(panes, st.integers(0, NOW))))
def test_any_screen_has_a_state_and_a_memory_that_can_be_stored(
    program: str, looks: list[tuple[Pane, int]]
) -> None:
    check_looks(program, looks)
