"""Forged edit files: pickles, lies about sizes, numbers that are none; nothing runs, nothing is trusted."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from slugdemo import edit, weights
from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files as inventory
from slugdemo.models.clip import Clip


class Burglar:
    """What a pickle would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


def headed(head: object, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any head at all."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(**more: object) -> dict:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | more


FORGED = {
    "empty": b"",
    "short": b"\x01",
    "noise": bytes(range(256)) * 4,
    "a head without end": headed(b"{}", length=2**63 - 1),
    "a head of nothing": headed(b""),
    "a deep head": headed(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "no object": headed([1, 2, 3]),
    "beyond the end": headed({"a": tensor(data_offsets=[0, 10**12])}),
    "backwards": headed({"a": tensor(data_offsets=[4, 0])}, bytes(4)),
    "before the beginning": headed({"a": tensor(data_offsets=[-4, 0])}, bytes(4)),
    "a huge shape": headed({"a": tensor(shape=[2**40, 2**40])}, bytes(4)),
    "a negative shape": headed({"a": tensor(shape=[-1])}, bytes(4)),
    "overlapping": headed({"a": tensor(), "b": tensor()}, bytes(4)),
    "an unknown type": headed({"a": tensor(dtype="PICKLE")}, bytes(4)),
    "metadata of numbers": headed({"__metadata__": {"step": 1}, "a": tensor()}, bytes(4)),
    "a zip file": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_file_is_refused_with_a_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    path.write_bytes(FORGED[kind])
    for read in (lambda: edit.load(path, weights=None), lambda: weights.Stored(path)):
        with pytest.raises(SlugError, match=r"edit\.safetensors"):
            read()


def test_a_forged_head_does_not_stop_who_looks_through_a_folder(tmp_path: Path) -> None:
    for kind, data in FORGED.items():
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        try:
            found = inventory.head(path)
        except SlugError:
            continue
        assert isinstance(found, dict), kind


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_never_run(how: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "edit.safetensors", tmp_path / "burgled"
    thief = Burglar(mark)
    if how == "pickle":
        path.write_bytes(pickle.dumps(thief))
    else:
        torch.save({"direction": thief}, path)
    with pytest.raises(SlugError):
        edit.load(path, weights=None)
    assert not mark.exists()


def edit_file(path: Path, clip: Clip, *, direction: object = None, **facts: str) -> Path:
    """An edit file that is right in all but `facts` and `direction`, with a sound digest."""
    one = tiny.edit(clip.model, "visual.proj", 0.2).noted(weights=clip.digest)
    edit.save(path, one)
    own, said = weights.load(path)
    weights.save(path, direction or own, {**said, **facts})
    return path


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "", "one", "0x1", "1" * 5000])
def test_a_strength_that_is_no_number_is_refused(value: str, clip: Clip, tmp_path: Path) -> None:
    path = edit_file(tmp_path / "edit.safetensors", clip, strength=value)
    with pytest.raises(SlugError, match=r"edit\.safetensors"):
        edit.load(path, weights=clip.digest)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_direction_that_is_no_number_is_refused(value: float, clip: Clip, tmp_path: Path) -> None:
    wrong = {"vision/proj": torch.full((32, 16), value)}
    path = edit_file(tmp_path / "edit.safetensors", clip, direction=wrong)
    with pytest.raises(SlugError, match="not finite"):
        edit.load(path, weights=clip.digest)


def test_a_changed_byte_or_a_lying_digest_is_noticed(clip: Clip, tmp_path: Path) -> None:
    path = edit_file(tmp_path / "edit.safetensors", clip)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SlugError, match="do not match"):
        edit.load(path, weights=clip.digest)
    save_file({"visual.proj": torch.zeros(1)}, path, {"format": edit.FORMAT, "digest": "0" * 64})
    with pytest.raises(SlugError, match="do not match"):
        edit.load(path, weights=None)


def test_names_in_a_file_stay_names(clip: Clip, tmp_path: Path) -> None:
    wrong = {"text/../../outside": torch.zeros(2), "vision/__class__": torch.zeros(2)}
    path = edit_file(tmp_path / "edit.safetensors", clip, direction=wrong)
    found = edit.load(path, weights=clip.digest)
    weights_here = {edit.qualified(name): tensor for name, tensor in clip.named().items()}
    with pytest.raises(ValueError, match="not among the weights"):
        edit.apply(weights_here, [found])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
