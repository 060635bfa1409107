"""The daemon killed again and again at random moments, with a reader and an add at work.

KILLS (15) says how often; the seed is printed, and KILL_SEED repeats a run.
"""
import os
import random
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import ROOT, SLOW, Daemon, SmallData  # noqa: E402
from serving import start  # noqa: E402

KILLS = int(os.environ.get("KILLS", "15"))
SEED = int(os.environ.get("KILL_SEED", str(int(time.time()))))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallData(tmp_path_factory.mktemp("kill"), train=200, val=9)


def test_kill_loop(small):
    print(f"KILL_SEED={SEED}")
    moments = random.Random(SEED)
    arguments = ["digests", "small", "--size", 200, "--batch-size", 10, "--steps", 400, "--seed", 4]
    with Daemon() as daemon:
        small.add(daemon)
        want = daemon.prepctl_ok(*arguments).stdout
    kills = rounds = 0
    with Daemon() as daemon:
        small.add(daemon)
        while kills < KILLS:
            reader = start("prepctl", *arguments, *daemon.at())
            adder = start("prepctl", "add", *small.arguments("other"), "--size", 300 + rounds, "-q", *daemon.at())
            for _ in range(4):
                time.sleep(moments.uniform(0.02, 0.4))
                if reader.poll() is None:
                    daemon.kill()
                    daemon.start()
                    kills += 1
            out, err = reader.communicate(timeout=300 * SLOW)
            adder.communicate(timeout=300 * SLOW)
            assert reader.returncode == 0, err
            assert out == want, f"KILL_SEED={SEED}: other digests after {kills} kills"
            rounds += 1
        names = {line.split()[0] for line in daemon.prepctl_ok("datasets").stdout.splitlines()[1:]}
        assert "small" in names
        assert daemon.stop() == 0
        assert sorted(os.listdir(daemon.folder)) == ["cache", "daemon.log"]


def test_everything():
    """tools/kill-loop: trainer, daemon, prepctl or all of them killed, or stopped, at random moments; TRAINER_KILLS (14) says how often."""
    kills = int(os.environ.get("TRAINER_KILLS", "200" if os.environ.get("FULL") == "1" else "14"))
    result = subprocess.run([sys.executable, str(ROOT / "tools" / "kill-loop"), "--kills", str(kills), "--minutes", str(30 * SLOW), "--seed", str(SEED)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout
    assert f"{kills} kills" in result.stdout
