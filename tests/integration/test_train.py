"""Training runs end to end, with a real daemon: what they write, what options make of them, and what errors say."""
import json
import os
import re
import shutil
import struct
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import tensors  # noqa: E402
from harness import Daemon, daemon, run, run_ok, small, write_csv  # noqa: E402,F401
from runs import header, metrics, record, scalars  # noqa: E402
from training import arguments, lines, same_outcome, start, train, train_ok, wait_for_lines  # noqa: E402

TRAIN_FIELDS = {"step", "epoch", "split", "loss", "accuracy", "pairs_per_s", "data_wait_s", "lr", "grad_norm", "samples", "digest"}
VAL_FIELDS = {"step", "epoch", "split", "loss", "accuracy", "pairs_per_s", "data_wait_s", "seconds", "pairs", "best", "digest"}
ADV_FIELDS = {"objective", "adv_loss", "delta_over_embedding", "delta_over_feature", "adv_cost"}
STEPS = 3  # of an epoch: 24 pictures, batches of 8


# --- what a run writes ---------------------------------------------------------------


@pytest.fixture(scope="module")
def arms(daemon, tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    return {arm: train_ok(daemon, folder / arm.replace(":", "_"), "--reg", arm, "--epochs", "2")
            for arm in ("none", "dropout", "l2", "adv", "l2:mode=coupled", "dropout+l2+adv@1")}


def test_every_arm_writes_its_metrics(arms):
    for arm, out in arms.items():
        steps, vals = lines(out, "train"), lines(out, "val")
        assert [line["step"] for line in steps] == list(range(2 * STEPS)), arm
        assert [line["epoch"] for line in steps] == [0] * STEPS + [1] * STEPS
        assert [(line["step"], line["epoch"]) for line in vals] == [(STEPS - 1, 0), (2 * STEPS - 1, 1)]
        assert all(set(line) == VAL_FIELDS and 0 <= line["accuracy"] <= 1 and line["loss"] > 0 for line in vals)
        # adv@1 works in epoch 1 only
        for line in steps:
            adversarial = arm == "adv" or (arm.endswith("adv@1") and line["epoch"] == 1)
            assert set(line) == TRAIN_FIELDS | (ADV_FIELDS if adversarial else set()), arm
            assert line["samples"] == 8 and line["pairs_per_s"] > 0 and line["data_wait_s"] >= 0 and line["grad_norm"] > 0
            if adversarial:
                # The default size grows in over four epochs from the term's start.
                expected = 0.1 * (line["step"] - (0 if arm == "adv" else STEPS) + 1) / (4 * STEPS)
                assert line["adv_loss"] > line["loss"] and abs(line["delta_over_embedding"] - expected) < 1e-3 and line["adv_cost"] > 1
        assert lines(out)[STEPS]["split"] == "val"


def test_arms_see_the_same_batches_from_the_same_start(arms):
    digests = [[line["digest"] for line in lines(out)] for out in arms.values()]
    assert all(chain == digests[0] for chain in digests)
    assert len(set(digests[0])) == 2 * STEPS + 1  # the validation batches are the same each time
    # The first step has rate 0 in none of them, but before it all have the same weights.
    first = {arm: lines(out, "train")[0]["loss"] for arm, out in arms.items()}
    assert first["none"] == first["l2"] == first["adv"] == first["l2:mode=coupled"]
    last = {arm: lines(out, "train")[-1]["loss"] for arm, out in arms.items()}
    assert len(set(last.values())) == len(last), last


def test_run_record(arms):
    out = arms["dropout+l2+adv@1"]
    said = record(out)
    assert said["state"] == "finished" and said["config"]["batch-size"] == 8 and said["config"]["preset"] == "tiny"
    assert said["reg"].startswith("dropout=0.3+l2=0.01:mode=decoupled,on=weights+adv:method=fgm") and said["reg"].endswith("@1")
    val = lines(out, "val")[-1]
    assert said["result"]["val"] == {key: val[key] for key in ("accuracy", "loss", "pairs")}
    assert said["result"]["steps"] == 2 * STEPS and said["digest"] == lines(out, "train")[-1]["digest"]
    best = max(lines(out, "val"), key=lambda line: (line["accuracy"], -line["loss"]))
    assert said["result"]["best"]["steps"] == best["step"] + 1 and best["best"]


def test_validation_pairs_are_every_distinct_caption_twice(arms, small):
    distinct = {(row[0], row[1]) for row in small.rows[24:]}
    assert lines(arms["none"], "val")[0]["pairs"] == 2 * len(distinct)


def test_eval_agrees_with_the_val_line(daemon, arms):
    for name, line in (("last", lines(arms["adv"], "val")[-1]), ("best", next(v for v in reversed(lines(arms["adv"], "val")) if v["best"]))):
        result = run_ok("trainer", "eval", arms["adv"] / f"{name}.safetensors", "--data", "small", "--split", "val", "--json", "--threads", "2",
                        *daemon.at())
        said = json.loads(result.stdout)
        assert {key: said[key] for key in ("accuracy", "loss", "pairs", "digest")} == {key: line[key] for key in ("accuracy", "loss", "pairs", "digest")}
    folder = json.loads(run_ok("trainer", "eval", arms["adv"], "--data", "small", "--json", "--threads", "2", *daemon.at()).stdout)
    assert {key: folder[key] for key in ("accuracy", "loss", "digest")} == {key: said[key] for key in ("accuracy", "loss", "digest")}
    assert folder["checkpoint"].endswith("/best.safetensors")
    text = run_ok("trainer", "eval", arms["adv"] / "last.safetensors", "--data", "small", "--split", "train+val", *daemon.at()).stdout
    assert "33 pictures" in text and "66 pairs" in text


def test_tensorboard_says_the_same(arms):
    found = scalars(arms["adv"])
    for line in lines(arms["adv"]):
        for key in ("loss", "accuracy"):
            assert abs(found[f"{line['split']}/{key}", line["step"]] - line[key]) < 1e-6
    assert ("adv/loss", 0) in found and ("adv/loss", 0) not in scalars(arms["none"])


# --- options ----------------------------------------------------------------------------


def test_classification(daemon, tmp_path):
    out = train_ok(daemon, tmp_path / "run", "--task", "classify", "--epochs", "12", "--lr", "2e-3", "--reg", "adv")
    assert record(out)["model"]["classes"] == 3
    assert lines(out, "val")[0]["pairs"] == 9
    assert lines(out, "train")[-1]["loss"] < lines(out, "train")[0]["loss"]
    assert lines(out, "val")[-1]["accuracy"] > 0.6  # three colors


def test_steps_and_eval_every(daemon, tmp_path):
    out = train_ok(daemon, tmp_path / "run", "--steps", "5", "--eval-every", "2", "--negatives", "2", "--warmup", "2", "--schedule", "constant")
    assert [line["step"] for line in lines(out, "val")] == [1, 3, 4]
    assert [line["lr"] for line in lines(out, "train")] == [0, 1.5e-4, 3e-4, 3e-4, 3e-4]


def test_starts_from_other_weights(daemon, arms, tmp_path):
    out = train_ok(daemon, tmp_path / "run", "--init", arms["none"] / "last.safetensors", "--epochs", "1")
    fresh = lines(arms["none"], "train")[0]["loss"]
    assert lines(out, "train")[0]["loss"] != fresh
    result = train(daemon, tmp_path / "towers", "--image-weights", arms["none"] / "last.safetensors", "--epochs", "1")
    assert result.returncode == 0 and "tensors loaded" in result.stderr, result.stderr  # the image tower of a whole model


def test_no_val_split(small, daemon, tmp_path):
    daemon.prepctl_ok("add", "noval", "--format", "csv", "--images", small.images, "--captions", small.train, "--columns", "image,caption,label",
                      "--vocab", small.vocab, "--size", "64")
    options = [word if word != "small" else "noval" for word in arguments(daemon, tmp_path / "run", "--epochs", "1")]
    result = run("trainer", *options)
    assert result.returncode == 0 and "no val split" in result.stderr, result.stderr
    assert not lines(tmp_path / "run", "val") and (tmp_path / "run" / "last.safetensors").exists()
    assert not (tmp_path / "run" / "best.safetensors").exists()
    run_ok("trainer", "--resume", "--out", tmp_path / "run", *daemon.at())
    options = [word if word != "small" else "noval" for word in arguments(daemon, tmp_path / "other", "--val-split", "val")]
    result = run("trainer", *options)
    assert result.returncode == 1 and "val" in result.stderr and "train" in result.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("words,needle", [
    (["--warmup", "1"], "before the rate has risen"), (["--task", "classify", "--negatives", "3"], "is for --task match"),
    (["--feature-cache", "off"], "none is frozen"), (["--freeze", "text", "--bert-dropout", "0.2"], "runs without dropout"),
    (["--freeze", "image,text", "--recompute"], "nothing to compute again"), (["--recompute"], None), (["--bert-dropout", "0.2"], None),
    (["--max-len", "2"], "no picture has a wrong one"), (["--max-len", "2", "--task", "classify"], None),
    (["--momentum", "0.4"], "--momentum is sgd's"), (["--negatives", "100"], "8 samples has 7"), (["--reg", "rdrop", "--bert-dropout", "0"], "there is none"),
    (["--momentum", "0.4", "--optimizer", "sgd"], None), (["--negatives", "7"], None), (["--reg", "rdrop"], None),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_idle_options_warn(daemon, tmp_path, words, needle):
    """What was asked for and changes nothing is not passed over in silence."""
    result = train(daemon, tmp_path / "run", "--steps", "1", *words)
    assert result.returncode == 0, result.stderr
    assert needle in result.stderr if needle else "warning" not in result.stderr, result.stderr


def test_val_inside_training_warns(daemon, tmp_path):
    result = train(daemon, tmp_path / "run", "--train-split", "train+val", "--steps", "1")
    assert result.returncode == 0 and "part of what is trained on" in result.stderr
    assert lines(train_ok(daemon, tmp_path / "none", "--val-split", "none", "--steps", "1"), "val") == []


def test_dry_run_writes_nothing(daemon, tmp_path):
    result = train(daemon, tmp_path / "run", "--dry-run", "--reg", "adv")
    assert result.returncode == 0, result.stderr
    assert "pairs/s" in result.stdout and "gradients" in result.stdout and "GFLOP" in result.stdout
    assert not (tmp_path / "run").exists()


def test_dry_run_with_fewer_pictures_than_a_batch_takes(daemon, tmp_path):
    """A step has as many samples as there are, so captions are as long and arithmetic is as fast as with a batch that fits."""
    tokens, rate = {}, {}
    for size in (8, 1000):
        said = run_ok("trainer", *arguments(daemon, tmp_path / "run"), "--dry-run", "--batch-size", size).stdout
        tokens[size] = float(re.search(r"at ([0-9.]+) tokens a caption", said).group(1))
        seconds, rate[size] = map(float, re.search(r"a step +([0-9.]+) s = ([0-9.]+) pairs/s", said).groups())
        pictures = int(re.search(r": ([0-9]+) pictures", said).group(1))
        assert pictures < 1000
        assert abs(seconds * rate[size] - min(size, pictures)) < 0.1 * min(size, pictures) + 0.001 * rate[size], said
    assert 0.7 < tokens[1000] / tokens[8] < 1.4, tokens


def test_a_batch_larger_than_the_data_set_is_the_data_set(small, daemon, tmp_path):
    """24 pictures are planned, not thousands; pictures with several captions are measured in larger batches than they are trained on."""
    said = run_ok("trainer", *arguments(daemon, tmp_path / "dry"), "--batch-size", "4096", "--dry-run").stdout
    assert "for 24 pictures, at most 1536 tokens and 576 pairs" in said, said
    several = [(name, f"{caption} {word}", label) for name, caption, label in small.rows for word in ("", "red", "dark")]
    tables = [write_csv(tmp_path / f"{split}.csv", rows) for split, rows in (("train", several[:72]), ("val", several[72:]))]
    daemon.prepctl_ok("add", "several", "--format", "csv", "--images", small.images, "--captions", f"train={tables[0]}", "--captions", f"val={tables[1]}",
                      "--columns", "image,caption,label", "--vocab", small.vocab, "--size", "64")
    for task in ("match", "classify"):
        for size in (24, 72, 4096):
            words = arguments(daemon, tmp_path / f"{task}{size}", "--task", task, "--steps", "2", "--predictions", "--batch-size", size)
            run_ok("trainer", *[word if word != "small" else "several" for word in words])
        one, exact, other = (tmp_path / f"{task}{size}" for size in (24, 72, 4096))
        assert metrics(one, "train") == metrics(exact, "train") == metrics(other, "train")
        assert metrics(exact) == metrics(other) and record(exact)["result"]["final"] == record(other)["result"]["final"]
        for out in (one, other):
            final = record(out)["result"]["final"]
            for split, prefix in (("val", ""), ("train", "train_")):
                said = run_ok("trainer", "eval", out / "last.safetensors", "--data", "several", "--split", split, "--json", "--threads", "2", *daemon.at())
                assert json.loads(said.stdout)["loss"] == final[prefix + "loss"], (task, out, split)


def test_a_step_is_said_as_large_as_it_is(daemon, tmp_path):
    """Three batches an epoch: 10 of them are never in one step, and of 2 the last step of an epoch has one."""
    for accumulate, steps, batches in ((10, 4, 3), (2, 5, 2)):
        more = ["--accumulate", accumulate, "--steps", steps, "--threads", "1"]
        said = train(daemon, tmp_path / f"run{accumulate}", *more)
        assert f"{steps} steps of {8 * batches} samples" in said.stderr, said.stderr
        assert lines(tmp_path / f"run{accumulate}", "train")[0]["samples"] == 8 * batches
        planned = run_ok("trainer", *arguments(daemon, tmp_path / "dry", *more), "--dry-run").stdout
        assert f", {8 * batches} samples each" in planned, planned
        flops = float(re.search(r"arithmetic +([0-9.]+) GFLOP", planned).group(1))
        alone = run_ok("trainer", *arguments(daemon, tmp_path / "dry", "--threads", "1"), "--dry-run").stdout
        assert flops == pytest.approx(batches * float(re.search(r"arithmetic +([0-9.]+) GFLOP", alone).group(1)), rel=0.2), (planned, alone)
        seconds, rate = map(float, re.search(r"a step +([0-9.]+) s = ([0-9.]+) pairs/s", planned).groups())
        assert abs(seconds * rate - 8 * batches) < 0.1 * 8 * batches + 0.001 * rate, planned


def test_a_validation_that_measures_nothing_is_refused_before_training(small, daemon, tmp_path):
    """Not after the first epoch, with hours of it lost."""
    same = write_csv(tmp_path / "same.csv", [(name, "a red square", "red") for name, _, _ in small.rows[24:]])
    bare = write_csv(tmp_path / "bare.csv", [(name, caption, "") for name, caption, _ in small.rows[24:]])
    for number, (val, task) in enumerate(((same, "match"), (same, "contrast"), (bare, "classify"))):
        daemon.prepctl_ok("add", f"odd{number}", "--format", "csv", "--images", small.images, "--captions", f"train={small.train}", "--captions", f"val={val}",
                          "--columns", "image,caption,label", "--vocab", small.vocab, "--size", "64")
        options = [word if word != "small" else f"odd{number}" for word in arguments(daemon, tmp_path / "run", "--task", task, "--steps", "2")]
        result = run("trainer", *options)
        assert result.returncode == 1 and "nothing to measure" in result.stderr and "--val-split none" in result.stderr, result.stderr
        assert not (tmp_path / "run").exists()
        run_ok("trainer", *options, "--val-split", "none", "--out", tmp_path / f"none{number}")


def test_one_picture_of_one_pixel_is_no_batch(daemon, tmp_path):
    """Batch norm has nothing to divide by then, in PyTorch neither."""
    words = ["--task", "classify", "--batch-size", "1", "--steps", "1", "--val-split", "none"]
    result = train(daemon, tmp_path / "run", *words, "--image-size", "32")
    assert result.returncode == 1 and "batch norm" in result.stderr and "two pictures" in result.stderr, result.stderr
    assert not (tmp_path / "run").exists()
    for number, more in enumerate((["--image-size", "33"], ["--image-size", "32", "--batch-size", "2"], ["--image-size", "32", "--freeze", "image"])):
        train_ok(daemon, tmp_path / str(number), *words, *more)


def test_one_is_said_as_one(daemon, tmp_path):
    said = train(daemon, tmp_path / "run", "--dry-run", "--threads", "1")
    assert re.search(r"GFLOP/s on 1 thread$", said.stdout, re.M), said.stdout + said.stderr
    said = train(daemon, tmp_path / "run", "--steps", "1", "--threads", "1")
    assert re.search(r": 1 step of 8 samples, \d+ an epoch, 1 thread; writing", said.stderr), said.stderr
    assert re.search(r": 1 step in \d+ s", said.stdout), said.stdout


def test_empty_folder_is_fine_and_quiet_is_quiet(daemon, tmp_path):
    (tmp_path / "run").mkdir()
    result = train(daemon, tmp_path / "run", "--steps", "1", "--quiet")
    assert result.returncode == 0 and result.stdout == "" and result.stderr == "", result.stderr


def test_default_folder(daemon, tmp_path):
    words = arguments(daemon, "X", "--steps", "1", "--reg", "adv:target=text")
    del words[words.index("--out"):words.index("--out") + 2]
    assert run("trainer", *words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "runs" / "small-adv_target_text-seed0" / "run.json").exists()
    # Longer than a file's name may be: cut, but two stay two, and the same one is found again.
    terms = "+".join(f"dropout=0.1:at={place}@{start}-{start + 1}" for start, place in enumerate(("fusion", "head", "image", "text", "bert.hidden")))
    specs = [f"{terms}+l2=0.01:mode=decoupled+smooth=0.1+rdrop=0.5+mixup=0.2+adv:method=freelb,target=text+feat,k=2,rel={rel},norm=l2,init=zero,every=2,"
             "warmup=2steps@1-2" for rel in ("0.1", "0.2")]
    words[words.index("--reg") + 1] = specs[0]
    assert len(specs[0]) > 255
    for spec in specs:
        words[words.index("--reg") + 1] = spec
        result = run("trainer", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(folders) == 3 and all(name.startswith("small-") and name.endswith("-seed0") and len(name) < 256 for name in folders), folders
    result = run("trainer", *words, "--resume", cwd=tmp_path)
    assert result.returncode == 0 and "is complete" in result.stderr, result.stderr


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("words, needles", [
    (["--precision", "fp8"], ["fp8", "fp32 or bf16"]),
    (["--task", "dream"], ["dream", "classify"]),
    (["--preset", "huge"], ["huge", "small"]),
    (["--optimizer", "lion"], ["lion", "adamw"]),
    (["--schedule", "step"], ["step", "cosine"]),
    (["--negatives", "0"], ["--negatives", "all"]),
    (["--negatives", "many"], ["many"]),
    (["--batch-size", "1"], ["--batch-size", "negatives"]),
    (["--lr", "0"], ["--lr"]),
    (["--lr", "fast"], ["--lr", "fast"]),
    (["--momentum", "1"], ["--momentum"]),
    (["--clip", "-1"], ["--clip"]),
    (["--bert-dropout", "1"], ["--bert-dropout"]),
    (["--steps", "5", "--epochs", "2"], ["--steps", "--epochs"]),
    (["--max-len", "1"], ["--max-len"]),
    (["--image-size", "7"], ["--image-size"]),
    (["--log-level", "loud"], ["loud", "debug"]),
    (["--reg", "adv:method=fgm,k=3"], ["no option k", "pgd"]),
    (["stray"], ["stray"]),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_usage(daemon, tmp_path, words, needles):
    result = train(daemon, tmp_path / "run", *words)
    assert result.returncode == 2, result.stderr
    for needle in needles:
        assert needle in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", ["OMP_PROC_BIND=true", "OMP_PROC_BIND=close OMP_PLACES=cores", "OMP_PLACES={0}"])
def test_bound_threads_are_one_for_each_core(daemon, tmp_path, monkeypatch, words):
    """OpenMP binds the first thread to the first place before main(), and affinity is inherited."""
    for word in words.split():
        monkeypatch.setenv(*word.split("=", 1))
    most = 1 if "{0}" in words else len(os.sched_getaffinity(0))
    run_ok("trainer", "--data", "small", "--preset", "tiny", "--steps", "1", "--val-split", "none", "--out", tmp_path / "run", *daemon.at())
    assert record(tmp_path / "run")["threads"] == most


def test_resume_with_other_options(daemon, arms, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(arms["none"], out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for words, needle in ((["--lr", "1"], "--lr"), (["--lr", "3.0000001e-4"], "--lr 0.00030000001: the run in"), (["--reg", "dropout"], "--reg"),
                          (["--seed", "9"], "--seed"), (["--epochs", "3"], "--epochs"), (["--steps", "3"], "--steps"), (["--task", "classify"], "--task"), (["--preset", "small"], "--preset")):
        result = run("trainer", "--resume", "--out", out, *words, *daemon.at())
        assert result.returncode == 1 and needle in result.stderr and str(out) in result.stderr, result.stderr
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    # what says the same in other words, or decides nothing, is no difference
    result = run_ok("trainer", "--resume", "--out", out, "--reg", "none", "--lr", "0.0003", "--checkpoint-every", "7", "--threads", "1", *daemon.at())
    assert "2 threads" in result.stderr


def test_resume_on_other_data(small, arms, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(arms["none"], out)
    fewer = write_csv(tmp_path / "fewer.csv", small.rows[:20])
    with Daemon() as own:
        own.prepctl_ok("add", "small", "--format", "csv", "--images", small.images, "--captions", f"train={fewer}", "--captions",
                       f"val={small.val}", "--columns", "image,caption,label", "--vocab", small.vocab, "--size", "64")
        result = run("trainer", "--resume", "--out", out, *own.at())
    assert result.returncode == 1 and "version" in result.stderr and "small" in result.stderr, result.stderr


@pytest.mark.parametrize("option", ["--init", "--image-weights"])
def test_resume_before_the_first_checkpoint_from_a_changed_file(daemon, arms, tmp_path, option):
    """Nothing but run.json knows then what the run began with."""
    weights = tmp_path / "start.safetensors"
    shutil.copy(arms["none"] / "last.safetensors", weights)
    whole = train_ok(daemon, tmp_path / "whole", option, weights, "--epochs", "2")
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints")
    for name in ("last.safetensors", "best.safetensors"):
        (out / name).unlink()
    said = (out / "run.json").read_text()
    (out / "run.json").write_text(said.replace('"finished"', '"running"'))
    shutil.copy(arms["dropout"] / "last.safetensors", weights)
    result = run("trainer", "--resume", "--out", out, *daemon.at())
    assert result.returncode == 1 and f"{option} {weights}" in result.stderr and "changed" in result.stderr and str(out) in result.stderr, result.stderr
    assert record(out)["init_digest"] == record(whole)["init_digest"] and not (out / "checkpoints").exists()
    shutil.copy(arms["none"] / "last.safetensors", weights)
    run_ok("trainer", "--resume", "--out", out, *daemon.at())
    same_outcome(out, whole)


def test_nothing_to_resume(daemon, tmp_path):
    result = run("trainer", "--resume", *daemon.at())
    assert result.returncode == 2 and "--out" in result.stderr
    result = run("trainer", "--resume", "--out", tmp_path / "none", *daemon.at())
    assert result.returncode == 2 and "--data" in result.stderr and not (tmp_path / "none").exists()
    assert f"{tmp_path / 'none'}: there is no run to go on with" in result.stderr, result.stderr


def test_a_finished_run_is_left_as_it_is(daemon, arms, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(arms["none"], out)
    result = run_ok("trainer", "--resume", "--out", out, *daemon.at())
    assert "is complete" in result.stderr
    assert sorted(path.name for path in (out / "tensorboard").iterdir()) == sorted(path.name for path in (arms["none"] / "tensorboard").iterdir())


def test_no_weights_names_none(daemon, arms, tmp_path):
    """No line says best.safetensors where there is none, and what is removed of a finished run is said."""
    for number, more in enumerate(([], ["--reg", "early=1", "--lr", "1e-9"])):
        out = tmp_path / str(number)
        result = train(daemon, out, "--epochs", "9", "--no-weights", *more)
        assert result.returncode == 0 and ("early stopping" in result.stderr) == bool(more), result.stderr
        assert "after step" in result.stdout and "no weights kept" in result.stdout and not list(out.glob("*.safetensors"))
        assert "best.safetensors" not in result.stdout + result.stderr and "removed" not in result.stderr
    shutil.copytree(arms["none"], tmp_path / "finished")
    result = run_ok("trainer", "--resume", "--out", tmp_path / "finished", "--no-weights", *daemon.at())
    assert "no weights kept" in result.stdout and "best.safetensors" not in result.stdout
    assert "weights that the finished run" in result.stderr and "are removed" in result.stderr, result.stderr
    assert not list((tmp_path / "finished").glob("*.safetensors"))
    result = train(daemon, tmp_path / "kept", "--steps", "1")
    assert "(best.safetensors)" in result.stdout and "no weights" not in result.stdout


def test_two_trainers_in_one_folder(daemon, tmp_path):
    out = tmp_path / "run"
    process = start(daemon, out, "--epochs", "100")
    wait_for_lines(process, out, 1)
    result = run("trainer", "--resume", "--out", out, *daemon.at())
    process.kill()
    process.wait()
    assert result.returncode == 1 and "another trainer" in result.stderr, result.stderr


def test_classify_without_labels(small, daemon, tmp_path):
    bare = write_csv(tmp_path / "bare.csv", [row[:2] for row in small.rows], header=("image", "caption"))
    daemon.prepctl_ok("add", "bare", "--format", "csv", "--images", small.images, "--captions", bare, "--vocab", small.vocab, "--size", "64")
    result = run("trainer", "--data", "bare", "--task", "classify", "--preset", "tiny", "--out", tmp_path / "run", *daemon.at())
    assert result.returncode == 1 and "label" in result.stderr and "bare" in result.stderr
    assert not (tmp_path / "run").exists()


def test_steps_without_a_label_are_no_part_of_the_epochs_mean(small, daemon, tmp_path):
    """A step has no loss then (null), the epoch has that of the others."""
    some = write_csv(tmp_path / "some.csv", [(name, caption, label if i % 5 == 0 else "") for i, (name, caption, label) in enumerate(small.rows[:24])])
    none = write_csv(tmp_path / "none.csv", [(name, caption, "") for name, caption, _ in small.rows[24:]])
    daemon.prepctl_ok("add", "part", "--format", "csv", "--images", small.images, "--captions", f"train={some}", "--captions", f"none={none}",
                      "--columns", "image,caption,label", "--vocab", small.vocab, "--size", "64")
    words = [word if word != "small" else "part" for word in arguments(daemon, tmp_path / "run", "--task", "classify", "--epochs", "2", "--batch-size", "1")]
    said = run_ok("trainer", *words).stderr
    found = lines(tmp_path / "run", "train")
    assert "nan" not in said and sum(line["loss"] is None for line in found) == 2 * 19
    for epoch in (0, 1):
        losses = [line["loss"] for line in found if line["epoch"] == epoch and line["loss"] is not None]
        assert f"epoch {epoch} done: train loss {sum(losses) / 5:.4f}" in said, said
    words = [word if word != str(tmp_path / "run") else str(tmp_path / "none") for word in words]
    said = run_ok("trainer", *words, "--train-split", "none", "--val-split", "none").stderr
    assert "epoch 0 done: no step had a sample to learn from" in said and "nan" not in said, said


def test_diverging_run_stops(daemon, tmp_path):
    out = tmp_path / "run"
    result = train(daemon, out, "--lr", "1e30", "--clip", "0", "--warmup", "0", "--optimizer", "sgd", "--epochs", "5")
    assert result.returncode == 1 and "not finite" in result.stderr and "--lr" in result.stderr, result.stderr
    assert all(line["loss"] is not None for line in lines(out, "train"))
    assert record(out)["state"] == "diverged"


def test_a_last_step_too_far(daemon, tmp_path):
    """No step comes that would see it, but outputs that are no numbers are no finished run, and no best one."""
    for number, more in enumerate((["--predictions"], ["--val-split", "none"])):
        out = tmp_path / str(number)
        result = train(daemon, out, "--steps", "1", "--lr", "1e300", "--warmup", "0", "--clip", "0", "--optimizer", "sgd", *more)
        assert result.returncode == 1 and "not finite" in result.stderr, result.stderr
        assert record(out)["state"] == "diverged" and "best" not in record(out)["result"]
        assert not list(out.glob("*.safetensors")) and not (out / "predictions.csv").exists()


def test_eval_of_what_overflows(daemon, arms, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = pytest.importorskip("tensors")
    state = {name: value.copy() for name, value in tensors.read(arms["none"] / "last.safetensors").items()}
    state["head.weight"][:] = 3e38
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, tmp_path / "odd.pth")
    result = run("trainer", "eval", tmp_path / "odd.pth", "--data", "small", "--split", "val", "--preset", "tiny", *daemon.at())
    assert result.returncode == 1 and "not finite" in result.stderr and "val of small" in result.stderr, result.stderr


def test_eval_errors(daemon, arms, tmp_path):
    checkpoint = arms["none"] / "last.safetensors"

    def fails(*words, code=1):
        result = run("trainer", "eval", *words, *daemon.at())
        assert result.returncode == code, result.stderr
        return result.stderr

    assert "best.safetensors" in fails(tmp_path, "--data", "small")
    assert "--data" in fails(checkpoint, code=2)
    assert "nosuch" in fails(checkpoint, "--data", "small", "--split", "nosuch")
    assert "nowhere" in fails(tmp_path / "nowhere.safetensors", "--data", "small")
    assert "tiny" in fails(checkpoint, "--data", "small", "--preset", "full")
    bare = tmp_path / "bare.safetensors"
    data = checkpoint.read_bytes()
    head = header(checkpoint)
    del head["__metadata__"]
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    bare.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + struct.unpack("<Q", data[:8])[0]:])
    assert "--preset" in fails(bare, "--data", "small", code=2)
    said = run_ok("trainer", "eval", bare, "--data", "small", "--preset", "tiny", "--json", "--threads", "2", "--batch-size", "8", *daemon.at())
    assert json.loads(said.stdout)["loss"] == lines(arms["none"], "val")[-1]["loss"]
    bare.write_bytes(bare.read_bytes()[:-1])
    assert "bare.safetensors" in fails(bare, "--data", "small", "--preset", "tiny")
