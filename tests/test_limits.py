"""An open server: who asks too much is told so, whatever he says about himself."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from slugdemo import limits as public
from slugdemo.errors import SlugError
from slugdemo.limits import Gate, Limits, Rate


def run(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine in a thread of its own: browser tests leave a loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


def scope(path: str = "/gradio_api/queue/join", **more: object) -> dict:
    given = {"type": "http", "method": "POST", "path": path, "client": ("10.0.0.1", 5)}
    return {**given, "headers": [], **more}


def answered(gate: Gate, asked: dict, *bodies: bytes) -> tuple[int, bytes]:
    """The status and body of an answer; 0 when the request was cut off."""
    said: list[dict] = []
    parts: Iterator[bytes] = iter(bodies or (b"",))

    async def receive() -> dict:
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: dict) -> None:
        said.append(message)

    run(gate(asked, receive, send))
    status = said[0]["status"] if said else 0
    return status, b"".join(one.get("body", b"") for one in said)


async def inner(scope: dict, receive: object, send: object) -> None:
    """An app that reads the whole body and says how long it was."""
    del scope
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        total += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(total).encode()})


def test_only_the_variable_makes_a_server_public(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, found in (("1", Limits()), ("0", None), ("", None)):
        monkeypatch.setenv("SLUGDEMO_PUBLIC", value)
        assert public.limits() == found
    monkeypatch.setenv("SLUGDEMO_PUBLIC", "1")
    monkeypatch.setenv("SPACE_ID", "me/slugdemo")
    assert public.limits().proxies == 1
    monkeypatch.setenv("SLUGDEMO_PROXIES", "2")
    assert public.limits().proxies == 2
    monkeypatch.setenv("SLUGDEMO_PROXIES", "two")
    with pytest.raises(SlugError, match="SLUGDEMO_PROXIES is 'two'"):
        public.limits()


def test_a_rate_allows_a_burst_and_then_one_at_a_time() -> None:
    now = [0.0]
    rate = Rate(3, 0.5, lambda: now[0])
    assert [rate.wait("a") for _ in range(5)] == [0, 0, 0, 2, 2]
    assert rate.wait("b") == 0
    now[0] = 2.0
    assert rate.wait("a") == 0
    assert rate.wait("a") == 2
    now[0] = 1000.0
    assert [rate.wait("a") for _ in range(4)] == [0, 0, 0, 2]


def test_a_million_addresses_take_no_more_memory_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "ADDRESSES", 50)
    rate = Rate(1, 1.0, lambda: 0.0)
    for number in range(1000):
        rate.wait(str(number))
    assert len(rate._left) == 50


def test_too_many_requests_are_a_sentence_and_reading_stays_free() -> None:
    gate = Gate(inner, Limits(burst=3))
    assert [answered(gate, scope())[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    status, said = answered(gate, scope())
    assert status == 429
    assert b"wait 1 s and try again." in said
    assert answered(gate, scope(client=("10.0.0.2", 5)))[0] == 200
    assert answered(gate, scope(method="GET"))[0] == 200
    for path in ("/gradio_api/upload", "/gradio_api/call/erase", "/anything"):
        assert answered(gate, scope(path))[0] == 429


def test_a_visitor_cannot_choose_his_address() -> None:
    forged = [(b"x-forwarded-for", b"1.2.3.4, 5.6.7.8")]
    assert public.address(scope(headers=forged), 0) == "10.0.0.1"
    assert public.address(scope(headers=forged), 1) == "5.6.7.8"
    assert public.address(scope(headers=forged), 2) == "1.2.3.4"
    assert public.address(scope(headers=forged), 3) == "10.0.0.1"
    assert (
        public.address(scope(headers=[*forged, (b"x-forwarded-for", b"9.9.9.9")]), 1) == "9.9.9.9"
    )
    assert public.address(scope(client=None), 1) == "unknown"


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length() -> None:
    gate = Gate(inner, Limits(body=10**6))
    told = scope(headers=[(b"content-length", b"1000001")])
    status, said = answered(gate, told)
    assert status == 413
    assert b"at most 1 MB" in said
    assert answered(gate, scope(), b"x" * 600_000, b"x" * 300_000) == (200, b"900000")
    assert answered(gate, scope(), b"x" * 600_000, b"x" * 600_000) == (0, b"")
    assert answered(gate, scope(headers=[(b"content-length", b"-5")]))[0] == 200


def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: dict, receive: object, send: object) -> None:
        del receive, send
        seen.append(scope["type"])

    gate = Gate(app, Limits())
    for kind in ("lifespan", "websocket"):
        run(gate({"type": kind}, None, None))
    assert seen == ["lifespan", "websocket"]
