"""ZeroGPU: work that borrows a GPU for a moment where the package `spaces` is, and nothing elsewhere.

A borrowed function runs in a process forked from this one: what goes in and out is pickled, and
what it changes is lost. So a host is opened here, on the CPU, and every call brings its edits along.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Unpack

import torch
from PIL.Image import Image

from slugdemo.edit import Edit
from slugdemo.models.base import Drawing, Progress, Question, Watch
from slugdemo.models.diffusion import STEPS, Diffusion
from slugdemo.models.llava import Llava

try:
    import spaces
except ImportError:  # everywhere but in such a Space
    spaces = None

Function = TypeVar("Function", bound=Callable[..., Any])
START = 8.0  # seconds until the first step: the weights go to the GPU
DRAWN, ANSWERED = 0.05, 0.5  # seconds of a denoising step of one picture, of one answer
MOST = 120  # seconds that are borrowed at once, at most
HOSTS: dict[str, Any] = {}  # opened before anything is borrowed


def borrowed(seconds: Callable[..., float]) -> Callable[[Function], Function]:
    """A decorator: the function on a borrowed GPU, for as long as `seconds` of its arguments says."""
    if spaces is None:
        return lambda function: function
    return spaces.GPU(duration=lambda *given: min(MOST, round(seconds(*given))))


def lent(name: str, host: Diffusion | Llava) -> Any:  # noqa: ANN401
    """The host itself; in a ZeroGPU Space one that does the same on a borrowed GPU."""
    if spaces is None:
        return host
    HOSTS[name] = host
    return Lent(name)


class Lent:
    """A host with its edits, by name; reports no progress, and is asked to stop before each call.

    Pictures and answers are made on a borrowed GPU; whatever else a method or an attack asks of
    the host (weights, states, latents) it is asked here, on the CPU.
    """

    def __init__(self, name: str, edits: tuple[Edit, ...] = ()) -> None:
        self.name, self.edits = name, edits

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__") or "name" not in self.__dict__:  # asked by copy or pickle
            raise AttributeError(name)
        return getattr(HOSTS[self.name].edited(self.edits), name)

    def edited(self, edits: Sequence[Edit]) -> "Lent":
        """The same with more edits."""
        return Lent(self.name, (*self.edits, *edits))

    def editable(self) -> list[str]:
        """As the host's."""
        return HOSTS[self.name].editable()

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int], **options: Unpack[Drawing]
    ) -> list[Image]:
        """As the host's."""
        return self.ladder(prompts, [[]], seeds=seeds, **options)[0]

    def ladder(
        self,
        prompts: Sequence[str],
        rungs: Sequence[Sequence[Edit]],
        *,
        seeds: Sequence[int],
        **options: Unpack[Drawing],
    ) -> list[list[Image]]:
        """As the host's."""
        watch = Watch(options.pop("progress", None), options.pop("cancelled", None))
        steps = options.get("steps", STEPS)
        watch.step(0, steps)
        rungs = [(*self.edits, *rung) for rung in rungs]
        rows = drawn(self.name, list(prompts), rungs, list(seeds), options)
        watch.step(steps, steps)
        return rows

    def answer(
        self,
        pictures: Sequence[Image],
        questions: Sequence[str],
        *,
        progress: Progress | None = None,
        cancelled: Question | None = None,
    ) -> list[str]:
        """As the host's."""
        Watch(progress, cancelled).step(0, len(pictures))
        found = answered(self.name, list(pictures), list(questions), list(self.edits))
        Watch(progress, cancelled).step(len(pictures), len(pictures))
        return found


def _drawing(name: str, prompts: list, rungs: list, seeds: list, options: Drawing) -> float:
    del name, seeds
    return START + DRAWN * len(prompts) * len(rungs) * options.get("steps", STEPS)


@borrowed(_drawing)
def drawn(
    name: str,
    prompts: list[str],
    rungs: list[Sequence[Edit]],
    seeds: list[int],
    options: Drawing,
) -> list[list[Image]]:
    """The ladder of a host by name, where the GPU is."""
    return HOSTS[name].to(_device()).ladder(prompts, rungs, seeds=seeds, **options)


def _answering(name: str, pictures: list, questions: list, edits: list) -> float:
    del name, questions, edits
    return START + ANSWERED * len(pictures)


@borrowed(_answering)
def answered(
    name: str, pictures: list[Image], questions: list[str], edits: list[Edit]
) -> list[str]:
    """The answers of a host by name, where the GPU is."""
    return HOSTS[name].to(_device()).edited(edits).answer(pictures, questions)


def _device() -> str:
    """Asked only where a GPU has been borrowed."""
    return "cuda" if torch.cuda.is_available() else "cpu"
