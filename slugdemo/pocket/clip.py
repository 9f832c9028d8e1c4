"""Training of pocket-clip: an open_clip.CLIP on the sprite world, and its folder.

First the text tower learns to find anchors: one a concept, a style and a ground, of what a caption says (anchors.py);
from then on it is locked (LiT, Zhai et al. 2022). Then the vision tower, which starts as a stack of small convolutions
(convolutional.py), learns to find the anchors of what a picture shows. Last it learns against the text tower:
contrastive, with every caption that is true of a picture counted as a match (UniCL, Yang et al. 2022), over some of the
batch's own captions and over prompts of all concepts and styles in varying words. Of the locked tower only the
projection behind it learns on. Meanwhile the patches of the last but one block, which pocket-llava looks at, learn to
tell what lies where (regions.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from slugdemo.pocket.anchors import Anchors, both_ways, contrast
from slugdemo.pocket.augment import augmented
from slugdemo.pocket.claims import CONTEXT, Claim, bank, claim, facts, matches, tokens
from slugdemo.pocket.convolutional import convolutional
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.names import Names
from slugdemo.pocket.picture_set import PictureSet
from slugdemo.pocket.regions import SHARES, Regions
from slugdemo.pocket.training import device, faster, halves, learn, noise_at, picks
from slugdemo.pocket.world import Scene

SEED = 21
SIDE = 64  # pixels of a picture as it is looked at
CAPTIONS = 32  # of a batch's pictures, how many bring their own caption
SEEING = 0.4  # share of the steps in which the vision tower learns the anchors
WORDINGS = 8  # of every concept's and style's prompt
READINGS = 600  # steps of the text tower, 128 captions each


def config(vocabulary: int) -> dict:
    """open_clip's model config: two towers of six blocks, 192 wide."""
    return {
        "embed_dim": 192,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": 8,
            "layers": 6,
            "width": 192,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "layers": 6,
            "width": 192,
            "heads": 6,
            "hf_tokenizer_name": ".",
        },
    }


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Unit text features (N, D); positions after the longest text are not computed."""
    return F.normalize(text_states(model, tokens) @ model.text_projection, dim=-1)


def text_states(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """The last state of every text (N, W), before it is projected."""
    longest = int(tokens.argmax(1).max()) + 1
    x = model.token_embedding(tokens[:, :longest]) + model.positional_embedding[:longest]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:longest, :longest]))
    return x[torch.arange(len(x)), tokens.argmax(1)]


def train(
    pictures: PictureSet,
    tokenizer: CLIPTokenizer,
    work: Path,
    *,
    names: Names,
    steps: int,
    start: open_clip.CLIP | None = None,
) -> open_clip.CLIP:
    """The trained CLIP, on the CPU.

    From `start` where given, whose text tower reads the names of this world first and whose vision tower goes on.
    """
    model = start or fresh(len(tokenizer))
    anchors = Anchors(names, model.text_projection.shape[1], seed=SEED)
    read(model, anchors, tokenizer, pictures.scenes, work, names=names, steps=min(READINGS, steps))
    if start is None:
        seeing = max(1, int(SEEING * steps))
        some = pictures.batch(torch.arange(min(len(pictures), 600)), side=SIDE)
        convolutional(model.visual, some, seed=SEED)
        see(model, anchors, pictures, work, names=names, steps=seeing)
        steps -= seeing
    agree(model, tokenizer, pictures, work, names=names, steps=max(1, steps))
    return model.eval().requires_grad_(True)


def see(
    model: open_clip.CLIP,
    anchors: Anchors,
    pictures: PictureSet,
    work: Path,
    *,
    names: Names,
    steps: int,
    batch: int = 96,
    rate: float = 1.2e-3,
) -> None:
    """Teach the vision tower, in place, to find the anchors of what a picture shows; the anchors move too."""
    where = device()
    student = nn.ModuleDict({"visual": model.visual, "anchors": anchors}).to(where)
    faster(model.visual.transformer, steps)

    def terms(step: int) -> dict[str, Tensor]:
        which = picks(len(pictures), batch, seed=SEED, step=step)
        shown, scenes = _augmented(pictures, which, names, noise_at(step, seed=SEED))
        with halves(where):
            seen = model.visual(shown.to(where))
        return anchors(F.normalize(seen.float(), dim=-1), [facts(scene) for scene in scenes])

    rates = optimisers(student, lr=rate, blocks="visual.transformer.resblocks", boost=2.0)
    learn(student, rates, terms, SHARES, work / "see", steps, config=_config(names, batch))
    student.cpu()


def read(
    model: open_clip.CLIP,
    anchors: Anchors,
    tokenizer: CLIPTokenizer,
    scenes: Sequence[Scene],
    work: Path,
    *,
    names: Names,
    steps: int,
    batch: int = 128,
    rate: float = 2e-3,
) -> None:
    """Teach the text tower, in place, to find the anchors of what a caption says; the anchors move too."""
    where = device()
    student = nn.ModuleDict({"model": model, "anchors": anchors}).to(where)
    model.visual.requires_grad_(False)

    def terms(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED + 1, step))
        some, stock = rng.choice(len(scenes), batch // 2), bank(names, rng)
        heard = [claim(scenes[i], rng) for i in some] + [
            stock[i] for i in rng.choice(len(stock), batch // 2)
        ]
        return anchors(
            encode_text(model, tokens(tokenizer, heard).to(where)), [c.facts for c in heard]
        )

    rates = optimisers(student, lr=rate, blocks="model.transformer.resblocks")
    shares = {"concept": 1.0, "style": 1.0, "ground": 1.0}
    learn(student, rates, terms, shares, work / "read", steps, config=_config(names, batch))
    model.visual.requires_grad_(True)
    student.cpu()


def agree(
    model: open_clip.CLIP,
    tokenizer: CLIPTokenizer,
    pictures: PictureSet,
    work: Path,
    *,
    names: Names,
    steps: int,
    batch: int = 96,
    rate: float = 1e-3,
) -> None:
    """Teach the vision tower and the text projection, in place, to agree; the text tower before it is locked."""
    where = device()
    student = Contrast(model.to(where), tokenizer, names).to(where)
    for block in model.visual.transformer.resblocks:
        faster(block, steps)

    def terms(step: int) -> dict[str, Tensor]:
        which = picks(len(pictures), batch, seed=SEED + 2, step=step)
        shown, scenes = _augmented(pictures, which, names, noise_at(step, seed=SEED + 2))
        with halves(where):
            return student(shown.to(where), scenes, np.random.default_rng((SEED, step)))

    rates = optimisers(student, lr=rate, blocks="model.visual.transformer.resblocks", boost=2.0)
    shares = {"pairs": 1.0, "concept": 1.0, "style": 0.5, "places": 1.0}
    learn(student, rates, terms, shares, work / "agree", steps, config=_config(names, batch))
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    model.cpu()


def _config(names: Names, batch: int) -> dict[str, object]:
    return {"names": names.concepts + names.styles, "batch": batch}


def _augmented(
    pictures: PictureSet, which: Tensor, names: Names, generator: torch.Generator
) -> tuple[Tensor, list[Scene]]:
    """The chosen pictures (N, 3, 64, 64), half of them changed, and what they show."""
    which = which.sort().values
    scenes = [pictures.scenes[i] for i in which.tolist()]
    return augmented(pictures.batch(which, side=SIDE), scenes, generator, styles=names.styles)


def wordings(names: Names) -> list[list[Claim]]:
    """The prompts of all concepts and styles, by name and then in `WORDINGS` - 1 other wordings."""
    return [bank(names, np.random.default_rng((SEED, i)) if i else None) for i in range(WORDINGS)]


def found(logits: Tensor, match: Tensor, count: int) -> dict[str, Tensor]:
    """Contrast among the first `count` prompts (concepts) and the rest (styles), and the share of concepts found.

    Logits (N, C + S) of pictures and prompts, and which of these match, bool, the same shape.
    """
    hit = match.gather(1, logits[:, :count].argmax(1, keepdim=True)).float().mean()
    return {
        "concept": contrast(logits[:, :count], match[:, :count]),
        "style": contrast(logits[:, count:], match[:, count:]),
        "hit": hit,
    }


def fresh(vocabulary: int) -> open_clip.CLIP:
    """The untrained CLIP."""
    torch.manual_seed(SEED)
    return open_clip.CLIP(**config(vocabulary))


def looked(tower: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Unit image features (N, D) and the patch states of the last but one block (N, P, W), in one pass."""
    last_but_one = len(tower.transformer.resblocks) - 2
    made = tower.forward_intermediates(pictures, indices=[last_but_one], output_fmt="NLC")
    return F.normalize(made["image_features"], dim=-1), made["image_intermediates"][0]


class Contrast(nn.Module):
    """A CLIP whose vision tower is in training; its text tower is locked but for the projection."""

    def __init__(self, model: open_clip.CLIP, tokenizer: CLIPTokenizer, names: Names) -> None:
        super().__init__()
        self.model, self.tokenizer, self.names = model, tokenizer, names
        for name, weight in model.named_parameters():
            weight.requires_grad_(
                name.startswith("visual.") or name in ("text_projection", "logit_scale")
            )
        width = model.visual.transformer.width
        torch.manual_seed(SEED)
        projector = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.regions = Regions(projector, names, width, seed=SEED)
        stocks = wordings(names)
        self.stock = stocks[0]
        self._heard = torch.stack([self._states(stock) for stock in stocks])  # (WORDINGS, C + S, W)

    def forward(
        self, pictures: Tensor, scenes: Sequence[Scene], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The loss terms; as numbers the shares of concepts found, by pictures and by places, and the logit scale."""
        some = rng.choice(len(scenes), min(CAPTIONS, len(scenes)), replace=False)
        own = [claim(scenes[i], rng) for i in some]
        images, states = looked(self.model.visual, pictures)
        scale, count = self.model.logit_scale.exp(), len(self.names.concepts)
        words = torch.from_numpy(rng.integers(WORDINGS, size=len(self.stock)))
        prompts = self._projected(self._heard[words, torch.arange(len(words))])
        logits, match = scale * images @ prompts.T, matches(self.stock, scenes).to(images.device)
        said, fit = self._projected(self._states(own)), matches(own, scenes).to(images.device)
        pairs = both_ways(scale * images @ said.T, fit)
        places = self.regions(states, scenes)
        return {
            "pairs": pairs,
            **found(logits, match, count),
            "scale": scale.detach(),
            "spots": places["hit"],
            "places": sum(share * places[name] for name, share in SHARES.items()),
        }

    @torch.no_grad()
    def _states(self, claims: Sequence[Claim]) -> Tensor:
        return text_states(
            self.model, tokens(self.tokenizer, claims).to(self.model.logit_scale.device)
        )

    def _projected(self, states: Tensor) -> Tensor:
        return F.normalize(states @ self.model.text_projection, dim=-1)


def save(model: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write an open_clip local-dir: config, fp16 weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    half = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    settings = {"model_cfg": config(len(tokenizer)), "preprocess_cfg": half}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2))
