"""Many visitors at once, each with an edit of his own: no wrong answer, no leak, and how long it takes.

    python -m tests.load --visitors 32 --seconds 120 --train esd-x

starts the page on the models in assets/ and prints what it found as JSON, and on stderr what it is
about to do; exit code 1 when an answer was wrong, when a call failed, or when memory at the end,
that of the server with its workers, is above 1.10 times what it was when everything was warm. First
one visitor asks some of the questions with nobody else there. With --train the visitors are then watched
twice, the second time beside one more who trains with this method all the while; then exit code 1
also when their p95 has more than doubled. Without --pause each visitor asks again as soon as he is
answered, so that the waits are those of a server that always has as many questions before it as
there are visitors; with it everybody looks at his answer for so many seconds first. Who is told
that too many wait already asks again a second later, and all of that is his wait. Before the
seconds count, it takes a minute or two to learn the right answers.
"""

import argparse
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gradio_client import Client
from gradio_client.utils import QueueError

ROOT = Path(__file__).parent.parent
LONE = 48  # questions that one visitor asks with nobody else there, at most
FEW = 6  # concepts whose layers are asked for before it begins
BAR = 1.10  # memory at the end over memory at the start, at most
SLOWER = 2.0  # p95 beside one who trains over p95 without him, at most
PATIENCE = 120  # seconds without a word from the server
AGAIN = 1.0  # seconds until somebody who was sent away comes back
CLOSE = 1e-4  # probabilities that count as the same
DOT = (  # a red picture of one pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGA"
    "hKmMIQAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Call:
    """One question to the server: an endpoint and what it is given."""

    name: str
    given: tuple

    def __call__(self, client: Client) -> object:
        return client.predict(*self.given, api_name=f"/{self.name}")


@dataclass
class Found:
    """What all visitors found together, in so many seconds."""

    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # when they were told to come back
    lasted: float = 0.0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def knock(address: str) -> Client:
    """A client that waits longer for a busy server than the five seconds that are usual."""
    patience = {"timeout": PATIENCE}
    return Client(address, verbose=False, analytics_enabled=False, httpx_kwargs=patience)


def calls(client: Client, count: int) -> list[Call]:
    """Questions that all differ: in model, concept, layer, step and seed."""
    models = {one["kind"]: one["name"] for one in client.predict(api_name="/models")}
    concepts = [one["name"] for one in client.predict(api_name="/concepts")]
    made = []
    for kind, model in sorted(models.items()):
        layers = {}
        for concept in concepts[:FEW]:
            rows = client.predict(model, concept, api_name="/rank_layers")
            layers[concept] = [row["layer"] for row in rows if row["reads"]]
        for number in range(math.ceil(count / len(models))):
            concept, found = [*layers.items()][number % len(layers)]
            edit = (concept, found[(5 * number) % len(found)], 0.1 + 0.05 * (number % 9))
            made.append(_call(kind, model, number, edit))
    return [made[(7 * at) % len(made)] for at in range(count)]


def _call(kind: str, model: str, number: int, edit: tuple) -> Call:
    if kind == "diffusion":
        return Call("generate", (model, f"a picture of a {edit[0]}", number, *edit))
    if kind == "vlm":
        return Call("ask", (model, DOT, "What is in this picture?", *edit))
    return Call("classify", (model, DOT, *edit))


def same(a: object, b: object) -> bool:
    """Whether two answers are the same, numbers to within rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, abs_tol=CLOSE)
    return a == b


def visit(
    address: str, mine: list[tuple[Call, object]], until: float, found: Found, pause: float
) -> None:
    """One visitor, who asks his questions, each at least once, and knows the answers."""
    client = knock(address)
    turn = 0
    time.sleep(pause * random.random())  # they do not come all at once
    while turn < len(mine) or time.monotonic() < until:
        call, wanted = mine[turn % len(mine)]
        began, turn = time.monotonic(), turn + 1
        try:
            got = patiently(call, client, found)
        except Exception as error:  # whatever the client raises is a failure
            found.failed.append(f"{call}: {error}")
            continue
        found.seconds.append(time.monotonic() - began)
        if not same(got, wanted):
            found.wrong.append(str(call))
        time.sleep(pause)


def patiently(call: Call, client: Client, found: Found) -> object:
    """The answer; who is told that too many wait already comes back in a moment."""
    while True:
        try:
            return call(client)
        except QueueError:
            found.refused.append(time.monotonic())
            time.sleep(AGAIN)


def train(address: str, method: str, until: float, found: Found) -> None:
    """A visitor who erases one concept after another by a method that trains, at least one."""
    client = knock(address)
    model = next(
        one["name"] for one in client.predict(api_name="/models") if one["kind"] == "diffusion"
    )
    for concept in client.predict(api_name="/concepts"):
        began = time.monotonic()
        try:
            patiently(Call("erase", (model, concept["name"], method)), client, found)
        except Exception as error:  # as above
            found.failed.append(f"{method} on {concept['name']}: {error}")
        found.seconds.append(time.monotonic() - began)
        if time.monotonic() > until:
            return


def resident(pid: int) -> list[int]:
    """The bytes that a process and each of its children hold in memory, its own first."""
    found = []
    for one in (pid, *children(pid)):
        with suppress(OSError):  # it has just ended
            pages = Path(f"/proc/{one}/statm").read_text().split()[1]
            found.append(int(pages) * os.sysconf("SC_PAGE_SIZE"))
    return found


def children(pid: int) -> list[int]:
    """The processes that a process began and that are still there."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(place.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(place.parent.name))
    return sorted(found)


def run(
    address: str,
    pid: int,
    *,
    visitors: int,
    seconds: float,
    each: int = 3,
    method: str = "",
    pause: float = 0.0,
) -> dict:
    """What `visitors` find in so many seconds; each has `each` questions of his own.

    With a `method` one more visitor trains with it, after as long a time without him. After each
    answer a visitor waits `pause` seconds.
    """
    client = knock(address)
    say(f"learns the answers to {visitors * each} questions")
    asked = [(call, call(client)) for call in calls(client, visitors * each)]
    trained = Found()
    say("warms up")
    _together(address, asked, visitors, min(5.0, seconds / 2))
    if method:
        train(address, method, 0.0, trained)
    say("one visitor")
    lone = _together(address, asked[:LONE], 1, 0.0)
    if method:
        say(f"{visitors} visitors for {seconds:.0f} s")
    alone = _together(address, asked, visitors, seconds, pause) if method else Found()
    before = resident(pid)
    say(f"{visitors} visitors for {seconds:.0f} s" + (f" beside {method}" if method else ""))
    if method:
        given = (address, method, time.monotonic() + seconds, trained)
        trainer = threading.Thread(target=train, args=given)
        trainer.start()
    found = _together(address, asked, visitors, seconds, pause)
    if method:
        trainer.join()
    found.failed += lone.failed + alone.failed + trained.failed
    found.wrong += lone.wrong + alone.wrong
    after, times, all_of = resident(pid), sorted(found.seconds), (lone, alone, found)
    return {
        "visitors": visitors,
        "seconds": seconds,
        "pause": pause,
        "right_answers": sum(len(some.seconds) for some in all_of) - len(found.wrong),
        "wrong_answers": len(found.wrong),
        "failed_calls": len(found.failed),
        "sent_away": sum(len(some.refused) for some in (*all_of, trained)),
        "memory_ratio": sum(after) / sum(before),
        "memory_megabytes": [[size // 10**6 for size in some] for some in (before, after)],
        "answers_in_a_second": len(times) / found.lasted,
        "latency_median_of_one_visitor": share(lone.seconds, 0.5),
        "latency_p95_of_one_visitor": share(lone.seconds, 0.95),
        "latency_median": share(times, 0.5),
        "latency_median_without_training": share(alone.seconds, 0.5),
        "latency_p95": share(times, 0.95),
        "latency_p95_without_training": share(alone.seconds, 0.95),
        "trainings": len(trained.seconds),
        "seconds_of_a_training": statistics.median(trained.seconds) if trained.seconds else None,
        "latency_longest": times[-1] if times else None,
        "complaints": [*found.wrong, *found.failed][:8],
    }


def passed(facts: dict) -> bool:
    """Whether nobody got a wrong answer or none, and memory and waits stayed what they were."""
    bad = facts["wrong_answers"] + facts["failed_calls"]
    alone = facts["latency_p95_without_training"]
    slow = alone is not None and facts["latency_p95"] > SLOWER * alone
    return not bad and not slow and facts["memory_ratio"] <= BAR


def say(text: str) -> None:
    """Tells on stderr what begins now."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def share(seconds: list[float], part: float) -> float | None:
    """The time that so large a part of the calls do not exceed; None for no call."""
    return sorted(seconds)[int(part * len(seconds))] if seconds else None


def _together(
    address: str, asked: list, visitors: int, seconds: float, pause: float = 0.0
) -> Found:
    found, began = Found(), time.monotonic()
    until = began + seconds
    threads = [
        threading.Thread(target=visit, args=(address, asked[at::visitors], until, found, pause))
        for at in range(visitors)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.lasted = time.monotonic() - began
    return found


@contextmanager
def page(
    assets: Path, cache: Path, *, patience: float = 300, options: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """The address and process of a page of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port)]
    command += ["--assets", str(assets), "--cache", str(cache), *options]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close(), server, patience)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        server.terminate()
        server.wait()


def _wait(look: Callable[[], None], server: subprocess.Popen, patience: float) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until and server.poll() is None:
        try:
            return look()
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the page did not open within {patience} s (exit code {server.poll()})")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--visitors", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--train", default="", metavar="METHOD")
    parser.add_argument("--workers", default="", help="the page's own choice if not given")
    parser.add_argument("--assets", type=Path, default=ROOT / "assets")
    given = parser.parse_args()
    options = ["--workers", given.workers] if given.workers else []
    with (
        tempfile.TemporaryDirectory() as cache,
        page(given.assets, Path(cache), options=options) as (address, pid),
    ):
        facts = run(
            address,
            pid,
            visitors=given.visitors,
            seconds=given.seconds,
            method=given.train,
            pause=given.pause,
        )
    print(json.dumps(facts, indent=1))
    return int(not passed(facts))


if __name__ == "__main__":
    raise SystemExit(main())
