"""Results are planned before they are computed, and files appear only when they are whole."""

import os
import stat
from pathlib import Path

import pytest

from hicast.errors import InputError, OutputError, UsageError
from hicast.io.files import PlannedOutput, atomic_path, check_target, find_images, plan_outputs


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Working folder with `photos/a.JPG`, `photos/b.tif` and `photos/sub/a.jpg` among files of other kinds."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.JPG", "b.tif", "sub/a.jpg", "notes.txt", ".hidden.png", ".cache/c.png", "odd.png/inner.webp"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return Path("photos")


def targets(*arguments, **options):
    """Targets of a plan as strings."""
    return [str(item.target) for item in plan_outputs(*arguments, **options)]


def test_find_images(photos):
    names = [str(path.relative_to(photos)) for path in find_images(photos)]
    assert names == ["a.JPG", "b.tif", "odd.png/inner.webp", "sub/a.jpg"]


def test_one_file(photos):
    source = photos / "a.JPG"
    assert plan_outputs([source], ["monet"]) == [PlannedOutput(source, Path("a-monet.JPG"))]
    assert targets([photos / "b.tif"], ["monet", "klee"]) == ["b-monet-klee.png"]
    assert targets([source], ["monet"], "out/x.webp") == ["out/x.webp"]
    assert targets([source], ["monet"], "new/") == targets([source], ["monet"], Path("new/a.JPG")) == ["new/a.JPG"]
    assert targets([source], ["monet"], Path("photos/sub")) == ["photos/sub/a.JPG"]
    assert targets(["not there.webp"], ["monet"]) == ["not there-monet.webp"]
    assert targets(["v1.2.png"], ["monet"]) == ["v1.2-monet.png"]
    with pytest.raises(UsageError, match=r"expected --output to end in \.jpg, .*, found new.*new/ for a folder"):
        plan_outputs([source], ["monet"], "new")


def test_standard_streams(photos):
    assert plan_outputs(["-"], ["monet"]) == [PlannedOutput(None, None)]
    assert plan_outputs(["-"], ["monet"], "x.jpg") == [PlannedOutput(None, Path("x.jpg"))]
    assert plan_outputs([photos / "a.JPG"], ["monet"], "-") == [PlannedOutput(photos / "a.JPG", None)]
    assert targets(["-"], ["monet"], "new/") == ["new/stdin.png"]
    with pytest.raises(UsageError, match="found -; name a folder"):
        plan_outputs([photos], ["monet"], "-")


def test_folders_are_mirrored(photos):
    mirrored = ["a.JPG", "b.png", "odd.png/inner.webp", "sub/a.jpg"]
    assert targets([photos], ["monet"], "out") == [f"out/{name}" for name in mirrored]
    assert targets([photos], ["monet"]) == [f"photos-monet/{name}" for name in mirrored]
    assert targets([photos / "a.JPG", Path("c.png")], ["monet"]) == ["a-monet.JPG", "c-monet.png"]
    assert targets([photos / "a.JPG", Path("c.png")], ["monet"], "out") == ["out/a.JPG", "out/c.png"]
    assert targets([photos / "sub", "missing.png"], ["monet"], "out") == ["out/a.jpg", "out/missing.png"]
    with pytest.raises(UsageError, match="folder for several inputs, found out.jpg"):
        plan_outputs([photos], ["monet"], "out.jpg")
    Path("empty").mkdir()
    with pytest.raises(InputError, match="empty: expected pictures"):
        plan_outputs(["empty"], ["monet"])


def test_results_inside_the_input_folder_are_no_inputs_of_the_next_run(photos):
    planned = targets([photos], ["monet"], photos / "sub")
    assert planned == ["photos/sub/a.JPG", "photos/sub/b.png", "photos/sub/odd.png/inner.webp"]


def test_plans_that_would_lose_a_file(photos):
    with pytest.raises(UsageError, match="photos/b.tif and b.png would both become out/b.png"):
        plan_outputs([photos, "b.png"], ["monet"], "out")
    with pytest.raises(UsageError, match="would both become"):
        plan_outputs(["-", "-"], ["monet"])
    for output in ("photos/a.JPG", "photos/sub/../a.JPG", "photos/"):
        with pytest.raises(UsageError, match="in place of an input or style"):
            plan_outputs([photos / "a.JPG"], ["monet"], output)
    with pytest.raises(UsageError, match="in place of an input or style, found photos/a.JPG"):
        plan_outputs([photos], ["monet"], photos)
    with pytest.raises(UsageError, match="in place of an input or style, found monet.jpg"):
        plan_outputs([photos / "a.JPG"], ["monet"], "monet.jpg", protected=[Path("monet.jpg")])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OutputError])
def test_a_failure_leaves_the_old_file_and_nothing_else(error, tmp_path):
    target = tmp_path / "a.png"
    target.write_text("old")
    with pytest.raises(error):
        with atomic_path(target, overwrite=True) as draft:
            draft.write_text("half")
            assert target.read_text() == "old" and draft.suffix == ".png" and find_images(tmp_path) == [target]
            raise error
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_success_moves_the_file_into_place(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(target) as draft:
        draft.write_text("whole")
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]
    plain = tmp_path / "plain.txt"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_failures_of_the_disk_are_output_errors(tmp_path):
    with pytest.raises(OutputError, match="a.txt: expected to be able to write, found: No space left on device"):
        with atomic_path(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="File name too long"):
        with atomic_path(tmp_path / ("a" * 300)):
            pass
    assert not list(tmp_path.iterdir())


def test_refused_targets(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for target, message in (
        (tmp_path, "found a folder or device"),
        (Path(os.devnull), "found a folder or device"),
        (tmp_path / "file", "add --overwrite"),
        (tmp_path / "file" / "a.png", "found the file"),
    ):
        with pytest.raises(OutputError, match=message):
            check_target(target)
    with pytest.raises(OutputError, match="found a folder or device"):
        check_target(Path(os.devnull), overwrite=True)
    check_target(tmp_path / "file", overwrite=True)
    check_target(tmp_path / "new" / "a.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="read-only"):
        check_target(tmp_path / "new" / "a.png")
