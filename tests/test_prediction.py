"""What predictions mean: estimates and targets belong together for every prediction type."""

from types import SimpleNamespace

import pytest
import torch

from hicast.config.presets import load_preset
from hicast.diffusion.prediction import clean_estimate, prediction_kind, regression_target
from hicast.diffusion.sampling import make_scheduler
from hicast.errors import ModelError

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_the_right_prediction_gives_the_clean_latents(kind, timestep):
    scheduler = make_scheduler("ddim", SCHEDULE | {"prediction_type": kind})
    clean, noise = drawn(0), drawn(1)
    noisy = scheduler.add_noise(clean, noise, torch.tensor([timestep] * 2))
    target = regression_target(scheduler, clean, noise, timestep)
    torch.testing.assert_close(clean_estimate(scheduler, target, noisy, timestep), clean, atol=1e-3, rtol=1e-3)


def test_targets_by_name():
    clean, noise = drawn(0), drawn(1)
    targets = {kind: regression_target(make_scheduler("ddim", SCHEDULE | {"prediction_type": kind}), clean, noise, 500)
               for kind in ("epsilon", "sample", "v_prediction")}  # fmt: skip
    assert targets["epsilon"] is noise and targets["sample"] is clean
    scheduler = make_scheduler("ddim", SCHEDULE)
    velocity = scheduler.get_velocity(clean, noise, torch.tensor([500, 500]))
    torch.testing.assert_close(targets["v_prediction"], velocity)


def test_pure_noise_gives_a_finite_estimate():
    scheduler = make_scheduler("ddim", load_preset("compact", "models")["scheduler"] | {"prediction_type": "epsilon"})
    assert clean_estimate(scheduler, drawn(0), drawn(1), 999).isfinite().all()


def test_unknown_kinds_are_refused():
    scheduler = SimpleNamespace(config=SimpleNamespace(prediction_type="flow"))
    with pytest.raises(ModelError, match="expected prediction_type to be one of epsilon, v_prediction, sample, found flow"):
        prediction_kind(scheduler)
