"""Killed processes, full disks, two processes on one cache: nothing half is ever trusted."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from slugdemo import edit, weights
from slugdemo import gradients as slopes
from slugdemo.errors import SlugError
from slugdemo.export import export
from slugdemo.models import checkpoint_files as inventory
from slugdemo.models.clip import Clip

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left after writers were killed, thirty-two times, and two wrote to one place."""
    folder = tmp_path_factory.mktemp("scene")
    tiny.clip_folder(folder / "model", tiny.clip_model())
    (folder / "out").mkdir()
    done = subprocess.run(
        [sys.executable, HERE / "crash.py", folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_cache_file_is_whole_or_not_there(scene: Path) -> None:
    for path in scene.glob("*.safetensors"):
        assert set(weights.load(path)[0]) == set("abc")
    assert (scene / "both.safetensors").exists()


def test_an_exported_folder_is_whole_or_not_there(scene: Path) -> None:
    files = {path.name for path in (scene / "model").iterdir()} | {"slugdemo.json"}
    for folder in [path for path in (scene / "out").iterdir() if not path.name.startswith(".")]:
        inventory.check(folder)
        assert {path.name for path in folder.iterdir()} == files


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file may become larger than `most` bytes; what is written then fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_the_cache_and_not_the_answer(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    names = ["visual.proj", "transformer.resblocks.0.attn.in_proj_weight"]
    pairs = slopes.batches(pixels[:8], tokens[:8], size=4)
    plain = slopes.gradients(clip, pairs, retain=pairs, names=names)
    with full_disk(1000):
        found = slopes.gradients(clip, pairs, retain=pairs, names=names, cache=tmp_path / "cache")
    for name in names:
        assert torch.equal(found.forget[name], plain.forget[name])
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_keeps_the_old_edit_and_says_so(clip: Clip, tmp_path: Path) -> None:
    one = tiny.edit(clip.model, "transformer.resblocks.0.mlp.c_fc.weight", 0.1)
    path = tmp_path / "edit.safetensors"
    edit.save(path, one)
    before = path.read_bytes()
    with full_disk(1000), pytest.raises(OSError, match=r"large|space|os error"):
        edit.save(path, one.at(0.2))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_leaves_no_half_of_an_export(clip: Clip, tmp_path: Path) -> None:
    source = tiny.clip_folder(tmp_path / "model", clip.model)
    with full_disk(50_000), pytest.raises(SlugError, match="could not be written"):
        export(source, [tiny.edit(clip.model, "visual.proj", 0.1)], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_draft_of_somebody_else_is_not_taken_for_a_file(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "forget-abc.safetensors123.part").write_bytes(os.urandom(100))
    one = tiny.edit(clip.model, "visual.proj", 0.1)
    edit.save(tmp_path / "forget-abc.safetensors", one)
    assert edit.load(tmp_path / "forget-abc.safetensors", weights=None).layer == "vision/proj"
