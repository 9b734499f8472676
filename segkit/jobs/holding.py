"""What a worker holds, and the thread that renews its leases."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from segkit.database import Database
from segkit.errors import DatabaseError, DiskFullError
from segkit.jobs.claims import renew
from segkit.jobs.records import Claim
from segkit.jobs.statements import Attempt
from segkit.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class Held:
    """What this worker has claimed and not yet committed or given back.

    It may hold two attempts of one job: its own lease ran out while it was frozen, and it was the first to claim the job again.
    """

    claims: dict[tuple[int, int], Claim] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, claims: Sequence[Claim]) -> None:
        """Hold new claims."""
        with self.lock:
            self.claims.update(((claim.job_id, claim.attempt), claim) for claim in claims)

    def drop(self, attempts: Iterable[Attempt]) -> None:
        """Hold these no longer."""
        with self.lock:
            for each in attempts:
                self.claims.pop((each.job_id, each.attempt), None)

    def of(self, attempt: Attempt) -> Claim:
        """The claim that an attempt was made on."""
        with self.lock:
            return self.claims[attempt.job_id, attempt.attempt]

    def all(self) -> list[Claim]:
        """All that is held, in a list of its own."""
        with self.lock:
            return list(self.claims.values())


class Heartbeat:
    """Renews the leases of what a worker holds, from a thread of its own."""

    def __init__(self, database: Database, settings: Settings, worker: str, held: Held) -> None:
        self._database = database
        self._settings = settings
        self._worker = worker
        self._held = held
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="segkit-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._settings.beat_seconds):
            claims = self._held.all()
            if not claims:
                continue
            try:
                with self._database.write() as connection:
                    renew(connection, self._worker, claims, self._settings.lease_seconds)
            except (DatabaseError, DiskFullError) as error:
                log.warning("Leases could not be renewed: %s", error)
