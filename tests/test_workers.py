"""Laws of worker processes: the same numbers, Stop stops, a death is a sentence, and none is left over."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
import torch

from slugdemo import experiment
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS
from slugdemo.models.base import Cancelled
from slugdemo.models.loading import opened
from slugdemo.task import Task
from slugdemo.ui import callbacks, jobs, workers
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import BROKEN, MEMORY, Tasks
from slugdemo.ui.view import View
from slugdemo.ui.workers import Bench, Workers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).parent.parent
TRAINED, LONG = "ga", "gaft"
PATIENCE = 300.0  # seconds: a machine may have other work


@pytest.fixture(scope="module")
def one(assets: Path) -> Iterator[Workers]:
    """One worker over the tiny assets; the numbers of this process come from as many threads."""
    assert assets.is_dir()
    before, some = torch.get_num_threads(), Workers(1)
    torch.set_num_threads(workers.share(1))
    yield some
    some.close()
    torch.set_num_threads(before)
    assert not some.pids


def task(method: str = TRAINED, concept: str = "robot") -> Task:
    return experiment.task("pocket-clip", concept).by(method)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(true: Any) -> None:  # noqa: ANN401
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("method", ["slug", TRAINED])
def test_a_worker_gives_what_the_library_gives(one: Workers, method: str) -> None:
    told: list[jobs.Told] = []
    here, there = task(method), task(method)
    mine = experiment.erase(here)
    found = one.run(jobs.erase, there, told.append)
    assert found.task is there
    assert found.edit.digest == mine.edit.digest
    assert found.edit.delta.keys() == mine.edit.delta.keys()
    assert all(torch.equal(found.edit.delta[n], mine.edit.delta[n]) for n in mine.edit.delta)
    for name in ("before", "after", "goal", "feasible", "reason", "headline"):
        assert getattr(found, name) == getattr(mine, name), name
    assert told[0][2] == mine.before
    assert told[-1][2].strength == pytest.approx(told[-1][0][1], abs=1e-6)


def test_an_attack_is_the_same_too_and_tells_what_it_finds_on_its_way(one: Workers) -> None:
    told: list[Any] = []
    edit = experiment.made(task()).edit
    mine, attacked = experiment.attack(task(), "soft prompt", edit)
    rows, found = one.run(jobs.attack, task(), told.append, "soft prompt", [edit], "edited")
    numbers = [[(r.metric, r.on, r.value, r.n) for r in some] for some in (mine, rows)]
    assert numbers[0] == numbers[1]
    assert found.losses == attacked.losses
    assert [each for each in told if isinstance(each, float)] == list(found.losses)


def test_scores_that_are_known_are_not_measured_again(one: Workers) -> None:
    told: list[jobs.Told] = []
    one.run(jobs.erase, task("slug"), told.append)
    unknown = {name: jobs.Score(0.0, 0.0, 0.0, 2, 2) for name, *_ in told if not name[1]}
    with pytest.raises(SlugError, match="0 of 2 right for 'robot'"):
        one.run(jobs.erase, task("slug"), jobs.unheard, "", unknown)


def test_progress_and_stop_reach_the_worker_which_takes_the_next_job(one: Workers) -> None:
    said: list[str] = []
    stopped = task(LONG).watched(lambda text, *_: said.append(text), lambda: bool(said))
    with pytest.raises(Cancelled):
        one.run(jobs.make, stopped, jobs.unheard)
    (pid,) = one.pids
    assert said
    one.run(jobs.make, task(), jobs.unheard)
    assert one.pids == [pid]


def test_what_fails_here_while_a_worker_tells_stops_it_and_is_raised(one: Workers) -> None:
    def hear(told: object) -> None:
        raise ZeroDivisionError(str(told)[:9])

    with pytest.raises(ZeroDivisionError):
        one.run(jobs.erase, task("slug"), hear)
    (pid,) = one.pids
    assert one.run(jobs.make, task(), jobs.unheard).edit.delta
    assert one.pids == [pid]


def test_a_killed_worker_is_a_sentence_and_another_takes_its_place(one: Workers) -> None:
    one.run(jobs.make, task(), jobs.unheard)
    (pid,) = one.pids

    def kill(*_: object) -> None:
        if pid in one.pids:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(SlugError, match=r"has ended.*Nothing was changed: try again"):
        one.run(jobs.erase, task("slug"), kill)
    assert gone(pid)
    assert one.run(jobs.make, task(), jobs.unheard).edit.delta
    assert pid not in one.pids
    assert len(one.pids) == 1


def test_one_that_was_killed_while_idle_is_not_noticed(one: Workers) -> None:
    one.run(jobs.make, task(), jobs.unheard)
    (pid,) = one.pids
    os.kill(pid, signal.SIGKILL)
    until(lambda: not one.pids)
    assert one.run(jobs.make, task(), jobs.unheard).edit.delta


def test_one_that_does_not_stop_is_ended(one: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    one.run(jobs.make, task(), jobs.unheard)
    (pid,) = one.pids
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Cancelled):
        one.run(jobs.make, task().watched(lambda *_: None, lambda: True), jobs.unheard)
    assert gone(pid)


def test_who_comes_when_all_are_busy_waits_and_can_stop(one: Workers) -> None:
    begun, going = threading.Event(), threading.Event()
    said: list[str] = []

    def wait(*_: object) -> None:
        begun.set()
        assert going.wait(PATIENCE)

    first = threading.Thread(target=one.run, args=(jobs.erase, task("slug"), wait))
    first.start()
    assert begun.wait(PATIENCE)
    second = task().watched(lambda text, *_: said.append(text), lambda: bool(said))
    with pytest.raises(Cancelled):
        one.run(jobs.make, second, jobs.unheard)
    assert said == ["Waiting for a free worker"]
    going.set()
    first.join(PATIENCE)
    assert one.run(jobs.make, task(), jobs.unheard).edit.delta


def test_a_worker_leaves_the_server_the_cores(one: Workers) -> None:
    one.run(jobs.make, task(), jobs.unheard)
    (pid,) = one.pids
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, mine + workers.NICE)


@pytest.mark.usefixtures("assets")
def test_a_large_model_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LARGEST", 1)
    some, seen = Workers(1), list[int]()
    some.run(jobs.erase, task("slug"), lambda _: seen.append(os.getpid()))
    assert not some.pids
    assert {*seen} == {os.getpid()}


@pytest.mark.parametrize(
    ("error", "kind"), [(MemoryError(), workers.SHORT), (ZeroDivisionError(), workers.BROKEN)]
)
def test_no_memory_and_mistakes_of_ours_reach_the_server(
    error: Exception, kind: int, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert assets.is_dir()

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(jobs, "make", fails)
    bench = Bench(lambda *_: None, threading.Event())
    request = pickle.dumps(("make", workers.described(task()), (), {}))
    answer, what = workers.Unpacker(bench.work(request), task()).load()
    assert answer == kind
    assert type(error).__name__ in what


# ---- the page


def visited(state: AppState, method: str) -> dict[str, Any]:
    view = View("pocket-clip", "robot", method=method)
    return pages.shown(state, callbacks.method, view)


@pytest.mark.parametrize("method", ["slug", TRAINED])
def test_the_page_shows_the_same_with_workers_and_without(one: Workers, method: str) -> None:
    found = [visited(AppState(workers=some), method) for some in (one, Workers())]
    assert METHODS[method].name in str(found[0]["choice"])
    for block in ("view", "map", "see", "collateral"):
        assert found[0][block] == found[1][block], block
    assert found[0]["curve"]["rows"] == found[1]["curve"]["rows"]
    assert found[0]["status"]["text"] == found[1]["status"]["text"]


def test_a_free_worker_opens_what_a_visitor_has_opened_once_and_takes_nobody_s_turn(
    one: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, asked, run = AppState(workers=one), list[str](), Workers.run
    view = View("pocket-clip", "robot")

    def noted(self: Workers, job: Any, *given: Any) -> Any:  # noqa: ANN401
        asked.append(job.__name__)
        return run(self, job, *given)

    monkeypatch.setattr(Workers, "run", noted)
    with one._free(task()):
        assert not one.free
        callbacks.prepare(state, view)
    assert asked == []
    assert one.free
    callbacks.prepare(state, view)
    callbacks.prepare(state, view)
    assert asked == ["ready"]
    callbacks.prepare(AppState(workers=Workers()), view)
    callbacks.prepare(state, View("no such model", "robot"))
    assert asked == ["ready"]


def test_a_visitor_whose_worker_is_killed_reads_it_and_can_go_on(
    one: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, said, run = AppState(workers=one), list[str](), Workers.run
    one.run(jobs.make, task(), jobs.unheard)
    (pid,) = one.pids

    def killed(*given: Any) -> Any:  # noqa: ANN401
        monkeypatch.setattr(Workers, "run", run)
        os.kill(pid, signal.SIGSTOP)  # so that it cannot end before it is killed
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        return run(*given)

    def work(watch: Any) -> None:  # noqa: ANN401
        callbacks.method(state, View("pocket-clip", "robot", method=TRAINED), watch)

    monkeypatch.setattr(Workers, "run", killed)
    for bundle in Tasks().stream("me", work):
        said += [bundle["status"]["text"]] if "status" in bundle else []
    assert said[-1] == workers.ENDED
    assert visited(state, TRAINED)["status"]["text"] not in (workers.ENDED, BROKEN, MEMORY)


# ---- nobody is left behind

SERVER = """
import signal, sys, threading
from slugdemo.ui.workers import Worker, Workers
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    some = Workers(1)
    some._idle.append(Worker(1))
    print(*some.pids, flush=True)
    try:
        threading.Event().wait()
    finally:
        some.close()
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_server(end: signal.Signals) -> None:
    words = [sys.executable, "-c", SERVER]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=ROOT, text=True, **quiet) as server:
        assert server.stdout
        pid = int(server.stdout.readline())
        time.sleep(0.5 if end == signal.SIGKILL else 0)  # it may still be beginning
        server.send_signal(end)
        server.wait(PATIENCE)
        until(lambda: gone(pid))


def test_a_worker_knows_no_page() -> None:
    words = "import sys, slugdemo.ui.workers; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT).returncode == 0


def test_there_are_two_workers_or_none_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, count in ((float("inf"), 2), (6e9, 2), (5.9e9, 0), (1e9, 0)):
        monkeypatch.setattr(workers.cost, "available", lambda free=free: free)
        assert workers.usual() == count
    monkeypatch.setattr(workers.zerogpu, "spaces", object())
    assert workers.usual() == 0
    assert [opened("pocket-clip").kind, Workers().pids] == ["zero-shot", []]
