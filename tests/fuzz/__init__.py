"""Fuzzing of what strangers can send: image files, cursors, Range headers, settings, and what else is read from outside.

`python -m tests.fuzz --seconds 60 --json` spends its time on one target after another, each in a process of its own, with atheris where
it is installed (the `fuzz` extra) and with hypothesis else. `targets` says what is fed, and what may come of it; `engines` makes the
inputs. What was found becomes a file in `regressions/`, which `tests/test_security_fuzz.py` feeds again in every `make test`.
"""
