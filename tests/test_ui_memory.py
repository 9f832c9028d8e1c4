"""Where memory is short, the model that was used longest ago makes room for the next one."""

import gc
import weakref
from pathlib import Path

import pytest
import shelves

from slugdemo import cost
from slugdemo.loading import TooLarge
from slugdemo.ui.session import World

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# The collector also meets event loops that gradio's own servers left open in earlier tests.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_model_makes_room_for_the_next_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.at(shelves.assets(tmp_path / "assets", each=2), tmp_path / "cache")
    last = weakref.ref(world.diffusion("pocket-sd"))

    def free(_: str) -> float:
        gc.collect()
        return 1e12 if last() is None else 0.0

    monkeypatch.setattr(cost, "available", free)
    assert world.vlm("pocket-llava") is world.vlm("pocket-llava")
    assert last() is None
    again = world.diffusion("pocket-sd")
    assert world.diffusion("pocket-sd") is again


def test_what_never_fits_is_refused_and_the_rest_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.at(shelves.assets(tmp_path / "assets", each=2), tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(cost, "available", lambda _: 10.0)
        with pytest.raises(TooLarge, match="GB are free"):
            world.diffusion("pocket-sd")
    assert world.clip("pocket-clip").named()
