#!/usr/bin/python3
"""Peak memory of training steps: what `trainer --dry-run` expects, what a run takes, and what PyTorch takes for the same.

    tools/bench/bench_memory.py [--out FILE.md] [--preset full|small|tiny ...] [--no-torch]

All figures are the largest resident size of a process from its start to its end (getrusage), libraries included, over whole
optimizer steps on the same batches: the trainer's in fp32, with --recompute and in bf16, PyTorch's as in bench_step.py, captions padded
to the batch's longest.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import bench_step
from common import Table
from harness import Daemon, run_ok

STEPS = 3  # an epoch of tiny_coco in batches of 16
VARIANTS = {"fp32": [], "fp32, --recompute": ["--recompute"], "bf16": ["--precision", "bf16"]}
# A process of its own, so that its peak is nobody else's.
CHILD = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


def peak_gigabytes(*command):
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
    code, kibibytes = json.loads(done.stdout)
    if code != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {code}")
    return kibibytes * 1024 / 1e9


def bench(table, preset, with_peer, folder):
    batch, size, _ = bench_step.SHAPES[preset]
    peer = None
    with Daemon() as daemon:
        name = bench_step.add_data(daemon, preset, folder)
        common = ["--data", "bench", "--preset", preset, "--batch-size", batch, "--val-split", "none", *daemon.at()]
        if with_peer:
            files = [str(folder / f"{preset}-0-{step}.safetensors") for step in range(STEPS)]
            for _ in bench_step.batches(daemon, preset, batch, [(0, step) for step in range(STEPS)], folder):
                pass
            peer = peak_gigabytes(sys.executable, pathlib.Path(__file__), "--torch-steps", preset, *files)
        for variant, more in VARIANTS.items():
            if variant == "bf16" and not bench_step.has_bf16():
                continue
            said = run_ok("trainer", *common, *more, "--dry-run", timeout=600).stdout
            expected = float(re.search(r"peak memory +([\d.]+) MiB", said)[1]) * 2**20 / 1e9
            out = folder / f"run-{preset}-{len(table.rows)}"
            taken = peak_gigabytes(bench_step.BUILD / "bin" / "trainer", *common, *more, "--steps", STEPS, "--quiet", "--out", out)
            what = f"{preset}, {name} at {size} px, batch {batch}, {variant}"
            table.add(f"{what}, expected by --dry-run", expected, "GB", "what the run took", taken)
            table.add(what, taken, "GB", "PyTorch fp32", peer)


def torch_steps(preset, files):
    data = [bench_step.read_safetensors(pathlib.Path(path)) for path in files]
    bench_step.torch_rate(preset, bench_step.SHAPES[preset][0], data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--preset", action="append", choices=sorted(bench_step.SHAPES))
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--torch-steps", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch_steps:
        torch_steps(options.torch_steps[0], options.torch_steps[1:])
        return
    table = Table("Peak memory of a process that trains")
    table.digits = 2
    with tempfile.TemporaryDirectory() as name:
        for preset in options.preset or ["full", "small"]:
            bench(table, preset, not options.no_torch and bench_step.has_torch(), pathlib.Path(name))
    if options.out:
        options.out.write_text(table.markdown())


if __name__ == "__main__":
    main()
