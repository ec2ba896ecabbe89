"""Training clips from both kinds of material: videos tracked by optical flow, and moving crops of pictures."""

from __future__ import annotations

import numpy as np

from hicast.config.train import TemporalTraining
from hicast.training.clips import ClipPool
from hicast.training.data import PicturePool
from hicast.training.moving_stills import moving_still
from hicast.training.sources import OnNote
from hicast.training.tracks import TrackedClip, follow


class ClipSource:
    """The clips of a run; from `video` alone, from `content` alone, or from both by the share `stills`."""

    def __init__(self, settings: TemporalTraining, on_note: OnNote | None = None) -> None:
        """List the material of `settings`; InputError when a place is missing or holds none."""
        self.settings = settings
        room = int(settings.cache_gigabytes * 2**30)
        self.videos = ClipPool(settings.video, on_note) if settings.video else None
        self.pictures = PicturePool(settings.content, settings.image_side, room, on_note) if settings.content else None

    def draw(self, random: np.random.Generator) -> TrackedClip:
        """A clip of the settings' frames and crop; all that is drawn for it comes from `random`."""
        settings = self.settings
        still = random.random() < settings.stills
        if self.videos and not (self.pictures and still):
            slow, fast = settings.frame_rate
            rate = slow * (fast / slow) ** random.random()
            at = int(random.integers(len(self.videos)))
            return follow(np.ascontiguousarray(self.videos.clip(at, settings.frames, settings.crop, settings.zoom, random, rate)))
        picture = self.pictures[int(random.integers(len(self.pictures)))]
        clip = moving_still(picture, settings.frames, settings.crop, settings.zoom, random)
        return TrackedClip(self._grained(clip.frames, random), clip.places, clip.seen)

    def _grained(self, frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`frames` with noise of a random strength, its own in each, as a camera gives it."""
        strength = self.settings.grain * random.random()
        if strength == 0:
            return frames
        return (frames + strength * random.standard_normal(frames.shape, np.float32)).round().clip(0, 255).astype(np.uint8)
