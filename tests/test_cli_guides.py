"""Adapters, own maps, regions and sheets from the command line, with a tiny random model on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.cli import main
from hicast.cli.words import named_values, region_of, sweeps_of, weighted_file
from hicast.controls import CONTROLS, ExtractorKind
from hicast.errors import UsageError
from hicast.io.images import load_picture
from hicast.pipeline import HiCastPipeline

@pytest.fixture(scope="module")
def models(tmp_path_factory, make_pipeline) -> Path:
    """A folder with the model `tiny`, which has adapters for edge and seg, and `run`, which trained one for depth on it."""
    made = make_pipeline("edge", "seg", "depth", levels=2, side_range=[32, 64], style_side=32)
    depth = made.adapters.adapters.pop("depth")
    folder = tmp_path_factory.mktemp("models")
    made.save_pretrained(folder / "tiny", torch.float16)
    depth.save_pretrained(folder / "run" / "adapters" / "depth")
    (folder / "run" / "model_index.json").write_text(json.dumps({"_class_name": "HiCastPipeline", "format": 1, "base": "../tiny"}))
    return folder


@pytest.fixture(scope="module")
def opened() -> dict[tuple, HiCastPipeline]:
    """Models that tests have loaded, so that no other has to."""
    return {}


@pytest.fixture
def run(workplace, models, opened, capsys, monkeypatch):
    """`stylize-image photo.jpg` with the tiny model and more words: exit code, standard output and standard error."""
    load = HiCastPipeline.from_pretrained

    def loaded(name: str, **settings) -> HiCastPipeline:
        key = (name, repr({key: value for key, value in settings.items() if key != "on_note"}))
        opened[key] = opened.get(key) or load(name, **settings)
        return opened[key]

    monkeypatch.setattr(HiCastPipeline, "from_pretrained", loaded)
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(mask[:32, :48]).save("small.png")
    Image.fromarray(mask[:, :64]).save("narrow.png")

    def words(*more: str, command: str = "stylize-image", source: str = "photo.jpg", model: str = "tiny") -> tuple[int, str, str]:
        given = [command, source, "--model", models / model, "--dtype", "float32", *more]
        if "--from-settings" not in more:
            given += ["--style", "painting.jpg"]
        code = main.run([str(word) for word in given])
        return code, *capsys.readouterr()

    return words


def pixels(path: str) -> np.ndarray:
    return load_picture(path).pixels.astype(int)


def test_an_adapter_holds_by_its_weight(run):
    for name, word in (("none", "edge=0"), ("half", "edge=0.5"), ("whole", "edge=1"), ("canny", "edge=1")):
        more = ("--extractor", "edge=canny") if name == "canny" else ()
        assert run("--adapter", word, *more, "-o", f"{name}.png") == (0, f"{name}.png\n", "")
    assert run("-o", "plain.png")[0] == 0
    assert np.array_equal(pixels("plain.png"), pixels("none.png"))
    assert len({pixels(f"{name}.png").tobytes() for name in ("none", "half", "whole", "canny")}) == 4
    assert load_picture("canny.png").settings["settings"]["extractors"] == {"edge": "canny"}
    assert load_picture("whole.png").settings["settings"]["extractors"] == {"edge": "soft"}


def test_own_maps_fit_or_are_resized_and_that_is_said(run):
    assert run("--adapter", "edge=1", "--control", "edge=mask.png", "-o", "own.png") == (0, "own.png\n", "")
    code, _, err = run("--adapter", "edge=1", "--control", "edge=small.png", "-o", "small-own.png")
    assert (code, err) == (0, "small.png: the map of edge has 48 x 32 pixels, the picture 96 x 64; maps are resized\n")
    code, _, err = run("--adapter", "edge=1", "--control", "edge=narrow.png", "-o", "narrow-own.png")
    assert (code, err) == (1, "hicast: narrow.png: expected the shape of the picture (96 x 64), found 64 x 64; crop it alike\n")


def test_folders_of_maps_mirror_folders_of_inputs(run, workplace):
    (workplace / "maps" / "sub").mkdir(parents=True)
    (workplace / "photos" / "sub").mkdir()
    (workplace / "photos" / "second.jpg").rename(workplace / "photos" / "sub" / "second.jpg")
    for name in ("first.png", "sub/second.png"):
        Image.open("mask.png").save(workplace / "maps" / name)
    assert run("--adapter", "seg=1", "--control", "seg=maps", "-o", "out", source="photos")[0] == 0
    (workplace / "maps" / "first.png").unlink()
    code, out, err = run("--adapter", "seg=1", "--control", "seg=maps", "-o", "out2", source="photos")
    assert (code, out) == (1, "out2/sub/second.jpg\n")
    assert err.splitlines()[0] == (
        "hicast: maps: expected a map of photos/first.png, such as maps/first.png, found none; "
        "give a folder that mirrors the inputs, with the same names"
    )


def test_the_adapter_of_a_run_joins_or_is_the_model(run, models):
    words = ("--control", "depth=mask.png", "--adapter", "depth=1")
    assert run(*words, "--set", f"adapters.depth={models / 'run'}", "-o", "joined.png") == (0, "joined.png\n", "")
    assert run(*words, "-o", "own.png", model="run")[0] == 0
    assert np.array_equal(pixels("joined.png"), pixels("own.png"))
    code, _, err = run("--set", f"adapters.depth={models / 'run'}", "-o", "idle.png")
    assert (code, err) == (0, "adapter depth is joined but has no weight: add --adapter depth=1 to use it\n")
    code, _, err = run(*words, "--set", f"adapters.depth={models}", "-o", "no.png")
    assert code == 1 and "adapter 'depth': expected one in" in err


@pytest.mark.parametrize(
    "words, code, text",
    [
        (("--adapter", "depth=1"), 1, "adapter depth: expected one of those of model TINY (edge, seg), found depth; join one with --set adapters.depth=FOLDER"),
        (("--adapter", "egde=1"), 2, "command line: adapters.egde: expected a known key, found egde; did you mean edge? known: edge, depth, seg"),
        (("--adapter", "edge=x"), 2, "command line: adapters.edge: expected a weight from 0 to 10, such as 0.8, or 0.8@0-0.6 for a share of the steps, found x"),
        (("--adapter", "edge=-1"), 2, "for a share of the steps, found -1"),
        (("--adapter", "edge=1", "--adapter", "edge=0.5"), 2, "--adapter edge=0.5: expected one value for edge, found 1 and 0.5; leave one out"),
        (("--adapter", "edge"), 2, "--adapter edge: expected NAME=VALUE, found edge; write for example edge=..."),
        (("--control", "edge=mask.png"), 2, "--control edge: expected a weight for its adapter, found none; add --adapter edge=1"),
        (("--adapter", "edge=1", "--control", "edge=gone.png"), 1, "--control edge: expected a map, found no file or folder gone.png; check the path"),
        (("--extractor", "edge=cany"), 2, "extractor of edge: expected the name of one, found cany; did you mean canny?"),
        (("--region", "gone.png:style_scale=1"), 1, "--region gone.png: expected a mask, found no such file; check the path"),
        (("--region", "grdient:style_scale=1"), 2, "--region grdient: expected a mask file or the name of an extractor, found grdient; did you mean gradient?"),
        (("--region", "mask.png:style_scale=3"), 2, "command line: regions.0.style_scale: expected a number from 0 to 2"),
        (("--region", "narrow.png:style_scale=1"), 1, "narrow.png: expected the shape of the picture"),
        (("--keep-outside",), 2, "--keep-outside: expected a region, found none; add --region mask.png:style_scale=1"),
        (("--sweep", "style_scal=1,2"), 2, "--sweep style_scal: expected a key that can be swept, found style_scal; did you mean style_scale?"),
        (("--sweep", "style_scale=1,3"), 2, "--sweep: style_scale: expected a number from 0 to 2, found 3"),
        (("--sweep", "depth=0,1"), 1, "adapter depth: expected one of those of model TINY (edge, seg), found depth"),
    ],
)
def test_mistakes_are_one_line(run, models, words, code, text):
    found, out, err = run(*words, "-o", "x.png")
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert text.replace("TINY", str(models / "tiny")) in err and not Path("x.png").exists()


def test_a_presets_adapter_that_the_model_lacks_is_a_note(run, models):
    Path("mine.yaml").write_text("base: balanced\nadapters: {depth: 1, edge: 0.5}\n")
    code, _, err = run("--preset", "mine.yaml", "-o", "preset.png")
    assert (code, err) == (0, f"adapter depth of the preset is left out: model {models / 'tiny'} has none\n")
    assert run("--adapter", "edge=0.5", "-o", "flag.png")[0] == 0 and np.array_equal(pixels("preset.png"), pixels("flag.png"))
    assert load_picture("preset.png").settings["settings"]["adapters"] == {"edge": 0.5}
    assert run("--from-settings", "preset.png", "-o", "again.png") == (0, "again.png\n", "")


def test_regions_have_their_strength_and_their_painting(run):
    assert run("--style-scale", "0", "--region", "mask.png:style_scale=1", "--keep-outside", "-o", "part.png")[0] == 0
    photo, part = pixels("photo.jpg"), pixels("part.png")
    assert np.array_equal(part[:, 32:], photo[:, 32:]) and not np.array_equal(part[:, :24], photo[:, :24])
    assert run("-o", "whole.png")[0] == run("--region", "mask.png:style=other.jpg", "-o", "two.png")[0] == 0
    changed = np.abs(pixels("whole.png") - pixels("two.png"))
    assert changed[:, :24].mean() > 4 * changed[:, 72:].mean()


def test_a_region_is_named_after_an_extractor(run, monkeypatch):
    def left(image):
        mask = torch.zeros_like(image)
        mask[..., : image.shape[-1] // 3] = 1
        return mask

    monkeypatch.setitem(CONTROLS["seg"].extractors, "person", ExtractorKind(lambda weights, device, dtype: left))
    assert run("--region", "person:style_scale=0.3", "-o", "named.png")[0] == run("--region", "mask.png:style_scale=0.3", "-o", "mask-own.png")[0] == 0
    assert np.abs(pixels("named.png") - pixels("mask-own.png")).max() <= 1


def test_a_run_is_repeated_byte_for_byte(run):
    words = ("--style", "other.jpg=0.5", "--adapter", "edge=0.8@0-0.6", "--adapter", "seg=0.5", "--control", "seg=mask.png", "--steps", "2",
             "--region", "mask.png:style_scale=0.4,style=other.jpg", "--preserve-color", "--seed", "5", "--preset", "bold")  # fmt: skip
    assert run(*words, "-o", "first.png", "--save-settings")[0] == 0
    for source in ("first.png", "first.png.json"):
        assert run("--from-settings", source, "-o", "again.png", "--overwrite", "--save-settings") == (0, "again.png\n", "")
        assert Path("again.png").read_bytes() == Path("first.png").read_bytes()
        assert json.loads(Path("again.png.json").read_text()) == json.loads(Path("first.png.json").read_text())
    assert run("--from-settings", "first.png", "--adapter", "edge=0", "-o", "other-weight.png")[0] == 0
    assert Path("other-weight.png").read_bytes() != Path("first.png").read_bytes()


def test_a_sheet_shares_its_work(run, monkeypatch):
    prepared = []
    prepare = HiCastPipeline.prepare
    monkeypatch.setattr(HiCastPipeline, "prepare", lambda self, *words, **settings: prepared.append(1) or prepare(self, *words, **settings))
    code, out, err = run("--sweep", "style_scale=0,1,1.5", "--sweep", "edge=0,1")
    assert (code, out, err) == (0, "photo-painting-sweep.jpg\n", "") and prepared == [1]
    sheet = load_picture("photo-painting-sweep.jpg")
    assert sheet.settings["sweep"] == {"style_scale": [0, 1, 1.5], "edge": [0, 1]}
    height, width = sheet.pixels.shape[:2]
    assert width > 3 * 320 and 2 * 320 < height < 3 * 320
    assert run("--sweep", "edge=0,1", "-o", "row.png")[0] == 0 and load_picture("row.png").pixels.shape[0] < 400


def test_a_clip_takes_the_same_options(run, workplace, make_clip):
    make_clip(workplace / "maps.mkv", size=(48, 64))
    words = ("--adapter", "edge=1", "--control", "edge=maps.mkv", "--region", "gradient:style_scale=0.2", "--preserve-color", "--preview", "0.2")
    assert run(*words, "-o", "a.mkv", "--codec", "ffv1", command="stylize-video", source="clip.mp4")[:2] == (0, "a.mkv\n")
    assert run("--from-settings", "a.mkv", "--preview", "0.2", "-o", "b.mkv", "--codec", "ffv1", command="stylize-video", source="clip.mp4")[0] == 0
    assert run("--adapter", "edge=0", "--preview", "0.2", "-o", "c.mkv", "--codec", "ffv1", command="stylize-video", source="clip.mp4")[0] == 0
    one, two, plain = (frames_of(name) for name in ("a.mkv", "b.mkv", "c.mkv"))
    assert len(one) == 5 and np.array_equal(one, two) and not np.array_equal(one, plain)


@pytest.mark.parametrize("words", [("--adapter", "edge=1", "--control", "edge=maps.mp4"), ("--region", "maps.mp4:style_scale=0.2")])
def test_maps_for_half_of_a_clip_are_refused_before_it_is_painted(run, workplace, make_clip, monkeypatch, words):
    make_clip(workplace / "maps.mp4", size=(48, 64), frames=6)
    monkeypatch.setattr(HiCastPipeline, "stylize_video", lambda *given, **more: pytest.fail("painted"))
    code, out, err = run(*words, "-o", "a.mkv", command="stylize-video", source="clip.mp4")
    kind = "map of edge" if "--control" in words else "mask"
    assert (code, out) == (1, "") and f"maps.mp4: expected a {kind} for each of the clip's 12 frames, found 6; give those of the whole clip" in err
    assert not Path("a.mkv").exists()


def test_an_extractor_may_see_the_whole_clip_first(run, monkeypatch):
    seen = []

    class Normalized:
        def __call__(self, image):
            raise AssertionError("each frame alone")

        def for_clip(self, frames):
            seen.append(tuple(frames.shape))
            return lambda image: image.abs()

    monkeypatch.setitem(CONTROLS["edge"].extractors, "clipwise", ExtractorKind(lambda weights, device, dtype: Normalized()))
    words = ("--adapter", "edge=1", "--extractor", "edge=clipwise", "-o", "seen.mkv")
    assert run(*words, command="stylize-video", source="clip.mp4")[0] == 0 and seen == [(12, 3, 48, 64)]


def frames_of(name: str) -> np.ndarray:
    import av

    with av.open(name) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    "word, expected",
    [("a.png", ("a.png", 1)), ("a=b.png=0.5", ("a=b.png", 0.5)), ("a=2.png", ("a=2.png", 1)), ("x=1e-1", ("x", 0.1)), ("=3", ("=3", 1))],
)
def test_the_last_equals_before_a_number_separates(word, expected):
    assert weighted_file(word) == (Path(expected[0]), expected[1])


def test_words_of_regions():
    assert region_of("mask.png:style_scale=0.3") == {"where": "mask.png", "style_scale": 0.3}
    assert region_of("a:style_scale=1,b.png:style=c,d=e:f.jpg,style_scale=.5") == {"where": "a:style_scale=1,b.png", "style": "c,d=e:f.jpg", "style_scale": 0.5}
    for word in ("mask.png", "mask.png:style_scal=1", ":style_scale=1", "m.png:style_scale=x", "m.png:style_scale=1,style_scale=2"):
        with pytest.raises(UsageError, match="^--region .*: expected .*, found "):
            region_of(word)


def test_words_of_sheets_and_names():
    assert sweeps_of(["style_scale=0.5,1", "adapters.edge=0,0.8@0-0.6"]) == [("style_scale", [0.5, 1]), ("edge", [0, "0.8@0-0.6"])]
    assert named_values("--control", ["edge=a=b.png"]) == {"edge": "a=b.png"}
    with pytest.raises(UsageError, match="at most two keys, columns and rows, found 3"):
        sweeps_of(["style_scale=1", "edge=0", "seed=1,2"])
    with pytest.raises(UsageError, match="expected values with commas between them, found 1,,2"):
        sweeps_of(["seed=1,,2"])
