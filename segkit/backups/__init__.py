"""Backups: everything that cannot be made again, taken while workers and servers go on, and put back whole or not at all.

A folder of backups holds

    2026-11-24T210532Z/     one backup: `tables/*.jsonl.zst`, all rows of one moment; `files.jsonl.zst`, every file with its checksum;
                            `manifest.json`, written last, with the checksums of the other two
    objects/3f/3fa2...      every file once, under its checksum, however many backups hold it

so the second backup copies what is new and nothing else. Rows are written as JSON by their meaning, not as a dump of either database: a
backup of SQLite is restored into PostgreSQL and the other way round, by this segkit or a later one.
"""

from segkit.backups.records import Manifest, all_of, newest
from segkit.backups.restoring import Restored, restore
from segkit.backups.taking import forget, last_note, take

__all__ = ["Manifest", "Restored", "all_of", "forget", "last_note", "newest", "restore", "take"]
