"""The compact autoencoder and the codec: linear start, exact tiles, one face for two kinds."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from hicast.encoders.autoencoder import LatentCodec, ResidualAutoencoder, tile_starts, tile_weights, tiled


@pytest.fixture(scope="module")
def autoencoder() -> ResidualAutoencoder:
    torch.manual_seed(0)
    model = ResidualAutoencoder(latent_channels=6, widths=(4, 8, 8)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_shapes_are_an_eighth(autoencoder: ResidualAutoencoder) -> None:
    latents = autoencoder.encode(torch.zeros(2, 3, 64, 96))
    assert latents.shape == (2, 6, 8, 12)
    assert autoencoder.decode(latents).shape == (2, 3, 64, 96)


def test_fit_linear_whitens_and_inverts() -> None:
    """With as many components as patches have dimensions in use, the linear parts alone give the patch back."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(5, 192, generator=generator)
    patches = torch.randn(4000, 5, generator=generator) @ basis * 0.05
    patches -= patches.mean(0)
    model = ResidualAutoencoder(latent_channels=5, widths=(4, 8, 8))
    model.fit_linear(patches)
    image = patches[:16].view(16, 3, 8, 8)
    latents = model.project(image)
    assert torch.allclose(model.unproject(latents), image, atol=1e-3)
    spread = model.project(patches.view(-1, 3, 8, 8)).flatten(1).std(0)
    assert torch.allclose(spread, torch.ones(5), atol=0.02)


@pytest.mark.parametrize("side", [288, 416])
def test_tiles_of_the_compact_autoencoder_equal_the_whole(autoencoder: ResidualAutoencoder, side: int) -> None:
    image = torch.randn(1, 3, side, 272, generator=torch.Generator().manual_seed(2))
    whole, cut = LatentCodec(autoencoder, tile=10_000), LatentCodec(autoencoder, tile=32)
    with torch.no_grad():
        latents = whole.encode(image)
        assert torch.allclose(cut.encode(image), latents, atol=1e-5)
        assert torch.allclose(cut.decode(latents), whole.decode(latents), atol=1e-5)


def test_tiles_of_a_deeper_decoder_equal_the_whole() -> None:
    torch.manual_seed(3)
    model = ResidualAutoencoder(latent_channels=6, widths=(4, 8, 8), decoder_blocks=(2, 3, 4)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    whole, cut = LatentCodec(model, tile=10_000), LatentCodec(model, tile=8)
    assert (cut.margin, cut.overlap, cut.tile) == (14, 30, 60)
    latents = torch.randn(1, 6, 93, 70, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, expected = cut.decode(latents), whole.decode(latents)
    assert torch.allclose(ours, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("blocks", [(1, 1, 2), (2, 3, 4)])
def test_reach_is_how_far_a_latent_is_seen(blocks: tuple[int, int, int]) -> None:
    torch.manual_seed(5)
    model = ResidualAutoencoder(latent_channels=3, widths=(4, 4, 4), decoder_blocks=blocks).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    latents = torch.randn(1, 3, 1, 49, dtype=torch.float64)
    changed = latents.clone()
    changed[..., 24] += 1
    with torch.no_grad():
        moved = (model.decode(changed) - model.decode(latents)).abs().amax((0, 1, 2)).nonzero()
    first, last = int(moved.min()) // 8, int(moved.max()) // 8
    assert model.reach - 1 <= 24 - first <= model.reach
    assert model.reach - 1 <= last - 24 <= model.reach


def test_a_deepened_decoder_begins_as_it_was(autoencoder: ResidualAutoencoder) -> None:
    deeper = autoencoder.deepened((2, 3, 4))
    latents = torch.randn(1, 6, 6, 9, generator=torch.Generator().manual_seed(4))
    image = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.equal(deeper.decode(latents), autoencoder.decode(latents))
        assert torch.equal(deeper.encode(image), autoencoder.encode(image))
    assert deeper.config.decoder_blocks == (2, 3, 4)
    deeper.decode(latents).square().sum().backward()
    added = deeper.decoder[2].conv2.weight.grad
    assert added is not None and added.abs().max() > 0
    with pytest.raises(ValueError, match="at least"):
        deeper.deepened((1, 3, 4))


def test_stable_diffusion_autoencoder_is_scaled_and_blended() -> None:
    torch.manual_seed(0)
    kl = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                       up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=32).eval()
    codec = LatentCodec(kl)
    image = torch.randn(1, 3, 32, 48)
    noise = torch.randn(1, 4, 16, 24)
    with torch.no_grad():
        posterior = kl.encode(image).latent_dist
        assert torch.allclose(codec.encode(image), posterior.mean * 0.18215)
        assert torch.allclose(codec.encode(image, noise), (posterior.mean + posterior.std * noise) * 0.18215)
        assert torch.allclose(codec.decode(codec.encode(image)), kl.decode(posterior.mean).sample, atol=1e-5)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(100, 32, 16), (33, 32, 8), (32, 32, 8), (257, 64, 16)])
def test_tiles_cover_everything_with_enough_overlap(length: int, tile: int, overlap: int) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + min(tile, length) == length
    assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))
    total = torch.zeros(length)
    for start in starts:
        stop = min(start + tile, length)
        total[start:stop] += tile_weights(start, stop, length, overlap, overlap // 4)
    assert (total > 0).all()


def test_tiling_a_local_function_changes_nothing() -> None:
    x = torch.randn(2, 3, 70, 90)
    assert torch.allclose(tiled(lambda part: part * 2 + 1, x, 32, 16, 4, 1), x * 2 + 1, atol=1e-5)
