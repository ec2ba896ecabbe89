"""Settings of a training run: one frozen model per stage, every key of a training preset but those that all have (`train_run`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hicast.config.train_run import NumberRange, Positive, RateRange, Share, ShareOrRange, Side, TrainSettings, Weight

UNPUBLISHED_TERMS = frozenset(
    ("distribution", "color", "transport", "contextual", "content", "relief", "lattice", "repetition", "clouds", "blocks", "reconstruction",
     "target_latent", "target", "target_texture", "target_gram", "target_color")
)
"""Loss terms of the image stage that the published method lacks."""

OF_LATENTS = ("latent", "noise", "target_latent")
"""Loss terms of the image stage that need no decoded picture."""


class AutoencoderTraining(TrainSettings):
    """Stage `autoencoder`: reconstruct photos and paintings through the latent."""

    stage: Literal["autoencoder"] = "autoencoder"
    crop: Side = 96
    learning_rate: Annotated[float, Field(gt=0)] = 1.2e-3
    losses: dict[Literal["l1", "detail", "energy", "perceptual"], Weight] = {
        "l1": 1.0, "detail": 0.5, "energy": 0.2, "perceptual": 0.1
    }  # fmt: skip
    perceptual_from: Share = 0.3
    """Share of the steps after which the perceptual term begins (it is the slow one)."""
    latent_noise: Weight = 0.1
    """Largest standard deviation of noise added to latents before decoding."""
    freeze_encoder: bool = False
    """Train the decoder alone, so that nets trained on the latents stay valid."""
    autoencoder: dict[str, Any] = {}
    """Configuration of `ResidualAutoencoder`, where it differs from that of the model."""


class RepaintTraining(TrainSettings):
    """What the stages share that judge repainted pictures: layers of each term, and what is dropped or drawn."""

    style_layers: dict[str, float] = {"relu1_2": 3.0, "relu2_2": 2.0, "relu3_3": 1.0, "relu4_3": 0.3}
    gram_layers: dict[str, float] = {"relu2_2": 1.0, "relu3_3": 1.0}
    gram_form: Literal["squared", "angle"] = "squared"
    """How `gram` and `target_gram` compare matrices: by their relative squared distance, or by angle and by ratio of their norms, which keeps results strong."""
    distribution_layers: dict[str, float] = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 0.3}
    """Layers whose whole distribution is compared; each must be one of `style_layers`."""
    content_layers: dict[str, float] = {"relu3_3": 0.5, "relu4_1": 1.0}
    style_side: Annotated[int, Field(ge=64)] = 256
    """Short side at which style pictures are encoded, in training and afterwards."""
    drop_style: Share = 0.08
    drop_content: Share = 0.03
    self_pairs: Share = 0.12
    """Share of samples whose content is the style picture itself."""
    style_scale: NumberRange = (0.0, 2.0)
    """Range of the style scale given to the net; 1 is drawn for half of the samples."""
    noise_scale: NumberRange | None = None
    """Range of the share of the noise that the net starts from, drawn for each sample; None is the model's own share."""
    later_steps: Share = 0.25
    """Share of batches at later steps of the sampling grid, from the net's own first estimate."""


class ImageTraining(RepaintTraining):
    """Stage `image`: the latent diffusion model that takes content and style as conditions."""

    stage: Literal["image"] = "image"
    base: str | None = None
    """Stock Stable Diffusion 1.5 that a fresh model starts from: a folder in diffusers layout, a .safetensors file, or a hub id."""
    vae: Path | None = None
    """Another autoencoder than that of `base`: a folder in diffusers layout, or a .safetensors file."""
    reference: bool = False
    """Published losses, mistakes included, for a net that predicts noise: `latent`, `noise`, `style`, `gram`, `adversarial` and `patch` only."""
    trained: Annotated[tuple[Literal["net", "decoder"], ...], Field(min_length=1)] = ("net",)
    """What learns: the net, the autoencoder's decoder, or both; a decoder that learns wants `reconstruction` among the losses."""
    coloring: Annotated[float, Field(ge=0, le=4)] | None = None
    """How far predicted latents are moved to the moments of the painting's for each unit of style scale, at most wholly; None keeps what the model says."""
    matching: Annotated[float, Field(ge=0, le=4)] | None = None
    """How far, likewise, they are then moved to the distribution of the painting's; None keeps what the model says."""
    cached_crops: Annotated[int, Field(ge=0)] = 0
    """Crops of each picture that are drawn once and whose latents are kept on disk, in place of new ones for every sample; 0 for none."""
    targets: Path | None = None
    """Folder of another method's results to learn from: `pairs.csv` (content,style) and result k of it as `k.jpg`."""
    losses: dict[Literal["style", "distribution", "gram", "color", "transport", "contextual", "content",
                         "relief", "lattice", "repetition", "clouds", "blocks", "reconstruction", "latent", "noise", "target_latent", "target", "target_texture", "target_gram", "target_color", "adversarial", "patch"], Weight] = {
        "style": 6.0, "content": 0.6, "lattice": 3.0, "latent": 1.0
    }  # fmt: skip
    target_layers: dict[str, float] = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_1": 1.0}
    """Layers at which a result is compared place by place."""
    texture_layers: dict[str, float] = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0}
    """Layers at which the strength of its texture is compared in windows."""
    target_gram_layers: dict[str, float] = {"relu2_2": 1.0, "relu3_3": 1.0, "relu4_1": 1.0}
    transport_layers: dict[str, float] = {"relu3_1": 1.0, "relu4_1": 1.0}
    """Layers at which neighbourhoods are matched with those of a crop of the painting."""
    contextual_layers: dict[str, float] = {"relu3_1": 1.0, "relu4_1": 1.0}
    """Layers at which every neighbourhood of such a crop shall have one that is like it."""
    discriminator_width: Annotated[float, Field(gt=0)] = 0.25
    """Channels of the discriminator of crops, as a share of the published ones."""
    patch_base: Positive = 8
    """Channels that the discriminator of patches begins with; 32 as published."""
    discriminator_rate: Annotated[float, Field(gt=0)] = 1.0
    """Learning rate of the discriminators, as a share of `learning_rate`."""
    discriminator_every: Positive = 1
    """Steps between those in which the discriminators learn; 10 as published."""
    r1: Weight = 0.0
    """Weight of the squared slope at real crops, which steadies the discriminator of crops."""
    unet: dict[str, Any] = {}
    """Configuration of the U-Net, where it differs from that of the model."""

    def optimizer(self, module: str) -> dict[str, Any]:
        """As for every stage; discriminators have no momentum (reference, 7.3) and a rate of their own.

        Between their steps their gradient is 0, which the mean of its squares takes in: `discriminator_every` is evened out, so
        that a step is as long as if they were the only ones.
        """
        if not module.endswith("discriminator"):
            return super().optimizer(module)
        every = self.discriminator_every
        return {"scale": self.discriminator_rate / every**0.5, "betas": (0.0, 0.99 ** (1 / every)), "weight_decay": 0.0}


class AdapterTraining(RepaintTraining):
    """Stage `adapter`: what one control adds to a net that stays as it is."""

    stage: Literal["adapter"] = "adapter"
    control: Literal["edge", "depth", "seg"] | None = None
    """Which control the adapter is for."""
    extractor: str | None = None
    """What draws its maps; the control's own default without it."""
    loss_extractor: str | None = None
    """What both pictures are compared by, where it is not `extractor`; of any control, but with a gradient."""
    extractor_weights: dict[str, str] = {}
    """Files or folders of weights by the name of the extractor."""
    maps: Path | None = None
    """Folder of maps drawn before, a mirror of the content folder with the same stems, as .png."""
    losses: dict[Literal["control", "style", "distribution", "gram", "color", "content", "relief", "lattice", "repetition", "clouds", "blocks", "latent", "outside"],
                 Weight] = {"control": 1.0, "style": 0.05}  # fmt: skip
    drop_style: Share = 0.1
    drop_content: Share = 0.3
    self_pairs: Share = 0.0
    adapter: dict[str, Any] = {"adapter_type": "full_adapter", "num_res_blocks": 2}
    """Configuration of diffusers' `T2IAdapter`; its channels are those of the U-Net unless given."""
    biases: bool = True
    """Without them the adapter gives nothing for a black map and acts as strongly as the map is bright."""
    partial: Share = 0.0
    """Share of samples whose map is black on one side of a cut, where the loss `outside` wants the picture as it is without adapter."""
    reference: bool = False
    """Compute the terms and draw the samples as published, also where that has no gradient."""


class TemporalTraining(TrainSettings):
    """Stage `temporal`: layers that make a clip steady, in a net for pictures that stays as it is. A sample is a clip."""

    stage: Literal["temporal"] = "temporal"
    reference: bool = False
    """Terms and trained layers as published (reference, 7.7), with the same noise in every step; see `losses.published`."""
    losses: dict[Literal["noise", "image", "contrast", "correlation", "warp"], Weight] = {
        "noise": 0.01, "image": 2.0, "contrast": 0.1, "correlation": 0.1, "warp": 1.0
    }  # fmt: skip
    batch_size: Positive = 2
    frames: Annotated[int, Field(ge=2, le=64)] = 8
    frame_rate: RateRange = (8.0, 8.0)
    """Frames per second that clips are thinned to, a rate for each drawn from this range."""
    stills: Share = 0.5
    """Share of clips that are moving crops of the pictures in `content`, where there are clips in `video` too."""
    grain: Weight = 0.0
    """Largest standard deviation, in levels of 255, of noise added to the frames of moving crops."""
    shared_noise: ShareOrRange = (0.0, 0.0)
    """Share of the noise's variance that all frames have in common, one for each clip drawn from this range."""
    residual_threshold: Share = 0.1
    """Change of a pixel, relative to the greatest in the clip, above which it gets noise of its own; 0 gives it to all."""
    noised: Literal["content", "estimate"] = "content"
    """What noise is added to before the last timestep: the content's latents as published, or the net's own first estimate."""
    later_steps: Share = 1.0
    """Share of batches at a timestep drawn from all; the others are at the last one, where sampling begins."""
    style_side: Annotated[int, Field(ge=64)] = 256
    """Short side at which style pictures are encoded."""
    style_scale: NumberRange = (1.0, 1.0)
    """Range of the style scale given to a net that takes one; 1 is drawn for half of the clips."""
    temporal: dict[str, Any] = {}
    """Choices of fresh temporal layers, where they differ from those of the model."""
