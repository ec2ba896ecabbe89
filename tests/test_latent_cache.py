"""Fixed crops with kept latents: they are what the encoder gives, found again by content, and what the image stage learns from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.config.train import ImageTraining
from hicast.encoders.autoencoder import LatentCodec, ResidualAutoencoder
from hicast.errors import InputError
from hicast.training.cache_keys import UNREADABLE, content_digest, weights_digest
from hicast.training.crop_source import Keeping, PictureCrops
from hicast.training.data import PicturePool, cut, sample_generator, to_batch
from hicast.training.loop import train
from hicast.training.sources import Source

LATENT_ONLY = {"latent": 1.0, "target_latent": 1.0}


def _codec(seed: int = 0) -> LatentCodec:
    torch.manual_seed(seed)
    return LatentCodec(ResidualAutoencoder(8, (4, 8, 8)))


def _crops(place: Path, folder: Path, codec: LatentCodec | None = None, calls: list | None = None, **changes: object) -> PictureCrops:
    settings = ImageTraining(**({"cached_crops": 3, "crop": 32} | changes))
    on_measure = None if calls is None else (lambda done, total: calls.append((done, total)))
    keeping = Keeping(settings, codec or _codec(), folder, True, on_measure)
    return PictureCrops(PicturePool([place], 64, 2**20), "photos", keeping)


def test_latents_are_those_of_the_crops(folders: tuple[Path, Path], tmp_path: Path) -> None:
    codec = _codec()
    crops = _crops(folders[0], tmp_path, codec)
    assert crops.fixed.latents.shape == (4, 3, 8, 4, 4)
    seen = set()
    for sample in range(40):
        crop = crops.draw(sample % 4, sample_generator(0, sample))
        assert torch.allclose(codec.encode(to_batch([crop.pixels]))[0], crop.latents, atol=1e-5)
        seen.add((sample % 4, crop.pixels.tobytes()))
    assert len(seen) == 12
    window = crops.fixed.window(1, 2)
    whole = crops.pool[1]
    assert torch.allclose(codec.encode(to_batch([cut(whole, window, 32)]))[0], crops.fixed.latents[1, 2], atol=1e-5)


def test_what_is_kept_is_found_again_by_content(folders: tuple[Path, Path], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = _crops(folders[0], tmp_path, calls=calls)
    assert calls == [(number, 4) for number in range(1, 5)]
    moved = tmp_path / "moved"
    shutil.copytree(folders[0] / "sub", moved)
    (moved / "0.png").rename(moved / "z.png")  # comes last now
    again = _crops(moved, tmp_path, calls=calls)
    assert len(calls) == 4 and torch.equal(again.fixed.latents, first.fixed.latents[[1, 2, 3, 0]])
    Image.new("RGB", (70, 60), "red").save(moved / "new.png")
    (moved / "1.png").unlink()
    grown = _crops(moved, tmp_path, calls=calls)
    assert calls[4:] == [(1, 1)] and torch.equal(grown.fixed.latents[:2], first.fixed.latents[2:])


@pytest.mark.parametrize("changes", [{"crop": 64}, {"cached_crops": 2}, {"seed": 1}, {"zoom": (0.5, 0.6)}, {"image_side": 100}, {}])
def test_other_crops_and_other_encoders_are_encoded_anew(folders: tuple[Path, Path], tmp_path: Path, changes: dict) -> None:
    calls: list[tuple[int, int]] = []
    _crops(folders[0], tmp_path)
    codec = _codec()
    if not changes:  # one weight, the last
        [*codec.autoencoder.parameters()][-1].data.flatten()[-1] += 1e-3
    _crops(folders[0], tmp_path, codec, calls, **changes)
    assert len(calls) == 4


def test_a_damaged_cache_is_written_anew(folders: tuple[Path, Path], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    (tmp_path / "latents-photos.safetensors").write_bytes(b"broken")
    _crops(folders[0], tmp_path, calls=calls)
    _crops(folders[0], tmp_path, calls=calls)
    assert len(calls) == 4


def test_pictures_that_cannot_be_used_give_way_to_the_next(folders: tuple[Path, Path], tmp_path: Path) -> None:
    place = tmp_path / "photos"
    shutil.copytree(folders[0] / "sub", place)
    (place / "1.png").write_bytes(b"no picture")
    (place / "3.png").write_bytes(b"none either")
    for _ in range(2):
        crops = _crops(place, tmp_path)
        assert torch.equal(crops.fixed.latents[1], crops.fixed.latents[2]) and torch.equal(crops.fixed.latents[3], crops.fixed.latents[0])
        crop = crops.draw(3, sample_generator(0, 0))
        assert torch.allclose(crops.keeping.codec.encode(to_batch([crop.pixels]))[0], crop.latents, atol=1e-5)
    for name in ("0.png", "2.png"):
        (place / name).write_bytes(b"")
    with pytest.raises(InputError, match="expected training pictures, found only files that cannot be used"):
        _crops(place, tmp_path)


def test_digests_say_what_differs(tmp_path: Path) -> None:
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other) != weights_digest(other.bfloat16())
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"xabx")
    assert content_digest(Source(tmp_path / "a", "a")) == content_digest(Source(tmp_path / "b", "b", 1, 2))
    assert content_digest(Source(tmp_path / "gone", "gone")) == UNREADABLE


def test_image_stage_learns_from_kept_latents_without_reading_a_picture(make_image_stage, negatives, tmp_path, monkeypatch) -> None:
    make_image_stage(losses=LATENT_ONLY, targets=negatives, cached_crops=2)
    stage = make_image_stage(losses=LATENT_ONLY, targets=negatives, cached_crops=2)
    monkeypatch.setattr(stage.codec, "encode", None)
    monkeypatch.setattr(PicturePool, "__getitem__", None)
    batch = stage.batch(0, range(4))
    assert batch.content.numel() == 0 and batch.clean.shape == (4, 8, 4, 4)
    assert set(stage.step(batch, 0)) == set(LATENT_ONLY)
    monkeypatch.undo()  # the result is made as ever
    assert train(stage, tmp_path / "run").finished


def test_terms_are_those_of_the_encoder_where_pictures_are_seen(make_image_stage, negatives) -> None:
    losses = LATENT_ONLY | {"target": 1.0, "content": 1.0}
    stage = make_image_stage(losses=losses, targets=negatives, cached_crops=2, target_layers={"relu1_2": 1.0}, batch_size=8)
    batch = stage.batch(0, range(8))
    kept = stage.step(batch, 0)
    fresh = stage.step(type(batch)(**{**vars(batch), "clean": None, "result_latents": None}), 0)
    assert {name: value.item() for name, value in kept.items()} == pytest.approx({name: value.item() for name, value in fresh.items()}, rel=1e-4)
    own, result = (np.asarray(picture) for picture in (batch.content, batch.result))
    assert np.abs(own[~batch.is_self] + result[~batch.is_self]).max() < 0.05  # the photo's negative, cut alike
