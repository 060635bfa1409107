#!/usr/bin/python3
"""Do all arms leave chance? From random weights, and from encoders trained on other pictures (docs/training.md, "A fair start").

    tools/bench/fair_start.py [--out FILE.md] [--keep DIR] [--towers-epochs 50] [--epochs 10]

Trains two towers with --task contrast on one half of rsicd's train split, and then the arms none, dropout, l2 and adv for
matching on the other half, measured on the 1,996 pairs of its test split: from random weights, from those
towers (--init), and with those towers frozen. Preset small at 64 px. About 20 minutes on two cores.
"""
import argparse
import json
import pathlib
import tempfile

from common import SHARED_DATA, needed, note
from harness import Daemon, run_ok

ARMS = ("none", "dropout", "l2", "adv:rel=0.03")
COMMON = ["--data", "rsicd", "--preset", "small", "--image-size", "64", "--quiet"]


def validations(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "val"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--towers-epochs", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    rsicd = needed("rsicd")
    with tempfile.TemporaryDirectory(dir="/tmp") as name, Daemon() as daemon:
        folder = options.keep or pathlib.Path(name)
        daemon.prepctl_ok("add", "rsicd", "--format", "karpathy", "--images", rsicd / "images", "--captions", rsicd / "dataset_rsicd.json",
                          "--vocab", SHARED_DATA / "text" / "bert-base-uncased-vocab.txt", "--size", "64")
        run_ok("trainer", *COMMON, "--task", "contrast", "--batch-size", "64", "--epochs", options.towers_epochs, "--train-split", "train~fold=1/2",
               "--val-split", "val", "--out", folder / "towers", *daemon.at(), timeout=7200)
        towers = max(validations(folder / "towers"), key=lambda line: (line["accuracy"], -line["loss"]))
        note(f"towers: accuracy {towers['accuracy']:.3f}, recall at 10 {towers['image_to_text_r10']:.3f} to text, "
             f"{towers['text_to_image_r10']:.3f} to image, over {towers['pairs']} captions of split val")
        init = ["--init", folder / "towers" / "best.safetensors"]
        rows = ["| start | SPEC | best epoch | last epoch | after each epoch |", "|---|---|---:|---:|---|"]
        for start, more in (("random", []), ("towers", init), ("towers, frozen", [*init, "--freeze", "image,text"])):
            for arm in ARMS:
                # A frozen text tower has no word embeddings to perturb.
                spec = "adv:target=feat,rel=0.03" if "adv" in arm and "frozen" in start else arm
                out = folder / f"{start.replace(', ', '-')}-{arm}"
                run_ok("trainer", *COMMON, "--train-split", "train~rest=1/2", "--val-split", "test", "--epochs", options.epochs, "--reg", spec, *more,
                       "--out", out, *daemon.at(), timeout=7200)
                found = [line["accuracy"] for line in validations(out)]
                rows.append(f"| {start} | `{spec}` | {max(found):.3f} | {found[-1]:.3f} | {' '.join(f'{a:.3f}' for a in found)} |")
                print(rows[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
