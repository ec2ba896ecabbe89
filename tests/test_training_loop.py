"""The loop on a stage of one linear layer: steps, averages, records, saving, and going on after a stop as if there had been none."""

import errno
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from hicast.config.train_run import TrainSettings
from hicast.errors import OutputError, UsageError
from hicast.losses.terms import weighted_sum
from hicast.training import checkpoint, record
from hicast.training.loop import train
from hicast.training.processes import batch_parts, open_accelerator
from hicast.training.trainer import Trainer, learning_rate


def _equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_loss_of_no_terms_is_refused():
    with pytest.raises(KeyError):
        weighted_sum({}, {})
    assert weighted_sum({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": 0.5}) == 4.0


def test_rate_warms_up_and_falls_to_its_share_or_stays():
    settings = TrainSettings(steps=100, warmup=10, learning_rate=1.0, final_rate=0.1)
    assert [learning_rate(settings, step) for step in (0, 10, 55, 100)] == pytest.approx([0.1, 1.0, 0.55, 0.1])
    constant = TrainSettings(steps=100, warmup=10, learning_rate=1.0, rate="constant")
    assert [learning_rate(constant, step) for step in (4, 10, 99)] == pytest.approx([0.5, 1.0, 1.0])


def test_first_step_is_that_of_the_formulas(toy):
    stage = toy.Stage(warmup=0, clip=0.5, learning_rate=0.1, weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in stage.net.named_parameters()}
    trainer = Trainer(stage, open_accelerator())
    values, _ = trainer.advance([stage.batch(0, range(4))], 0)
    assert values["loss"] == pytest.approx(2 * values["square"] + 0.1 * values["size"])
    for name, value in stage.net.named_parameters():
        moved = value.detach() - before[name]
        assert moved.abs().numpy() == pytest.approx(0.1, rel=1e-3)  # Adam's first step has the length of the rate
        average = trainer.training.ema[f"net.{name}"]
        assert torch.allclose(average, before[name] + 0.9 * moved)  # decay 1 / 10 at the first step


def test_parts_of_a_batch_give_the_same_weights(toy, tmp_path):
    train(toy.Stage(), tmp_path / "whole")
    stage = toy.Stage(accumulate=2)
    train(stage, tmp_path / "parts")
    assert {size for _, size in stage.seen} == {2} and len(stage.seen) == 16
    whole, parts = toy.weights(tmp_path / "whole"), toy.weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_processes_share_the_rows_and_unequal_shares_are_refused():
    settings = TrainSettings(batch_size=12, accumulate=3)
    shares = [batch_parts(settings, 2, process) for process in (0, 1)]
    assert shares == [[range(0, 2), range(2, 4), range(4, 6)], [range(6, 8), range(8, 10), range(10, 12)]]
    with pytest.raises(UsageError, match="batch_size: expected a multiple of 15"):
        batch_parts(settings, 5, 0)


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_run_killed_at_any_step_ends_bit_identical(toy, tmp_path, kill_at, dies_at):
    train(toy.Stage(), tmp_path / "whole")
    killed = toy.Stage()
    kill_at(killed, dies_at)
    with pytest.raises(RuntimeError, match="killed"):
        train(killed, tmp_path / "parts")
    resumed = toy.Stage()
    assert train(resumed, tmp_path / "parts").finished
    assert resumed.seen[0][0] == dies_at // 3 * 3
    assert toy.same_weights(tmp_path / "whole", tmp_path / "parts")
    assert toy.rows(tmp_path / "whole") == toy.rows(tmp_path / "parts")


@pytest.mark.parametrize("number, raised", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signal_saves_after_the_step_in_progress(toy, tmp_path, number, raised):
    train(toy.Stage(), tmp_path / "whole")
    stage, before = toy.Stage(), signal.getsignal(number)
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
    train(toy.Stage(), tmp_path / "parts")
    assert toy.same_weights(tmp_path / "whole", tmp_path / "parts")


def test_last_checkpoints_are_kept_and_drafts_cleared(toy, tmp_path):
    draft = tmp_path / "checkpoints" / ".step-00000001.part"
    draft.mkdir(parents=True)
    train(toy.Stage(keep_checkpoints=2), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    train(toy.Stage(steps=4), tmp_path, resume=False)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    assert [row["step"] for row in toy.rows(tmp_path)] == [1, 2, 3, 4]


def test_full_disk_is_one_error_and_the_checkpoint_before_stays(toy, tmp_path, monkeypatch):
    train(toy.Stage(), tmp_path / "whole")

    def full(tensors, path):
        if "step-00000006" in str(path) and path.name.startswith("optimizer"):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match=r"step-00000006: expected .* No space left on device; make room"):
        train(toy.Stage(), tmp_path / "parts")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000003"]
    train(toy.Stage(), tmp_path / "parts")
    assert toy.same_weights(tmp_path / "whole", tmp_path / "parts")


def test_time_limit_saves_and_goes_on(toy, tmp_path):
    outcome = train(toy.Stage(), tmp_path, max_minutes=0)
    assert (outcome.step, outcome.finished) == (1, False) and toy.weights(tmp_path)
    assert train(toy.Stage(), tmp_path).finished


def test_terms_sheets_and_origin_are_recorded(toy, tmp_path):
    train(toy.Stage(steps=5, sheet_every=2, tensorboard=True, description="toy"), tmp_path)
    assert {"step", "square", "size", "loss", "norm", "rate"} <= toy.rows(tmp_path)[-1].keys()
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


def test_weights_that_come_out_are_the_averages(toy, tmp_path):
    stage = toy.Stage(ema=0.99)
    train(stage, tmp_path)
    stored = load_file(tmp_path / "checkpoints" / "step-00000008" / "ema.safetensors")
    assert _equal(toy.weights(tmp_path), {name.removeprefix("net."): value for name, value in stored.items()})
    assert not _equal(toy.weights(tmp_path), stage.net.state_dict())
