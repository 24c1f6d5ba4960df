"""Breaks one promise of the journal in every Python process that has this folder on its path.

$SABOTAGE names the promise. It is how the chain test is tested: with any of these it must fail.
"""

import importlib.abc
import importlib.util
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


class _Saboteur(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "squad_otel.journal":
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
