"""Where memory is short, the model used longest ago makes room, and what can be made again goes."""

import gc
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pages import ME, VISION, connected, handler

from slugdemo import cost
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.loading import TooLarge
from slugdemo.ui import see
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import BROKEN, Watch, unwatched
from slugdemo.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No collection while models are read: it could meet an event loop that an earlier test's server
    left open, and pytest keeps that warning with all frames below it, and so the model in them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def of(assets: Path) -> AppState:
    """A fresh state over the tiny assets."""
    assert assets.is_dir()
    return AppState()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_model_makes_room_for_the_next_and_comes_back(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = of(assets)
    last = weakref.ref(state.opened("pocket-sd").host)
    monkeypatch.setattr(cost, "available", lambda _: 1e12 if last() is None else 0.0)
    assert state.opened("pocket-llava") is state.opened("pocket-llava")
    assert last() is None
    again = state.opened("pocket-sd")
    assert state.opened("pocket-sd") is again


def test_what_never_fits_is_refused_and_the_rest_still_works(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = of(assets)
    with monkeypatch.context() as patch:
        patch.setattr(cost, "available", lambda _: 10.0)
        with pytest.raises(TooLarge, match="GB are free"):
            state.opened("pocket-sd")
    assert state.opened("pocket-clip").clip.named()


ENDS = {
    "python": MemoryError(),
    "processor": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 GB"),
    "gpu": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB"),
}


def submitted(state: AppState, view: View) -> list[str]:
    """What the page says after a prompt was sent off, by the very handler of that event."""
    blocks = connected(state, view)
    drawn, said = blocks["updates"], []
    for update in handler(blocks["words"].submit)("a picture of a cat", ME):
        said += [update[drawn]["status"]["text"]] if "status" in update.get(drawn, {}) else []
    return said


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_out_of_memory_frees_what_can_be_made_again_and_says_so(
    end: Exception, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = of(assets)
    layer = "transformer.resblocks.1.attn.out_proj.weight"
    view = View("pocket-sd", "cat", layer=layer, strength=0.3)
    see.show(state, View("pocket-llava", "cat", layer=VISION, strength=0.3), Watch(print))
    see.show(state, view, Watch(print))
    see.collateral(state, view, Watch(print))
    host = state.opened("pocket-sd").host

    def ladder(*_: object, **__: object) -> None:
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "ladder", ladder)
        last = submitted(state, view)[-1]
    assert "ran out of memory" in last
    for gone in ("drawn picture", "sets of features", "edit", "other result", "pocket-llava"):
        assert gone in last
    assert not state.features.items()
    assert state.opened("pocket-sd").host is host
    assert host.forget_pictures() == 0
    assert submitted(state, view)[-1] not in (last, BROKEN)


ARENAS = """
import ctypes, sys, threading
from app import thrifty
if sys.argv[1] == "thrifty":
    thrifty()
libc = ctypes.CDLL(None)
for call in (libc.malloc, libc.fopen):
    call.restype = ctypes.c_void_p
everyone = threading.Barrier(8)
def work():
    everyone.wait()
    libc.malloc(5000)
    everyone.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
out = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory")
def test_a_server_of_many_threads_keeps_few_arenas(tmp_path: Path) -> None:
    counts = {}
    for how in ("as it is", "thrifty"):
        facts = tmp_path / f"{how}.xml"
        subprocess.run([sys.executable, "-c", ARENAS, how, str(facts)], check=True)
        counts[how] = facts.read_text().count("<heap ")
    assert counts["thrifty"] < counts["as it is"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory")
def test_who_takes_gradients_gives_their_room_back(assets: Path) -> None:
    """Free memory below some that is in use, as activations leave it, is the process's until then."""
    state, small = of(assets), 100_000  # bytes: what glibc takes from its heap
    state.opened("pocket-clip")
    pieces = [bytes(small) for _ in range(2000)]
    last = bytes(small)
    del pieces
    held = cost.resident()
    state.task(View("pocket-clip", "robot"), unwatched())
    assert cost.resident() < held - 100 * 10**6
    assert len(last) == small
