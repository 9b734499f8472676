"""Batches: papermill runs notebooks with parameters, durably, few at once, each with its record, notebook and page."""

from segkit.batches.handle import Batch, look_up, record_refusal, start, start_request
from segkit.batches.lists import page, record
from segkit.batches.notebooks import available, described, find, may_lack_parameters, prepare, read_parameters, read_sweep
from segkit.batches.notices import tell
from segkit.batches.parameters import declared, read_notebook
from segkit.batches.queue import cancel, left, refuse, retry, submit
from segkit.batches.records import Notify, Record, Request
from segkit.batches.worker import BatchWorker, beside

__all__ = [
    "Batch",
    "BatchWorker",
    "Notify",
    "Record",
    "Request",
    "available",
    "beside",
    "cancel",
    "declared",
    "described",
    "find",
    "left",
    "look_up",
    "may_lack_parameters",
    "page",
    "prepare",
    "read_notebook",
    "read_parameters",
    "read_sweep",
    "record",
    "record_refusal",
    "refuse",
    "retry",
    "start",
    "start_request",
    "submit",
    "tell",
]
