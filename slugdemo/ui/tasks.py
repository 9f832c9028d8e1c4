"""Work that a visitor can watch and stop: a function in a thread, what it reports as a generator.

Knows threads, queues and cores; knows neither gradio nor models.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from slugdemo.errors import SlugError
from slugdemo.models.base import Cancelled

Report = tuple[str, object]  # (block of the page, what it shows now)
Put = Callable[[str, object], None]
PLACES, LONGEST = 2, 20  # who works at once, and who may wait
BREATH = 0.06  # seconds: a page is drawn no oftener
PACE = 0.4  # seconds: mere progress is told no oftener, since telling takes time from the work
FIRST = 0.2  # seconds: so long it waits at first for something to show
MERE = {"status", "view"}  # progress, and a view with nothing to show for it yet
STOPPING = "Stopping…"
STOPPED = "Stopped. What was found so far is on the page."
BROKEN = (
    "Something here failed that should not have. Nothing was changed; choose again, or reload "
    "the page."
)
MEMORY = (
    "This machine ran out of memory, and what was being made is dropped: choose something smaller."
)


def share_cores() -> None:
    """Gives each place to work its share of the cores.

    With all of them for everyone, the threads of one wait for those of another, and of a browser
    on the same machine: both are slower than with a share each.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() // PLACES))


class Signal(threading.Event):
    """Asks work to stop; when the visitor has gone on to something else, its reports are void too."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` wakes whoever waits for what the work says."""
        super().__init__()
        self.void, self._wake = False, wake

    def leave(self) -> None:
        """Stops the work and forgets what it would still say."""
        self.void = True
        self.set()
        self._wake()


@dataclass(frozen=True, eq=False)
class Watch:
    """Where work reports to, and where it learns that the visitor wants to stop."""

    put: Put
    stop: Signal = field(default_factory=Signal)

    def say(self, text: str, done: int = 0, total: int = 0) -> None:
        """Shows a sentence, with a bar when there is a total; raises Cancelled when stopped."""
        self.check()
        share = done / total if total else None
        self.put("status", status(text, "busy", share=share))

    def progress(self, text: str, done: int, total: int) -> None:
        """A progress callback for the engine: what is being done, steps done, steps in all."""
        self.say(f"{text}, {done} of {total}" if total else text, done, total)

    def check(self) -> None:
        """Raises Cancelled when the visitor wants to stop."""
        if self.stop.is_set():
            raise Cancelled(STOPPED)

    def check_wanted(self) -> None:
        """Raises Cancelled when nobody is left who would see more; a mere stop is no reason."""
        if self.stop.void:
            raise Cancelled("Gone on to something else.")

    def bar(self, text: str) -> Callable[[int, int], None]:
        """A progress callback for the models: (done, total) behind `text`."""
        return lambda done, total: self.say(f"{text}, {done} of {total}", done, total)


def unwatched() -> Watch:
    """The watch of work that nobody looks at."""
    return Watch(lambda _block, _value: None)


def status(
    text: str, tone: str, *, share: float | None = None, more: str = "", query: str | None = None
) -> dict[str, object]:
    """What the status line shows; `more` is behind its button, `query` the link to what is seen."""
    shown: dict[str, object] = {"text": text, "share": share, "tone": tone, "more": more}
    return shown if query is None else {**shown, "query": query}


class Pool:
    """A few places to work in; who comes when all are taken waits in line and is told where."""

    def __init__(self, places: int = PLACES, *, longest: int = LONGEST) -> None:
        self._threads = ThreadPoolExecutor(places)
        self._places, self._longest = places, longest
        self._waiting: list[Watch] = []
        self._working = 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[[Watch], None], watch: Watch) -> "Future[None]":
        """The future of `work`, which begins as soon as it is its turn.

        Raises SlugError when too many wait already.
        """
        with self._lock:
            if len(self._waiting) >= self._longest + self._places:
                raise SlugError(
                    f"{len(self._waiting)} visitors are waiting already. Try again in a minute; "
                    "what you see stays as it is."
                )
            self._waiting.append(watch)
            future = self._threads.submit(self._run, work, watch)
            self._tell()
        future.add_done_callback(lambda done: self._gone(watch) if done.cancelled() else None)
        return future

    def _run(self, work: Callable[[Watch], None], watch: Watch) -> None:
        with self._lock:
            self._waiting.remove(watch)
            self._working += 1
            self._tell()
        try:
            work(watch)
        finally:
            with self._lock:
                self._working -= 1

    def _gone(self, watch: Watch) -> None:
        with self._lock:
            if watch in self._waiting:
                self._waiting.remove(watch)
                self._tell()

    def _tell(self) -> None:
        free = self._places - self._working
        for number, watch in enumerate(self._waiting[free:]):
            who = "1 visitor is" if number == 1 else f"{number} visitors are"
            line = f"{who} before you" if number else "you are next"
            watch.put("status", status(f"The server is busy; {line}", "busy"))


class Tasks:
    """The work that runs for each visitor: new work takes the place of the old."""

    def __init__(
        self, free_memory: Callable[[], str] = lambda: MEMORY, *, places: int = PLACES
    ) -> None:
        """`free_memory` is asked for room when memory runs out, and says what it let go of.

        `places` is how many visitors' long work may run at once.
        """
        self._lock, self._free_memory = threading.Lock(), free_memory
        self._pools = {"work": Pool(places), "live": Pool()}
        self._running: dict[str, dict[Signal, tuple[Callable[[], None], Put]]] = {}

    def stop(self, visitor: str) -> bool:
        """Asks all work of a visitor to stop, which says so before its last word; whether there
        was any."""
        with self._lock:
            running = dict(self._running.get(visitor, {}))
        for signal, (end, put) in running.items():
            signal.set()
            put("status", status(STOPPING, "busy"))
            end()
        return bool(running)

    def close(self) -> None:
        """Ends all work of all visitors."""
        with self._lock:
            running = [pair for some in self._running.values() for pair in some.items()]
        for signal, (end, _) in running:
            signal.leave()
            end()

    def stream(
        self, visitor: str, work: Callable[[Watch], None], *, pool: str = "live"
    ) -> Iterator[dict[str, object]]:
        """What `work` reports, in bundles, block -> what it shows now; errors are sentences in "status".

        What comes within a `BREATH` comes together, and mere progress within a `PACE`, at first
        within `FIRST`. Earlier work of the same visitor is stopped and says no more, so that it
        cannot undo what came after it: its last bundle is an empty one, at once, however long it
        takes to stop. Leaving the generator early stops the work as well.
        """
        reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        stop = Signal(wake=lambda: reports.put(None))
        watch = Watch(lambda block, value: reports.put((block, value)), stop)
        self._leave(visitor)
        self._begin(visitor, watch, work, reports, pool)
        more, due = True, time.monotonic() + FIRST
        try:
            while more:
                bundle, more = _bundle(reports, due)
                if watch.stop.void:
                    yield {}
                    return
                if bundle:
                    due = time.monotonic() + PACE
                    yield bundle
                    time.sleep(BREATH)
        finally:
            if more:  # the page has gone on, or is gone
                watch.stop.leave()
            self._forget(visitor, watch.stop)

    def _leave(self, visitor: str) -> None:
        with self._lock:
            earlier = dict(self._running.get(visitor, {}))
        for signal, (end, _) in earlier.items():
            signal.leave()
            end()

    def _begin(
        self,
        visitor: str,
        watch: Watch,
        work: Callable[[Watch], None],
        reports: "queue.SimpleQueue[Report | None]",
        pool: str,
    ) -> None:
        def run(watch: Watch) -> None:
            _safely(work, watch, reports, self._free_memory)

        try:
            future = self._pools[pool].submit(run, watch)
        except SlugError as error:
            reports.put(_last(str(error), "error"))
            reports.put(None)
            return

        def end() -> None:
            if future.cancel():  # it has not begun
                reports.put(_last(STOPPED, "calm"))
                reports.put(None)

        with self._lock:
            self._running.setdefault(visitor, {})[watch.stop] = end, watch.put

    def _forget(self, visitor: str, signal: Signal) -> None:
        with self._lock:
            running = self._running.get(visitor, {})
            end, _ = running.pop(signal, (None, None))
            if not running:
                self._running.pop(visitor, None)
        if end and signal.is_set():
            end()


def _bundle(
    reports: "queue.SimpleQueue[Report | None]", due: float
) -> tuple[dict[str, object], bool]:
    """All reports that are there, at least one, and whether there will be more.

    Only what is `MERE` waits for what else may come, until it is `due` (on the monotonic clock).
    """
    bundle: dict[str, object] = {}
    item = reports.get()
    while item is not None:
        bundle[item[0]] = item[1]
        rest = due - time.monotonic() if {*bundle} <= MERE else 0.0
        try:
            item = reports.get(timeout=rest) if rest > 0 else reports.get_nowait()
        except queue.Empty:
            return bundle, True
    return bundle, False


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on the processor or on a GPU."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "not enough memory" in said or "out of memory" in said


def _safely(
    work: Callable[[Watch], None],
    watch: Watch,
    reports: "queue.SimpleQueue[Report | None]",
    free_memory: Callable[[], str],
) -> None:
    short = False
    try:
        try:
            work(watch)
        except Cancelled as stopped:
            reports.put(_last(str(stopped), "calm"))
        except SlugError as error:
            reports.put(_last(str(error), "error"))
        except Exception as error:  # a mistake of ours: the log has it, the visitor a sentence
            short = out_of_memory(error)
            if not short:
                logging.getLogger(__name__).exception("a visitor's work failed")
                reports.put(_last(BROKEN, "error"))
        if short:  # only now, when nothing holds on to what was being made
            reports.put(_last(free_memory(), "error"))
    finally:
        reports.put(None)


def _last(text: str, tone: str) -> Report:
    return "status", status(text, tone)
