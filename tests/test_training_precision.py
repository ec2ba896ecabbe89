"""Precision of the nets that do not train: in the stages that keep the net for pictures, it computes as `frozen_dtype` says."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hicast.cli.main import run
from hicast.config.presets import load_preset
from hicast.config.train import AdapterTraining, ImageTraining
from hicast.config.train_layers import contradictions
from hicast.errors import UsageError
from hicast.models.device import statistics_dtype
from hicast.training.activations import Activations
from hicast.training.memory import LIBRARIES, Counts, count, expected
from hicast.training.processes import check_precision, open_accelerator
from hicast.training.run import STAGES
from hicast.training.stage import Stage
from hicast.training.trainer import Trainer


def dtypes(*modules: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for module in modules for parameter in module.parameters()}


def predicted(stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
    """What the net with its adapter makes of the first batch, and the gradient of its energy on the adapter."""
    batch = stage.batch(0, range(4))
    clean = stage.encode(batch.content)
    estimate = stage.own_estimate(batch, stage.conditions(batch, clean, stage._residuals(stage.drawing.draw(batch.photo))))
    gradients = torch.autograd.grad(estimate.square().mean(), [p for p in stage.adapter.parameters() if p.requires_grad])
    return estimate.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("base", [None, Path("base")], ids=["fresh", "from a base"])
def test_frozen_net_of_an_adapter_computes_in_bfloat16_and_the_adapter_in_float32(stage_of, base):
    plain, lean = (stage_of(base=base, crop=96, frozen_dtype=dtype) for dtype in ("float32", "bfloat16"))  # at 32 norms see one pixel
    assert dtypes(plain.model) == {torch.float32} and dtypes(lean.model, lean.codec.autoencoder, lean.vgg) == {torch.bfloat16}
    assert dtypes(lean.adapter) == {torch.float32} and not any(p.requires_grad for p in lean.model.parameters())
    assert (lean.pipeline.model is lean.model) == (base is not None), "a copy only where the original is yet to be saved"
    (estimate, gradient), (rounded, other) = predicted(plain), predicted(lean)
    assert rounded.dtype == other.dtype == torch.float32 and not torch.equal(rounded, estimate)
    assert (rounded - estimate).norm() < 0.05 * estimate.norm() and torch.cosine_similarity(gradient, other, dim=0) > 0.98


def test_a_fresh_net_is_saved_with_its_own_precision(stage_of, tmp_path):
    from safetensors.torch import load_file

    stage = stage_of(frozen_dtype="bfloat16")
    expected = copy.deepcopy(stage.pipeline.model.unet.state_dict())
    stage.save(tmp_path / "out")
    found = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert found["conv_in.weight"].dtype == torch.float32 and torch.equal(found["conv_in.weight"], expected["conv_in.weight"])


def test_float16_scales_the_loss_and_leaves_style_statistics_in_float32(stage_of):
    """On the CPU, where it is slow; steps whose scaled gradients overflow change nothing, until the scale has fallen enough."""
    assert [statistics_dtype(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)] == [torch.float32, torch.bfloat16, torch.float32]
    stage = stage_of(frozen_dtype="float16", batch_size=2, losses={"control": 1.0, "style": 1.0})
    assert dtypes(stage.model, stage.codec.autoencoder) == {torch.float16} and dtypes(stage.vgg, stage.adapter) == {torch.float32}
    trainer = Trainer(stage, open_accelerator("cpu"))
    assert trainer.scaler.is_enabled() and not Trainer(stage_of(), open_accelerator("cpu")).scaler.is_enabled()
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    for step in range(20):
        assert trainer.advance([stage.batch(step, range(2))], step)[0]["loss"] > 0
        if any(not torch.equal(before[name], value) for name, value in trainer.parameters.items()):
            break
    else:
        pytest.fail("no step has changed the adapter")
    assert all(value.isfinite().all() for value in trainer.parameters.values())


def test_float16_is_refused_on_a_cpu_named_or_found(workplace, monkeypatch, capsys):
    for key in ("autocast", "frozen_dtype"):
        assert contradictions(ImageTraining(**{key: "float16"}, device="cpu")) == [
            f"{key}: expected bfloat16 or float32 on a CPU, found float16; change it or the device"
        ]
        with pytest.raises(UsageError, match=f"{key}: expected a GPU for float16, found the CPU, which is far too slow at it; --set {key}=bfloat16"):
            check_precision(ImageTraining(**{key: "float16"}), torch.device("cpu"))
        check_precision(ImageTraining(**{key: "float16"}), torch.device("cuda"))
    monkeypatch.setattr("hicast.training.processes.open_accelerator", lambda device: SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0))
    words = ["--stage", "image", "--preset", "debug-image", "--content", "photos", "--style", "paintings", "-o", "out", "--device", "auto"]
    assert run(["train", *words, "--set", "frozen_dtype=float16"]) == 2
    error = capsys.readouterr().err
    assert "frozen_dtype: expected a GPU for float16, found the CPU" in error and error.count("\n") == 1


def test_memory_told_before_knows_the_precision_of_the_frozen_net():
    values = {key: value for key, value in load_preset("compact-adapter", "train").items() if key not in ("stage", "description")}
    settings = AdapterTraining(**values, control="edge")
    counts = {kind: count(STAGES["adapter"].outline(settings.model_copy(update={"frozen_dtype": kind}))) for kind in ("float32", "bfloat16", "float16")}
    unet, vgg = 13.4e6, 14_714_688
    assert counts["float32"].frozen - counts["bfloat16"].frozen == pytest.approx(2 * unet + 2 * (vgg + 1.26e6), rel=0.03)
    assert counts["float16"].frozen - counts["bfloat16"].frozen == 2 * vgg
    assert counts["bfloat16"].predict.whole < 0.7 * counts["float32"].predict.whole
    fresh = {kind: count(STAGES["adapter"].outline(settings.model_copy(update={"frozen_dtype": kind, "model": "debug"}))).frozen for kind in ("float32", "bfloat16")}
    assert fresh["bfloat16"] > fresh["float32"] - 2 * (vgg + 1.26e6), "the fresh net has a copy, so its original counts too"


def test_reading_the_nets_counts_where_it_is_the_worst_moment():
    """Nets are read in float32 and then cast: for a lean run that may need more than the run itself."""
    cpu, none = torch.device("cpu"), Activations(0, 0, 0)
    lean = Counts(trained=4 * 10**6, frozen=2 * 10**9, predict=none, judge=none, loading=4 * 10**9)
    parts = expected(ImageTraining(), lean, {}, cpu)
    assert sum(parts.values()) == 4 * 10**9 + 4 * 10**6 + LIBRARIES and parts["loading"] > 10**9
    assert "loading" not in expected(ImageTraining(), replace(lean, loading=10**9), {}, cpu)
    assert lean.scaled(0.5).loading == lean.loading
    values = {key: value for key, value in load_preset("compact-adapter", "train").items() if key not in ("stage", "description")}
    found = count(STAGES["adapter"].outline(AdapterTraining(**values, control="edge"))).loading
    assert found == pytest.approx(4 * (13.4e6 + 14_714_688 + 1.26e6) + 2 * 14_714_688, rel=0.03)
