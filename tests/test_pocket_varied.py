"""What pocket-llava reads beside the picture_set: pictures that pocket-sd drew, and recoloured ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slugdemo import catalog
from slugdemo.evaluation.judge import Judge, Net
from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket import varied
from slugdemo.pocket.dialogue import GROUND, STYLE, dialogue
from slugdemo.pocket.picture_set import PictureSet, render_set
from slugdemo.pocket.world import Scene, Sprites, Thing
from tests.shapes import draw_shapes

# In diffusers' own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    folder = tmp_path_factory.mktemp("picture_set")
    return render_set(
        Sprites(draw_shapes(folder / "sprites")), folder, 150, seed=1, artists=["marker"]
    )


def test_a_rendered_ground_is_seen_as_it_is_named(wide: PictureSet) -> None:
    plain = [i for i, one in enumerate(wide.scenes) if one.style == "plain"]
    seen = varied.visible(torch.from_numpy(wide.pictures[plain]))
    assert seen == [wide.scenes[i].ground for i in plain]
    assert len(set(seen)) > 4


def test_a_colour_between_two_names_has_none() -> None:
    colours = {
        "red": (200, 20, 20),
        "": (220, 110, 60),
        "blue": (20, 60, 150),
        "brown": (150, 112, 69),
    }
    flat = torch.tensor(list(colours.values()), dtype=torch.uint8)[:, :, None, None].expand(
        -1, -1, 64, 64
    )
    assert varied.visible(flat) == list(colours)


def test_recoloured_pictures_are_asked_about_a_ground_that_their_style_does_not_tell(
    wide: PictureSet,
) -> None:
    made, again = (varied.recoloured(wide, 150, seed=3) for _ in range(2))
    assert np.array_equal(made.pictures, again.pictures)
    assert len(made) == len(made.scenes) > 20
    assert varied.visible(torch.from_numpy(made.pictures)) == [one.ground for one in made.scenes]
    rng = np.random.default_rng(0)
    asked = [dialogue(one, rng, concepts=["disc", "box"]) for one in made.scenes]
    assert all([turn.question for turn in turns] == [GROUND] for turns in asked)
    assert len({turns[0].answer for turns in asked}) > 4


def test_a_scene_without_a_clear_ground_is_never_asked_about_it() -> None:
    one = Scene((Thing("disc", "", 0.5, 0.5, 0.84, 0.0, False),), "", "watercolour", 1)
    asked = [
        dialogue(one, np.random.default_rng(seed), concepts=["disc", "box"]) for seed in range(20)
    ]
    assert all(STYLE in [turn.question for turn in turns] for turns in asked)
    assert not any(GROUND in [turn.question for turn in turns] for turns in asked)


def test_what_was_drawn_is_not_drawn_again_and_only_the_right_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Diffusion.from_folder(catalog.assets() / "models" / "pocket-sd")
    judge = Judge(Net(2, 2).eval(), ["wizard", "robot"], ["plain", "sepia"])
    monkeypatch.setattr(varied, "CHUNK", 2)
    varied.drawn(host, judge, tmp_path, each=1)
    monkeypatch.setattr(varied, "made", None)  # from here on nothing can be drawn
    files = sorted(tmp_path.iterdir())
    kept = [dict(np.load(file)) for file in files]
    for right in ([True, True], [True, False]):
        for file, one in zip(files, kept, strict=True):
            np.savez(file, pictures=one["pictures"], right=np.array(right))
        found = varied.drawn(host, judge, tmp_path, each=1)
        wanted = [("wizard", "plain"), ("wizard", "sepia"), ("robot", "plain"), ("robot", "sepia")]
        assert [(one.things[0].concept, one.style) for one in found.scenes] == [
            pair for pair, sure in zip(wanted, right * 2, strict=True) if sure
        ]
        assert np.array_equal(
            found.pictures, np.concatenate([one["pictures"][np.array(right)] for one in kept])
        )
        assert all(one.ground == "brown" for one in found.scenes if one.style == "sepia")
