"""A Dask cluster from settings: local processes, threads of this process, a scheduler's address, SLURM, PBS or Kubernetes.

Dask is only the muscle: it repeats nothing (`allowed-failures` 0, no retries) and holds no results, because the jobs in
the database are the one count of attempts. Schedulers and dashboards that segkit starts listen on loopback alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from importlib import import_module
from ipaddress import ip_address
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import cv2
import dask
from distributed import Client, Future, Nanny, Scheduler, Security, SpecCluster, Worker
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError
from distributed.core import Status
from distributed.deploy.subprocess import SubprocessWorker
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.scheduler import KilledWorker

from segkit import kernels, logs
from segkit.errors import ClusterError, MissingExtraError
from segkit.meter import Process
from segkit.settings import Settings, process_environment, shared_folder

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
#: Protocols of Dask without certificates.
PLAIN = ("tcp", "ucx", "ws")
START_SECONDS = 60
#: How long a scheduler that is there already may take to answer.
CONNECT_SECONDS = 10.0
#: How a nanny is started: the kernel kills it when whoever started it is gone, however that ended, and its worker ends with it.
#: Nannies whose coordinator was killed on a busy machine were found alive an hour later. (1 is PR_SET_PDEATHSIG, 9 SIGKILL.)
LEASHED = (
    "import ctypes, os, runpy, sys; parent = int(sys.argv.pop(1)); sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == parent or sys.exit(1); runpy.run_module('dask', run_name='__main__', alter_sys=True)"
)
#: Wait before a nanny that died is replaced.
REPLACE_SECONDS = 1.0
#: How long a count of processes and threads is taken to be right.
COUNTED_SECONDS = 1.0
#: How often a worker looks whether it waits for memory that will not come, and how many times in a row it must have found so.
RELIEF_SECONDS, RELIEF_LOOKS = 1.0, 3
#: A worker whose results take a larger share of its memory than this is not ours alone; ours are a few hundred bytes.
KEPT_SHARE = 0.1
#: Share of the machine's memory that the limits of the local workers add up to at most.
MOST_MEMORY = 0.8
#: Dask's own pages are not served; what little its servers still answer, they answer on this machine alone. Without an address
#: they would listen on every interface.
CLOSED = {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}

#: What the machinery does when the cluster or one of its workers is lost.
WorkerDied = KilledWorker
ClusterLost = (CommClosedError, ClosedClientError, CancelledError, TimeoutError, OSError)

#: What `conf/dask.yaml` says of logging is for Dask's own commands. Here Dask is machinery of ours, and what it meets becomes our words.
QUIET = {"distributed": "critical", "distributed.nanny": "critical", "distributed.worker": "critical"}


class Preparation(WorkerPlugin):
    """Ready each worker process before its first image: allocator, library threads, compiled kernels; and start it anew when it is full."""

    name = "segkit-preparation"

    def __init__(self, log_level: str, log_format: str) -> None:
        self._log = log_level, log_format

    async def setup(self, worker: Worker) -> None:
        """Run beside the worker's event loop, whose heartbeat must not wait for a compiler."""
        if not worker.address.startswith("inproc://"):
            logs.configure(*self._log)
        await asyncio.get_running_loop().run_in_executor(None, prepare)
        if worker.nanny is not None:
            self._relief = asyncio.create_task(relieve(worker))


async def relieve(worker: Worker) -> None:
    """Have the nanny start a worker anew that is paused for want of memory while it does nothing, or it would be so for ever.

    Dask takes no task up above the pause threshold and ends a worker above the terminate threshold. One that stays between them at
    rest, because a library keeps what it took, would hold what was sent to it and never come back to it.
    """
    looks = 0
    while worker.status in (Status.init, Status.running, Status.paused):
        await asyncio.sleep(RELIEF_SECONDS)
        looks = looks + 1 if is_stuck(worker) else 0
        if looks == RELIEF_LOOKS:
            held = worker.monitor.get_process_memory() / 2**20
            log.warning("A Dask worker holds %d MiB while it does nothing, and is started anew (SEGKIT_WORKER_MEMORY)", held)
            # Told to the scheduler as wanted, so that what waits here goes elsewhere, or waits for the new process, and counts as no death.
            with contextlib.suppress(*ClusterLost):
                await worker.scheduler.unregister(address=worker.address, stimulus_id="segkit-memory", expected=True, close=False)
            await worker.close(nanny=False, reason="segkit-memory")


def is_stuck(worker: Worker) -> bool:
    """Tell whether a worker is paused and does nothing, and not for data that others keep in it, which Dask moves to the disk."""
    most_kept = KEPT_SHARE * (worker.memory_manager.memory_limit or math.inf)
    return worker.status == Status.paused and worker.state.executing_count == 0 and worker.state.nbytes < most_kept


def prepare() -> None:
    """Ready this process for segmenting on several threads."""
    kernels.settle_allocator()
    cv2.setNumThreads(1)
    kernels.ready()


class WorkerProcess(SubprocessWorker):
    """A local worker under its nanny, started as a command.

    Dask's own local cluster starts workers with `multiprocessing`, which runs the user's script again in each of them
    unless it is guarded by `if __name__ == "__main__"`. A command does not, so `segkit.open()` works in any script.
    A nanny starts its worker again when that dies. When the nanny is killed, another is started here, which Dask leaves undone: without
    any worker the jobs that are held would wait for ever.
    """

    _keeper: asyncio.Task[None] | None = None

    async def _start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End the nanny and its worker."""
        if self._keeper is not None:
            self._keeper.cancel()
        await super().close()

    async def _keep(self) -> None:
        """Start another nanny whenever one dies; one that was told to end does so with 0."""
        while self.process is not None and await self.process.wait() != 0:
            await asyncio.sleep(REPLACE_SECONDS)
            with contextlib.suppress(OSError):  # no room for another process now; the dead one is looked at again
                await self._spawn()

    async def _spawn(self) -> None:
        spec = json.dumps({"cls": self.worker_class, "opts": self.worker_kwargs})
        environment = process_environment(DASK_INTERNAL_INHERIT_CONFIG=dask.config.serialize(dask.config.global_config))
        # In a session of its own, so that Ctrl-C reaches only the coordinator, which then ends its workers in order.
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LEASHED, str(os.getpid()), "spec", self.scheduler, "--spec", spec),
            env=environment,
            start_new_session=True,
        )


class Cluster:
    """A connected Dask cluster. Use as a context manager, or call `close`."""

    def __init__(self, client: Client, close: Callable[[], None], *, threads: int, kind: str) -> None:
        self.client = client
        self.kind = kind
        self._close = close
        self._threads = threads
        self._size, self._counted = (0, 0), -math.inf

    @property
    def lost(self) -> bool:
        """Whether the connection has ended for good: the scheduler was gone for longer than Dask waits for it."""
        return self.client.status not in ("running", "connecting")

    @property
    def threads(self) -> int:
        """Threads of all workers that are there now; what was asked for while none is."""
        return self._count()[1] or self._threads

    @property
    def processes(self) -> int:
        """Worker processes that are there now; at least 1."""
        return max(1, self._count()[0])

    def _count(self) -> tuple[int, int]:
        """Count processes and threads; asking the scheduler costs more than a small image, so once a second will do."""
        if time.monotonic() - self._counted > COUNTED_SECONDS:
            with contextlib.suppress(*ClusterLost, RuntimeError):  # the tasks that are there will tell
                workers = self.client.scheduler_info(n_workers=-1).get("workers", {}).values()
                self._size = len(workers), sum(worker["nthreads"] for worker in workers)
            self._counted = time.monotonic()
        return self._size

    def loads(self) -> list[Process]:
        """Tell what each worker process uses; none when the scheduler does not answer."""
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        except (OSError, CommClosedError, RuntimeError, KeyError, ValueError):
            return []
        return [
            Process(each["nthreads"], each["metrics"].get("executing", 0), each["metrics"].get("memory", 0), each["memory_limit"] or 0)
            for each in workers
        ]

    def submit(self, function: Callable[..., Any], *arguments: Any, done: Callable[[Future], None]) -> Future:
        """Run `function(*arguments)` on a Dask thread; `done` is called with the future, from another thread."""
        try:
            future = self.client.submit(logs.under, dict(logs.names()), function, *arguments, pure=False, retries=0)
            future.add_done_callback(done)
        except RuntimeError as error:  # the event loop of a client that gave up is closed
            raise ClosedClientError(str(error)) from error
        return future

    def map(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of `function(*one)` as they come, with two calls per thread in flight and no more."""
        finished: SimpleQueue[Future] = SimpleQueue()
        waiting = iter(arguments)
        flying: dict[Any, Future] = {}

        def launch() -> bool:
            one = next(waiting, None)
            if one is None:
                return False
            future = self.submit(function, *one, done=finished.put)
            flying[future.key] = future
            return True

        try:
            while len(flying) < 2 * self.threads and launch():
                pass
            while flying:
                future = finished.get()
                flying.pop(future.key, None)
                yield future.result()
                launch()
        finally:
            if flying:
                self.client.cancel(list(flying.values()))

    def close(self) -> None:
        """End the connection, and the workers that were started for it."""
        self._close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def connect(settings: Settings) -> Cluster:
    """Connect to the cluster that the settings name, starting it where it is ours to start.

    Raises
    ------
    ClusterError
        The scheduler cannot be reached, or the workers did not start.
    MissingExtraError
        SLURM, PBS or Kubernetes is asked for and its package is not installed.
    """
    refuse_open(settings)
    configure()
    # Dask set its loggers up when it was imported, before this configuration; that of its client has a level of its own.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    starters: dict[str, Callable[[Settings], Cluster]] = {
        "local": _local,
        "threads": _threads,
        "slurm": partial(_jobqueue, kind="SLURMCluster"),
        "pbs": partial(_jobqueue, kind="PBSCluster"),
        "kubernetes": _kubernetes,
    }
    try:
        cluster = starters.get(settings.cluster, _address)(settings)
        _prepare_workers(cluster, settings)
    except (*ClusterLost, RuntimeError) as error:  # Dask says RuntimeError when a scheduler or worker did not start
        raise ClusterError(
            f"The Dask cluster ({settings.cluster}) cannot be reached or started: {error or type(error).__name__}."
        ) from error
    return cluster


def _prepare_workers(cluster: Cluster, settings: Settings) -> None:
    """Have each worker made ready, those that come later too; a cluster that is lost meanwhile is closed."""
    try:
        cluster.client.register_plugin(Preparation(settings.log_level, settings.log_format))
    except BaseException:
        cluster.close()
        raise


def refuse_open(settings: Settings) -> None:
    """Refuse a scheduler on another machine that does not ask for certificates: it runs what anybody sends it.

    Raises
    ------
    ClusterError
        It is one, and the settings do not allow it.
    """
    scheme, _, place = settings.cluster.partition("://")
    far = bool(place) and scheme in PLAIN and not _is_here(settings.cluster)
    bare = settings.cluster in ("slurm", "pbs") and not settings.cluster_options.get("security", True)
    if (far or bare) and not settings.dask_without_tls:
        raise ClusterError(
            f"The Dask cluster ({settings.cluster}) would be reached without TLS, and run whatever anybody in the network sends it."
            " Use tls://, with SEGKIT_DASK_TLS_CA, _CERT and _KEY. Where nobody else is in its network, set SEGKIT_DASK_WITHOUT_TLS=true."
        )


def _is_here(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def configure() -> None:
    """Set Dask as `conf/dask.yaml` says, which is also what its schedulers and workers are given where they are started by hand."""
    for said in dask.config.collect_yaml([str(shared_folder("conf") / "dask.yaml")]):
        dask.config.update(dask.config.global_config, said)
    dask.config.set(logging=QUIET)


def local_workers(settings: Settings) -> int:
    """How many local worker processes to start: as set, or one for every core, as far as the memory goes.

    Small images are mostly Python's own work (opening, writing), which the threads of one process do one after another; large
    ones are compiled loops, for which the threads of a few processes are enough. One process per core serves both.
    """
    if settings.workers is not None:
        return settings.workers
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, int(MOST_MEMORY * memory) // settings.worker_memory))


def _closing(client: Client, cluster: Any = None) -> Callable[[], None]:
    def close() -> None:
        with contextlib.suppress(*ClusterLost, RuntimeError):
            client.close(timeout=5)
        if cluster is not None:
            with contextlib.suppress(*ClusterLost, RuntimeError):
                cluster.close()

    return close


def _local(settings: Settings) -> Cluster:
    count = local_workers(settings)
    options = {"nthreads": settings.threads_per_worker, "memory_limit": settings.worker_memory, "host": LOOPBACK, **CLOSED}
    worker = {"cls": WorkerProcess, "options": {"worker_class": f"distributed.{Nanny.__name__}", "worker_kwargs": options}}
    scheduler = {"cls": Scheduler, "options": {"host": LOOPBACK, "port": 0, **CLOSED}}
    cluster = SpecCluster(workers=dict.fromkeys(range(count), worker), scheduler=scheduler, name="segkit", silence_logs=logging.CRITICAL)
    client = Client(cluster, set_as_default=False)
    close = _closing(client, cluster)
    try:
        client.wait_for_workers(count, timeout=START_SECONDS)
    except BaseException:
        close()  # or nannies that cannot start would be started for ever
        raise
    return Cluster(client, close, threads=count * settings.threads_per_worker, kind="local")


def _threads(settings: Settings) -> Cluster:
    # No limit: the process is a notebook's perhaps, and Dask would pause for ever once that alone held so much.
    options = {"nthreads": settings.threads_per_worker, "memory_limit": 0, **CLOSED}
    scheduler = {"cls": Scheduler, "options": {"protocol": "inproc://", **CLOSED}}
    cluster = SpecCluster(
        workers={0: {"cls": Worker, "options": options}}, scheduler=scheduler, name="segkit", silence_logs=logging.CRITICAL
    )
    client = Client(cluster, set_as_default=False)
    return Cluster(client, _closing(client, cluster), threads=settings.threads_per_worker, kind="threads")


def _address(settings: Settings) -> Cluster:
    certificates = settings.dask_tls_ca, settings.dask_tls_cert, settings.dask_tls_key
    if settings.cluster.startswith(("tls", "wss")) and not all(certificates):
        raise ClusterError(
            f"{settings.cluster} asks for certificates: set SEGKIT_DASK_TLS_CA, SEGKIT_DASK_TLS_CERT and SEGKIT_DASK_TLS_KEY."
        )
    security = Security(
        tls_ca_file=settings.dask_tls_ca, tls_client_cert=settings.dask_tls_cert, tls_client_key=settings.dask_tls_key,
        require_encryption=settings.cluster.startswith(("tls", "wss")),
    )  # fmt: skip
    client = Client(settings.cluster, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
    return Cluster(client, _closing(client), threads=settings.threads_per_worker, kind=settings.cluster)


def _jobqueue(settings: Settings, kind: str) -> Cluster:
    """Start workers as batch jobs. They cross a network, so temporary certificates are made unless others are given."""
    try:
        jobqueue = import_module("dask_jobqueue")
    except ImportError:
        raise MissingExtraError(f"A {kind.removesuffix('Cluster')} cluster", "slurm") from None
    options = {"security": True, "processes": 1, "scheduler_options": {"dashboard_address": f"{LOOPBACK}:0"}, **settings.cluster_options}
    cluster = getattr(jobqueue, kind)(cores=settings.threads_per_worker, memory=f"{settings.worker_memory}B", **options)
    count = settings.workers or 1
    cluster.scale(jobs=count)
    client = Client(cluster, set_as_default=False)
    return Cluster(client, _closing(client, cluster), threads=count * settings.threads_per_worker, kind=settings.cluster)


def _kubernetes(settings: Settings) -> Cluster:
    try:
        operator = import_module("dask_kubernetes.operator")
    except ImportError:
        raise MissingExtraError("A Kubernetes cluster", "kubernetes") from None
    count = settings.workers or 1
    resources = {"limits": {"memory": str(settings.worker_memory), "cpu": str(settings.threads_per_worker)}}
    cluster = operator.KubeCluster(**{"name": "segkit", "n_workers": count, "resources": resources, **settings.cluster_options})
    client = Client(cluster, set_as_default=False)
    return Cluster(client, _closing(client, cluster), threads=count * settings.threads_per_worker, kind="kubernetes")
