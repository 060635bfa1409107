"""The daemon's cache hit at system calls: killed there, a write torn, the disk full or failing; source files that cannot be
read; no descriptors left. What was acknowledged stays, what is delivered is right, and a later daemon serves the same batches.

The default run takes a sample of the calls; FULL=1 takes every one.
"""
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, BUILD, MODE, ROOT, SLOW, Daemon, environment, small  # noqa: E402,F401

FULL = os.environ.get("FULL") == "1"
SHIM = BUILD / "tests" / "fault_shim.so"
READ = ["--split", "train", "--batch-size", "8", "--steps", "4"]
ENOSPC, EIO, ENOMEM = 28, 5, 12

pytestmark = pytest.mark.skipif(MODE == "asan", reason="a sanitizer wants to be the first library")


@pytest.fixture(scope="module", autouse=True)
def shim():
    subprocess.run(["make", "-s", f"MODE={MODE}", str(SHIM.relative_to(ROOT))], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def expected(small):
    """Digests at the size that add prepares and at another."""
    with Daemon() as daemon:
        small.add(daemon)
        return {size: daemon.prepctl_ok("digests", "small", *READ, "--size", str(size)).stdout for size in (64, 40)}


class Faulty(Daemon):
    """A daemon one of whose calls below a folder is hit."""

    def start_with(self, folder, limit=None, **fault):
        self.cache.mkdir(parents=True, exist_ok=True)
        env = environment(LD_PRELOAD=SHIM, FAULT_DIR=folder, **{f"FAULT_{key.upper()}": value for key, value in fault.items()})
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(BIN / "preprocessd"), "--socket", str(self.socket), "--cache", str(self.cache), "--workers", "1"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))))
        until = time.monotonic() + 10 * SLOW
        while time.monotonic() < until and self.process.poll() is None and not self.socket.exists():
            time.sleep(0.01)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20 * SLOW)
        self.process = None
        return code


def work(daemon, small):
    return [daemon.prepctl("add", *small.arguments()), daemon.prepctl("digests", "small", *READ, "--size", "40"), daemon.prepctl("show", "small")]


@pytest.fixture(scope="module")
def calls(small, tmp_path_factory):
    """Names of the calls below the cache folder while a daemon starts, works and ends."""
    folder = tmp_path_factory.mktemp("whole")
    daemon = Faulty(folder=folder)
    daemon.start_with(daemon.cache, log=folder / "calls")
    assert all(result.returncode == 0 for result in work(daemon, small))
    assert daemon.end() == 0
    return [line.split(" ")[1] for line in (folder / "calls").read_text().splitlines()]


def sample(calls, count):
    numbers = range(1, len(calls) + 1)
    return numbers if FULL else sorted({numbers[i * (len(numbers) - 1) // (count - 1)] for i in range(count)})


def serves_the_same(folder, cache, small, expected, said):
    with Daemon(folder=folder, cache=cache) as healthy:
        known = healthy.prepctl("show", "small").returncode == 0
        if known:  # acknowledged or not, what is registered must be whole
            assert healthy.prepctl_ok("digests", "small", *READ, "--size", "64").stdout == expected[64], said
        small.add(healthy)
        for size, digests in expected.items():
            assert healthy.prepctl_ok("digests", "small", *READ, "--size", str(size)).stdout == digests, said
    return known


@pytest.mark.parametrize("mode", ["kill", "tear"])
def test_killed_at_every_call(mode, small, expected, calls, tmp_path):
    assert len(calls) > 15 and {"pwrite", "fdatasync"} <= set(calls), calls
    for at in sample(calls, 9):
        daemon = Faulty(folder=tmp_path, cache=tmp_path / f"cache{at}")
        daemon.start_with(daemon.cache, at=at, mode=mode)
        acknowledged = daemon.process.poll() is None and daemon.prepctl("add", *small.arguments()).returncode == 0
        if daemon.process.poll() is None:
            daemon.prepctl("digests", "small", *READ, "--size", "40", timeout=5) if acknowledged else None
        daemon.end()
        known = serves_the_same(tmp_path, daemon.cache, small, expected, f"{mode} at call {at}, {calls[at - 1]}")
        assert known or not acknowledged, f"{mode} at call {at}: the data set was acknowledged and is gone"


@pytest.mark.parametrize("errno, on", [(ENOSPC, True), (EIO, False), (EIO, True)], ids=["disk full", "one error", "failing disk"])
def test_failing_disk(errno, on, small, expected, calls, tmp_path):
    """Errors that name the reason; batches that can be made are right; nothing of this lasts."""
    for at in sample(calls, 9):
        daemon = Faulty(folder=tmp_path, cache=tmp_path / f"cache{at}")
        daemon.log.unlink(missing_ok=True)
        daemon.start_with(daemon.cache, at=at, mode=errno, **({"on": 1} if on else {}))
        said = f"errno {errno} at call {at}, {calls[at - 1]}"
        if daemon.process.poll() is None:
            results = work(daemon, small)
            for result in results:
                assert result.returncode in (0, 1), f"{said}\n{result.stderr}"
                assert result.returncode == 0 or result.stderr.strip(), said
            if results[1].returncode == 0:
                assert results[1].stdout == expected[40], said
        code = daemon.end()
        assert code in (0, 1), f"{said}: exit code {code}\n{daemon.log.read_text()}"
        if code == 1:
            assert os.strerror(errno) in daemon.log.read_text() or "space" in daemon.log.read_text(), daemon.log.read_text()
        serves_the_same(tmp_path, daemon.cache, small, expected, said)


def test_source_that_cannot_be_read(small, expected, tmp_path):
    """EIO on a picture: not the picture's fault to be remembered, but a reason to stop; later all is well."""
    for at in (1, 7, 20):
        daemon = Faulty(folder=tmp_path, cache=tmp_path / f"cache{at}")
        daemon.start_with(small.images, call="read", at=at, mode=EIO)
        result = daemon.prepctl("add", *small.arguments())
        assert result.returncode == 1 and os.strerror(EIO) in result.stderr and ".jpg" in result.stderr, result.stderr
        small.add(daemon)  # the error came once
        assert daemon.prepctl_ok("digests", "small", *READ, "--size", "64").stdout == expected[64]
        assert daemon.end() == 0


def test_no_memory_for_a_batch(small, expected, tmp_path):
    """Pages of a batch that the kernel does not give, at its head or at a picture: this batch fails and says why, the next one is right."""
    daemon = Faulty(folder=tmp_path, cache=tmp_path / "cache")
    daemon.start_with(tmp_path / "nothing", call="madvise", log=tmp_path / "calls")
    small.add(daemon)
    read = "digests", "small", *READ, "--size", "64"
    assert all(daemon.prepctl_ok(*read).stdout == expected[64] for _ in range(8)) and daemon.end() == 0  # some have memory that is ready
    sizes = [int(line.split()[2]) for line in (tmp_path / "calls").read_text().splitlines()]
    picture = 64 * 64 * 3 * 4
    assert max(sizes) < 2 * picture, "a picture's pages, and what lies in front of all pictures, are asked for one after the other"
    heads = [number for number, size in enumerate(sizes, start=1) if size < picture]
    pictures = [number for number, size in enumerate(sizes, start=1) if size >= picture]
    assert heads and pictures, sizes
    for at in (*heads[:2], pictures[0], pictures[3], pictures[10]):
        daemon = Faulty(folder=tmp_path, cache=tmp_path / f"cache{at}")
        daemon.start_with(tmp_path / "nothing", call="madvise", at=at, mode=ENOMEM)
        small.add(daemon)
        results = [daemon.prepctl(*read) for _ in range(8)]
        failed = [result for result in results if result.returncode != 0]
        assert len(failed) == 1 and "no memory for a batch" in failed[0].stderr, failed
        assert all(result.stdout == expected[64] for result in results if result.returncode == 0)
        assert daemon.end() == 0


def test_no_descriptors_left(small, expected, tmp_path):
    """Clients beyond what the process may open wait or hear why; those that are there go on, and afterwards all is as before."""
    daemon = Faulty(folder=tmp_path)
    daemon.start_with(tmp_path / "nothing", limit=32)
    small.add(daemon)
    crowd = []
    for _ in range(60):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(2)
        client.connect(str(daemon.socket))
        crowd.append(client)
    late = subprocess.Popen([str(BIN / "prepctl"), "digests", "small", *READ, "--size", "64", *map(str, daemon.at())], env=environment(),
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    for client in crowd:
        client.close()
    out, err = late.communicate(timeout=30 * SLOW)
    assert (late.returncode == 0 and out == expected[64]) or (late.returncode == 1 and len(err) > 20), err
    until = time.monotonic() + 15 * SLOW
    while time.monotonic() < until and daemon.prepctl("digests", "small", *READ, "--size", "64").stdout != expected[64]:
        time.sleep(0.1)
    assert daemon.prepctl_ok("digests", "small", *READ, "--size", "40").stdout == expected[40]
    assert daemon.end() == 0
