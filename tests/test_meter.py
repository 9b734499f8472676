"""What a worker measures of itself."""

from __future__ import annotations

from pathlib import Path

from segkit.meter import Meter, Process, load_of


def test_each_minute_counts_from_nothing(tmp_path: Path) -> None:
    meter = Meter(str(tmp_path))
    meter.add("nuclei", 0.5)
    meter.add("nuclei", 0.25)
    first, second = meter.minute([]), meter.minute([])
    assert (first["images.nuclei_total"], first["seconds.nuclei_total"]) == (2, 0.75)
    assert "images.nuclei_total" not in second
    assert 0 < first["disk_free_bytes"] <= first["disk_bytes"]
    assert Meter("s3://bucket/home").minute([]) == {}


def test_the_fullest_process_counts() -> None:
    load = load_of([Process(4, 9, 100, 1000), Process(4, 1, 300, 400)])
    assert load == {"dask_workers": 2, "dask_threads": 8, "dask_busy": 5, "peak_memory_bytes": 300, "memory_limit_bytes": 400}
    assert load_of([]) == {}
