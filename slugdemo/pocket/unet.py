"""Training of pocket-sd's U-Net on latents of calm scenes, under pocket-clip's own text tower; and its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.picture_set import PictureSet
from slugdemo.pocket.styles import KEEPS_BACKGROUND
from slugdemo.pocket.training import (
    Average,
    Run,
    device,
    halves,
    noise_at,
    picks,
    set_rate,
    warm_cosine,
)
from slugdemo.pocket.words import caption
from slugdemo.pocket.world import Scene

SEED = 41
CHANNELS = (64, 64, 128)
EMPTY = 0.1  # share of empty captions, for classifier-free guidance
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "num_train_timesteps": 1000,
}


@dataclass(frozen=True)
class Encoded:
    """What the U-Net learns from: latents (N, C, 16, 16), text states (N, T, D), the empty text's states (T, D)."""

    latents: Tensor
    texts: Tensor
    empty: Tensor


def fresh(width: int, channels: int) -> UNet2DConditionModel:
    """The untrained U-Net for text states of that width and latents of that many channels.

    It reads them twice: by cross-attention, and pooled into the time embedding that scales and shifts every block
    (`addition_embed_type="text"`), which learns what a picture is of many times sooner.
    """
    torch.manual_seed(SEED)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=6,
    )


def said(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that always names the style unless the picture is plain, and the ground now and then."""
    style = None if scene.style == "plain" else scene.style
    ground = scene.ground if scene.style in KEEPS_BACKGROUND and rng.random() < 0.4 else None
    return caption([t.concept for t in scene.things], rng, style=style, ground=ground)


@torch.inference_mode()
def encoded(
    pictures: PictureSet, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> Encoded:
    """The pictures as latents and one caption of each as text states, made once."""
    where = device()
    vae, text = vae.to(where), text.to(where)
    latents, states = [], []
    for chunk in torch.arange(len(pictures)).split(250):
        latents.append(
            vae.encode(pictures.batch(chunk).to(where)).latent_dist.mean.cpu()
            * vae.config.scaling_factor
        )
        words = [said(pictures.scenes[i], np.random.default_rng((SEED, i))) for i in chunk.tolist()]
        states.append(_states(text, tokenizer, words).half().cpu())
    return Encoded(
        torch.cat(latents), torch.cat(states), _states(text, tokenizer, [""])[0].half().cpu()
    )


def _states(text: CLIPTextModel, tokenizer: CLIPTokenizer, words: list[str]) -> Tensor:
    tokens = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return text(tokens.to(text.device)).last_hidden_state  # (N, T, D)


def train(
    data: Encoded,
    work: Path,
    *,
    steps: int,
    batch: int = 64,
    rate: float = 2e-3,
    start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """The trained U-Net (EMA weights), from `start` where given: v-prediction, 10 % empty captions.

    At first noisy timesteps come more often (`times`): there a small picture decides what it shows.
    """
    where, channels = device(), data.latents.shape[1]
    net = (start or fresh(data.empty.shape[-1], channels)).train()
    net = net.to(where, memory_format=torch.channels_last)
    net.set_attn_processor(AttnProcessor())  # backward is faster than through the fused one
    rates = optimisers(net, lr=rate, blocks="block")
    mean = Average(net, 0.999)
    made_of = {"channels": CHANNELS, "batch": batch, "pictures": list(data.latents.shape)}
    run = Run(work / "unet", made_of, steps, {"net": net, **rates, "mean": mean})
    noise = DDPMScheduler(**NOISE)

    def update(step: int) -> Mapping[str, float]:
        which = picks(len(data.latents), batch, seed=SEED, step=step)
        generator = noise_at(step, seed=SEED)
        clean, texts = data.latents[which], data.texts[which].float()
        texts[torch.rand(batch, generator=generator) < EMPTY] = data.empty.float()
        time = times(batch, generator, noisier=0.5 * (1 - step / steps))
        jitter = torch.randn(clean.shape, generator=generator)
        noisy, goal = noise.add_noise(clean, jitter, time), noise.get_velocity(clean, jitter, time)
        with halves(where):
            guess = net(
                noisy.to(where).contiguous(memory_format=torch.channels_last),
                time.to(where),
                texts.to(where),
            ).sample
        loss = F.mse_loss(guess.float(), goal.to(where))
        for optimiser in rates.values():
            set_rate(optimiser, warm_cosine(step, steps))
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimiser in rates.values():
            optimiser.step()
        mean.follow(net, step)
        return {"loss": loss.item()}

    run.loop(update)
    mean.put_into(net)
    return net.cpu().eval()


def times(count: int, generator: torch.Generator, *, noisier: float) -> Tensor:
    """Timesteps (count,) in [0, 1000): a share of them from the noisier half, the others uniform."""
    uniform = torch.rand(count, generator=generator)
    return (
        1000 * torch.where(torch.arange(count) < noisier * count, 0.5 + uniform / 2, uniform)
    ).long()


def pipeline(
    net: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The four parts as a Stable Diffusion pipeline with a DPM-Solver++ scheduler."""
    scheduler = DPMSolverMultistepScheduler(
        **NOISE, algorithm_type="dpmsolver++", timestep_spacing="trailing", steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=net,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write the diffusers folder, weights in fp16."""
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    pipe.to(torch.float32)
    load_as_float32(folder / "text_encoder" / "config.json")
    for part in ("unet", "vae"):
        nameless(folder / part / "config.json")


def load_as_float32(config: Path) -> None:
    """Let transformers, which otherwise keeps the type on disk, load these weights in float32."""
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "dtype": "float32"}, indent=2) + "\n")


def nameless(config: Path) -> None:
    """Take from a diffusers config the folder that its model came from."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
