"""What visitors bring along: pictures, concepts and edits of their own, gone when they are.

Everything lies under a secret that only its owner's page knows. Knows no models and no gradio.
"""

import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from PIL.Image import Image

from slugdemo.concept import Concept
from slugdemo.edit import Edit
from slugdemo.errors import SlugError

Brought = Concept | Edit | Image
GRACE = 60.0  # seconds in which a reloaded page can claim what it had
MOST = 24  # things of one visitor


@dataclass
class Upload:
    """Something that was brought, the visitors who hold it, and the folder of its files."""

    value: Brought
    owners: set[str] = field(default_factory=set)
    folder: Path | None = None


class Uploads:
    """What all visitors brought, by its secret, and a folder for each visitor's downloads."""

    def __init__(self, grace: float = GRACE) -> None:
        self._grace, self._lock = grace, threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self._rooms: dict[str, Path] = {}

    def bring(self, visitor: str, value: Brought, *, folder: Path | None = None) -> str:
        """The secret under which `value` can be found; `folder` goes when it goes.

        Raises SlugError when the visitor has brought too much.
        """
        with self._lock:
            if sum(visitor in upload.owners for upload in self._uploads.values()) >= MOST:
                raise SlugError(f"You have uploaded {MOST} things already: reload the page first.")
            secret = secrets.token_hex(8)
            self._uploads[secret] = Upload(value, {visitor}, folder)
            return secret

    def find(self, secret: str) -> Brought | None:
        """What lies under a secret, None when nothing does."""
        with self._lock:
            upload = self._uploads.get(secret)
            return upload.value if upload else None

    def claim(self, visitor: str, secret: str) -> None:
        """A page was opened by a link that holds the secret, as after a reload."""
        with self._lock:
            if secret in self._uploads:
                self._uploads[secret].owners.add(visitor)

    def room(self, visitor: str) -> Path:
        """A folder for this visitor's files."""
        with self._lock:
            if visitor not in self._rooms:
                self._rooms[visitor] = Path(tempfile.mkdtemp(prefix="slugdemo-"))
            return self._rooms[visitor]

    def leave(self, visitor: str) -> None:
        """The visitor has gone: what nobody claims soon is forgotten."""
        with self._lock:
            held = [key for key, upload in self._uploads.items() if visitor in upload.owners]
            for key in held:
                self._uploads[key].owners.discard(visitor)
            room = self._rooms.pop(visitor, None)
        if held or room:
            timer = threading.Timer(self._grace, self._clear, (held, room))
            timer.daemon = True
            timer.start()

    def _clear(self, held: list[str], room: Path | None) -> None:
        gone = [room]
        with self._lock:
            for key in held:
                if key in self._uploads and not self._uploads[key].owners:
                    gone.append(self._uploads.pop(key).folder)
        for folder in filter(None, gone):
            shutil.rmtree(folder, ignore_errors=True)
