"""Runs that are done at once: results written as workers write them, without segmenting anything."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
from tifffile import imwrite

from segkit import jobs, results
from segkit.kit import Kit
from segkit.runs import Run

_seeds = itertools.count()


def finish_run(kit: Kit, images: int, *, size: int = 160, again: bool = False) -> Run:
    """Make a run over so many new images and give each a result; `again` makes the results of the newest run anew."""
    if again:
        run = kit.run(kit.project("plate").runs(1).items[0].id)
        run.retry(done_too=True)
    else:
        run = queue_run(kit, images, size)
    with kit.database.write() as connection:
        claims = jobs.claim(connection, "test", 1000, 600)
    for claim in claims:
        write_result(kit, claim, size)
    return kit.run(run.number)


def queue_run(kit: Kit, images: int, size: int = 32) -> Run:
    """Queue a run over so many new images."""
    project = kit.project("plate", create=True)
    folder = Path(kit.database.path.parent if kit.database.path else kit.settings.home) / f"images-{next(_seeds)}"
    folder.mkdir()
    for number in range(images):
        imwrite(folder / f"{number} é.tif", np.random.default_rng(next(_seeds)).integers(0, 4096, (size, size), np.uint16))
    return project.segment("threshold", images=project.add(folder).image_ids)


def write_result(kit: Kit, claim: jobs.Claim, size: int) -> None:
    """Write and commit the result of one claim: noise for labels, which does not compress."""
    home = kit.settings.home
    labels = np.random.default_rng(next(_seeds)).integers(0, 60_000, (size, size), np.uint16)
    table = pa.table({"label": pa.array(range(1, 11), pa.int32()), "area_px": pa.array(range(10), pa.float64())})
    place = results.staging(home, claim.run_id, claim.image_id, claim.attempt)
    written = results.write(place, labels, table, axes="YX", pixel_size_um=0.5, provenance={"image": claim.name})
    with kit.database.write() as connection:
        path = results.publish(home, written.path, claim.run_id, claim.image_id)
        row = results.NewResult(
            claim.job_id, claim.run_id, claim.image_id, claim.attempt, path, written.checksum, written.objects, {}, written.bytes, 0.1
        )
        results.insert(connection, [row])
        jobs.finish(connection, [jobs.Finished(claim.job_id, claim.attempt, written.objects)])
