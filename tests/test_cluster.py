"""Clusters: real Dask processes, what they are limited to, and what becomes of them."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from segkit import cluster
from segkit.cluster import Cluster, WorkerDied, connect, local_workers
from segkit.errors import ClusterError
from segkit.settings import load


@pytest.fixture(scope="module")
def local() -> Iterator[Cluster]:
    with connect(load(cluster="local", threads_per_worker=2, workers=1, worker_memory="1 GiB")) as cluster:
        yield cluster


def test_workers_have_the_threads_and_memory_that_are_set(local: Cluster) -> None:
    (worker,) = local.client.scheduler_info()["workers"].values()
    assert (worker["nthreads"], worker["memory_limit"]) == (2, 1024**3)
    assert local.threads == 2


def test_everything_listens_on_loopback_alone(local: Cluster) -> None:
    (address,) = local.client.scheduler_info()["workers"]
    assert address.startswith("tcp://127.0.0.1:")
    assert local.client.scheduler.address.startswith("tcp://127.0.0.1:")
    assert not listening_beyond_loopback(os.getpid())


def listening_beyond_loopback(pid: int) -> list[str]:
    """Local addresses of this process's listening TCP sockets that other machines reach."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if os.path.exists(f"/proc/{pid}/fd/{fd}")}
    found = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes and not fields[1].startswith("0100007F"):
            found.append(fields[1])
    return found


def test_map_yields_every_result(local: Cluster) -> None:
    assert sorted(local.map(operator.mul, ((number, 2) for number in range(50)))) == [2 * number for number in range(50)]


def test_map_raises_what_a_call_raised(local: Cluster) -> None:
    with pytest.raises(ZeroDivisionError):
        list(local.map(operator.truediv, [(1, 0)]))


def test_a_task_that_kills_its_worker_is_tried_once_and_the_worker_is_replaced(local: Cluster, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    command = ["sh", "-c", f"printf x >> {marks}; kill -9 $PPID"]
    future = local.submit(subprocess.run, command, done=lambda _: None)
    with pytest.raises(WorkerDied):
        future.result(timeout=30)
    assert marks.read_text() == "x"
    assert local.client.submit(abs, -3, pure=False).result(timeout=30) == 3


#: Holds on to so much that its process uses nine tenths of 1 GiB, as a library that leaks would. Workers cannot import this file.
KEEP = """
import builtins, psutil
builtins.kept = bytearray(b"x") * int(0.9 * 1024**3 - psutil.Process().memory_info().rss)
"""


def test_a_worker_that_is_full_at_rest_starts_anew_instead_of_waiting_for_ever(local: Cluster) -> None:
    before = local.client.submit(os.getpid, pure=False).result(timeout=30)
    local.client.submit(exec, KEEP, {}, pure=False).result(timeout=30)
    sent = [local.client.submit(time.sleep, 0.5, pure=False) for _ in range(6)]  # some are with the worker when it pauses
    deadline = time.monotonic() + 20
    while statuses(local) != ["paused"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert statuses(local) == ["paused"]
    assert [future.result(timeout=60) for future in sent] == [None] * 6, "nothing that waited there counts as having died"
    assert local.client.submit(os.getpid, pure=False).result(timeout=60) != before


def statuses(cluster: Cluster) -> list[str]:
    return [worker["status"] for worker in cluster.client.scheduler_info(n_workers=-1)["workers"].values()]


def test_an_unguarded_script_may_start_a_cluster_and_its_workers_die_with_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from segkit.cluster import connect
        from segkit.settings import load
        cluster = connect(load(workers=1, threads_per_worker=1))
        print(*cluster.client.run(__import__("os").getpid).values(), flush=True)
        import time
        time.sleep(60)
        """)
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def test_threads_of_this_process_serve_too() -> None:
    with connect(load(cluster="threads", threads_per_worker=3)) as cluster:
        assert cluster.threads == 3
        assert cluster.client.submit(os.getpid, pure=False).result(timeout=10) == os.getpid()


def test_threads_of_this_process_serve_however_much_the_notebook_holds() -> None:
    own = np.ones(300 * 1024**2, np.uint8)
    with connect(load(cluster="threads", threads_per_worker=1, worker_memory="256 MiB")) as cluster:
        time.sleep(1)  # Dask looks ten times a second
        assert statuses(cluster) == ["running"]
        assert cluster.client.submit(abs, -3, pure=False).result(timeout=10) == 3
    assert own.nbytes > 256 * 1024**2


def test_any_scheduler_address_serves(local: Cluster) -> None:
    with connect(load(cluster=local.client.scheduler.address)) as cluster:
        assert cluster.client.submit(abs, -4, pure=False).result(timeout=10) == 4


def test_a_scheduler_that_is_not_there_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:1"):
        connect(load(cluster="tcp://127.0.0.1:1"))


def test_a_nanny_does_not_outlive_whoever_started_it() -> None:
    """One that has no scheduler to be told by, either. By itself it looks for that for half a minute, so it has to be gone sooner."""
    script = """
        import asyncio
        from segkit.cluster import WorkerProcess

        async def main():
            nanny = WorkerProcess(scheduler="tcp://127.0.0.1:1", worker_kwargs={"host": "127.0.0.1", "dashboard": False})
            await nanny._spawn()
            print(nanny.process.pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        nanny = int(starter.stdout.readline())
        assert psutil.pid_exists(nanny)
        starter.kill()
    until = time.monotonic() + 15
    while psutil.pid_exists(nanny) and psutil.Process(nanny).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_workers_default_to_every_core_as_far_as_memory_goes() -> None:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert local_workers(load(worker_memory="64 MiB")) == cores
    assert local_workers(load(worker_memory=memory)) == 1
    assert local_workers(load(workers=3)) == 3


def test_slurm_jobs_become_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dask-jobqueue with an sbatch that runs the job's script right here: the real scripts, without a SLURM."""
    pytest.importorskip("dask_jobqueue")
    (tmp_path / "sbatch").write_text(
        '#!/bin/sh\njob=$(mktemp) && cp "$1" "$job"\nsetsid sh "$job" >"$job.log" 2>&1 &\necho "Submitted batch job $!"\n'
    )
    (tmp_path / "scancel").write_text('#!/bin/sh\nkill -- "-$1" 2>/dev/null || kill "$1"\n')
    for command in ("sbatch", "scancel"):
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    options = {"interface": "lo", "log_directory": str(tmp_path / "logs"), "shared_temp_directory": str(tmp_path)}
    with connect(load(cluster="slurm", workers=1, threads_per_worker=2, worker_memory="1 GiB", cluster_options=options)) as cluster:
        assert cluster.client.scheduler.address.startswith("tls://")
        assert cluster.client.submit(abs, -5, pure=False).result(timeout=60) == 5
        assert cluster.threads == 2


def test_threads_of_this_process_listen_on_loopback_alone() -> None:
    with connect(load(cluster="threads", threads_per_worker=1)) as threads:
        assert threads.client.submit(abs, -3, pure=False).result(timeout=30) == 3
        assert not listening_beyond_loopback(os.getpid())
