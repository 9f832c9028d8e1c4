"""What test_crash.py lets die: writers that are killed in the middle of a file, again and again.

Run in a process of its own, single-threaded, so that it may fork: `python tests/crash.py FOLDER`.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from slugdemo import edit, export, weights

ROUNDS, LONGEST = 16, 0.03  # kills of each kind, and seconds until then, at most


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Enough of them that writing takes a while: 3 MB."""
    noise = torch.Generator().manual_seed(seed)
    return {name: torch.randn(512, 512, generator=noise) for name in "abc"}


def killed(work: object, dice: random.Random) -> None:
    """Runs `work` in a child and kills it somewhere in between."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    time.sleep(dice.random() * LONGEST)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dice = random.Random(0)
    kinds = [tensors(seed) for seed in range(3)]
    for number in range(ROUNDS):
        some = kinds[number % 3]
        killed(lambda some=some: weights.save(folder / "cache.safetensors", some, {}), dice)
    source = folder / "model"
    one = edit.Edit("cat", "visual.proj", {"visual.proj": torch.ones(16, 32)}, 0.1)
    for number in range(ROUNDS):
        out = folder / "out" / str(number)
        killed(lambda out=out: export.export(source, [one], out), dice)
    for _ in range(2):  # two processes and one place
        if os.fork() == 0:
            for number in range(8):
                weights.save(folder / "both.safetensors", kinds[number % 3], {})
            os._exit(0)
    time.sleep(0.2)
    done = 0
    while done < 2:
        if os.waitpid(-1, os.WNOHANG)[0]:
            done += 1
        if (folder / "both.safetensors").exists():
            weights.load(folder / "both.safetensors")  # raises when it is not whole


if __name__ == "__main__":
    main(Path(sys.argv[1]))
