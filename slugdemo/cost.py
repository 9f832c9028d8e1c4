"""What work costs: seconds by phase and bytes of memory. Knows clocks only."""

import ctypes
import gc
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows does not have it
    resource = None  # type: ignore[assignment]


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


def settle() -> None:
    """Gives free memory back to the system, or what is made next hides in it."""
    gc.collect()
    trim()


def trim() -> None:
    """Gives back what is free already; milliseconds, where `settle` looks at every object first."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Peak:
    """The most bytes held inside a `with`, more than before it; 0 where it cannot be known.

    `whole` are the same with what was there before. Call `settle` first where small amounts count.
    """

    bytes = 0
    whole = 0

    def __enter__(self) -> "Peak":
        self._before = resident()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the kernel's mark goes down to now
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            status = Path("/proc/self/status").read_text()
            mark = int(status.split("VmHWM:")[1].split()[0]) * 1024
            self.bytes, self.whole = max(0, mark - self._before), mark


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself, more than twice as fast as float32."""
    return torch.cpu._is_avx512_bf16_supported()


def available(device: str = "cpu") -> float:
    """The bytes that can still be had on a device; infinity where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return min(_free(Path("/proc/meminfo")), _left(Path("/sys/fs/cgroup")))


def _free(meminfo: Path) -> float:
    """What Linux could hand out without writing to disk."""
    try:
        return int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return math.inf


def _left(group: Path) -> float:
    """What a container may still take; the pages of files that it has read do not count."""
    try:
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        files = (group / "memory.stat").read_text().split("inactive_file ")[1].split()[0]
    except (OSError, IndexError, ValueError):
        return math.inf
    return most - used + int(files)
