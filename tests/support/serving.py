"""What the tests of a daemon share: one of its own for each test, clients that run beside it, and waiting for what they bring about."""
import pathlib
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BIN, SLOW, Daemon, SmallData, environment  # noqa: E402


def start(*words, **options):
    return subprocess.Popen([str(BIN / words[0]), *map(str, words[1:])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment(), **options)


def wait_until(true, what, seconds=20.0):
    until = time.monotonic() + seconds * SLOW
    while not true():
        assert time.monotonic() < until, f"waited in vain for: {what}"
        time.sleep(0.02)


def digests(daemon, *arguments):
    return daemon.prepctl_ok("digests", *arguments).stdout.splitlines()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallData(tmp_path_factory.mktemp("small"), train=48, val=9)


@pytest.fixture
def daemon(small):
    with Daemon() as running:
        yield running
