"""Faults on purpose: what is killed, frozen, cut, filled up or damaged here must lose nothing.

`invariants.check(database, home)` says what "nothing lost" means, in tables and files. `processes` starts real workers, services and
Dask processes, and kills or freezes them. `report.record(...)` notes what was injected and what came of it; `make faults` writes the table
of `docs/reliability.md` from these notes. Tests that take long carry the marker `faults`, which `make test` leaves out.
"""
