"""Settings that every training run has, whatever its stage, and the kinds of values that stages name theirs by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Side = Annotated[int, Field(ge=32, multiple_of=32)]


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"expected the smaller number first, found {pair[0]:g} before {pair[1]:g}")
    return pair


def _range(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_several)]
"""One path or a list of them."""

ShareRange = Annotated[tuple[Share, Share], AfterValidator(_rising)]

ShareOrRange = Annotated[ShareRange, BeforeValidator(_range)]
"""The least and the largest share to draw from, or one share."""

RateRange = Annotated[tuple[Rate, Rate], BeforeValidator(_range), AfterValidator(_rising)]
"""The least and the largest rate to draw from, or one rate."""

NumberRange = Annotated[tuple[float, float], BeforeValidator(_range), AfterValidator(_rising)]
"""The least and the largest number to draw from, or one number."""

REMARKS = frozenset(
    ("description", "content", "style", "video", "targets", "maps", "extractor_weights", "output", "start", "base", "vae", "model", "device",
     "checkpoint_every", "keep_checkpoints",
     "log_every", "sheet_every", "sheet_steps", "tensorboard", "cache_gigabytes", "readers", "most_bad_steps")
)  # fmt: skip
"""Keys that do not change what a run computes, so that it can be resumed with others: names of places count by what lies there."""


class TrainSettings(BaseModel):
    """What every stage shares: data, length, optimizer, precision, saving. Rates are per step, sides in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    description: str = ""
    content: Paths = ()
    """Folders of photos, or tar shards."""
    style: Paths = ()
    """Folders of paintings, or tar shards."""
    video: Paths = ()
    """Folders of clips, or tar shards."""
    output: Path | None = None
    """Where the model, its checkpoints and its log go."""
    start: Annotated[str | None, Field(alias="from")] = None
    """Result of an earlier stage that the run begins with, or the name of a shipped model."""
    model: str = "compact"
    """Which net: a name of `presets/models`, or a model folder whose shape is taken."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: int = 0
    steps: Positive = 1000
    batch_size: Positive = 16
    """Samples of one optimizer step, over all processes and parts."""
    accumulate: Positive = 1
    """Parts that a process computes its share of the batch in, one after the other, to save memory."""
    crop: Side = 128
    zoom: ShareRange = (0.35, 1.0)
    """Least and largest share of a picture's short side that a crop covers."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    rate: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    final_rate: Share = 0.02
    """Learning rate at the end of the cosine, as a share of `learning_rate`."""
    warmup: Annotated[int, Field(ge=0)] = 100
    betas: tuple[Share, Share] = (0.9, 0.99)
    weight_decay: Weight = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Decay of the averaged weights, which are those that come out."""
    losses: dict[str, Weight] = {}
    """Weight of each loss term; one that is not named, or named with 0, is not computed."""
    frozen_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Precision of nets that are not trained; weights that train are float32. float16 on a GPU only, the loss scaled and VGG-16 in float32."""
    autocast: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the trained nets' arithmetic; float16 on a GPU only, its loss scaled."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile the trained nets, which takes minutes at the start."""
    checkpoint_every: Positive = 500
    keep_checkpoints: Positive = 2
    log_every: Positive = 20
    sheet_every: Annotated[int, Field(ge=0)] = 500
    """Steps between contact sheets of fixed samples; 0 for none."""
    sheet_steps: Annotated[int, Field(ge=1, le=100)] = 4
    """Sampling steps of the pictures on a contact sheet."""
    tensorboard: bool = True
    """Write scalars and sheets for TensorBoard, where it is installed."""
    most_bad_steps: Positive = 20
    """Steps in a row without a finite loss and gradient that end the run."""
    cache_gigabytes: Weight = 4.0
    """Memory for decoded pictures; beyond it files are decoded again."""
    readers: Positive = 1
    """Threads that prepare batches."""
    image_side: Annotated[int, Field(ge=64)] = 384
    """Pictures are reduced to this short side when they are read."""

    def optimizer(self, module: str) -> dict[str, Any]:
        """Options of AdamW for the trained `module`, and `scale`, its learning rate as a share of `learning_rate`."""
        return {"scale": 1.0, "betas": self.betas, "weight_decay": self.weight_decay}
