"""Laws of named tensors: twins, norms, digests, files."""

import copy
import math
import threading
from pathlib import Path

import pytest
import torch
from conftest import noise
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from slugdemo import weights
from slugdemo.errors import SlugError
from slugdemo.models.clip import Clip

LAYER = "visual.transformer.resblocks.1.mlp.c_fc.weight"
NAMES = [LAYER, "transformer.resblocks.0.attn.in_proj_weight", "visual.proj", "text_projection"]


def changed(clip: Clip, names: list[str], *, seed: int = 3) -> dict[str, Tensor]:
    base = clip.named()
    return {name: base[name] + 0.1 * noise(*base[name].shape, seed=seed) for name in names}


def test_a_twin_answers_as_functional_call_does(clip: Clip, pixels: Tensor, tokens: Tensor) -> None:
    new = changed(clip, NAMES)
    oracle = functional_call(copy.deepcopy(clip.model), new, (pixels[:4], tokens[:4]))
    twin = weights.substitute(clip.model, new)(pixels[:4], tokens[:4])
    for ours, theirs in zip(twin, oracle, strict=True):
        assert torch.equal(ours, theirs)


def test_a_twin_shares_every_tensor_that_is_not_replaced(clip: Clip) -> None:
    twin = weights.substitute(clip.model, changed(clip, [LAYER]))
    mine = dict(twin.named_parameters(remove_duplicate=False))
    for name, tensor in clip.named().items():
        assert name == LAYER or mine[name] is tensor
    assert not torch.equal(
        twin.visual.transformer.resblocks[1].mlp.c_fc.weight, clip.named()[LAYER]
    )
    assert twin.transformer is clip.model.transformer


def test_making_a_twin_leaves_the_base_as_it_was(clip: Clip) -> None:
    before = weights.digest(clip.model)
    twin = weights.substitute(clip.model, changed(clip, NAMES))
    assert weights.digest(clip.model) == before != weights.digest(twin)


def test_a_twin_of_a_twin_has_both_changes(clip: Clip) -> None:
    one, two = changed(clip, NAMES[:1]), changed(clip, NAMES[1:])
    stacked = weights.substitute(weights.substitute(clip.model, one), two)
    assert weights.digest(stacked) == weights.digest(weights.substitute(clip.model, {**one, **two}))


def test_gradients_flow_into_a_twin(clip: Clip, pixels: Tensor) -> None:
    leaf = clip.named()[LAYER].clone().requires_grad_()
    twin = weights.substitute(clip.model, {LAYER: leaf})
    (grad,) = torch.autograd.grad(twin.encode_image(pixels[:2]).sum(), leaf)
    assert grad.count_nonzero() > 0


def test_eight_threads_with_eight_twins_get_their_own_answers(clip: Clip, pixels: Tensor) -> None:
    news = [changed(clip, NAMES, seed=seed) for seed in range(8)]
    alone = [clip.edited(new).encode_image(pixels[:8]) for new in news]
    together: dict[int, list[Tensor]] = {}

    def visit(index: int) -> None:
        answers = [clip.edited(news[index]).encode_image(pixels[:8]) for _ in range(5)]
        together[index] = answers

    threads = [threading.Thread(target=visit, args=(index,)) for index in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for index, expected in enumerate(alone):
        assert all(torch.equal(answer, expected) for answer in together[index])


def test_buffers_are_replaced_too() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3))
    twin = weights.substitute(module, {"0.running_mean": torch.ones(3)})
    assert twin[0].running_mean.sum() == 3
    assert module[0].running_mean.sum() == 0


@pytest.mark.parametrize(
    "name", ["nowhere", "visual.nowhere", "visual.nowhere.weight", "logit_bias"]
)
def test_a_name_that_the_module_lacks_is_refused(clip: Clip, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not in"):
        weights.substitute(clip.model, {name: torch.zeros(1)})


def test_another_shape_is_refused_with_both_shapes(clip: Clip) -> None:
    with pytest.raises(ValueError, match=r"\(128, 32\) in the module but \(2, 2\)"):
        weights.substitute(clip.model, {LAYER: torch.zeros(2, 2)})


def test_a_module_that_runs_its_own_forward_is_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].forward = module[0].forward  # what offloading does
    with pytest.raises(ValueError, match="its own forward"):
        weights.substitute(module, {"0.weight": torch.zeros(2, 2)})


def test_norm_and_cosine_see_all_tensors_as_one_vector() -> None:
    a, b = {"x": noise(3, 4), "y": noise(5)}, {"x": noise(3, 4, seed=1), "y": noise(5, seed=2)}
    flat_a, flat_b = (torch.cat([one["x"].flatten(), one["y"]]) for one in (a, b))
    assert math.isclose(weights.norm(a), flat_a.norm().item(), rel_tol=1e-6)
    expected = torch.cosine_similarity(flat_a, flat_b, dim=0).item()
    assert math.isclose(weights.cosine(a, b), expected, rel_tol=1e-5)
    assert weights.cosine(a, weights.scaled(a, -2)) == pytest.approx(-1)


def test_the_cosine_with_zero_is_zero() -> None:
    assert weights.cosine({"x": noise(3)}, {"x": torch.zeros(3)}) == 0


def test_a_digest_speaks_of_names_shapes_types_and_bytes() -> None:
    base = {"x": torch.arange(6.0), "y": torch.ones(1)}
    others = [
        {"z": base["x"], "y": base["y"]},
        {"x": base["x"].reshape(2, 3), "y": base["y"]},
        {"x": base["x"].double(), "y": base["y"]},
        {"x": base["x"] + 1e-6, "y": base["y"]},
    ]
    again = {"y": torch.ones(1), "x": torch.arange(12.0)[::2] / 2}
    assert weights.digest(again) == weights.digest(base)
    assert len({weights.digest(one) for one in (base, *others)}) == 5


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    tensors = {"x": noise(3, 4), "half": noise(2).half(), "turned": noise(4, 3).T}
    weights.save(tmp_path / "new" / "a.safetensors", tensors, {"who": "me"})
    back, metadata = weights.load(tmp_path / "new" / "a.safetensors")
    assert metadata == {"who": "me"}
    assert weights.digest(back) == weights.digest(tensors)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights.save(path, {"x": torch.ones(1)}, {})
    with pytest.raises(TypeError):
        weights.save(path, {"x": torch.zeros(1)}, {"bad": 3})
    assert weights.load(path)[0]["x"] == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "no tensors", "gone"])
def test_a_damaged_file_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.safetensors"
    weights.save(path, {"x": noise(100)}, {})
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-40])
    elif damage == "flipped":
        path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    elif damage == "no tensors":
        path.write_bytes(b"what is this")
    else:
        path.unlink()
    with pytest.raises(SlugError, match=r"a\.safetensors"):
        weights.load(path)


def test_a_foreign_file_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"x": noise(100)}, path, {"format": "pt"})
    with pytest.raises(SlugError, match=r"lora\.safetensors is .* of another program"):
        weights.load(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    with pytest.raises(SlugError, match=r"lora\.safetensors is a git-lfs pointer.*git lfs pull"):
        weights.load(path)
