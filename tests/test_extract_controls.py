"""`hicast extract-controls`: where maps go, what they hold, what is not drawn again, and what is said of bad input."""

import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from hicast.cli import main
from hicast.controls import CONTROLS, ExtractorKind
from hicast.controls.draw import OVERLAY_SHARE, draw_map, film_painter
from hicast.controls.edge import gradient_edges
from hicast.controls.store import MapFolder, find_sources
from hicast.errors import InputError, OutputError, UsageError
from hicast.training.data import PicturePool
from hicast.training.maps import MapPool

CPU = torch.device("cpu")


class _Brightness:
    """Depth that is the brightness, at half of the size; it counts its pictures."""

    seen = 0

    def depth(self, image):
        _Brightness.seen += len(image)
        return functional.avg_pool2d(image.mean(1, keepdim=True), 2)[:, 0]

    def __call__(self, image):
        depth = functional.interpolate(self.depth(image)[:, None], size=image.shape[-2:], mode="bilinear")
        return ((depth + 1) / 2).expand(-1, 3, -1, -1)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with photos in a tree, in it as working folder, and cheap extractors as defaults."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, size in (("a.jpg", (60, 40)), ("sub/b.png", (48, 64)), ("sub/deep/c.webp", (40, 40))):
        path = Path("photos") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 255, (5, 6, 3), dtype=np.uint8))
        small.resize(size).save(path)
    edge = CONTROLS["edge"].extractors | {"soft": ExtractorKind(lambda *where: gradient_edges, True)}
    depth = {"compact": ExtractorKind(lambda *where: _Brightness(), True)}
    monkeypatch.setitem(CONTROLS, "edge", replace(CONTROLS["edge"], extractors=edge))
    monkeypatch.setitem(CONTROLS, "depth", replace(CONTROLS["depth"], extractors=depth))
    return tmp_path


def _run(capsys, *words) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, standard error."""
    code = main.run(["extract-controls", *(str(word) for word in words)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def _pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_folder_is_mirrored_for_each_control_and_training_reads_it(place, capsys):
    code, lines, err = _run(capsys, "photos", "--controls", "edge,depth", "-o", "maps")
    names = ["a.png", "sub/b.png", "sub/deep/c.png"]
    assert code == 0 and err == ""
    assert sorted(lines) == sorted(f"maps/{control}/{name}" for control in ("edge", "depth") for name in names)
    for control, extractor in (("edge", gradient_edges), ("depth", _Brightness())):
        image = torch.from_numpy(_pixels("photos/sub/b.png").copy()).permute(2, 0, 1)[None] / 127.5 - 1
        expected = (extractor(image)[0] * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(_pixels(f"maps/{control}/sub/b.png") - expected).max() <= 1
        content = json.loads(Path(f"maps/{control}/controls.json").read_text())
        assert content["control"] == control and sorted(content["maps"]) == names
        entry = content["maps"]["sub/b.png"]
        assert (entry["extractor"], entry["size"], entry["weights"]) == ({"edge": "soft", "depth": "compact"}[control], None, None)
        assert entry["source"]["file"] == "photos/sub/b.png" and entry["source"]["bytes"] == os.path.getsize("photos/sub/b.png")
        pool = MapPool(Path("maps") / control, PicturePool([Path("photos")], 40, 10**8), Image.Resampling.BICUBIC)
        assert len(pool) == 3 and pool[0][0].shape == pool[0][1].shape


def test_what_is_finished_is_not_drawn_again_unless_something_has_changed(place, capsys):
    _run(capsys, "photos", "--controls", "depth", "-o", "maps")
    _Brightness.seen = 0
    before = Path("maps/depth/a.png").stat().st_mtime_ns
    code, lines, err = _run(capsys, "photos", "--controls", "depth", "-o", "maps")
    assert (code, lines, _Brightness.seen, err) == (0, [], 0, "3 maps were there already\n")
    os.chdir("photos")
    assert _run(capsys, "a.jpg", "--controls", "depth", "-o", "../maps")[:2] == (0, [])
    os.chdir("..")
    Path("maps/depth/a.png").unlink()
    assert _run(capsys, "photos", "--controls", "depth", "-o", "maps")[1] == ["maps/depth/a.png"] and _Brightness.seen == 1
    assert _run(capsys, "photos", "--controls", "depth", "-o", "maps", "--overwrite")[1] and _Brightness.seen == 4
    Image.new("RGB", (50, 50)).save("photos/a.jpg")
    code, lines, err = _run(capsys, "photos", "--controls", "depth", "-o", "maps")
    assert (code, lines) == (1, []) and "maps/depth/a.png: expected no map, or one drawn just so, found one of another source; add --overwrite" in err
    code, lines, _ = _run(capsys, "photos", "--controls", "depth", "-o", "maps", "--skip-existing")
    assert (code, lines, Path("maps/depth/sub/b.png").stat().st_mtime_ns > before) == (0, [], True)


def test_another_extractor_or_size_is_another_map(place, capsys):
    _run(capsys, "photos/a.jpg", "--controls", "edge", "-o", "maps")
    code, _, err = _run(capsys, "photos/a.jpg", "--controls", "edge", "-o", "maps", "--extractor", "edge=canny")
    assert code == 1 and "found one of extractor soft; add --overwrite to draw anew, or --skip-existing" in err
    code, _, err = _run(capsys, "photos/a.jpg", "--controls", "edge", "-o", "maps", "--size", "32")
    assert code == 1 and "found one of size its own; add --overwrite" in err
    Path("maps/edge/controls.json").unlink()
    code, _, err = _run(capsys, "photos/a.jpg", "--controls", "edge", "-o", "maps")
    assert code == 1 and "a.png: expected no such file, found one; choose another name or add --overwrite" in err
    code, lines, _ = _run(capsys, "photos/a.jpg", "--controls", "edge", "-o", "maps", "--extractor", "edge=canny", "--size", "32", "--overwrite")
    assert code == 0 and _pixels("maps/edge/a.png").shape == (32, 48, 3)
    assert json.loads(Path("maps/edge/controls.json").read_text())["maps"]["a.png"]["extractor"] == "canny"
    drawn = draw_map(gradient_edges, np.zeros((40, 60, 3), np.uint8), 500, CPU)
    assert drawn.shape == (40, 60, 3)  # nothing is enlarged


def test_an_overlay_is_the_map_over_its_picture(place, capsys):
    assert _run(capsys, "photos/sub/b.png", "--controls", "edge", "-o", "maps", "--overlay")[1] == ["maps/edge/b.png"]
    photo, drawn, both = (_pixels(path).astype(float) for path in ("photos/sub/b.png", "maps/edge/b.png", "maps/overlay/edge/b.png"))
    assert np.abs(photo + OVERLAY_SHARE * (drawn - photo) - both).max() <= 1
    Path("maps/overlay/edge/b.png").unlink()
    assert _run(capsys, "photos/sub/b.png", "--controls", "edge", "-o", "maps", "--overlay")[:2] == (0, ["maps/edge/b.png"])
    assert Path("maps/overlay/edge/b.png").is_file()


def test_a_bad_file_is_reported_and_the_others_are_done(place, capsys):
    Path("photos/bad.png").write_bytes(b"no picture")
    code, lines, err = _run(capsys, "photos", "missing.jpg", "--controls", "edge", "-o", "maps")
    assert code == 1 and len(lines) == 3 and "photos/bad.png: expected a picture" in err and "2 of 5 files failed" in err
    assert "missing.jpg: expected a picture or video, found no such file; check the path" in err
    code, out, err = _run(capsys, "photos", "--controls", "edge", "-o", "maps", "--json")
    report = json.loads("\n".join(out))
    assert [entry["input"] for entry in report["failed"]] == ["photos/bad.png"] and len(report["skipped"]) == 3
    assert report["extractors"] == {"edge": "soft"}


def test_a_video_gets_a_video_with_its_timing_and_one_range_of_depth(place, capsys, make_clip):
    stamps = [0, 1, 2, 5, 6, 9, 10, 11]
    make_clip(Path("clip.mkv"), frames=8, pts=stamps, time_base=Fraction(1, 25), audio="aac")
    code, lines, _ = _run(capsys, "clip.mkv", "--controls", "depth,edge", "-o", "maps", "--overlay")
    assert (code, lines) == (0, ["maps/depth/clip.mp4", "maps/edge/clip.mp4"])
    maps, times = [], []
    with av.open("maps/depth/clip.mp4") as container:
        assert [stream.type for stream in container.streams] == ["video"]
        for frame in container.decode(video=0):
            maps.append(frame.to_ndarray(format="rgb24"))
            times.append(round(frame.time * 25))
    assert [time - times[0] for time in times] == stamps and maps[0].shape == (48, 64, 3)
    with av.open("clip.mkv") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    raw = [_Brightness().depth(torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1) for frame in frames]
    low, high = min(depth.min() for depth in raw), max(depth.max() for depth in raw)
    for depth, drawn in zip(raw, maps, strict=True):
        whole = functional.interpolate((depth[:, None] - low) / (high - low), size=(48, 64), mode="bilinear")[0, 0].numpy() * 255
        assert np.abs(whole - drawn[..., 1]).mean() < 3
    assert Path("maps/overlay/depth/clip.mp4").is_file()
    assert _run(capsys, "clip.mkv", "--controls", "depth,edge", "-o", "maps", "--overlay")[:2] == (0, [])


def test_without_depth_frames_are_drawn_one_by_one():
    paint = film_painter(gradient_edges, Path("no-such.mp4"), None, CPU)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    assert (paint(pixels) == draw_map(gradient_edges, pixels, None, CPU)).all()
    with pytest.raises(InputError, match="no-such.mp4"):
        film_painter(_Brightness(), Path("no-such.mp4"), None, CPU)


def test_maps_in_the_folder_of_photos_are_no_photos(place):
    names = [str(source.name) for source in find_sources(["photos"], Path("photos/maps"))]
    assert names == ["a.png", "sub/b.png", "sub/deep/c.png"]
    MapFolder(Path("photos/maps"), "edge").target(find_sources(["photos"], Path("x"))[0]).parent.mkdir(parents=True)
    Image.new("RGB", (20, 20)).save("photos/maps/edge/a.png")
    assert [str(source.name) for source in find_sources(["photos"], Path("photos/maps"))] == names


@pytest.mark.parametrize(
    "words, message",
    [
        (["--controls", "edge,egde"], "control: expected the name of one, found egde; did you mean edge"),
        (["--controls", "edge,edge"], "--controls: expected names such as edge,depth,seg, each once, found 'edge,edge'; name each that is wanted, apart by commas"),
        (["--controls", "edge", "--extractor", "edge"], "--extractor edge: expected NAME=WHICH, found no =; write edge=canny"),
        (["--controls", "edge", "--extractor", "depth=compact"], "--extractor depth=compact: expected a control of --controls, found depth"),
        (["--controls", "edge", "--extractor", "edge=cany"], "extractor of edge: expected the name of one, found cany; did you mean canny"),
        (["--extractor", "edge=canny", "--extractor", "edge=soft"], "--extractor edge=soft: expected one extractor for edge, found two"),
        (["--overwrite", "--skip-existing"], "expected --overwrite or --skip-existing, found both; leave one out"),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_drawn(place, capsys, words, message):
    code, lines, err = _run(capsys, "photos", "-o", "maps", *words)
    assert (code, lines) == (2, []) and err.startswith(f"hicast: {message}") and err.count("\n") == 1 and not Path("maps").exists()


def test_an_extractor_without_its_weights_names_what_needs_none(place, capsys):
    code, _, err = _run(capsys, "photos", "-o", "maps", "--controls", "edge", "--extractor", "edge=hed:nowhere")
    assert code == 1 and err.startswith("hicast: extractor hed: expected weights (a .safetensors file, or the folder of lllyasviel/Annotators), ")
    assert "found nowhere; give them, or take " in err


def test_wrong_sources_and_manifests_are_one_line(place):
    with pytest.raises(UsageError, match="notes.txt: expected a picture or video by its suffix, found .txt"):
        find_sources(["notes.txt"], Path("maps"))
    Image.new("RGB", (20, 20)).save("a.png")
    with pytest.raises(UsageError, match="found that photos/a.jpg and a.png would both become a.png; rename one or run them apart"):
        find_sources(["photos/a.jpg", "a.png"], Path("maps"))
    Path("empty").mkdir()
    with pytest.raises(InputError, match="empty: expected pictures or videos, found none; choose another folder"):
        find_sources(["empty"], Path("maps"))
    Path("maps/edge").mkdir(parents=True)
    Path("maps/edge/controls.json").write_text("[]")
    with pytest.raises(OutputError, match="controls.json: expected the manifest of maps, found another file; move it or choose another"):
        MapFolder(Path("maps"), "edge")
