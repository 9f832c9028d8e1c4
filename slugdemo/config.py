"""Every number that a result depends on, and the ones to begin with for each kind of model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import EvalSize
from slugdemo.search import RULES, Tuning

Value = str | float | int | None


@dataclass(frozen=True)
class Config:
    """How an experiment is done.

    `method` is a name in METHODS. `batch` and `seed` shape the gradients and whatever a method
    draws at random. A layer is a "tensor" or a "group" (`granularity`, see layers.grouped); the
    front minimises the "absolute" or the "signed" `alignment` (see layers.harm). `tuning` says
    how the step is searched and `size` on how much. Under the paper's rule the concept counts as
    forgotten when it is not among the five best answers (or among all but one, where there are
    fewer than six classes).
    """

    method: str = "slug"
    batch: int = 32
    seed: int = 0
    granularity: str = "tensor"
    alignment: str = "absolute"
    tuning: Tuning = field(default_factory=Tuning)
    size: EvalSize = field(default_factory=EvalSize)

    def __post_init__(self) -> None:
        if self.tuning.rule not in RULES:
            raise SlugError(f"The rule is one of {', '.join(RULES)}, not {self.tuning.rule!r}.")

    @property
    def evaluation_size(self) -> EvalSize:
        """How much is asked, with the paper's top-5 under the paper's rule."""
        return (
            replace(self.size, top=5, strict_top=True) if self.tuning.rule == "paper" else self.size
        )

    def changed(self, given: Mapping[str, Value]) -> "Config":
        """The config with the entries of `given` that are not None, whichever part they belong to.

        Raises ValueError for a name that no part has.
        """
        some: dict[str, Value] = {key: v for key, v in given.items() if v is not None}
        tuning = replace(self.tuning, **_own(Tuning, some))  # type: ignore[arg-type]
        size = replace(self.size, **_own(EvalSize, some))  # type: ignore[arg-type]
        own = _own(Config, some)
        if some:
            raise ValueError(f"{next(iter(some))!r} is no number of an experiment")
        return replace(self, tuning=tuning, size=size, **own)  # type: ignore[arg-type]


def _own(
    kind: type[Config] | type[Tuning] | type[EvalSize], given: dict[str, Value]
) -> dict[str, Value]:
    """The entries that are fields of `kind`, taken out of `given`."""
    return {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}


# A search sees few pictures; the margins keep it from ending on the very edge of forgetting.
CONFIGS = {
    "zero-shot": Config(size=EvalSize(top=3)),
    "diffusion": Config(
        tuning=Tuning(max_retain_drop=0.05, margin=0.15, shortlist=3, evaluations=8, tolerance=0.2)
    ),
    "vlm": Config(
        tuning=Tuning(max_retain_drop=0.03, margin=0.1, shortlist=3, tolerance=0.2),
        size=EvalSize(own=16, others=80, quick=96),
    ),
}
