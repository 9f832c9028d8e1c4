"""Training of pocket-sd's autoencoder: a diffusers AutoencoderKL, 64 x 64 pixels to 16 x 16 x 4 latents.

When the U-Net has learnt its latents, the decoder alone is polished on what pocket-sd draws, and on latents with some
noise left, as a U-Net leaves them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from slugdemo.pocket.album import Album
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.training import (
    Average,
    Run,
    device,
    halves,
    learn,
    noise_at,
    picks,
    set_rate,
    warm_cosine,
)

CHANNELS = (16, 32, 64)
KL = 1e-6  # weight of the KL term, per latent number
SEED = 11
LEFT = 0.25  # noise on polished latents, at most, in their standard deviations


def fresh() -> AutoencoderKL:
    """The untrained autoencoder, f = 4."""
    torch.manual_seed(SEED)
    model = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    nn.init.constant_(model.quant_conv.bias[4:], -7.0)  # begin with little latent noise
    return model


def train(
    album: Album,
    work: Path,
    *,
    steps: int,
    batch: int = 16,
    rate: float = 6e-3,
    start: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """The trained autoencoder (EMA weights), from `start` where given.

    Its `scaling_factor` is set so that latents have unit variance. Loss: L1 + 4 x squared error + KL.
    """
    where = device()
    model = (start or fresh()).train().to(where, memory_format=torch.channels_last)
    rates = optimisers(model, lr=rate, blocks="conv")
    mean = Average(model, 0.99)
    run = Run(
        work / "vae",
        {"channels": CHANNELS, "batch": batch},
        steps,
        {"model": model, **rates, "mean": mean},
    )

    def update(step: int) -> Mapping[str, float]:
        pictures = album.batch(picks(len(album), batch, seed=SEED, step=step)).to(where)
        loss, error = _loss(model, pictures, noise_at(step, seed=SEED))
        for optimiser in rates.values():
            set_rate(optimiser, warm_cosine(step, steps, warmup=40))
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in rates.values():
            optimiser.step()
        mean.follow(model, step)
        return {"loss": loss.item(), "psnr": -10 * torch.log10(error.detach() / 4).item()}

    run.loop(update)
    mean.put_into(model)
    model.register_to_config(scaling_factor=_scale(model, album))
    return model.cpu().eval()


def polish(
    model: AutoencoderKL,
    album: Album,
    work: Path,
    *,
    steps: int,
    batch: int = 16,
    rate: float = 3e-3,
) -> None:
    """Teach the decoder alone, in place; what the latents mean stays as it is. Loss: L1 + 4 x squared error."""
    where = device()
    model.to(where, memory_format=torch.channels_last).requires_grad_(False)
    decoder = nn.ModuleList([model.decoder, model.post_quant_conv]).requires_grad_(True)

    def terms(step: int) -> dict[str, Tensor]:
        chance = noise_at(step, seed=SEED + 1)
        pictures = album.batch(picks(len(album), batch, seed=SEED + 1, step=step)).to(where)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with halves(where):
            with torch.no_grad():
                latents = model.encode(pictures).latent_dist.mean
            left = LEFT / model.config.scaling_factor * torch.rand(batch, 1, 1, 1, generator=chance)
            shown = model.decode(
                latents + (left * torch.randn(latents.shape, generator=chance)).to(where)
            ).sample
        error = F.mse_loss(shown.float(), pictures)
        psnr = -10 * torch.log10(error.detach() / 4)
        return {"far": F.l1_loss(shown.float(), pictures), "error": error, "psnr": psnr}

    learn(
        decoder,
        optimisers(decoder, lr=rate, blocks="conv"),
        terms,
        {"far": 1.0, "error": 4.0},
        work / "polish",
        steps,
    )
    model.cpu().requires_grad_(True)


def _loss(
    model: AutoencoderKL, pictures: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The loss and the mean squared error on pictures in [-1, 1]."""
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    with halves(pictures.device):
        spread = model.encode(pictures).latent_dist
        jitter = torch.randn(spread.mean.shape, generator=generator).to(pictures.device)
        shown = model.decode(spread.mean + spread.std * jitter).sample
    error = F.mse_loss(shown.float(), pictures)
    return F.l1_loss(shown.float(), pictures) + 4 * error + KL * spread.kl().mean(), error


@torch.inference_mode()
def _scale(model: AutoencoderKL, album: Album) -> float:
    some = album.batch(torch.arange(0, len(album), max(1, len(album) // 256))).to(
        next(model.parameters()).device
    )
    return round(1 / model.encode(some).latent_dist.mean.std().item(), 5)
