"""Breaks one promise of the record in every Python process that has this folder on its path.

$SABOTAGE names the promise. It is how the tests of exactness are tested: they must fail with it.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time


def fold_twice(journal):
    add = journal.Journal._add

    def twice(self, series, value, tally):
        add(self, series, value, tally)
        add(self, series, value, tally)

    journal.Journal._add = twice


def offset_outside(journal):
    append = journal.Journal.append

    def apart(self, source, batch, now):
        if batch.events and batch.offsets:
            append(self, source, journal.Batch(offsets=batch.offsets), now)
            time.sleep(2)
            batch = journal.Batch(events=batch.events, sessions=batch.sessions)
        return append(self, source, batch, now)

    journal.Journal.append = apart


def no_birth_hold(journal):
    shown = journal.Journal.shown

    def at_once(self):
        self.release(time.time_ns(), 0)
        return shown(self)

    journal.Journal.shown = at_once


def skip_last_look(spool):
    """After a restart, go on behind what was last looked at, committed or not."""
    poll = spool.SpoolSource.poll

    def forgetful(self, sessions, offsets, now):
        noted = self._folder.parent / "looked"
        if not self.__dict__.setdefault("resumed", False):
            self.resumed = True
            if noted.exists():
                offsets = {**offsets, **json.loads(noted.read_text())}
        batch = poll(self, sessions, offsets, now)
        fresh = noted.with_suffix(".new")
        fresh.write_text(json.dumps({k: v for k, v in batch.offsets.items() if v is not None}))
        fresh.replace(noted)
        return batch

    spool.SpoolSource.poll = forgetful


_MODULES = {"skip_last_look": "squad_otel.sources.spool"}


class _Saboteur(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != _MODULES.get(os.environ["SABOTAGE"], "squad_otel.journal"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            globals()[os.environ["SABOTAGE"]](module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("SABOTAGE"):
    sys.meta_path.insert(0, _Saboteur())
