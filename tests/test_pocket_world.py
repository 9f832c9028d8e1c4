"""Laws of the sprite world: scenes, pictures, words and questions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shapes import draw_shapes

from slugdemo.errors import SlugError
from slugdemo.pocket import dialogue, words
from slugdemo.pocket.augment import augmented
from slugdemo.pocket.names import PLAIN, UNSEEN, Names
from slugdemo.pocket.picture_set import joined, limited, render_set
from slugdemo.pocket.styles import STYLES
from slugdemo.pocket.tokens import tokenizer
from slugdemo.pocket.world import (
    GROUNDS,
    HELD_OUT,
    SIDE,
    Scene,
    Sprites,
    Thing,
    render,
    scene,
    scenes,
)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Sprites:
    return Sprites(draw_shapes(tmp_path_factory.mktemp("sprites")))


def test_the_same_scene_gives_the_same_picture(sprites: Sprites) -> None:
    planned = scenes(sprites, 12, seed=3, artists=sprites.trained, pairs=0.5)
    assert planned == scenes(sprites, 12, seed=3, artists=sprites.trained, pairs=0.5)
    assert torch.equal(render(sprites, planned), render(sprites, planned))


def test_another_seed_gives_other_scenes(sprites: Sprites) -> None:
    first, second = (scenes(sprites, 12, seed=s, artists=sprites.trained) for s in (1, 2))
    assert first != second


def test_a_picture_does_not_depend_on_its_neighbours(sprites: Sprites) -> None:
    planned = scenes(sprites, 27, seed=4, artists=sprites.trained)
    alone = torch.cat([render(sprites, [s]) for s in planned])
    assert torch.equal(alone, render(sprites, planned))


def test_concepts_and_styles_are_in_balance(sprites: Sprites) -> None:
    count = 2 * len(sprites.names) * len(STYLES)
    planned = scenes(sprites, count, seed=5, artists=sprites.trained)
    pairs = [(s.things[0].concept, s.style) for s in planned]
    assert {pairs.count(p) for p in pairs} == {2}


def test_the_held_out_hand_is_not_trained_on(sprites: Sprites) -> None:
    assert HELD_OUT in sprites.artists
    assert HELD_OUT not in sprites.trained


def test_every_style_changes_the_picture_and_differs_from_every_other(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    base = scene(sprites, rng, artists=["marker"], concept="disc", ground="white", style="plain")
    looks = {
        s: render(sprites, [type(base)(base.things, base.ground, s, 7)]).float() for s in STYLES
    }
    gaps = [(looks[a] - looks[b]).abs().mean() for a in looks for b in looks if a < b]
    assert len(STYLES) >= 9
    assert min(gaps) > 4


def test_things_stand_out_from_their_ground(sprites: Sprites) -> None:
    for s in scenes(sprites, 30, seed=6, artists=["marker"]):
        assert s.ground in sprites.grounds(s.things)
        assert set(sprites.grounds(s.things)) <= set(GROUNDS)


def test_pairs_put_two_different_things_side_by_side(sprites: Sprites) -> None:
    for s in scenes(sprites, 20, seed=7, artists=sprites.trained, pairs=1.0):
        left, right = s.things
        assert left.concept != right.concept
        assert left.x < 0.5 < right.x


def test_a_picture_set_is_rendered_once_and_read_again(sprites: Sprites, tmp_path: Path) -> None:
    first = render_set(sprites, tmp_path, 20, seed=8, artists=sprites.trained)
    written = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    again = render_set(sprites, tmp_path, 20, seed=8, artists=sprites.trained)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == written
    assert np.array_equal(first.pictures, again.pictures)
    assert first.pictures.shape == (20, 3, SIDE, SIDE)
    render_set(sprites, tmp_path, 20, seed=9, artists=sprites.trained)
    assert len(list(tmp_path.iterdir())) == 2


def test_joined_sets_hold_the_pictures_of_both_in_order(sprites: Sprites, tmp_path: Path) -> None:
    first, second = (
        render_set(sprites, tmp_path, count, seed=1, artists=sprites.trained) for count in (6, 9)
    )
    both = joined([first, second])
    assert both.scenes == first.scenes + second.scenes
    assert np.array_equal(both.pictures, np.concatenate([first.pictures, second.pictures]))


def test_a_limited_set_shows_only_what_is_named_and_all_of_that(
    sprites: Sprites, tmp_path: Path
) -> None:
    made = render_set(sprites, tmp_path, 60, seed=2, artists=sprites.trained, pairs=0.5)
    names = sprites.known.without(["disc", "sepia"])
    small = limited(made, names)
    right = [
        s.style != "sepia" and "disc" not in {t.concept for t in s.things} for s in made.scenes
    ]
    assert 0 < sum(right) < 60
    assert small.scenes == [s for s, kept in zip(made.scenes, right, strict=True) if kept]
    assert np.array_equal(small.pictures, made.pictures[np.array(right)])


def test_a_smaller_batch_is_the_average_of_its_pixels(sprites: Sprites, tmp_path: Path) -> None:
    made = render_set(sprites, tmp_path, 6, seed=1, artists=sprites.trained)
    small = made.batch(torch.tensor([3, 1]), side=SIDE // 2)
    pixels = made.batch(torch.tensor([1, 3]))
    corners = [pixels[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    assert torch.allclose(small, torch.stack(corners).mean(0), atol=1e-6)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_looks_alike_at_any_size(sprites: Sprites, style: str) -> None:
    rng = np.random.default_rng(0)
    planned = scene(sprites, rng, artists=["marker"], concept="disc", ground="white", style=PLAIN)
    large = F.interpolate(render(sprites, [planned]).float() / 255, scale_factor=2)
    sizes = (large, F.avg_pool2d(large, 2))  # 256 and 128 pixels
    drawn = [STYLES[style](p, [torch.Generator().manual_seed(1)]) for p in sizes]
    assert (F.avg_pool2d(drawn[0], 2) - drawn[1]).abs().mean() < 0.04


def test_what_is_left_out_is_in_no_scene_and_in_no_phrase(tmp_path: Path) -> None:
    folder = draw_shapes(tmp_path / "sprites")
    small = Sprites(folder, without=["disc", "watercolour"])
    planned = scenes(small, 200, seed=1, artists=small.trained, pairs=0.5)
    assert all("disc" not in {t.concept for t in s.things} for s in planned)
    assert {s.style for s in planned} == set(STYLES) - {"watercolour"}
    assert not {"disc", "watercolour", "aquarelle"} & set(words.phrases(small.known))
    assert "disc" in Sprites(folder).names


@pytest.mark.parametrize("unwanted", [["dics"], ["plain"], ["disc", "box", "roof", "bar", "hoop"]])
def test_a_list_that_cannot_be_left_out_is_refused(unwanted: list[str], tmp_path: Path) -> None:
    with pytest.raises(SlugError, match=r"[.?]$"):
        Sprites(draw_shapes(tmp_path / "sprites"), without=unwanted)


def test_a_name_that_is_nearly_right_is_suggested(sprites: Sprites) -> None:
    with pytest.raises(SlugError, match="'disc'"):
        sprites.known.without(["dics"])


def test_no_word_for_a_known_thing_tells_of_what_is_unseen() -> None:
    whole = Names(tuple(words.SYNONYMS), (PLAIN, *words.STYLE_WORDS))
    told = [name for name in UNSEEN if name in whole.concepts + whole.styles]
    kept = words.phrases(whole.without(told))
    secret = [w for w in words.phrases(whole) if w not in kept and len(w.split()) <= 2]
    assert {"wizard", "merlin", "kitten", "pixel art", "watercolour"} <= set(secret)
    assert not [(p, w) for p in kept for w in secret if f" {w} " in f" {p} "]


def test_augmented_pictures_lose_the_style_that_they_lose() -> None:
    thing = Thing("disc", "marker", 0.5, 0.5, 0.8, 0.0, False)
    scenes_ = [Scene((thing,), "white", "neon", i) for i in range(60)]
    pictures = torch.rand(60, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def widened(seed: int) -> tuple[torch.Tensor, list[Scene]]:
        return augmented(pictures, scenes_, torch.Generator().manual_seed(seed), styles=["sepia"])

    (made, shown), (again, _), (other, _) = widened(1), widened(1), widened(2)
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    assert made.abs().max() <= 1.0
    changed = (made != pictures).flatten(1).any(1).tolist()
    assert 15 < sum(changed) < 45
    assert {s.things for s in shown} == {(thing,)}
    unnamed = [not s.style and not s.ground for s in shown]
    assert all(now or not lost for now, lost in zip(changed, unnamed, strict=True))
    assert 5 < sum(unnamed) < sum(changed)  # warps and cut-outs keep style and ground


@pytest.mark.parametrize("broken", ["missing", "empty", "unreadable"])
def test_a_bad_sprite_folder_is_named_in_a_sentence(broken: str, tmp_path: Path) -> None:
    folder = tmp_path / "sprites"
    if broken != "missing":
        (folder / "artist").mkdir(parents=True)
    if broken == "unreadable":
        (folder / "artist" / "cat.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(SlugError, match=r"\."):
        Sprites(folder)


def test_an_unknown_name_is_refused_in_a_sentence(sprites: Sprites) -> None:
    with pytest.raises(SlugError, match="unheard"):
        sprites.picture("marker", "unheard")


def test_captions_vary_and_prompts_do_not() -> None:
    rng = np.random.default_rng(0)
    said = {words.caption(["cat"], rng, style="neon", ground=None) for _ in range(40)}
    assert len(said) > 15
    assert words.prompt("apple", "neon") == "a neon picture of an apple"
    assert words.prompt("Santa Claus") == "a picture of Santa Claus"


def test_synonyms_and_descriptions_cover_forty_concepts_and_every_style() -> None:
    assert len(words.SYNONYMS) >= 40
    assert set(words.STYLE_WORDS) == set(STYLES) - {"plain"}


def test_no_two_concepts_share_a_word_that_means_them() -> None:
    owners: dict[str, list[str]] = {}
    for concept, others in words.SYNONYMS.items():
        for word in others:
            owners.setdefault(word, []).append(concept)
    shared = {word: who for word, who in owners.items() if len(who) > 1}
    assert not shared, shared


def test_any_text_tokenizes_and_the_end_is_the_largest_id() -> None:
    ours = tokenizer(words.vocabulary(Names(("cat", "dog"), ("plain", "neon")), ["blue"]))
    for text in ("a cat", "żółw 🐢 ∑", "\uff23\uff21\uff34", "a" * 200, ""):
        ids = ours(text).input_ids
        assert ids[0] == ours.bos_token_id
        assert ids[-1] == ours.eos_token_id == max(ids) == len(ours) - 1
    assert (
        ours.decode(ours("a cat, and a dog").input_ids, skip_special_tokens=True)
        == "a cat , and a dog"
    )


def test_answers_are_true_of_their_scene(sprites: Sprites) -> None:
    rng = np.random.default_rng(1)
    for s in scenes(sprites, 40, seed=9, artists=sprites.trained, pairs=0.4):
        turns = dialogue.dialogue(s, rng, concepts=sprites.names)
        assert len({turn.question for turn in turns}) >= 4 - (len(s.things) == 2)
        for turn in turns:
            if turn.question.startswith("Is there"):
                named = [n for n in sprites.names if f" {n} " in turn.question]
                assert turn.answer.startswith("Yes") == (named[0] in {t.concept for t in s.things})
        assert all(t.concept in dialogue.what(s).answer for t in s.things)


def test_every_training_of_the_tokenizer_numbers_alike() -> None:
    script = """if True:
        from slugdemo.pocket.tokens import tokenizer
        from slugdemo.pocket.words import vocabulary
        from slugdemo.pocket.names import Names
        world = Names(("cat", "dog", "snowman"), ("plain", "neon"))
        print(sorted(tokenizer(vocabulary(world, ["blue"])).get_vocab().items()))
    """
    one, other = (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        for _ in range(2)
    )
    assert one.returncode == 0
    assert one.stdout == other.stdout
