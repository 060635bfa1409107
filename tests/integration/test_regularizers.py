"""--reg in real runs: every term trains, works in its epochs and steps alone, says what it did, repeats and resumes bit for bit.
What the terms compute is tests/parity/test_reg.py's business."""
import json
import os
import re
import statistics
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, daemon, environment, run, run_ok, small  # noqa: E402,F401
from runs import TIME_FIELDS, values  # noqa: E402

STEPS = 3  # of an epoch: 24 pictures, batches of 8


def arguments(daemon, out, spec, *more):
    return ["--data", "small", "--preset", "tiny", "--batch-size", "8", "--threads", "1", "--reg", spec, "--out", str(out), "--quiet",
            *map(str, more), *map(str, daemon.at())]


def train(daemon, out, spec, *more):
    run_ok("trainer", *arguments(daemon, out, spec, *more))
    return lines(out)


def lines(out, split="train"):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def timeless(found):
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in found]


def kill_at(daemon, out, count, spec, *more):
    """SIGKILL as soon as there are so many lines of steps."""
    process = subprocess.Popen([str(BIN / "trainer"), *arguments(daemon, out, spec, *more)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True)
    until = time.monotonic() + 60 * SLOW
    while process.poll() is None and time.monotonic() < until:
        try:
            if len(lines(out)) >= count:
                break
        except (OSError, ValueError):
            pass
        time.sleep(0.002)
    process.kill()
    process.stderr.close()
    process.wait()


RESUMED = ["dropout=0.2:at=fusion+head+image+text+depth=0.3+rdrop+mixup+smooth",
           "sam:mode=asam+dropout=0.1:at=bert.hidden", "adv:method=freelb,target=text+fused,init=0.5,warmup=4steps+l2",
           "adv:method=free,target=text+feat+pixel,rel=0.1@1-4", "adv:method=villa,every=2",
           "adv:method=smart,target=text+pixel", "noise:norm=linf", "adv:method=pgd,init=random,target=pixel,eps=0.05"]


@pytest.mark.parametrize("spec", RESUMED)
def test_killed_and_resumed(daemon, tmp_path, spec):
    """The same bits as a run that was left alone: draws have names, and what is carried lies in checkpoints."""
    more = ["--epochs", "5", "--checkpoint-every", "2"]
    whole = train(daemon, tmp_path / "whole", spec, *more)
    parts = tmp_path / "parts"
    for count in (4, 9):
        kill_at(daemon, parts, count, spec, *more, *(["--resume"] if parts.exists() else []))
    run_ok("trainer", "--resume", "--out", parts, "--quiet", *daemon.at())
    assert timeless(lines(parts)) == timeless(whole)
    assert len(whole) == 5 * STEPS
    assert values(tmp_path / "whole" / "last.safetensors") == values(parts / "last.safetensors")


def test_fields(daemon, tmp_path):
    first = train(daemon, tmp_path / "a", "adv:target=text+fused+pixel,method=villa,rel=0.03+rdrop+dropout+sam", "--steps", "2")[-1]
    for key in ("objective", "rdrop_kl", "sam_loss", "adv_loss", "adv_kl", "delta_over_embedding", "delta_over_fused", "delta_over_pixel",
                "adv_cost"):
        assert isinstance(first[key], float), key
    assert first["delta_over_feature"] == 0 and 0.02 < first["delta_over_fused"] < 0.0301
    assert first["adv_cost"] > 1.0 and first["rdrop_kl"] > 0
    plain = train(daemon, tmp_path / "b", "none", "--steps", "2")[-1]
    assert not {"objective", "rdrop_kl", "sam_loss", "adv_loss"} & set(plain)


METHODS = ["fgm", "pgd", "freelb", "villa", "smart", "free", "noise"]
RATIOS = {"text": "delta_over_embedding", "feat": "delta_over_feature", "fused": "delta_over_fused", "pixel": "delta_over_pixel"}
NAMES = {"text": "word embeddings", "feat": "image features", "fused": "fused features", "pixel": "pixels"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("targets", ["text", "feat", "fused", "pixel", "text+feat+fused+pixel"])
def test_each_says_what_it_did(daemon, tmp_path, method, targets):
    """Every method on every target: clean and adversarial loss, how far it moved what, what it cost; in metrics and on the terminal."""
    norm = "linf" if targets == "fused" else "l2"
    spec = f"adv:method={method},target={targets},rel=0.05,norm={norm},every=2"
    loud = [word for word in arguments(daemon, tmp_path / "run", spec, "--steps", 3, "--val-split", "none") if word != "--quiet"]
    shown = run_ok("trainer", *loud)
    found = lines(tmp_path / "run")
    assert ["adv_loss" in line for line in found] == [True, False, True]
    line = found[-1]
    for target, key in RATIOS.items():
        if target in targets:
            assert 0.0 < line[key] < 0.0501, key
        else:
            assert line.get(key, 0.0) == 0.0, key
    assert line["adv_cost"] > 1.0 and line["adv_loss"] != line["loss"]
    assert ("adv_kl" in line) == (method in ("villa", "smart"))
    said = next(text for text in shown.stderr.splitlines() if "epoch 0 done" in text)
    for name in (NAMES[target] for target in targets.split("+")):
        assert f"of the norm of {name}" in said
    words = re.search(r"adversarial loss ([0-9.e+-]+) beside ([0-9.e+-]+) clean.*, step ([0-9.]+) x a clean one", said).groups()
    worked = [line for line in found if "adv_loss" in line]
    for word, key, limit in zip(words, ("adv_loss", "loss", "adv_cost"), (1e-3, 1e-3, 0.02)):
        assert float(word) == pytest.approx(sum(line[key] for line in worked) / len(worked), rel=limit)


def test_free_pays_for_its_updates_too(daemon, tmp_path):
    """By the cost that it says, a step would have taken as long without it as those before it began. Embeddings of many words make the
    update of the weights most of a step, and free does k of them."""
    found = train(daemon, tmp_path / "run", "adv:method=free,target=feat,k=32@2", "--epochs", "5", "--val-split", "none",
                  "--text-encoder", "vocab=50000")
    seconds = [line["samples"] / line["pairs_per_s"] - line["data_wait_s"] for line in found]
    clean = statistics.median(taken for taken, line in zip(seconds, found) if "adv_cost" not in line)
    without = statistics.median(taken / line["adv_cost"] for taken, line in zip(seconds, found) if "adv_cost" in line)
    assert 0.25 < without / clean < 4, (without, clean)


def test_the_clean_loss_is_reported(daemon, tmp_path):
    """loss is the task's alone: in the first step, before any update, the same for every arm without dropout."""
    losses = {}
    for i, spec in enumerate(["none", "smooth=0.5", "mixup=5", "adv:method=freelb,init=random", "noise:target=pixel", "sam",
                              "adv:method=free,target=pixel"]):
        line = train(daemon, tmp_path / str(i), spec, "--steps", "1", "--bert-dropout", "0", "--val-split", "none")[0]
        losses[spec] = line["loss"], line["accuracy"], line["digest"]
    assert len(set(losses.values())) == 1, losses


def test_windows_every_and_warmup(daemon, tmp_path):
    found = train(daemon, tmp_path / "a", "adv:target=text,rel=0.1,every=2,warmup=2@1-3+rdrop@2", "--epochs", "4")
    at_work = [line["step"] for line in found if "adv_loss" in line]
    assert at_work == [4, 6, 8]  # epochs 1 and 2, even steps
    ratios = [line["delta_over_embedding"] for line in found if "adv_loss" in line]
    assert ratios == pytest.approx([0.1 * (step - 3 + 1) / 6 for step in at_work], rel=1e-3)
    assert [line["step"] for line in found if "rdrop_kl" in line] == list(range(6, 12))
    steps = train(daemon, tmp_path / "b", "noise:target=feat,rel=0.1,warmup=3steps", "--epochs", "2")
    assert [line["delta_over_feature"] for line in steps] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.1], rel=1e-3)


def test_noise_is_no_gradient(daemon, tmp_path):
    """The control has the adversary's norm, but climbs nothing."""
    common = ["--steps", "1", "--bert-dropout", "0", "--val-split", "none"]
    adv = train(daemon, tmp_path / "adv", "adv:target=feat,rel=0.3", *common)[0]
    noise = train(daemon, tmp_path / "noise", "noise:target=feat,rel=0.3", *common)[0]
    assert adv["delta_over_feature"] == pytest.approx(noise["delta_over_feature"], rel=1e-4)
    assert adv["loss"] == noise["loss"]
    assert adv["adv_loss"] - adv["loss"] > 4 * abs(noise["adv_loss"] - noise["loss"])


def stop_of(found, patience):
    """Where the validations' best flags say that a run ends: steps done, or None."""
    waited = 0
    for line in found:
        waited = 0 if line["best"] else waited + 1
        if waited == patience:
            return line["step"] + 1
    return None


@pytest.mark.parametrize("more", [[], ["--eval-every", "2"]])
def test_early_stopping(daemon, tmp_path, more):
    more = ["--epochs", "40", "--lr", "0.01", "--warmup", "0", *more]
    train(daemon, tmp_path / "run", "early=2", *more)
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    validations = lines(tmp_path / "run", "val")
    done = stop_of(validations, 2)
    assert done == said["result"]["steps"] < said["steps_total"] and validations[-1]["step"] == done - 1
    assert said["result"]["stopped_early"] is True and said["state"] == "finished"
    best = [line for line in validations if line["best"]][-1]
    assert said["result"]["best"]["steps"] == best["step"] + 1
    final = said["result"].get("final")
    if final:  # the outcome of such a run is its best weights'
        assert final["accuracy"] == best["accuracy"]
    # Resuming ends at once, and a killed run stops in the same place.
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert "stopped early" in run_ok("trainer", "--resume", "--out", tmp_path / "run", *daemon.at()).stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    kill_at(daemon, tmp_path / "killed", 4, "early=2", *more)
    run_ok("trainer", "--resume", "--out", tmp_path / "killed", "--quiet", *daemon.at())
    assert timeless(lines(tmp_path / "killed")) == timeless(lines(tmp_path / "run"))
    assert values(tmp_path / "run" / "best.safetensors") == values(tmp_path / "killed" / "best.safetensors")


def test_early_waits_for_its_epoch(daemon, tmp_path):
    train(daemon, tmp_path / "run", "early=1@6", "--epochs", "40", "--lr", "0.01", "--warmup", "0")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["steps"] >= 7 * STEPS


@pytest.mark.parametrize("spec,more,words", [
    ("adv:method=free", ["--accumulate", "2"], ["--accumulate 1", "method=free"]),
    ("early", ["--val-split", "none"], ["early stopping", "--val-split"]),
    *((f"l2+{term}", ["--task", "contrast"], [f"--reg l2+{term}: '{part}' works on pairs in the fusion layer, which --task contrast", "leave it out"])
      for term, part in (("smooth", "smooth"), ("mixup=0.4", "mixup"), ("rdrop", "rdrop"), ("dropout", "dropout:at=fusion"), ("adv=1:method=villa", "adv:method=villa"),
                         ("dropout=0.1:at=text+head", "dropout:at=head"), ("adv:method=smart", "adv:method=smart"), ("adv:target=feat+fused", "adv:target=fused"))),
    ("l2\n", [], ["--reg l2\\n: 'l2\\n' is no regularizer"]),
    ("dropout:at=everywhere", [], ["everywhere", "bert.hidden"]),
])
def test_what_cannot_be(daemon, tmp_path, spec, more, words):
    result = run("trainer", *arguments(daemon, tmp_path / "run", spec, "--steps", "1", *more))
    assert result.returncode == 2 and not (tmp_path / "run").exists(), result
    for word in words:
        assert word in result.stderr, result.stderr


def test_reg_command():
    listed = run_ok("trainer", "reg").stdout
    for name in ("dropout", "l2", "smooth", "mixup", "depth", "rdrop", "sam", "early", "adv", "noise", "ICLR"):
        assert name in listed, name
    assert run_ok("trainer", "reg", "adv=0.5", "l2+dropout@3").stdout.splitlines() == [
        "adv:method=fgm,target=text+feat,eps=0.5,norm=l2,weight=1", "dropout=0.3@3+l2=0.01:mode=decoupled,on=weights"]
    assert run("trainer", "reg", "advv").returncode == 2
