"""Loads what `forks.WARM` names, and the compiled kernels, in the process that programs are forked from."""

from importlib import import_module

from segkit import kernels
from tests.faults.forks import COMMANDS, WARM

for name in (*WARM, *COMMANDS.values()):
    import_module(name)
kernels.ready()
