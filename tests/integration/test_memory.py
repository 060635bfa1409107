"""What `trainer --dry-run` expects of a run's memory, beside what the run takes."""
import os
import re
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, Daemon, SmallData, run_ok  # noqa: E402

PRESETS = [("small", 64, 8)] + ([("full", 224, 16)] if os.environ.get("FULL") else [])


# A process starts with the largest size of the one that started it: this one, with NumPy in it, is larger than a tiny run.
SMALL_PARENT = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
assert status == 0
print(usage.ru_maxrss / 1024)
"""


def peak_mebibytes(*command):
    return float(subprocess.run([sys.executable, "-I", "-c", SMALL_PARENT, *map(str, command)], stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.parametrize("preset,size,batch", PRESETS)
@pytest.mark.parametrize("more", [[], ["--recompute"], ["--reg", "adv"], ["--profile"]])
def test_dry_run_knows_the_memory(tmp_path, preset, size, batch, more):
    with Daemon() as daemon:
        SmallData(tmp_path, 3 * batch, batch).add(daemon)
        common = ["--data", "small", "--preset", preset, "--image-size", size, "--batch-size", batch, "--threads", 1, *more, *daemon.at()]
        said = run_ok("trainer", *common, "--dry-run", timeout=300).stdout
        expected = float(re.search(r"^peak memory +([\d.]+) MiB expected", said, re.M)[1])
        taken = peak_mebibytes(BIN / "trainer", *common, "--epochs", 1, "--quiet", "--out", tmp_path / "run")
        assert 0.9 < expected / taken < 1.1, (expected, taken)


def test_frozen_towers(tmp_path):
    """With features in the cache a run takes less than the first one, which computes them; --dry-run knows both."""
    with Daemon() as daemon:
        SmallData(tmp_path, 40, 8).add(daemon)
        common = ["--data", "small", "--preset", "tiny", "--batch-size", 16, "--threads", 1, "--freeze", "image,text", *daemon.at()]
        said = run_ok("trainer", *common, "--dry-run", timeout=300).stdout
        cached, first = map(float, re.search(r"^peak memory +([\d.]+) MiB .* cached; ([\d.]+) MiB", said, re.M).groups())
        assert cached < first
        for turn, expected in enumerate((first, cached)):
            taken = peak_mebibytes(BIN / "trainer", *common, "--epochs", 2, "--quiet", "--out", tmp_path / f"run{turn}")
            assert 0.9 < expected / taken < 1.1, (turn, expected, taken)


# Takes more memory than the run, then asks; as a script does that has PyTorch loaded.
FAT = """
import subprocess, sys
ballast = b"x" * (400 << 20)
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def test_who_asks_does_not_matter(tmp_path):
    with Daemon() as daemon:
        SmallData(tmp_path).add(daemon)
        command = [BIN / "trainer", "--data", "small", "--preset", "tiny", "--batch-size", 8, "--threads", 1, "--dry-run", *daemon.at()]
        expected = []
        for before in [], [sys.executable, "-c", FAT]:
            said = subprocess.run([*before, *map(str, command)], stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout
            expected.append(float(re.search(r"^peak memory +([\d.]+) MiB expected", said, re.M)[1]))
        assert expected[1] == pytest.approx(expected[0], rel=0.1)
