#!/usr/bin/env python3
"""What an adversary costs, as a multiple of a clean step.

    tools/bench/bench_reg.py [--out FILE.md] [--preset full|small] [--steps N] [--only NAME ...] [--threads N]

One run for each method, in which every other step is adversarial (`every=2`): the multiple is the median of such a step's
time over that of its two neighbours, which are clean, waiting for data left out. So both are measured in the same run, on the
same machine in the same seconds, on captions as they are (tiny_coco for full, rsicd for small). In brackets the run's own
figure, adv_cost, which subtracts what the adversary took from each step. k counts all passes, the clean one included.
"""
import argparse
import json
import pathlib
import statistics
import tempfile

from bench_step import SHAPES, add_data
from harness import Daemon, run_ok

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


def measure(daemon, preset, spec, steps, folder, threads):
    """(multiple, the run's own figure)"""
    run_ok("trainer", "--data", "bench", "--reg", spec + ",every=2", "--preset", preset, "--batch-size", SHAPES[preset][0], "--steps", steps,
           "--val-split", "none", "--out", folder, *(["--threads", threads] if threads else []), *daemon.at(), timeout=1800)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][SKIPPED_STEPS:]
    seconds = [line["samples"] / line["pairs_per_s"] - line["data_wait_s"] for line in lines]
    own = [line.get("adv_cost") for line in lines]
    # Each adversarial step beside the clean ones before and after it, so that a machine that slows down hits both.
    multiples = [seconds[i] / statistics.mean((seconds[i - 1], seconds[i + 1])) for i in range(1, len(lines) - 1) if own[i] is not None]
    return statistics.median(multiples), statistics.median(cost for cost in own if cost is not None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", choices=["full", "small"], default="full")
    parser.add_argument("--steps", type=int, default=13, help="of each run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", action="append", choices=list(SPECS), help="some of them")
    options = parser.parse_args()
    rows = [f"### An adversarial step as a multiple of a clean one, {options.preset}, fp32", "", "| method | data | multiple | adv_cost | allowed |",
            "|---|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = pathlib.Path(name)
        with Daemon() as daemon:
            data = add_data(daemon, options.preset, folder)
            batch, size, _ = SHAPES[options.preset]
            for i, what in enumerate(options.only or SPECS):
                multiple, own = measure(daemon, options.preset, SPECS[what], max(options.steps, SKIPPED_STEPS + 4), folder / f"run-{i}",
                                        options.threads)
                allowed = LIMITS.get(what, "") if options.preset == "full" else ""
                print(f"{what}: {multiple:.2f} times a clean step (adv_cost {own:.2f}{f', {allowed} allowed' if allowed else ''})", flush=True)
                rows.append(f"| {what} | {data} at {size} px, batch {batch} | {multiple:.2f} | {own:.2f} | {allowed} |")
    if options.out:
        options.out.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
