"""The same bits: runs that repeat, and runs that were killed, stopped, damaged or moved and go on as if nothing had happened."""
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, Daemon, daemon, environment, run, run_ok, small  # noqa: E402,F401
from runs import checkpoints, header, metrics, record, values  # noqa: E402
from training import arguments, lines, same_outcome, start, train, train_ok, wait_for_lines  # noqa: E402

FULL = os.environ.get("FULL") == "1"

LONG = ["--reg", "dropout+l2+adv", "--epochs", "6", "--checkpoint-every", "2", "--seed", "5"]


@pytest.fixture(scope="module")
def uninterrupted(daemon, tmp_path_factory):
    return train_ok(daemon, tmp_path_factory.mktemp("long") / "run", *LONG)


def test_repeats_bit_for_bit(daemon, uninterrupted, tmp_path):
    same_outcome(train_ok(daemon, tmp_path / "again", *LONG), uninterrupted)
    other = train_ok(daemon, tmp_path / "other", *LONG[:-1], "6")
    assert lines(other, "train")[0]["loss"] != lines(uninterrupted, "train")[0]["loss"]


REGULARIZERS = ["dropout=0.2+depth+smooth", "mixup+l2:mode=coupled", "rdrop", "sam", "adv:method=freelb,target=text+feat"]
if FULL:
    REGULARIZERS += ["none", "noise", "dropout", "l2", "smooth", "mixup", "depth", "adv:target=text+feat,norm=linf", "adv:method=pgd,target=text+fused",
                     "adv:method=villa", "adv:method=smart", "adv:target=pixel"]


@pytest.mark.parametrize("reg", REGULARIZERS)
def test_same_bits_with_any_regularizer(daemon, tmp_path, reg):
    """Twice the same, with one thread and with two, and once more killed in between."""
    more = ["--reg", reg, "--steps", "3", "--val-split", "none", "--checkpoint-every", "1"]
    for threads in (1, 2):
        whole, again = (train_ok(daemon, tmp_path / f"{name}-{threads}", *more, "--threads", threads) for name in ("whole", "again"))
        same_outcome(again, whole)
        if threads == 1:
            out = tmp_path / "killed"
            process = start(daemon, out, *more, "--threads", 1)
            wait_for_lines(process, out, 2)
            process.kill()
            process.wait()
            same_outcome(train_ok(daemon, out, "--resume", *more, "--threads", 1), whole)


def test_resume_after_sigkill(daemon, uninterrupted, tmp_path):
    """Killed again and again, at other places each time, also before the first checkpoint."""
    out = tmp_path / "run"
    for kill_at in (1, 4, 9, 14, 18):
        process = start(daemon, out, *LONG, *(["--resume"] if out.exists() else []))
        wait_for_lines(process, out, kill_at)
        process.kill()
        process.wait()
    train_ok(daemon, out, "--resume", *LONG)
    same_outcome(out, uninterrupted)


def test_resume_takes_everything_from_the_run(daemon, uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(daemon, out, *LONG)
    wait_for_lines(process, out, 5)
    process.kill()
    process.wait()
    run_ok("trainer", "--resume", "--out", out, *daemon.at())
    same_outcome(out, uninterrupted)
    before = (out / "metrics.jsonl").read_bytes()
    again = run_ok("trainer", "--resume", "--out", out, *daemon.at())  # nothing is left to do
    assert (out / "metrics.jsonl").read_bytes() == before
    assert "is complete" in again.stderr and "18 steps" in again.stdout and "val accuracy" in again.stdout, again
    same_outcome(out, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_ctrl_c_writes_a_checkpoint(daemon, uninterrupted, tmp_path, number):
    out = tmp_path / "run"
    arguments = [word if word != "2" else "1000" for word in LONG]
    process = start(daemon, out, *arguments)
    wait_for_lines(process, out, 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=30 * SLOW)
    assert process.returncode == 130, said
    done = len(lines(out, "train"))
    assert f"--resume --out {out}" in said and 2 <= done < 18
    assert record(out)["state"] == "interrupted" and record(out)["result"]["steps"] == done
    assert list((out / "checkpoints").iterdir())[0].name.endswith(str(done)) or len(list((out / "checkpoints").iterdir())) == 2
    run_ok("trainer", "--resume", "--out", out, *daemon.at())
    assert metrics(out) == metrics(uninterrupted)
    assert values(out / "last.safetensors") == values(uninterrupted / "last.safetensors")


def test_the_same_signal_said_twice_is_one(daemon, tmp_path):
    """As timeout(1) does, to the process and to its group: the checkpoint is written all the same."""
    process = start(daemon, tmp_path / "run", "--steps", "100000", "--batch-size", "24")
    wait_for_lines(process, tmp_path / "run", 1)
    for _ in range(20):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    _, said = process.communicate(timeout=30 * SLOW)
    assert process.returncode == 130 and "--resume" in said, said


def test_a_later_signal_ends_at_once(daemon, tmp_path):
    """Here one that cannot even say that it stops: nobody reads its standard error, and the pipe is full."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, bytes(1))
        os.set_blocking(writing, True)
        process = subprocess.Popen([str(BIN / "trainer"), "--data", "small", "--reg", "none", "--preset", "tiny", "--steps", "100000", "--out",
                                    str(tmp_path / "run"), *map(str, daemon.at())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=writing, env=environment())
        until = time.monotonic() + 20 * SLOW
        while not (tmp_path / "run").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * SLOW) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def test_both_killed(small, uninterrupted, tmp_path):
    out = tmp_path / "run"
    with Daemon() as own:
        small.add(own)
        for kill_at in (5, 11):
            process = start(own, out, *LONG, *(["--resume"] if out.exists() else []))
            wait_for_lines(process, out, kill_at)
            own.kill()
            process.kill()
            process.wait()
            own.start()
        train_ok(own, out, "--resume", *LONG)
    same_outcome(out, uninterrupted)


def test_daemon_killed_and_started_again(small, uninterrupted, tmp_path):
    with Daemon() as own:
        small.add(own)
        process = start(own, tmp_path / "run", *LONG)
        for kill_at in (3, 8):
            wait_for_lines(process, tmp_path / "run", kill_at)
            own.kill()
            time.sleep(0.3)
            own.start()
        _, said = process.communicate(timeout=120 * SLOW)
        assert process.returncode == 0, said
    same_outcome(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("ended", ["nobody", "daemon", "trainer"])
def test_the_data_set_gets_another_vocabulary(small, uninterrupted, tmp_path, ended):
    """A run that names none goes on with the one that it began with: in validation, where its stream is opened anew, and resumed."""
    out, other, words = tmp_path / "run", tmp_path / "other-vocab.txt", small.vocab.read_text().splitlines()
    other.write_text("\n".join([*words[:5], *reversed(words[5:]), *(f"more{i}" for i in range(1000))]))
    with Daemon() as own:
        small.add(own)
        process = start(own, out, *LONG)
        wait_for_lines(process, out, 3)
        process.send_signal(signal.SIGSTOP)
        own.prepctl_ok("add", *[other if word == small.vocab else word for word in small.arguments()])
        assert own.prepctl_ok("show", "small").stdout.count("other-vocab.txt") == 1
        if ended == "daemon":
            own.kill()
            own.start()
        if ended == "trainer":
            process.kill()
            process.communicate()
            # Which that is may be said by name; the data set's other one is another run's.
            said = train(own, out, "--resume", "--vocab", other.name)
            assert said.returncode == 1 and "--vocab other-vocab.txt" in said.stderr, said.stderr
            process = start(own, out, "--resume", "--vocab", small.vocab.name, *LONG)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=120 * SLOW)
        assert process.returncode == 0, said
    same_outcome(out, uninterrupted)


def test_the_vocabulary_has_another_name_elsewhere(small, uninterrupted, tmp_path):
    out, renamed = tmp_path / "run", tmp_path / "renamed.txt"
    shutil.copy(small.vocab, renamed)
    with Daemon() as own:
        small.add(own)
        stopped(own, out)
    with Daemon() as own:
        own.prepctl_ok("add", *[renamed if word == small.vocab else word for word in small.arguments()])
        train_ok(own, out, "--resume", *LONG)
    assert values(out / "last.safetensors") == values(uninterrupted / "last.safetensors")


def test_damaged_checkpoint_falls_back(daemon, uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(daemon, out, *LONG)
    wait_for_lines(process, out, 12)
    process.kill()
    process.wait()
    newest = max((out / "checkpoints").glob("step-*")) / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.unlink()  # its other names stay whole
    newest.write_bytes(content)
    result = train(daemon, out, "--resume", *LONG)
    assert result.returncode == 0, result.stderr
    assert str(newest.parent) in result.stderr and "damaged" in result.stderr
    same_outcome(out, uninterrupted)


def stopped(daemon, out, at=11):
    """A run killed after `at` steps, with checkpoints on both sides of a validation."""
    process = start(daemon, out, *LONG)
    wait_for_lines(process, out, at)
    process.kill()
    process.wait()
    return out


def test_checkpoints_damaged_anywhere(daemon, uninterrupted, tmp_path):
    """Either file of the newest checkpoint, one bit turned or cut short anywhere: the one before is used, and stays until there is another one."""
    draw = random.Random(1)
    whole = stopped(daemon, tmp_path / "whole")
    for case in range(40 if FULL else 3):
        out = tmp_path / f"{case}"
        shutil.copytree(whole, out)
        newest = checkpoints(out)[-1]
        victim = out / "checkpoints" / newest / draw.choice(["model.safetensors", "optimizer.safetensors"])
        content = bytearray(victim.read_bytes())
        at = draw.randrange(len(content))
        if case % 2:
            del content[at:]
        else:
            content[at] ^= 1 << draw.randrange(8)
        victim.unlink()
        victim.write_bytes(content)
        result = train(daemon, out, "--resume", *LONG)
        assert result.returncode == 0, (case, at, result.stderr)
        step = int(newest.removeprefix("step-"))
        if f"going on at step {step} " not in result.stderr:  # a bit in the blanks that pad a header changes nothing
            assert f"{newest}" in result.stderr and "using the checkpoint before it" in result.stderr, result.stderr
        same_outcome(out, uninterrupted)
        shutil.rmtree(out)


def test_optimizer_of_another_step(daemon, uninterrupted, tmp_path):
    out = stopped(daemon, tmp_path / "run")
    older, newer = checkpoints(out)
    shutil.copy(out / "checkpoints" / older / "optimizer.safetensors", out / "checkpoints" / newer / "optimizer.safetensors")
    result = train(daemon, out, "--resume", *LONG)
    assert result.returncode == 0 and newer in result.stderr and "not of the same step" in result.stderr, result.stderr
    same_outcome(out, uninterrupted)


def test_every_checkpoint_damaged(daemon, tmp_path):
    out = stopped(daemon, tmp_path / "run")
    for name in checkpoints(out):
        (out / "checkpoints" / name / "optimizer.safetensors").unlink()
    before = sorted(out.rglob("*"))
    result = train(daemon, out, "--resume", *LONG)
    assert result.returncode == 1 and "every checkpoint is damaged" in result.stderr and "--out" in result.stderr, result.stderr
    assert sorted(out.rglob("*")) == before


def test_links_to_weights_are_repaired(daemon, uninterrupted, tmp_path):
    out = stopped(daemon, tmp_path / "run")
    for break_it in (lambda path: (path.unlink(), path.write_bytes(b"half")), lambda path: (path.unlink(), path.symlink_to("/nowhere"))):
        copy = tmp_path / "copy"
        shutil.copytree(out, copy)
        best = int(header(out / "best.safetensors")["__metadata__"]["step"])
        for name in ("last.safetensors", "best.safetensors"):
            break_it(copy / name)
        result = train(daemon, copy, "--resume", *LONG)
        assert result.returncode == 0, result.stderr
        if f"step-{best:010d}" in checkpoints(out):
            assert "best.safetensors" not in result.stderr
        else:
            assert "best.safetensors is missing or damaged" in result.stderr
        if record(uninterrupted)["result"]["best"]["steps"] >= 12:
            same_outcome(copy, uninterrupted)
        shutil.rmtree(copy)


def test_run_record_lost(daemon, uninterrupted, tmp_path):
    """The checkpoint says what the run was configured to do, too."""
    out = stopped(daemon, tmp_path / "run")
    for damage in (lambda path: path.unlink(), lambda path: path.write_text('{"program": "trai'))[0 if FULL else 1:]:
        copy = tmp_path / "copy"
        shutil.copytree(out, copy)
        damage(copy / "run.json")
        result = run("trainer", "--resume", "--out", copy, *daemon.at())
        assert result.returncode == 0 and "run.json is missing or damaged" in result.stderr, result.stderr
        same_outcome(copy, uninterrupted)
        shutil.rmtree(copy)


def test_metrics_damaged(daemon, uninterrupted, tmp_path):
    """What can be read is kept, what is missing is said, and the steps to come are those of the whole run."""
    out = stopped(daemon, tmp_path / "run")
    done = int(checkpoints(out)[-1].removeprefix("step-"))
    expected = metrics(uninterrupted)
    for case, damage in enumerate((lambda text: text[:-20], lambda text: text + '{"step": ', lambda text: text.replace('{"step": 2, "epoch": 0, "split": "train"', '{"st'), lambda text: "")):
        copy = tmp_path / "copy"
        shutil.copytree(out, copy)
        path = copy / "metrics.jsonl"
        path.write_text(damage(path.read_text()))
        result = train(daemon, copy, "--resume", *LONG)
        assert result.returncode == 0, result.stderr
        if case < 2 and "missing or damaged" not in result.stderr:
            same_outcome(copy, uninterrupted)
        elif case == 2:
            assert f"1 of the {done} steps" in result.stderr, result.stderr
            gone = next(i for i, line in enumerate(expected) if line["step"] == 2 and line["split"] == "train")
            assert metrics(copy) == expected[:gone] + expected[gone + 1:]
        else:
            assert f"of the {done} steps" in result.stderr, result.stderr
            assert metrics(copy)[-4:] == expected[-4:]
        assert (copy / "last.safetensors").read_bytes() == (uninterrupted / "last.safetensors").read_bytes()
        shutil.rmtree(copy)


def test_copied_elsewhere(daemon, uninterrupted, tmp_path):
    """The folder names no place: a copy goes on like the original, under another name and from another working folder."""
    out = stopped(daemon, tmp_path / "run")
    (tmp_path / "other" / "place").mkdir(parents=True)
    subprocess.run(["cp", "-r", str(out), str(tmp_path / "other" / "place" / "copy")], check=True)
    shutil.rmtree(out)
    run_ok("trainer", "--resume", "--out", "copy", *daemon.at(), cwd=tmp_path / "other" / "place")
    same_outcome(tmp_path / "other" / "place" / "copy", uninterrupted)


def test_read_only_folder(daemon, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root")
    try:
        stopped(daemon, disk / "run")
        before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for out, words in ((disk / "run", ["--resume"]), (disk / "new", [])):
            result = train(daemon, out, *words, *LONG)
            assert result.returncode == 1 and "Read-only file system" in result.stderr and str(out) in result.stderr, result.stderr
        assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_closed_terminal(daemon, uninterrupted, tmp_path):
    """SIGHUP is like Ctrl-C; under nohup nobody notices it."""
    out = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    process = start(daemon, out, *LONG)
    signal.signal(signal.SIGHUP, before)
    wait_for_lines(process, out, 3)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=30 * SLOW)
    assert process.returncode == 130 and "--resume" in said, said
    process = subprocess.Popen([str(BIN / "trainer"), "--resume", "--out", str(out), *map(str, daemon.at())], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for_lines(process, out, 8)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 0, said
    same_outcome(out, uninterrupted)


def test_accumulation_resumes_too(daemon, tmp_path):
    more = ["--accumulate", "2", "--epochs", "4", "--checkpoint-every", "1", "--optimizer", "sgd", "--schedule", "linear"]
    whole, parts = train_ok(daemon, tmp_path / "whole", *more), tmp_path / "parts"
    assert [line["samples"] for line in lines(whole, "train")] == [16, 8] * 4  # three batches an epoch: two steps
    for kill_at in (2, 5):
        process = start(daemon, parts, *more, *(["--resume"] if parts.exists() else []))
        wait_for_lines(process, parts, kill_at)
        process.kill()
        process.wait()
    same_outcome(train_ok(daemon, parts, "--resume", *more), whole)


def test_full_disk(daemon, uninterrupted, tmp_path):
    """The run stops with a word about it, and goes on from the checkpoint before once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        result = train(daemon, disk / "run", *LONG)
        assert result.returncode == 1 and "No space left" in result.stderr and "--resume" in result.stderr, result.stderr
        assert not list((disk / "run" / "checkpoints").glob(".new*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        train_ok(daemon, disk / "run", "--resume", *LONG)
        same_outcome(disk / "run", uninterrupted)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
