"""Results of a long bench, kept in a file of JSON lines, so that the next run goes on from them.

Knows keys and plain data only.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from slugdemo.errors import SlugError

Facts = Mapping[str, Any]
START = '{"key": '  # of every line, also of one that was cut off


class Ledger:
    """What was measured already, by what it depends on; without a file it forgets at the end."""

    def __init__(self, file: Path | None = None) -> None:
        """Reads what is there; a line that was cut off counts for nothing.

        Raises SlugError for a file that is something else, or that cannot be read and written.
        """
        self._file, self._kept = file, dict[str, Facts]()
        if file is None:
            return
        try:
            file.open("a").close()
            lines = [line for line in file.read_text().splitlines() if line]
        except (OSError, UnicodeDecodeError) as error:
            raise SlugError(f"{file} cannot be opened to keep results in.") from error
        if any(not START.startswith(line[: len(START)]) for line in lines):
            raise SlugError(f"{file} holds something else than results that were kept.")
        for line in lines:
            with suppress(ValueError, KeyError):  # cut off
                record = json.loads(line)
                self._kept[record["key"]] = record["facts"]

    def find(self, key: str) -> Facts | None:
        """What lies under a key, None when it is still to be measured."""
        return self._kept.get(key)

    def add(self, key: str, facts: Facts) -> None:
        """Writes one result down, on a line of its own whatever was cut off before.

        Raises SlugError when the file cannot be written.
        """
        self._kept[key] = facts
        if self._file is None:
            return
        try:
            with self._file.open("a") as out:
                out.write(f"\n{json.dumps({'key': key, 'facts': facts})}\n")
        except OSError as error:
            raise SlugError(f"{self._file} cannot be written: {error.strerror}.") from error


def stamp(*parts: object) -> str:
    """The sha256 of values by their repr and of folders by their files, but for what is prose."""
    total = sha256()
    for part in parts:
        total.update(f"\n{part!r}\n".encode() if not isinstance(part, Path) else b"\n")
        for file in sorted(part.rglob("*")) if isinstance(part, Path) else []:
            if file.is_file() and file.suffix != ".md":
                with file.open("rb") as data:
                    total.update(f"{file.name} {file_digest(data, sha256).hexdigest()}".encode())
    return total.hexdigest()
