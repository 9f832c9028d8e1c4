"""Training of pocket-sd's autoencoder: a diffusers AutoencoderKL, 128 x 128 pixels to 16 x 16 latents of 16 channels.

First all of it learns to reproduce pictures. Then the decoder alone is polished on what pocket-sd draws, from latents
with some noise left, as a U-Net leaves them. Knows pictures; nothing of captions.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.picture_set import PictureSet
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
from slugdemo.pocket.world import SIDE

CHANNELS = (16, 32, 64, 96)  # narrow where pictures are large, so that decoding stays quick
LATENTS = 16
KL = 1e-6  # weight of the KL term, per latent number
SEED = 11
LEFT = 0.25  # noise on polished latents, at most, in their standard deviations


def fresh() -> AutoencoderKL:
    """The untrained autoencoder, f = 8."""
    torch.manual_seed(SEED)
    model = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        latent_channels=LATENTS,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    nn.init.constant_(model.quant_conv.bias[LATENTS:], -7.0)  # begin with little latent noise
    return model


def train(
    pictures: PictureSet, work: Path, *, steps: int, batch: int = 16, rate: float = 6e-3
) -> AutoencoderKL:
    """The trained autoencoder (EMA weights), whose latents have zero mean and unit variance in every channel.

    Loss: L1 + 4 x squared error + KL.
    """
    where = device()
    model = fresh().train().to(where, memory_format=torch.channels_last)
    rates = optimisers(model, lr=rate, blocks="conv")
    mean = Average(model, 0.995)
    made_of = {"channels": CHANNELS, "latents": LATENTS, "batch": batch}
    run = Run(work / "vae", made_of, steps, {"model": model, **rates, "mean": mean})

    def update(step: int) -> Mapping[str, float]:
        shown = pictures.batch(picks(len(pictures), batch, seed=SEED, step=step)).to(where)
        loss, error = _loss(model, shown, noise_at(step, seed=SEED))
        for optimiser in rates.values():
            set_rate(optimiser, warm_cosine(step, steps, warmup=40))
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in rates.values():
            optimiser.step()
        mean.follow(model, step)
        return {"loss": loss.item(), "psnr": psnr(error.detach()).item()}

    run.loop(update)
    mean.put_into(model)
    model.eval()
    standardise(model, pictures)
    return model.cpu()


def polish(
    model: AutoencoderKL,
    pictures: PictureSet,
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
        shown = pictures.batch(picks(len(pictures), batch, seed=SEED + 1, step=step)).to(where)
        shown = shown.contiguous(memory_format=torch.channels_last)
        with halves(where):
            with torch.no_grad():
                latents = model.encode(shown).latent_dist.mean
            left = LEFT * torch.rand(len(latents), 1, 1, 1, generator=chance)
            jitter = (left * torch.randn(latents.shape, generator=chance)).to(where)
            made = model.decode(latents + jitter).sample
        error = F.mse_loss(made.float(), shown)
        return {"far": F.l1_loss(made.float(), shown), "error": error, "psnr": psnr(error.detach())}

    rates = optimisers(decoder, lr=rate, blocks="conv")
    shares = {"far": 1.0, "error": 4.0}
    learn(decoder, rates, terms, shares, work / "polish", steps, config={"batch": batch})
    model.cpu().requires_grad_(True)


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, in dB, of a mean squared error of pictures in [-1, 1]."""
    return -10 * torch.log10(error / 4)


@torch.no_grad()
def standardise(model: AutoencoderKL, pictures: PictureSet) -> None:
    """Shift and scale every latent channel, in place, to zero mean and unit variance; pictures decode as before.

    The 1 x 1 convolutions on both sides of the latents take it up exactly.
    """
    some = torch.arange(0, len(pictures), max(1, len(pictures) // 512))
    found = torch.cat([_means(model, pictures.batch(few)) for few in some.split(32)])
    shift, scale = found.mean((0, 2, 3)), found.std((0, 2, 3))  # (C,)
    before, after = model.quant_conv, model.post_quant_conv
    after.bias.add_(after.weight[:, :, 0, 0] @ shift)
    after.weight.mul_(scale[None, :, None, None])
    count = len(scale)
    before.weight[:count].div_(scale[:, None, None, None])
    before.bias[:count].sub_(shift).div_(scale)
    before.bias[count:].sub_(2 * scale.log())  # log variances


def _means(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    where = next(model.parameters()).device
    return model.encode(pictures.to(where)).latent_dist.mean


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
