#!/usr/bin/python3
"""Pairs a second of a whole optimizer step, in fp32 and bf16, beside PyTorch in fp32 on the same batches, and beside the
processor's peak; and what the trainer does by the libraries' kernels alone (TRAINER_KERNELS=libraries), with oneDNN and without.

    tools/bench/bench_step.py [--out FILE.md] [--preset full|small|tiny ...] [--steps N] [--rounds N] [--no-openblas] [--no-torch]

`trainer` runs a few steps on a real data set (tiny_coco for full, rsicd for small; the
demo's pictures where those are absent) and its own metrics are read: the median
over the steps after the first two. Everything takes turns, --rounds times, and the median of the rounds
counts: the cores may be shared. The peer is the script's model in PyTorch,
channels-last, with batches that `prepctl batch` wrote for the same steps, AdamW, the same pairs: every
picture with its own caption and with all other captions of the batch. It runs twice: with captions padded to the
batch's longest, as a script's collate function does, and padded to 64 tokens, as scripts do that call their
tokenizer with padding="max_length". The trainer packs captions and has one figure for both. PyTorch gets as many threads
as the trainer (torch.set_num_threads): left alone it takes what it holds for the number of cores, which is 1 on
some virtual machines of two. Where that is so, the first round shows that figure too: it is what a script gets that says nothing.

The share of the peak: the operations that a step needs (2 a multiply-add, in convolutions, matrix products and attention
alone; border pixels count, padding tokens do not exist, nothing is counted that is computed twice) times steps a
second, over multiply-adds a second of register arithmetic on the same cores in the same run, as --profile measures both.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from common import BUILD, ROOT, SHARED_DATA, Table, give, note
from harness import Daemon, has_bf16, run_ok

sys.path.insert(0, str(ROOT / "tests" / "parity"))

SHAPES = {"full": (16, 224, 6), "small": (32, 112, 20), "tiny": (32, 64, 60)}
SKIPPED_STEPS = 2
PADDED_LENGTH = 64
# Without oneDNN; built by `make openblas`.
OPENBLAS_TRAINER = BUILD / "openblas" / "trainer"
# What the peak counts: multiply-adds.
NEEDED = ("convolution ", "matrix product ", "attention ")


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


def needed_flops(profile):
    """Multiply-adds of a step, 2 operations each."""
    return sum(cell["flops"] for cell in profile["cells"] if cell["kind"].startswith(NEEDED)) / profile["steps"]


class Run:
    """A run of the trainer: pairs a second, share of the peak, peak of resident memory in GB, and (epoch, step of it) of each step."""

    def __init__(self, daemon, preset, precision, steps, out, program="trainer", libraries=False):
        batch = SHAPES[preset][0]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        if libraries:
            os.environ["TRAINER_KERNELS"] = "libraries"
        run_ok(program, "--data", "bench", "--reg", "none", "--preset", preset, "--precision", precision, "--batch-size", batch, "--steps", steps,
               "--val-split", "none", "--profile", "--out", out, *daemon.at(), timeout=1200)
        os.environ.pop("TRAINER_KERNELS", None)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.gigabytes = peak / 1e6 if peak > before else None
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().split("\n") if line]
        train = [line for line in lines if line["split"] == "train"]
        first = {}
        self.places = [(line["epoch"], line["step"] - first.setdefault(line["epoch"], line["step"])) for line in train]
        self.rate = statistics.median([line["pairs_per_s"] for line in train][SKIPPED_STEPS:])
        profile = json.loads((out / "profile.json").read_text())
        self.flops = needed_flops(profile) * self.rate / batch
        self.peak_flops = profile["peak_flops_per_s"]


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


def padded(tensor, length):
    import torch
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]))


def cores():
    return len(os.sched_getaffinity(0))


def torch_rate(preset, batch, data, length=0, threads=None):
    """With captions as they are in the batches, or all padded to this many tokens; on all cores unless told otherwise."""
    import torch
    from torch_model import PRESETS, FusionModel
    torch.set_num_threads(threads or cores())
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
        ids, mask = (padded(tensors[name], max(length, tensors[name].shape[1])) for name in ("input_ids", "attention_mask"))
        pair_image = torch.arange(count).repeat_interleave(count)
        pair_text = torch.arange(count).repeat(count)
        label = (pair_image == pair_text).long()
        weight = torch.where(label == 1, 0.5 / count, 0.5 / (count * (count - 1)))
        started = time.monotonic()
        logits = model(image, ids, mask, pair_image, pair_text)
        loss = (torch.nn.functional.cross_entropy(logits, label, reduction="none") * weight).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.append(count / (time.monotonic() - started))
    return statistics.median(rates[SKIPPED_STEPS:])


def median(values):
    return statistics.median(values) if values else None


def add_rows(table, what, runs, peers, as_it_comes):
    for precision in ("fp32", "bf16"):
        if not runs[precision]:
            continue
        rate, flops, peak = (median([getattr(run, name) for run in runs[precision]]) for name in ("rate", "flops", "peak_flops"))
        table.add(f"{what}, {precision}", rate, "pairs/s", "PyTorch fp32, padded to the batch's longest", median(peers[0]))
        if peers[PADDED_LENGTH]:
            table.add(f"{what}, {precision}", rate, "pairs/s", f"PyTorch fp32, padded to {PADDED_LENGTH} tokens", median(peers[PADDED_LENGTH]))
        if as_it_comes:
            threads, own = as_it_comes
            for length, how in ((0, "the batch's longest"), (PADDED_LENGTH, f"{PADDED_LENGTH} tokens")):
                table.add(f"{what}, {precision}", rate, "pairs/s", f"PyTorch fp32 on {threads} of {cores()} cores, its own choice, padded to {how}", own[length])
        table.add(f"{what}, {precision}, needed operations", flops / 1e9, "GFLOP/s", "the peak of fp32 multiply-adds", peak / 1e9)
    for name, precision, title in (("libraries", "fp32", "the libraries' kernels"), ("alone", "fp32", "OpenBLAS's kernels alone"),
                                   ("bf16 libraries", "bf16", "the libraries' kernels")):
        if runs[name]:
            table.add(f"{what}, {precision}, {title}", median([run.rate for run in runs[name]]), "pairs/s", "as it comes",
                      median([run.rate for run in runs[precision]]))
    gigabytes = [run.gigabytes for run in runs["fp32"] if run.gigabytes]
    if gigabytes:
        table.add(f"{what}, peak memory of trainer, fp32", gigabytes[0], "GB")


def bench(table, preset, options, with_peer, folder):
    batch, size, steps = SHAPES[preset]
    steps = max(options.steps or steps, SKIPPED_STEPS + 1)
    runs = {"fp32": [], "bf16": [], "libraries": [], "alone": [], "bf16 libraries": []}
    peers, as_it_comes = {0: [], PADDED_LENGTH: []}, None
    own_choice = torch_threads() if with_peer else 0
    with Daemon() as daemon:
        data_name = add_data(daemon, preset, folder)
        bf16, data = has_bf16(), None
        for turn in range(options.rounds):
            out = folder / f"run-{preset}-{turn}"
            runs["fp32"].append(Run(daemon, preset, "fp32", steps, out))
            if with_peer:
                data = data or list(batches(daemon, preset, batch, runs["fp32"][0].places[:12], folder))
                for length, rates in peers.items():
                    rates.append(torch_rate(preset, batch, data, length))
                if own_choice != cores() and not as_it_comes:
                    as_it_comes = own_choice, {length: torch_rate(preset, batch, data[:SKIPPED_STEPS + 2], length, own_choice) for length in peers}
            if bf16:
                runs["bf16"].append(Run(daemon, preset, "bf16", steps, out.with_suffix(".bf16")))
                runs["bf16 libraries"].append(Run(daemon, preset, "bf16", steps, out.with_suffix(".bf16-libraries"), libraries=True))
            runs["libraries"].append(Run(daemon, preset, "fp32", steps, out.with_suffix(".libraries"), libraries=True))
            if not options.no_openblas:
                runs["alone"].append(Run(daemon, preset, "fp32", steps, out.with_suffix(".alone"), OPENBLAS_TRAINER, libraries=True))
    add_rows(table, f"{preset}, {data_name} at {size} px, batch {batch}", runs, peers, as_it_comes)


def torch_threads():
    """How many PyTorch takes when nobody says: asked in a process of its own."""
    code = "import torch; print(torch.get_num_threads())"
    return int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout)


def has_torch():
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except ImportError:
        note("PyTorch is not installed: no peer")
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", action="append", choices=list(SHAPES))
    parser.add_argument("--steps", type=int, help="steps of each run")
    parser.add_argument("--rounds", type=int, default=2, help="how often everything takes its turn (2)")
    parser.add_argument("--no-openblas", action="store_true", help="leave out the build without oneDNN")
    parser.add_argument("--no-torch", action="store_true", help="leave out PyTorch")
    options = parser.parse_args()
    with_peer = not options.no_torch and has_torch()
    build = ["build/release/demo/make_demo_data", "build/release/tools/train_vocab", *([] if options.no_openblas else ["openblas"])]
    subprocess.run(["make", "-s", "MODE=release", "all", *build], cwd=ROOT, check=True)
    table = Table("Training step, all cores")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        for preset in options.preset or list(SHAPES):
            bench(table, preset, options, with_peer, pathlib.Path(name))
    give(table.markdown(), options.out)


if __name__ == "__main__":
    main()
