"""Training of the sparse autoencoder of what pocket-sd's U-Net reads: the text tower's last states.

Top-k with an auxiliary loss for features that have gone idle (Gao et al. 2024, arXiv 2406.04093),
on captions of the world alone. Knows captions and states; draws nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket.names import Names
from slugdemo.pocket.training import Run, picks, set_rate, warm_cosine
from slugdemo.pocket.words import caption, prompt, style_prompt
from slugdemo.pocket.world import GROUNDS
from slugdemo.sparse import Autoencoder, tower_digest

FEATURES, ACTIVE = 1024, 12
CAPTIONS, HELD_OUT = 3000, 400
SEED = 23
IDLE = 200  # steps without being active after which a feature counts as idle
REVIVED, SHARE = 64, 1 / 32  # idle features in the auxiliary loss, and its weight


def captions(names: Names, count: int, *, seed: int) -> list[str]:
    """Captions of one thing or two, of style and ground now and then, and plain prompts."""
    rng = np.random.default_rng(seed)
    styles = [style for style in names.styles if style != "plain"]
    found = []
    for _ in range(count):
        things = [str(c) for c in rng.choice(names.concepts, 1 + int(rng.random() < 0.2))]
        style = str(rng.choice(styles)) if styles and rng.random() < 0.6 else None
        kind = rng.random()
        if kind < 0.25:
            found.append(prompt(things[0], style or "plain"))
        elif kind < 0.3 and style:
            found.append(style_prompt(style))
        else:
            ground = str(rng.choice(list(GROUNDS))) if rng.random() < 0.25 else None
            found.append(caption(things, rng, style=style, ground=ground))
    return found


def states(model: Diffusion, texts: Sequence[str], *, batch: int = 128) -> Tensor:
    """The states (N, D) of all tokens of some texts but the first, which says nothing of a text."""
    width = model.states([""]).shape[2]
    some = [model.states(texts[at : at + batch])[:, 1:] for at in range(0, len(texts), batch)]
    return torch.cat(some).reshape(-1, width).float()


class Learner(nn.Module):
    """An autoencoder that is being trained; the decoder's rows have length 1."""

    def __init__(self, rows: Tensor, features: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("scale", rows.var(0).mean().sqrt())
        self.register_buffer("idle", torch.zeros(features, dtype=torch.long))  # steps
        chance = torch.Generator().manual_seed(SEED)
        first = torch.randn(features, rows.shape[1], generator=chance)
        self.decoder = nn.Parameter(nn.functional.normalize(first, dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().T.clone())
        self.bias = nn.Parameter(torch.zeros(features))

    def loss(self, rows: Tensor) -> dict[str, Tensor]:
        """The squared error as a share of the variance, and that of idle features on what is left."""
        z = (rows - self.mean) / self.scale
        before = z @ self.encoder + self.bias
        best = torch.relu(before).topk(self.active, dim=1)
        acts = torch.zeros_like(before).scatter(1, best.indices, best.values)
        left = z - acts @ self.decoder
        with torch.no_grad():
            fired = (acts > 0).any(0)
            self.idle.add_(1).masked_fill_(fired, 0)
            resting = (self.idle > IDLE).nonzero().flatten()
        found = {"error": left.square().mean(), "revived": left.new_zeros(())}
        if len(resting):
            own = before[:, resting].topk(min(REVIVED, len(resting)), dim=1)
            acts = torch.zeros(len(z), len(resting)).scatter(1, own.indices, torch.relu(own.values))
            missed = left.detach() - acts @ self.decoder[resting]
            found["revived"] = missed.square().mean()
        return {**found, "idle": (self.idle > IDLE).float().mean()}

    @torch.no_grad()
    def rescale(self) -> None:
        """The decoder's rows to length 1 again."""
        self.decoder.copy_(nn.functional.normalize(self.decoder, dim=1))


def train(
    model: Diffusion,
    names: Names,
    work: Path,
    *,
    steps: int,
    batch: int = 512,
    rate: float = 1e-3,
    features: int = FEATURES,
    active: int = ACTIVE,
    count: int = CAPTIONS,
) -> Autoencoder:
    """The trained autoencoder of a model's text states."""
    rows = states(model, captions(names, count, seed=SEED))
    learner = Learner(rows, features, active)
    adam = torch.optim.Adam(learner.parameters(), lr=rate, betas=(0.9, 0.999))
    made_of = {"features": features, "active": active, "captions": count, "batch": batch}
    run = Run(work / "sae", made_of, steps, {"learner": learner, "adam": adam})

    def update(step: int) -> Mapping[str, float]:
        set_rate(adam, warm_cosine(step, steps))
        adam.zero_grad(set_to_none=True)
        now = learner.loss(rows[picks(len(rows), batch, seed=SEED, step=step)])
        (now["error"] + SHARE * now["revived"]).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        adam.step()
        learner.rescale()
        return {name: value.item() for name, value in now.items()}

    run.loop(update, every=100)
    return finished(learner, tower_digest(model.text))


def finished(learner: Learner, tower: str) -> Autoencoder:
    """What was learnt: activations in units of the states, so that the decoder gives states."""
    scale = learner.scale.detach()
    return Autoencoder(
        mean=learner.mean,
        scale=scale,
        encoder=learner.encoder.detach(),
        bias=learner.bias.detach(),
        decoder=learner.decoder.detach() * scale,
        active=learner.active,
        tower=tower,
    )


def fresh(names: Names) -> list[str]:
    """Captions that no training used."""
    known = set(captions(names, CAPTIONS, seed=SEED))
    return [text for text in captions(names, HELD_OUT, seed=SEED + 1) if text not in known]


def answered(autoencoder: Autoencoder, model: Diffusion, texts: Sequence[str]) -> Tensor:
    """How active each feature is on the token of each text on which it is most: (N, F)."""
    found = autoencoder.activations(states(model, texts))
    return found.view(len(texts), -1, autoencoder.features).amax(1)


def sample(active: Tensor, count: int) -> list[int]:
    """So many features from (N, F), spread from those that most texts have to those that few have."""
    share = (active > 0).float().mean(0)
    order = [int(at) for at in share.argsort(descending=True) if share[at] > 0]
    return [order[at * len(order) // count] for at in range(min(count, len(order)))]


def strongest(active: Tensor, feature: int, count: int) -> list[int]:
    """The numbers of the texts (N, F) on which a feature is most active, none where it is not."""
    column = active[:, feature]
    return [int(at) for at in column.argsort(descending=True)[:count] if column[at] > 0]
