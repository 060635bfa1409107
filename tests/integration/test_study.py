"""Studies: what they write, that arms differ in the regularizer alone, and that nothing that stops one changes its numbers."""
import contextlib
import csv
import fcntl
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, Daemon, SmallData, environment, run, run_ok, write_csv  # noqa: E402

TIMES = {"train_seconds", "step_seconds", "cost"}
ARMS = ["none", "dropout", "l2+adv@1"]
COMMON = ["--preset", "tiny", "--batch-size", "8", "--epochs", "2"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon() as running:
        SmallData(tmp_path_factory.mktemp("small")).add(running)
        yield running


def arguments(daemon, out, *more):
    return ["study", "--data", "small", "--arms", ",".join(ARMS), "--folds", "2", "--seeds", "2", *COMMON, "--out", out, *daemon.at(), *more]


def start(daemon, out, *more):
    return subprocess.Popen([str(BIN / "trainer"), *map(str, arguments(daemon, out, *more))], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)


def results(out):
    """Everything of each run's result but the times, by its folder."""
    found = {}
    for path in sorted(out.glob("runs/*/*/result.json")):
        result = json.loads(path.read_text())
        found[str(path.parent.relative_to(out))] = {key: value for key, value in result.items() if key not in TIMES}
        found[str(path.parent.relative_to(out))]["predictions"] = (path.parent / "predictions.csv").read_text()
    return found


def wait_for(condition, wait_s=60):
    until = time.monotonic() + wait_s * SLOW
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(daemon, tmp_path_factory):
    """A study that nobody stopped."""
    out = tmp_path_factory.mktemp("study") / "whole"
    result = run_ok("trainer", *arguments(daemon, out))
    assert "12 runs" in result.stderr and "(8 comparisons)" in result.stderr
    assert re.search(r"^none +4 +0\.\d{4} +0\.\d{4}$", result.stdout, re.M)
    return out


def test_arms_differ_in_the_regularizer_alone(whole):
    found = results(whole)
    assert len(found) == 12
    for fold in (1, 2):
        for seed in (0, 1):
            of_cell = [found[f"runs/{arm.replace(':', '_')}/f{fold}-s{seed}"] for arm in ARMS]
            for key in ("digest", "val_digest", "init_digest", "pairs_digest", "steps", "pairs", "data_version"):
                assert len({result[key] for result in of_cell}) == 1, key
            assert len({result["loss"] for result in of_cell}) == 3
    assert len({result["digest"] for result in found.values()}) == 4
    assert len({result["init_digest"] for result in found.values()}) == 2
    assert len({result["pairs_digest"] for result in found.values()}) == 2


def test_what_a_run_leaves_behind(whole):
    run_dir = whole / "runs/l2+adv@1/f2-s1"
    assert not (run_dir / "checkpoints").exists() and not list(run_dir.glob("*.safetensors"))
    result = json.loads((run_dir / "result.json").read_text())
    assert result["schema"] == "trainer-result-1" and result["arm"] == result["reg"] == "l2+adv@1"
    assert result["fold"] == 2 and result["seed"] == 1 and result["epochs"] == 2 and result["adv_loss"] > 0 and result["cost"] > 0
    lines = [line.split(",") for line in (run_dir / "predictions.csv").read_text().splitlines()[1:]]
    assert len(lines) == result["pairs"] and result["accuracy"] == sum(int(line[5]) for line in lines) / len(lines)
    study = json.loads((whole / "study.json").read_text())
    assert study["schema"] == "trainer-study-1" and [arm["reg"] for arm in study["arms"]] == ARMS and study["baseline"] == "none"
    assert study["digests"] == {"compared": 8, "mismatches": 0, "report": ""} and study["command"][1] == "study"
    assert study["folds"] == 2 and study["seeds"] == [0, 1] and len(study["data_version"]) == 64


def test_what_the_adversary_did(daemon, tmp_path):
    """Clean and adversarial loss over the same steps, those of the last epoch in which it worked, and the targets that there are."""
    out = tmp_path / "s"
    run_ok("trainer", "study", "--data", "small", "--arms", "none,adv:target=fused+pixel,rel=0.1,every=2@0-1", "--folds", "2", *COMMON, "--out", out,
           *daemon.at())
    arm = next(path.name for path in (out / "runs").iterdir() if path.name != "none")
    folder = out / "runs" / arm / "f1-s0"
    worked = [line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "adv_loss" in line]
    result = json.loads((folder / "result.json").read_text())
    assert worked and {line["epoch"] for line in worked} == {0}
    for key, field in (("adv_loss", "adv_loss"), ("clean_loss", "loss"), ("delta_over_fused", "delta_over_fused"), ("delta_over_pixel", "delta_over_pixel")):
        assert result[key] == pytest.approx(sum(line[field] for line in worked) / len(worked), rel=1e-9), key
    assert result["delta_over_embedding"] == 0 and 0 < result["delta_over_fused"] <= 0.1001
    found = next(a for a in json.loads((out / "report.json").read_text())["arms"] if a["name"] == arm)
    assert found["clean_loss"] > 0 and found["delta_over_pixel"] > 0
    assert f"<td>{found['clean_loss']:.4f}</td><td>{found['adv_loss']:.4f}</td><td>–</td><td>–</td>" in (out / "report.html").read_text()


@pytest.fixture(scope="module")
def ranks(daemon, tmp_path_factory):
    """A study of contrast, on the data set's own splits."""
    out = tmp_path_factory.mktemp("ranks") / "s"
    said = run_ok("trainer", "study", "--data", "small", "--task", "contrast", "--arms", "none,dropout=0.5:at=text", "--folds", "1", "--seeds", "3", *COMMON,
                  "--out", out, *daemon.at())
    return out, said


def test_a_study_of_ranks_is_corrected_too(ranks):
    """For training sets that overlap, by 9 pictures of val over the 24 of train."""
    out, _ = ranks
    for path in out.glob("runs/*/*/result.json"):
        result = json.loads(path.read_text())
        assert (result["pictures"], result["train_pictures"]) == (9, 24)
    report = json.loads((out / "report.json").read_text())
    assert report["test_over_train"] == pytest.approx(9 / 24)
    assert report["arms"][1]["against_baseline"]["corrected_t"]["test_over_train"] == pytest.approx(9 / 24)


def test_pictures_without_a_label_are_not_trained_on(daemon, tmp_path):
    """With half of the 24 pictures labelled, 9 of val over 12 of train is what the test is corrected for."""
    data = SmallData(tmp_path / "half")
    rows = [row if i % 2 == 0 or i >= 24 else (*row[:2], "") for i, row in enumerate(data.rows)]
    data.train = write_csv(data.folder / "train.csv", rows[:24])
    data.add(daemon, "half")
    run_ok("trainer", "study", "--data", "half", "--task", "classify", "--arms", "none,dropout", "--folds", "1", "--seeds", "2", *COMMON, "--out",
           tmp_path / "s", *daemon.at())
    for path in (tmp_path / "s").glob("runs/*/*/result.json"):
        result = json.loads(path.read_text())
        final = json.loads((path.parent / "run.json").read_text())["result"]["final"]
        assert (result["pictures"], result["train_pictures"], final["train_pictures"], final["train_pairs"]) == (9, 12, 12, 12)
    assert json.loads((tmp_path / "s" / "report.json").read_text())["test_over_train"] == pytest.approx(9 / 12)


def test_what_ranks_do_not_have(daemon, ranks):
    """No predictions, no calibration, no digest of pairs: they are absent, and reports say that they do not apply."""
    out, said = ranks
    assert "predictions.csv" not in said.stderr + said.stdout and not list(out.glob("runs/*/*/predictions.csv"))
    for path in out.glob("runs/*/*/result.json"):
        result = json.loads(path.read_text())
        assert not {"ece", "pairs_digest"} & set(result) and result["train_accuracy"] > 0 and result["pairs"] > 0
    report = json.loads((out / "report.json").read_text())
    assert [check["key"] for check in report["identical"]["checks"]] == ["digest", "val_digest", "init_digest"] and report["identical"]["ok"]
    assert all(arm["ece"]["mean"] is None for arm in report["arms"]) and all(run["ece"] is None for run in report["per_run"])
    words = "do not apply: a contrast model ranks and decides nothing about single pairs"
    for name in ("report.md", "report.tex", "report.html"):
        text = (out / name).read_text()
        assert words in text and "replicates" not in text and "picture-clustered" not in text, name
    assert (out / "report.md").read_text().count(": does not apply: a contrast model ranks and decides nothing") == 2
    # It is read back, too, also where an older version had written zeros.
    path = out / "runs/none/f1-s0/result.json"
    kept = path.read_text()
    path.write_text(json.dumps({**json.loads(kept), "ece": 0, "pairs_digest": "0" * 64}))
    assert "6 runs are there already" in run_ok("trainer", "study", "--out", out, *daemon.at()).stderr
    assert json.loads((out / "report.json").read_text())["per_run"][0]["ece"] is None
    path.write_text(kept)


def test_a_study_that_is_done_repeats_nothing(daemon, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("runs/*/*/*")}
    assert "12 runs are there already" in run_ok("trainer", *arguments(daemon, whole)).stderr
    assert "12 runs are there already" in run_ok("trainer", "study", "--out", whole, *daemon.at()).stderr
    # Quiet, there is nothing to say; the report is in the folder.
    quiet = run_ok("trainer", "study", "--out", whole, "-q", *daemon.at())
    assert quiet.stdout == quiet.stderr == ""
    assert before == {path: path.stat().st_mtime_ns for path in whole.glob("runs/*/*/*")}


def test_killed_again_and_again(daemon, whole, tmp_path):
    """SIGKILL of the study, whose runs then stop by themselves; and of everything at once."""
    out = tmp_path / "killed"
    for kills, done in enumerate((0, 2, 5, 9)):
        process = start(daemon, out, "--jobs", "2", "--threads", "1")
        wait_for(lambda count=done: process.poll() is not None or len(list(out.glob("runs/*/*/metrics.jsonl"))) > count)
        time.sleep(0.03 * kills)
        if kills % 2:
            for child in subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE, text=True, check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                    os.kill(int(child), signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close(), process.stderr.close()
    finished = {path: path.read_bytes() for path in out.glob("runs/*/*/result.json")}
    assert 0 < len(finished) < 12
    run_ok("trainer", *arguments(daemon, out, "--jobs", "2", "--threads", "1"))
    assert all(path.read_bytes() == content for path, content in finished.items())
    assert results(out) == results(whole)
    assert not list(out.glob("runs/*/*/checkpoints"))


def test_a_run_that_finished_alone(daemon, whole, tmp_path):
    """Its study was killed before it wrote the result: the run is taken as it is, and not done again."""
    out = tmp_path / "alone"
    shutil.copytree(whole, out)
    run_dir = out / "runs/dropout/f1-s1"
    (run_dir / "result.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    assert "11 runs are there already" in run_ok("trainer", "study", "--out", out, *daemon.at()).stderr
    assert {path: path.stat().st_mtime_ns for path in run_dir.iterdir() if path in before} == before
    assert results(out) == results(whole)


def test_stopped_by_a_signal(daemon, whole, tmp_path):
    out = tmp_path / "stopped"
    process = start(daemon, out, "--threads", "1")
    wait_for(lambda: len(list(out.glob("runs/*/*/metrics.jsonl"))) > 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 130 and "Go on with the same command" in said
    states = {json.loads(path.read_text())["state"] for path in out.glob("runs/*/*/run.json")}
    assert states <= {"interrupted", "finished"}
    run_ok("trainer", "study", "--out", out, *daemon.at())
    assert results(out) == results(whole)


def test_two_studies_in_one_folder(daemon, tmp_path):
    out = tmp_path / "twice"
    process = start(daemon, out, "--threads", "1")
    wait_for(lambda: (out / "study.json").exists())
    second = run("trainer", *arguments(daemon, out))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60 * SLOW)
    assert second.returncode == 1 and "another study is at work there" in second.stderr and process.returncode == 130


@pytest.mark.parametrize("more, words", [
    (["--folds", "3"], "folds 2, now it is 3"), (["--seeds", "5,6"], "the seed 0, now it is 5"), (["--lr", "1e-3"], "--lr (not given), now it is 1e-3"),
    (["--arms", "none,dropout,l2"], "an arm l2+adv@1, now it is l2"), (["--epochs", "3"], "--epochs 2, now it is 3"),
    (["--fold-seed", "1"], "fold_seed 0, now it is 1"), (["--fold-seed", "each"], "fold_seed 0, now it is each"), (["--baseline", "dropout"], "baseline none, now it is dropout"),
    (["--threads", "7"], "--threads")])
def test_another_study_in_the_folder(daemon, whole, more, words):
    result = run("trainer", *arguments(daemon, whole, *more))
    assert result.returncode == 1 and words in result.stderr, result.stderr


def test_a_changed_result_is_noticed(daemon, whole, tmp_path):
    out = tmp_path / "changed"
    shutil.copytree(whole, out)
    path = out / "runs/dropout/f1-s0/result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "digest": "0" * 64, "init_digest": "1" * 64}))
    said = run("trainer", "study", "--out", out, *daemon.at())
    assert said.returncode == 1 and "2 times two arms of one fold and seed did not differ in the regularizer alone" in said.stderr
    for words in ("were trained on different batches", "began with different weights"):
        assert [line for line in said.stderr.splitlines() if line.endswith(f"fold 1, seed 0: none and dropout {words}")], said.stderr
    assert json.loads((out / "study.json").read_text())["digests"]["mismatches"] == 2


@pytest.mark.parametrize("left", [100, 0])
def test_a_damaged_result_is_made_again(daemon, whole, tmp_path, left):
    """From the run's own files where they are whole, else with the run; a result of another run is the user's to judge."""
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    path = out / "runs/dropout/f1-s0/result.json"
    path.write_text(path.read_text()[:left])
    before = (path.parent / "run.json").stat().st_mtime_ns
    said = run_ok("trainer", "study", "--out", out, *daemon.at()).stderr
    assert "runs/dropout/f1-s0/result.json" in said and "made again from the run's own files" in said and "12 runs are there already" in said
    assert results(out) == results(whole) and (path.parent / "run.json").stat().st_mtime_ns == before
    path.write_text(path.read_text()[:left])
    (path.parent / "run.json").write_text("{")
    said = run_ok("trainer", "study", "--out", out, *daemon.at()).stderr
    assert "runs/dropout/f1-s0/result.json" in said and "the run is trained again" in said and "11 runs are there already" in said
    assert results(out) == results(whole)
    shutil.copy(out / "runs/none/f1-s0/result.json", path)
    said = run("trainer", "study", "--out", out, *daemon.at())
    assert said.returncode == 1 and "is of another run" in said.stderr and "remove that folder" in said.stderr


@pytest.mark.parametrize("name, content, words", [
    ("run.json", "", "run.json:1:1: the file ends"), ("run.json", '{"state": "running"}', "no run's configuration in it"),
    ("run.json", '{"state": "finished"}', "no result.steps in it"), ("metrics.jsonl", None, "metrics.jsonl: No such file")])
def test_without_a_result_and_with_damage(daemon, whole, tmp_path, name, content, words):
    """What the run left can be neither taken as its result nor gone on with: it is trained again, not tried in vain each time."""
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    path = out / "runs/dropout/f1-s0"
    (path / "result.json").unlink()
    (path / name).unlink()
    if content is not None:
        (path / name).write_text(content)
    said = run_ok("trainer", "study", "--out", out, "--quiet", *daemon.at()).stderr
    assert len(said.splitlines()) == 1 and "warning: " in said and f"runs/dropout/f1-s0/{name}" in said and words in said, said
    assert said.endswith("; the run is trained again\n") and results(out) == results(whole)


def test_without_a_result_and_with_a_checkpoint(daemon, whole, tmp_path):
    """A damaged run.json is no loss where a checkpoint says the same: the run goes on from there."""
    out = tmp_path / "kept"
    run_ok("trainer", *arguments(daemon, out, "--keep", "all"))
    path = out / "runs/dropout/f1-s0"
    (path / "result.json").unlink()
    (path / "run.json").write_text("")
    before = {path: path.stat().st_mtime_ns for path in path.glob("checkpoints/*/*")}
    said = run_ok("trainer", "study", "--out", out, *daemon.at()).stderr
    assert "trained again" not in said and results(out) == results(whole), said
    assert before and before == {path: path.stat().st_mtime_ns for path in path.glob("checkpoints/*/*")}


def test_an_arm_that_diverges(daemon, tmp_path):
    spec = {"data": "small", "folds": 2, "seeds": 1, "arms": ["none", {"name": "wild", "reg": "none", "options": {"lr": 1e30, "clip": 0, "warmup": 0}}],
            "options": {"preset": "tiny", "batch-size": 8, "epochs": 1}, "keep": "last", "# a comment": 1}
    (tmp_path / "wild.json").write_text(json.dumps(spec))
    out = tmp_path / "wild"
    for _ in range(2):
        result = run("trainer", "study", tmp_path / "wild.json", "--out", out, *daemon.at())
        assert result.returncode == 0 and "2 of 4 runs diverged" in result.stderr, result.stderr
    failed = json.loads((out / "runs/wild/f1-s0/failed.json").read_text())
    assert failed["state"] == "diverged" and "not finite" in failed["message"] and failed["arm"] == "wild"
    assert len(results(out)) == 2 and len(list(out.glob("runs/none/*/last.safetensors"))) == 2
    assert re.search(r"^wild +0 +- +-$", result.stdout, re.M)


@pytest.mark.parametrize("spec, words", [
    ({"arms": ["none", "dropout"]}, "needs --data"), ({"data": "small"}, "needs arms"), ({"data": "small", "arms": ["none"]}, "at least two arms"),
    ({"data": "small", "arms": ["none", "nine"]}, "arm nine"), ({"data": "small", "arms": ["l2", "l2"]}, "two arms are called l2"),
    ({"data": "small", "arms": ["none", "l2"], "fold": 3}, '"fold" is no part of a study'), ({"data": "small", "arms": "none"}, "spec.json:1:"),
    ({"data": "small", "arms": ["none", "l2"], "options": {"seed": 1}}, "say it with seeds"),
    ({"data": "small", "arms": ["none", "l2"], "options": {"epoch": 1}}, "--epoch"), ({"data": "small", "arms": ["none", "l2"], "folds": 0}, "1 to 100"),
    ({"data": "small", "arms": ["none", "l2"], "baseline": "adv"}, "the baseline adv is none of the arms"),
    ({"data": "small", "arms": ["none", {"name": "a/b", "reg": "l2"}]}, "folder's name"),
    *((f'{{"data": "small", "arms": ["none", {{"name": "z", "reg": "l2"{arm}}}], "options": {{"preset": "tiny"{option}}}{more}}}', f'"{key}" stands there twice')
      for arm, option, more, key in (("", "", ', "folds": 2, "folds": 3', "folds"), ("", "", ', "arms": ["none", "l2"]', "arms"),
                                     ("", ', "lr": 0.1, "lr": 0.2', "", "lr"), ("", "", ', "common": {"preset": "small"}', "preset"),
                                     (', "reg": "l2"', "", "", "reg"), (', "options": {"lr": 1, "lr": 1}', "", "", "lr"),
                                     ("", "", ', "robustness": {"pairs": 2, "pairs": 3}', "pairs"))),
    ({"data": "small", "arms": ["none", "l2"], "seeds": []}, "this list of seeds is empty"),
    ({"data": "none-such", "arms": ["none", "l2"]}, "there is no data set 'none-such'"),
    ({"data": "small", "arms": ["none", "l2"], "folds": 34}, "fewer folds"),
    ({"data": "small", "arms": ["none", "l2"], "fold_seed": "all"}, "fold_seed is a whole number"),
    ({"data": "small", "arms": ["none", "l2"], "fold_seed": "each", "folds": 1}, "no folds to cut"),
    ({"data": "small", "arms": ["dropout", "l2", "none"], "design": "all"}, "factorial")])
def test_files_that_are_wrong(daemon, tmp_path, spec, words):
    (tmp_path / "spec.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))
    result = run("trainer", "study", tmp_path / "spec.json", "--out", tmp_path / "out", *daemon.at())
    assert result.returncode in (1, 2) and words in result.stderr, result.stderr
    assert not (tmp_path / "out" / "study.json").exists()


@pytest.mark.parametrize("spec, words", [
    *(({"arms": ["none", {"name": "z", "reg": "l2", "options": {option: value}}]}, f"arm z: its option {option}") for option, value in {
        "batch-size": 4, "accumulate": 2, "task": "contrast", "preset": "small", "image-size": 32, "exif": "apply", "max-len": 9, "text-encoder": "layers=1", "init": "x"}.items()),
    *(({"options": {"preset": "tiny", option: "x"}}, f"options: the option {option} is the study's own") for option in (
        "out", "socket", "log-level", "cache", "quiet", "resume", "predictions", "no-weights", "dry-run")),
    ({"arms": ["none", {"name": "z", "reg": "l2", "options": {"out": "x"}}]}, "z: the option out is the study's own"),
    ({"arms": ["none", "l2+dropout@2-5"]}, "arm l2+dropout@2-5: dropout=0.3@2-5 never works"),
    ({"arms": ["none", "dropout@10"], "options": {"preset": "tiny"}}, "dropout=0.3@10 never works"),
    ({"arms": ["none", {"name": "z", "reg": "dropout@1", "options": {"epochs": 1}}]}, "arm z: dropout=0.3@1 never works"),
    ({"arms": ["none", "dropout@2"], "options": {"preset": "tiny", "batch-size": 8, "steps": 4}}, "training is over after 2 of them"),
    *(({"equal": "time", "arms": ["none", {"name": "z", "reg": "l2", "options": {option: 3}}]}, f"arm z: its option {option} would be ignored")
      for option in ("epochs", "steps")),
    ({"folds": 1, "split": "train"}, "--split train: with --folds 1 nothing is made of it"), ({"folds": 1, "split": "train~fold=1/2"}, "--folds 2 or more"),
    ({"folds": 1, "fold_seed": 3}, "--fold-seed 3: with --folds 1 there are no folds to cut"),
    ({"arms": ["none", *(f"l2=0.{i}" for i in range(1, 8))], "folds": 100, "seeds": 100}, "80000 runs, and a report is on 65536 at most"),
    ({"robustness": True, "options": {"preset": "tiny", "task": "contrast"}}, "--robustness: attacks are on pairs and labels")])
def test_refused_before_the_first_run(daemon, tmp_path, spec, words):
    base = {"data": "small", "folds": 2, "arms": ["none", "l2"], "options": {"preset": "tiny", "batch-size": 8, "epochs": 2}}
    (tmp_path / "spec.json").write_text(json.dumps({**base, **spec}))
    result = run("trainer", "study", tmp_path / "spec.json", "--out", tmp_path / "out", *daemon.at())
    assert result.returncode == 2 and words in result.stderr, result.stderr
    assert not (tmp_path / "out" / "study.json").exists() and not (tmp_path / "out" / "runs").exists()


def test_labels_that_are_not_there(daemon, tmp_path):
    add = SmallData(tmp_path / "small").arguments("unlabelled")
    add[add.index("--columns") + 1] = "image,caption"
    daemon.prepctl_ok("add", *add)
    result = run("trainer", "study", "--data", "unlabelled", "--preset", "tiny", "--task", "classify", "--arms", "none,l2", "--folds", "2", "--out",
                 tmp_path / "out", *daemon.at())
    assert result.returncode == 1 and "data set unlabelled has no labels; --task classify needs" in result.stderr, result.stderr
    assert not (tmp_path / "out" / "study.json").exists() and not (tmp_path / "out" / "runs").exists()


def test_weights_that_are_wanted_too_late(daemon, whole, tmp_path):
    """Finished runs have none to keep or to attack: that is said, with a way out of it that works."""
    out = tmp_path / "late"
    shutil.copytree(whole, out)
    before = (out / "study.json").read_bytes()
    first = out / "runs/none/f1-s0"
    said = run("trainer", "study", "--out", out, "--robustness", *daemon.at())
    assert said.returncode == 1 and "--robustness: the runs to attack (fold 1, seed 0)" in said.stderr and f"the first is {first}" in said.stderr, said.stderr
    assert (out / "study.json").read_bytes() == before
    said = run("trainer", "robust", out, *daemon.at())
    assert said.returncode == 1 and f"remove their folders (the first is {first})" in said.stderr, said.stderr
    said = run_ok("trainer", "study", "--out", out, "--keep", "last", "-q", *daemon.at()).stderr
    assert "warning: 12 of 12 finished runs kept no weights" in said and f"the first is {first}" in said, said
    for arm in (out / "runs").iterdir():
        shutil.rmtree(arm / "f1-s0")
    said = run_ok("trainer", "study", "--out", out, "--keep", "last", *daemon.at()).stderr
    assert "9 runs are there already" in said and "9 of 9 finished runs kept no weights" in said, said
    assert len(list(out.glob("runs/*/f1-s0/last.safetensors"))) == 3 and results(out) == results(whole)
    run_ok("trainer", "robust", out, "--pairs", "8", "--steps", "1", "--restarts", "1", "-q", *daemon.at())
    assert (out / "robustness.json").exists()


def test_one_fold_is_of_the_own_splits(daemon, ranks, tmp_path):
    """Which two is what the first line and study.json say; what an older version wrote there is understood."""
    out, said = ranks
    assert "on small (train and val)" in said.stderr
    assert json.loads((out / "study.json").read_text())["split"] == "train and val"
    again = run_ok("trainer", "study", "--out", out, *daemon.at()).stderr
    assert "6 runs are there already" in again and "on small (train and val)" in again
    (tmp_path / "s.json").write_text((out / "study.json").read_text())
    assert "6 runs" in run_ok("trainer", "study", tmp_path / "s.json", "--out", tmp_path / "new", "--dry-run").stdout
    shutil.copytree(out, tmp_path / "old")
    for split in ("train+val", "train"):
        record = {**json.loads((out / "study.json").read_text()), "split": split}
        (tmp_path / "old" / "study.json").write_text(json.dumps(record))
        assert "6 runs are there already" in run_ok("trainer", "study", "--out", tmp_path / "old", *daemon.at()).stderr, split


def test_attacks_on_ranks_are_refused_later_too(daemon, ranks):
    """Before anything is trained or written, also where the study has long begun."""
    out, _ = ranks
    before = (out / "study.json").read_bytes()
    said = run("trainer", "study", "--out", out, "--robustness", *daemon.at())
    assert said.returncode == 2 and "ranks and decides nothing; leave it out" in said.stderr and (out / "study.json").read_bytes() == before, said.stderr
    said = run("trainer", "robust", out, *daemon.at())
    assert said.returncode == 1 and "this study is of contrast, which ranks and decides nothing" in said.stderr, said.stderr


def test_allowed_before_the_first_run(daemon, tmp_path):
    """What all arms have in common may be said again, and a term may begin in the last epoch, were it of three steps of four."""
    spec = {"data": "small", "folds": 2, "options": {"preset": "tiny", "batch-size": 8, "steps": 3},
            "arms": ["none", {"name": "z", "reg": "dropout@1", "options": {"batch-size": 8, "lr": 1e-3}}]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert "(2 comparisons)" in run_ok("trainer", "study", tmp_path / "spec.json", "--out", tmp_path / "out", *daemon.at()).stderr


def test_a_term_that_begins_too_late(daemon, tmp_path):
    for epochs, warned in (("2", True), ("3", False)):
        said = run_ok("trainer", "--data", "small", "--preset", "tiny", "--batch-size", "8", "--epochs", epochs, "--reg", "l2+dropout@2", "--out",
                      tmp_path / epochs, *daemon.at()).stderr
        assert ("dropout=0.3@2 never works" in said) == warned, said


def test_data_without_a_val_split(daemon, tmp_path):
    """What prepctl add makes without splits: the folds are made of train, also when the study is gone on with."""
    data = SmallData(tmp_path / "data")
    daemon.prepctl_ok("add", "one", "--format", "csv", "--images", data.images, "--captions", data.train, "--columns", "image,caption,label", "--vocab",
                      data.vocab, "--size", "64")
    command = ["study", "--data", "one", "--arms", "none,l2", "--folds", "2", *COMMON, "--out", tmp_path / "out", *daemon.at()]
    assert "no val split: the folds are made of train alone (--split names" in run_ok("trainer", *command).stderr
    assert json.loads((tmp_path / "out" / "study.json").read_text())["split"] == "train"
    assert "4 runs are there already" in run_ok("trainer", *command).stderr
    for more, words in ((["--split", "train+val"], "--split train+val: "), (["--folds", "1"], "--folds 2 and more cut folds")):
        said = run("trainer", *command, "--out", tmp_path / "other", *more)
        assert said.returncode == 1 and words in said.stderr and 'no split "val"' in said.stderr, said.stderr
    # What is not there is not always the split.
    for more, words in ((["--data", "no-split"], "there is no data set 'no-split'"), (["--vocab", "no-split"], "there is no vocabulary 'no-split'")):
        said = run("trainer", *command, "--out", tmp_path / "other", *more)
        assert said.returncode == 1 and words in said.stderr and "--split" not in said.stderr and "no val split" not in said.stderr, said.stderr


def test_limits_of_a_design_are_usage():
    for arms, words in (("dropout,l2,adv,sam,mixup,rdrop,smooth", "at most 6 terms"), (",".join(f"l2=0.{i}" for i in range(1, 70)), "at most 64 arms")):
        said = run("trainer", "study", "--data", "x", "--dry-run", "--arms", arms, *(["--design", "factorial"] if "terms" in words else []))
        assert said.returncode == 2 and words in said.stderr, said.stderr


def dry_run(*more):
    said = run_ok("trainer", "study", "--data", "x", "--dry-run", *more).stdout.splitlines()
    return {line.split()[0]: line.split()[2] for line in said[1:]}


def test_one_of_each_is_said_as_one():
    said = run_ok("trainer", "study", "--data", "x", "--dry-run", "--arms", "none,l2", "--folds", "1", "--threads", "1", "--jobs", "1").stdout
    assert said.startswith("2 runs, 1 at a time on 1 thread each, into "), said


def test_designs():
    assert list(dry_run("--arms", "dropout,l2,adv", "--design", "factorial").values()) == [
        "none", "dropout", "l2", "dropout+l2", "adv", "dropout+adv", "l2+adv", "dropout+l2+adv"]
    assert list(dry_run("--arms", "none,dropout,l2,adv", "--design", "add-one").values()) == ["none", "dropout", "l2", "adv"]
    assert list(dry_run("--arms", "dropout,l2,adv", "--design", "leave-one-out").values()) == [
        "none", "dropout+l2+adv", "l2+adv", "dropout+adv", "dropout+l2"]
    # A comma that continues a term's options does not begin an arm.
    arms = dry_run("--arms", "none,adv:target=text,rel=0.1,l2=0.05+dropout@2,l2:mode=coupled,on=all")
    assert list(arms.values()) == ["none", "adv:target=text,rel=0.1", "l2=0.05+dropout@2", "l2:mode=coupled,on=all"]
    assert "adv_target=text_rel=0.1" in arms
    # Also where the options in front mean nothing without it, as --reg takes them in any order.
    order = ["none", "adv:init=0.1,k=4,method=pgd", "l2", "adv:k=3,every=2,method=freelb,target=text+feat"]
    assert list(dry_run("--arms", ",".join(order)).values()) == order


def test_the_command_line_goes_before_the_file(daemon, tmp_path):
    """A length takes the place of the file's other one, another data set has another version, and a design's arms are not taken for its terms."""
    spec = {"data": "small", "folds": 2, "arms": ["dropout", "l2"], "design": "factorial", "options": {"preset": "tiny", "batch-size": 8, "steps": 2}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    run_ok("trainer", "study", tmp_path / "spec.json", "--epochs", "1", "--out", tmp_path / "a", *daemon.at())
    study = json.loads((tmp_path / "a" / "study.json").read_text())
    assert study["common"]["epochs"] == 1 and "steps" not in study["common"]
    both = run("trainer", "study", tmp_path / "spec.json", "--epochs", "1", "--steps", "2", "--out", tmp_path / "b", *daemon.at())
    assert both.returncode == 2 and "both say how long to train" in both.stderr
    # Its study.json is a file, too.
    there = tmp_path / "a" / "study.json"
    SmallData(tmp_path / "other", train=24, val=9).add(daemon, "other")
    run_ok("trainer", "study", there, "--data", "other", "--steps", "1", "--out", tmp_path / "c", *daemon.at())
    assert list(dry_run(there, "--design", "factorial").values()) == ["none", "dropout", "l2", "dropout+l2"]
    design = run("trainer", "study", there, "--design", "add-one", "--out", tmp_path / "d", *daemon.at())
    assert design.returncode == 2 and "say these with --arms" in design.stderr
    assert list(dry_run(there, "--design", "add-one", "--arms", "l2,smooth").values()) == ["none", "l2", "smooth"]


def test_the_example_is_a_study(tmp_path):
    (tmp_path / "e.json").write_text(run_ok("trainer", "study", "--example").stdout)
    assert "60 runs" in run_ok("trainer", "study", tmp_path / "e.json", "--dry-run").stdout


def test_5x2cv(daemon, tmp_path):
    """Five halvings, one for each seed; F from the runs' own results, and each run's splits as its run.json has them."""
    out = tmp_path / "cv"
    run_ok("trainer", "study", "--data", "small", "--arms", "none,adv:target=feat,rel=1", "--folds", "2", "--seeds", "5", "--fold-seed", "each", *COMMON,
           "--lr", "1e-2", "--out", out, *daemon.at())
    assert json.loads((out / "study.json").read_text())["fold_seed"] == "each"
    found = {(r["arm"], r["fold"], r["seed"]): r for r in (json.loads(p.read_text()) for p in out.glob("runs/*/*/result.json"))}
    other = next(arm for arm, _, _ in found if arm != "none")
    halves = set()
    for seed in range(5):
        suffix = f",seed={seed}" if seed else ""
        for fold in (1, 2):
            options = json.loads((out / f"runs/none/f{fold}-s{seed}/run.json").read_text())["config"]
            assert options["val-split"] == f"train+val~fold={fold}/2{suffix}" and options["train-split"] == f"train+val~rest={fold}/2{suffix}"
        with open(out / f"runs/none/f1-s{seed}/predictions.csv") as file:
            halves.add(frozenset(row["picture"] for row in csv.DictReader(file)))
    assert len(halves) == 5
    d = [[found[other, f, s]["accuracy"] - found["none", f, s]["accuracy"] for f in (1, 2)] for s in range(5)]
    spread = sum((a - (a + b) / 2) ** 2 + (b - (a + b) / 2) ** 2 for a, b in d)
    against = next(a for a in json.loads((out / "report.json").read_text())["arms"] if a["name"] == other)["against_baseline"]
    assert against["cv52_f"]["f"] == pytest.approx(sum(a * a + b * b for a, b in d) / (2 * spread), rel=1e-9)
    assert against["corrected_t"]["n"] == 10 and against["corrected_t_by_fold"]["n"] == 0
    assert "cut anew for each seed" in (out / "report.html").read_text() and "5×2cv F" in (out / "report.html").read_text()
    assert "20 runs are there already" in run_ok("trainer", "study", "--out", out, *daemon.at()).stderr


def test_equal_time(daemon, tmp_path):
    out = tmp_path / "time"
    spec = ["study", "--data", "small", "--arms", "none,adv:target=text,adv:target=text@1", "--folds", "2", *COMMON, "--equal", "time", "--threads",
            "1", "--jobs", "2", "--out", out, *daemon.at()]
    said = run_ok("trainer", *spec).stderr
    arms = {arm["name"]: arm for arm in json.loads((out / "study.json").read_text())["arms"]}
    assert arms["none"]["cost"] == 1 and arms["none"]["steps"] == 4 and "equal time" in said and not (out / "timing").exists()
    for arm in arms.values():
        assert arm["steps"] == max(1, round(4 / arm["cost"]))
        assert json.loads((out / "runs" / arm["name"] / "f1-s0" / "result.json").read_text())["steps"] == arm["steps"]
    # Timed once: a study that is gone on with has the same steps.
    assert "timing" not in run_ok("trainer", *spec).stderr


def equal_time(daemon, out, arms, *more):
    return ["study", "--data", "small", "--arms", arms, "--folds", "2", *COMMON, "--equal", "time", "--threads", "1", "--jobs", "2", "--out", out,
            *daemon.at(), *more]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_equal_time_stopped_while_it_times(daemon, tmp_path, how):
    """The same command begins again, and so does one with other arms: nothing was decided yet."""
    out = tmp_path / "et"
    for arms in ("none,adv:target=text", "none,adv:target=text", "none,dropout"):
        process = subprocess.Popen([str(BIN / "trainer"), *map(str, equal_time(daemon, out, arms))], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
        wait_for(lambda: process.poll() is not None or (len(list(out.glob("timing/*/runs/*/*/run.json"))) > 1 and
                                                        any("finished" in path.read_text() for path in out.glob("timing/*/runs/*/*/run.json"))))
        process.send_signal(how)
        _, said = process.communicate(timeout=60 * SLOW)
        assert process.returncode == (130 if how == signal.SIGINT else -9), said
        assert not (out / "study.json").exists() and (out / "timing").exists() == (how == signal.SIGKILL)
    assert "4 runs" in run_ok("trainer", *equal_time(daemon, out, "none,dropout")).stderr and not (out / "timing").exists()


def test_equal_time_waits_for_what_still_runs(daemon, tmp_path):
    """A step that was timed for a study that was killed may need a moment to see it; its folder is not taken away under it."""
    out = tmp_path / "et"
    held = out / "timing/0-0/runs/none/f1-s0"
    held.mkdir(parents=True)
    with open(held / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([str(BIN / "trainer"), *map(str, equal_time(daemon, out, "none,dropout"))], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
        time.sleep(1.5 * SLOW)
        assert process.poll() is None and [path.name for path in out.glob("timing/*")] == ["0-0"] and not (held / "run.json").exists()
    _, said = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 0 and "timing 12 steps" in said and not (out / "timing").exists(), said


def test_equal_time_after_a_step_that_failed(daemon, tmp_path):
    """What failed while it was timed says nothing about the arms that come instead of it."""
    out = tmp_path / "et"
    wild = {"data": "small", "folds": 2, "equal": "time", "threads": 1, "arms": ["none", {"name": "wild", "reg": "none", "options": {"lr": 1e30, "clip": 0, "warmup": 0}}],
            "options": {"preset": "tiny", "batch-size": 8, "epochs": 2}}
    (tmp_path / "s.json").write_text(json.dumps(wild))
    said = run("trainer", "study", tmp_path / "s.json", "--out", out, *daemon.at())
    assert said.returncode == 1 and "timing a step failed" in said.stderr, said.stderr
    (tmp_path / "s.json").write_text(json.dumps({**wild, "arms": ["none", {"name": "wild", "reg": "none", "options": {"lr": 1e-3}}]}))
    run_ok("trainer", "study", tmp_path / "s.json", "--out", out, *daemon.at())


def test_equal_time_with_schedules_and_early(daemon, tmp_path):
    """Each set of terms is timed alone and counted in its epochs; what ends a run early takes no time of a step."""
    out = tmp_path / "et"
    arms = ["none", "dropout@1-2", "adv:target=text@0-1+dropout@1-2", "early=1", "l2+early"]
    run_ok("trainer", *equal_time(daemon, out, ",".join(arms), "--epochs", "3"))
    study = json.loads((out / "study.json").read_text())
    for arm in study["arms"]:
        result = json.loads((out / "runs" / arm["name"] / "f1-s0" / "result.json").read_text())
        assert arm["steps"] == max(1, round(6 / arm["cost"])), arm
        assert result["steps"] == arm["steps"] or ("early" in arm["reg"] and result["steps"] < arm["steps"]), arm
    # The same terms as the baseline's at every step: not timed twice, and so the same to the last bit.
    assert next(arm["cost"] for arm in study["arms"] if arm["reg"] == "early=1") == 1


def test_equal_time_with_every(daemon, tmp_path):
    """A step in N costs more than the others, and is counted so, also where none of those that are timed would have been one."""
    out = tmp_path / "et"
    adv = "adv:method=pgd,k=32,target=text,rel=0.1"
    run_ok("trainer", *equal_time(daemon, out, f"none,{adv},{adv},every=4,{adv},every=500@1", "--epochs", "4"))
    cost = {arm["reg"]: arm["cost"] for arm in json.loads((out / "study.json").read_text())["arms"]}
    more = cost[adv] - 1
    assert more > 0.5
    # To the last digits that study.json has: the arms share what was timed.
    assert math.isclose(cost[adv + ",every=4"], 1 + more / 4, rel_tol=1e-9)
    assert math.isclose(cost[adv + ",every=500@1"], 1 + more / 500 * 3 / 4, rel_tol=1e-3)


def test_the_view_on_a_terminal(daemon, tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen([str(BIN / "trainer"), *map(str, arguments(daemon, tmp_path / "tty", "--threads", "1"))], stdin=slave, stdout=slave,
                               stderr=slave, env=environment(), start_new_session=True)
    os.close(slave)
    seen = b""
    until = time.monotonic() + 60 * SLOW
    while time.monotonic() < until:
        if select.select([master], [], [], 0.2)[0]:
            try:
                got = os.read(master, 65536)
            except OSError:
                break
            if not got:
                break
            seen += got
    process.wait(10)
    os.close(master)
    text = seen.decode(errors="replace")
    assert process.returncode == 0 and "12/12 runs  100%" in text and "ETA" in text and "accuracy on validation" in text
    assert re.search(r"dropout +f\d-s\d  step \d+/4", text) and "\x1b[J" in text


def test_where_the_end_of_children_is_ignored(daemon, tmp_path):
    """Started by somebody who ignores SIGCHLD, a study still hears of its runs."""
    started = subprocess.Popen([str(BIN / "trainer"), *map(str, arguments(daemon, tmp_path / "s", "--seeds", "1"))], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    try:
        _, said = started.communicate(timeout=60 * SLOW)
    finally:
        started.kill()
    assert started.returncode == 0 and len(results(tmp_path / "s")) == 6, said
