"""A training run hit at every single system call with which it changes its folder: killed there, a write torn in two, the
call failing once, the disk full or read-only from there on, Ctrl-C there. Each time --resume (or the same command
again) must end with exactly what the uninterrupted run has.

The default run takes a sample of the calls; FULL=1 takes every one.
"""
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, BUILD, MODE, ROOT, SLOW, daemon, environment, small  # noqa: E402,F401
from runs import checkpoints, differences  # noqa: E402

FULL = os.environ.get("FULL") == "1"
SHIM = BUILD / "tests" / "fault_shim.so"
RUN = ["--data", "small", "--preset", "tiny", "--batch-size", "8", "--threads", "1", "--steps", "3", "--checkpoint-every", "1", "--reg", "dropout",
       "--eval-every", "2", "--warmup", "1", "--seed", "2"]
ENOSPC, EIO, EROFS, EINVAL, EPERM = 28, 5, 30, 22, 1

pytestmark = pytest.mark.skipif(MODE == "asan", reason="a sanitizer wants to be the first library")


@pytest.fixture(scope="module", autouse=True)
def shim():
    subprocess.run(["make", "-s", f"MODE={MODE}", str(SHIM.relative_to(ROOT))], cwd=ROOT, check=True)


def train(daemon, out, resume=False, **fault):
    env = environment()
    if fault:
        env.update({"LD_PRELOAD": str(SHIM), "FAULT_DIR": str(out)}, **{f"FAULT_{key.upper()}": str(value) for key, value in fault.items()})
    return subprocess.run([str(BIN / "trainer"), *RUN, "--out", str(out), *(["--resume"] if resume else []), *map(str, daemon.at())],
                          env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * SLOW, check=False)


@pytest.fixture(scope="module")
def whole(daemon, tmp_path_factory):
    """The run that nothing happens to, and what it calls, in order."""
    folder = tmp_path_factory.mktemp("whole")
    result = train(daemon, folder / "run", log=folder / "log")
    assert result.returncode == 0, result.stderr
    calls = [line.split(" ") for line in (folder / "log").read_text().splitlines()]
    assert [int(call[0]) for call in calls] == list(range(1, len(calls) + 1))
    return folder / "run", [(name, path.removeprefix(str(folder / "run")), to.removeprefix(str(folder / "run"))) for _, name, path, to in calls]


def sample(calls, names=None, count=5):
    """Numbers of calls to hit: all of them, or some that lie apart and are of every kind."""
    numbers = [i + 1 for i, call in enumerate(calls) if names is None or call[0] in names]
    if FULL:
        return numbers
    return sorted({numbers[i * (len(numbers) - 1) // (count - 1)] for i in range(count)})


def goes_on(daemon, out, whole, said):
    result = train(daemon, out, resume=True)
    assert result.returncode == 0, f"{said}\n{result.stderr}"
    found = differences(out, whole)
    assert not found, f"{said}: {found}\n{result.stderr}"


def test_killed_at_every_call(daemon, whole, tmp_path):
    reference, calls = whole
    assert len(calls) > 100
    for number in sample(calls, count=10):
        out = tmp_path / f"{number}"
        assert train(daemon, out, at=number, mode="kill").returncode == -signal.SIGKILL
        goes_on(daemon, out, reference, f"killed at call {number}, {calls[number - 1]}")
        shutil.rmtree(out)


def test_torn_writes(daemon, whole, tmp_path):
    reference, calls = whole
    for number in sample(calls, {"write"}):
        out = tmp_path / f"{number}"
        assert train(daemon, out, at=number, mode="tear").returncode == -signal.SIGKILL
        goes_on(daemon, out, reference, f"write {number} torn, {calls[number - 1]}")
        shutil.rmtree(out)


@pytest.mark.parametrize("errno, on, count", [(ENOSPC, True, 5), (EIO, False, 5), (EROFS, True, 3)], ids=["disk full", "one error", "read-only"])
def test_failing_calls(daemon, whole, tmp_path, errno, on, count):
    """The run either gets over it or ends with a word about it; it goes on when the fault is gone."""
    reference, calls = whole
    for number in sample(calls, count=count):
        out = tmp_path / f"{number}"
        result = train(daemon, out, at=number, mode=errno, **({"on": 1} if on else {}))
        said = f"errno {errno} at call {number}, {calls[number - 1]}\n{result.stderr}"
        assert result.returncode in (0, 1), said
        if result.returncode == 1:
            assert os.strerror(errno) in result.stderr and str(out) in result.stderr, said
        goes_on(daemon, out, reference, said)
        shutil.rmtree(out)


def test_ctrl_c_at_every_call(daemon, whole, tmp_path):
    """130 and a checkpoint, wherever the signal comes; 0 where nothing was left to stop."""
    reference, calls = whole
    for number in sample(calls, count=6):
        out = tmp_path / f"{number}"
        result = train(daemon, out, at=number, mode="int")
        said = f"SIGINT at call {number}, {calls[number - 1]}\n{result.stderr}"
        assert result.returncode in (0, 130), said
        if result.returncode == 130:
            assert f"--resume --out {out}" in result.stderr and checkpoints(out), said
            done = int(re.search(r"stopped after step (\d+)", result.stderr).group(1))
            assert checkpoints(out)[-1] == f"step-{done:010d}", said
        goes_on(daemon, out, reference, said)
        shutil.rmtree(out)


def test_killed_again_while_going_on(daemon, whole, tmp_path):
    """--resume has calls of its own (cutting, tidying); it is killed at each of them as well."""
    reference, calls = whole
    last = max(i + 1 for i, call in enumerate(calls) if call[0] == "rename" and "checkpoints/step" in call[2])
    assert train(daemon, tmp_path / "first", at=last + 4, mode="kill").returncode == -signal.SIGKILL
    shutil.copytree(tmp_path / "first", tmp_path / "counted")
    assert train(daemon, tmp_path / "counted", resume=True, log=tmp_path / "log").returncode == 0
    count = len((tmp_path / "log").read_text().splitlines())
    assert count > 10
    for number in range(1, count + 1) if FULL else sorted({1 + i * (count - 1) // 4 for i in range(5)}):
        out = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "first", out)
        assert train(daemon, out, resume=True, at=number, mode="kill").returncode == -signal.SIGKILL
        goes_on(daemon, out, reference, f"killed at call {number} of going on")
        shutil.rmtree(out)


def test_no_exchange_and_no_links(daemon, whole, tmp_path):
    """A file system that can neither exchange names nor make hard links; a validation makes a step's checkpoint be written twice."""
    reference, calls = whole
    out = tmp_path / "links"
    assert train(daemon, out, call="link", at=1, mode=EPERM, on=1).returncode == 0
    assert not differences(out, reference)
    # SIGINT in the validation after the last step: its checkpoint is written, and written again with the validation.
    fsyncs = [i + 1 for i, call in enumerate(calls) if call[0] == "write" and call[1] == "/metrics.jsonl"]
    first = tmp_path / "first"
    assert train(daemon, first, at=fsyncs[-2], mode="int").returncode == 130
    assert checkpoints(first)[-1] == "step-0000000003"
    out = tmp_path / "exchange"
    shutil.copytree(first, out)
    assert train(daemon, out, resume=True, call="renameat2", at=1, mode=EINVAL, on=1, log=tmp_path / "log").returncode == 0
    assert (tmp_path / "log").read_text().count("renameat2") == 1
    assert not differences(out, reference)


def test_order_of_syncs(whole):
    """What a rename makes visible is on disk before it, and what it replaces is removed only when the rename is."""
    calls = whole[1]
    placed = [i for i, call in enumerate(calls) if call[0] == "rename" and re.fullmatch(r"/checkpoints/step-\d+", call[2])]
    assert len(placed) == 3
    for at in placed:
        hidden = calls[at][1]
        begun = next(i for i, call in enumerate(calls) if call[0] == "mkdir" and call[1] == hidden)
        before = calls[begun:at]
        for name in ("model", "optimizer"):
            written = max(i for i, call in enumerate(before) if call[0] == "write" and f"/{name}.safetensors" in call[1])
            synced = next(i for i, call in enumerate(before) if i > written and call[0] == "fsync" and f"/{name}.safetensors" in call[1])
            renamed = next(i for i, call in enumerate(before) if call[0] == "rename" and call[2] == f"{hidden}/{name}.safetensors")
            folder = next(i for i, call in enumerate(before) if i > renamed and call[:2] == ("fsync", hidden))
            assert written < synced < renamed < folder
        last_line = max(i for i, call in enumerate(calls[:at]) if call[:2] == ("write", "/metrics.jsonl"))
        assert ("fsync", "/metrics.jsonl") in [call[:2] for call in calls[last_line:begun]]
        assert calls[at + 1][:2] == ("fsync", "/checkpoints")
    removed = [i for i, call in enumerate(calls) if call[0] == "unlink" and call[1].startswith("/checkpoints/step-")]
    assert removed and calls[removed[0]][1].startswith("/checkpoints/step-0000000001/") and removed[0] > placed[2] + 1
    for name in ("run.json", "last.safetensors", "best.safetensors"):
        for at in (i for i, call in enumerate(calls) if call[0] == "rename" and call[2] == f"/{name}"):
            assert ("fsync", "") in [call[:2] for call in calls[at:at + 2]], name
