"""What was injected, how often, and what came of it: noted by the tests, and written as the table of `docs/reliability.md`.

    python -m tests.faults.report [notes] [page]

writes the table between its two marks in the page.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
#: Where the notes go, unless this variable says where. It is none of segkit's settings, which would refuse it.
VARIABLE = "FAULTS_NOTES"
NOTES = ROOT / "artefacts" / "faults.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: written by python -m tests.faults.report -->", "<!-- end of table -->"
NOTHING = "nothing"


@dataclass(frozen=True)
class Note:
    """One fault, as a test injected it."""

    fault: str  #: what happens in the world, such as "worker killed"
    injected: str  #: how a test makes it happen
    times: int
    outcome: str  #: what a person sees
    lost: str  #: "nothing", or what
    test: str
    at: str


def record(fault: str, injected: str, times: int, outcome: str, lost: str = NOTHING) -> None:
    """Append a note, when all that the test asserts has held. The same fault and way in more tests become one row of the table.

    Parameters
    ----------
    fault
        What happens in the world: "Worker killed".
    injected
        How the test makes it happen: "SIGKILL at a random moment".
    times
        How often it was injected in this test.
    outcome
        What was seen, in words that a person of the lab understands.
    lost
        "nothing", or what was.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    note = Note(fault, injected, times, outcome, lost, test, datetime.now(UTC).isoformat(timespec="seconds"))
    path = notes_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write in append mode, so that the lines of several processes do not mix.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(asdict(note)).encode() + b"\n")
    finally:
        os.close(file)


def notes_path() -> Path:
    """Where the notes go."""
    return Path(os.environ.get(VARIABLE) or NOTES)


def read(path: Path) -> list[Note]:
    """Read the notes; of a test with the same fault the newest counts, so that running a test again does not add up."""
    newest: dict[tuple[str, str, str], Note] = {}
    for line in path.read_text("utf-8").splitlines():
        note = Note(**json.loads(line))
        newest[note.test, note.fault, note.injected] = note
    return list(newest.values())


def table(notes: Iterable[Note]) -> str:
    """Write the rows, one for each fault and way of injecting it, in order of the faults."""
    rows: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        rows.setdefault((note.fault, note.injected), []).append(note)
    lines = ["| fault | how injected | times | outcome | lost |", "| --- | --- | ---: | --- | --- |"]
    for (fault, injected), same in sorted(rows.items()):
        outcomes = "; ".join(dict.fromkeys(note.outcome for note in same))
        lost = "; ".join(dict.fromkeys(note.lost for note in same if note.lost != NOTHING)) or NOTHING
        cells = (fault, injected, str(sum(note.times for note in same)), outcomes, lost)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def written(page: str, notes: list[Note]) -> str:
    """Return the page with the table of these notes between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"The page has no place for the table, which is between {BEGIN} and {END}.")
    faults, times = len({note.fault for note in notes}), sum(note.times for note in notes)
    last = max((note.at for note in notes), default="")[:10]
    said = f"{faults} faults, injected {times:,} times; last recorded {last}."
    return f"{before}{BEGIN}\n{said}\n\n{table(notes)}\n{END}{after}"


def main(notes: str | None = None, page: str | None = None) -> None:
    """Write the table into the page."""
    path = Path(page or PAGE)
    found = read(Path(notes) if notes else notes_path())
    path.write_text(written(path.read_text("utf-8"), found), "utf-8")
    print(f"{path}: {len({(note.fault, note.injected) for note in found})} rows")


if __name__ == "__main__":
    main(*sys.argv[1:3])
