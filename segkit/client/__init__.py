"""A `Kit` over HTTP: what `segkit.open("http://...")` returns. The same methods and records, asked of a service (`segkit serve`)."""

from segkit.client.kit import RemoteKit
from segkit.client.projects import RemoteImage, RemoteProject
from segkit.client.results import RemoteResult
from segkit.client.runs import RemoteRun

__all__ = ["RemoteImage", "RemoteKit", "RemoteProject", "RemoteResult", "RemoteRun"]
