"""The run of a stage from its first step to its model folder: watched, recorded, saved and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hicast.config.train_run import REMARKS, TrainSettings
from hicast.errors import MemoryLimitError, ModelError, UsageError, is_out_of_memory
from hicast.training.checkpoint import (
    NOT_FINITE,
    OUT_OF_MEMORY,
    has_word,
    leave_word,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from hicast.training.data import prefetched
from hicast.training.export import stamp_model
from hicast.training.origins import start_digests
from hicast.training.processes import batch_parts, open_accelerator
from hicast.training.record import Record
from hicast.training.signals import held_signals
from hicast.training.sources import OnNote
from hicast.training.stage import Stage
from hicast.training.trainer import Trainer, is_finite

OnProgress = Callable[[int, int, dict[str, float]], None]

MENDING = ("learning_rate", "clip")
"""Settings that may change when a run goes on that has stopped without a finite loss."""

SMALLER = ("batch_size", "crop", "frames")
"""Settings that may change when a run goes on in which memory ran out."""

SPARING = ("accumulate", "gradient_checkpointing")
"""Settings that may change whenever a run goes on: they spare memory, and what is computed stays the same but for rounding."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the last step, whether all steps are done, and the model folder."""

    step: int
    finished: bool
    folder: Path


def train(stage: Stage, output: Path, *, accelerator: Accelerator | None = None, max_minutes: float | None = None,
          resume: bool = True, on_progress: OnProgress | None = None, on_note: OnNote | None = None) -> Outcome:
    """Run `stage` to its number of steps, resuming from `output/checkpoints`, and write the model to `output`.

    SIGINT and SIGTERM save a checkpoint after the step in progress, then raise KeyboardInterrupt and SystemExit(143).
    Only the main process writes and reports. Raises UsageError when the run in `output` had other settings, frozen nets or data, ModelError
    when the loss stays NaN or infinite, MemoryLimitError when memory runs out, OutputError when the disk is full.
    """
    started, settings = time.monotonic(), stage.settings
    processes = accelerator or open_accelerator(stage.device.type)
    parts = batch_parts(settings, processes.num_processes, processes.process_index)
    run = _Run(stage, output, processes, on_note if processes.is_main_process else None)
    step = first = run.restore() if resume else 0
    with closing(run), run.minding_memory(), held_signals() as ending, torch.random.fork_rng(_gpus(stage.device)):
        run.open_record(first)
        batches = prefetched(lambda at: [stage.batch(at, rows) for rows in parts], first, settings.steps, settings.readers)
        with closing(batches):
            for batch in batches:
                late = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
                values, (leaving, late) = run.trainer.advance(batch, step, (bool(ending), late))
                step += 1
                if on_progress and processes.is_main_process:
                    on_progress(step, settings.steps, values)
                run.look_after(step, values, stopping=leaving or late)
                if leaving:
                    ending.leave()
                if late:
                    break
        run.finish(step)
    return Outcome(step, step >= settings.steps, output)


class _Run:
    """What is written and told about one run; writing is for the main process only."""

    def __init__(self, stage: Stage, output: Path, processes: Accelerator, on_note: OnNote | None) -> None:
        self.stage, self.settings, self.output, self.processes = stage, stage.settings, output, processes
        self.trainer = Trainer(stage, processes)
        self.on_note = on_note
        self.record: Record | None = None
        self.bad_steps, self.saved, self.due = 0, -1, False
        self.origins = stage.stands_on() | start_digests(self.settings, stage.trainable(), output)

    def restore(self) -> int:
        """Load the newest checkpoint, if any; the step to go on from."""
        found = list_checkpoints(self.output / "checkpoints")
        if not found:
            return 0
        state = read_state(found[-1])
        changed = self._allowed(changed_settings(self.settings, state["settings"]), found[-1].parent)
        others = changed_origins(self.origins, state.get("stands_on"))
        if others:
            raise UsageError(f"the run in {self.output} began with other {', '.join(others)}: use these again, another --output, or --no-resume")
        load_checkpoint(found[-1], self.trainer.training)
        if state.get("scaler"):
            self.trainer.scaler.load_state_dict(state["scaler"])
        self.saved = state["step"]
        if changed and self.on_note:
            self.on_note(f"goes on from step {self.saved} with {', '.join(f'{key} {now} (before: {before})' for key, (before, now) in changed.items())}")
        return self.saved

    @contextmanager
    def minding_memory(self) -> Iterator[None]:
        """Where memory runs out in the block, MemoryLimitError that says with which settings the run can go on."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._overfull() from error

    def open_record(self, first: int) -> None:
        """Begin the log, or go on with it after step `first`."""
        if self.processes.is_main_process:
            self.record = Record(self.output, first, self.settings.tensorboard, self.on_note)

    def look_after(self, step: int, values: dict[str, float], stopping: bool) -> None:
        """After step `step`: the log, and a checkpoint and a contact sheet where they are due.

        A checkpoint waits for a finite step, so that none from a run that goes astray takes the place of a good one.
        """
        settings = self.settings
        self._count(step, values)
        if step % settings.log_every == 0 and self.record and is_finite(values):
            self.record.row(step, values)
        self.due |= stopping or step % settings.checkpoint_every == 0
        if self.due and not self.bad_steps:
            self.save(step)
        elif stopping and self.on_note:
            self.on_note(f"step {step}: no checkpoint, since the loss is not finite; the same command goes on from step {max(self.saved, 0)}")
        if settings.sheet_every and step % settings.sheet_every == 0:
            self._draw(step)

    def save(self, step: int) -> None:
        """Write a checkpoint of `step`, unless it is there."""
        if self.processes.is_main_process and self.saved != step:
            state = {
                "settings": self.settings.model_dump(mode="json"),
                "stands_on": self.origins,
                "scaler": self.trainer.scaler.state_dict(),
            }
            save_checkpoint(self.output / "checkpoints", step, self.trainer.training, state, self.settings.keep_checkpoints)
        self.saved, self.due = step, False
        self.processes.wait_for_everyone()

    def finish(self, step: int) -> None:
        """Write the last checkpoint, unless the last step was bad, the last contact sheet and the model with the averaged weights."""
        if not self.bad_steps:
            self.save(step)
        if self.settings.sheet_every and step % self.settings.sheet_every:
            self._draw(step)
        if self.processes.is_main_process:
            with self.trainer.averages():
                self.stage.save(self.output)
            stamp_model(self.output, self.settings, step)
        self.processes.wait_for_everyone()

    def close(self) -> None:
        """Write out what the record still holds."""
        if self.record:
            self.record.close()

    def _count(self, step: int, values: Mapping[str, float]) -> None:
        """Tell of a step that is not finite; ModelError after too many in a row."""
        if is_finite(values):
            self.bad_steps = 0
            return
        self.bad_steps += 1
        text = "the loss or its gradient is not finite"
        if self.record:
            self.record.row(step, {"skipped": text})
        if self.on_note:
            self.on_note(f"step {step}: {text}; the step is left out")
        if self.bad_steps >= self.settings.most_bad_steps:
            raise self._astray()

    def _astray(self) -> ModelError:
        """The error of a run without a finite loss; from here on it can be resumed with other values of `MENDING`."""
        folder, keys = self.output / "checkpoints", " or ".join(MENDING)
        found = f"expected a finite loss, found {self.bad_steps} steps in a row without one"
        if self.saved < 0:
            return ModelError(f"{found}, and no checkpoint before them: begin again with a lower {keys}")
        if self.processes.is_main_process:
            leave_word(folder, NOT_FINITE)
        return ModelError(f"{found}; the last good checkpoint, step {self.saved}, is in {folder}: the same command with a lower {keys} goes on from it")

    def _overfull(self) -> MemoryLimitError:
        """The error of a run that lacks memory; from here on it can be resumed with other values of `SMALLER`."""
        *keys, last = [key for key in SMALLER if hasattr(self.settings, key)]
        advice = f"a lower {', '.join(keys)} or {last}, a higher accumulate, which computes a batch in parts, or gradient_checkpointing=true"
        found, folder = "expected enough memory, found too little", self.output / "checkpoints"
        if self.saved < 0:
            return MemoryLimitError(f"{found}, and no checkpoint yet: begin again with {advice} (each by --set KEY=VALUE), and close other programs")
        leave_word(folder, OUT_OF_MEMORY)
        return MemoryLimitError(f"{found}; the last checkpoint, step {self.saved}, is in {folder}: the same command goes on from it, with {advice} "
                                "(each by --set KEY=VALUE), or when other programs are closed")  # fmt: skip

    def _allowed(self, changed: dict[str, tuple[Any, Any]], folder: Path) -> dict[str, tuple[Any, Any]]:
        """What of `changed` counts and may change where the run stopped as its `folder` of checkpoints tells; UsageError for the rest."""
        free = {*SPARING, *(MENDING if has_word(folder, NOT_FINITE) else ()), *(SMALLER if has_word(folder, OUT_OF_MEMORY) else ())}
        differing = [f"{key} ({before} there, {now} here)" for key, (before, now) in changed.items() if key not in free]
        if differing:
            spare = f"; {' and '.join(SPARING)}, which spare memory too, may change" if set(SMALLER) & set(changed) else ""
            raise UsageError(f"the run in {self.output} has other settings for {', '.join(differing)}: use them again, another --output, or --no-resume{spare}")
        return changed

    def _draw(self, step: int) -> None:
        if self.record is None:
            return
        with self.trainer.averages():
            pixels = self.stage.preview()
        if pixels is not None:
            self.record.sheet(step, pixels)


def changed_settings(settings: TrainSettings, stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys, such as `losses.color`, whose value differs from that `stored` with a checkpoint and matters, with that value and today's.

    Keys that it lacks had their default.
    """
    now, before = settings.model_dump(mode="json"), type(settings)().model_dump(mode="json") | dict(stored)
    return dict(sorted(pair for key in now if key not in REMARKS for pair in _differing(key, before[key], now[key])))


def _differing(key: str, before: Any, now: Any) -> list[tuple[str, tuple[Any, Any]]]:
    """`key` and its values where these differ, or what differs within where both hold keys."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        return [pair for inner in {**before, **now} for pair in _differing(f"{key}.{inner}", before.get(inner), now.get(inner))]
    return [(key, (before, now))] if now != before else []


def changed_origins(now: Mapping[str, str], stored: Mapping[str, str] | None) -> list[str]:
    """What is not as `stored` with a checkpoint, which earlier versions did not do (None)."""
    before = now if stored is None else stored
    return [name for name in {**before, **now} if now.get(name) != before.get(name)]


def _gpus(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []
