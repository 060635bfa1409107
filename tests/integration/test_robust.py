"""Attacks on the arms of a study: accuracy against epsilon, transfer, and the checks; the clean rung agrees with the predictions."""
import csv
import json
import os
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import tensors  # noqa: E402
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
    said = run_ok("trainer", "study", study.parent / "s.json", "--out", study, *daemon.at()).stderr
    assert (study / "robustness.json").read_bytes() == before and "robustness.json is there already and stays as it is" in said
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


def test_the_weights_that_were_measured(daemon, tmp_path):
    """With early stopping results are of the best weights, not of the last: these are attacked, and kept for it."""
    spec = {"data": "small", "arms": ["none", "early=2"], "folds": 2, "threads": 1, "robustness": {"steps": 1, "restarts": 1},
            "options": {"preset": "tiny", "task": "classify", "batch-size": 8, "epochs": 9, "lr": 0.01}}
    (tmp_path / "s.json").write_text(json.dumps(spec))
    run_ok("trainer", "study", tmp_path / "s.json", "--out", tmp_path / "s", *daemon.at())
    (tmp_path / "t.json").write_text(json.dumps({**spec, "robustness": False, "keep": "last"}))
    run_ok("trainer", "study", tmp_path / "t.json", "--out", tmp_path / "t", *daemon.at())
    run_ok("trainer", "robust", tmp_path / "t", "--steps", "1", "--restarts", "1", "--threads", "1", *daemon.at())
    assert not list((tmp_path / "s").glob("runs/*/*/*.safetensors"))
    for folder in (tmp_path / "s", tmp_path / "t"):
        run = json.loads((folder / "runs/early=2/f1-s0/run.json").read_text())["result"]
        assert run["best"]["steps"] < run["steps"], "the test needs a run whose last weights are not its best"
        clean = curve(json.loads((folder / "robustness.json").read_text()), "early=2", "noise", "pixel")[0]
        assert clean["accuracy"] == run["final"]["accuracy"] and abs(clean["loss"] - run["final"]["loss"]) < 1e-5


def validation(daemon, split, tmp_path):
    """{sample id: (picture, ids)} of a part, in batches as anyone may read them."""
    found, step, count = {}, 0, 8
    while count == 8:
        path = tmp_path / "batch.safetensors"
        if daemon.prepctl("batch", "small", "--split", split, "--order", "eval", "--batch-size", 8, "--size", 64, "--step", step, "--out", path).returncode:
            break
        batch, step = tensors.read(path), step + 1
        count = len(batch["sample_ids"])
        for i, sample in enumerate(batch["sample_ids"]):
            found[int(sample)] = batch["image"][i], batch["input_ids"][i][:int(batch["attention_mask"][i].sum())]
    return found


def test_fgsm_is_pytorchs(daemon, tmp_path):
    """One step along the sign of the gradient in picture space, and along the gradient of a caption's inner words: the same losses and
    accuracies as PyTorch's, in float64, on the weights that the study kept."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "parity"))
    from torch_model import FusionModel, without_dropout
    out, F = tmp_path / "s", torch.nn.functional
    run_ok("trainer", "study", "--data", "small", "--arms", "none,l2", "--folds", "2", "--preset", "tiny", "--batch-size", "8", "--epochs", "6", "--lr",
           "1e-3", "--keep", "last", "--threads", "1", "--out", out, *daemon.at())
    run_ok("trainer", "robust", out, "--pairs", "1000", "--steps", "1", "--restarts", "1", "--threads", "1", *daemon.at())
    robust = json.loads((out / "robustness.json").read_text())
    folder = out / "runs/none/f1-s0"
    with open(folder / "predictions.csv") as file:
        pairs = [(int(row["picture"]), int(row["caption"]), int(row["label"])) for row in csv.DictReader(file)]
    samples = validation(daemon, json.loads((folder / "run.json").read_text())["val"]["split"], tmp_path)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in tensors.read(folder / "last.safetensors").items()}
    model = without_dropout(FusionModel("tiny", len(weights["text_encoder.embeddings.word_embeddings.weight"]), 2))
    model.load_state_dict(weights, strict=True)
    model = model.double().eval()
    longest = max(len(samples[c][1]) for _, c, _ in pairs)
    ids, mask = torch.zeros(2, len(pairs), longest, dtype=torch.long)
    for i, (_, c, _) in enumerate(pairs):
        ids[i, :len(samples[c][1])] = torch.from_numpy(np.array(samples[c][1]))
        mask[i, :len(samples[c][1])] = 1
    mean, std = (torch.tensor(v).double()[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    picture = torch.stack([torch.from_numpy(np.array(samples[p][0])) for p, _, _ in pairs]).double() * std + mean
    labels = torch.tensor([label for _, _, label in pairs])
    inner = mask.double()
    inner[:, 0] = 0
    inner[torch.arange(len(pairs)), mask.sum(1) - 1] = 0
    words = model.text_encoder.embeddings.word_embeddings(ids).detach() * inner[:, :, None]
    moved = {}
    model.text_encoder.embeddings.word_embeddings.register_forward_hook(lambda module, given, made: made + moved["text"])

    def losses(pixel, text):
        moved["text"] = text
        scores = model((pixel - mean) / std, ids, mask)
        return scores, F.cross_entropy(scores, labels, reduction="none")

    x, e = picture.clone().requires_grad_(True), torch.zeros_like(words, requires_grad=True)
    g_x, g_e = torch.autograd.grad(losses(x, e)[1].sum(), [x, e])
    g_e = g_e * inner[:, :, None]
    step = g_e * (words.pow(2).sum((1, 2), keepdim=True) / g_e.pow(2).sum((1, 2), keepdim=True)).sqrt()
    tried = 0
    for attack in robust["attacks"]:
        if (attack["attack"], attack["arm"], attack["source_arm"]) != ("fgsm", "none", "none") or attack["target"] == "pixel+text":
            continue
        eps, on_pixels = attack["eps"], attack["target"] == "pixel"
        with torch.no_grad():
            scores, loss = losses((picture + eps * g_x.sign()).clamp(0, 1) if on_pixels else picture, torch.zeros_like(step) if on_pixels else eps * step)
        assert attack["pairs"] == len(pairs)
        assert attack["loss"] == pytest.approx(loss.mean().item(), rel=2e-3), attack
        assert abs(attack["accuracy"] - (scores.argmax(1) == labels).double().mean().item()) < 1.5 / len(pairs), attack
        tried += 1
    assert tried == 2 * RUNGS
