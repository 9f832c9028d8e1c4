"""Fixtures: a tiny random CLIP as a Clip, pictures, captions, and a set that it labels itself."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import house
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from slugdemo.config import CONFIGS
from slugdemo.models.clip import Clip
from slugdemo.ui.state import AppState
from slugdemo.weights import digest

WORDS = ("cat", "dog", "tree", "red car", "blue house", "a green hat")


def tokenize(texts: list[str]) -> Tensor:
    options = {"padding": "max_length", "truncation": True, "max_length": tiny.CONTEXT}
    return tiny.clip_tokenizer()(texts, return_tensors="pt", **options).input_ids


def transform(picture: Image.Image) -> Tensor:
    return pil_to_tensor(picture.convert("RGB").resize((tiny.PIXELS, tiny.PIXELS))) / 127.5 - 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last, as Playwright keeps an event loop running; long files first."""
    sizes = Counter(item.path for item in items)
    last = {path: "browser" in path.parts for path in sizes}
    items.sort(key=lambda item: (last[item.path], -sizes[item.path] if last[item.path] else 0))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session", autouse=True)
def _sketches() -> Iterator[None]:
    """Pictures are drawn in three denoising steps: random models draw no better in fifteen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "diffusion", CONFIGS["diffusion"].changed({"denoising": 3}))
        yield


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny assets folder, with a cache of its own."""
    folder = house.build(tmp_path_factory.mktemp("assets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(folder))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="session")
def clip() -> Iterator[Clip]:
    """One tiny random CLIP for all tests of a session; afterwards it must be what it was."""
    one = Clip(tiny.clip_model().requires_grad_(False), tokenize, transform, "tiny")
    before = digest(one.model)
    yield one
    assert digest(one.model) == before
    assert all(tensor.grad is None for tensor in one.model.parameters())


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    """48 random pictures: (48, 3, 32, 32)."""
    return noise(48, 3, tiny.PIXELS, tiny.PIXELS, seed=1)


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    """A caption for each of the 48 pictures: (48, 24)."""
    return tokenize([f"a {WORDS[i % len(WORDS)]}" for i in range(48)])


@pytest.fixture(scope="module")
def state(assets: Path) -> AppState:
    """What the visitors of a page over the tiny assets share."""
    assert assets.is_dir()
    return AppState()
