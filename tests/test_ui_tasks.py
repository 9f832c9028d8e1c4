"""Work that is watched and stopped, caches that make things once, and the queue of visitors."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from slugdemo.errors import SlugError
from slugdemo.models.base import Cancelled
from slugdemo.ui import tasks
from slugdemo.ui.state import Cache
from slugdemo.ui.tasks import Pool, Tasks, Watch


def test_mere_progress_is_told_seldom_and_all_else_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PACE", 600.0)  # who waits for it hangs
    monkeypatch.setattr(tasks, "FIRST", 0.0)

    def work(watch: Watch) -> None:
        for number in range(1, 41):
            watch.say("Drawing", number, 40)
            time.sleep(0.01)
        watch.put("see", "a picture")
        drawn.wait(10)
        watch.say("Judging", 1, 2)
        watch.put("status", tasks.status("Ready.", "calm"))

    drawn, bundles = threading.Event(), []
    for bundle in Tasks().stream("me", work):
        bundles.append(bundle)
        if "see" in bundle:
            drawn.set()
    assert [{*bundle} for bundle in bundles] == [{"status"}, {"status", "see"}, {"status"}]
    assert [bundle["status"]["text"] for bundle in bundles] == ["Drawing", "Drawing", "Ready."]


def test_a_view_comes_along_with_the_first_thing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST", 600.0)  # who waits for it hangs

    def work(watch: Watch) -> None:
        watch.put("view", "moved")
        time.sleep(0.01)
        watch.put("see", "a picture")

    bundles = list(Tasks().stream("me", work))
    assert bundles == [{"view": "moved", "see": "a picture"}]


def test_each_place_to_work_has_its_share_of_the_cores() -> None:
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2 * tasks.PLACES)
        tasks.share_cores()
        worker = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        worker.start()
        worker.join()
        torch.set_num_threads(1)
        tasks.share_cores()
        assert [*seen, torch.get_num_threads()] == [2, 1]
    finally:
        torch.set_num_threads(before)


def test_one_visitors_stop_leaves_another_alone() -> None:
    running = Tasks()
    steps: dict[str, list[int]] = {"a": [], "b": []}

    def counting(name: str) -> Callable[[Watch], None]:
        def work(watch: Watch) -> None:
            for number in range(5):
                watch.check()
                steps[name].append(number)
                watch.put("status", tasks.status(str(number), "busy"))

        return work

    streams = {name: running.stream(name, counting(name)) for name in "ab"}
    next(streams["a"])
    assert running.stop("a")
    for name in "ba":
        list(streams[name])
    assert steps["b"] == [0, 1, 2, 3, 4]
    assert not running.stop("a")


def test_new_work_of_a_visitor_silences_the_old() -> None:
    running, going = Tasks(), threading.Event()

    def old(watch: Watch) -> None:
        watch.put("see", "old")
        going.wait(10)
        watch.put("see", "older than what is shown")

    first = running.stream("me", old)
    assert next(first) == {"see": "old"}
    assert list(running.stream("me", lambda watch: watch.put("see", "new"))) == [{"see": "new"}]
    assert list(first) == [{}]  # at once, while the old work still goes on
    going.set()


def test_only_work_that_was_left_is_void() -> None:
    running, seen = Tasks(), []

    def work(watch: Watch) -> None:
        seen.append(watch)
        watch.put("see", "something")

    assert list(running.stream("me", work)) == [{"see": "something"}]
    going = threading.Event()

    def longer(watch: Watch) -> None:
        work(watch)
        going.wait(10)

    left = running.stream("me", longer)
    next(left)
    left.close()
    going.set()
    assert [watch.stop.void for watch in seen] == [False, True]


def test_closing_ends_all_work() -> None:
    running = Tasks()

    def work(watch: Watch) -> None:
        watch.put("see", "begun")
        watch.stop.wait(10)
        watch.check()

    stream = running.stream("me", work)
    next(stream)
    running.close()
    assert list(stream) == [{}]


def test_a_mistake_of_ours_is_a_sentence_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def work(_: Watch) -> None:
        raise ZeroDivisionError("oh")

    (bundle,) = Tasks().stream("me", work)
    assert bundle["status"]["text"] == tasks.BROKEN
    assert "ZeroDivisionError" in caplog.text


def blocked(places: int, longest: int) -> tuple[Pool, threading.Event]:
    """A pool in which every place is taken until the event."""
    pool, going, begun = Pool(places, longest=longest), threading.Event(), threading.Barrier(2)

    def work(_: Watch) -> None:
        begun.wait(10)
        going.wait(10)

    for _ in range(places):
        pool.submit(work, tasks.unwatched())
        begun.wait(10)
    return pool, going


def test_who_waits_is_told_the_place_in_the_line() -> None:
    pool, going = blocked(1, longest=2)
    said: dict[str, list[str]] = {"a": [], "b": []}
    done = []
    for name in "ab":
        watch = Watch(lambda _, value, name=name: said[name].append(value["text"]))
        done.append(pool.submit(lambda _: None, watch))
    assert said["a"][-1] == "The server is busy; you are next"
    assert said["b"][-1] == "The server is busy; 1 visitor is before you"
    going.set()
    for future in done:
        future.result(10)
    assert said["b"][-1] == "The server is busy; you are next"


def test_a_line_has_an_end() -> None:
    pool, going = blocked(1, longest=1)
    waiting = [pool.submit(lambda _: None, tasks.unwatched()) for _ in range(2)]
    with pytest.raises(SlugError, match="are waiting already"):
        pool.submit(lambda _: None, tasks.unwatched())
    assert waiting[1].cancel()
    pool.submit(lambda _: None, tasks.unwatched())
    going.set()


def test_who_waits_can_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST", 0.0)
    running = Tasks()
    pool, going = blocked(1, longest=3)
    running._pools["live"] = pool
    stream = running.stream("me", lambda watch: watch.put("see", "too late"))
    assert next(stream)["status"]["text"].startswith("The server is busy")
    assert running.stop("me")
    assert list(stream)[-1]["status"]["text"] == tasks.STOPPED
    assert not pool._waiting
    going.set()


# ---- caches


def test_results_are_made_once_however_many_ask() -> None:
    cache: Cache[int] = Cache(4)
    made: list[int] = []

    def make() -> int:
        time.sleep(0.01)
        made.append(1)
        return len(made)

    threads = [threading.Thread(target=cache.get, args=("wizard", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    for number in range(9):
        cache.get(number, lambda: 0)
    assert cache.peek("wizard") is None


def test_who_waited_for_what_was_stopped_makes_it_and_nothing_is_left_behind() -> None:
    cache: Cache[str] = Cache(4)
    begun, going, found = threading.Event(), threading.Event(), []

    def stopped() -> str:
        begun.set()
        going.wait(10)
        raise Cancelled("Stopped.")

    def first() -> None:
        with pytest.raises(Cancelled):
            cache.get("wizard", stopped)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    begun.wait(10)
    threads.append(
        threading.Thread(target=lambda: found.append(cache.get("wizard", lambda: "made")))
    )
    threads[1].start()
    going.set()
    for thread in threads:
        thread.join()
    assert found == ["made"]
    assert not cache._making


def test_a_cache_lets_go_of_what_was_used_longest_ago() -> None:
    cache: Cache[int] = Cache(4)
    for name in "abc":
        cache.put(name, 1)
    cache.get("a", lambda: 2)
    assert cache.let_go(["b"]) == "c"
    assert cache.clear(lambda name: name == "a") == 1
    assert [name for name, _ in cache.items()] == ["b"]
    assert cache.let_go(["b"]) is None
    assert [cache.let_go(), cache.let_go()] == ["b", None]


def test_stop_is_heard_before_the_last_word_never_after_it() -> None:
    running, said = Tasks(), []

    def work(watch: Watch) -> None:
        watch.put("see", "begun")
        watch.stop.wait(10)
        watch.check()

    for bundle in running.stream("me", work):
        said += [bundle["status"]["text"]] if "status" in bundle else []
        running.stop("me")
    assert said[-1] == tasks.STOPPED
    assert {*said} <= {tasks.STOPPING, tasks.STOPPED}
    ended = running.stream("me", lambda watch: watch.put("status", tasks.status("Ready.", "calm")))
    first = next(ended)
    running.stop("me")
    assert [first, *ended][-1]["status"]["text"] == "Ready."
