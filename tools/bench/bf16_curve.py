#!/usr/bin/python3
"""Does training in bf16 go the way of fp32? Loss over 300 real steps of preset full (docs/training.md, "bf16").

    tools/bench/bf16_curve.py [--out FILE.md] [--keep DIR] [--task contrast] [--steps 300]

Three runs on rsicd at 224 px, batch 16: fp32 with two seeds, which begin with other weights and see another order, and bf16 with the
first of them. The question is whether bf16 moves the curve by less than another seed would. Losses are averaged over windows of 20
steps. About 25 minutes on two cores; with --keep a run that is there is not repeated.
"""
import argparse
import json
import pathlib
import statistics
import tempfile

from common import SHARED_DATA, needed, note
from harness import Daemon, run_ok

WINDOW = 20
RUNS = {"fp32, seed 0": ("fp32", 0), "bf16, seed 0": ("bf16", 0), "fp32, seed 1": ("fp32", 1)}


def losses(folder, steps):
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    found = [line["loss"] for line in lines if line["split"] == "train"]
    return found if len(found) == steps else None


def windows(values):
    return [statistics.fmean(values[i:i + WINDOW]) for i in range(0, len(values), WINDOW)]


def distance(a, b):
    differences = [abs(x - y) for x, y in zip(windows(a), windows(b))]
    return statistics.fmean(differences), max(differences)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--task", default="contrast", choices=("contrast", "match"))
    parser.add_argument("--preset", default="full")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", default="5e-5", help="the trainer's own 3e-4 keeps a BERT of 12 layers with random weights at chance")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    rsicd = needed("rsicd")
    curve = {}
    with tempfile.TemporaryDirectory(dir="/tmp") as name, Daemon() as daemon:
        folder = options.keep or pathlib.Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        daemon.prepctl_ok("add", "rsicd", "--format", "karpathy", "--images", rsicd / "images", "--captions", rsicd / "dataset_rsicd.json",
                          "--vocab", SHARED_DATA / "text" / "bert-base-uncased-vocab.txt", "--size", options.image_size)
        for title, (precision, seed) in RUNS.items():
            out = folder / f"{options.task}-{options.lr}-{precision}-{seed}"
            if losses(out, options.steps) is None:
                run_ok("trainer", "--data", "rsicd", "--preset", options.preset, "--image-size", options.image_size, "--task", options.task,
                       "--batch-size", 16, "--lr", options.lr, "--steps", options.steps, "--precision", precision, "--seed", seed, "--train-split", "train",
                       "--val-split", "none", *(["--threads", options.threads] if options.threads else []), "--quiet", "--out", out,
                       *daemon.at(), timeout=20000)
            curve[title] = losses(out, options.steps)
            note(f"{title}: {' '.join(f'{loss:.3f}' for loss in windows(curve[title]))}")
    rows = [f"| steps | {' | '.join(RUNS)} |", "|---|" + "---:|" * len(RUNS)]
    for i, values in enumerate(zip(*(windows(curve[title]) for title in RUNS))):
        rows.append(f"| {i * WINDOW} to {min((i + 1) * WINDOW, options.steps) - 1} | {' | '.join(f'{value:.3f}' for value in values)} |")
    first, bf16, second = (curve[title] for title in RUNS)
    text = "\n".join(rows) + "\n\n"
    for what, other in (("bf16 from fp32, same seed", bf16), ("the second seed from the first, fp32", second)):
        mean, worst = distance(first, other)
        text += f"Distance of {what}: {mean:.4f} on average over the windows, {worst:.4f} at most.\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
