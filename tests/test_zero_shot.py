"""Laws of the zero-shot host: the short way gives the answers of the long way."""

import copy
import gc
import threading
import time

import pytest
import torch
from conftest import WORDS, noise
from torch import Tensor

from slugdemo.edit import Edit, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.layers import candidates
from slugdemo.models import towers, zero_shot
from slugdemo.models.clip import Clip
from slugdemo.models.zero_shot import CHUNK, ZeroShot

PROMPTS = {
    word: [f"a {word}", f"a picture of a {word}", word][: 1 + i % 3] for i, word in enumerate(WORDS)
}


def random_edit(
    clip: Clip,
    name: str = "visual.transformer.resblocks.1.attn.out_proj.weight",
    *,
    strength: float = 0.3,
    seed: int = 0,
) -> Edit:
    """An edit of one tensor along noise."""
    layer = {qualified(name): clip.named()[name]}
    along = {qualified(name): noise(*clip.named()[name].shape, seed=seed)}
    edit = Edit.along(along, layer, concept=f"concept {seed}", method="noise", layer=name)
    return edit.at(strength)


@pytest.fixture(scope="module")
def host(clip: Clip) -> ZeroShot:
    """A host that is right about everything, because its labels are its own answers."""
    pixels = noise(CHUNK + 26, 3, 32, 32, seed=1)
    blind = ZeroShot.of(clip, PROMPTS, pixels=pixels, labels=[""] * len(pixels))
    says = [WORDS[i] for i in blind.scores.argmax(1)]
    return ZeroShot.of(clip, PROMPTS, pixels=pixels, labels=says)


def naive_scores(clip: Clip, pixels: Tensor, edits: list[Edit]) -> Tensor:
    """The long way: copy the model, change it, encode everything with open_clip's own forward."""
    model = copy.deepcopy(clip.model)
    for edit in edits:
        for name, tensor in edit.delta.items():
            model.get_parameter(clip_name(name)).data += edit.strength * tensor
    with torch.no_grad():
        images = model.encode_image(pixels, normalize=True)
        rows = []
        for several in PROMPTS.values():
            mean = model.encode_text(clip.tokenize(several), normalize=True).mean(0)
            rows.append(mean / mean.norm())
    return images @ torch.stack(rows).T


def test_every_layer_answers_as_the_naive_way(clip: Clip, host: ZeroShot) -> None:
    for name in candidates(clip):
        edit = random_edit(clip, name, strength=0.2)
        short, long = host.edited([edit]).scores, naive_scores(clip, host.pictures.inputs, [edit])
        assert torch.allclose(short, long, atol=1e-5), name
        assert not torch.allclose(short, host.scores, atol=1e-5), name


@pytest.mark.parametrize("tower", towers.TOWERS)
def test_prompts_of_like_length_go_together_and_answers_stay_in_order(
    clip: Clip, host: ZeroShot, tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shot, "CHUNK", 5)
    rows = {"text": host.prompts, "vision": host.pictures}[tower].rows
    chunks = [*towers.alike(clip.model, tower, rows, 5)]
    assert sorted(torch.cat([which for which, _ in chunks]).tolist()) == [*range(len(rows))]
    assert len({tokens.stop for _, tokens in chunks}) > 1 or tower == "vision"
    first = {"text": "token_embedding.weight", "vision": "visual.conv1.weight"}[tower]
    for name in (first, *(one for one in candidates(clip) if ".1." in one)):
        edit = random_edit(clip, name, strength=0.2)
        long = naive_scores(clip, host.pictures.inputs, [edit])
        assert torch.allclose(host.edited([edit]).scores, long, atol=1e-5), name


@pytest.mark.parametrize("form", ["a picture of a {}", "{}"])
def test_a_common_beginning_is_computed_once_and_changes_no_answer(
    clip: Clip, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = {word: [form.format(word)] for word in WORDS}
    host = ZeroShot.of(clip, prompts, pixels=noise(3, 3, 32, 32), labels=[""] * 3)
    begun, heads = towers.begun, []

    def noted(tokens: Tensor, x: Tensor, rows: Tensor) -> Tensor | towers.Begun:
        parted = begun(tokens, x, rows)
        heads.append(parted.head.shape[:2])
        assert torch.equal(parted.head.expand(len(x), *parted.head.shape[1:]), x[:, : heads[-1][1]])
        return parted

    for name in (one for one in candidates(clip) if not one.startswith("visual.")):
        edit = random_edit(clip, name, strength=0.2)
        monkeypatch.setattr(towers, "begun", noted)
        short = host.edited([edit]).scores
        monkeypatch.setattr(towers, "begun", lambda tokens, x, rows: x)  # noqa: ARG005
        assert torch.allclose(short, host.edited([edit]).scores, atol=1e-6), name
    columns = clip.tokenize([several[0] for several in prompts.values()]).T.tolist()
    shared = next(at for at, column in enumerate(columns) if len({*column}) > 1)
    assert shared == 1 if form == "{}" else shared > 4
    assert heads
    assert all(head == (1, shared) for head in heads)


def test_layers_may_be_asked_for_in_any_order(clip: Clip, host: ZeroShot) -> None:
    names = candidates(clip)
    for index in torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[:12]:
        edit = random_edit(clip, names[index], strength=0.2)
        long = naive_scores(clip, host.pictures.inputs, [edit])
        assert torch.allclose(host.edited([edit]).scores, long, atol=1e-5)


def test_edits_of_both_towers_work_together_and_in_any_order(clip: Clip, host: ZeroShot) -> None:
    names = ["visual.transformer.resblocks.2.mlp.c_fc.weight", "visual.conv1.weight"]
    names += ["transformer.resblocks.1.attn.in_proj_weight"]
    edits = [random_edit(clip, name, seed=seed, strength=0.2) for seed, name in enumerate(names)]
    long = naive_scores(clip, host.pictures.inputs, edits)
    assert torch.allclose(host.edited(edits).scores, long, atol=1e-5)
    one_by_one = host.edited(edits[2:]).edited(edits[:1]).edited(edits[1:2])
    assert torch.equal(one_by_one.scores, host.edited(edits).scores)


def test_an_edit_recomputes_only_its_own_tower_and_only_from_its_stage(
    clip: Clip, host: ZeroShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    advance = towers.advance

    def noted(stages: list[towers.Stage], x: Tensor, rows: Tensor) -> Tensor:
        ran.extend(stage.prefixes[0] for stage in stages)
        return advance(stages, x, rows)

    monkeypatch.setattr(towers, "advance", noted)
    host.scores, host.pictures.features, host.prompts.features  # noqa: B018
    name = "transformer.resblocks.2.mlp.c_fc.weight"
    evaluate = host.evaluator(WORDS[int(host.labels[0])])(random_edit(clip, name))
    evaluate(0.1)
    ran.clear()
    for step in (0.2, 0.3):
        evaluate(step)
    assert ran == ["transformer.resblocks.2.ln_2.", "ln_final."] * 2
    ran.clear()
    evaluate(0.0)
    assert ran == []


def test_a_small_budget_changes_nothing_but_the_work(
    host: ZeroShot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shot, "BUDGET", 0)
    poor = host.showing(host.pictures.inputs)
    for index, kept in ((5, {0, 5}), (2, {0, 2}), (8, {0, 8}), (3, {0, 3, 8})):
        assert torch.equal(poor.pictures.before(index), host.pictures.before(index))
        assert set(poor.pictures._kept) == kept


@pytest.mark.parametrize("name", ["visual.proj", "visual.conv1.weight", "text_projection"])
def test_a_forget_only_score_is_the_full_one_on_the_concept(
    clip: Clip, host: ZeroShot, name: str
) -> None:
    target, edit = WORDS[int(host.labels[0])], random_edit(clip, name)
    for step in (0.3, 1.0, 3.0):
        whole, alone = (look(target)(edit)(step) for look in (host.evaluator, host.forget_only))
        assert (alone.forget_acc, alone.n_forget) == (whole.forget_acc, whole.n_forget)
        assert alone.n_retain == (0 if name.startswith("visual") else whole.n_retain)


def test_zero_step_is_identity(clip: Clip, host: ZeroShot) -> None:
    assert torch.equal(host.edited([random_edit(clip).at(0.0)]).scores, host.scores)


def test_a_perfect_host_has_perfect_scores_until_it_is_edited(clip: Clip, host: ZeroShot) -> None:
    target = max(WORDS, key=lambda word: int((host.labels == WORDS.index(word)).sum()))
    before = host.score(target, strength=0.0)
    assert (before.forget_acc, before.retain_acc) == (1.0, 1.0)
    assert before.n_forget + before.n_retain == len(host.labels)
    after = host.evaluator(target)(random_edit(clip, "visual.proj", seed=4))(2.0)
    scores = naive_scores(
        clip, host.pictures.inputs, [random_edit(clip, "visual.proj", seed=4, strength=2.0)]
    )
    right = scores.argmax(1) == host.labels
    own = host.labels == WORDS.index(target)
    assert after.forget_acc == pytest.approx(right[own].float().mean().item())
    assert after.retain_acc == pytest.approx(right[~own].float().mean().item())
    assert after.retain_acc < 1


def test_top_five_forgives_more_than_top_one(clip: Clip, host: ZeroShot) -> None:
    edited = host.edited([random_edit(clip, "visual.proj", strength=2.0)])
    target = WORDS[int(host.labels[0])]
    scores = [edited.score(target, strength=2.0, top=top) for top in (1, 5, 6)]
    assert scores[0].retain_acc <= scores[1].retain_acc <= scores[2].retain_acc == 1


def test_probabilities_are_clips_softmax(host: ZeroShot) -> None:
    expected = (host.clip.model.logit_scale.exp() * host.scores).softmax(1)
    assert torch.allclose(host.probabilities(), expected)
    assert host.probabilities().shape == (len(host.labels), len(WORDS))


def test_other_pictures_are_judged_by_the_same_edited_classes(clip: Clip, host: ZeroShot) -> None:
    pixels, edit = noise(3, 3, 32, 32, seed=8), random_edit(clip)
    shown = host.edited([edit]).showing(pixels)
    assert torch.allclose(shown.scores, naive_scores(clip, pixels, [edit]), atol=1e-5)
    assert shown.prompts is host.prompts


def test_eight_visitors_with_eight_edits_get_their_own_answers(clip: Clip, host: ZeroShot) -> None:
    names = candidates(clip)[::5][:8]
    visits = [random_edit(clip, name, seed=i) for i, name in enumerate(names)]
    alone = [host.edited([edit]).scores for edit in visits]
    together: dict[int, list[Tensor]] = {}

    def visit(index: int) -> None:
        together[index] = [host.edited([visits[index]]).scores for _ in range(4)]

    threads = [threading.Thread(target=visit, args=(index,)) for index in range(len(visits))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for index, expected in enumerate(alone):
        assert all(torch.equal(scores, expected) for scores in together[index])


def test_edited_is_quick(clip: Clip, host: ZeroShot) -> None:
    edit, started = random_edit(clip), time.perf_counter()
    for _ in range(100):
        host.edited([edit])
    assert (time.perf_counter() - started) / 100 < 1e-3


def test_a_hundred_visitors_cost_little_more_than_their_edited_layers(
    clip: Clip, host: ZeroShot
) -> None:
    def bytes_alive() -> int:
        tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
        return sum({one.data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())

    name = "visual.transformer.resblocks.2.mlp.c_fc.weight"
    host.edited([random_edit(clip, name)]).scores  # noqa: B018
    before = bytes_alive()
    visitors = [host.edited([random_edit(clip, name, seed=seed)]) for seed in range(100)]
    [one.scores for one in visitors]
    assert bytes_alive() - before <= 1.2 * 100 * clip.named()[name].nbytes


def test_everything_editable_here_is_found_by_trying(clip: Clip, host: ZeroShot) -> None:
    assert host.editable() == candidates(clip)


def test_bad_input_is_a_sentence(clip: Clip, host: ZeroShot) -> None:
    pixels = noise(2, 3, 32, 32)
    with pytest.raises(SlugError, match="'unicorn' is none of the 6 classes"):
        host.score("unicorn", strength=0.0)
    with pytest.raises(SlugError, match="class of some pictures: unicorn"):
        ZeroShot.of(clip, PROMPTS, pixels=pixels, labels=["unicorn", "cat"])
    with pytest.raises(SlugError, match="too long"):
        ZeroShot.of(clip, {"x": ["a very " * 30]}, pixels=pixels, labels=["x", "x"])
    with pytest.raises(SlugError, match="0 prompts, 2 pictures"):
        ZeroShot.of(clip, {}, pixels=pixels, labels=["", ""])
    alone = ZeroShot.of(clip, PROMPTS, pixels=pixels, labels=["cat", "cat"])
    with pytest.raises(SlugError, match="and of something else"):
        alone.score("cat", strength=0.0)
