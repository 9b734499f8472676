"""A soak: a lab under mixed load for many minutes, with faults all the time; memory and open files must stay flat.

    python -m tests.faults.soak --minutes 20 --engine sqlite

Workers of every kind, Dask, a service with readers, exports, batches. One worker and the service are never struck, because a process that
is started again hides what it leaked; everything else is killed and frozen at random moments. At the end nothing may be lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import segkit
from segkit.database import open_database, upgrade
from segkit.settings import load
from tests.faults.fleet import Fleet, Readers, memory_of, site_with_slow
from tests.faults.invariants import check
from tests.faults.processes import Disturber, Programs
from tests.faults.report import NOTES, record

#: What is struck; the service and "worker with threads 1" are not.
STRUCK = {
    "worker with processes": 1,
    "worker of a scheduler": 3,
    "dask worker": 5,
    "local dask worker": 3,
    "nanny": 1,
    "scheduler": 1,
    "kernel": 3,
}
WATCHED = ("server", "worker with threads 1")
#: Every so many seconds a fault, a look at memory, and an export.
FAULT_SECONDS, LOOK_SECONDS, EXPORT_SECONDS = 6.0, 2.0, 20.0
#: The first part of the time is for warming up. Then the last quarter is compared with the first: by so much it may be more.
WARM_UP, MORE, MORE_MIB, MORE_FILES = 0.25, 0.10, 24.0, 8


@dataclass
class Watch:
    """What a process used, look by look."""

    memory: list[float] = field(default_factory=list)  #: MiB
    files: list[int] = field(default_factory=list)

    def look(self, process: int) -> None:
        """Look once."""
        memory, files = memory_of(process)
        self.memory.append(memory)
        self.files.append(files)

    def told(self) -> dict[str, float]:
        """Medians of the first and the last quarter after warming up."""
        start = int(len(self.memory) * WARM_UP)
        memory, files = self.memory[start:], self.files[start:]
        part = max(1, len(memory) // 4)
        return {
            "looks": len(memory),
            "memory_first_mib": round(statistics.median(memory[:part]), 1),
            "memory_last_mib": round(statistics.median(memory[-part:]), 1),
            "memory_peak_mib": round(max(memory), 1),
            "files_first": statistics.median(files[:part]),
            "files_last": statistics.median(files[-part:]),
        }

    def flat(self) -> bool:
        """Whether the last quarter is no more than the first, but for the margin."""
        told = self.told()
        most = told["memory_first_mib"] * (1 + MORE) + MORE_MIB
        return told["memory_last_mib"] <= most and told["files_last"] <= told["files_first"] + MORE_FILES


@contextlib.contextmanager
def place(engine: str) -> Iterator[tuple[Path, str | None]]:
    """A folder, and a database's URL unless it is SQLite."""
    with tempfile.TemporaryDirectory(prefix="segkit-soak-", ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        url = None
        if engine == "postgresql":
            from tests.conftest import PostgresqlServer

            server = PostgresqlServer(Path(folder) / "postgresql")
            stack.callback(server.stop)
            url = server.create()
            with open_database(load(database_url=url), check=False) as database:
                upgrade(database)
        yield Path(folder), url


def soak(minutes: float, engine: str, seed: int) -> dict[str, Any]:
    """Soak; returns what was seen."""
    chance = random.Random(seed)
    disturber, struck = Disturber(chance), Counter[str]()
    with place(engine) as (folder, url):
        os.environ["PYTHONPATH"] = str(site_with_slow(folder / "site"))
        sys.path.insert(0, os.environ["PYTHONPATH"])
        arguments = {"cluster": "threads", "threads_per_worker": 2, "max_attempts": 100, "database_url": url}
        with segkit.open(folder / "home", **arguments) as kit, Programs(kit.settings, folder / "logs", {"MAX_ATTEMPTS": "100"}) as programs:
            fleet = Fleet(kit, programs, folder)
            fleet.found()
            watches = {name: Watch() for name in WATCHED}
            begun, exported = time.monotonic(), 0
            end = begun + 60 * minutes
            fault_at, look_at, export_at = begun + FAULT_SECONDS, begun, begun + EXPORT_SECONDS
            paths = ("/api/runs/1", "/api/runs/1/jobs", "/metrics", "/")
            with Readers(fleet.members["server"].address, number=3, extra=paths, pause=0.2) as readers:
                while (moment := time.monotonic()) < end:
                    time.sleep(0.2)
                    fleet.feed()
                    fleet.mend()
                    disturber.thaw()
                    if moment >= look_at:
                        look_at = moment + LOOK_SECONDS
                        for name, watch in watches.items():
                            watch.look(fleet.members[name].pid)
                    if moment >= fault_at:
                        fault_at = moment + FAULT_SECONDS
                        what = chance.choices(list(STRUCK), list(STRUCK.values()))[0]
                        freezing = what != "kernel" and chance.random() < 0.25
                        if fleet.disturb(disturber, what, freeze_for=chance.uniform(3.5, 5) if freezing else None):
                            struck[f"{what} {'frozen' if freezing else 'killed'}"] += 1
                    if moment >= export_at and kit.run(1).progress().done:
                        export_at = moment + EXPORT_SECONDS
                        kit.run(1).export(chance.choice(["csv", "coco", "geojson"]), folder / "exports" / str(exported), overwrite=True)
                        exported += 1
                disturber.thaw(all_of_them=True)
                fleet.drain(300)
            ends = fleet.stop()
            check(kit.database, kit.settings.home, drained=True)
            state = kit.queue()
            seen = {
                "minutes": minutes,
                "engine": engine,
                "kills": disturber.kills,
                "freezes": disturber.freezes,
                "struck": dict(struck),
                "jobs": state.done,
                "batches": kit.batches(status="done").total,
                "exports": exported,
                "answers": dict(readers.answers),
                "use": {name: watch.told() for name, watch in watches.items()},
                "flat": all(watch.flat() for watch in watches.values()),
                "faults": [*fleet.strange, *readers.faults[:5], *(f"{name} ended with {code}" for name, code in worse(ends).items())],
            }
    return seen


def worse(ends: dict[str, int]) -> dict[str, int]:
    """Workers that did not end as they should when they were told to."""
    return {name: code for name, code in ends.items() if name.startswith("worker") and code}


def main() -> None:
    """Soak, keep what was seen beside the notes of the faults, and end with 1 when it is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seen = soak(options.minutes, options.engine, options.seed)
    print(json.dumps(seen, indent=1))
    NOTES.parent.mkdir(parents=True, exist_ok=True)
    with (NOTES.parent / "soak.jsonl").open("a") as file:
        file.write(json.dumps(seen) + "\n")
    if seen["faults"] or not seen["flat"]:
        raise SystemExit(1)
    use = "; ".join(
        f"{name} {told['memory_first_mib']:.0f} to {told['memory_last_mib']:.0f} MiB and "
        f"{told['files_first']:.0f} to {told['files_last']:.0f} open files"
        for name, told in seen["use"].items()
    )
    record(
        "Soak",
        f"{options.minutes:g} minutes of mixed load on {options.engine} with kills and freezes",
        seen["kills"] + seen["freezes"],
        f"{seen['jobs']} jobs, {seen['batches']} batches and {seen['exports']} exports done; memory flat: {use}",
    )


if __name__ == "__main__":
    main()
