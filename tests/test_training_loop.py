"""The loop on a stage of one linear layer: steps, averages, saving, resuming, ending."""

import errno
import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hicast.config.train import TrainSettings
from hicast.errors import MemoryLimitError, ModelError, OutputError, UsageError
from hicast.losses.terms import weighted_sum
from hicast.training import checkpoint, record
from hicast.training.data import sample_generator
from hicast.training.loop import train
from hicast.training.processes import batch_parts, open_accelerator
from hicast.training.trainer import Trainer, learning_rate


class ToySettings(TrainSettings):
    """Settings of the stage below."""

    stage: str = "toy"


class ToyStage:
    """Learns to double three numbers."""

    def __init__(self, **changes):
        values = {"steps": 8, "batch_size": 4, "warmup": 2, "checkpoint_every": 3, "log_every": 1, "sheet_every": 0, "tensorboard": False}
        self.settings = ToySettings(losses={"square": 2.0, "size": 0.1}, **(values | changes))
        self.device = torch.device("cpu")
        torch.manual_seed(0)
        self.net = nn.Linear(3, 3)
        self.seen = []
        self.origins = {"weights of the net": "1", "files of content": "2"}

    def trainable(self):
        return {"net": self.net}

    def stands_on(self):
        return dict(self.origins)

    def batch(self, step, rows):
        drawn = [sample_generator(0, step * self.settings.batch_size + row).normal(size=3) for row in rows]
        return torch.tensor(np.stack(drawn), dtype=torch.float32)

    def step(self, batch, step):
        self.seen.append((step, len(batch)))
        return {"square": (self.net(batch) - 2 * batch).square().mean(), "size": self.net(batch).abs().mean()}

    def preview(self):
        return np.full((8, 8, 3), 100, np.uint8)

    def save(self, folder):
        (folder / "net").mkdir(exist_ok=True)
        save_file(self.net.state_dict(), folder / "net" / "diffusion_pytorch_model.safetensors")


def _weights(folder):
    return load_file(folder / "net" / "diffusion_pytorch_model.safetensors")


def _equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def _rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_loss_of_no_terms_is_refused():
    with pytest.raises(KeyError):
        weighted_sum({}, {})
    assert weighted_sum({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": 0.5}) == 4.0


def test_rate_warms_up_and_falls_to_its_share_or_stays():
    settings = TrainSettings(steps=100, warmup=10, learning_rate=1.0, final_rate=0.1)
    assert [learning_rate(settings, step) for step in (0, 10, 55, 100)] == pytest.approx([0.1, 1.0, 0.55, 0.1])
    constant = TrainSettings(steps=100, warmup=10, learning_rate=1.0, rate="constant")
    assert [learning_rate(constant, step) for step in (4, 10, 99)] == pytest.approx([0.5, 1.0, 1.0])


def test_first_step_is_that_of_the_formulas():
    stage = ToyStage(warmup=0, clip=0.5, learning_rate=0.1, weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in stage.net.named_parameters()}
    trainer = Trainer(stage, open_accelerator())
    values, _ = trainer.advance([stage.batch(0, range(4))], 0)
    assert values["loss"] == pytest.approx(2 * values["square"] + 0.1 * values["size"])
    for name, value in stage.net.named_parameters():
        moved = value.detach() - before[name]
        assert moved.abs().numpy() == pytest.approx(0.1, rel=1e-3)  # Adam's first step has the length of the rate
        average = trainer.training.ema[f"net.{name}"]
        assert torch.allclose(average, before[name] + 0.9 * moved)  # decay 1 / 10 at the first step


def test_parts_of_a_batch_give_the_same_weights(tmp_path):
    train(ToyStage(), tmp_path / "whole")
    stage = ToyStage(accumulate=2)
    train(stage, tmp_path / "parts")
    assert {size for _, size in stage.seen} == {2} and len(stage.seen) == 16
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_processes_share_the_rows_and_unequal_shares_are_refused():
    settings = TrainSettings(batch_size=12, accumulate=3)
    shares = [batch_parts(settings, 2, process) for process in (0, 1)]
    assert shares == [[range(0, 2), range(2, 4), range(4, 6)], [range(6, 8), range(8, 10), range(10, 12)]]
    with pytest.raises(UsageError, match="batch_size: expected a multiple of 15"):
        batch_parts(settings, 5, 0)


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_run_killed_at_any_step_ends_bit_identical(tmp_path, dies_at):
    train(ToyStage(), tmp_path / "whole")
    killed = ToyStage()
    step = killed.step

    def dies(batch, at):
        if at == dies_at:
            raise RuntimeError("killed")
        return step(batch, at)

    killed.step = dies
    with pytest.raises(RuntimeError, match="killed"):
        train(killed, tmp_path / "parts")
    resumed = ToyStage()
    assert train(resumed, tmp_path / "parts").finished
    assert resumed.seen[0][0] == dies_at // 3 * 3
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "parts")


@pytest.mark.parametrize("number, raised", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signal_saves_after_the_step_in_progress(tmp_path, number, raised):
    train(ToyStage(), tmp_path / "whole")
    stage, before = ToyStage(), signal.getsignal(number)
    step = stage.step

    def signalled(batch, at):
        if at == 3:
            os.kill(os.getpid(), number)
        return step(batch, at)

    stage.step = signalled
    with pytest.raises(raised) as caught:
        train(stage, tmp_path / "parts")
    assert raised is KeyboardInterrupt or caught.value.code == 143
    assert signal.getsignal(number) == before
    assert stage.seen[-1][0] == 4 and checkpoint.list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "step-00000005"
    train(ToyStage(), tmp_path / "parts")
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def test_last_checkpoints_are_kept_and_drafts_cleared(tmp_path):
    draft = tmp_path / "checkpoints" / ".step-00000001.part"
    draft.mkdir(parents=True)
    train(ToyStage(keep_checkpoints=2), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    train(ToyStage(steps=4), tmp_path, resume=False)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert [row["step"] for row in _rows(tmp_path)] == [1, 2, 3, 4]


def test_full_disk_is_one_error_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    train(ToyStage(), tmp_path / "whole")

    def full(tensors, path):
        if "step-00000006" in str(path) and path.name.startswith("optimizer"):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match=r"step-00000006: expected .* No space left on device; make room"):
        train(ToyStage(), tmp_path / "parts")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000003"]
    train(ToyStage(), tmp_path / "parts")
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def test_loss_that_is_not_finite_is_left_out_then_stops_the_run(tmp_path):
    stage, notes = ToyStage(steps=30, most_bad_steps=3), []
    step = stage.step
    stage.step = lambda batch, at: step(batch, at) | ({"square": stage.net.weight.sum() * float("nan")} if at in (2, 5, 6, 7) else {})
    advice = "3 steps in a row without one; the last good checkpoint, step 4, is in .*checkpoints: the same command with a lower learning_rate or"
    with pytest.raises(ModelError, match=advice):
        train(stage, tmp_path, on_note=notes.append)
    assert [note.split(":")[0] for note in notes] == ["step 3", "step 6", "step 7", "step 8"]
    assert [row["step"] for row in _rows(tmp_path) if "skipped" in row] == [3, 6, 7, 8]
    assert all(value.isfinite().all() for value in stage.net.state_dict().values())
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "checkpoints")] == ["step-00000004"]


def _goes_astray(at, **changes):
    """A stage without a finite loss from step `at` on."""
    stage = ToyStage(most_bad_steps=3, **changes)
    step = stage.step
    stage.step = lambda batch, now: step(batch, now) | ({"square": stage.net.weight.sum() * float("inf")} if now >= at else {})
    return stage


def test_run_without_a_finite_loss_goes_on_with_a_lower_rate(tmp_path):
    with pytest.raises(ModelError):
        train(_goes_astray(4), tmp_path)
    with pytest.raises(UsageError, match=r"other settings for seed \(0 there, 2 here\): use them again, another --output, or --no-resume$"):
        train(ToyStage(most_bad_steps=3, learning_rate=1e-4, clip=0.1, seed=2), tmp_path)
    mended = ToyStage(most_bad_steps=3, learning_rate=1e-4, clip=0.1)
    assert train(mended, tmp_path).finished and mended.seen[0][0] == 3
    with pytest.raises(UsageError, match=r"other settings for learning_rate \(0.0001 there, 1e-05 here\): "):
        train(ToyStage(most_bad_steps=3, learning_rate=1e-5, clip=0.1), tmp_path)


def test_run_without_a_finite_loss_from_the_start_has_nothing_to_go_on_from(tmp_path):
    with pytest.raises(ModelError, match="without one, and no checkpoint before them: begin again with a lower learning_rate or clip"):
        train(_goes_astray(0, checkpoint_every=1), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert train(ToyStage(learning_rate=1e-4), tmp_path).finished


def test_run_that_is_stopped_while_its_loss_is_not_finite_keeps_its_checkpoint(tmp_path):
    train(ToyStage(), tmp_path / "whole")
    notes, clock = [], iter([0.0] * 5 + [61.0] * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hicast.training.loop.time.monotonic", lambda: next(clock))
        train(_goes_astray(4, keep_checkpoints=1), tmp_path / "parts", max_minutes=1, on_note=notes.append)
    assert notes[-1] == "step 5: no checkpoint, since the loss is not finite; the same command goes on from step 3"
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000003"]
    train(ToyStage(), tmp_path / "parts")
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def _runs_out(at, error=torch.OutOfMemoryError("CUDA out of memory"), **changes):
    """A stage for whose step `at` there is no memory."""
    stage = ToyStage(**changes)
    step = stage.step

    def lacks(batch, now):
        if now == at:
            raise error
        return step(batch, now)

    stage.step = lacks
    return stage


def test_run_out_of_memory_goes_on_with_a_smaller_batch(tmp_path):
    message = r"too little; the last checkpoint, step 3, is in .*: the same command goes on from it, with a lower batch_size or crop, a higher accumulate, .*=true \(each by"
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(MemoryLimitError, match=message):
            train(_runs_out(4, error), tmp_path)
    with pytest.raises(UsageError, match=r"other settings for seed \(0 there, 2 here\): "):
        train(ToyStage(batch_size=2, seed=2), tmp_path)
    with pytest.raises(MemoryLimitError):
        train(_runs_out(3, batch_size=3), tmp_path)
    smaller, notes = ToyStage(batch_size=2), []
    assert train(smaller, tmp_path, on_note=notes.append).finished
    assert smaller.seen[0] == (3, 2) and notes == ["goes on from step 3 with batch_size 2 (before: 4)"]
    assert train(ToyStage(batch_size=2), tmp_path).finished
    refused = r"batch_size \(2 there, 4 here\): use them again, another --output, or --no-resume; accumulate and gradient_checkpointing, which spare memory too, may change"
    with pytest.raises(UsageError, match=refused):
        train(ToyStage(), tmp_path)


def test_run_out_of_memory_before_a_checkpoint_begins_again(tmp_path):
    with pytest.raises(MemoryLimitError, match="and no checkpoint yet: begin again with a lower batch_size or crop"):
        train(_runs_out(1), tmp_path)
    assert train(ToyStage(batch_size=2), tmp_path).finished


def test_what_only_spares_memory_may_change_at_any_time(tmp_path):
    train(ToyStage(), tmp_path / "whole")
    train(ToyStage(), tmp_path / "parts", max_minutes=0)
    stage, notes = ToyStage(accumulate=2, gradient_checkpointing=True), []
    assert train(stage, tmp_path / "parts", on_note=notes.append).finished
    assert notes == ["goes on from step 1 with accumulate 2 (before: 1), gradient_checkpointing True (before: False)"]
    assert stage.seen[0] == (1, 2)
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_resuming_with_other_settings_says_which(tmp_path):
    train(ToyStage(steps=2), tmp_path)
    with pytest.raises(UsageError, match=r"other settings for learning_rate \(0.0006 there, 1e-05 here\), seed \(0 there, 4 here\): use them again"):
        train(ToyStage(steps=2, learning_rate=1e-5, seed=4), tmp_path)
    stage = ToyStage(steps=2)
    stage.settings = stage.settings.model_copy(update={"losses": {"square": 1.0, "size": 0.1, "more": 1.0}})
    with pytest.raises(UsageError, match=r"other settings for losses.more \(None there, 1.0 here\), losses.square \(2.0 there, 1.0 here\): use them again"):
        train(stage, tmp_path)
    train(ToyStage(steps=2, checkpoint_every=1, log_every=9, device="cpu"), tmp_path)


def test_resuming_on_other_nets_or_data_says_which(tmp_path):
    train(ToyStage(), tmp_path, max_minutes=0)
    stage = ToyStage()
    stage.origins |= {"weights of the net": "3", "files of maps": "4"}
    with pytest.raises(UsageError, match="began with other weights of the net, files of maps: use these again, another --output, or --no-resume"):
        train(stage, tmp_path)
    assert not stage.seen
    assert train(ToyStage(), tmp_path).finished


def test_checkpoint_of_an_earlier_version_is_resumed(tmp_path):
    train(ToyStage(steps=8), tmp_path, max_minutes=0)
    path = checkpoint.list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json"
    state = json.loads(path.read_text())
    for key in ("accumulate", "rate", "compile"):
        del state["settings"][key]
    del state["scaler"], state["stands_on"]
    path.write_text(json.dumps(state | {"settings": state["settings"] | {"grid_steps": 4}, "optimizer": []}))
    assert train(ToyStage(steps=8), tmp_path).finished


def test_checkpoint_of_another_net_is_refused(tmp_path):
    train(ToyStage(steps=2), tmp_path)
    stage = ToyStage(steps=2)
    stage.net = nn.Linear(3, 4)
    with pytest.raises(ModelError, match="cannot resume from .*step-00000002"):
        train(stage, tmp_path)


def test_time_limit_saves_and_goes_on(tmp_path):
    outcome = train(ToyStage(), tmp_path, max_minutes=0)
    assert (outcome.step, outcome.finished) == (1, False) and _weights(tmp_path)
    assert train(ToyStage(), tmp_path).finished


def test_terms_sheets_and_origin_are_recorded(tmp_path):
    train(ToyStage(steps=5, sheet_every=2, tensorboard=True, description="toy"), tmp_path)
    assert {"step", "square", "size", "loss", "norm", "rate"} <= _rows(tmp_path)[-1].keys()
    assert [path.name for path in sorted((tmp_path / "sheets").iterdir())] == [f"step-0000000{step}.png" for step in (2, 4, 5)]
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"square", "size", "loss"} <= set(events.Tags()["scalars"]) and events.Tags()["images"] == ["sheet"]
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]


def test_missing_tensorboard_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    notes = []
    record.Record(tmp_path, 0, True, notes.append).close()
    assert len(notes) == 1 and "pip install tensorboard" in notes[0]


def test_weights_that_come_out_are_the_averages(tmp_path):
    stage = ToyStage(ema=0.99)
    train(stage, tmp_path)
    stored = load_file(tmp_path / "checkpoints" / "step-00000008" / "ema.safetensors")
    assert _equal(_weights(tmp_path), {name.removeprefix("net."): value for name, value in stored.items()})
    assert not _equal(_weights(tmp_path), stage.net.state_dict())
