"""How memory is kept small: what is let go of when it runs out, and the sentence that says so.

All of that can be made again: pictures that were drawn, features and gradients, and the model that
nobody has asked for longest.
"""

import ctypes
import gc
import sys
from collections.abc import Hashable
from contextlib import suppress

import torch

from slugdemo.models.diffusion import Diffusion
from slugdemo.ui.session import World

LARGE = ("gradients", "gallery", "ladder", "held out", "retain")  # results that take room
SHORT = "This machine ran out of memory, and what was being made is dropped."
ARENAS, M_ARENA_MAX = 2, -8  # how many, and what glibc's malloc.h calls the setting
IN_USE = 2  # models that are left alone: the one at work, and the CLIP that it carries


def thrifty() -> None:
    """Gives the C library few arenas, where it has any: it would make one for each of a server's
    many threads, and each would keep room for the most that its thread ever needed."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def relieved(world: World) -> str:
    """Frees what can be made again; says what that was."""
    hosts = [one for _, one in world.models.items() if isinstance(one, Diffusion)]
    drawn = world.drawn.clear() + sum(host.forget_pictures() for host in hosts)
    found = (
        (drawn, "drawn picture", "drawn pictures"),
        (world.sets.clear(), "set of features", "sets of features"),
        (world.edited.clear(), "edit", "edits"),
        (world.results.clear(_large), "other result", "other results"),
    )
    freed = [f"{count} {one if count == 1 else more}" for count, one, more in found if count]
    used = list(dict.fromkeys(_model(key) for key, _ in reversed(world.models.items())))
    unused = used[IN_USE:][-1:]
    world.models.clear(lambda key: _model(key) in unused)
    freed += [f"the model {name}" for name in unused]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not freed:
        return f"{SHORT} Nothing is left to let go of: choose something smaller."
    return f"{SHORT} Let go of: {', '.join(freed)}. Try again, or choose something smaller."


def _large(key: Hashable) -> bool:
    return (key[0] if isinstance(key, tuple) else key) in LARGE


def _model(key: Hashable) -> Hashable:
    return key[1] if isinstance(key, tuple) else key
