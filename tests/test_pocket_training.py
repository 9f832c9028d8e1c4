"""The recipe on five drawn sprites: every part trains, resumes exactly and loads in its own library."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image
from shapes import draw_shapes
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from slugdemo import catalog
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.models.names import vision_model
from slugdemo.pocket import __main__ as main
from slugdemo.pocket import cards, llava, regions, report, vae
from slugdemo.pocket.clip import fresh, looked
from slugdemo.pocket.convolutional import convolutional, moved, places, whitening
from slugdemo.pocket.dialogue import Turn
from slugdemo.pocket.muon import Muon, orthogonal
from slugdemo.pocket.names import Names
from slugdemo.pocket.picture_set import render_set
from slugdemo.pocket.recipe import STEPS, Recipe
from slugdemo.pocket.training import Average, Run, noise_at, picks, warm_cosine
from slugdemo.pocket.world import Scene, Sprites, Thing

# Both in diffusers' own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe every part of which has been trained for two steps."""
    folder = tmp_path_factory.mktemp("recipe")
    sprites = draw_shapes(folder / "sprites")
    made = Recipe(
        sprites, folder / "models", folder / "work", 60, without=("disc", "sepia"), drawings=1
    )
    for part in STEPS:
        made.train(part, 2)
    return made


@pytest.mark.slow
def test_every_part_loads_in_its_own_library(recipe: Recipe) -> None:
    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{recipe.models / 'pocket-clip'}"
    )
    tokens = open_clip.get_tokenizer(f"local-dir:{recipe.models / 'pocket-clip'}")(
        ["a disc", "a box"]
    )
    assert type(model) is open_clip.CLIP
    assert model.encode_text(tokens).shape == (2, 192)
    assert len(model.transformer.resblocks) >= 6
    assert len(model.visual.transformer.resblocks) >= 6
    assert str(transform).count("Normalize") == 1
    pipe = StableDiffusionPipeline.from_pretrained(recipe.models / "pocket-sd")
    assert pipe("a disc", num_inference_steps=2, output_type="np").images.shape == (1, 128, 128, 3)
    judge = Judge.load(recipe.models / "judge")
    assert judge.concepts == recipe.whole.names
    assert len(judge.styles) >= 9
    llava = LlavaForConditionalGeneration.from_pretrained(recipe.models / "pocket-llava")
    assert llava.config.vision_feature_layer == -2


@pytest.mark.slow
def test_one_clip_is_in_both_hosts(recipe: Recipe) -> None:
    clip = open_clip.create_model(f"local-dir:{recipe.models / 'pocket-clip'}").eval()
    pipe = StableDiffusionPipeline.from_pretrained(recipe.models / "pocket-sd")
    tokens = open_clip.get_tokenizer(f"local-dir:{recipe.models / 'pocket-clip'}")(["a neon disc"])
    there = pipe.tokenizer(["a neon disc"], padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(tokens, there)
    embedded = clip.token_embedding(tokens) + clip.positional_embedding
    ours = clip.ln_final(clip.transformer(embedded, attn_mask=clip.attn_mask))
    assert (ours - pipe.text_encoder(tokens).last_hidden_state).abs().max() < 1e-5
    llava = LlavaForConditionalGeneration.from_pretrained(
        recipe.models / "pocket-llava", dtype=torch.float32
    )
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    theirs = llava.model.vision_tower(pixels).pooler_output @ clip.visual.proj
    assert (theirs - clip.encode_image(pixels)).abs().max() < 1e-5


@pytest.mark.slow
def test_llava_reads_a_prompt_as_long_as_its_picture_has_patches(recipe: Recipe) -> None:
    reader = AutoProcessor.from_pretrained(recipe.models / "pocket-llava")
    ids = reader.tokenizer(
        "USER: <image>\nWho is this? ASSISTANT:", add_special_tokens=True
    ).input_ids
    assert ids.count(reader.image_token_id) == 1
    assert (
        reader.tokenizer.decode(reader.tokenizer(" This is a ∑ 🐢.").input_ids)
        == "<s> This is a ∑ 🐢."
    )


@pytest.mark.slow
def test_every_folder_has_a_card_with_what_made_it(recipe: Recipe) -> None:
    for folder in recipe.models.iterdir():
        card = (folder / "README.md").read_text()
        missing = [word for word in ("torch", "MIT", "| 2 |") if word not in card]
        assert not missing, (folder.name, missing)


class Line:
    """A linear model that learns seeded noise: the smallest thing a Run can train."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(8, 8)
        self.muon = Muon([self.model.weight], lr=0.01)
        self.mean = Average(self.model, 0.9)

    def run(self, folder: Path, steps: int) -> Run:
        return Run(
            folder, {"wide": 8}, steps, {"model": self.model, "muon": self.muon, "mean": self.mean}
        )

    def update(self, step: int) -> Mapping[str, float]:
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        loss = (self.model(x) - x.flip(1)).square().mean()
        self.muon.zero_grad()
        loss.backward()
        self.muon.step()
        self.mean.follow(self.model, step)
        return {"loss": loss.item()}


def _weights(line: Line) -> list[Tensor]:
    return [*line.model.state_dict().values(), *line.mean.state_dict().values()]


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = Line()
    whole.run(tmp_path / "whole", 12).loop(whole.update)
    first = Line()
    first.run(tmp_path / "broken", 5).loop(first.update)
    second = Line()
    second.run(tmp_path / "broken", 12).loop(second.update)
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(second), strict=True))


def test_a_kill_in_the_middle_of_saving_leaves_the_last_whole_checkpoint(tmp_path: Path) -> None:
    line = Line()
    line.run(tmp_path, 3).loop(line.update)
    (tmp_path / "checkpoint.999.part").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:100])
    assert Line().run(tmp_path, 5).resume() == 3


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    line = Line()
    line.run(tmp_path, 1).loop(line.update)
    with pytest.raises(SlugError, match="another configuration"):
        Run(tmp_path, {"wide": 9}, 2, {}).resume()


def test_blur_shifts_each_picture_as_a_whole_and_in_its_patches_and_only_so_far() -> None:
    states = torch.randn(200, 64, 24, generator=torch.Generator().manual_seed(0)) * torch.arange(
        1, 25
    )
    first, again, other = (llava.blurred(states, noise_at(step, seed=1)) for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    shift = (first - states) / states.std((0, 1))  # in standard deviations
    whole, patches = shift.mean(1), shift - shift.mean(1, keepdim=True)
    for part in (whole, patches.flatten(1)):
        far = part.square().mean(1).sqrt()
        assert 0.4 * llava.BLUR < far.mean() < 0.6 * llava.BLUR
        assert far.max() < 1.7 * llava.BLUR
    assert first.mean().allclose(states.mean(), atol=0.1)


def test_noise_on_all_weights_is_as_long_as_drawn_and_leaves_the_tower_alone(
    talker: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    tower, pictures = talker[0].model.vision_tower, torch.rand(4, 3, 64, 64) * 2 - 1
    before = {name: one.clone() for name, one in tower.state_dict().items()}
    with torch.no_grad():
        states = tower(pictures, output_hidden_states=True).hidden_states[-2][:, 1:]

    def shift(step: int) -> Tensor:
        return llava.noisy_tower(tower, pictures, noise_at(step, seed=1)) - states

    shifts = [shift(step) for step in range(12)]
    assert torch.equal(shift(3), shifts[3])
    drawn = [torch.rand((), generator=noise_at(step, seed=1)).item() for step in range(12)]
    far = [one.square().mean().sqrt().item() for one in shifts]
    assert np.corrcoef(drawn, far)[0, 1] > 0.9  # as far as was drawn
    assert max(far) < states.std()
    assert all(torch.equal(one, before[name]) for name, one in tower.state_dict().items())


def test_standardised_latents_vary_alike_and_decode_to_the_same_pictures(tmp_path: Path) -> None:
    sprites = Sprites(draw_shapes(tmp_path / "sprites"))
    pictures = render_set(sprites, tmp_path, 24, seed=1, artists=sprites.trained)
    model = vae.fresh().eval()
    pixels = pictures.batch(torch.arange(24))
    with torch.no_grad():
        before = model.encode(pixels).latent_dist
        shown = model.decode(before.mean).sample
        vae.standardise(model, pictures)
        after = model.encode(pixels).latent_dist
        assert (model.decode(after.mean).sample - shown).abs().max() < 1e-3
    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-3
    assert (after.mean.std((0, 2, 3)) - 1).abs().max() < 1e-3
    scale = before.mean.std((0, 2, 3))[:, None, None]
    assert torch.allclose(after.std, before.std / scale, rtol=1e-3)


def test_a_part_without_what_it_stands_on_says_so(tmp_path: Path) -> None:
    made = Recipe(
        draw_shapes(tmp_path / "s"), tmp_path / "models", tmp_path / "work", 10, without=("disc",)
    )
    with pytest.raises(SlugError, match="train vae first"):
        made.train("polish", 1)


def test_an_unknown_part_or_name_is_refused_before_any_work(tmp_path: Path) -> None:
    sprites = draw_shapes(tmp_path / "sprites")
    for part, unseen in (("vea", "disc"), ("all", "dics")):
        with pytest.raises(SlugError, match=r"'vea'|'dics'"):
            main.train(part, sprites, tmp_path, tmp_path / "work", without=[unseen])
    assert not (tmp_path / "work").exists()


def test_a_references_folder_lists_what_it_never_saw_and_a_shipped_one_lists_nothing(
    tmp_path: Path,
) -> None:
    for name, unseen in (("reference-clip", ("disc", "neon")), ("pocket-clip", ())):
        (tmp_path / name).mkdir()
        cards.write(tmp_path / name, [], unseen=unseen)
    model = catalog.Model("reference-clip", "zero-shot", "folder", 0, tmp_path / "reference-clip")
    assert catalog.withheld(model) == ["disc", "neon"]
    assert not (tmp_path / "pocket-clip" / "withheld.json").exists()


@pytest.mark.slow
def test_the_reference_shares_its_autoencoder_and_nothing_that_was_trained_after_the_fork(
    recipe: Recipe,
) -> None:
    shipped, reference = (
        StableDiffusionPipeline.from_pretrained(recipe.models / f"{name}-sd")
        for name in ("pocket", "reference")
    )

    def same(part: str) -> bool:
        ours, theirs = (getattr(pipe, part).state_dict() for pipe in (shipped, reference))
        return all(torch.equal(ours[name], theirs[name]) for name in ours)

    assert same("vae")
    assert not same("unet")
    assert not same("text_encoder")
    assert shipped.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    card = (recipe.models / "reference-sd" / "README.md").read_text()
    assert "What it never saw" in card
    assert "disc, sepia" in card
    assert "What it never saw" not in (recipe.models / "pocket-sd" / "README.md").read_text()


def test_orthogonal_sends_singular_values_near_one() -> None:
    matrix = torch.randn(40, 90, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_picks_visit_everything_once_an_epoch_and_depend_on_the_step_alone() -> None:
    seen = torch.cat([picks(10, 5, seed=1, step=s) for s in (0, 1)])
    assert sorted(seen.tolist()) == list(range(10))
    assert torch.equal(picks(10, 4, seed=1, step=7), picks(10, 4, seed=1, step=7))


def test_the_rate_rises_then_falls() -> None:
    rates = [warm_cosine(s, 1000) for s in range(1000)]
    assert rates[0] < rates[50] < rates[99] == max(rates)
    assert rates[-1] < 0.03


def test_whitened_patches_vary_alike_in_every_direction() -> None:
    mixed = torch.randn(4000, 12, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        12, 12, generator=torch.Generator().manual_seed(2)
    )
    assert torch.allclose(torch.cov((mixed @ whitening(mixed).T).T), torch.eye(12), atol=0.05)


def test_a_move_takes_the_code_of_a_place_to_that_of_its_neighbour() -> None:
    grid = places(8).view(8, 8, -1)
    assert torch.allclose(grid[2, 3] @ moved(1, -1).T, grid[3, 2], atol=1e-5)


def test_every_head_starts_out_looking_at_one_neighbour() -> None:
    visual = fresh(300).visual
    pictures = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    convolutional(visual, pictures, seed=5)
    x = visual.conv1(pictures).flatten(2).transpose(1, 2)
    x = visual.ln_pre(x + visual.positional_embedding[1:])  # (N, 64, W)
    block = visual.transformer.resblocks[0]
    _, weights = block.attn(*3 * [block.ln_1(x)], average_attn_weights=False)  # (N, heads, 64, 64)
    inner = [row * 8 + column for row in range(1, 7) for column in range(1, 7)]
    seen = weights.mean(0).argmax(-1)[:, inner] - torch.tensor(inner)  # (heads, 36)
    offsets = [row.unique().tolist() for row in seen]
    assert all(len(one) == 1 for one in offsets), offsets
    assert len({one[0] for one in offsets}) == len(offsets), offsets
    assert {one[0] for one in offsets} <= {
        8 * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)
    }


@pytest.fixture(scope="module")
def talker() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained pocket-llava with its processor."""
    tower, words = (
        vision_model(fresh(600).eval()),
        llava.tokenizer(Names(("disc", "box"), ("plain", "neon"))),
    )
    return llava.fresh(tower, words).eval(), llava.processor(words, tower)


def test_llava_is_taught_the_very_tokens_that_it_is_asked_with(
    talker: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    model, reader = talker
    asked = reader(images=[Image.new("RGB", (64, 64))], text=[report.ASK.format("Who is this?")])
    taught = llava.lesson(
        [Turn("Who is this?", "This is a disc.")], reader.tokenizer, model.config.image_seq_length
    )
    ids = list(asked["input_ids"][0])
    assert taught.ids[: len(ids)] == ids
    assert all(label == llava.UNTAUGHT for label in taught.labels[: len(ids)])
    assert reader.tokenizer.decode(taught.ids[len(ids) :]) == " This is a disc.</s>"


def test_questions_about_one_picture_are_blind_to_one_another(
    talker: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    model, reader = talker
    turns = [Turn("Who is this?", "This is a disc."), Turn("Is there a box in the picture?", "No.")]
    first, both = (llava.lesson(some, reader.tokenizer, 64) for some in (turns[1:], turns))

    def states(one: llava.Lesson) -> Tensor:
        mask, positions = llava.blinded(torch.tensor([one.turns]))
        run = model.model.language_model
        return run(
            torch.tensor([one.ids]), attention_mask=mask, position_ids=positions
        ).last_hidden_state[0]

    alone = model.model.language_model(torch.tensor([first.ids])).last_hidden_state[0]
    with torch.no_grad():
        packed = states(both)
        length = len(first.ids) - first.turns.count(0)
        assert (packed[-length:] - alone[-length:]).abs().max() < 1e-5
        assert (states(first) - alone).abs().max() < 1e-5
    assert both.turns.count(1) != both.turns.count(2)


def test_a_thing_covers_the_patches_at_its_place() -> None:
    left = regions.covered(Thing("disc", "artist", 0.27, 0.5, 0.5, 0.0, False), 64).view(8, 8)
    assert left.sum() == pytest.approx(1.0)
    assert left[:, 4:].sum() == 0.0
    assert left[3:5, 1:3].min() > 0.0


def test_what_clip_looks_at_is_what_pocket_llava_reads() -> None:
    model, pictures = fresh(300).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, states = looked(model.visual, pictures)
        assert torch.equal(features, F.normalize(model.encode_image(pictures), dim=-1))
        read = vision_model(model)(pictures, output_hidden_states=True).hidden_states[-2]
    assert (states - read[:, 1:]).abs().max() < 1e-5


def test_patches_learn_which_thing_lies_where() -> None:
    things = [
        Thing(name, "artist", x, 0.5, 0.5, 0.0, False)
        for name, x in (("disc", 0.27), ("star", 0.73))
    ]
    states = torch.zeros(1, 64, 4)
    grid = states.view(8, 8, 4)
    grid[:, :4, 0], grid[:, 4:, 1] = 1.0, 1.0
    names = Names(("disc", "star"), ("plain",))
    taught = regions.Regions(nn.Identity(), names, 4, seed=1)
    with torch.no_grad():
        taught.anchors.vectors["concept"].copy_(torch.eye(4)[:2])
        assert taught(states, [Scene(tuple(things), "white", "plain", 0)])["hit"] == 1.0
        assert taught(states.flip(1), [Scene(tuple(things), "white", "plain", 0)])["hit"] == 0.0
