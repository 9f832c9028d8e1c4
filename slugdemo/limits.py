"""What an open server allows: SLUGDEMO_PUBLIC=1 sets limits, and none are set otherwise.

A rate for each address, sizes of requests, a bounded queue. Knows HTTP; knows no models and no
pages. The limits stand before everything else, so that a refused request costs nothing.
"""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from slugdemo.errors import SlugError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
ADDRESSES = 10_000  # addresses that are remembered


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask of an open server.

    `burst` requests at once and `rate` a second from then on; `body` bytes in one request; `queue`
    requests wait at most. `proxies` is the number of machines
    in front of the server that add to X-Forwarded-For: so many from its end stands the visitor.
    """

    burst: int = 30
    rate: float = 1.0
    body: int = 20_000_000
    queue: int = 16
    proxies: int = 0


def limits() -> Limits | None:
    """The limits of this server; None where SLUGDEMO_PUBLIC is not set.

    SLUGDEMO_PROXIES says how many proxies stand in front; one, in a Space. Raises SlugError when
    it is no number.
    """
    if os.environ.get("SLUGDEMO_PUBLIC", "0") in ("", "0"):
        return None
    proxies = os.environ.get("SLUGDEMO_PROXIES") or str(int("SPACE_ID" in os.environ))
    if not proxies.isdecimal():
        raise SlugError(f"SLUGDEMO_PROXIES is {proxies!r}, and it should be a number such as 1.")
    return Limits(proxies=int(proxies))


class Rate:
    """How many requests each address has left: `burst`, refilled by `rate` a second.

    Remembers the addresses that asked last, whatever an attacker makes up.
    """

    def __init__(self, burst: int, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._rate, self._now = burst, rate, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, address: str) -> float:
        """Takes one request from an address: the seconds until it is allowed, 0 for now."""
        with self._lock:
            now = self._now()
            left, asked = self._left.pop(address, (float(self._burst), now))
            left = min(self._burst, left + (now - asked) * self._rate)
            allowed = left >= 1
            self._left[address] = (left - allowed, now)
            while len(self._left) > ADDRESSES:
                self._left.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self._rate


class Gate:
    """An ASGI middleware that refuses what is too much, in a sentence."""

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._rate = Rate(limits.burst, limits.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 413 or 429."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        if wait := self._rate.wait(address(scope, self._limits.proxies)):
            seconds = math.ceil(wait)
            said = f"Too many requests from your address: wait {seconds} s and try again."
            return await _refused(429, said, seconds)(scope, receive, send)
        if _length(scope) > self._limits.body:
            said = f"This is too much at once: send at most {self._limits.body // 10**6} MB."
            return await _refused(413, said)(scope, receive, send)
        return await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        """The same, cut off where a body without a length goes beyond the limit."""
        seen = 0

        async def counting() -> Scope:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > self._limits.body else message

        return counting


def address(scope: Scope, proxies: int) -> str:
    """Where a request comes from, as the nearest `proxies` say, or the connection itself.

    What stands further to the left in X-Forwarded-For is the visitor's own word and not believed.
    """
    own = (scope.get("client") or ("unknown", 0))[0]
    lines = [
        value.decode("latin-1") for key, value in scope["headers"] if key == b"x-forwarded-for"
    ]
    said = [part.strip() for part in ",".join(lines).split(",") if part.strip()]
    return said[-proxies] if 0 < proxies <= len(said) else own


def _length(scope: Scope) -> int:
    said = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
    return int(said) if said.isdigit() else 0


def _refused(status: int, said: str, seconds: int = 0) -> JSONResponse:
    headers = {"Retry-After": str(seconds)} if seconds else None
    return JSONResponse({"detail": said, "error": said}, status, headers)
