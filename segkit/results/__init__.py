"""Results: the label image and object table of one image of a run. Written beside, checked, published, read back.

A result is a folder:

    labels.ome.zarr/    label image, multiscale (`labels.py`)
    objects.parquet     one row per object (`objects.py`)
    provenance.json     where it comes from, and the checksums of the other two; written last

The database row of a result keeps the checksum of `provenance.json`, and so vouches for every byte.
"""

from segkit.labels import LabelReader, LabelWriter
from segkit.objects import ObjectWriter
from segkit.results.places import classifiers_path, labels_path, locate, objects_path, root, run_path, scratch, staging
from segkit.results.publishing import discard, publish, publish_all, sweep
from segkit.results.reading import Result, objects_of, open_result, read_labels, read_objects, verify
from segkit.results.rows import NewResult, Record, from_job, insert, insertion, of_image, of_run, paths
from segkit.results.selecting import Filter, ObjectPage, Wanted, objects_page, parse_filter, parse_wanted, schema_of, stream_objects
from segkit.results.writing import Written, seal, write

__all__ = [
    "Filter",
    "LabelReader",
    "LabelWriter",
    "NewResult",
    "ObjectPage",
    "ObjectWriter",
    "Record",
    "Result",
    "Wanted",
    "Written",
    "classifiers_path",
    "discard",
    "from_job",
    "insert",
    "insertion",
    "labels_path",
    "locate",
    "objects_of",
    "objects_page",
    "objects_path",
    "of_image",
    "of_run",
    "open_result",
    "parse_filter",
    "parse_wanted",
    "paths",
    "publish",
    "publish_all",
    "read_labels",
    "read_objects",
    "root",
    "run_path",
    "schema_of",
    "scratch",
    "seal",
    "staging",
    "stream_objects",
    "sweep",
    "verify",
    "write",
]
