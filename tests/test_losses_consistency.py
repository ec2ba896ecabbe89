"""The corrected consistency loss: every term trains the estimate, clips count one by one, like motion is best."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hicast.errors import UsageError
from hicast.losses.consistency import (
    consistency_terms,
    correlation,
    draw_positions,
    frame_motion,
    local_contrast,
    motion_distance,
    neighbour_differences,
)

FIXTURES = Path(__file__).parent / "data" / "parity" / "temporal_loss_io.safetensors"


@pytest.fixture(scope="module")
def stored():
    return load_file(FIXTURES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clips(batch=2, frames=3, side=6, seed=0):
    return torch.randn(batch, 4, frames, side, side, generator=generator(seed))


def five():
    """Prediction, noise, image prediction, estimate and latents."""
    return [clips(seed=seed) for seed in range(5)]


def test_places_and_differences_are_the_published_ones(stored):
    positions = draw_positions(16, 16, generator(5))
    assert positions.repeat(8).equal(stored["ccpl_ids_center"])
    frames = stored["latents"][0, :, 1:].transpose(0, 1)
    found = neighbour_differences(frames, positions).transpose(1, 2)
    torch.testing.assert_close(found, stored["ccpl_feat_q"], rtol=1e-4, atol=1e-6)


def test_contrast_is_the_published_one_with_swapped_arguments(stored):
    estimate = stored["pred_x0"][:, :, 1:].clone().requires_grad_()
    loss = local_contrast(estimate, stored["latents"][:, :, 1:], draw_positions(16, 16, generator(5))).mean()
    torch.testing.assert_close(loss.detach().reshape(1), stored["ccpl_loss_swapped"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, estimate)
    wanted = stored["ccpl_grad_swapped"]
    assert (gradient - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_contrast_by_hand():
    ours, theirs, positions = clips(1, 1, 4)[0, :, 0], clips(1, 1, 4, seed=1)[0, :, 0], torch.tensor([5, 10])
    pairs = [(p, p + d) for d in (-5, -4, -3, -1, 1, 3, 4, 5) for p in positions.tolist()]
    unit = lambda x, a, b: torch.nn.functional.normalize(x.flatten(1)[:, a] - x.flatten(1)[:, b], dim=0)  # noqa: E731
    wanted = 0.0
    for i, (a, b) in enumerate(pairs):
        alike = torch.stack([unit(ours, a, b) @ unit(theirs, c, d) for c, d in pairs]) / 0.07
        wanted += (alike.logsumexp(0) - alike[i]).item() / len(pairs)
    found = local_contrast(ours[None, :, None], theirs[None, :, None], positions)
    assert found.tolist() == pytest.approx([wanted], rel=1e-5)


def test_every_term_has_a_gradient():
    given = [value.requires_grad_() for value in five()]
    trained = {"noise": 0, "image": 0, "contrast": 3, "correlation": 3}
    terms = consistency_terms(*given, generator())
    assert set(terms) == set(trained)
    for name, index in trained.items():
        gradients = torch.autograd.grad(terms[name], given, retain_graph=True, allow_unused=True)
        reached = [i for i, gradient in enumerate(gradients) if gradient is not None]
        assert reached == [index], name
        assert all(clip.abs().sum() > 0 for clip in gradients[index]), name
        assert gradients[index].isfinite().all()


def test_frame_0_counts_as_well():
    given = five()
    estimate = given[3].requires_grad_()
    terms = consistency_terms(*given, generator())
    for name in ("contrast", "correlation"):
        (gradient,) = torch.autograd.grad(terms[name], estimate, retain_graph=True)
        assert gradient[:, :, 0].abs().sum() > 0


def test_inputs_stay_as_they_were():
    given = five()
    before = [value.clone() for value in given]
    consistency_terms(*given, generator())
    assert all(value.equal(old) for value, old in zip(given, before, strict=True))


def test_a_masked_clip_contributes_nothing():
    keep = torch.tensor([True, False])
    given = [value.requires_grad_() for value in five()]
    changed = [torch.cat([value[:1], value[1:] * 3 + 1]).detach() for value in given]
    terms, others = consistency_terms(*given, generator(), keep), consistency_terms(*changed, generator(), keep)
    for name, value in terms.items():
        assert value.detach().equal(others[name]), name
        gradients = torch.autograd.grad(value, (given[0], given[3]), retain_graph=True, allow_unused=True)
        (gradient,) = [gradient for gradient in gradients if gradient is not None]
        assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    whole = consistency_terms(*given, generator())
    assert not any(whole[name].equal(terms[name]) for name in terms)


def test_clips_do_not_see_each_other():
    estimate, latents, positions = clips(), clips(seed=1), torch.tensor([7, 14])
    for distance in (lambda a, b: local_contrast(a, b, positions), motion_distance):
        alone = torch.cat([distance(estimate[i : i + 1], latents[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(distance(estimate, latents), alone)


def test_identical_motion_is_best():
    latents = clips(frames=4)
    painted = latents + clips(frames=1, seed=1)
    torch.testing.assert_close(motion_distance(painted, latents), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(motion_distance(-2 * latents, latents), 2 * torch.ones(2), atol=1e-4, rtol=0)
    values = [motion_distance(latents + share * clips(frames=4, seed=2), latents).mean() for share in (0, 0.3, 1, 3)]
    assert values == sorted(values) and values[0] < values[1]
    assert 0.5 < motion_distance(clips(frames=4, seed=3), latents).mean() < 1.5


def test_motion_is_the_correlation_of_frame_differences():
    estimate, latents = clips(1, 3), clips(1, 3, seed=1)
    wanted = [
        torch.corrcoef(torch.stack([(x[0, c, f + 1] - x[0, c, f]).flatten() for x in (estimate, latents)]))[0, 1]
        for c in range(4)
        for f in range(2)
    ]
    torch.testing.assert_close(motion_distance(estimate, latents), 1 - torch.stack(wanted).mean()[None], rtol=1e-4, atol=0)
    assert frame_motion(latents).shape == (1, 4, 2, 6, 6)


def test_standing_still_is_defined():
    still, moving = clips(1, 1).expand(-1, -1, 3, -1, -1), clips(1, 3, seed=1)
    assert motion_distance(still + 1, still).item() == pytest.approx(0, abs=1e-6)
    estimate = moving.clone().requires_grad_()
    loss = motion_distance(estimate, still)
    (gradient,) = torch.autograd.grad(loss, estimate)
    assert loss > 0.9 and gradient.isfinite().all()
    calmer = estimate.detach().mean(2, keepdim=True) * 0.999 + estimate.detach() * 0.001
    assert motion_distance(calmer, still) < loss
    constant = torch.ones(1, 4)
    assert correlation(constant, constant, (1,), 1e-5).item() == pytest.approx(1)


def test_places_are_inner_distinct_and_drawn_by_the_generator():
    found = draw_positions(4, 7, generator(), count=99)
    assert sorted(found.tolist()) == [8, 9, 10, 11, 12, 15, 16, 17, 18, 19]
    assert draw_positions(9, 9, generator(1)).equal(draw_positions(9, 9, generator(1)))
    assert not draw_positions(9, 9, generator(1)).equal(draw_positions(9, 9, generator(2)))


def test_clips_that_are_too_small_or_short_are_refused():
    with pytest.raises(UsageError, match="expected latents of 3x3 or more, found 2x9"):
        draw_positions(2, 9, generator())
    with pytest.raises(UsageError, match="expected clips of 2 frames or more, found 1"):
        motion_distance(clips(frames=1), clips(frames=1))
