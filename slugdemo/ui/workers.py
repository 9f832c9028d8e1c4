"""Workers: processes beside the server that do what takes long, so that nobody's slider waits for it.

Both ends of the pipe: `Workers` in the server, and `main` in a process, which keeps models open and
does one job at a time. Knows jobs and processes; knows no visitors and no page.
"""

import io
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

import torch
from cachetools import LRUCache

from slugdemo import cost
from slugdemo.errors import SlugError
from slugdemo.models import loading, zerogpu
from slugdemo.models.base import Cancelled
from slugdemo.models.loading import Opened
from slugdemo.task import Task
from slugdemo.ui import jobs
from slugdemo.ui.jobs import Tell
from slugdemo.ui.tasks import out_of_memory

Given = ParamSpec("Given")
Made = TypeVar("Made")
MOST = 2  # workers, where nobody says how many
ROOM = 6e9  # bytes of free memory that they and the server want; with less there are none
LARGEST = 500_000_000  # bytes on disk: a larger model is opened once, in the server
MODELS = 4  # that a worker keeps open
NICE = 10  # the server's threads come first where both want a core
REST = 0.5  # seconds without a job until a worker tidies up
POLL = 0.05  # seconds until it is seen that a visitor has stopped
PATIENCE = 20.0  # seconds until a worker that does not stop is ended
SIZE = struct.Struct("!Q")
PROGRESS, TOLD, DONE, STOPPED, REFUSED, SHORT, BROKEN = range(7)
STOP = b""
ENDED = (
    "The process that worked on this has ended, perhaps for want of memory, and a new one takes "
    "its place. Nothing was changed: try again, or choose something smaller."
)
HALTED = "Stopped: nothing was changed, and nothing was kept."


def usual() -> int:
    """How many workers there are where nobody says: two, or none with little memory.

    None in a ZeroGPU Space too, where a GPU is lent to the server's own process only.
    """
    return MOST if zerogpu.spaces is None and cost.available() >= ROOM else 0


def share(workers: int) -> int:
    """The threads of each worker: the server takes a share of the cores too."""
    return max(1, (os.cpu_count() or 1) // (workers + 1))


# ---- what goes through the pipe: frames of a size and so many bytes


def write(stream: IO[bytes], frame: bytes) -> None:
    """Writes one frame. Raises OSError when the other end has gone."""
    stream.write(SIZE.pack(len(frame)) + frame)
    stream.flush()


def read(stream: IO[bytes]) -> Iterator[bytes]:
    """The frames that come, until the other end has gone; half a frame is none."""
    while len(head := stream.read(SIZE.size)) == SIZE.size:
        (size,) = SIZE.unpack(head)
        if len(frame := stream.read(size)) < size:
            return
        yield frame


class Packer(pickle.Pickler):
    """Pickles what a job gave; the task in it is the one that was given."""

    def persistent_id(self, value: object) -> str | None:
        """ "task" for a task."""
        return "task" if isinstance(value, Task) else None


def packed(value: object) -> bytes:
    """A result or something found on the way as bytes, without the task in it."""
    room = io.BytesIO()
    Packer(room, pickle.HIGHEST_PROTOCOL).dump(value)
    return room.getvalue()


class Unpacker(pickle.Unpickler):
    """Makes again what a `Packer` pickled, with `task` for the task in it."""

    def __init__(self, frame: bytes, task: Task) -> None:
        super().__init__(io.BytesIO(frame))
        self._task = task

    def persistent_load(self, pid: object) -> Task:
        """The task."""
        del pid
        return self._task


def described(task: Task) -> tuple[object, ...]:
    """What a worker makes the same task of: its model by name, the rest as it is."""
    about = (task.concept, task.config, task.given_eval_set, task.anchor, task.gone, task.located)
    return task.opened.model.name, *about


# ---- in the server


class Workers:
    """At most `count` processes, each begun when there is work for it and replaced when it ends.

    Without any, everything is done where it is asked for, and so is what concerns a large model.
    """

    def __init__(self, count: int = 0) -> None:
        self.count, self._closed = count, False
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._line: list[object] = []

    def run(
        self,
        job: Callable[Concatenate[Task, Tell, Given], Made],
        task: Task,
        hear: Tell,
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Made:
        """What a function of `jobs` gives, by a worker; `hear` is given what it tells.

        The task's own `progress` and `cancelled` are asked here. Raises what the job raises, and
        SlugError when the worker ends before its work does.
        """
        if not self.take(task):
            return job(task, hear, *given, **named)
        with self._free(task) as worker:
            return worker.run(job.__name__, task, hear, given, named)

    def take(self, task: Task) -> bool:
        """Whether a worker does the jobs of a task; else they are done where they are asked for."""
        return self.count > 0 and task.opened.model.bytes <= LARGEST

    @property
    def free(self) -> bool:
        """Whether a worker would begin with a job at once."""
        with self._changed:
            return not self._line and len(self._busy) < self.count

    def let_go(self) -> int:
        """Ends the workers that have nothing to do, for their memory; how many those were."""
        with self._changed:
            gone, self._idle = self._idle, []
        for worker in gone:
            worker.end()
        return len(gone)

    def close(self) -> None:
        """Ends all workers, and whatever they do."""
        with self._changed:
            self._closed = True
            gone = [*self._idle, *self._busy]
            self._idle = []
            self._changed.notify_all()
        for worker in gone:
            worker.end()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that are there now."""
        with self._changed:
            return [worker.pid for worker in (*self._idle, *self._busy) if worker.alive]

    @contextmanager
    def _free(self, task: Task) -> "Iterator[Worker]":
        worker = self._wait(task)
        try:
            yield worker
        finally:
            with self._changed:
                self._busy.remove(worker)
                if worker.alive and not self._closed:
                    self._idle.append(worker)
                self._changed.notify_all()
            if not worker.alive:
                worker.end()

    def _wait(self, task: Task) -> "Worker":
        """A worker that is free, in the order in which they were asked for."""
        me = object()
        with self._changed:
            self._line.append(me)
            try:
                while self._line[0] is not me or len(self._busy) >= self.count:
                    task.step("Waiting for a free worker", 0, 0)
                    self._changed.wait(POLL)
                if self._closed:
                    raise Cancelled(HALTED)
                self._idle = [worker for worker in self._idle if worker.alive]
                worker = self._idle.pop() if self._idle else Worker(share(self.count))
                self._busy.append(worker)
                return worker
            finally:
                self._line.remove(me)
                self._changed.notify_all()


class Worker:
    """One process, as the server sees it."""

    def __init__(self, threads: int) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slugdemo.ui.workers", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._gone = False
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for work in (self._listen, self._speak):
            threading.Thread(target=work, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as stream:
            for frame in read(stream):
                self._frames.put(frame)
        self.end()
        self._orders.put(None)
        self._frames.put(None)

    def _speak(self) -> None:
        """Sends what there is to send; a process that is just beginning does not read yet."""
        assert self._process.stdin
        with suppress(OSError), self._process.stdin as stream:  # it ends: its frames say so
            while (frame := self._orders.get()) is not None:
                write(stream, frame)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can take a job."""
        return not self._gone and self._process.poll() is None

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self._gone = True
        self._process.kill()
        self._process.wait()

    def run(self, job: str, task: Task, hear: Tell, given: Any, named: Any) -> Any:  # noqa: ANN401
        """What the job gives; see `Workers.run`."""
        request = (job, described(task), given, named)
        self._orders.put(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        problem: Exception | None = None
        stopped: float | None = None
        while True:
            if stopped is None and (problem or task.cancelled()):
                self._orders.put(STOP)
                stopped = time.monotonic()
            if stopped is not None and time.monotonic() > stopped + PATIENCE:
                self.end()
                raise problem or Cancelled(HALTED)
            try:
                frame = self._frames.get(timeout=POLL)
            except queue.Empty:
                continue
            if frame is None:
                raise problem or SlugError(ENDED)
            kind, what = Unpacker(frame, task).load()
            if kind in (PROGRESS, TOLD):
                if problem is None:
                    problem = _heard(task, hear, kind, what, stopped=stopped is not None)
                continue
            if problem:
                raise problem
            return self._answer(kind, what)

    def _answer(self, kind: int, what: Any) -> Any:  # noqa: ANN401
        if kind == DONE:
            return what
        if kind == STOPPED:
            raise Cancelled(what)
        if kind == REFUSED:
            raise SlugError(what)
        if kind == SHORT:
            self._gone = True  # it ends itself
            raise MemoryError(what)
        raise RuntimeError(what)


def _heard(
    task: Task,
    hear: Tell,
    kind: int,
    what: Any,  # noqa: ANN401
    *,
    stopped: bool,
) -> Exception | None:
    """Passes on what a worker says; what went wrong with that, to be raised when it has stopped."""
    try:
        if kind == TOLD:
            hear(what)
        elif not stopped:
            task.progress(*what)
    except Exception as problem:  # Cancelled, most likely
        return problem
    return None


# ---- in a worker


class Bench:
    """What a worker works with: the models that it keeps open, and its end of the pipe."""

    def __init__(self, say: Callable[[int, object], None], stop: threading.Event) -> None:
        self._say, self._stop = say, stop
        self._models: LRUCache[str, Opened] = LRUCache(MODELS)

    def work(self, request: bytes) -> bytes:
        """The frame that answers a request."""
        try:
            job, about, given, named = pickle.loads(request)
            task = self._task(*about)
            made = getattr(jobs, job)(task, partial(self._say, TOLD), *given, **named)
            return packed((DONE, made))
        except Cancelled as stopped:
            return packed((STOPPED, str(stopped)))
        except SlugError as problem:
            return packed((REFUSED, str(problem)))
        except Exception as error:  # no memory, or a mistake of ours
            kind = SHORT if out_of_memory(error) else BROKEN
            return packed((kind, traceback.format_exc()))

    def _progress(self, text: str, done: int, total: int) -> None:
        self._say(PROGRESS, (text, done, total))

    def _task(self, model: str, *about: Any) -> Task:  # noqa: ANN401
        if model not in self._models:
            self._models[model] = loading.opened(model)
        task = Task(self._models[model], *about)
        task.progress, task.cancelled = self._progress, self._stop.is_set
        return task


def main() -> None:
    """Does one job after another until the server has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    with suppress(AttributeError):  # there is no nice on Windows
        os.nice(NICE)
    torch.set_num_threads(int(sys.argv[1]))
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no frame
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stop = threading.Event()

    def listen() -> None:
        for frame in read(sys.stdin.buffer):
            if frame == STOP:
                stop.set()
            else:
                stop.clear()
                requests.put(frame)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    bench = Bench(lambda kind, what: write(out, packed((kind, what))), stop)
    with suppress(BrokenPipeError):  # the server has gone
        while True:
            write(out, bench.work(_next(requests)))


def _next(requests: "queue.SimpleQueue[bytes]") -> bytes:
    """The next request; when none comes for a while, memory that nobody needs is given back."""
    with suppress(queue.Empty):
        return requests.get(timeout=REST)
    cost.settle()
    return requests.get()


if __name__ == "__main__":
    main()
