"""What work costs: seconds by phase and bytes of memory. Knows clocks only."""

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows does not have it
    resource = None


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Adds the time inside the `with` to a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent


def peak_memory() -> int:
    """The most bytes that this process has held so far, and a GPU's beside the processor's."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else 0
    return own + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def resident() -> int:
    """The bytes that this process holds now; 0 where the system does not say (only Linux does)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


class Peak:
    """The most bytes held inside a `with`, more than before it; 0 where it cannot be known."""

    bytes = 0

    def __enter__(self) -> "Peak":
        gc.collect()
        self._before = resident()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the kernel's mark goes down to now
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            status = Path("/proc/self/status").read_text()
            mark = int(status.split("VmHWM:")[1].split()[0]) * 1024
            self.bytes = max(0, mark - self._before)
