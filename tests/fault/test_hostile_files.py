"""Files that are none, that never end, that lead in circles or change while they are read, as pictures, captions and vocabularies:
an error that names them, soon; the daemon serves on."""
import contextlib
import json
import os
import pathlib
import pty
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import wire  # noqa: E402
from harness import BIN, SLOW, Daemon, SmallData, environment, write_csv, write_pictures, write_vocab  # noqa: E402

GIB = 1 << 30


@pytest.fixture(scope="module")
def daemon():
    with Daemon() as running:
        yield running


def fifo(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def loop(path):
    path.symlink_to(path)


def long_chain(path):
    """More links than the system follows."""
    for i in range(60):
        path.with_name(f"{path.name}{i}").symlink_to(path.with_name(f"{path.name}{i + 1}"))
    path.symlink_to(path.with_name(path.name + "0"))


def bound(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(here)


def empty(path):
    path.touch()


def gone(path):
    path.symlink_to("/nonexistent")


def device(of):
    return lambda path: path.symlink_to(of)


THINGS = {"fifo": fifo, "folder": folder, "loop": loop, "long chain": long_chain, "socket": bound, "empty": empty, "dangling": gone,
          **{of: device(of) for of in ("/dev/zero", "/dev/null", "/dev/full", "/dev/tty", "/proc/self/mem", "/proc/kmsg", "/proc/self/status",
                                       "/sys/kernel")}}


def refused(daemon, *words, names):
    begun = time.monotonic()
    result = daemon.prepctl("add", *words, timeout=30)
    assert result.returncode == 1 and str(names) in result.stderr, result.stderr
    assert time.monotonic() - begun < 10 * SLOW
    assert daemon.prepctl("status").returncode == 0 and daemon.process.poll() is None
    return result.stderr


@pytest.mark.parametrize("name", THINGS)
def test_things_that_are_no_files(name, daemon, tmp_path):
    rows = write_pictures(tmp_path / "images", 3)
    captions, vocab = write_csv(tmp_path / "c.csv", rows), write_vocab(tmp_path / "v.txt")
    usual = ["x", "--format", "csv", "--images", tmp_path / "images", "--size", 32]
    THINGS[name](tmp_path / "odd")
    for form in ("csv", "jsonl", "coco", "karpathy"):
        refused(daemon, "x", "--format", form, "--images", tmp_path / "images", "--captions", tmp_path / "odd", names="odd")
    if name not in ("folder", "/sys/kernel"):
        refused(daemon, "x", "--format", "csv", "--images", tmp_path / "odd", "--captions", captions, names="odd")
    refused(daemon, *usual, "--captions", captions, "--vocab", tmp_path / "odd", names="odd")
    os.rename(tmp_path / "odd", tmp_path / "images" / "odd.jpg") if name != "socket" else bound(tmp_path / "images" / "odd.jpg")
    listed = write_csv(tmp_path / "d.csv", [*rows, ("odd.jpg", "a thing", "red")])
    refused(daemon, *usual, "--captions", listed, names="odd.jpg")
    if name in ("/proc/self/mem", "/proc/kmsg"):
        return  # a read error: as from a bad disk, it stops everything and leaves nothing out
    skipped = daemon.prepctl_ok("add", *usual, "--captions", listed, "--vocab", vocab, "--on-bad", "skip").stdout
    assert "3 pictures, 3 captions" in skipped
    assert "odd.jpg" in daemon.prepctl_ok("failures", "x").stdout
    daemon.prepctl_ok("rm", "x")


@pytest.mark.parametrize("form", ["csv", "jsonl", "coco", "karpathy"])
def test_zeros(form, daemon, tmp_path):
    """A large sparse file: no caption file, and no reason to be slow or to keep the memory."""
    write_pictures(tmp_path / "images", 3)
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(GIB // 2)
    said = refused(daemon, "x", "--format", form, "--images", tmp_path / "images", "--captions", tmp_path / "zeros", names="zeros")
    assert len(said) < 1000
    status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 512 * 1024 * SLOW


def test_too_large(daemon, tmp_path):
    """Refused by their size, before anything of them is read."""
    rows = write_pictures(tmp_path / "images", 3)
    captions = write_csv(tmp_path / "c.csv", rows)
    for name, size in (("captions", 1 << 40), ("vocab", 65 << 20), ("picture.jpg", 513 << 20)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    usual = ["x", "--format", "csv", "--images", tmp_path / "images"]
    assert "limit" in refused(daemon, *usual, "--captions", tmp_path / "captions", names="captions")
    assert "at most" in (said := refused(daemon, *usual, "--captions", captions, "--vocab", tmp_path / "vocab", names="vocab")) or "limit" in said
    os.rename(tmp_path / "picture.jpg", tmp_path / "images" / "picture.jpg")
    listed = write_csv(tmp_path / "d.csv", [*rows, ("picture.jpg", "a thing", "red")])
    assert "limit" in refused(daemon, *usual, "--captions", listed, names="picture.jpg")


@pytest.mark.parametrize("size, name", enumerate(["fifo", "folder", "loop", "/dev/zero", "socket", "dangling", "empty"], 40))
def test_a_source_that_became_something_else(size, name, daemon, tmp_path):
    """Added as a picture; when it is needed at another size it is something else."""
    data = SmallData(tmp_path, train=4, val=2)
    daemon.prepctl_ok("add", *data.arguments("changing"), "--replace")
    victim = data.images / data.rows[1][0]
    kept = victim.read_bytes()
    victim.unlink()
    THINGS[name](victim)
    begun = time.monotonic()
    result = daemon.prepctl("digests", "changing", "--batch-size", 4, "--size", size, timeout=30)
    assert result.returncode == 1 and str(victim) in result.stderr and time.monotonic() - begun < 10 * SLOW, result.stderr
    if victim.is_dir():
        victim.rmdir()
    else:
        victim.unlink()
    victim.write_bytes(kept)
    daemon.prepctl_ok("digests", "changing", "--batch-size", 4, "--size", size)


def test_a_picture_that_grows_while_it_is_read(daemon, tmp_path):
    """What was read is what was hashed and decoded: the same bytes or none."""
    rows = write_pictures(tmp_path / "images", 30)
    captions, vocab = write_csv(tmp_path / "c.csv", rows), write_vocab(tmp_path / "v.txt")
    victim = tmp_path / "images" / rows[7][0]
    whole = victim.read_bytes()
    done = threading.Event()

    def write_again_and_again():
        while not done.is_set():
            with open(victim, "wb") as file:
                for at in range(0, len(whole), 64):
                    file.write(whole[at:at + 64])
                    file.flush()

    writer = threading.Thread(target=write_again_and_again)
    writer.start()
    added = refusals = 0
    try:
        for i in range(40):
            result = daemon.prepctl("add", f"growing-{i}", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--vocab", vocab,
                                    "--size", 32)
            added += result.returncode == 0
            refusals += result.returncode == 1 and victim.name in result.stderr
    finally:
        done.set()
        writer.join()
    assert added + refusals == 40 and refusals > 0
    victim.write_bytes(whole)
    daemon.prepctl_ok("add", "growing", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--vocab", vocab, "--size", 32)
    want = daemon.prepctl_ok("digests", "growing", "--batch-size", 30, "--size", 32).stdout
    # a data set that got through has the whole file, or a part that is a whole JPEG, and then another version
    versions = {line.split()[0]: line for line in daemon.prepctl_ok("datasets").stdout.splitlines()[1:]}
    for i in range(40):
        if f"growing-{i}" in versions:
            result = daemon.prepctl("digests", f"growing-{i}", "--batch-size", 30, "--size", 32)
            assert result.returncode == 0 and result.stdout == want


def test_captions_that_are_replaced_while_they_are_read(daemon, tmp_path):
    """Renamed over again and again: one of the two files, never a mixture."""
    rows = write_pictures(tmp_path / "images", 40)
    one, two = write_csv(tmp_path / "1.csv", rows[:20]), write_csv(tmp_path / "2.csv", rows[20:])
    captions, done = tmp_path / "c.csv", threading.Event()
    shutil.copy(one, captions)

    def swap():
        while not done.is_set():
            for source in (one, two):
                shutil.copy(source, tmp_path / "next")
                os.rename(tmp_path / "next", captions)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(10):
            result = daemon.prepctl_ok("add", "swapped", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--size", 32, "--replace")
            assert "20 pictures, 20 captions" in result.stdout
    finally:
        done.set()
        swapper.join()


def on_terminal(daemon, *words):
    """What a program prints when its output is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([str(BIN / "prepctl"), *map(str, [*words, *daemon.at()])], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment())
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # EIO at the end
        while part := os.read(ours, 65536):
            said += part
    process.wait(60 * SLOW)
    os.close(ours)
    return said.replace(b"\r\x1b[K", b"")


def test_names_that_steer_a_terminal(daemon, tmp_path):
    """Escape sequences in names of files and in captions are not obeyed, nor handed on to whoever looks at what was piped."""
    evil = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b2J"
    rows = write_pictures(tmp_path / "images", 3)
    names = [os.fsencode(tmp_path / "images") + b"/" + b"%d" % i + evil + b".jpg" for i in range(3)]
    for name, row in zip(names, rows):
        os.rename(tmp_path / "images" / row[0], name)
    with open(names[2], "wb") as file:
        file.write(b"no picture" + evil)
    (tmp_path / "c.csv").write_bytes(b"image,caption\n" + b"".join(os.path.basename(name) + b",a caption " + evil + b"\n" for name in names))
    usual = ["add", "evil", "--format", "csv", "--images", tmp_path / "images", "--captions", tmp_path / "c.csv", "--size", 32]
    for words in (usual, [*usual, "--on-bad", "skip", "--replace"], ["show", "evil"], ["failures", "evil"], ["samples", "evil", 0],
                  ["explain", os.fsdecode(names[0])], ["explain", os.fsdecode(names[2]), "--size", 32]):
        said = on_terminal(daemon, *words)
        assert b"owned" in said or words[-1] == "--replace", said
        assert b"\x1b" not in said and b"\xc2\x9b" not in said and b"\x07" not in said, said
    # A note names the file of captions, status what a client calls itself.
    named = os.fsencode(tmp_path) + b"/" + evil.replace(b"/", b"") + b".csv"
    with open(named, "wb") as file:
        file.write((tmp_path / "c.csv").read_bytes().replace(b"image,caption", b"this,that"))
    client = wire.Raw(daemon.socket, hello=False)
    client.send(wire.message((1, 1), (2, wire.message((1, 1), (2, b"client " + evil)))))
    client.reply()
    noted = ["add", "noted", "--format", "csv", "--images", tmp_path / "images", "--captions", os.fsdecode(named), "--size", 32, "--on-bad", "skip"]
    for words, word in ((noted, b"note "), (["status"], b"client ")):
        said = on_terminal(daemon, *words)
        assert word in said and b"owned" in said and b"\x1b" not in said and b"\xc2\x9b" not in said and b"\x07" not in said, said
    client.close()
    assert b"\x1b" not in daemon.log.read_bytes()
    piped = subprocess.run([str(BIN / "prepctl"), "samples", "evil", "0", *map(str, daemon.at())], capture_output=True, env=environment(), check=True).stdout
    assert rb"\x1b]0;owned\x07\x1b[2J\xc2\x9b2J" in piped and b"\x1b" not in piped


def test_as_many_data_sets_as_allowed(tmp_path):
    data = SmallData(tmp_path, train=4, val=2)
    with Daemon("--max-datasets", 2) as daemon:
        for name in ("one", "two"):
            data.add(daemon, name)
        result = daemon.prepctl("add", *data.arguments("three"))
        assert result.returncode == 1 and "2 data sets" in result.stderr and "--max-datasets" in result.stderr
        data.add(daemon, "two")  # again
        daemon.prepctl_ok("rm", "one")
        for name in ("v1.txt", "v2.txt"):
            write_vocab(tmp_path / name)
        arguments = data.arguments("three")
        arguments[arguments.index("--vocab") + 1] = tmp_path / "v1.txt"
        daemon.prepctl_ok("add", *arguments)
        arguments[arguments.index("--vocab") + 1] = tmp_path / "v2.txt"
        result = daemon.prepctl("add", *arguments)
        assert result.returncode == 1 and "2 vocabularies" in result.stderr


def test_two_adds_race_for_a_vocabularys_name(daemon, tmp_path):
    """Both find the name free at first; only one of them gets it."""
    data = SmallData(tmp_path, train=4, val=2)
    for i in range(6):
        adds = []
        for who in ("a", "b"):
            vocab = tmp_path / who / f"race-{i}.txt"
            vocab.parent.mkdir(exist_ok=True)
            write_vocab(vocab, leave_out=["blue"] if who == "a" else ["red"])
            arguments = data.arguments(f"race-{i}-{who}")
            arguments[arguments.index("--vocab") + 1] = vocab
            adds.append([str(BIN / "prepctl"), "add", *map(str, [*arguments, *daemon.at()])])
        running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) for words in adds]
        said = [process.communicate(timeout=60 * SLOW) for process in running]
        assert sorted(process.returncode for process in running) == [0, 1], said
        loser = next(i for i in (0, 1) if running[i].returncode == 1)
        assert "another content" in said[loser][1]


def test_names_longer_than_any_path(daemon, tmp_path):
    """A caption file's pictures may be called anything: failures is answered, and so is an add that fails of another reason."""
    rows = write_pictures(tmp_path / "images", 2)
    usual = ["add", "long", "--format", "jsonl", "--images", tmp_path / "images", "--size", 32, "--on-bad", "skip", "--captions"]
    for file, picture, caption in (("a", 0, "one"), ("b", 1, "other")):
        lines = [{"image": rows[picture][0], "caption": caption}]
        lines += [{"image": "x" * 2000000 + f"{i}.jpg", "caption": "none"} for i in range(10)]
        (tmp_path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    daemon.prepctl_ok(*usual, tmp_path / "a")
    lines = daemon.prepctl_ok("failures", "long").stdout.splitlines()
    assert len(lines) == 10 and all("xxx\t" in line and len(line) < 10000 for line in lines)
    second = daemon.prepctl(*usual, tmp_path / "b")
    assert second.returncode == 1 and "with other data" in second.stderr, second.stderr[-300:]
