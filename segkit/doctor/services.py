"""Looks at what segkit stands on: the database, its clock, the cache, the cluster."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from segkit import cache as caches
from segkit import cluster as clusters
from segkit.database import check, current, now, open_database
from segkit.doctor.checks import Check
from segkit.errors import SegkitError
from segkit.settings import Settings

#: SQLite versions before this can corrupt a WAL database that several processes write (www.sqlite.org/releaselog/3_51_3.html).
SAFE_SQLITE = (3, 51, 3)
#: PostgreSQL before this is not looked after any more.
OLDEST_POSTGRESQL = 14
TRIAL_CALL = 21
#: Clocks that differ by more are told.
SKEW_SECONDS = 2.0
#: Connections that a service keeps beside its pool: to hear of changes and ends, to tell of them, and to ask for pages.
ALSO = 7


def database(settings: Settings) -> Check:
    """Whether the database answers, is of a version that is looked after, and has the tables of this segkit."""
    try:
        with open_database(settings, check=False) as opened:
            check(opened)
            detail, advice = f"{opened.dialect}, revision {current(opened)}", ""
            if opened.dialect == "postgresql":
                with opened.read() as connection:
                    number = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
                    most = int(connection.exec_driver_sql("SHOW max_connections").scalar_one())
                detail += f", version {number // 10_000}.{number % 100}, {most} connections"
                if number < OLDEST_POSTGRESQL * 10_000:
                    advice = f"Upgrade PostgreSQL to {OLDEST_POSTGRESQL} or later: it gets no more fixes."
                elif most < settings.db_pool_max + ALSO:
                    advice = "Raise max_connections of PostgreSQL, or lower SEGKIT_DB_POOL_MAX."
            return Check("database", "note" if advice else "ok", detail, advice)
    except SegkitError as error:
        return Check("database", "fault", str(error), "See the message; `segkit db upgrade` makes or upgrades the tables.")


def sqlite(settings: Settings) -> Check:
    """Whether this SQLite has the WAL-reset bug."""
    if sqlite3.sqlite_version_info >= SAFE_SQLITE:
        return Check("sqlite", "ok", sqlite3.sqlite_version)
    wanted = ".".join(map(str, SAFE_SQLITE))
    return Check(
        "sqlite",
        "note",
        f"{sqlite3.sqlite_version} is older than {wanted}, so segkit keeps checkpoints to one process at a time",
        "Fine on one machine. For several machines use PostgreSQL (SEGKIT_DATABASE_URL); never SQLite on a network share.",
    )


def clock(settings: Settings) -> Check:
    """Whether the database's clock, by which leases are measured, and this machine's agree."""
    try:
        with open_database(settings, check=False) as opened:
            if opened.dialect == "sqlite":
                return Check("clock", "ok", "the database's clock is this machine's")
            with opened.read() as connection:
                before, told, after = datetime.now(UTC), now(connection), datetime.now(UTC)
    except SegkitError:
        return Check("clock", "note", "the database does not answer, so its clock is not known", "Mend the database first.")
    skew = max((before - told).total_seconds(), (told - after).total_seconds(), 0.0)
    if skew > SKEW_SECONDS:
        advice = "Set both by NTP. Leases hold, being measured by the database alone; times of logs and of files do not match."
        return Check("clock", "note", f"the database's clock and this machine's differ by {skew:.1f} s", advice)
    return Check("clock", "ok", "the database's clock and this machine's agree")


def cache(settings: Settings) -> Check:
    """Whether Redis answers, where there is one."""
    if settings.redis_url is None:
        return Check("cache", "ok", f"in this process, {settings.cache_bytes / 1024**2:.0f} MiB")
    if caches.reachable(settings):
        return Check("cache", "ok", "Redis answers")
    return Check("cache", "fault", "Redis does not answer; segkit works without it, slower", "Start it, or unset SEGKIT_REDIS_URL.")


def cluster(settings: Settings) -> Check:
    """Whether the cluster takes a task and gives the right answer."""
    try:
        with clusters.connect(settings) as connected:
            answer = connected.client.submit(abs, -TRIAL_CALL, pure=False).result(timeout=clusters.START_SECONDS)
            threads = connected.threads
    except (SegkitError, TimeoutError) as error:
        return Check(
            "cluster", "fault", str(error) or "no worker answered in time", "Check SEGKIT_CLUSTER; `local` needs no other machine."
        )
    if answer != TRIAL_CALL:
        return Check("cluster", "fault", "a worker answered wrongly", "Workers must run the same versions as this machine.")
    if settings.cluster.startswith("tcp://") and "127.0.0.1" not in settings.cluster and "localhost" not in settings.cluster:
        return Check(
            "cluster", "note", f"{settings.cluster}, {threads} threads, without encryption", "Use tls:// unless the network is private."
        )
    return Check("cluster", "ok", f"{settings.cluster}, {threads} threads")
