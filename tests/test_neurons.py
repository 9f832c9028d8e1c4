"""RAZOR and NEST: their scores by hand, when growth ends, what of a layer moves."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slugdemo import catalog, weights
from slugdemo.config import Config
from slugdemo.edit import Edit, clip_name
from slugdemo.errors import SlugError
from slugdemo.models.loading import opened
from slugdemo.recording import Activations
from slugdemo.search import Evaluate, Evaluators, Score
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]

razor = import_module("slugdemo.methods.razor")  # the package's `razor` is the function
nest = import_module("slugdemo.methods.nest")


@pytest.fixture(scope="module")
def robot(assets: Path) -> Iterator[Task]:  # noqa: ARG001
    """Forgetting the robot in the tiny CLIP, which must be what it was in the end."""
    task = Task(opened("pocket-clip"), catalog.concept("robot"), Config(batch=8))
    before = weights.digest(task.clip.model)
    yield task
    assert weights.digest(task.clip.model) == before


def scripted(task: Task, forget_acc: list[float]) -> tuple[Task, list[Edit]]:
    """The task before an evaluator that gives these rates, the last one again and again."""
    asked: list[Edit] = []

    def evaluator(edit: Edit) -> Evaluate:
        def evaluate(strength: float) -> Score:
            asked.append(edit)
            rate = 1.0 if not edit.delta else forget_acc[min(len(asked) - 2, len(forget_acc) - 1)]
            return Score(strength, rate, 1.0, 10, 10)

        return evaluate

    twin = replace(task)
    twin.editable = task.editable  # type: ignore[misc]
    twin.evaluators = Evaluators(evaluator)  # type: ignore[misc]
    return twin, asked


def test_phi_by_hand_on_two_layers() -> None:
    now = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[2.0, 0.0]])}
    forget = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 3.0]])}
    retain = {"a": torch.tensor([[1.0, 1.0]]), "b": torch.tensor([[0.0, -2.0]])}
    slopes = razor.Slopes(forget, retain, {})
    whole = [razor.Unit(name, {name: torch.ones(())}) for name in now]
    found = [razor.phi(unit, now, slopes) for unit in whole]
    assert found[0] == pytest.approx(1 / 5 * (1 - 1 / math.sqrt(2)) ** 0.5)
    assert found[1] == pytest.approx(3 / 2 * (1 + 1) ** 0.5)
    assert [unit.name for unit in razor.chosen(list(zip(whole, found, strict=True)))] == ["b"]
    with pytest.raises(SlugError, match="No layer"):
        razor.chosen([(whole[0], 0.0)])


def test_the_update_ascends_forgetting_and_descends_the_rest_as_long_as_the_layer() -> None:
    now = {"a": torch.tensor([[3.0, 4.0]])}
    forget, retain = {"a": torch.tensor([[2.0, 0.0]])}, {"a": torch.tensor([[0.0, 1.0]])}
    slopes = razor.Slopes(forget, retain, {"a": torch.tensor([[1.0, 0.0]])})
    unit = razor.Unit("a", {"a": torch.ones(())})
    along = razor.direction([unit], now, slopes)["a"]
    torch.testing.assert_close(along, torch.tensor([[1.0, -1.0]]) * 5 / math.sqrt(2))


def test_heads_part_an_attention_layer_without_overlap(robot: Task) -> None:
    names = [n for n in robot.clip.named() if ".attn." in n and n.endswith("weight")]
    units = razor.parts(robot.clip, names)
    assert len(units) == 2 * len(names) / 2  # two heads a block, two tensors a block
    total = {name: torch.zeros(robot.clip.named()[name].shape) for name in names}
    for unit in units:
        for name, mask in unit.masks.items():
            total[name] += mask
    assert all(bool((tensor == 1).all()) for tensor in total.values())


def test_a_heads_mask_silences_that_head(robot: Task) -> None:
    block = "transformer.resblocks.1"
    names = [f"{block}.attn.in_proj_weight", f"{block}.attn.out_proj.weight"]
    unit = razor.parts(robot.clip, names)[0]
    attention = copy.deepcopy(robot.clip.model.get_submodule(f"{block}.attn"))
    x = torch.randn((1, 5, 24), generator=torch.Generator().manual_seed(0))
    _, before = attention(x, x, x, average_attn_weights=False)
    mask = unit.masks[names[0]]
    attention.in_proj_weight = nn.Parameter(attention.in_proj_weight * (1 - mask))
    _, after = attention(x, x, x, average_attn_weights=False)
    assert not torch.allclose(before[0, 0], after[0, 0])
    torch.testing.assert_close(before[0, 1], after[0, 1])


def test_razor_ends_with_the_round_that_meets_the_goal(robot: Task) -> None:
    task, asked = scripted(robot.by("razor"), [0.0])
    edit = razor.razor(task)
    assert len(asked) <= 1 + razor.EVALUATIONS
    units = edit.about["units"].split(", ")
    stubborn, more = scripted(robot.by("razor"), [0.5])
    grown = razor.razor(stubborn).about["units"].split(", ")
    assert grown[: len(units)] == units
    assert len(grown) == len(units) + razor.ROUNDS - 1
    assert len(more) > 5 * razor.ROUNDS


def test_razor_grows_once_when_the_second_round_does_it(robot: Task) -> None:
    rates = [0.5] * razor.EVALUATIONS + [0.0]
    task, _ = scripted(robot.by("razor"), rates)
    first, _ = scripted(robot.by("razor"), [0.0])
    units = razor.razor(task).about["units"].split(", ")
    assert len(units) == len(razor.razor(first).about["units"].split(", ")) + 1


def test_activations_are_what_hooks_would_see(robot: Task) -> None:
    pixels = torch.randn((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    plain = ("visual.conv1", "visual.transformer.resblocks.0.mlp.c_fc")
    attention = "visual.transformer.resblocks.0.attn.in_proj_weight"
    names = [*(f"{name}.weight" for name in plain), attention]
    leaves = {n: robot.clip.named()[n].clone().requires_grad_() for n in names}
    with Activations(leaves) as seen:
        robot.clip.encode_image(pixels, weights=leaves)
    model, outputs = copy.deepcopy(robot.clip.model), {}
    for name in plain:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: outputs.update({name: out})
        )
    block = model.visual.transformer.resblocks[0]
    block.ln_1.register_forward_hook(lambda _, __, out: outputs.update({attention: out}))
    model.encode_image(pixels)
    attn = block.attn
    outputs[attention] = outputs[attention] @ attn.in_proj_weight.T
    for name in (*plain, attention):
        out = outputs[name].movedim(1, -1) if name == plain[0] else outputs[name]
        if name == plain[1]:
            out = out - model.get_submodule(name).bias
        literal = out.flatten(0, -2).square().mean(0).sqrt()
        key = name if name == attention else f"{name}.weight"
        torch.testing.assert_close(seen.of(key), literal, rtol=1e-4, atol=1e-5)


def observed(gradient: Tensor, sizes: list[float], activations: list[list[float]]) -> object:
    return nest.Observed(
        {"a": gradient}, {"a": torch.tensor(sizes)}, {"a": torch.tensor(activations)}
    )


def test_a_neurons_score_by_hand() -> None:
    forget = observed(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [3.0, 1.0], [[4.0, 1.0], [2.0, 1.0]])
    retain = observed(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), [5.0, 3.0], [[1.0, 3.0], [1.0, 3.0]])
    # layer means: R_f 2, R_r 4, A_f (3 + 1) / 2 = 2, A_r (1 + 3) / 2 = 2
    first = (1.5 - 1.25) * (1.5 - 0.5) * (1 - 1 / math.sqrt(2)) * (1e-8 + 1.25**2) ** -0.5
    found = nest.neuron_scores(forget, retain)["a"]
    torch.testing.assert_close(found, torch.tensor([first, 0.0]))


def test_rows_must_lead_in_every_round_and_differ() -> None:
    rows = 40
    generator = torch.Generator().manual_seed(0)
    gradient, calm = torch.ones(rows, 3), torch.ones(8, rows)
    calm = calm + 0.01 * torch.randn((8, rows), generator=generator)
    loud = calm.clone()
    loud[:, :2] += 3.0
    loud[0, 1] = 200.0  # row 1 is loud by one batch only: its mean is high, nothing is certain
    sizes = torch.ones(rows)
    sizes[:2] = 9.0
    retain = nest.Observed({"a": -gradient}, {"a": torch.ones(rows)}, {"a": calm})
    forget = nest.Observed({"a": gradient}, {"a": sizes}, {"a": loud})
    once = nest.Observed({"a": gradient}, {"a": torch.ones(rows)}, {"a": calm})
    assert nest.selected([(forget, retain)] * 2)["a"].nonzero().flatten().tolist() == [0]
    assert not nest.selected([(forget, retain), (once, retain)])["a"].any()


def test_benjamini_hochberg_by_hand() -> None:
    chances = torch.tensor([0.001, 0.012, 0.04, 0.2, 0.9])
    assert nest.discovery_limit(chances, 0.1) == pytest.approx(0.04)
    assert nest.discovery_limit(torch.tensor([0.5, 0.6]), 0.1) == -1.0
    assert nest.discovery_limit(torch.tensor([]), 0.1) == -1.0


def test_welch_by_hand() -> None:
    a, b = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[5.0], [9.0]])
    t = (2.0 - 7.0) / math.sqrt(1.0 / 3 + 8.0 / 2)
    assert nest.different(a, b).item() == pytest.approx(math.erfc(abs(t) / math.sqrt(2)), rel=1e-4)


def test_nest_moves_few_rows_and_they_as_far_as_its_search_says(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nest, "ROUNDS", 2)
    monkeypatch.setattr(nest, "BATCHES", 4)
    task, asked = scripted(robot.by("nest"), [1.0, 1.0, 0.0])
    edit = nest.nest(task)
    assert len(asked) == 1 + nest.EVALUATIONS
    rows = {name: tensor.flatten(1).norm(dim=1) > 0 for name, tensor in edit.delta.items()}
    count = sum(int(some.sum()) for some in rows.values())
    assert count == int(edit.about["neurons"]) > 0
    every = sum(len(w) for n, w in robot.clip.named().items() if w.dim() > 1)
    assert count <= nest.SHARE * every
    named = robot.clip.named()
    kept = {n: named[clip_name(n)][some] for n, some in rows.items()}
    # 0.1 and 0.2 left it there, 0.4 did not, and the smallest of those below it is the best
    strength = weights.norm(edit.delta) / weights.norm(kept)
    assert 0.2 < strength <= 0.4
