"""predictions.csv, calibration and accuracy on training pairs: agree with one another, with eval, and with the definition."""
import csv
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, Daemon, SmallData, environment, run, run_ok  # noqa: E402

BINS = 15


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon() as running:
        SmallData(tmp_path_factory.mktemp("small")).add(running)
        yield running


def train(daemon, out, *more):
    run_ok("trainer", "--data", "small", "--preset", "tiny", "--batch-size", "8", "--threads", "1", "--out", out, *more, *daemon.at())
    return json.loads((out / "run.json").read_text())


def evaluate(daemon, weights, split, *more):
    return json.loads(run_ok("trainer", "eval", weights, "--data", "small", "--split", split, "--json", "--threads", "1", *more, *daemon.at()).stdout)


def limit_files():
    """In a child: writing beyond 64 KiB is an error (EFBIG), and no signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["pair", "picture", "caption", "label", "p", "correct"]
    assert [int(row["pair"]) for row in rows] == list(range(len(rows)))
    return rows


def calibration(confidences, right):
    """Guo et al. 2017, from the definition."""
    error = 0.0
    for b in range(BINS):
        chosen = [i for i, c in enumerate(confidences) if b / BINS < c <= (b + 1) / BINS]
        if chosen:
            error += abs(sum(right[i] for i in chosen) - sum(confidences[i] for i in chosen))
    return error / len(confidences)


def test_matching(daemon, tmp_path):
    record = train(daemon, tmp_path / "run", "--epochs", "3", "--predictions")
    final, rows = record["result"]["final"], rows_of(tmp_path / "run" / "predictions.csv")
    right = [int(row["correct"]) for row in rows]
    p = [float(row["p"]) for row in rows]
    assert len(rows) == final["pairs"] == 18 and final["pictures"] == len({row["picture"] for row in rows}) == 9
    assert final["accuracy"] == record["result"]["val"]["accuracy"] == sum(right) / len(right)
    assert final["loss"] == record["result"]["val"]["loss"]
    for i, row in enumerate(rows):
        assert row["label"] == str(1 - i % 2) and right[i] == ((p[i] > 0.5) == (row["label"] == "1"))
        assert row["caption"] == rows[i - i % 2]["caption"]
    # One caption each: a picture is named by the id of its own, the wrong one by that of another picture.
    assert all((row["picture"] == row["caption"]) == (row["label"] == "1") for row in rows)
    assert {int(row["caption"]) for row in rows} == set(range(24, 33))
    assert abs(final["ece"] - calibration([max(x, 1 - x) for x in p], right)) < 1e-6
    # The same from the weights on disk, and for the training pictures.
    said = evaluate(daemon, tmp_path / "run" / "last.safetensors", "val", "--predictions", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "run" / "predictions.csv").read_bytes()
    assert (said["accuracy"], said["loss"], said["ece"], said["digest"]) == (final["accuracy"], final["loss"], final["ece"], final["val_digest"])
    said = evaluate(daemon, tmp_path / "run" / "last.safetensors", "train")
    assert (said["accuracy"], said["loss"], said["pairs"]) == (final["train_accuracy"], final["train_loss"], final["train_pairs"])


def test_classification(daemon, tmp_path):
    final = train(daemon, tmp_path / "run", "--epochs", "1", "--task", "classify", "--predictions")["result"]["final"]
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    assert len(rows) == final["pairs"] == 9 and {row["label"] for row in rows} <= {"0", "1", "2"}
    assert final["accuracy"] == sum(int(row["correct"]) for row in rows) / 9
    assert all(0 <= float(row["p"]) <= 1 for row in rows)
    assert all(float(row["p"]) > 1 / 3 for row in rows if row["correct"] == "1")


def test_a_place_that_cannot_be_written(tmp_path):
    """Is found out before anything is measured; where it can be, nothing is left of finding out."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    for path, words in ((tmp_path / "none" / "p.csv", "--predictions"), (tmp_path / "p.csv", "is empty")):
        said = run("trainer", "eval", weights, "--data", "small", "--predictions", path)
        assert said.returncode == 1 and words in said.stderr, said.stderr
        assert list(tmp_path.iterdir()) == [weights]


def test_ranks_decide_nothing(daemon, tmp_path):
    """Of contrast there are no predictions and no calibration, and none that are made up; training pairs are measured all the same."""
    result = train(daemon, tmp_path / "run", "--epochs", "1", "--task", "contrast", "--predictions")["result"]
    final = result["final"]
    assert not (tmp_path / "run" / "predictions.csv").exists()
    assert set(final) == {"accuracy", "loss", "pairs", "pictures", "val_digest", "train_accuracy", "train_loss", "train_pairs", "train_pictures"}
    assert (final["accuracy"], final["pairs"], final["pictures"]) == (result["val"]["accuracy"], 9, 9) and final["train_pairs"] == 24


def test_digests_name_weights_and_pairs(daemon, tmp_path):
    def digests(name, *more):
        record = train(daemon, tmp_path / name, "--steps", "2", "--predictions", *more)
        return record["init_digest"], record["result"]["final"]["pairs_digest"], record["digest"]

    none, dropout, seed = digests("a"), digests("b", "--reg", "dropout+l2"), digests("c", "--seed", "1")
    assert none == dropout
    assert none[0] != seed[0] and none[1] == seed[1] and none[2] != seed[2]
    # A run that goes on still knows what it began with.
    record = train(daemon, tmp_path / "a", "--resume", "--predictions")
    assert record["init_digest"] == none[0] and record["result"]["final"]["pairs_digest"] == none[1]


@pytest.mark.parametrize("more", [[], ["--reg", "early=1"], ["--freeze", "image,text"]], ids=["whole", "early", "frozen"])
def test_without_weights(daemon, tmp_path, more):
    """--no-weights changes what is left behind, and no number."""
    kept = train(daemon, tmp_path / "kept", "--epochs", "3", "--predictions", *more)
    gone = train(daemon, tmp_path / "gone", "--epochs", "3", "--predictions", "--no-weights", *more)
    for record in (kept, gone):
        record["result"].pop("train_seconds")
    assert gone["state"] == "finished" and gone["result"] == kept["result"] and gone["digest"] == kept["digest"]
    assert (tmp_path / "gone/predictions.csv").read_bytes() == (tmp_path / "kept/predictions.csv").read_bytes()
    assert list(tmp_path.glob("kept/*.safetensors")) and not list(tmp_path.glob("gone/**/*.safetensors"))
    assert not (tmp_path / "gone/checkpoints").exists()
    # There is nothing to go on from, and training it again would throw its numbers away.
    before = {path: path.read_bytes() for path in tmp_path.glob("gone/*.*")}
    again = run("trainer", "--resume", "--epochs", 4, "--out", tmp_path / "gone", *daemon.at())
    assert again.returncode == 1 and "is finished and has no checkpoint to go on from" in again.stderr
    assert {path: path.read_bytes() for path in tmp_path.glob("gone/*.*")} == before


@pytest.mark.parametrize("more, code", [(["--no-weights"], 0), ([], 1)], ids=["unwanted", "kept"])
def test_weights_that_nobody_wants_are_not_written(daemon, tmp_path, more, code):
    """Seen from outside: a run that may write no file as large as its weights ends well, and one that keeps them does not."""
    result = subprocess.run([BIN / "trainer", "--data", "small", "--preset", "tiny", "--batch-size", "8", "--epochs", "1", "--freeze", "image,text",
                             "--quiet", "--out", tmp_path / "run", *more, *map(str, daemon.at())], env=environment(), stdin=subprocess.DEVNULL,
                            capture_output=True, preexec_fn=limit_files)
    assert (result.returncode != 0) == code, result.stderr
    assert not list(tmp_path.glob("run/**/*.safetensors"))


def test_resume_keeps_them(daemon, tmp_path):
    """That they were asked for is part of the run, and resuming a finished one takes nothing away."""
    out = tmp_path / "run"
    before = train(daemon, out, "--epochs", "2", "--predictions")
    rows = (out / "predictions.csv").read_bytes()
    run_ok("trainer", "--resume", "--out", out, *daemon.at())
    after = json.loads((out / "run.json").read_text())
    assert after["result"]["final"] == before["result"]["final"] and (out / "predictions.csv").read_bytes() == rows
    (out / "predictions.csv").unlink()
    run_ok("trainer", "--resume", "--out", out, *daemon.at())
    assert (out / "predictions.csv").read_bytes() == rows
