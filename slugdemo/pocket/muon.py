"""Muon for the matrices of transformers: momentum, then the nearest orthogonal matrix (Jordan et al., 2024).

`torch.optim.Muon` does its Newton-Schulz steps in bfloat16, thirty times slower on a CPU that cannot multiply
bfloat16; this one stays in the gradient's own type. Convolution kernels count as
matrices (out, in x kernel); everything else goes to AdamW.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic whose five steps send singular values near 1


def orthogonal(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """The matrix with its singular values pushed to about 1, same shape."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; update RMS matched to AdamW's, so both share one learning rate."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # noqa: ARG002  (torch's signature)
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in (p for p in group["params"] if p.grad is not None):
                speed = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                speed.lerp_(matrix.grad, 1 - group["momentum"])
                flat = torch.lerp(matrix.grad, speed, group["momentum"]).flatten(1)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                step = orthogonal(flat).view_as(matrix)
                matrix.add_(step, alpha=-group["lr"] * 0.2 * max(flat.shape) ** 0.5)


def optimisers(
    model: nn.Module, *, lr: float, blocks: str, boost: float = 1.0
) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices and kernels whose name contains `blocks`, at `boost` times the rate; AdamW for the rest."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if blocks in n and p.ndim >= 2]
    rest = [p for n, p in named if not (blocks in n and p.ndim >= 2)]
    return {
        "muon": Muon(matrices, lr=boost * lr),
        "adamw": torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    }
