"""A benchmark that is killed again and again: nothing broken is trusted, nothing is done twice.

    python -m tests.kills --moments 50

starts `benchmark run` on the models in assets/, ends it by kill -9 at a moment drawn at random,
looks at what it left, and starts it again; at last it may finish. Says on stderr how far it is, and
prints what it found as JSON; a kill takes half as long as an undisturbed run on average. Exit
code 1 when a cell that was there was written again or is not whole, when a process was left behind,
or when the table is not that of a run that nobody disturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent
CONCEPTS = ("robot", "penguin", "cat", "wizard")
METHODS = ("original", "slug", "ga", "ssd")
AGAIN = ("seconds", "peak_bytes")  # what no two runs have in common
PATIENCE = 60.0  # seconds until the processes of a killed run have ended
STEP = 0.05  # seconds between two looks


@dataclass
class Found:
    """What was found: kills so far, those after which there were more cells, and what was wrong."""

    kills: int = 0
    kills_with_new_cells: int = 0
    restarts: int = 0  # runs that were done before they were killed, and began with nothing again
    wrong: list[str] = field(default_factory=list)


class Killed:
    """A run in a folder that is killed, and what lay there when it was looked at last."""

    def __init__(self, words: list[str], folder: Path, found: Found) -> None:
        self._words, self._cells, self._found = words, folder / "cells", found
        self._written: dict[str, tuple[int, int]] = {}  # file -> inode and time

    def kill(self, after: float) -> None:
        """Starts the run and kills it so many seconds later; one that is done by then starts over."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        run = subprocess.Popen(self._words, cwd=ROOT, start_new_session=True, **quiet)
        try:
            done = run.wait(after) == 0
        except subprocess.TimeoutExpired:
            run.kill()
            done = run.wait() == 0
        more = self.look()
        if left := _left(run.pid):
            self._found.wrong.append(f"processes {left} outlived the run that began them")
        if done:
            self._found.restarts += 1
            shutil.rmtree(self._cells)
            self._written = {}
        else:
            self._found.kills += 1
            self._found.kills_with_new_cells += more

    def look(self) -> bool:
        """Reads every cell and compares it with what was there before; whether there are more."""
        before, self._written = self._written, {}
        for path in sorted(self._cells.glob("*.json")):
            facts = path.stat()
            self._written[path.name] = facts.st_ino, facts.st_mtime_ns
            try:
                whole = bool(json.loads(path.read_text())["rows"])
            except (ValueError, KeyError):
                whole = False
            if not whole:
                self._found.wrong.append(f"{path.name} is not whole")
        for name, facts in before.items():
            if self._written.get(name) != facts:
                self._found.wrong.append(f"{name} was there, and was written again or is gone")
        return len(self._written) > len(before)


def _left(session: int) -> list[int]:
    """The processes of a session that have not ended after a while; they are ended then."""
    until = time.monotonic() + PATIENCE
    while (left := _members(session)) and time.monotonic() < until:
        time.sleep(STEP)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def _members(session: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = place.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(own) == session and state != "Z":
            found.append(int(place.parent.name))
    return found


def table(folder: Path) -> list[dict]:
    """The rows of a finished run in an order of their own, without what differs between runs."""
    frame = pd.read_parquet(folder / "results.parquet").drop(columns=list(AGAIN))
    return sorted(json.loads(frame.to_json(orient="records")), key=json.dumps)


def disturbed(
    folder: Path,
    *,
    moments: int,
    concepts: Sequence[str] = CONCEPTS,
    methods: Sequence[str] = METHODS,
    workers: int = 2,
) -> Found:
    """What a run shows that is killed at so many moments, finishes, and is compared with another."""
    words = [sys.executable, "-m", "slugdemo", "benchmark", "run", "--models", "pocket-clip"]
    words += ["--concepts", ",".join(concepts), "--methods", ",".join(methods)]
    words += ["--workers", str(workers), "--out"]

    def finish(out: Path) -> float:
        began = time.monotonic()
        subprocess.run([*words, str(out)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - began

    dice, found = random.Random(0), Found()
    calm, out = folder / "calm", folder / "killed"
    seconds = finish(calm)
    killed = Killed([*words, str(out)], out, found)
    while found.kills < moments:
        killed.kill(dice.random() * seconds)
        print(f"{found.kills} of {moments} kills", file=sys.stderr, flush=True)
    finish(out)
    killed.look()
    if table(out) != table(calm):
        found.wrong.append("the table is not that of a run that nobody disturbed")
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = disturbed(Path(folder), moments=given.moments, workers=given.workers)
    print(json.dumps(asdict(found), indent=1))
    return int(bool(found.wrong))


if __name__ == "__main__":
    raise SystemExit(main())
