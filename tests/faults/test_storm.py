"""A storm: everything is killed and frozen at random moments while a lab works, hundreds of times, and nothing is lost."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from segkit.kit import Kit
from tests.faults.fleet import IMAGES, Fleet, Readers
from tests.faults.invariants import check
from tests.faults.processes import Disturber, Programs
from tests.faults.report import record

#: Longer than a lease, so that whoever is frozen has lost his jobs when he goes on.
FREEZE_SECONDS = (3.5, 5.0)
#: What is struck, and how often in comparison. What needs seconds of a core to start again is struck less often.
KILLED = {
    "worker with threads": 80,
    "worker of a scheduler": 15,
    "dask worker": 15,
    "local dask worker": 10,
    "nanny": 3,
    "worker with processes": 4,
    "scheduler": 5,
    "server": 5,
    "kernel": 8,
}
FROZEN = {
    "worker with threads": 10,
    "worker of a scheduler": 5,
    "dask worker": 5,
    "local dask worker": 4,
    "nanny": 2,
    "scheduler": 2,
    "server": 2,
}
#: The invariants of the tables are looked at while the storm goes on, after so many kills.
LOOK_EVERY = 25


@pytest.mark.faults
@pytest.mark.timeout(2400)
def test_a_storm_of_kills_and_freezes_loses_and_doubles_nothing(patient_kit: Kit, programs: Programs, tmp_path: Path) -> None:
    kills, freezes = (int(os.environ.get(f"STORM_{name}", most)) for name, most in (("KILLS", 210), ("FREEZES", 52)))
    chance = random.Random(int(os.environ.get("STORM_SEED", "0")))
    disturber = Disturber(chance)
    fleet = Fleet(patient_kit, programs, tmp_path)
    fleet.found()
    struck: Counter[str] = Counter()
    begun, look_at = time.monotonic(), LOOK_EVERY
    with Readers(fleet.members["server"].address, extra=("/api/runs/1",)) as readers:
        while disturber.kills < kills or disturber.freezes < freezes:
            time.sleep(chance.uniform(0.1, 0.9))
            fleet.feed()
            fleet.mend()
            disturber.thaw()
            freezing = disturber.kills >= kills or (disturber.freezes < freezes and chance.random() < freezes / (kills + freezes))
            kinds = FROZEN if freezing else KILLED
            what = chance.choices(list(kinds), list(kinds.values()))[0]
            if fleet.disturb(disturber, what, freeze_for=chance.uniform(*FREEZE_SECONDS) if freezing else None):
                struck[f"{what} {'frozen' if freezing else 'killed'}"] += 1
            if disturber.kills >= look_at:
                look_at += LOOK_EVERY
                check(patient_kit.database, patient_kit.settings.home, files=False)
                print(
                    f"{time.monotonic() - begun:.0f} s: {disturber.kills} kills, {disturber.freezes} freezes, {patient_kit.queue()}",
                    flush=True,
                )
        disturber.thaw(all_of_them=True)
        fleet.drain(300)
    ends = fleet.stop()
    state = patient_kit.queue()
    print(f"{time.monotonic() - begun:.0f} s, {dict(struck)}, {dict(readers.answers)}, {state}", flush=True)
    assert not fleet.strange, fleet.strange
    assert not readers.faults, readers.faults[:5]
    assert readers.answers["200"] > 100
    assert {name: code for name, code in ends.items() if name.startswith("worker") and code} == {}
    assert state.done == IMAGES * len(fleet.runs)
    check(patient_kit.database, patient_kit.settings.home, drained=True)
    engine = "SQLite" if patient_kit.database.dialect == "sqlite" else "PostgreSQL"
    outcome = (
        f"{state.done} jobs in {len(fleet.runs)} runs, each done once; other processes went on, and the dead ones' jobs were run again"
    )
    for each, times in struck.items():
        what, _, how = each.rpartition(" ")
        signal = "SIGKILL" if how == "killed" else "SIGSTOP, longer than the lease"
        record(f"Storm: {what} {how}", f"{signal} at random moments, {engine}", times, outcome)
