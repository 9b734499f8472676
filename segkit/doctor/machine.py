"""Looks at this machine: versions, settings, disk, memory, ports."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from segkit import __version__, cluster
from segkit import kernels as loops
from segkit import segmenters as methods
from segkit.doctor import floors
from segkit.doctor.checks import Check
from segkit.files import is_local
from segkit.results import root
from segkit.settings import Settings, config_file, shared_folder

#: Below this much free disk a run is likely to fail.
LEAST_FREE_BYTES = 2 * 1024**3
#: File systems that several machines share. SQLite's WAL needs memory that only one machine has.
SHARED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph", "lustre", "gpfs", "beegfs", "afs")
PACKAGES = ("numpy", "numba", "scikit-image", "dask", "distributed", "sqlalchemy", "zarr", "tifffile", "papermill", "jupyterlab")


def versions(settings: Settings) -> Check:
    """Whether every package that segkit needs is there, no older than it asks for, and none is known to be unsafe."""
    faults = []
    for line in requires("segkit") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            if not wanted.specifier.contains(version(wanted.name), prereleases=True):
                faults.append(f"{wanted.name} {version(wanted.name)} is not {wanted.specifier}")
        except PackageNotFoundError:
            faults.append(f"{wanted.name} is not installed")
    faults += floors.too_old(floors.floors())
    if faults:
        return Check("versions", "fault", "; ".join(faults), "Install segkit again: pip install --force-reinstall segkit")
    return Check("versions", "ok", f"segkit {__version__}, {', '.join(f'{package} {version(package)}' for package in PACKAGES)}")


def sources(settings: Settings) -> Check:
    """Where the settings come from."""
    file = config_file()
    return Check("settings", "ok", f"from {file}" if file else "no settings file; variables and defaults")


def disk(settings: Settings) -> Check:
    """Whether the home folder can be written, and has room."""
    if "://" in settings.home:
        return Check("disk", "note", f"results are in {settings.home}", "Its free space cannot be checked from here.")
    home = Path(settings.home).expanduser().resolve()
    place = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"segkit")
    except OSError as error:
        return Check(
            "disk", "fault", f"{place} cannot be written: {error.strerror}", "Choose another SEGKIT_HOME, or ask for write permission."
        )
    if free < LEAST_FREE_BYTES:
        return Check("disk", "fault", f"{free / 1024**3:.1f} GiB free in {place}", "Free some space, or move SEGKIT_HOME to a larger disk.")
    return Check("disk", "ok", f"{free / 1024**3:.0f} GiB free in {place}")


def file_system(settings: Settings) -> Check:
    """Whether the home folder is on a disk of this machine or on one that several share, and what that means for the database."""
    if not is_local(settings.home):
        return Check("file system", "ok", "a store, which every machine reaches")
    kind = kind_of_file_system(Path(root(settings.home)).resolve())
    shared = kind in SHARED
    if shared and settings.resolved_database_url.startswith("sqlite:///" + str(Path(root(settings.home)).resolve())):
        return Check(
            "file system", "fault", f"the SQLite database is on {kind}, where it can be damaged", "Use PostgreSQL (SEGKIT_DATABASE_URL)."
        )
    if not shared and settings.cluster not in ("local", "threads"):
        return Check(
            "file system",
            "note",
            f"the home folder is on {kind or 'a disk'} of this machine, and workers are on others ({settings.cluster})",
            "Put SEGKIT_HOME where all of them see it under the same path: a network share or a store such as s3://.",
        )
    return Check("file system", "ok", f"{kind or 'unknown'}, {'shared by machines' if shared else 'of this machine'}")


def kind_of_file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the kind of file system that a path lies on; empty when the system does not tell."""
    try:
        listed = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    places = {fields[1].replace("\\040", " "): fields[2] for fields in listed if len(fields) > 2}
    return next((places[str(each)] for each in (path, *path.parents) if str(each) in places), "")


def permissions(settings: Settings) -> Check:
    """Whether others may change the home folder, or read secrets in the settings file."""
    home = Path(root(settings.home)) if is_local(settings.home) else None
    if home is None or not home.exists():
        return Check("permissions", "ok", "nothing to look at yet")
    if home.stat().st_mode & stat.S_IWOTH and not home.stat().st_mode & stat.S_ISVTX:
        return Check("permissions", "fault", f"anybody may change {home}", f"chmod o-w {home}")
    file = config_file()
    if file is not None and _tells_secrets(file):
        return Check("permissions", "note", f"every user of this machine may read the secrets in {file}", f"chmod o-r {file}")
    return Check("permissions", "ok", f"{home} is closed to others' writing")


def _tells_secrets(file: Path) -> bool:
    """Whether a settings file that others may read holds a password or token."""
    secret = re.search(r"^\s*(database_url|redis_url|token)\s*=", file.read_text(), re.MULTILINE)
    return secret is not None and bool(file.stat().st_mode & stat.S_IROTH)


def port(settings: Settings) -> Check:
    """Whether the service's port is free, or a service answers there."""
    place = f"{settings.server_host}:{settings.server_port}"
    try:
        family, *_, address = socket.getaddrinfo(settings.server_host, settings.server_port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as trying:
            trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trying.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            return Check("port", "fault", f"{place} is no address of this machine", "Correct SEGKIT_SERVER_HOST.")
        return Check(
            "port", "note", f"{place} is taken ({error.strerror})", "Fine when that is `segkit serve`; else choose SEGKIT_SERVER_PORT."
        )
    return Check("port", "ok", f"{place} is free")


def front(settings: Settings) -> Check:
    """Whether nginx and its configuration are there, when downloads are left to it; browsers are the readers' own."""
    if not settings.accel_redirect:
        return Check("front", "ok", "no nginx is needed: downloads are sent by segkit itself; nor is a browser on this machine")
    file = shared_folder("conf") / "nginx.conf"
    if not file.is_file():
        return Check("front", "fault", f"{file} is missing, and SEGKIT_ACCEL_REDIRECT leaves downloads to nginx", "Install segkit again.")
    if settings.accel_redirect not in file.read_text():
        advice = f"Give nginx the location {settings.accel_redirect}, or unset SEGKIT_ACCEL_REDIRECT."
        return Check("front", "note", f"{file} has no location {settings.accel_redirect}", advice)
    return Check("front", "ok", f"downloads are left to nginx ({file})")


def memory(settings: Settings) -> Check:
    """Whether workers may want more memory than there is."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = cluster.local_workers(settings) * settings.worker_memory
    detail = f"{wanted / 1024**3:.1f} GiB for workers of {there / 1024**3:.1f} GiB"
    if settings.cluster == "local" and wanted > 0.9 * there:
        return Check("memory", "fault", detail, "Lower SEGKIT_WORKERS or SEGKIT_WORKER_MEMORY, or the system will kill workers.")
    return Check("memory", "ok", detail)


def segmenters(settings: Settings) -> Check:
    """Whether every installed segmenter can be loaded."""
    faults = methods.broken()
    if faults:
        return Check("segmenters", "fault", " ".join(faults.values()), "Repair or uninstall that package; the others work.")
    return Check("segmenters", "ok", ", ".join(methods.names()))


def kernels(settings: Settings) -> Check:
    """Whether the compiled loops are there; makes them."""
    loops.warm()
    return Check("kernels", "ok", "compiled and cached")
