"""ZeroGPU with a stand-in for `spaces` that pickles what a forked worker would: same answers."""

import importlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import house
import pytest
import tiny

from slugdemo.models import loading, zerogpu
from slugdemo.models.base import Cancelled

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ASKED: list[int] = []  # the seconds that were asked for


def gpu(*, duration: Callable[..., int]) -> Callable:
    """`spaces.GPU`: arguments and results travel as bytes."""

    def decorate(function: Callable) -> Callable:
        def lent(*given: object) -> object:
            ASKED.append(duration(*given))
            sent = pickle.dumps(given)
            return pickle.loads(pickle.dumps(function(*pickle.loads(sent))))

        return lent

    return decorate


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, clip = tmp_path_factory.mktemp("models"), tiny.clip_model()
    tiny.clip_folder(folder / "clip", clip)
    tiny.pipeline(clip).save_pretrained(folder / "sd")
    for part in tiny.llava(clip):
        part.save_pretrained(folder / "llava")
    return folder


@pytest.fixture
def space(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a ZeroGPU Space: the package is there when zerogpu is imported."""
    monkeypatch.setenv("SLUGDEMO_MODELS", str(models))
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    importlib.reload(zerogpu)
    ASKED.clear()
    yield
    monkeypatch.undo()
    importlib.reload(zerogpu)
    assert zerogpu.spaces is None


def test_without_the_package_a_host_is_itself() -> None:
    host = object()
    assert zerogpu.lent("any", host) is host

    def function() -> None:
        """Does nothing."""

    assert zerogpu.borrowed(lambda: 1)(function) is function


@pytest.mark.usefixtures("space")
def test_borrowed_pictures_are_the_same_and_ask_for_more_time_when_there_are_more() -> None:
    one = loading.opened("sd")
    plain, lent = one._plain, one.host
    edit = tiny.edit(one.clip.model, "transformer.resblocks.0.mlp.c_fc.weight", 0.5)
    assert lent.editable() == plain.editable()
    options = {"seeds": [1, 2], "steps": 2}
    words = ["a cat", "a dog"]
    ours, theirs = (host.ladder(words, [[], [edit]], **options) for host in (lent, plain))
    assert [[a.tobytes() for a in row] for row in ours] == [
        [a.tobytes() for a in row] for row in theirs
    ]
    [picture] = lent.edited([edit]).generate(["a cat"], seeds=[1], steps=2)
    assert picture.tobytes() == theirs[1][0].tobytes()
    assert 0 < ASKED[1] <= ASKED[0] <= zerogpu.MOST
    assert zerogpu._drawing("sd", words, [[], [edit]], [1, 2], {"steps": 20}) > ASKED[0]


@pytest.mark.usefixtures("space")
def test_borrowed_answers_are_the_same() -> None:
    one = loading.opened("llava")
    edit = tiny.edit(one.clip.model, "visual.transformer.resblocks.0.mlp.c_fc.weight", 0.9)
    pictures = house.pictures(2, seed=3)
    ours, theirs = (
        host.edited([edit]).answer(pictures, ["What?"] * 2) for host in (one.host, one._plain)
    )
    assert ours == theirs


@pytest.mark.usefixtures("space")
def test_who_has_stopped_borrows_nothing() -> None:
    with pytest.raises(Cancelled):
        loading.opened("sd").host.generate(["a cat"], seeds=[1], cancelled=lambda: True)
    assert ASKED == []


@pytest.mark.usefixtures("space")
def test_what_else_a_method_asks_of_a_host_is_answered_here() -> None:
    one = loading.opened("sd")
    plain = zerogpu.HOSTS[one.model.name] if one.host else None
    assert one.host.unet_digest == plain.unet_digest
    assert one.host.states(["a cat"]).equal(plain.states(["a cat"]))
    assert ASKED == []
