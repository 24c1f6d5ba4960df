"""The scripted agent's drawing of recorded screens."""

from __future__ import annotations

from squad_otel.demo.agent import carried, read_scenes
from squad_otel.demo.scenario import _SCENES


def test_a_line_begins_with_the_style_that_was_left_on() -> None:
    bold, red, off = "\x1b[1m", "\x1b[31m", "\x1b[0m"
    assert carried([f"{bold}one", f"two{red}", "", f"three{off}", "four"]) == [
        f"{bold}one",
        f"{bold}two{red}",
        "",
        f"{bold}{red}three{off}",
        "four",
    ]


def test_every_scene_of_the_play_is_recorded_for_the_preview() -> None:
    for program, scenes in _SCENES.items():
        recorded = {scene.name for scene in read_scenes(program) if scene.width == 80}
        for what, names in scenes.items():
            assert recorded & set(names), f"{program} {what}"
