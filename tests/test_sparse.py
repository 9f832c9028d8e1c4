"""The sparse autoencoder: its formula number by number, its file, and what it explains."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slugdemo import sparse
from slugdemo.errors import SlugError
from slugdemo.sparse import Autoencoder


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(*, features: int = 10, width: int = 6, active: int = 3) -> Autoencoder:
    encoder, decoder = noise(width, features, seed=1), noise(features, width, seed=2)
    mean, bias = noise(width, seed=3), noise(features, seed=4)
    halves = [part.half().float() for part in (mean, encoder, bias, decoder)]
    return Autoencoder(
        halves[0], torch.tensor(1.5), halves[1], halves[2], halves[3], active=active, tower="abc"
    )


def test_activations_are_the_largest_few_above_zero_number_by_number() -> None:
    own, states = made(), noise(4, 5, 6, seed=5)
    found, back = own.activations(states), own.reconstructed(states)
    for n in range(4):
        for t in range(5):
            z = [(float(states[n, t, d]) - float(own.mean[d])) / 1.5 for d in range(6)]
            before = [
                sum(z[d] * float(own.encoder[d, f]) for d in range(6)) + float(own.bias[f])
                for f in range(10)
            ]
            best = sorted(range(10), key=lambda f: -before[f])[:3]
            wanted = [max(0.0, before[f]) if f in best else 0.0 for f in range(10)]
            assert found[n, t].tolist() == pytest.approx(wanted, abs=1e-4)
            for d in range(6):
                x = float(own.mean[d])
                x += sum(wanted[f] * float(own.decoder[f, d]) for f in range(10))
                assert float(back[n, t, d]) == pytest.approx(x, abs=1e-4)


def test_a_file_gives_back_the_same_numbers_and_the_same_digest(tmp_path: Path) -> None:
    own = made()
    own.save(tmp_path / "some")
    [back] = sparse.all_in(tmp_path)
    assert (back.digest, back.active, back.tower) == (own.digest, 3, "abc")
    assert all(torch.equal(a, b) for a, b in zip(own[:5], back[:5], strict=True))
    assert own._replace(bias=own.bias + 1).digest != own.digest
    assert sparse.all_in(tmp_path / "nowhere") == []


def test_another_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    sparse.weights.save(tmp_path / sparse.FILE, {"mean": torch.zeros(2)}, {"active": "3"})
    with pytest.raises(SlugError, match="is not a sparse autoencoder"):
        sparse.load(tmp_path)
    with pytest.raises(SlugError, match="cannot be read"):
        sparse.load(tmp_path / "none")


def test_the_share_explained_is_one_for_a_dictionary_of_all_directions_and_less_for_a_few() -> None:
    eye = torch.cat([torch.eye(4), -torch.eye(4)])
    whole = Autoencoder(torch.zeros(4), torch.tensor(1.0), eye.T, torch.zeros(8), eye, active=4)
    rows = noise(200, 4, seed=6)
    assert sparse.explained(whole, rows) == pytest.approx(1)
    one = sparse.explained(whole._replace(active=1), rows)
    left = rows.square().sum() - rows.abs().amax(1).square().sum()
    assert one == pytest.approx(1 - float(left / (rows - rows.mean(0)).square().sum()), abs=1e-5)


def test_a_tower_is_known_by_its_weights() -> None:
    tower = nn.Linear(3, 2)
    before = sparse.tower_digest(tower)
    assert before == sparse.tower_digest(nn.ModuleList([tower])[0])
    with torch.no_grad():
        tower.bias += 1
    assert sparse.tower_digest(tower) != before


def test_whether_an_autoencoder_reads_a_stored_tower_is_said_by_its_file(tmp_path: Path) -> None:
    tower = nn.ModuleDict({"embeddings": nn.ModuleDict({"token_embedding": nn.Embedding(9, 6)})})
    made()._replace(tower=sparse.tower_digest(tower)).save(tmp_path / "sae" / "some")
    named = {f"text_model.{name}": each.detach() for name, each in tower.named_parameters()}
    named["text_model.embeddings.position_ids"] = torch.arange(3)
    file, name = tmp_path / "model.safetensors", next(iter(named))
    for weight, wanted in (
        (named[name], True),
        (named[name] + 1, False),
        (torch.ones(9, 5), False),
    ):
        save_file({**named, name: weight}, file)
        assert sparse.reads(tmp_path / "sae", [file]) == wanted
    assert not sparse.reads(tmp_path / "sae", [])
    assert not sparse.reads(tmp_path / "nowhere", [file])
    file.write_bytes(b"nothing")
    with pytest.raises(SlugError, match="damaged"):
        sparse.reads(tmp_path / "sae", [file])
