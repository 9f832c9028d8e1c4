"""What visitors bring along: pictures, concepts and edits of their own, gone when they are.

Everything lies under a secret that only its owner's page knows. Knows no models and no gradio.
"""

import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slugdemo.errors import SlugError

GRACE = 60.0  # seconds in which a reloaded page can claim what it had
MOST = 24  # things of one visitor


@dataclass
class Thing:
    """Something that was brought, and the visitors who hold it."""

    value: Any
    owners: set[str] = field(default_factory=set)
    folder: Path | None = None


class Guests:
    """The things of all visitors by their secrets, and a folder for each visitor's files."""

    def __init__(self, grace: float = GRACE) -> None:
        self._grace, self._lock = grace, threading.Lock()
        self._things: dict[str, Thing] = {}
        self._rooms: dict[str, Path] = {}

    def bring(self, visitor: str, value: Any, *, folder: Path | None = None) -> str:  # noqa: ANN401
        """The secret under which `value` can be found; `folder` goes when it goes.

        Raises SlugError when the visitor has brought too much.
        """
        with self._lock:
            if sum(visitor in one.owners for one in self._things.values()) >= MOST:
                raise SlugError(f"You have brought {MOST} things already: reload the page first.")
            secret = secrets.token_hex(8)
            self._things[secret] = Thing(value, {visitor}, folder)
            return secret

    def find(self, secret: str) -> Any:  # noqa: ANN401
        """What lies under a secret, None when nothing does."""
        with self._lock:
            thing = self._things.get(secret)
            return thing.value if thing else None

    def claim(self, visitor: str, secret: str) -> None:
        """A page was opened by a link that holds the secret, as after a reload."""
        with self._lock:
            if secret in self._things:
                self._things[secret].owners.add(visitor)

    def room(self, visitor: str) -> Path:
        """A folder for this visitor's files."""
        with self._lock:
            if visitor not in self._rooms:
                self._rooms[visitor] = Path(tempfile.mkdtemp(prefix="slugdemo-"))
            return self._rooms[visitor]

    def leave(self, visitor: str) -> None:
        """The visitor has gone: what nobody claims soon is forgotten."""
        with self._lock:
            held = [one for one, thing in self._things.items() if visitor in thing.owners]
            for one in held:
                self._things[one].owners.discard(visitor)
            room = self._rooms.pop(visitor, None)
        if held or room:
            timer = threading.Timer(self._grace, self._clear, (held, room))
            timer.daemon = True
            timer.start()

    def _clear(self, held: list[str], room: Path | None) -> None:
        gone = [room]
        with self._lock:
            for one in held:
                if one in self._things and not self._things[one].owners:
                    gone.append(self._things.pop(one).folder)
        for folder in filter(None, gone):
            shutil.rmtree(folder, ignore_errors=True)
