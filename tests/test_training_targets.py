"""Learning from another method's results: pictures matched by name, the same crop of both, distances to the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.errors import InputError
from hicast.losses.targets import local_deviation, target_distance, texture_distance
from hicast.training.data import PicturePool, sample_generator
from hicast.training.targets import TargetPool


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Two photos, two paintings, and for each pair a result that is the photo's negative."""
    random = np.random.default_rng(0)
    for name in ("a.png", "sub/b.png"):
        _write(tmp_path / "photos" / name, random.integers(0, 256, (70, 80, 3), dtype=np.uint8))
        _write(tmp_path / "paintings" / name, random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    rows = [("sub/b.png", "a.png"), ("a.png", "sub/b.png"), ("gone.png", "a.png")]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "pairs.csv").write_text("content,style\n" + "".join(f"{c},{s}\n" for c, s in rows))
    for number, (photo, _) in enumerate(rows[:2]):
        _write(tmp_path / "results" / f"{number:05d}.png", 255 - np.asarray(Image.open(tmp_path / "photos" / photo)))
    return tmp_path


def _pools(root: Path) -> tuple[PicturePool, PicturePool]:
    return tuple(PicturePool([root / name], 384, 2**24) for name in ("photos", "paintings"))


def test_photo_and_result_are_cropped_alike(places: Path) -> None:
    notes: list[str] = []
    pool = TargetPool(places / "results", *_pools(places), notes.append)
    assert len(pool) == 2
    assert any("left out 1 of 3 pairs" in note for note in notes)
    for index, painting in enumerate(("a.png", "sub/b.png")):
        photo, result, row = pool.crops(index, 32, (0.5, 1.0), sample_generator(0, index))
        assert photo.shape == result.shape == (32, 32, 3)
        assert np.abs(255 - photo.astype(int) - result).max() <= 1
        assert pool.paintings.files[row].path == places / "paintings" / painting


def test_result_of_another_size_is_brought_to_the_photos(places: Path) -> None:
    path = places / "results" / "00000.png"
    Image.open(path).resize((160, 140), Image.Resampling.NEAREST).save(path)
    pool = TargetPool(places / "results", *_pools(places))
    photo, result, _ = pool.crops(0, 32, (0.5, 1.0), sample_generator(0, 0))
    assert np.corrcoef(photo.ravel(), result.ravel())[0, 1] < -0.9


def test_members_of_shards_are_matched_by_name(places: Path) -> None:
    import tarfile

    with tarfile.open(places / "photos.tar", "w") as shard:
        shard.add(places / "photos" / "a.png", "a.png")
    pools = PicturePool([places / "photos.tar"], 384, 2**24), _pools(places)[1]
    assert len(TargetPool(places / "results", *pools)) == 1


@pytest.mark.parametrize("text", [None, "photo,painting\na,b\n"])
def test_missing_or_foreign_list_is_one_line(places: Path, text: str | None) -> None:
    path = places / "results" / "pairs.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match="pairs.csv: expected a CSV file with the columns content,style"):
        TargetPool(places / "results", *_pools(places))


def test_list_of_other_pictures_is_one_line(places: Path) -> None:
    (places / "results" / "pairs.csv").write_text("content,style\nx.png,y.png\n")
    with pytest.raises(InputError, match="found none that match of 1; give the folders"):
        TargetPool(places / "results", *_pools(places))


def test_target_distance_is_relative_to_the_target() -> None:
    ours, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    found = target_distance({"one": ours, "two": 5 * ours}, {"one": target, "two": 5 * target}, {"one": 1.0, "two": 0.5})
    wanted = [1.5 * (ours[i] - target[i]).abs().mean() / target[i].abs().mean() for i in range(2)]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_local_deviation_is_that_of_each_window() -> None:
    features = torch.randn(1, 2, 16, 16) * 3
    found = local_deviation(features, cells=4)
    assert found.shape == (1, 2, 7, 7)
    wanted = features[0, 1, 2:6, 4:8].std(correction=0)
    torch.testing.assert_close(found[0, 1, 1, 2], wanted, rtol=1e-3, atol=1e-3)


def test_texture_may_lie_elsewhere_but_not_be_missing() -> None:
    stripes = (torch.arange(32) % 4 < 2).float().expand(1, 1, 32, 32)
    moved, flat = stripes.roll(1, -1), torch.full_like(stripes, 0.5)
    layers = {"one": 1.0}
    distances = [texture_distance({"one": picture}, {"one": stripes}, layers).item() for picture in (stripes, moved, flat)]
    assert distances[0] == 0 and distances[1] < 0.05 and distances[2] > 0.9
