"""Lets torchvision import where its compiled operators do not fit the installed torch.

PyPI's torchvision is built for CUDA; beside a CPU build of torch its library does not load, and
then `import torchvision`, which open_clip and transformers do, dies on two operators of which it
only wants to describe the shapes. Declaring their schemas is enough, since nothing here runs them.
"""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def operators_load() -> bool:
    """Whether torchvision's own operators are there (this loads them, as torchvision would)."""
    spec = find_spec("torchvision")
    for library in Path(spec.origin).parent.glob("_C*") if spec and spec.origin else ():
        with suppress(OSError):
            torch.ops.load_library(library)
    return hasattr(torch.ops.torchvision, "nms")


def declare() -> torch.library.Library:
    """The fragment that declares `nms` and `qnms`; it must live as long as the process."""
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    fragment.define("nms" + SIGNATURE)
    fragment.define("qnms" + SIGNATURE)
    return fragment


FRAGMENT = None if operators_load() else declare()
