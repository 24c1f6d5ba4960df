"""Sessions: the label that their gauges carry."""

from __future__ import annotations

from squad_otel.ids import session_id
from squad_otel.sessions import Session


def label(identity: str, name: str = "nightly") -> str:
    return Session(
        id=identity, name=name, program="p", repository="r", branch="b", worktree=""
    ).label


def test_the_label_is_the_name_and_the_beginning_of_the_id() -> None:
    identity = session_id("/w/nightly")
    assert label(identity) == f"nightly-{identity[:6]}"
    assert label(identity, "n" * 100) == f"{'n' * 32}-{identity[:6]}"


def test_ids_that_begin_alike_have_labels_of_their_own() -> None:
    assert len({label(f"deploy-{number}") for number in range(100)}) == 100
