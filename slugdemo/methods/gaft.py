"""GAFT: gradient ascent on the pairs to forget, then fine-tuning on the pairs to retain.

The baseline of SLUG's table 1. Knows a task; knows no kind of model.
"""

from slugdemo.edit import Edit, qualified
from slugdemo.task import Task
from slugdemo.training import adamw, forget_then_retain, tower_weights, trained

RATE, DECAY = 1e-4, 0.1
FORGET_STEPS = {"zero-shot": 6, "diffusion": 30, "vlm": 12}  # by kind of model
RETAIN_STEPS = 20


def gaft(task: Task) -> Edit:
    """Ascends L_f for some iterations, then descends L_r, with one AdamW, all matrices at once.

    SLUG's repository: a forget pass and a retain pass in each of 10 epochs, learning rate 1e-7 or
    1e-6, batch 32, weight decay .1, all parameters. Deviations: rate 1e-4, one pass of a few
    iterations each; biases, embeddings and (inside other models) layer norms stay.
    """
    weights = tower_weights(task)
    loss = forget_then_retain(
        task, weights, forget_steps=FORGET_STEPS[task.kind], retain_steps=RETAIN_STEPS
    )
    delta = trained(
        task,
        weights,
        loss,
        steps=FORGET_STEPS[task.kind] + RETAIN_STEPS,
        optimiser=adamw(RATE, DECAY),
    )
    return task.edit({qualified(name): tensor for name, tensor in delta.items()})
