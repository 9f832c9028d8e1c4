"""Laws of the two gradients: what they are, what they cost, how they are remembered."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import noise
from PIL import Image
from torch import Tensor
from torch.func import functional_call

from slugdemo import images, weights
from slugdemo.concept import Example
from slugdemo.data import Pairs
from slugdemo.errors import SlugError
from slugdemo.gradients import (
    Batch,
    batches,
    forget_loss,
    gradient,
    gradients,
    retain_loss,
)
from slugdemo.layers import candidates
from slugdemo.models.clip import Clip


def oracle(clip: Clip, pairs: list[Batch], kind: str) -> dict[str, Tensor]:
    """The mean of the batches' gradients by functional_call, whole prompts and open_clip alone."""
    names = candidates(clip)
    total = {name: torch.zeros_like(clip.named()[name]) for name in names}
    for pixels, tokens in pairs:
        leaves = {name: clip.named()[name].clone().requires_grad_() for name in names}
        image, text, scale = functional_call(clip.model, leaves, (pixels, tokens))
        if kind == "forget":
            loss = torch.nn.functional.cosine_embedding_loss(image, text, torch.ones(len(image)))
        else:
            logits, own = scale * image @ text.T, torch.arange(len(image))
            loss = -logits.log_softmax(1)[own, own].mean() / 2
            loss = loss - logits.log_softmax(0)[own, own].mean() / 2
        for name, grad in zip(names, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            total[name] += grad / len(pairs)
    return total


@pytest.mark.parametrize("kind", ["forget", "retain"])
def test_the_gradient_is_the_mean_over_batches_of_the_batch_means(
    clip: Clip, pixels: Tensor, tokens: Tensor, kind: str
) -> None:
    pairs = batches(pixels[:12], tokens[:12], size=4)
    both = gradients(clip, pairs, retain=pairs, names=candidates(clip))
    expected = oracle(clip, pairs, kind)
    for name, grad in getattr(both, kind).items():
        assert grad.dtype == torch.float32
        assert torch.allclose(grad, expected[name], rtol=1e-3, atol=1e-6), name


def test_one_batch_is_not_remembered_into_the_next(
    clip: Clip, pixels: Tensor, tokens: Tensor
) -> None:
    pairs = batches(pixels[:8], tokens[:8], size=4)
    run = partial(gradient, clip, loss=forget_loss, names=["visual.proj"])
    once, twice = run(pairs), run(pairs + pairs)
    assert torch.allclose(once["visual.proj"], twice["visual.proj"], atol=1e-7)


def test_the_contrastive_gradient_depends_on_the_batch_size(
    clip: Clip, pixels: Tensor, tokens: Tensor
) -> None:
    run = partial(gradient, clip, names=["visual.proj"])
    for loss, differs in [(forget_loss, False), (partial(retain_loss, scale=10.0), True)]:
        grads = [run(batches(pixels[:8], tokens[:8], size=size), loss=loss) for size in (4, 8)]
        assert torch.allclose(*(one["visual.proj"] for one in grads), atol=1e-6) != differs


def test_a_ragged_last_batch_counts_for_forget_and_not_for_retain(
    clip: Clip, pixels: Tensor, tokens: Tensor
) -> None:
    pairs = batches(pixels[:10], tokens[:10], size=4)
    assert [len(one) for one, _ in pairs] == [4, 4, 2]
    ragged = gradients(clip, pairs, retain=pairs, names=["visual.proj"])
    even = gradients(clip, pairs[:2], retain=pairs[:2], names=["visual.proj"])
    assert torch.equal(ragged.retain["visual.proj"], even.retain["visual.proj"])
    assert not torch.allclose(ragged.forget["visual.proj"], even.forget["visual.proj"])


def test_nothing_is_left_on_the_shared_model(clip: Clip, pixels: Tensor, tokens: Tensor) -> None:
    gradient(clip, [(pixels[:4], tokens[:4])], loss=forget_loss, names=candidates(clip))
    assert all(tensor.grad is None for tensor in clip.model.parameters())
    assert not any(tensor.requires_grad for tensor in clip.model.parameters())


def test_batches_stream(clip: Clip, pixels: Tensor, tokens: Tensor) -> None:
    asked = []

    def stream() -> Iterator[Batch]:
        for index in range(3):
            asked.append(index)
            yield pixels[index : index + 2], tokens[index : index + 2]

    seen = []
    gradient(
        clip,
        stream(),
        loss=forget_loss,
        names=["visual.proj"],
        tick=lambda: seen.append(len(asked)),
    )
    assert seen == [1, 2, 3]


def test_a_tick_that_raises_ends_the_pass(clip: Clip, pixels: Tensor, tokens: Tensor) -> None:
    def stop() -> None:
        raise SlugError("Cancelled.")

    with pytest.raises(SlugError, match="Cancelled"):
        gradients(
            clip,
            [(pixels[:2], tokens[:2])],
            retain=[(pixels[:2], tokens[:2])],
            names=["visual.proj"],
            tick=stop,
        )


def test_a_second_full_gradient_never_exists(
    clip: Clip, pixels: Tensor, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = candidates(clip)
    results, original = [], torch.autograd.grad

    def recorded(*args: object, **options: object) -> tuple[Tensor | None, ...]:
        results.append(original(*args, **options))
        return results[-1]

    monkeypatch.setattr(torch.autograd, "grad", recorded)
    gradient(clip, [(pixels[:4], tokens[:4])], loss=forget_loss, names=names)
    held = sum(grad.untyped_storage().nbytes() for grad in results[0] if grad is not None)
    assert held <= 4 * len(names)


def test_no_pictures_is_a_sentence(clip: Clip, pixels: Tensor, tokens: Tensor) -> None:
    some = [(pixels[:2], tokens[:2])]
    for empty in ([], iter(())):
        with pytest.raises(SlugError, match="no example pictures"):
            gradients(clip, empty, retain=some, names=["visual.proj"])
    with pytest.raises(SlugError, match="no example pictures"):
        batches(pixels[:0], tokens[:0], size=4)
    with pytest.raises(SlugError, match="at least two"):
        gradients(clip, some, retain=[(pixels[:1], tokens[:1])], names=["visual.proj"])


def test_pictures_and_texts_must_pair_up(pixels: Tensor, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="48 pictures but 3 texts"):
        batches(pixels, tokens[:3], size=4)


def test_a_broken_picture_is_a_sentence(clip: Clip, pixels: Tensor, tokens: Tensor) -> None:
    broken = pixels[:2].clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(SlugError, match="values that are not numbers"):
        gradient(clip, [(broken, tokens[:2])], loss=forget_loss, names=["visual.proj"])


def test_shuffling_is_seeded_and_keeps_pairs_together(pixels: Tensor) -> None:
    marks = torch.arange(48)[:, None]
    one, two, other = (batches(pixels, marks, size=10, seed=seed) for seed in (1, 1, 2))
    orders = [torch.cat([mark for _, mark in run]).flatten().tolist() for run in (one, two, other)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(48))
    assert all(torch.equal(pixels[mark.flatten()], images) for images, mark in other)


def test_the_cache_answers_without_a_pass(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    pairs, ticks = batches(pixels[:8], tokens[:8], size=4), []
    run = partial(
        gradients,
        clip,
        pairs,
        retain=pairs,
        names=["visual.proj", "text_projection"],
        cache=tmp_path,
        tick=lambda: ticks.append(1),
    )
    first = run()
    assert len(ticks) == 4
    again = run()
    assert len(ticks) == 4
    for kind in ("forget", "retain"):
        assert weights.digest(getattr(again, kind)) == weights.digest(getattr(first, kind))
    bare = gradients(clip, pairs, retain=pairs, names=["visual.proj", "text_projection"])
    assert torch.equal(again.forget["visual.proj"], bare.forget["visual.proj"])


def test_two_concepts_share_one_retain_gradient(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    retain, ticks = batches(pixels[8:16], tokens[8:16], size=4), []
    for part in (slice(0, 4), slice(4, 8)):
        gradients(
            clip,
            [(pixels[part], tokens[part])],
            retain=retain,
            names=["visual.proj"],
            cache=tmp_path,
            tick=lambda: ticks.append(1),
        )
    assert len(ticks) == 1 + 2 + 1


def test_the_cache_knows_weights_names_and_pictures_apart(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    pairs = [(pixels[:4], tokens[:4])]
    other = clip.edited({"visual.proj": clip.named()["visual.proj"] + 0.1 * noise(32, 16)})
    for who, what, names in [
        (clip, pairs, ["visual.proj"]),
        (other, pairs, ["visual.proj"]),
        (clip, [(pixels[:4] + 1e-3, tokens[:4])], ["visual.proj"]),
        (clip, [(pixels[:4], tokens[1:5])], ["visual.proj"]),
        (clip, [(pixels[:2], tokens[:2]), (pixels[2:4], tokens[2:4])], ["visual.proj"]),
        (clip, pairs, ["text_projection"]),
    ]:
        gradients(who, what, retain=what, names=names, cache=tmp_path)
    assert len(list(tmp_path.glob("forget-*"))) == 6
    assert len(list(tmp_path.glob("retain-*"))) == 6


def test_a_damaged_cache_is_computed_anew(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    pairs = [(pixels[:4], tokens[:4])]
    run = partial(gradients, clip, pairs, retain=pairs, names=["visual.proj"], cache=tmp_path)
    expected = run().forget["visual.proj"].clone()
    (path,) = tmp_path.glob("forget-*")
    whole = path.read_bytes()
    for damaged in (whole[:-8], b"", whole[:-8] + bytes(8)):
        path.unlink()
        path.write_bytes(damaged)
        assert torch.equal(run().forget["visual.proj"], expected)
        assert torch.equal(weights.load(path)[0]["visual.proj"], expected)


def test_a_cached_gradient_is_read_one_tensor_at_a_time(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    pairs = [(pixels[:4], tokens[:4])]
    both = gradients(clip, pairs, retain=pairs, names=candidates(clip), cache=tmp_path)
    assert isinstance(both.forget, weights.Stored)
    first = both.forget["visual.proj"]
    assert first is not both.forget["visual.proj"]  # read anew, so nothing is held
    assert [tensor.shape for tensor in both.forget.values()] == [
        clip.named()[name].shape for name in both.forget
    ]


def test_a_stream_that_runs_once_cannot_be_cached(
    clip: Clip, pixels: Tensor, tokens: Tensor, tmp_path: Path
) -> None:
    pairs = [(pixels[:4], tokens[:4])]
    with pytest.raises(ValueError, match="runs once"):
        gradients(clip, iter(pairs), retain=pairs, names=["visual.proj"], cache=tmp_path)


def test_pictures_are_known_apart_without_being_decoded(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 0, 90)).save(tmp_path / f"{number}.png")
        shown.append(Example(tmp_path / f"{number}.png", f"thing {number}"))
    other = replace(clip, transform=lambda picture: clip.transform(picture).flip(-1))
    reads: list[object] = []
    read = images.read
    monkeypatch.setattr(images, "read", lambda place: (reads.append(place), read(place))[1])
    digests = [
        Pairs(some, who, size=size, seed=seed).digest
        for some, who, size, seed in (
            (shown, clip, 2, None),
            (shown[:3], clip, 2, None),
            (shown, other, 2, None),
            (shown, clip, 4, None),
            (shown, clip, 2, 1),
            ([*shown[:3], replace(shown[3], caption="cat")], clip, 2, None),
            (shown, clip, 2, None),
        )
    ]
    assert not reads
    assert len({*digests}) == 6
    assert digests[0] == digests[-1]
    kept = Pairs(shown, clip, size=2)
    for ticks in (4, 0):
        reads.clear()
        gradients(
            clip, Pairs(shown, clip, size=4), retain=kept, names=["visual.proj"], cache=tmp_path
        )
        assert len(reads) == 2 * ticks
