"""Every allocation of the programs' own code fails once: an error that says so, never a crash, and nothing is lost.

The default run takes a sample of the allocations; FULL=1 takes every one.
"""
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, BUILD, MODE, ROOT, SLOW, Daemon, environment, run, run_ok, small  # noqa: E402,F401

FULL = os.environ.get("FULL") == "1"
SHIM = BUILD / "tests" / "alloc_shim.so"
SAMPLE = 24

pytestmark = pytest.mark.skipif(MODE != "release", reason="a sanitizer has an allocator of its own")


@pytest.fixture(scope="module", autouse=True)
def shim():
    subprocess.run(["make", "-s", f"MODE={MODE}", str(SHIM.relative_to(ROOT))], cwd=ROOT, check=True)


def failing(at, count=None, on=False):
    fault = {"LD_PRELOAD": SHIM, "ALLOC_AT": at}
    if count is not None:
        fault["ALLOC_COUNT"] = count
    if on:
        fault["ALLOC_ON"] = 1
    return environment(**fault)


def chosen(total):
    """The first ones, where what is opened is opened, and the rest spread out."""
    if FULL or total <= SAMPLE:
        return range(1, total + 1)
    first = range(1, SAMPLE // 2 + 1)
    return [*first, *(round(SAMPLE / 2 + (total - SAMPLE / 2) * (i + 1) / (SAMPLE // 2)) for i in range(SAMPLE // 2))]


class Starved(Daemon):
    """A daemon one of whose allocations fails."""

    def start_at(self, at, count=None, on=False):
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(BIN / "preprocessd"), "--socket", str(self.socket), "--cache", str(self.cache), "--workers", "1"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=failing(at, count, on))
        until = time.monotonic() + 10 * SLOW
        while time.monotonic() < until and self.process.poll() is None:
            if self.socket.exists():
                return True
            time.sleep(0.01)
        return False

    def ended(self, codes=(0, 1)):
        """No signal but SIGTERM, and no exit code but these."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20 * SLOW)
        self.process = None
        assert code in codes, f"exit code {code}:\n{self.log.read_text(errors='replace')[-2000:]}"
        return code


@pytest.fixture(scope="module")
def expected(small):
    with Daemon() as daemon:
        small.add(daemon)
        return daemon.prepctl_ok("digests", "small", "--split", "train", "--batch-size", "8", "--size", "32", "--steps", "4").stdout


def work(daemon, small):
    """What clients of a daemon do; errors are allowed, each must say something."""
    results = [daemon.prepctl("add", *small.arguments()), daemon.prepctl("datasets"), daemon.prepctl("show", "small"),
               daemon.prepctl("digests", "small", "--split", "train", "--batch-size", "8", "--size", "32", "--steps", "4"),
               daemon.prepctl("status", "--json")]
    for result in results:
        assert result.returncode in (0, 1), (result.args, result.returncode, result.stderr)
        assert result.returncode == 0 or len(result.stderr) > 20, (result.args, result.stderr)
    return results


def count_of(path):
    return int(pathlib.Path(path).read_text())


def test_daemon_while_it_starts(tmp_path):
    with_count = tmp_path / "count"
    daemon = Starved(folder=tmp_path)
    assert daemon.start_at(0, with_count)
    daemon.ended((0,))
    total = count_of(with_count)
    assert total > 15
    for at in range(1, total + 1):
        daemon.log.unlink()
        started = daemon.start_at(at)
        code = daemon.ended()
        assert started == (code == 0) and (code == 0 or "memory" in daemon.log.read_text()), (at, daemon.log.read_text())
    assert daemon.start_at(0)
    daemon.ended((0,))


def test_daemon_while_it_works(tmp_path, small, expected):
    daemon = Starved(folder=tmp_path)
    assert daemon.start_at(0, tmp_path / "count")
    work(daemon, small)
    daemon.ended((0,))
    total = count_of(tmp_path / "count")
    assert total > 200
    for at in chosen(total):
        cache = tmp_path / f"cache{at}"
        daemon = Starved(folder=tmp_path, cache=cache)
        daemon.log.unlink()
        if daemon.start_at(at):
            work(daemon, small)
        daemon.ended()
        # a daemon that has its memory back, on what the other left
        with Daemon(folder=tmp_path, cache=cache) as healthy:
            small.add(healthy)
            assert healthy.prepctl_ok("digests", "small", "--split", "train", "--batch-size", "8", "--size", "32", "--steps", "4").stdout == expected


def test_daemon_that_gets_no_more(tmp_path, small, expected):
    """Not one allocation but all from there on."""
    cache = tmp_path / "cache"
    daemon = Starved(folder=tmp_path, cache=cache)
    assert daemon.start_at(0, tmp_path / "count")
    work(daemon, small)
    daemon.ended((0,))
    total = count_of(tmp_path / "count")
    for part in (0.2, 0.5, 0.8):
        daemon = Starved(folder=tmp_path, cache=cache)
        if daemon.start_at(int(total * part), on=True):
            for _ in range(3):
                run("prepctl", "status", *daemon.at(), timeout=20)
        daemon.ended()
    with Daemon(folder=tmp_path, cache=cache) as healthy:
        assert healthy.prepctl_ok("digests", "small", "--split", "train", "--batch-size", "8", "--size", "32", "--steps", "4").stdout == expected


CLIENTS = [
    ("prepctl", "digests", "small", "--split", "train", "--batch-size", "8", "--steps", "2"),
    ("prepctl", "batch", "small", "--split", "val", "--batch-size", "4", "--out", "OUT/batch.safetensors"),
    ("prepctl", "show", "small"),
    ("prepctl", "status", "--json"),
    ("trainer", "--data", "small", "--preset", "tiny", "--batch-size", "8", "--steps", "2", "--threads", "1", "--reg", "adv", "--out", "OUT/run"),
]


@pytest.mark.parametrize("words", CLIENTS, ids=lambda words: " ".join(words[:2]))
def test_clients(words, small, tmp_path):
    def start(at, folder, count=None):
        folder.mkdir()
        return run(words[0], *(word.replace("OUT", str(folder)) for word in words[1:]), *daemon.at(), env=failing(at, count))

    with Daemon(folder=tmp_path) as daemon:
        small.add(daemon)
        whole = start(0, tmp_path / "whole", tmp_path / "count")
        assert whole.returncode == 0, whole.stderr
        for at in chosen(count_of(tmp_path / "count")):
            result = start(at, tmp_path / str(at))
            assert result.returncode in (0, 1), (at, result.returncode, result.stderr[-1000:])
            assert result.returncode == 0 or "memory" in result.stderr, (at, result.stderr[-1000:])
            # nothing half written is left under a final name
            left = [path for path in (tmp_path / str(at)).rglob("*.safetensors") if path.stat().st_size == 0]
            assert left == []
        assert run_ok("prepctl", "status", *daemon.at()).stdout
