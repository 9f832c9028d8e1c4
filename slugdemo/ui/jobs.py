"""Work that a visitor can watch and stop: a function in a thread, its news as a generator.

Knows threads, queues and cores; knows neither gradio nor models.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from slugdemo.errors import SlugError
from slugdemo.models.base import Cancelled

News = tuple[str, object]  # (block of the page, what it shows now)
Put = Callable[[str, object], None]
PLACES, LONGEST = 2, 20  # who works at once, and who may wait
BREATH = 0.06  # seconds: a page is drawn no oftener
PACE = 0.4  # seconds: mere progress is told no oftener, since telling takes time from the work
FIRST = 0.2  # seconds: so long it waits at first for something to show
MERE = {"status", "view"}  # progress, and a state with nothing to show for it yet
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
    """Asks work to stop; when the visitor has gone on to something else, its news are void too."""

    def __init__(self) -> None:
        super().__init__()
        self.void = False

    def leave(self) -> None:
        """Stops the work and forgets what it would still say."""
        self.void = True
        self.set()


@dataclass(frozen=True)
class Watch:
    """Where work reports to, and where it learns that the visitor wants to stop."""

    put: Put
    stop: Signal = field(default_factory=Signal)

    def say(self, text: str, done: int = 0, total: int = 0) -> None:
        """Shows a sentence, with a bar when there is a total; raises Cancelled when stopped."""
        self.check()
        share = done / total if total else None
        self.put("status", {"text": text, "share": share, "tone": "busy"})

    def check(self) -> None:
        """Raises Cancelled when the visitor wants to stop."""
        if self.stop.is_set():
            raise Cancelled("Stopped. What was found so far is on the page.")

    def check_wanted(self) -> None:
        """Raises Cancelled when nobody is left who would see more; a mere stop is no reason."""
        if self.stop.void:
            raise Cancelled("Gone on to something else.")

    def bar(self, text: str) -> Callable[[int, int], None]:
        """A progress callback for the hosts: (done, total) behind `text`."""
        return lambda done, total: self.say(f"{text}, {done} of {total}", done, total)


class Lane:
    """A few places to work in; who comes when all are taken waits in line and is told where."""

    def __init__(self, places: int = PLACES, *, longest: int = LONGEST) -> None:
        self._free, self._longest = places, longest
        self._line: list[object] = []
        self._moved = threading.Condition()

    @contextmanager
    def place(self, watch: Watch) -> Iterator[None]:
        """A place, as soon as it is one's turn. Raises Cancelled when stopped while waiting,
        SlugError when too many wait already."""
        ticket = object()
        with self._moved:
            if len(self._line) >= self._longest:
                raise SlugError(
                    f"{len(self._line)} visitors are waiting already. Try again in a minute; "
                    "what you see stays as it is."
                )
            self._line.append(ticket)
        self._wait(ticket, watch)
        try:
            yield
        finally:
            with self._moved:
                self._free += 1
                self._moved.notify_all()

    def _wait(self, ticket: object, watch: Watch) -> None:
        said = -1
        with self._moved:
            try:
                while (before := self._line.index(ticket)) or not self._free:
                    if before != said:
                        said = before
                        others = f"{before} before you" if before else "you are next"
                        watch.say(f"All places are taken; {others}")
                    watch.check()
                    self._moved.wait(0.2)
                self._free -= 1
            finally:
                self._line.remove(ticket)
                self._moved.notify_all()


class Desk:
    """The work that runs for each visitor: new work takes the place of the old."""

    def __init__(self, relieved: Callable[[], str] = lambda: MEMORY) -> None:
        """`relieved` is asked for room when memory runs out, and says what it let go of."""
        self._lock, self._relieved = threading.Lock(), relieved
        self._lanes = {"work": Lane(), "live": Lane()}
        self._running: dict[str, set[Signal]] = {}

    def stop(self, visitor: str) -> bool:
        """Asks all work of a visitor to stop; whether there was any."""
        with self._lock:
            running = self._running.get(visitor, set())
            for event in running:
                event.set()
            return bool(running)

    def stream(
        self, visitor: str, work: Callable[[Watch], None], *, lane: str = "live"
    ) -> Iterator[dict[str, object]]:
        """The news of `work` in bundles, block -> what it shows now; errors are sentences in "status".

        What comes within a `BREATH` comes together, and mere progress within a `PACE`, at first
        within `FIRST`. Earlier work of the same visitor is stopped and says no more, so that it
        cannot undo what came after it; leaving the generator early stops the work as well.
        """
        news: queue.SimpleQueue[News | None] = queue.SimpleQueue()
        watch = Watch(lambda block, value: news.put((block, value)))
        with self._lock:
            for earlier in self._running.get(visitor, set()):
                earlier.leave()
            self._running.setdefault(visitor, set()).add(watch.stop)

        def placed(watch: Watch) -> None:
            with self._lanes[lane].place(watch):
                work(watch)

        run = (placed, watch, news, self._relieved)
        thread = threading.Thread(target=_safely, args=run, daemon=True)
        thread.start()
        more, due = True, time.monotonic() + FIRST
        try:
            while more:
                bundle, more = _bundle(news, due)
                if watch.stop.void:
                    return
                if bundle:
                    due = time.monotonic() + PACE
                    yield bundle
                    time.sleep(BREATH)
        finally:
            if more:  # the page has gone on, or is gone
                watch.stop.leave()
            self._forget(visitor, watch.stop)

    def _forget(self, visitor: str, event: Signal) -> None:
        with self._lock:
            rest = self._running.get(visitor, set()) - {event}
            if rest:
                self._running[visitor] = rest
            else:
                self._running.pop(visitor, None)


def _bundle(news: "queue.SimpleQueue[News | None]", due: float) -> tuple[dict[str, object], bool]:
    """All news that are there, at least one, and whether there will be more.

    Only what is `MERE` waits for what else may come, until it is `due` (on the monotonic clock).
    """
    bundle: dict[str, object] = {}
    item = news.get()
    while item is not None:
        bundle[item[0]] = item[1]
        rest = due - time.monotonic() if {*bundle} <= MERE else 0.0
        try:
            item = news.get(timeout=rest) if rest > 0 else news.get_nowait()
        except queue.Empty:
            return bundle, True
    return bundle, False


def full(error: Exception) -> bool:
    """Whether an error says that memory ran out, on the processor or on a GPU."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "not enough memory" in said or "out of memory" in said


def _safely(
    work: Callable[[Watch], None],
    watch: Watch,
    news: "queue.SimpleQueue[News | None]",
    relieved: Callable[[], str],
) -> None:
    short = False
    try:
        try:
            work(watch)
        except Cancelled as stopped:
            news.put(_last(str(stopped), "calm"))
        except SlugError as error:
            news.put(_last(str(error), "error"))
        except Exception as error:
            if not (short := full(error)):
                news.put(_last(BROKEN, "error"))
                raise
        if short:  # only now, when nothing holds on to what was being made
            news.put(_last(relieved(), "error"))
    finally:
        news.put(None)


def _last(text: str, tone: str) -> News:
    return "status", {"text": text, "share": None, "tone": tone}
