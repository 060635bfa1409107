"""trainer report on what was really trained: a study, and plain runs side by side."""
import csv
import json
import math
import os
import re
import shutil
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import Daemon, SmallData, run, run_ok  # noqa: E402
from report_page import arm_of, check_page, validations_of  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real study and two plain runs, trained as small as it goes."""
    folder = tmp_path_factory.mktemp("trained")
    with Daemon() as daemon:
        SmallData(folder / "data", train=24, val=9).add(daemon)
        common = ["--data", "small", "--preset", "tiny", "--batch-size", "8", "--epochs", "2", "--threads", "1", *daemon.at()]
        said = run_ok("trainer", "study", "--arms", "none,dropout,adv", "--folds", "2", "--seeds", "2", "--out", folder / "study", *common).stdout
        # The study ends with its own report.
        assert re.search(r"^ +adv (is|has) ", said, re.M) and "report.html" in said and (folder / "study" / "report.json").exists()
        for reg in ("none", "l2"):
            run_ok("trainer", *common, "--reg", reg, "--out", folder / reg)
        run_ok("trainer", *common, "--epochs", "1", "--reg", "none", "--out", folder / "short")
        run_ok("trainer", "report", folder / "study", *daemon.at())
        yield folder


def test_real_study(trained):
    found = json.loads((trained / "study" / "report.json").read_text())
    results = {(r["arm"], r["fold"], r["seed"]): r for r in (json.loads(p.read_text()) for p in (trained / "study").glob("runs/*/*/result.json"))}
    assert found["complete"] and len(results) == 12 and found["identical"]["ok"]
    assert all(check["cells"] == 4 for check in found["identical"]["checks"])
    d = [results["adv", f, s]["accuracy"] - results["none", f, s]["accuracy"] for f in (1, 2) for s in (0, 1)]
    adv = arm_of(found, "adv")
    assert math.isclose(adv["against_baseline"]["corrected_t"]["difference"], np.mean(d), abs_tol=1e-12)
    cells = [(f, s) for f in (1, 2) for s in (0, 1)]
    step = {arm: np.mean([results[(arm, *cell)]["step_seconds"] for cell in cells]) for arm in ("none", "adv")}
    assert math.isclose(adv["cost"], step["adv"] / step["none"], rel_tol=1e-9) and arm_of(found, "none")["cost"] is None
    assert math.isclose(adv["own_cost"], np.mean([results[("adv", *cell)]["cost"] for cell in cells]), rel_tol=1e-9)
    for arm in found["arms"]:
        # ECE as the runs measured it and as predictions.csv gives it, for one run's worth of pairs each.
        assert arm["calibration"]["status"] == "ok" and 0 <= arm["calibration"]["ece"] <= 1
        assert len(arm["curves"]["val_accuracy"]["mean"]) == 2 and None not in arm["curves"]["train_loss"]["mean"]
    words = check_page(trained / "study")
    by_hand = re.search(r"One run by hand\s*(trainer .*?--out run)", words).group(1)
    assert re.search(r"--data small --reg (dropout|adv) --seed 0 --train-split train\+val~rest=1/2 --val-split train\+val~fold=1/2 .*--epochs 2", by_hand)
    assert "Pictures and captions are not shown" not in words
    assert "base64" in (trained / "study" / "report.html").read_text()


def test_plain_runs(trained, tmp_path):
    runs = [trained / "none", trained / "l2"]
    said = run_ok("trainer", "report", *runs).stdout.splitlines()
    for line, folder in zip(said[1:], runs):
        result = json.loads((folder / "run.json").read_text())["result"]
        assert line.split()[0] == folder.name and line.split()[1] == "2" and f"{100 * result['val']['accuracy']:.2f}" in line
    alike = [trained / "study" / "runs" / arm / "f1-s0" for arm in ("none", "adv")]
    assert [line.split()[0] for line in run_ok("trainer", "report", *alike).stdout.splitlines()[1:3]] == [str(path) for path in alike]
    assert run_ok("trainer", "report", *runs, "--out", tmp_path / "out").stdout.splitlines() == said
    check_page(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["reg"] for run in found["runs"]][0] == "none" and found == json.loads(run_ok("trainer", "report", *runs, "--json").stdout)
    assert len(list(csv.DictReader(open(tmp_path / "out" / "report.csv", newline="")))) == 2
    assert run_ok("trainer", "report", *runs, "--out", tmp_path / "quiet", "-q").stdout == "" and (tmp_path / "quiet" / "report.html").exists()
    assert run_ok("trainer", "report", *runs, "-q").stdout.splitlines() == said
    # A run of one epoch beside one of two has marks of its own.
    run_ok("trainer", "report", trained / "none", trained / "short", "--out", tmp_path / "lengths")
    check_page(tmp_path / "lengths")
    paths, dots, ticks = validations_of(tmp_path / "lengths")
    assert paths == [[1, 2]] * 2 and dots == [[1, 2], [1]] * 2 and ticks == [[0, 1, 2]] * 4
    # A run that was killed: run.json is of its beginning, what it reached stands in metrics.jsonl, and its time is not known.
    shutil.copytree(trained / "l2", tmp_path / "killed")
    text = json.loads((tmp_path / "killed" / "run.json").read_text())
    reached = f"{100 * text['result']['val']['accuracy']:.2f}"
    text |= {"state": "running", "result": {"steps": 0, "train_seconds": 0}}
    (tmp_path / "killed" / "run.json").write_text(json.dumps(text))
    line = run_ok("trainer", "report", trained / "none", tmp_path / "killed").stdout.splitlines()[2].split()
    assert line[:3] == ["killed", "2", reached] and line[-3:] == ["–", "–", "running"], line
    # Its best validation may have been within an epoch.
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    at = next(i for i, text in enumerate(lines) if '"val"' in text)
    within = {**json.loads(lines[at]), "step": 0, "accuracy": 0.99}
    (tmp_path / "killed" / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(within), *lines[1:]]) + "\n")
    line = run_ok("trainer", "report", tmp_path / "killed").stdout.splitlines()[1].split()
    assert line[:4] == ["killed", "2", reached, "99.00"], line
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text('{"state": 3}')
    result = run("trainer", "report", tmp_path / "broken")
    assert result.returncode == 1 and "run.json" in result.stderr and "state" in result.stderr


@pytest.mark.parametrize("part, key, words", [
    ("dataset", "version", "on different data"), ("model", "task", "of different tasks"), ("val", "split", "measured on different splits"),
    ("result.val", "pairs", "measured on different pairs"), ("result.final", "pairs_digest", "measured on different pairs")])
def test_plain_runs_of_other_measures(trained, tmp_path, part, key, words):
    """Side by side they seem comparable; and one standard error is that of one measure."""
    alike = [trained / "study" / "runs" / arm / "f1-s0" for arm in ("none", "adv")]
    said = run_ok("trainer", "report", *alike).stdout
    assert "cannot be compared" not in said and "One standard error" in said
    shutil.copytree(alike[1], tmp_path / "adv")
    record = json.loads((tmp_path / "adv" / "run.json").read_text())
    at = record
    for name in part.split("."):
        at = at[name]
    at[key] = at[key] + 2 if key == "pairs" else "0" + at[key][1:]
    (tmp_path / "adv" / "run.json").write_text(json.dumps(record))
    said = run_ok("trainer", "report", alike[0], tmp_path / "adv", "--out", tmp_path / "out").stdout
    for text in (said, *((tmp_path / "out" / f"report.{form}").read_text() for form in ("md", "tex", "html"))):
        assert f"These runs are {words}: their accuracies cannot be compared." in text and "One standard error" not in text, text
