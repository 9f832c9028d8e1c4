"""The noise schedule of a diffusion model: how a picture becomes noise, and what a U-Net says of it.

Knows a table and formulas (Ho et al. 2020, arXiv 2006.11239; v-prediction: Salimans and Ho 2022,
arXiv 2202.00512); knows no network and no pipeline.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_ALPHA = 2.0**-24  # where the noise schedule ends in nothing but noise


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_bar (T,) by timestep, and what the U-Net predicts: "epsilon", "sample" or another
    name for the velocity."""

    alphas: Tensor
    predicts: str

    def __len__(self) -> int:
        """How many timesteps the U-Net was trained on."""
        return len(self.alphas)

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t from x_0 at timesteps `t` (N,): the forward process q(x_t | x_0)."""
        signal, spread = self._scales(t, latents)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the U-Net is trained to give at x_t of x_0 = `latents`: noise, velocity or x_0."""
        if self.predicts == "epsilon":
            return noise
        if self.predicts == "sample":
            return latents
        signal, spread = self._scales(t, latents)
        return signal * noise - spread * latents

    def epsilon(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        """The noise that an output of the U-Net at `latents` = x_t stands for."""
        if self.predicts == "epsilon":
            return output
        signal, spread = self._scales(t, latents)
        if self.predicts == "sample":
            return (latents - signal * output) / spread
        return signal * output + spread * latents

    def output(self, epsilon: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        """The output of the U-Net that stands for this noise: undoes `epsilon`."""
        if self.predicts == "epsilon":
            return epsilon
        signal, spread = self._scales(t, latents)
        if self.predicts == "sample":
            return (latents - spread * epsilon) / signal
        return (epsilon - spread * latents) / signal

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at `t` (N,) or (): (N, 1, 1, 1) each.

        Between timesteps sigma = sqrt((1 - alpha_bar) / alpha_bar) goes straight, as in Euler.
        """
        table = self.alphas.double().clamp(min=SMALLEST_ALPHA)
        sigmas, t = ((1 - table) / table).sqrt(), t.double().cpu().view(-1)
        low, high = t.floor().long(), t.ceil().long()
        sigma = torch.lerp(sigmas[low], sigmas[high], t - low).view(-1, 1, 1, 1)
        signal = (1 + sigma**2).rsqrt()
        return signal.to(like), (sigma * signal).to(like)
