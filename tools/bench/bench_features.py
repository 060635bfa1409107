#!/usr/bin/python3
"""Seconds an epoch of 50,000 samples takes when both encoders are frozen and their features come from the cache.

    tools/bench/bench_features.py [--out FILE.md] [--samples N] [--batch-size N ...]

The whole real path: N small JPEG files with a caption each are added to a daemon of the bench's own; a first run with
--freeze image,text computes the features (preset small: 768 numbers each, so that fusion layer and head are those of
the full model, 1536 -> 768 -> 2) and puts them into the daemon's cache; the runs that are measured find them there. One negative
for each positive. The limit beside each figure is measured in the same run: the epoch's arithmetic at the rate of this
machine's matrix products, and the optimizer's and clipping's memory traffic at the rate of a copy of arrays of that size.
"""
import argparse
import json
import os
import pathlib
import statistics
import tempfile

from common import REPEATS, Table, give, median_of, note, seconds_of
from harness import Daemon, run_ok, write_csv

SIZE, FEATURES = 32, 768
WORDS = "a the small large red green blue dark bright round square house river tree field road boat near behind beside above with and".split()


def make_data(folder, samples):
    """Pictures that all differ, small enough to be made quickly; captions of about COCO's length."""
    import numpy
    from PIL import Image
    rng = numpy.random.default_rng(1)
    images = folder / "images"
    images.mkdir()
    rows = []
    for i in range(samples):
        name = f"{i:06d}.jpg"
        coarse = rng.integers(0, 256, (4, 4, 3), numpy.uint8)
        Image.fromarray(numpy.repeat(numpy.repeat(coarse, 8, 0), 8, 1)).save(images / name, quality=80)
        rows.append((name, " ".join(rng.choice(WORDS, rng.integers(8, 16)))))
    write_csv(folder / "captions.csv", rows, header=("image", "caption"))
    (folder / "words.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")


def train(daemon, folder, name, batch, epochs, reg):
    """Seconds of each epoch's steps, waiting for data included."""
    run_ok("trainer", "--data", "bench", "--preset", "small", "--image-size", SIZE, "--freeze", "image,text", "--negatives", 1, "--reg", reg,
           "--batch-size", batch, "--epochs", epochs, "--val-split", "none", "--quiet", "--out", folder / name, *daemon.at(), timeout=3600)
    seconds, waits = {}, {}
    for line in (folder / name / "metrics.jsonl").read_text().splitlines():
        step = json.loads(line)
        if step["split"] == "train":
            seconds[step["epoch"]] = seconds.get(step["epoch"], 0) + step["samples"] / step["pairs_per_s"]
            waits[step["epoch"]] = waits.get(step["epoch"], 0) + step["data_wait_s"]
    return list(seconds.values()), list(waits.values())


def limit_seconds(samples, batch, dropout):
    """What the epoch's products and the parameters' memory traffic take at the measured rates."""
    import numpy
    n = 1536
    a, b = numpy.ones((n, n), numpy.float32), numpy.ones((n, n), numpy.float32)
    a @ b
    rate = 2.0 * n ** 3 / median_of(lambda: seconds_of(lambda: a @ b), 7)
    parameters = 2 * FEATURES * FEATURES + 3 * FEATURES + 2 * FEATURES + 2
    source, target = numpy.ones(parameters, numpy.float32), numpy.ones(parameters, numpy.float32)
    copy = 8.0 * parameters / median_of(lambda: seconds_of(lambda: numpy.copyto(target, source)), 21)
    rows = 2 * batch * (2 if dropout else 1)  # without dropout Wv v and Wt t are worked out once a picture and caption
    flops = 3 * 2.0 * rows * FEATURES * FEATURES + 3 * 2.0 * 2 * batch * FEATURES * 2
    traffic = parameters * 4 * (4 + 4 + 1)  # AdamW reads value, gradient and moments and writes them; clipping reads the gradient
    return samples // batch * (flops / rate + traffic / copy), rate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=50000)
    parser.add_argument("--batch-size", type=int, action="append")
    options = parser.parse_args()
    try:
        import numpy  # noqa: F401
        import PIL  # noqa: F401
    except ImportError:
        note("numpy or Pillow is not installed: left out")
        if options.out:
            options.out.write_text("")
        return
    table = Table(f"Frozen encoders: an epoch of {options.samples:,} samples from cached features, 1536 -> 768 -> 2, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory(dir="/tmp") as name, Daemon() as daemon:
        folder = pathlib.Path(name)
        make_data(folder, options.samples)
        daemon.prepctl_ok("add", "bench", "--format", "csv", "--images", folder / "images", "--captions", folder / "captions.csv", "--columns",
                          "image,caption", "--vocab", folder / "words.txt", "--size", SIZE, timeout=3600)
        seconds = seconds_of(lambda: train(daemon, folder, "first", 256, 1, "none"))
        status = daemon.status()
        assert status["features_kept"] == 2 * options.samples, status
        table.add("first run: features computed and kept, one epoch", seconds, "s")
        for batch in options.batch_size or [32, 256]:
            taken = {}
            for reg in ("none", "dropout", "adv:target=feat"):
                epochs, waits = train(daemon, folder, f"{reg.partition(':')[0]}-{batch}", batch, REPEATS, reg)
                taken[reg] = statistics.median(epochs)
                if reg.startswith("adv"):  # the limit is of one pass
                    peer, limit = "none", taken["none"]
                else:
                    limit, rate = limit_seconds(options.samples, batch, reg == "dropout")
                    peer = f"products at {rate / 1e9:.0f} GFLOP/s, optimizer"
                table.add(f"an epoch, {reg}, batch {batch}", taken[reg], "s", peer, limit)
                table.add(f"of that waiting for data, {reg}, batch {batch}", statistics.median(waits), "s")
        seconds = seconds_of(lambda: train(daemon, folder, "whole", 256, 1, "none"))
        table.add("a whole run of one epoch, program start and fetching the features included, batch 256", seconds, "s")
        assert daemon.status()["features_kept"] == 2 * options.samples
    give(table.markdown(), options.out)


if __name__ == "__main__":
    main()
