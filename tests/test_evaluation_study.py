"""Studies: a page that hides methods, ratings by made-up people, and what is summed up of them."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from hicast.cli import main
from hicast.errors import InputError
from hicast.evaluation import study
from hicast.evaluation.pairing import Pair, Pairing
from hicast.evaluation.summary import Estimate


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Two photos and two paintings of one colour each, and a pairs file."""
    monkeypatch.chdir(tmp_path)
    for name, color in {"content/a": "green", "content/b": "grey", "style/warm-red": "red", "style/cold-blue": "blue"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("content,style\na.png,warm-red.png\nb.png,cold-blue.png\n")
    return tmp_path


def made_study(scene) -> tuple[dict, str]:
    pairs = [Pair("000", scene / "content/a.png", scene / "style/warm-red.png"), Pair("001", scene / "content/b.png", scene / "style/cold-blue.png")]
    results = {name: {"000": scene / f"{first}.png", "001": scene / f"{second}.png"}
               for name, first, second in (("ours", "content/a", "content/b"), ("secret", "style/warm-red", "style/cold-blue"))}  # fmt: skip
    page, key = study.write_study(Pairing(pairs, results), scene / "study")
    return json.loads(key.read_text()), page.read_text()


def test_a_study_hides_methods(scene):
    key, page = made_study(scene)
    assert len(key["items"]) == 4 and all(name in page for name in key["items"])
    assert "secret" not in page and "warm-red" not in page and not re.findall(r'(?:src|href)="(?!data:)', page)
    shown = json.loads(re.search(r"const STUDY=(\{.*?\});const|const STUDY=(\{.*?\});\n", page)[0].removeprefix("const STUDY=").rstrip(";\n"))
    assert [item["id"] for item in shown["items"]] == sorted(key["items"]) and len(shown["images"]) == 4


def test_ratings_are_summed_up(scene, capsys):
    key, _ = made_study(scene)
    (scene / "back").mkdir()
    for rater, (ours, secret) in {"x": (4, 2), "y": (5, 1)}.items():
        ratings = {name: ours if item["method"] == "ours" else secret for name, item in key["items"].items()}
        (scene / "back" / f"{rater}.json").write_text(json.dumps({"study": key["study"], "rater": rater, "ratings": ratings}))
    assert main.run(["eval", "study", "--results", "back", "-o", "study", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["ours"] == {"mean": 4.5, "low": 4, "high": 5, "ratings": 4} and found["raters"] == 2
    assert found["agreement"] == pytest.approx(study.agreement(np.array([[4, 4, 2, 2], [5, 5, 1, 1]], float)))
    (scene / "back" / "z.json").write_text(json.dumps({"study": "other", "rater": "z", "ratings": {}}))
    with pytest.raises(InputError, match=f"expected ratings of study {key['study']}, found other"):
        study.read_ratings(sorted((scene / "back").iterdir()), scene / "study" / "key.json")


def test_agreement_by_hand():
    values = np.array([[1, 2, 3, np.nan], [1, 2, 4, 5]], float)
    within = (2 * 1) / 6  # one pair of raters differs by 1, counted both ways, over the six ratings that have a partner
    numbers = [1, 1, 2, 2, 3, 4]
    between = sum((a - b) ** 2 for a in numbers for b in numbers) / (6 * 5)
    assert study.agreement(values) == pytest.approx(1 - within / between)
    assert study.agreement(np.array([[1, 2, 3.0]] * 3)) == 1 and np.isnan(study.agreement(np.array([[1, np.nan]])))
    ratings = study.Ratings(np.array([[[1, 5]], [[1, 5]]], float), ["x", "y"], ["m"], ["p", "q"])
    assert study.mean_ratings(ratings)["m"] == Estimate(3.0, 1.0, 5.0, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rater": None}, "expected a rater and ratings, found no rater; get the file again"),
        ({"ratings": [1, 2]}, "expected a rater and ratings, found no ratings; get the file again"),
        ({"ratings": {"unknown": 3}}, "expected ratings from 1 to 5 of known items, found unknown: 3; get the file again"),
        ({"ratings": {"ITEM": 6}}, "expected ratings from 1 to 5 of known items, found ITEM: 6; get the file again"),
        ({"ratings": {"ITEM": True}}, "expected ratings from 1 to 5 of known items, found ITEM: True; get the file again"),
    ],
)
def test_files_that_hold_no_ratings_are_told(scene, change, message):
    key, _ = made_study(scene)
    item = next(iter(key["items"]))
    (scene / "x.json").write_text(json.dumps({"study": key["study"], "rater": "x", "ratings": {item: 3}} | change).replace("ITEM", item))
    with pytest.raises(InputError, match=re.escape(message.replace("ITEM", item))):
        study.read_ratings([scene / "x.json"], scene / "study" / "key.json")
    with pytest.raises(InputError, match="x.json: expected the key of a study, found none; give the file that hicast eval study wrote"):
        study.read_ratings([scene / "x.json"], scene / "x.json")


def test_a_second_file_of_a_rater_is_told(scene):
    key, _ = made_study(scene)
    for name in "xy":
        (scene / f"{name}.json").write_text(json.dumps({"study": key["study"], "rater": "ann", "ratings": {}}))
    with pytest.raises(InputError, match="y.json: expected one file for each rater, found a second of ann; leave one out"):
        study.read_ratings([scene / "x.json", scene / "y.json"], scene / "study" / "key.json")


def test_a_study_is_asked_for_or_summed_up(scene, capsys):
    assert main.run(["eval", "study", "--results", "back", "--content", "content"]) == 2
    assert "expected --results or pictures to rate, found both" in capsys.readouterr().err
    assert main.run(["eval", "study", "--pairs", "pairs.csv"]) == 2
    assert "expected --stylized, --peers or --model, found none" in capsys.readouterr().err
