#!/usr/bin/python3
"""Runs every bench and writes one document: `make bench`.

    tools/bench/run.py --out build/bench.md [NAME...]

Benches are tools/bench/bench_*.py, which print a table of their own, and the C
programs in build/release/bench/, whose output is taken as it is. With NAMEs,
only those whose name contains one of them. The document has what is done at any
time: all of them take the better part of an hour.
"""
import argparse
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

from common import BUILD, ROOT

# Helpers of other benches, not benches.
NOT_ALONE = {"bench_stream", "bench_decode", "bench_wordpiece", "bench_index"}
# What C benches want on their command line.
ARGUMENTS = {
    "bench_resnet": ["speed", "resnet50", "224", "16", "5"],
    "bench_text": ["full", "16", "5"],
}
# The long form of docs/growth.md takes half an hour and 10 GB.
PYTHON_ARGUMENTS = {"bench_growth": ["--counts", "1000,4000", "--records", "1000000"]}


def machine():
    """Virtual machines hide a processor's name; what it can do decides more."""
    info = dict(line.split(":", 1) for line in reversed(pathlib.Path("/proc/cpuinfo").read_text().split("\n")) if ":" in line)
    info = {name.strip(): value.strip() for name, value in info.items()}
    flags = info.get("flags", "").split()
    sets = [name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("avx512_bf16", "AVX512_BF16")) if flag in flags]
    model = f"{info.get('model name', 'unknown processor')} ({', '.join(sets) or 'neither AVX2 nor AVX-512'})"
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release().split('-')[0]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "bench.md")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()

    def wanted(name):
        return not options.names or any(part in name for part in options.names)

    parts, failed = [f"Measured on {machine()}.\n"], []
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def add(part):
        parts.append(part)
        options.out.write_text("\n".join(parts))

    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "tools" / "bench").glob("bench_*.py")):
            if not wanted(path.stem):
                continue
            print(f"== {path.stem}", flush=True)
            out = pathlib.Path(folder) / f"{path.stem}.md"
            if subprocess.run([sys.executable, path, "--out", out, *PYTHON_ARGUMENTS.get(path.stem, [])], check=False).returncode != 0 or not out.exists():
                failed.append(path.stem)
                continue
            add(out.read_text())
    for path in sorted((BUILD / "bench").glob("bench_*")):
        if path.name in NOT_ALONE or not wanted(path.name) or not os.access(path, os.X_OK):
            continue
        print(f"== {path.name}", flush=True)
        result = subprocess.run([path, *ARGUMENTS.get(path.name, [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                                stdin=subprocess.DEVNULL, cwd=ROOT)
        print(result.stdout, flush=True)
        if result.returncode != 0:
            failed.append(path.name)
            continue
        add(f"### {path.name}\n\n```\n{result.stdout.rstrip()}\n```\n")
    if len(parts) > 1:
        print(f"written: {options.out}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
