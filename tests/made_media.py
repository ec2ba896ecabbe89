"""Made-up pictures and clips: what they show is known, so that tests can say what must come out of them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image


def clip_pixels(number: int, size: tuple[int, int] = (48, 64), alpha: bool = False) -> np.ndarray:
    """Frame `number` of every made-up clip: gradients, and a red block that moves to the right by 2 pixels a frame."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 200 // width + 20, rows * 200 // height + 20, np.full(size, 20 + 5 * number % 200)], 2)
    left = 2 * number % (width - 8)
    pixels[8:16, left : left + 8] = (230, 40, 20)
    if alpha:
        pixels = np.dstack([pixels, np.where(columns < width // 2, 255, 0)])
    return pixels.astype(np.uint8)


def write_clip(
    path: Path, frames: int = 12, size: tuple[int, int] = (48, 64), codec: str = "libx264", pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None, pts: Sequence[int] | None = None, time_base: Fraction = Fraction(1, 25),
    audio: str = "", color: tuple[int, int] | None = None, more: Callable[..., None] = lambda container, stream: None,
) -> Path:  # fmt: skip
    """A clip of `clip_pixels`, with a tone where `audio` names a codec; its path.

    `pts` are the time stamps in `time_base`; `color` is a matrix and a range; `more` is called with container and stream.
    """
    import av

    options = {"crf": "4", "preset": "ultrafast"} if options is None and codec == "libx264" else options
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(1 / time_base) if time_base > Fraction(1, 100) else 25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pixel_format
        stream.codec_context.time_base = time_base
        reading = {}
        if color:
            stream.codec_context.colorspace, stream.codec_context.color_range = color
            reading = {"dst_colorspace": {6: 5}.get(color[0], color[0]), "src_color_range": 2, "dst_color_range": color[1]}
        tone = container.add_stream(audio, rate=48000, layout="mono") if audio else None
        more(container, stream)
        for number in range(frames):
            alpha = pixel_format.startswith("yuva")
            frame = av.VideoFrame.from_ndarray(clip_pixels(number, size, alpha), "rgba" if alpha else "rgb24")
            frame = frame.reformat(format=pixel_format, **reading)
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            _write_tone(container, tone, frames * 48000 // 25)
    return path


def _write_tone(container, stream, samples: int) -> None:
    import av

    wave = (8000 * np.sin(np.arange(samples) * 440 * 2 * np.pi / 48000)).astype(np.int16)[None]
    for begin in range(0, samples - 960, 960):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, begin : begin + 960]), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def fill_folder(folder: Path) -> Path:
    """`folder` with photos, paintings and clips of a few pixels and frames."""
    for subfolder in ("photos", "paintings", "clips"):
        (folder / subfolder).mkdir(parents=True)
    names = ("photo.jpg", "painting.jpg", "other.jpg", "photos/first.png", "photos/second.jpg", "paintings/red.png")
    for seed, name in enumerate(names):
        _blocks(seed).save(folder / name)
    Image.linear_gradient("L").resize((96, 64)).save(folder / "mask.png")
    (folder / "maps").mkdir()
    for name in ("first.png", "second.png"):
        Image.linear_gradient("L").resize((96, 64)).save(folder / "maps" / name)
    for name in ("clip.mp4", "clips/first.mp4", "clips/second.mp4"):
        write_clip(folder / name)
    return folder


def _blocks(seed: int) -> Image.Image:
    """A picture of 96 x 64 pixels, in blocks of random colours."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((96, 64), Image.Resampling.NEAREST)
