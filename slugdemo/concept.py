"""Concept and Example: what to forget and what to keep, as strings and paths only.

Knows no tensors: pictures are read where they are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("object", "character", "style", "custom")


@dataclass(frozen=True)
class Example:
    """One picture with its caption; `labels` says what is on it, {"concept": "cat", ...}."""

    image: Path | str
    caption: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Concept:
    """What to forget, with the pictures that show it and the pictures that must survive.

    Raises ValueError for a kind that is none of `KINDS`.
    """

    name: str
    kind: str
    forget: tuple[Example, ...] = ()
    retain: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {KINDS}")
