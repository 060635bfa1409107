"""What the tests of `trainer` share: runs of the tiny model on harness.py's small data set."""
import json
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, SLOW, environment, run  # noqa: E402
from runs import differences  # noqa: E402


def arguments(daemon, out, *more):
    return ["--data", "small", "--preset", "tiny", "--batch-size", "8", "--threads", "2", "--out", str(out), *map(str, more),
            *map(str, daemon.at())]


def train(daemon, out, *more, **options):
    return run("trainer", *arguments(daemon, out, *more), **options)


def train_ok(daemon, out, *more, **options):
    result = train(daemon, out, *more, **options)
    assert result.returncode == 0, result.stderr
    return out


def start(daemon, out, *more):
    return subprocess.Popen([str(BIN / "trainer"), *arguments(daemon, out, *more)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=environment(), text=True)


def lines(out, split=None):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if split in (None, line["split"])]


def wait_for_lines(process, out, count, wait_s=60):
    until = time.monotonic() + wait_s * SLOW
    path = out / "metrics.jsonl"
    while time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        if process.poll() is not None:
            return
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"{path} has no {count} lines after {wait_s} s")


def same_outcome(a, b):
    assert not differences(a, b)
