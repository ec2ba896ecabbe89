"""Clips made of one picture by a camera that pans, zooms and turns over it: every pixel's way is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hicast.training.tracks import TrackedClip, frame_pairs, to_grid

MOST_PAN = 0.03
"""Largest step of the camera from frame to frame, as a share of what it sees."""

MOST_ZOOM, MOST_TURN = 1.015, 1.0
"""Largest change of size (a factor) and of direction (degrees) from frame to frame."""


@dataclass(frozen=True)
class Camera:
    """What one frame sees of a picture: a square of `extent` pixels about `x`, `y`, turned by `angle` in radians."""

    x: float
    y: float
    extent: float
    angle: float

    def matrix(self, side: int) -> np.ndarray:
        """3x3, from positions in the frame of `side` pixels to positions in the picture, both from the upper left corner."""
        scale = self.extent / side
        cosine, sine = scale * np.cos(self.angle), scale * np.sin(self.angle)
        turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        turn[:2, 2] = np.array([self.x, self.y]) - turn[:2, :2] @ np.full(2, side / 2)
        return turn


def moving_still(pixels: np.ndarray, frames: int, side: int, zoom: tuple[float, float], random: np.random.Generator) -> TrackedClip:
    """`frames` views of `pixels`, uint8 (height, width, 3), by a camera whose path comes from `random`.

    The first view covers about a share in `zoom` of the short side; half of the clips are mirrored.
    """
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    path = camera_path(pixels.shape[:2], frames, side, zoom, random)
    picture, shrunk = _shrunk(pixels, min(camera.extent for camera in path) / side)
    matrices = [camera.matrix(side) for camera in path]
    views = np.stack([_view(picture, shrunk @ matrix, side) for matrix in matrices])
    ways = [np.linalg.inv(matrices[earlier]) @ matrices[later] for earlier, later in frame_pairs(frames)]
    places = np.stack([_positions(way, side) for way in ways])
    inside = ((places >= 0.5) & (places <= side - 0.5)).all(-1)
    return TrackedClip(views, to_grid(places, side), inside)


def camera_path(size: tuple[int, int], frames: int, side: int, zoom: tuple[float, float], random: np.random.Generator) -> list[Camera]:
    """A straight, even path over a picture of `size` (height, width), which the camera never leaves.

    Its speed is drawn so that slow paths are the most common. Views are not smaller than `side` where the picture is large enough.
    """
    height, width = size
    steps = frames - 1
    pace = random.random() ** 2
    growth = MOST_ZOOM ** (pace * steps * random.uniform(-1, 1))
    turn = np.deg2rad(MOST_TURN) * pace * steps * random.uniform(-1, 1)
    start = np.deg2rad(5.0) * random.uniform(-1, 1)
    reach = max(abs(np.cos(angle)) + abs(np.sin(angle)) for angle in (start, start + turn)) * max(1.0, growth)
    most = min(height, width) / reach
    extent = min(max(min(height, width) * random.uniform(*zoom), side), most)
    room = min(extent * reach, min(height, width)) / 2
    here = np.array([random.uniform(room, length - room) for length in (width, height)])
    direction = random.uniform(0, 2 * np.pi)
    step = extent * MOST_PAN * pace * steps * np.array([np.cos(direction), np.sin(direction)])
    there = np.clip(here + step, room, [width - room, height - room])
    shares = np.linspace(0, 1, frames)
    return [Camera(*(here + share * (there - here)), extent * growth**share, start + share * turn) for share in shares]


def _shrunk(pixels: np.ndarray, factor: float) -> tuple[Image.Image, np.ndarray]:
    """`pixels` made smaller by `factor` where that is above 1, against aliasing, and the 3x3 matrix that positions then go through."""
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    if factor <= 1:
        return picture, np.eye(3)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return picture.resize(size, Image.Resampling.LANCZOS), np.diag([size[0] / width, size[1] / height, 1.0])


def _view(picture: Image.Image, matrix: np.ndarray, side: int) -> np.ndarray:
    """What a frame of `side` pixels shows of `picture`."""
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, matrix[:2].flatten(), Image.Resampling.BICUBIC))


def _positions(way: np.ndarray, side: int) -> np.ndarray:
    """Where `way` takes the middles of all pixels: (side, side, 2), x and y."""
    middles = np.arange(side) + 0.5
    x, y = np.meshgrid(middles, middles)
    return np.stack([x, y], -1) @ way[:2, :2].T + way[:2, 2]
