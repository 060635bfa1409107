"""Attacks on the arms of a study: accuracy against epsilon, transfer, and the checks; the clean rung agrees with the predictions."""
import json
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import Daemon, SmallData, run, run_ok  # noqa: E402

RUNGS = 6


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon() as running:
        SmallData(tmp_path_factory.mktemp("small"), train=48, val=12).add(running)
        yield running


@pytest.fixture(scope="module")
def study(daemon, tmp_path_factory):
    out = tmp_path_factory.mktemp("robust") / "s"
    spec = {"data": "small", "arms": ["none", "dropout=0.1"], "folds": 2, "options": {"preset": "tiny", "task": "classify", "batch-size": 8, "epochs": 8},
            "threads": 1, "jobs": 1, "robustness": {"pairs": 1000, "steps": 4, "restarts": 2}}
    (out.parent / "s.json").write_text(json.dumps(spec))
    run_ok("trainer", "study", out.parent / "s.json", "--out", out, *daemon.at())
    return out


def curve(robust, arm, attack, target):
    rows = [a for a in robust["attacks"] if (a["arm"], a["attack"], a["target"]) == (arm, attack, target) and a["source_arm"] == arm]
    return [row for row in rows if row["steps"] <= 4]


def test_curves(study):
    robust = json.loads((study / "robustness.json").read_text())
    assert robust["schema"] == "trainer-robustness-1"
    for arm in ("none", "dropout=0.1"):
        result = json.loads((study / "runs" / arm / "f1-s0" / "result.json").read_text())
        assert result["accuracy"] > 0.9, "the test needs a model that has learned its colors"
        for target, norm in (("pixel", "linf"), ("text", "l2"), ("pixel+text", "linf+l2")):
            for attack in ("noise", "fgsm", "pgd"):
                rows = curve(robust, arm, attack, target)
                assert len(rows) == RUNGS and [r["eps"] for r in rows] == sorted(r["eps"] for r in rows) and rows[0]["eps"] == 0
                assert {r["norm"] for r in rows} == {norm} and {r["pairs"] for r in rows} == {result["pairs"]}
                # Nothing is perturbed at epsilon 0: the predictions of the run.
                assert rows[0]["accuracy"] == result["accuracy"] and abs(rows[0]["loss"] - result["loss"]) < 1e-5
            pgd, fgsm, noise = (curve(robust, arm, attack, target) for attack in ("pgd", "fgsm", "noise"))
            slack = 2.01 / result["pairs"]
            for rung in range(1, RUNGS):
                assert pgd[rung]["accuracy"] <= fgsm[rung]["accuracy"] + slack and pgd[rung]["accuracy"] <= noise[rung]["accuracy"] + slack
                assert fgsm[1]["loss"] > fgsm[0]["loss"] and pgd[rung]["loss"] >= pgd[0]["loss"] - 1e-6
        assert curve(robust, arm, "pgd", "pixel")[-1]["accuracy"] == 0


def test_transfer_and_checks(study):
    robust = json.loads((study / "robustness.json").read_text())
    transfer = [a for a in robust["attacks"] if a["source_arm"] != a["arm"]]
    assert len(transfer) == 2 * 3 and {(a["arm"], a["source_arm"]) for a in transfer} == {("none", "dropout=0.1"), ("dropout=0.1", "none")}
    names = {check["name"] for check in robust["checks"]}
    for name in ("monotone pgd pixel", "monotone fgsm text", "pgd not weaker than fgsm pixel", "pgd not weaker than noise pixel+text",
                 "more steps not weaker pixel", "to zero pixel", "transfer not stronger pixel"):
        assert name in names
    assert all(check["ok"] for check in robust["checks"] if check["name"].endswith(" pixel")), robust["checks"]
    # A check can fail: by hand, from the same numbers.
    for check in robust["checks"]:
        if check["name"] == "to zero text":
            assert check["ok"] == (curve(robust, check["arm"], "pgd", "text")[-1]["accuracy"] < 0.5 / 3)


def test_weights_go_when_the_attacks_are_done(study, daemon):
    assert not list(study.glob("runs/*/*/*.safetensors"))
    before = (study / "robustness.json").read_bytes()
    run_ok("trainer", "study", study.parent / "s.json", "--out", study, *daemon.at())
    assert (study / "robustness.json").read_bytes() == before
    result = run("trainer", "robust", study, *daemon.at())
    assert result.returncode == 1 and "--keep last" in result.stderr


def test_matching_and_repeatable(daemon, tmp_path):
    run_ok("trainer", "study", "--data", "small", "--arms", "none,l2", "--folds", "2", "--preset", "tiny", "--batch-size", "8", "--epochs", "1",
           "--keep", "last", "--threads", "1", "--out", tmp_path / "s", *daemon.at())
    said = []
    for _ in range(2):
        run_ok("trainer", "robust", tmp_path / "s", "--pairs", "13", "--steps", "2", "--restarts", "1", "--threads", "1", "--fold", "2", *daemon.at())
        said.append((tmp_path / "s" / "robustness.json").read_bytes())
    assert said[0] == said[1]
    robust = json.loads(said[0])
    assert {(a["pairs"], a["fold"]) for a in robust["attacks"]} == {(14, 2)}
    for more in (["--fold", "3"], ["--seed", "7"], ["--pairs", "1"]):
        assert run("trainer", "robust", tmp_path / "s", *more, *daemon.at()).returncode == 2
    assert run("trainer", "robust", tmp_path / "nothing", *daemon.at()).returncode == 1
