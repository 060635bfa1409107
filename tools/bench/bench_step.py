#!/usr/bin/env python3
"""Pairs a second of a whole optimizer step, in fp32 and bf16, beside PyTorch in fp32 on the same batches.

    tools/bench/bench_step.py [--out FILE.md] [--preset full|small|tiny ...] [--steps N]

`trainer` runs a few steps on a real data set (tiny_coco for full, rsicd for small; the
demo's pictures where those are absent) and its own metrics are read: the median
over the steps after the first two. The peer is the script's model in PyTorch,
channels-last, with batches that `prepctl batch` wrote for the same steps (captions padded to the
batch's longest, as a script's collate function does), AdamW, the same pairs: every
picture with its own caption and with all other captions of the batch.
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from common import BUILD, ROOT, SHARED_DATA, Table, note
from harness import Daemon, run, run_ok

sys.path.insert(0, str(ROOT / "tests" / "parity"))

SHAPES = {"full": (16, 224, 6), "small": (32, 112, 20), "tiny": (32, 64, 60)}
SKIPPED_STEPS = 2


def add_data(daemon, preset, folder):
    """The arguments of prepctl add for a preset's usual data; the data set is called `bench`."""
    vocab = SHARED_DATA / "text" / "bert-base-uncased-vocab.txt"
    size = SHAPES[preset][1]
    coco, rsicd = SHARED_DATA / "tiny_coco", SHARED_DATA / "rsicd"
    if preset == "full" and coco.exists() and vocab.exists():
        what = ["--format", "coco", "--images", f"train={coco / 'train2017'}", "--images", f"val={coco / 'val2017'}",
                "--captions", f"train={coco / 'annotations' / 'captions_train2017.json'}",
                "--captions", f"val={coco / 'annotations' / 'captions_val2017.json'}", "--vocab", vocab]
        name = "tiny_coco"
    elif preset == "small" and rsicd.exists() and vocab.exists():
        what = ["--format", "karpathy", "--images", rsicd / "images", "--captions", rsicd / "dataset_rsicd.json", "--vocab", vocab]
        name = "rsicd"
    else:
        subprocess.run([BUILD / "demo" / "make_demo_data", "--out", folder / "demo", "--train", "400", "--val", "20"], check=True)
        subprocess.run([BUILD / "tools" / "train_vocab", "--size", "400", "--out", folder / "demo-vocab.txt", folder / "demo" / "captions.txt"],
                       check=True, stdout=subprocess.DEVNULL)
        what = ["--format", "csv", "--images", folder / "demo" / "images", "--captions", folder / "demo" / "train.csv",
                "--columns", "image,caption,label", "--vocab", folder / "demo-vocab.txt"]
        name = "demo"
    daemon.prepctl_ok("add", "bench", *what, "--size", size, timeout=600)
    return name


def has_bf16():
    """Whether this build and processor train in bf16; asked of a run that then finds no daemon."""
    asked = run("trainer", "--data", "none", "--precision", "bf16", "--socket", "/nonexistent/socket", "--out", "/nonexistent/out")
    return "--precision bf16" not in asked.stderr


def trainer_rate(daemon, preset, precision, batch, steps, out):
    """Pairs a second, the peak of resident memory in GB, and (epoch, step of it) of each step."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    run_ok("trainer", "--data", "bench", "--reg", "none", "--preset", preset, "--precision", precision, "--batch-size", batch, "--steps", steps,
           "--val-split", "none", "--out", out, *daemon.at(), timeout=1200)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().split("\n") if line]
    train = [line for line in lines if line["split"] == "train"]
    first = {}
    places = [(line["epoch"], line["step"] - first.setdefault(line["epoch"], line["step"])) for line in train]
    rates = [line["pairs_per_s"] for line in train][SKIPPED_STEPS:]
    return statistics.median(rates), (peak / 1e6 if peak > before else None), places


def read_safetensors(path):
    import numpy
    import torch
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    result = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        kind = {"F32": numpy.float32, "I64": numpy.int64, "I32": numpy.int32}[entry["dtype"]]
        first, last = entry["data_offsets"]
        result[name] = torch.from_numpy(numpy.frombuffer(raw[8 + size + first:8 + size + last], kind).reshape(entry["shape"]).copy())
    return result


def batches(daemon, preset, batch, places, folder):
    for epoch, step in places:
        path = folder / f"{preset}-{epoch}-{step}.safetensors"
        daemon.prepctl_ok("batch", "bench", "--split", "train", "--batch-size", batch, "--seed", "0", "--epoch", epoch, "--step", step,
                          "--size", SHAPES[preset][1], "--out", path)
        yield read_safetensors(path)


def torch_rate(preset, batch, data):
    import torch
    from torch_model import PRESETS, FusionModel
    torch.manual_seed(0)
    words = 1 + max(int(tensors["input_ids"].max()) for tensors in data)
    model = FusionModel(preset, vocab=max(words, 30522 if preset != "tiny" else 400)).to(memory_format=torch.channels_last)
    assert preset in PRESETS
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.0)
    rates = []
    for tensors in data:
        image = tensors["image"].to(memory_format=torch.channels_last)
        count = image.shape[0]
        pair_image = torch.arange(count).repeat_interleave(count)
        pair_text = torch.arange(count).repeat(count)
        label = (pair_image == pair_text).long()
        weight = torch.where(label == 1, 0.5 / count, 0.5 / (count * (count - 1)))
        started = time.monotonic()
        logits = model(image, tensors["input_ids"], tensors["attention_mask"], pair_image, pair_text)
        loss = (torch.nn.functional.cross_entropy(logits, label, reduction="none") * weight).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.append(count / (time.monotonic() - started))
    return statistics.median(rates[SKIPPED_STEPS:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", action="append", choices=list(SHAPES))
    parser.add_argument("--steps", type=int, help="steps of each run")
    options = parser.parse_args()
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
        with_peer = True
    except ImportError:
        with_peer = False
        note("PyTorch is not installed: no peer")
    with_bf16 = has_bf16()
    table = Table("Training step, all cores")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = pathlib.Path(name)
        for preset in options.preset or list(SHAPES):
            batch, size, steps = SHAPES[preset]
            steps = max(options.steps or steps, SKIPPED_STEPS + 1)
            with Daemon() as daemon:
                data_name = add_data(daemon, preset, folder)
                rate, peak, places = trainer_rate(daemon, preset, "fp32", batch, steps, folder / f"run-{preset}")
                short = trainer_rate(daemon, preset, "bf16", batch, steps, folder / f"run-{preset}-bf16")[0] if with_bf16 else None
                data = list(batches(daemon, preset, batch, places[:12], folder)) if with_peer else None
            peer = torch_rate(preset, batch, data) if with_peer else None
            what = f"{preset}, {data_name} at {size} px, batch {batch}"
            table.add(f"{what}, fp32", rate, "pairs/s", "PyTorch fp32, padded to the batch's longest", peer)
            if short:
                table.add(f"{what}, bf16", short, "pairs/s", "PyTorch fp32, padded to the batch's longest", peer)
            if peak:
                table.add(f"{preset}, peak memory of trainer", peak, "GB")
    if options.out:
        options.out.write_text(table.markdown())
    else:
        print(table.markdown())


if __name__ == "__main__":
    main()
