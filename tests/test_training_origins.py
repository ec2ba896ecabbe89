"""What a run stands on is known again where it has moved, and told where it is another."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from hicast.config.train import AdapterTraining, ImageTraining
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.training.data import PicturePool
from hicast.training.origins import extra_digests, files_digest, frozen_digests, start_digests


def _digest(*places: Path) -> str:
    return files_digest(places, PicturePool(places, 64, 0).files)


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_files_are_known_by_names_and_sizes_wherever_they_lie(folders, tmp_path):
    moved = shutil.copytree(folders[0], tmp_path / "a b" / "moved")
    before = _digest(folders[0], folders[1])
    assert _digest(moved, folders[1]) == before != _digest(folders[1], moved)
    (moved / "sub" / "0.png").rename(moved / "sub" / "00.png")
    renamed = _digest(moved, folders[1])
    Image.new("RGB", (70, 50), "red").save(moved / "sub" / "00.png")
    assert len({before, renamed, _digest(moved, folders[1])}) == 3


def test_members_of_a_shard_are_known_by_their_own_names(folders, tmp_path):
    shard = Path(shutil.make_archive(str(tmp_path / "photos"), "tar", folders[0]))
    before = _digest(shard)
    (tmp_path / "moved").mkdir()
    assert _digest(shard.rename(tmp_path / "moved" / "other.tar")) == before
    assert _digest(Path(shutil.make_archive(str(tmp_path / "paintings"), "tar", folders[1]))) != before


def _nets(fresh: bool = False, **parts) -> dict[str, str]:
    given = {"net": torch.nn.Linear(2, 2), "autoencoder": ResidualAutoencoder(8, (4, 8, 8)), "style_encoder": StyleEncoder(), "context": torch.ones(1, 3, 4)}
    for part in given.values():
        for value in part.state_dict().values() if isinstance(part, torch.nn.Module) else ():
            torch.nn.init.constant_(value, 0.5)
    return frozen_digests(**(given | parts), fresh=fresh)


def test_frozen_nets_are_known_by_their_weights():
    encoder = StyleEncoder()
    assert _changed(_nets(), _nets()) == set()
    assert _changed(_nets(), _nets(net=torch.nn.Linear(2, 2), context=None)) == {"weights of the net", "text context"}
    assert _changed(_nets(), _nets(autoencoder=ResidualAutoencoder(8, (4, 8, 8)))) == {"weights of the autoencoder"}
    assert _changed(_nets(), _nets(style_encoder=encoder)) == {"weights of the style encoder"}


def test_a_net_that_colors_is_another_than_one_that_does_not():
    plain = torch.nn.Linear(2, 2)
    coloring = copy.deepcopy(plain)
    coloring.coloring = 0.5
    assert _changed(_nets(net=plain), _nets(net=coloring)) == {"coloring of the net"}
    assert _changed(_nets(net=plain, fresh=True), _nets(net=coloring, fresh=True)) == {"coloring of the net"}
    coloring.matching = 0.5
    assert _changed(_nets(net=plain), _nets(net=coloring)) == {"coloring of the net", "matching of the net"}


def test_what_is_made_from_the_data_is_left_to_the_digest_of_the_data():
    fitted, encoder = ResidualAutoencoder(8, (4, 8, 8)), StyleEncoder()
    fitted.fit_linear(torch.randn(400, 192))
    before = _nets(fresh=True, autoencoder=fitted, style_encoder=encoder)
    encoder.mean.add_(1)
    fitted.project.bias.data.add_(1)
    assert "weights of the net" not in before
    assert _changed(before, _nets(fresh=True, autoencoder=fitted, style_encoder=encoder)) == set()


def test_what_only_some_runs_are_given_counts(negatives, tmp_path):
    targets = shutil.copytree(negatives, tmp_path / "targets")
    before = extra_digests(ImageTraining(targets=negatives))
    assert extra_digests(ImageTraining(targets=targets)) == before
    lines = (targets / "pairs.csv").read_text().splitlines()
    (targets / "pairs.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    assert _changed(before, extra_digests(ImageTraining(targets=targets))) == {"pairs of targets"}
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    weights, maps = ({"hed": str(tmp_path / f"{name}.safetensors")} for name in ("one", "two")), {"maps": targets}
    one, two = (extra_digests(AdapterTraining(extractor_weights=place, **maps)) for place in weights)
    assert _changed(one, two) == {"weights of the extractors"} and "files of maps" in one


def test_another_start_of_what_trains_is_told(tmp_path):
    for name in ("one", "two"):
        for part in ("unet", "vae"):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "weights.safetensors").write_text(part if name == "one" or part == "vae" else "tenu")
    one, two = tmp_path / "one", tmp_path / "two"

    def begun(key: str, place: Path, trained: tuple = ("unet",), output: Path = tmp_path / "out") -> dict[str, str]:
        return start_digests(ImageTraining(**{key: str(place)}), trained, output)

    assert _changed(begun("start", one), begun("start", two)) == {"weights of --from"}
    assert begun("start", one, ("vae",)) == begun("start", two, ("vae",))
    assert begun("start", one) == begun("start", Path(shutil.copytree(one, tmp_path / "moved")))
    assert begun("start", one, output=one) == {}
    assert _changed(begun("base", one), begun("base", two)) == {"weights of --base"}
    assert begun("base", Path("some/hub-id")) == begun("base", Path("some/hub-id")) != begun("base", Path("other/hub-id"))


@pytest.mark.parametrize("trained, missing", [(("net",), "weights of the net"), (("decoder",), "weights of the autoencoder")])
def test_image_stage_counts_what_it_leaves_as_it_is(make_image_stage, trained, missing):
    stage = make_image_stage(trained=trained, losses={"style": 1.0})
    stage.fresh = False
    found = stage.stands_on()
    nets = {"weights of the net", "weights of the autoencoder", "weights of the style encoder"}
    assert found.keys() == (nets - {missing}) | {"files of content", "files of style"}
    assert stage.stands_on() == found
