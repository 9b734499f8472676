"""`python -m tests.fuzz --seconds 60`: fuzz each target in turn, one process at a time, and tell what was found."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz import engines

#: What a child may need beyond its time, to start and to end.
SPARE_SECONDS = 120
COUNT = re.compile(r"stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s", re.MULTILINE)
#: Of the time; files are written and decoded some hundred times in a second, text is read some thousand times.
SHARES = {"cursor": 0.2, "range": 0.2, "tiff": 0.12, "png": 0.1, "zarr": 0.1, "settings": 0.1, "requests": 0.1, "parameters": 0.08}


@dataclass
class Outcome:
    """What came of one target."""

    target: str
    engine: str
    inputs: int = 0
    seconds: float = 0.0
    findings: list[dict[str, str]] = field(default_factory=list)


def fuzz(target: str, engine: str, seconds: float, seed: int, keep: Path) -> Outcome:
    """Feed one target until its time is over, beginning anew after what was found."""
    outcome, until = Outcome(target, engine), time.monotonic() + seconds
    left = seconds
    while left >= 1:
        folder = Path(tempfile.mkdtemp(prefix="segkit-fuzz-"))
        asked = {"target": target, "engine": engine, "seconds": max(1, int(left)), "seed": seed, "folder": str(folder)}
        started = time.monotonic()
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.engines", json.dumps(asked)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=left + SPARE_SECONDS)
            said, code = done.stderr + done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            said, code = f"{(error.stderr or b'').decode(errors='replace')}\nstuck", -9
        outcome.seconds += time.monotonic() - started
        counts = [int(one or two) for one, two in COUNT.findall(said)]
        outcome.inputs += max(counts, default=0)
        found = sorted(folder.glob("found-*"))
        for path in found:
            keep.mkdir(parents=True, exist_ok=True)
            place = keep / f"{target}-{seed}-{path.name}"
            shutil.copy(path, place)
            outcome.findings.append({"input": str(place), "said": why(said), "code": str(code)})
        if code and not found:
            outcome.findings.append({"input": "", "said": said[-1500:], "code": str(code)})
        shutil.rmtree(folder, ignore_errors=True)
        seed, left = seed + 1, until - time.monotonic()
        if len(outcome.findings) >= 10 or (code and not found):
            break
    return outcome


def why(said: str) -> str:
    """Return the lines that tell what went wrong."""
    lines = [line for line in said.splitlines() if re.match(r"[\s|]*(\w+\.)*\w*(Error|Exception|Interrupt)\b|==\d+==|.*ERROR", line)]
    return " | ".join(lines[-4:])[:600]


def main() -> int:
    """Read the command line, fuzz, and tell; returns 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="time of all targets together")
    parser.add_argument("--target", action="append", choices=sorted(SHARES), help="only these")
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], default=engines.best())
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes much the same inputs")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "segkit-fuzz-found", help="folder for what is found")
    parser.add_argument("--json", action="store_true", help="tell as JSON")
    given = parser.parse_args()
    chosen = given.target or list(SHARES)
    if given.engine == "hypothesis" and not given.json:
        print('atheris is not used: hypothesis makes the inputs. `pip install "segkit[fuzz]"` for the other.')
    whole = sum(SHARES[name] for name in chosen)
    outcomes = []
    for name in chosen:
        outcome = fuzz(name, given.engine, given.seconds * SHARES[name] / whole, given.seed, given.keep)
        outcomes.append(outcome)
        if not given.json:
            rate = outcome.inputs / max(outcome.seconds, 1e-9)
            print(f"{name:12} {outcome.engine:10} {outcome.inputs:>10,} inputs {outcome.seconds:7.1f} s {rate:>8,.0f}/s", flush=True)
            for each in outcome.findings:
                print(f"   found {each['input']}: {each['said'] or each['code']}", flush=True)
    inputs, findings = sum(each.inputs for each in outcomes), sum(len(each.findings) for each in outcomes)
    if given.json:
        told = {"engine": given.engine, "seed": given.seed, "inputs": inputs, "seconds": round(sum(each.seconds for each in outcomes), 1)}
        print(json.dumps(told | {"findings": findings, "targets": [asdict(each) for each in outcomes]}, indent=1))
    else:
        print(f"{inputs:,} inputs, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
