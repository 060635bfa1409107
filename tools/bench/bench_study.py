#!/usr/bin/python3
"""How a study should share the cores: runs at a time on one thread each, or one run at a time on all of them.

    tools/bench/bench_study.py [--out FILE.md] [--preset tiny|small ...] [--rounds N]

Both ways do the same runs of one study (two arms, two folds) on the same data, in turns, each round in a folder of its own. The
figure is runs a minute by the median round, start and measuring at the end included.
"""
import argparse
import os
import pathlib
import statistics
import tempfile
import time

from bench_step import add_data
from common import Table, give, note
from harness import Daemon, run_ok

STEPS = {"tiny": 60, "small": 12}
RUNS = 4


def study(daemon, preset, out, jobs, threads):
    began = time.monotonic()
    run_ok("trainer", "study", "--data", "bench", "--split", "train", "--arms", "none,l2", "--folds", "2", "--preset", preset,
           "--steps", STEPS[preset], "--out", out, "--jobs", jobs, "--threads", threads, "--quiet", *daemon.at(), timeout=1800)
    return 60 * RUNS / (time.monotonic() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", nargs="+", choices=sorted(STEPS), default=["tiny", "small"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    table = Table("A study's runs on the cores")
    if cores < 2:
        note("one core: there is nothing to share out")
    for preset in options.preset if cores > 1 else []:
        with tempfile.TemporaryDirectory() as name, Daemon() as daemon:
            folder = pathlib.Path(name)
            data = add_data(daemon, preset, folder)
            rates = {"wide": [], "narrow": []}
            for number in range(options.rounds):
                rates["narrow"].append(study(daemon, preset, folder / f"n{number}", cores, 1))
                rates["wide"].append(study(daemon, preset, folder / f"w{number}", 1, cores))
            table.add(f"{preset}, {data}: {cores} runs at a time, 1 thread each", statistics.median(rates["narrow"]), "runs/minute",
                      f"one at a time, {cores} threads", statistics.median(rates["wide"]))
    give(table.markdown(), options.out)


if __name__ == "__main__":
    main()
