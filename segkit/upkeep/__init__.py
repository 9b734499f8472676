"""Keeping house: what is over its time goes by itself, what belongs to nothing goes when somebody says so (`segkit gc --delete`)."""

from segkit.upkeep.orphans import Orphan, find, sweep
from segkit.upkeep.orphans import delete as delete_orphans
from segkit.upkeep.retention import Cleared, Keeper, clear

__all__ = ["Cleared", "Keeper", "Orphan", "clear", "delete_orphans", "find", "sweep"]
