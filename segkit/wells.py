"""Wells of a plate, read from the names of images: `plate7_A01_f003.tif` is of well A1."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Plates by their rows and columns; the smallest that holds all wells is drawn.
PLATES = ((2, 3), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48))
#: A row's letter or letters and a column's number, apart from what stands around them.
FORM = re.compile(r"(?<![A-Za-z0-9])([A-P]|A[A-F])(0?[1-9]|[1-4][0-9])(?![A-Za-z0-9])")
LETTERS = 26


@dataclass(frozen=True, order=True)
class Well:
    """A place on a plate."""

    row: int  #: from 0; A is 0
    column: int  #: from 1, as it is written

    @property
    def name(self) -> str:
        """As it is written on a plate: A01, P24, AF48."""
        letters = chr(ord("A") + self.row % LETTERS)
        return f"{'A' if self.row >= LETTERS else ''}{letters}{self.column:02d}"


def well_of(name: str) -> Well | None:
    """Read the well from an image's name; None when it names none.

    Examples
    --------
    >>> well_of("plate7_B03_f001.tif").name, well_of("B03.tif").name, well_of("control.tif")
    ('B03', 'B03', None)
    """
    found = FORM.search(name)
    if found is None:
        return None
    letters, number = found.groups()
    row = ord(letters[-1]) - ord("A") + (LETTERS if len(letters) == 2 else 0)
    return Well(row, int(number)) if int(number) <= PLATES[-1][1] else None


def plate_of(wells: Iterable[Well]) -> tuple[int, int]:
    """Return rows and columns of the smallest usual plate that has all these wells.

    Examples
    --------
    >>> plate_of([Well(0, 1), Well(7, 12)])
    (8, 12)
    """
    held = list(wells)
    rows, columns = max((well.row for well in held), default=0) + 1, max((well.column for well in held), default=1)
    return next(plate for plate in PLATES if plate[0] >= rows and plate[1] >= columns)
