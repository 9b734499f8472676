"""`segkit doctor`: look at each part that segkit stands on, and say what to do about each fault.

`machine` looks at what is installed here, `services` at what is reached from here, `state` at what goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from segkit.doctor import machine, services, state
from segkit.doctor.checks import Check
from segkit.settings import Settings

__all__ = ["Check", "examine"]

LOOKS: tuple[Callable[[Settings], Check], ...] = (
    machine.versions,
    machine.sources,
    machine.disk,
    machine.file_system,
    machine.permissions,
    machine.memory,
    services.database,
    services.sqlite,
    services.clock,
    services.cache,
    machine.port,
    machine.front,
    machine.segmenters,
    machine.kernels,
    state.workers,
    state.failures,
    state.orphans,
    state.backup,
)


def examine(settings: Settings, *, with_cluster: bool = True) -> Iterator[Check]:
    """Yield one check after another, so that slow ones can be watched. Nothing is changed.

    Parameters
    ----------
    settings
        What to examine.
    with_cluster : bool
        Also start or reach the Dask cluster, which takes some seconds.
    """
    for look in (*LOOKS, services.cluster) if with_cluster else LOOKS:
        yield look(settings)
