#!/usr/bin/python3
"""What an adversary costs, as a multiple of a clean step.

    tools/bench/bench_reg.py [--out FILE.md] [--preset full|small] [--steps N] [--only NAME ...] [--threads N] [--cpu]

One run for each method, in which every other step is adversarial (`every=2`): the multiple is the median of such a step's
time over that of its two neighbours, which are clean, waiting for data left out. So both are measured in the same run, on the
same machine in the same seconds, on captions as they are (tiny_coco for full, rsicd for small). In brackets the run's own
figure, adv_cost, which subtracts what the adversary took from each step. k counts all passes, the clean one included.

--cpu counts the process's CPU time between one line of metrics and the next instead of the clock, on one thread: for a machine that
other programs use as well, where a step waits for a core as often as it computes.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from bench_step import SHAPES, add_data
from harness import BIN, Daemon, environment

SKIPPED_STEPS = 2
LIMITS = {"freelb, text, k=3": 1.5, "freelb, fused, k=3": 1.1, "freelb, feat, k=3": 1.1}
SPECS = {
    "freelb, text, k=3": "adv:method=freelb,target=text,k=3",
    "freelb, fused, k=3": "adv:method=freelb,target=fused,k=3",
    "freelb, feat, k=3": "adv:method=freelb,target=feat,k=3",
    "fgm, text": "adv:method=fgm,target=text",
    "fgm, text+feat": "adv:method=fgm,target=text+feat",
    "noise, text+feat": "noise:target=text+feat",
    "pgd, text, k=3": "adv:method=pgd,target=text,k=3",
    "smart, text, k=3": "adv:method=smart,target=text,k=3",
    "villa, text+feat, k=3": "adv:method=villa,target=text+feat,k=3",
    "fgm, pixel": "adv:method=fgm,target=pixel",
    "pgd, pixel, k=3": "adv:method=pgd,target=pixel,k=3",
    "free, text, k=3": "adv:method=free,target=text,k=3",
}


def cpu_seconds(pid):
    """Of all threads of a process that runs."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(arguments, metrics):
    """The lines of a run's steps, and the CPU time that had been used when each appeared."""
    process = subprocess.Popen([str(BIN / "trainer"), *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True)
    used, before = [], 0.0
    while process.poll() is None:
        try:
            now, found = cpu_seconds(process.pid), metrics.read_text().count("\n")
        except OSError:
            now, found = before, 0
        used.extend([now] * (found - len(used)))
        before = now
        time.sleep(0.005)
    if process.returncode != 0:
        raise SystemExit(process.stderr.read())
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return lines, used + [before] * (len(lines) - len(used))


def measure(daemon, preset, spec, steps, folder, threads, cpu):
    """(multiple, the run's own figure)"""
    lines, used = train(["--data", "bench", "--reg", spec + ",every=2", "--preset", preset, "--batch-size", SHAPES[preset][0], "--steps", steps,
                         "--val-split", "none", "--out", folder, "--quiet", *(["--threads", threads] if threads else []), *daemon.at()],
                        folder / "metrics.jsonl")
    seconds = [line["samples"] / line["pairs_per_s"] - line["data_wait_s"] for line in lines]
    if cpu:  # the last line may appear together with the end of the process, whose time holds the last checkpoint
        seconds = [to - since for since, to in zip([0.0] + used, used)][:-1]
    seconds, own = seconds[SKIPPED_STEPS:], [line.get("adv_cost") for line in lines][SKIPPED_STEPS:]
    # Each adversarial step beside the clean ones before and after it, so that a machine that slows down hits both.
    multiples = [seconds[i] / statistics.mean((seconds[i - 1], seconds[i + 1])) for i in range(1, len(seconds) - 1) if own[i] is not None]
    return statistics.median(multiples), statistics.median(cost for cost in own if cost is not None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", choices=["full", "small"], default="full")
    parser.add_argument("--steps", type=int, default=13, help="of each run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", action="append", choices=list(SPECS), help="some of them")
    parser.add_argument("--cpu", action="store_true", help="CPU time of one thread instead of the clock")
    options = parser.parse_args()
    threads = 1 if options.cpu else options.threads
    rows = [f"### An adversarial step as a multiple of a clean one, {options.preset}, fp32{', CPU time' if options.cpu else ''}", "", "| method | data | multiple | adv_cost | allowed |",
            "|---|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = pathlib.Path(name)
        with Daemon() as daemon:
            data = add_data(daemon, options.preset, folder)
            batch, size, _ = SHAPES[options.preset]
            for i, what in enumerate(options.only or SPECS):
                multiple, own = measure(daemon, options.preset, SPECS[what], max(options.steps, SKIPPED_STEPS + 4), folder / f"run-{i}", threads,
                                        options.cpu)
                allowed = LIMITS.get(what, "") if options.preset == "full" else ""
                print(f"{what}: {multiple:.2f} times a clean step (adv_cost {own:.2f}{f', {allowed} allowed' if allowed else ''})", flush=True)
                rows.append(f"| {what} | {data} at {size} px, batch {batch} | {multiple:.2f} | {own:.2f} | {allowed} |")
    if options.out:
        options.out.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
