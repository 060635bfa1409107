"""--exif apply all the way: what `prepctl add --exif apply` prepares is what trainer, eval and frozen towers read with the same
option; without it pictures stay as torchvision has them."""
import json
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import Daemon, SmallData, run, run_ok  # noqa: E402

ROTATED = 6  # "the 0th row is the right side": an upright picture of a camera that was held upright


@pytest.fixture()
def turned(tmp_path):
    """A daemon with a data set of pictures that say they lie on their side, warmed with --exif apply."""
    image = pytest.importorskip("PIL.Image")
    data = SmallData(tmp_path / "turned")
    for path in data.images.iterdir():
        picture = image.open(path)
        exif = picture.getexif()
        exif[0x0112] = ROTATED
        picture.save(path, quality=90, exif=exif)
    with Daemon() as daemon:
        daemon.prepctl_ok("add", *data.arguments(), "--exif", "apply")
        yield daemon


def arguments(daemon, out, *more):
    return ["--data", "small", "--preset", "tiny", "--batch-size", "8", "--epochs", "1", "--threads", "1", "--out", out, *more, *daemon.at()]


def first_digest(out):
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["digest"]


def evaluated(daemon, run_folder, *more):
    return json.loads(run_ok("trainer", "eval", run_folder, "--data", "small", "--json", "--threads", "1", *more, *daemon.at()).stdout)


def test_training_reads_what_was_prepared(turned, tmp_path):
    before = turned.status()["decoded"]
    run_ok("trainer", *arguments(turned, tmp_path / "apply", "--exif", "apply"))
    assert turned.status()["decoded"] == before, "all was in the cache"
    assert json.loads((tmp_path / "apply" / "run.json").read_text())["config"]["exif"] == "apply"
    # A run says itself how it was trained: eval reads the same pictures, and gets the run's own figure.
    last = [json.loads(line) for line in (tmp_path / "apply" / "metrics.jsonl").read_text().splitlines()][-1]
    as_trained = evaluated(turned, tmp_path / "apply")
    assert turned.status()["decoded"] == before and as_trained["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert evaluated(turned, tmp_path / "apply", "--exif", "ignore")["loss"] != as_trained["loss"]
    assert turned.status()["decoded"] > before

    run_ok("trainer", *arguments(turned, tmp_path / "ignore"))
    assert json.loads((tmp_path / "ignore" / "run.json").read_text())["config"]["exif"] == "ignore"
    assert first_digest(tmp_path / "ignore") != first_digest(tmp_path / "apply")


def test_a_run_keeps_its_pictures(turned, tmp_path):
    run_ok("trainer", *arguments(turned, tmp_path / "a", "--exif", "apply"))
    again = run("trainer", "--resume", "--out", tmp_path / "a", "--exif", "ignore", *turned.at())
    assert again.returncode != 0 and "--exif ignore" in again.stderr and "apply" in again.stderr
    wrong = run("trainer", *arguments(turned, tmp_path / "b", "--exif", "upright"))
    assert wrong.returncode == 2 and "--exif: 'upright'" in wrong.stderr


def test_a_run_of_before_the_option_goes_on(turned, tmp_path):
    """Runs that knew no --exif left pictures alone; naming that changes nothing."""
    run_ok("trainer", *arguments(turned, tmp_path / "old"))
    path = tmp_path / "old" / "run.json"
    text = path.read_text()
    path.write_text(re.sub(r'"exif": "ignore",\s*', "", text))
    assert path.read_text() != text
    run_ok("trainer", "--resume", "--out", tmp_path / "old", "--exif", "ignore", *turned.at())


def test_features_are_of_the_pictures_that_were_asked_for(turned, tmp_path):
    def computed(name, *more):
        said = run_ok("trainer", *arguments(turned, tmp_path / name, "--freeze", "image", *more)).stderr
        return int(re.search(r"features of \d+ pictures in train: \d+ from the cache, (\d+) computed", said)[1])

    assert computed("one", "--exif", "apply") == 24
    assert computed("two", "--exif", "apply") == 0
    assert computed("three") == 24, "features of other pictures are none of these"


def test_a_study_and_its_attacks_read_the_same(turned, tmp_path):
    before = turned.status()["decoded"]
    run_ok("trainer", "study", "--data", "small", "--arms", "none,dropout", "--folds", "2", "--preset", "tiny", "--batch-size", "8", "--epochs", "1",
           "--exif", "apply", "--jobs", "1", "--keep", "last", "--out", tmp_path / "study", *turned.at())
    run_ok("trainer", "robust", tmp_path / "study", "--pairs", "2", "--steps", "1", "--restarts", "1", *turned.at())
    assert (tmp_path / "study" / "robustness.json").exists() and turned.status()["decoded"] == before
