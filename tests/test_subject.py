"""The net that tells where a photo shows things and faces, and what its word keeps from a painting's texture."""

from __future__ import annotations

import pytest
import torch

from hicast.encoders.figures import figures_in
from hicast.encoders.latent_moments import LatentMoments
from hicast.encoders.style import StyleCode
from hicast.errors import ModelError
from hicast.io.weights import read_metadata
from hicast.models import matching
from hicast.models.conditions import Conditions, stack_conditions
from hicast.models.hicast_model import HiCastModel
from hicast.models.matching import Spared, matched
from hicast.models.subject import CHANNELS as FEATURES
from hicast.models.subject import PAINTED, SIDE, SUBJECT, SubjectNet, seen_by
from hicast.models.verification import verify_model

CHANNELS = 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def subject_net() -> SubjectNet:
    torch.manual_seed(0)
    return SubjectNet(8).eval()


def sharp() -> LatentMoments:
    """Moments of a painting with much texture."""
    return LatentMoments.of(2 * normal(1, CHANNELS, 32, 32, seed=3) ** 3)


@pytest.fixture
def net(make_model) -> HiCastModel:
    model = make_model([32, 32, 32]).eval()
    model.matching = 1.0
    return model


@pytest.mark.parametrize("size", [(256, 256), (20, 31), (130, 97)])
def test_it_tells_bounded_values_of_photos_of_any_size(vgg, size):
    with torch.no_grad():
        features = seen_by(vgg, normal(2, 3, *size).clamp(-1, 1))
        told = subject_net()(features)
    short, long = min(size), max(size)
    assert sorted(told.shape[2:]) == [SIDE // 8, round(long * SIDE / short) // 8] and told.shape[:2] == (2, 2) and told.dtype == torch.float32
    assert told.min() >= 0 and told[:, 1].max() <= 1 and told.std() > 0


def test_it_is_told_by_both_layers():
    net, features = subject_net(), {"relu4_3": normal(1, FEATURES, 16, 16), "relu5_3": normal(1, FEATURES, 8, 8, seed=1)}
    told = net(features)
    assert all(not torch.allclose(net(features | {tap: 2 * features[tap]}), told, atol=1e-3) for tap in features)


def test_things_get_less_texture_faces_none_and_less_change():
    figures = torch.tensor([0.0, matching.SHOWN, 10 * matching.SHOWN, 0.0, 0.0]).view(1, 1, 1, 5)
    faces = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.5]).view(1, 1, 1, 5)
    spared = Spared.of(torch.cat([figures, faces], dim=1))
    assert torch.allclose(spared.texture.flatten()[[0, 1, 3, 4]], torch.tensor([1, 0.5, 0, 0.5])) and spared.texture.flatten()[2] < 0.05
    assert torch.allclose(spared.change.flatten(), torch.tensor([1, 1, 1, 1 - matching.FACES, 1 - matching.FACES / 2]))


def test_what_is_spared_has_no_texture_and_no_change():
    latents, aim, one = 0.01 * normal(1, CHANNELS, 24, 24), sharp().aim(), torch.ones(1)
    shares = torch.ones(1, 1, 24, 24)
    shares[..., :12] = 0
    full, bare = (matched(latents, aim, one, texture=texture, spared=Spared(torch.ones_like(shares), torch.ones_like(shares))) for texture in (True, False))
    assert torch.equal(bare, matched(latents, aim, one, texture=False))
    assert torch.equal(matched(latents, aim, one, spared=Spared(torch.zeros_like(shares), torch.ones_like(shares))), bare)
    half = matched(latents, aim, one, spared=Spared(shares, shares))
    assert torch.equal(half[..., :12], latents[..., :12])
    assert (half - latents)[..., 12:].std() > 0.5 * (full - latents)[..., 12:].std()


def test_rougher_areas_get_texture_where_things_are_told_from_them():
    latents, aim, one = 0.9 * normal(1, CHANNELS, 24, 24), sharp().aim(), torch.ones(1)
    latents = latents * aim.variance.sqrt()[..., None, None]
    whole = Spared(torch.ones(1, 1, 24, 24), torch.ones(1, 1, 24, 24))
    bare, untold, told = (matched(latents, aim, one, **given) for given in ({"texture": False}, {}, {"spared": whole}))
    assert (told - bare).abs().mean() > 2 * (untold - bare).abs().mean()


def test_a_net_heeds_it_for_pictures_and_not_for_clips(net):
    photo, noise, moments = 0.3 * normal(2, CHANNELS, 16, 16), torch.zeros(2, CHANNELS, 16, 16), sharp()
    code, subject = StyleCode(normal(1, 2944, seed=7), torch.zeros(1, 4, 768), moments), torch.zeros(2, 2, 4, 4)
    subject[:, :, :, 2:] = torch.tensor([9.0, 1.0])[:, None, None]

    def painted(subject, frames=1):
        with torch.no_grad():
            return net(noise, 999, Conditions.of(photo, code, frames=frames, texture=frames == 1, subject=subject))

    away = (painted(subject) - painted(None)).abs().mean((0, 1, 2))
    assert away[:4].mean() < 0.8 * away[12:].mean()  # what is told of a part counts most there
    assert torch.equal(painted(subject, 2), painted(None, 2)) and not torch.allclose(painted(torch.zeros(2, 2, 3, 5)), painted(subject), atol=1e-2)
    rows = [Conditions.of(photo[row : row + 1], code, subject=subject[row : row + 1]) for row in range(2)]
    with torch.no_grad():
        apart = net(noise, 999, stack_conditions(rows)) - painted(subject)  # every row of a stack has its aim: rounded otherwise
    assert apart.abs().mean() < 0.02 * away[12:].mean()


def test_pipelines_ask_it_of_the_photo_and_of_the_painting(make_pipeline, monkeypatch):
    pipeline, asked = make_pipeline(), []
    photo, painting = normal(1, 3, 64, 80).clamp(-1, 1), normal(1, 3, 64, 64, seed=4).clamp(-1, 1)
    pipeline.model.subject = subject_net()
    pipeline.model.subject.register_forward_hook(lambda net, given, told: asked.append(told))
    assert pipeline.prepare(photo, [(painting, 1.0)], size=64).subject is None  # where nothing is matched there is no texture
    pipeline.model.matching = 1.0
    scene = pipeline.prepare(photo, [(painting, 1.0)], size=64)
    assert len(asked) == 2 and scene.subject is asked[1] and scene.subject.shape == (1, 2, 16, 24)  # the photo grown to 64 x 96
    assert len(list(pipeline.stylize_video([photo, photo], [(painting, 1.0)], size=64))) == 2 and len(asked) == 3  # of the painting alone


def test_its_model_is_on_the_device_where_a_painting_is_looked_at(make_pipeline, monkeypatch):
    pipeline, painting, used = make_pipeline(), normal(1, 3, 64, 64, seed=4).clamp(-1, 1), []
    monkeypatch.setattr(pipeline._offload, "use", lambda *names: used.append(names))
    pipeline.model.matching = 1.0
    pipeline.encode_style([(painting, 1.0)])
    pipeline.model.subject = subject_net()
    pipeline.encode_style([(painting, 1.0)])
    assert used[0] == ("style_encoder",) and used[2] == ("style_encoder", "model")


def test_faces_of_a_painting_count_as_figures(make_pipeline, vgg):
    model, features = make_pipeline().model, vgg(normal(1, 3, 256, 192).clamp(-1, 1))
    plain = model.shown_in(features)
    assert torch.equal(plain, figures_in(features))
    model.subject = subject_net()
    with torch.no_grad():
        model.subject.head.weight.zero_(), model.subject.head.bias.fill_(-30.0)
        assert torch.allclose(model.shown_in(features), plain)
        model.subject.head.bias[1] = 30.0
        assert torch.allclose(model.shown_in(features), plain + PAINTED)


def test_training_asks_it_of_the_crops(make_image_stage):
    stage = make_image_stage()
    stage.model.subject, stage.model.matching = subject_net(), 1.0
    batch = stage.batch(0, range(2))
    clean = stage.encode(batch.content)
    told = stage.conditions(batch, clean).subject
    assert told.shape[:2] == (2, 2) and not told.requires_grad and torch.equal(told, stage.model.subject(seen_by(stage.vgg, batch.content)))
    stage.model.subject = None
    assert stage.conditions(batch, clean).subject is None


def test_it_is_saved_read_and_verified_with_its_model(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without" / SUBJECT).exists()
    pipeline.model.subject = subject_net()
    pipeline.save_pretrained(tmp_path / "with")
    read = HiCastModel.from_pretrained(tmp_path / "with")
    assert all(torch.equal(value, read.subject.state_dict()[name]) for name, value in subject_net().state_dict().items())
    assert read_metadata(tmp_path / "with" / SUBJECT / "diffusion_pytorch_model.safetensors")["component"] == SUBJECT
    names = {check.name: check.problems for check in verify_model(tmp_path / "with")}
    assert names[SUBJECT] == () and SUBJECT not in {check.name for check in verify_model(tmp_path / "without")}
    (tmp_path / "with" / SUBJECT / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    assert {check.name: check.problems for check in verify_model(tmp_path / "with")}[SUBJECT]
    with pytest.raises(ModelError, match="expected a whole safetensors file"):
        HiCastModel.from_pretrained(tmp_path / "with")
