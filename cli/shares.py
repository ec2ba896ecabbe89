"""Videos shared out over the processes that torchrun or accelerate has started: whole ones, and the pieces of those that are left over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hicast.io.files import PlannedOutput
from hicast.io.film_share import Share

if TYPE_CHECKING:
    from .stylize_video import VideoBatch

PATIENCE = timedelta(days=7)
"""How long processes wait for one another: as long as one of them may have a film to itself."""


def is_follower() -> bool:
    """Whether this is one of several processes and not the first, which speaks for all."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def open_share(stack: ExitStack) -> Share | None:
    """This process among those that were started together, until `stack` closes; None where it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    import torch
    from torch import distributed

    distributed.init_process_group("gloo", timeout=PATIENCE)
    stack.callback(distributed.destroy_process_group)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())

    def gather(said: Any) -> list[Any]:
        everything = [None] * distributed.get_world_size()
        distributed.all_gather_object(everything, said)
        return everything

    return Share(distributed.get_rank(), distributed.get_world_size(), gather)


def run_shared(batch: VideoBatch, plan: Sequence[PlannedOutput], share: Share) -> None:
    """Do `plan` with all processes; the first one's `batch` then holds what all of them have to report, in the order of `plan`.

    As many videos as can be dealt out evenly are done by one process each, the others by all together, piece by piece. What comes
    or goes through a pipe is for the first process alone.
    """
    piped = [item for item in plan if item.source is None or item.target is None]
    files = [item for item in plan if item not in piped]
    dealt = len(files) // share.count * share.count
    batch.run([*(piped if share.leads else ()), *(item for at, item in enumerate(files[:dealt]) if at % share.count == share.rank)])
    batch.share = share
    batch.run(files[dealt:])
    found = share.gather((batch.results, batch.skipped, batch.failed))
    if not share.leads:
        return
    for entry in (entry for results, _, _ in found[1:] for entry in results):
        batch.console.result(entry["output"])
    order = {str(item.source): at for at, item in enumerate(plan)}
    for place, name in enumerate(("results", "skipped", "failed")):
        setattr(batch, name, [entry for said in found for entry in said[place]])
    batch.results.sort(key=lambda entry: order.get(entry["input"], 0))
    batch.failed.sort(key=lambda entry: order.get(entry["input"], 0))
