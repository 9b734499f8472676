"""Corrections by hand: a result is corrected as a new version, with who, when and what changed. Nothing is overwritten.

    correction = Correction(kit.database, kit.settings, run.number, image.id)
    correction.edits.merge([3, 4])
    correction.save("Anna", "one cell, not two")

The run shows the newest version: its objects, exports and pictures are those that were corrected. `history` lists the versions,
of which 0 is what the segmenter made, and `restore` brings one back.
"""

from segkit.corrections.edits import Change, Edits
from segkit.corrections.rows import Version, corrected, history, version
from segkit.corrections.session import Correction, restore

__all__ = ["Change", "Correction", "Edits", "Version", "corrected", "history", "restore", "version"]
