"""What goes into and comes out of some weights while a model runs, without a hook on the model.

Knows tensors and PyTorch's operations; knows no model and no method.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slugdemo.weights import Weights

LINEAR = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
CONVOLUTION = torch.ops.aten.convolution.default


class Recording(TorchDispatchMode):
    """While it is entered, every product with one of `leaves` is shown to `see`.

    A product counts when it is with a leaf's own storage, so the model, which all visitors share,
    stays as it is. Enter it with gradients on: without them PyTorch may run a block as one
    operation.
    """

    def __init__(self, leaves: Weights) -> None:
        super().__init__()
        self._named = {w.untyped_storage().data_ptr(): (name, w) for name, w in leaves.items()}

    def see(self, name: str, rows: slice, given: Tensor, out: Tensor) -> None:
        """A product of leaf `name`: inputs (positions, in), outputs (positions, rows) without bias.

        `given` is empty for convolutions.
        """
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:  # noqa: ANN401
        """Runs the operation, and looks at what it gives when it multiplies by a leaf."""
        out = func(*args, **(kwargs or {}))
        if func in LINEAR:
            bias = args[0] if len(args) == 3 else 0  # addmm or mm
            self._check(args[-1], args[-2], out - bias)
        elif func is CONVOLUTION and args[2] is None:
            self._check(args[1], out.new_empty(0), out.movedim(1, -1).flatten(0, -2))
        return out

    def _check(self, weight: Tensor, given: Tensor, out: Tensor) -> None:
        name, leaf = self._named.get(weight.untyped_storage().data_ptr(), ("", weight))
        if name:  # a part of a leaf, such as q of q, k and v, starts further on in its storage
            first = (weight.storage_offset() - leaf.storage_offset()) // leaf[0].numel()
            self.see(name, slice(first, first + out.shape[-1]), given.detach(), out.detach())


class Activations(Recording):
    """How strongly each output row of some weights speaks: the root mean square over all positions
    of what it adds up, without its bias."""

    def __init__(self, leaves: Weights) -> None:
        super().__init__(leaves)
        self._squares = {name: torch.zeros(len(w)) for name, w in leaves.items()}
        self._counts = {name: torch.zeros(len(w)) for name, w in leaves.items()}

    def see(self, name: str, rows: slice, given: Tensor, out: Tensor) -> None:  # noqa: ARG002
        """Adds the outputs of one product."""
        self._squares[name][rows] += out.float().square().sum(0).cpu()
        self._counts[name][rows] += len(out)

    def of(self, name: str) -> Tensor:
        """The activation of each output row of one weight: (rows,)."""
        return (self._squares[name] / self._counts[name].clamp(min=1)).sqrt()


class InputNorms(Recording):
    """How much each of a batch of `items` sends into each input column of some matrices.

    `of` gives ||X||, column by column, over the positions of one item: (items, in).
    """

    def __init__(self, leaves: Weights, *, items: int) -> None:
        super().__init__(leaves)
        self._squares = {name: torch.zeros(items, w.shape[1]) for name, w in leaves.items()}

    def see(self, name: str, rows: slice, given: Tensor, out: Tensor) -> None:  # noqa: ARG002
        """Adds the inputs of one product."""
        squares = self._squares[name]
        squares += given.float().view(len(squares), -1, squares.shape[1]).square().sum(1).cpu()

    def of(self, name: str) -> Tensor:
        """The norms of the input columns of one matrix: (items, in)."""
        return self._squares[name].sqrt()
