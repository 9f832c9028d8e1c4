"""Named tensors: twins of a module with other weights, a little arithmetic, and files.

Knows tensors, modules and safetensors; knows nothing of CLIP, concepts or hosts.
A task vector is a mapping from names to tensors (Ilharco et al. 2023), and so is everything here.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slugdemo import files
from slugdemo.errors import SlugError

Weights = Mapping[str, Tensor]


def substitute(module: nn.Module, weights: Weights) -> nn.Module:
    """A twin of `module` whose tensors named in `weights` are replaced; all else is shared.

    Path copying: new shells stand only on the way to a replaced tensor, so a twin costs
    microseconds and the memory of its new tensors, and `module` never changes, whatever runs
    meanwhile in other threads. Gradients flow through `weights`. A tied tensor is replaced only
    under the name given. Never move, train or hook a twin: it shares nearly all of its base.
    Raises ValueError for a name or a shape that `module` does not have.
    """
    return _twin(module, weights, "")


def _twin(module: nn.Module, weights: Weights, prefix: str) -> nn.Module:
    twin = _shell(module, prefix)
    inner: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = tensor
        else:
            _place(twin, head, tensor, prefix)
    for head, part in inner.items():
        if head not in twin._modules:
            raise ValueError(
                f"{prefix + head + '.' + next(iter(part))!r} is not in {_kind(module)}"
            )
        twin._modules[head] = _twin(twin._modules[head], part, f"{prefix}{head}.")
    return twin


def replaced(module: nn.Module, inner: Mapping[str, nn.Module]) -> nn.Module:
    """A twin of `module` with other modules at the dotted names of `inner`; all else is shared.

    Path copying, as in `substitute`. Raises ValueError for a name that `module` does not have.
    """
    twin = _shell(module, "")
    below: dict[str, dict[str, nn.Module]] = {}
    for name, new in inner.items():
        head, _, rest = name.partition(".")
        if head not in twin._modules:
            raise ValueError(f"{name!r} is not in {_kind(module)}")
        if rest:
            below.setdefault(head, {})[rest] = new
        else:
            twin._modules[head] = new
    for head, part in below.items():
        twin._modules[head] = replaced(twin._modules[head], part)
    return twin


def _shell(module: nn.Module, prefix: str) -> nn.Module:
    if "forward" in module.__dict__:
        raise ValueError(
            f"{prefix.rstrip('.') or 'the model'} carries its own forward (offloaded or compiled), "
            "so a twin of it would still run the original; load it without that"
        )
    twin = object.__new__(type(module))
    twin.__dict__ = dict(module.__dict__)
    for store in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[store] = dict(module.__dict__[store])
    return twin


def _place(twin: nn.Module, name: str, tensor: Tensor, prefix: str) -> None:
    store = twin._parameters if twin._parameters.get(name) is not None else twin._buffers
    if store.get(name) is None:
        raise ValueError(f"{prefix + name!r} is not in {_kind(twin)}")
    if store[name].shape != tensor.shape:
        old, new = tuple(store[name].shape), tuple(tensor.shape)
        raise ValueError(f"{prefix + name!r} has shape {old} in the module but {new} here")
    store[name] = tensor


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def norm(weights: Weights) -> float:
    """The Frobenius norm over all tensors together, in float32."""
    return math.hypot(*(_flat(tensor).norm().item() for tensor in weights.values()))


def cosine(a: Weights, b: Weights) -> float:
    """The cosine of the angle between `a` and `b`, all their tensors as one vector; in [-1, 1].

    0 when either is zero: what does not move harms nothing. Raises ValueError for other names.
    """
    if a.keys() != b.keys():
        raise ValueError(f"names differ: {sorted(a.keys() ^ b.keys())}")
    length = norm(a) * norm(b)
    product = sum(torch.dot(_flat(a[name]), _flat(b[name])).item() for name in a)
    return max(-1.0, min(1.0, product / length)) if length else 0.0


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().float().flatten()


def scaled(weights: Weights, factor: float) -> Weights:
    """`factor * weights`, tensor by tensor."""
    return {name: tensor * factor for name, tensor in weights.items()}


def digest(weights: Weights | nn.Module) -> str:
    """The sha256 (hex) of names, types, shapes and bytes, the same in every run and on any device.

    One tensor is read at a time, so a lazy mapping stays lazy.
    """
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def save(path: Path, weights: Weights, metadata: Mapping[str, str]) -> None:
    """Writes one safetensors file, whole or not at all; its metadata also holds a digest.

    Raises OSError when the disk is full or the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, draft, {**metadata, "digest": digest(tensors)})
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except SafetensorError as error:  # its own kind, for what the system says
        raise OSError(f"{path.name} could not be written: {error}") from error
    finally:
        Path(draft).unlink(missing_ok=True)


def load(path: Path) -> tuple[Weights, dict[str, str]]:
    """The tensors and the metadata of a file that `save` wrote.

    Raises SlugError when the file is missing, is no safetensors file or is damaged.
    """
    with _reading(path) as file:
        found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    _check(path, metadata.pop("digest", None), found)
    return found, metadata


@contextmanager
def _reading(path: Path) -> Iterator[safe_open]:
    """An open safetensors file, the same one until the end, whoever puts another in its place."""
    files.no_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise SlugError(f"{path.name} cannot be read as a safetensors file: {error}.") from error


def _check(path: Path, said: str | None, found: Weights) -> None:
    if said is None:
        raise SlugError(
            f"{path.name} is a safetensors file of another program: slugdemo did not write it."
        )
    if said != digest(found):
        raise SlugError(f"{path.name} is damaged: its contents do not match its own digest.")


class _Open(Mapping[str, Tensor]):
    """The tensors of an open file, none kept."""

    def __init__(self, file: safe_open) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


class Stored(Mapping[str, Tensor]):
    """The tensors of a file that `save` wrote, each read when it is asked for, none kept.

    `metadata` holds the strings saved with them. Every byte is checked once, on opening; raises
    SlugError when the file is missing, is no safetensors file or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path) as file:
            self._names = tuple(file.keys())
            self.metadata = dict(file.metadata() or {})
            _check(path, self.metadata.pop("digest", None), _Open(file))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:  # an open one would hold what it read
            return file.get_tensor(name).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
