"""How memory is kept small: what is let go of when it runs out, and the sentence that says so.

All of that can be made again: pictures that were drawn, features and gradients, and the model that
nobody has asked for longest.
"""

import ctypes
import gc
import sys
from contextlib import suppress

import torch

from slugdemo.models.diffusion import Diffusion
from slugdemo.ui.state import AppState

SHORT = "This machine ran out of memory, and what was being made is dropped."
ARENAS, M_ARENA_MAX = 2, -8  # how many, and what glibc's malloc.h calls the setting
IN_USE = 1  # models that are left alone: the one at work


def thrifty() -> None:
    """Gives the C library few arenas, where it has any: it would make one for each of a server's
    many threads, and each would keep room for the most that its thread ever needed."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def freed(state: AppState) -> str:
    """Frees what can be made again; says what that was."""
    opened = state.models.items()
    hosts = [found.host for _, found in opened if found.kind == "diffusion"]
    pictures = sum(host.forget_pictures() for host in hosts if isinstance(host, Diffusion))
    unused = state.models.let_go() if len(opened) > IN_USE else None
    counts = (
        (state.pictures.clear() + pictures, "drawn picture", "drawn pictures"),
        (state.tasks.clear() + state.features.clear(), "set of features", "sets of features"),
        (state.edits.clear(), "edit", "edits"),
        (state.shown.clear(), "other result", "other results"),
    )
    gone = [f"{count} {single if count == 1 else many}" for count, single, many in counts if count]
    gone += [f"the model {unused}"] if unused else []
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not gone:
        return f"{SHORT} Nothing more can be freed: choose something smaller."
    return f"{SHORT} Freed: {', '.join(gone)}. Try again, or choose something smaller."
