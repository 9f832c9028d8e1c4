"""Every number that a result depends on, and the ones to begin with for each kind of host."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slugdemo.evaluation import Size
from slugdemo.search import EVALUATIONS


@dataclass(frozen=True)
class Setting:
    """How a study is done; every number that a result depends on.

    `batch` and `seed` shape the gradients; `beyond` is how much farther than the searched step
    an edit goes, as a fraction of it. With a `shortlist` of n, a host that takes long is first
    asked about the n front layers that do best in zero-shot classification, and about the others
    only when none of these passes; 0 asks about all. When no front layer passes, those of the next
    fronts are asked, without the layers of the first; under the paper's rule they are not.
    The rest is passed to the method (see methods.slug).
    """

    method: str = "slug"
    batch: int = 32
    seed: int = 0
    unit: str = "tensor"
    by: str = "absolute"
    rule: str = "floor"
    loss: float = 0.02
    forget: float = 0.0
    evaluations: int = EVALUATIONS
    beyond: float = 0.0
    shortlist: int = 0
    size: Size = field(default_factory=Size)

    def changed(self, given: Mapping[str, Any]) -> "Setting":
        """The setting with the entries of `given` that are not None; "top" is that of its size."""
        some = {key: one for key, one in given.items() if one is not None}
        size = replace(self.size, top=some.pop("top", self.size.top))
        return replace(self, size=size, **some)


# A search has few pictures; the margins keep it from ending on the very edge of forgetting.
SETTINGS = {
    "zero-shot": Setting(size=Size(top=3)),
    "diffusion": Setting(loss=0.05, beyond=0.1, shortlist=3, evaluations=8),
    "vlm": Setting(loss=0.03, beyond=0.1, size=Size(own=16, others=80)),
}
