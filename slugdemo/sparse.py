"""A sparse autoencoder of text states: many features of which few are active, and each means one thing.

Top-k, after Gao et al., "Scaling and evaluating sparse autoencoders", 2024, arXiv 2406.04093.
Knows tensors and files only: no prompts, no concepts, and nothing of how it is trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from slugdemo import weights
from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files

FILE = "sae.safetensors"
TOKENS = "embeddings.token_embedding.weight"  # of a text tower: a row (D,) for each token
SHOWN = 16  # letters of a digest that name an autoencoder


class Autoencoder(NamedTuple):
    """Features F of states D: z = (x - mean) / scale, a = the k largest of relu(z E + b), x' = a W.

    `mean` (D,), `scale` (), `encoder` E (D, F), `bias` b (F,) and `decoder` W (F, D), which gives
    states again, less their mean. `tower` is the digest of the text tower whose states it reads.
    """

    mean: Tensor
    scale: Tensor
    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    active: int
    tower: str = ""

    def activations(self, states: Tensor) -> Tensor:
        """How active each feature is in states (..., D): (..., F), at most `active` above 0."""
        z = (states.float() - self.mean.to(states.device)) / self.scale.to(states.device)
        strong = torch.relu(z @ self.encoder.to(z) + self.bias.to(z))
        best = strong.topk(self.active, dim=-1)
        return torch.zeros_like(strong).scatter(-1, best.indices, best.values)

    def reconstructed(self, states: Tensor) -> Tensor:
        """What the features keep of states (..., D): (..., D)."""
        found = self.activations(states)
        return found @ self.decoder.to(found) + self.mean.to(found)

    @property
    def features(self) -> int:
        """How many features there are, F."""
        return len(self.bias)

    @property
    def digest(self) -> str:
        """The first letters of the sha256 of its numbers in half precision."""
        return weights.digest(self._halves)[:SHOWN]

    @property
    def _halves(self) -> weights.Weights:
        names = ("mean", "scale", "encoder", "bias", "decoder")
        return {name: getattr(self, name).half() for name in names}

    def save(self, folder: Path) -> None:
        """Writes `sae.safetensors` in half precision. Raises OSError when that cannot be done."""
        about = {"active": str(self.active), "tower": self.tower}
        weights.save(folder / FILE, self._halves, about)


def load(folder: Path) -> Autoencoder:
    """The autoencoder in a folder. Raises SlugError when there is none or its file is damaged."""
    tensors, about = weights.load(folder / FILE)
    try:
        own = {name: tensor.float() for name, tensor in tensors.items()}
        return Autoencoder(**own, active=int(about["active"]), tower=about["tower"])
    except (KeyError, TypeError, ValueError) as error:
        raise SlugError(f"{folder / FILE} is not a sparse autoencoder of ours.") from error


def all_in(folder: Path) -> list[Autoencoder]:
    """The autoencoders in the folders of a folder, by name; none where there is no such folder."""
    return [load(file.parent) for file in sorted(folder.glob(f"*/{FILE}"))]


def tower_digest(tower: nn.Module) -> str:
    """The first letters of the sha256 of a text tower's weights in half precision."""
    return _digest(dict(tower.named_parameters()))


def _digest(named: weights.Weights) -> str:
    return weights.digest({name: each.detach().half() for name, each in named.items()})[:SHOWN]


def reads(folder: Path, tower: Sequence[Path]) -> bool:
    """Whether an autoencoder in the folders of `folder` reads the text tower in these files.

    Of a tower with states of another width only the head is read. Raises SlugError for a damaged
    file.
    """
    heads = [checkpoint_files.head(file) for file in sorted(folder.glob(f"*/{FILE}"))]
    widths = {tuple(head.get("mean", {}).get("shape", ())) for head in heads}
    known = {head.get("__metadata__", {}).get("tower", "") for head in heads}
    return _width(tower) in widths and _stored(tower) in known


def _width(tower: Sequence[Path]) -> tuple[int, ...]:
    """The shape (D,) of one state of the text tower in some files."""
    tensors = {name: each for file in tower for name, each in checkpoint_files.head(file).items()}
    return next((tuple(e["shape"][1:]) for n, e in tensors.items() if n.endswith(TOKENS)), ())


def _stored(tower: Sequence[Path]) -> str:
    """The `tower_digest` of the text tower in files of transformers."""
    named: dict[str, Tensor] = {}
    try:
        for file in tower:
            with safe_open(file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118
                    named[name.removeprefix("text_model.")] = stored.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise SlugError(f"The text tower cannot be read: {error}.") from error
    return _digest({n: each for n, each in named.items() if not n.endswith("position_ids")})


def explained(autoencoder: Autoencoder, states: Tensor) -> float:
    """The share of the variance of states (N, D) that the features keep, at most 1."""
    error = (states - autoencoder.reconstructed(states)).square().sum()
    return 1 - (error / (states - states.mean(0)).square().sum()).item()
