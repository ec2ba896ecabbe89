"""Runs that went astray, lacked memory or come back changed: which settings may be others when they go on, and what is refused."""

import json

import pytest
import torch
from torch import nn

from hicast.errors import MemoryLimitError, ModelError, UsageError
from hicast.training import checkpoint
from hicast.training.loop import train


def test_loss_that_is_not_finite_is_left_out_then_stops_the_run(toy, tmp_path):
    stage, notes = toy.Stage(steps=30, most_bad_steps=3), []
    step = stage.step
    stage.step = lambda batch, at: step(batch, at) | ({"square": stage.net.weight.sum() * float("nan")} if at in (2, 5, 6, 7) else {})
    advice = "3 steps in a row without one; the last good checkpoint, step 4, is in .*checkpoints: the same command with a lower learning_rate or"
    with pytest.raises(ModelError, match=advice):
        train(stage, tmp_path, on_note=notes.append)
    assert [note.split(":")[0] for note in notes] == ["step 3", "step 6", "step 7", "step 8"]
    assert [row["step"] for row in toy.rows(tmp_path) if "skipped" in row] == [3, 6, 7, 8]
    assert all(value.isfinite().all() for value in stage.net.state_dict().values())
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "checkpoints")] == ["step-00000004"]


def _goes_astray(stage, at):
    """`stage`, without a finite loss from step `at` on."""
    step = stage.step
    stage.step = lambda batch, now: step(batch, now) | ({"square": stage.net.weight.sum() * float("inf")} if now >= at else {})
    return stage


def test_run_without_a_finite_loss_goes_on_with_a_lower_rate(toy, tmp_path):
    with pytest.raises(ModelError):
        train(_goes_astray(toy.Stage(most_bad_steps=3), 4), tmp_path)
    with pytest.raises(UsageError, match=r"other settings for seed \(0 there, 2 here\): use them again, another --output, or --no-resume$"):
        train(toy.Stage(most_bad_steps=3, learning_rate=1e-4, clip=0.1, seed=2), tmp_path)
    mended = toy.Stage(most_bad_steps=3, learning_rate=1e-4, clip=0.1)
    assert train(mended, tmp_path).finished and mended.seen[0][0] == 3
    with pytest.raises(UsageError, match=r"other settings for learning_rate \(0.0001 there, 1e-05 here\): "):
        train(toy.Stage(most_bad_steps=3, learning_rate=1e-5, clip=0.1), tmp_path)


def test_run_without_a_finite_loss_from_the_start_has_nothing_to_go_on_from(toy, tmp_path):
    with pytest.raises(ModelError, match="without one, and no checkpoint before them: begin again with a lower learning_rate or clip"):
        train(_goes_astray(toy.Stage(most_bad_steps=3, checkpoint_every=1), 0), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert train(toy.Stage(learning_rate=1e-4), tmp_path).finished


def test_run_that_is_stopped_while_its_loss_is_not_finite_keeps_its_checkpoint(toy, tmp_path):
    train(toy.Stage(), tmp_path / "whole")
    notes, clock = [], iter([0.0] * 5 + [61.0] * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hicast.training.loop.time.monotonic", lambda: next(clock))
        train(_goes_astray(toy.Stage(most_bad_steps=3, keep_checkpoints=1), 4), tmp_path / "parts", max_minutes=1, on_note=notes.append)
    assert notes[-1] == "step 5: no checkpoint, since the loss is not finite; the same command goes on from step 3"
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000003"]
    train(toy.Stage(), tmp_path / "parts")
    assert toy.same_weights(tmp_path / "whole", tmp_path / "parts")


def _runs_out(stage, at, error=torch.OutOfMemoryError("CUDA out of memory")):
    """`stage`, for whose step `at` there is no memory."""
    step = stage.step

    def lacks(batch, now):
        if now == at:
            raise error
        return step(batch, now)

    stage.step = lacks
    return stage


def test_run_out_of_memory_goes_on_with_a_smaller_batch(toy, tmp_path):
    message = r"too little; the last checkpoint, step 3, is in .*: the same command goes on from it, with a lower batch_size or crop, a higher accumulate, .*=true \(each by"
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(MemoryLimitError, match=message):
            train(_runs_out(toy.Stage(), 4, error), tmp_path)
    with pytest.raises(UsageError, match=r"other settings for seed \(0 there, 2 here\): "):
        train(toy.Stage(batch_size=2, seed=2), tmp_path)
    with pytest.raises(MemoryLimitError):
        train(_runs_out(toy.Stage(batch_size=3), 3), tmp_path)
    smaller, notes = toy.Stage(batch_size=2), []
    assert train(smaller, tmp_path, on_note=notes.append).finished
    assert smaller.seen[0] == (3, 2) and notes == ["goes on from step 3 with batch_size 2 (before: 4)"]
    assert train(toy.Stage(batch_size=2), tmp_path).finished
    refused = r"batch_size \(2 there, 4 here\): use them again, another --output, or --no-resume; accumulate and gradient_checkpointing, which spare memory too, may change"
    with pytest.raises(UsageError, match=refused):
        train(toy.Stage(), tmp_path)


def test_run_out_of_memory_before_a_checkpoint_begins_again(toy, tmp_path):
    with pytest.raises(MemoryLimitError, match="and no checkpoint yet: begin again with a lower batch_size or crop"):
        train(_runs_out(toy.Stage(), 1), tmp_path)
    assert train(toy.Stage(batch_size=2), tmp_path).finished


def test_what_only_spares_memory_may_change_at_any_time(toy, tmp_path):
    train(toy.Stage(), tmp_path / "whole")
    train(toy.Stage(), tmp_path / "parts", max_minutes=0)
    stage, notes = toy.Stage(accumulate=2, gradient_checkpointing=True), []
    assert train(stage, tmp_path / "parts", on_note=notes.append).finished
    assert notes == ["goes on from step 1 with accumulate 2 (before: 1), gradient_checkpointing True (before: False)"]
    assert stage.seen[0] == (1, 2)
    whole, parts = toy.weights(tmp_path / "whole"), toy.weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_resuming_with_other_settings_says_which(toy, tmp_path):
    train(toy.Stage(steps=2), tmp_path)
    with pytest.raises(UsageError, match=r"other settings for learning_rate \(0.0006 there, 1e-05 here\), seed \(0 there, 4 here\): use them again"):
        train(toy.Stage(steps=2, learning_rate=1e-5, seed=4), tmp_path)
    stage = toy.Stage(steps=2)
    stage.settings = stage.settings.model_copy(update={"losses": {"square": 1.0, "size": 0.1, "more": 1.0}})
    with pytest.raises(UsageError, match=r"other settings for losses.more \(None there, 1.0 here\), losses.square \(2.0 there, 1.0 here\): use them again"):
        train(stage, tmp_path)
    train(toy.Stage(steps=2, checkpoint_every=1, log_every=9, device="cpu"), tmp_path)


def test_resuming_on_other_nets_or_data_says_which(toy, tmp_path):
    train(toy.Stage(), tmp_path, max_minutes=0)
    stage = toy.Stage()
    stage.origins |= {"weights of the net": "3", "files of maps": "4"}
    with pytest.raises(UsageError, match="began with other weights of the net, files of maps: use these again, another --output, or --no-resume"):
        train(stage, tmp_path)
    assert not stage.seen
    assert train(toy.Stage(), tmp_path).finished


def test_checkpoint_of_an_earlier_version_is_resumed(toy, tmp_path):
    train(toy.Stage(steps=8), tmp_path, max_minutes=0)
    path = checkpoint.list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json"
    state = json.loads(path.read_text())
    for key in ("accumulate", "rate", "compile"):
        del state["settings"][key]
    del state["scaler"], state["stands_on"]
    path.write_text(json.dumps(state | {"settings": state["settings"] | {"grid_steps": 4}, "optimizer": []}))
    assert train(toy.Stage(steps=8), tmp_path).finished


def test_checkpoint_of_another_net_is_refused(toy, tmp_path):
    train(toy.Stage(steps=2), tmp_path)
    stage = toy.Stage(steps=2)
    stage.net = nn.Linear(3, 4)
    with pytest.raises(ModelError, match="cannot resume from .*step-00000002"):
        train(stage, tmp_path)
