#!/usr/bin/python3
"""From `trainer` typed to the first step done, on a warm cache; and the share of training that waits for data.

    tools/bench/bench_start.py [--out FILE.md] [--preset small|full|tiny ...]

The first step is done when its line is in metrics.jsonl, which is looked for every millisecond. "First" is the first run against a daemon
that has just started, on pages that are in memory; "again" the median of five more. The share of waiting is
data_wait_s over the steps' time, the first step left out; with frozen towers once their features are cached.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import bench_step
from common import BUILD, Table
from harness import Daemon

AGAIN = 5
# Enough for a share of a percent to be seen.
WAIT_STEPS = {"full": 8, "small": 40, "tiny": 200}


def seconds_to_first_step(arguments, out):
    metrics = out / "metrics.jsonl"
    began = time.monotonic()
    process = subprocess.Popen([BUILD / "bin" / "trainer", *map(str, arguments), "--out", out], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
        time.sleep(0.001)
    taken = time.monotonic() - began
    if process.wait() != 0:
        raise SystemExit(f"trainer {' '.join(map(str, arguments))}: exit code {process.returncode}")
    return taken


def waiting_percent(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"][1:]
    return 100 * sum(line["data_wait_s"] for line in steps) / sum(line["samples"] / line["pairs_per_s"] for line in steps)


def bench(start, waiting, preset, folder):
    batch, size, _ = bench_step.SHAPES[preset]
    with Daemon() as daemon:
        name = bench_step.add_data(daemon, preset, folder)
        what = f"{preset}, {name} at {size} px, batch {batch}"
        common = ["--data", "bench", "--preset", preset, "--batch-size", batch, "--val-split", "none", "--quiet", *daemon.at()]
        daemon.stop()
        daemon.start()
        first = seconds_to_first_step([*common, "--steps", "1"], folder / f"{preset}-first")
        again = statistics.median(seconds_to_first_step([*common, "--steps", "1"], folder / f"{preset}-{i}") for i in range(AGAIN))
        aim = ("the aim", 1.0) if preset == "small" else ()
        start.add(f"{what}, first", first, "s", *aim)
        start.add(f"{what}, again", again, "s", *aim)
        for title, more in (("", []), (", towers frozen", ["--freeze", "image,text"])):
            for turn in range(2 if more else 1): # the first of frozen ones fills the cache
                out = folder / f"{preset}-wait-{turn}{len(more)}"
                seconds_to_first_step([*common, *more, "--steps", WAIT_STEPS[preset]], out)
            waiting.add(f"{what}{title}", waiting_percent(out), "% of the time", "the aim", 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", action="append", choices=sorted(bench_step.SHAPES))
    options = parser.parse_args()
    start, waiting = Table("From `trainer` typed to its first step done"), Table("Waiting for data")
    start.digits = waiting.digits = 2
    with tempfile.TemporaryDirectory() as name:
        for preset in options.preset or ["tiny", "small", "full"]:
            bench(start, waiting, preset, pathlib.Path(name))
    if options.out:
        options.out.write_text(start.markdown() + "\n" + waiting.markdown())


if __name__ == "__main__":
    main()
