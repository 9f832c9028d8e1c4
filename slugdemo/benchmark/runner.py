"""The benchmark: cells computed by processes or on a Ray cluster, kept one by one, gone on from.

A cell's rows are a file of their own that appears whole or not at all, so a run that is killed
loses the cells under way and nothing else. Knows cells and files; prints nothing.
"""

import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from slugdemo.benchmark.cells import Cell, compute, key
from slugdemo.errors import SlugError
from slugdemo.results import Result, plain

ENGINES = ("processes", "ray")
TRIES = 3  # of a cell whose worker dies


@dataclass(frozen=True)
class Done:
    """A cell that is ready: its rows, the seconds it took, and how many are still to come.

    `known`: it was computed by an earlier run.
    """

    cell: Cell
    rows: list[Result]
    seconds: float
    left: int
    known: bool


class Store:
    """The folder of results: `cells/<key>.json`, one file a cell."""

    def __init__(self, folder: Path) -> None:
        """Raises SlugError when the folder cannot be made or written."""
        self.folder = folder
        try:
            (folder / "cells").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SlugError(f"{folder} cannot be written: {error.strerror}.") from error

    def find(self, name: str) -> tuple[list[Result], float] | None:
        """The rows under a key and the seconds they took; None when they are not (wholly) there."""
        try:
            kept = json.loads((self.folder / "cells" / f"{name}.json").read_text())
            return [_result(row) for row in kept["rows"]], float(kept["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def add(self, name: str, rows: Sequence[Result], seconds: float) -> None:
        """Writes the rows of one cell. Raises SlugError when the disk does not take them."""
        path = self.folder / "cells" / f"{name}.json"
        draft = path.with_suffix(f".{os.getpid()}.part")
        facts = {"seconds": seconds, "rows": [plain(asdict(row)) for row in rows]}
        try:
            draft.write_text(json.dumps(facts))
            os.replace(draft, path)
        except OSError as error:
            raise SlugError(f"{path} cannot be written: {error.strerror}.") from error

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        """The rows under these keys as one table, also written as `results.parquet`.

        `attrs["made"]` is the day on which it was.
        """
        found = [row for name in names if (kept := self.find(name)) for row in kept[0]]
        frame = pd.DataFrame([asdict(row) for row in found])
        frame.attrs["made"] = time.strftime("%Y-%m-%d", time.gmtime())
        draft = self.folder / f"results.{os.getpid()}.part"
        frame.to_parquet(draft, index=False)
        os.replace(draft, self.folder / "results.parquet")
        return frame


def _result(row: dict[str, Any]) -> Result:
    known: dict[str, Any] = {
        n: float("nan") if value is None else value for n, value in row.items()
    }
    return Result(**known)


def table(folder: Path) -> pd.DataFrame:
    """The table of a finished or unfinished run. Raises SlugError when there is none."""
    path = folder / "results.parquet"
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SlugError(f"{folder} holds no results.parquet: run `benchmark run` first.") from error


def run(
    cells: Sequence[Cell],
    store: Store,
    *,
    engine: str = "processes",
    workers: int = 1,
    address: str = "",
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Done]:
    """Every cell as it gets ready, those of earlier runs first; the table is written at the end.

    `workers` is the number of processes (of this machine, or of the Ray cluster at `address`; ""
    starts a local one). A cell whose worker dies is computed again, three times at most. Raises
    SlugError for an unknown engine, or when Ray is asked for and not installed.
    """
    if engine not in ENGINES:
        raise SlugError(f"The engine is one of {', '.join(ENGINES)}, not {engine!r}.")
    names = {cell: key(cell) for cell in cells}
    missing, left = [], len(names)
    for cell, name in names.items():
        if kept := store.find(name):
            left -= 1
            yield Done(cell, *kept, left, known=True)
        else:
            missing.append(cell)
    start = _processes if engine == "processes" else _ray
    try:
        for cell, rows, seconds in start(missing, workers, address):
            store.add(names[cell], rows, seconds)
            left -= 1
            yield Done(cell, rows, seconds, left, known=False)
            if cancelled():
                return
    finally:
        store.table(list(names.values()))


Computed = tuple[Cell, list[Result], float]


def timed(cell: Cell) -> Computed:
    """A cell's rows and seconds; what a worker runs."""
    began = time.perf_counter()
    return cell, compute(cell), time.perf_counter() - began


def _processes(cells: Sequence[Cell], workers: int, address: str) -> Iterator[Computed]:
    del address
    return computed(timed, cells, workers)


Item = TypeVar("Item", bound=Hashable)
Made = TypeVar("Made")


def computed(work: Callable[[Item], Made], items: Sequence[Item], workers: int) -> Iterator[Made]:
    """What `work` makes of each item, as it gets ready, by so many processes.

    An item whose worker dies is computed again, three times at most; then it is a SlugError.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    tries = dict.fromkeys(items, TRIES)
    while tries:
        with _pool(workers) as pool:
            waiting = {pool.submit(work, item): item for item in tries}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        del tries[waiting.pop(future)]
            except BrokenProcessPool:  # a worker died: what was under way is tried again
                _tried(tries, [*waiting.values()][:workers])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _tried(tries: dict[Item, int], under_way: Sequence[Item]) -> None:
    """One try less for the items that may have been under way. Raises SlugError for the last."""
    for item in under_way:
        tries[item] -= 1
        if not tries[item]:
            raise SlugError(
                f"{item} ended its worker {TRIES} times, perhaps for want of memory: run it "
                "alone, with --workers 1."
            )


def _pool(workers: int) -> ProcessPoolExecutor:
    share = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(share,))


def _begin(threads: int) -> None:
    """A worker takes its share of the cores, and ends when the process that began it is gone."""
    torch.set_num_threads(threads)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _ray(cells: Sequence[Cell], workers: int, address: str) -> Iterator[Computed]:
    try:
        import ray
    except ImportError as error:
        raise SlugError(
            "Ray is not installed: pip install ray, or use --engine processes."
        ) from error
    begun = not ray.is_initialized()
    if begun:
        place: dict[str, Any] = {"address": address} if address else {"num_cpus": workers}
        ray.init(include_dashboard=False, log_to_driver=False, **place)
    try:
        work = ray.remote(num_cpus=1, max_retries=TRIES - 1)(timed)
        waiting = [work.remote(cell) for cell in cells]
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done[0])
    finally:
        if begun:
            ray.shutdown()
