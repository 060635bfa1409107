"""prepctl verify and gc: damage is found and mended, what no data set needs goes, and nothing else."""
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import wire  # noqa: E402
from harness import BIN, Daemon, SmallData, environment, rest_of, write_csv, write_pictures  # noqa: E402

READ = ["--split", "train", "--batch-size", "8", "--steps", "4", "--size", "64"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallData(tmp_path_factory.mktemp("small"))


@pytest.fixture
def daemon():
    with Daemon() as running:
        yield running


def digests(daemon, name="small"):
    return daemon.prepctl_ok("digests", name, *READ).stdout


def counts(daemon):
    """When what was made on the way is committed, too."""
    before, status = None, daemon.status()
    while before != status["cache_records"]:
        time.sleep(0.3)
        before, status = status["cache_records"], daemon.status()
    return status["cache_records"], status["decoded"], status["tokenized"]


def flip(daemon, kind, at_byte, most):
    """Turns a bit in the payloads of so many records of a kind at most, where the file of the stopped daemon holds them."""
    data = bytearray((daemon.cache / "data.mdb").read_bytes())
    at, found = 0, 0
    while found < most and (at := data.find(b"PPRC" + kind, at)) >= 0:
        data[at + 48 + at_byte] ^= 4
        at += 5
        found += 1
    (daemon.cache / "data.mdb").write_bytes(data)
    return found


def flip_in_pictures(daemon, small, which):
    assert flip(daemon, b"P", 1000, which) == which


def test_verify_finds_and_mends(small, daemon):
    small.add(daemon)
    expected = digests(daemon)
    clean = daemon.prepctl_ok("verify").stdout
    assert re.search(r"^\d+ records, .* 0 damaged$", clean.strip()), clean
    daemon.stop()
    flip_in_pictures(daemon, small, 3)
    daemon.start()
    found = daemon.prepctl("verify")
    assert found.returncode == 1 and "3 damaged" in found.stdout and found.stdout.count("picture") >= 3 and "--mend" in found.stderr
    mended = daemon.prepctl("verify", "--mend")
    assert mended.returncode == 0 and "3 of them removed" in mended.stdout, mended.stdout + mended.stderr
    assert "0 damaged" in daemon.prepctl_ok("verify").stdout
    before = daemon.status()["decoded"]
    assert digests(daemon) == expected and daemon.status()["decoded"] - before <= 3
    daemon.prepctl_ok("digests", "small", "--split", "val", "--order", "eval", "--size", "64")
    assert daemon.status()["decoded"] - before == 3


def flip_all(daemon, kind):
    """Old copies of them, too, that LMDB has left behind."""
    daemon.stop()
    assert flip(daemon, kind, 2, 1 << 20) > 0
    daemon.start()


def test_a_damaged_data_set_is_one_data_set(small, daemon, tmp_path):
    """Of two that are there: the other one, what lists them, and what adds a third go on."""
    small.add(daemon)
    flip_all(daemon, b"D")
    small.add(daemon, "other")
    assert daemon.status()["datasets"] == 2
    lines = daemon.prepctl_ok("datasets").stdout.splitlines()
    assert len(lines) == 3 and lines[1].startswith("other ") and lines[2].split()[:2] == ["small", "damaged:"], lines
    assert digests(daemon, "other")
    unknown = daemon.prepctl("show", "third")
    assert unknown.returncode == 1 and "known: other, small" in unknown.stderr
    for verb in ("show", "gc"):
        refused = daemon.prepctl(verb, *(["small"] if verb == "show" else []))
        assert refused.returncode == 1 and "data set small" in refused.stderr and "dd it again" in refused.stderr, refused.stderr
    small.add(daemon)
    assert digests(daemon) == digests(daemon, "other")
    flip_all(daemon, b"M")
    refused = daemon.prepctl("show", "small")
    assert refused.returncode == 1 and "manifest" in refused.stderr and "add it again" in refused.stderr
    small.add(daemon)
    assert digests(daemon)


def test_a_damaged_vocabulary(small, daemon, tmp_path):
    """Its name or its words: whoever reads them hears what to do, gc does not take it for unknown, and its file mends it."""
    small.add(daemon)
    expected = digests(daemon)
    other = tmp_path / small.vocab.name
    other.write_text(small.vocab.read_text() + "more\n")
    for kind in (b"N", b"V"):
        flip_all(daemon, kind)
        refused = daemon.prepctl("digests", "small", *READ)
        assert refused.returncode == 1 and f"vocabulary {other.name}" in refused.stderr and "add --vocab" in refused.stderr
        if kind == b"N":
            assert daemon.prepctl("gc").returncode == 1
            rows = write_pictures(tmp_path / "images", 1)
            refused = daemon.prepctl("add", "new", "--format", "csv", "--images", tmp_path / "images", "--captions",
                                     write_csv(tmp_path / "c.csv", rows), "--vocab", other)
            assert refused.returncode == 1 and other.name in refused.stderr and "another name" in refused.stderr
        small.add(daemon)
        assert digests(daemon) == expected


def test_gc_keeps_what_is_needed(small, daemon, tmp_path):
    small.add(daemon)
    # Another size is needed, too. In the order of an evaluation: a training epoch leaves a last short batch to reading ahead.
    daemon.prepctl_ok("digests", "small", "--split", "all", "--batch-size", "8", "--size", "48", "--order", "eval")
    expected, before = digests(daemon), counts(daemon)
    assert "0 records of" in daemon.prepctl_ok("gc").stdout
    assert counts(daemon) == before
    rows = write_pictures(tmp_path / "more", 5, first=500)
    table = write_csv(tmp_path / "more.csv", rows)
    daemon.prepctl_ok("add", "more", "--format", "csv", "--images", tmp_path / "more", "--captions", table, "--vocab", small.vocab, "--size", "64")
    with_more = counts(daemon)[0]
    daemon.prepctl_ok("rm", "more")
    planned = daemon.prepctl_ok("gc", "--dry-run").stdout
    assert "would go" in planned and counts(daemon)[0] == with_more - 1  # the name is gone, all else is there
    done = daemon.prepctl_ok("gc").stdout
    assert done.split()[0] == planned.split()[0] and "removed" in done
    # pictures, captions, the manifest; captions that both data sets have stay
    assert counts(daemon)[0] == before[0]
    decoded = daemon.status()["decoded"]
    assert digests(daemon) == expected
    daemon.prepctl_ok("digests", "small", "--split", "all", "--batch-size", "8", "--size", "48", "--order", "eval")
    assert daemon.status()["decoded"] == decoded
    assert "0 damaged" in daemon.prepctl_ok("verify").stdout


def test_gc_of_everything_and_adding_again(small, daemon):
    small.add(daemon)
    expected = digests(daemon)
    daemon.prepctl_ok("rm", "small")
    daemon.prepctl_ok("gc")
    decoded = daemon.status()["decoded"]
    small.add(daemon)
    assert daemon.status()["decoded"] > decoded and digests(daemon) == expected


def test_gc_keeps_what_a_stream_reads(daemon, tmp_path):
    """A run goes on after rm, or add --replace, and gc, even if its pictures are gone by then; when it is over, gc takes them."""
    small = SmallData(tmp_path / "data")
    small.add(daemon)
    expected = digests(daemon)
    reader = subprocess.Popen([BIN / "prepctl", "digests", "small", *READ, "--pause", "500", "--slots", "1", *daemon.at()], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    first = reader.stdout.readline()
    daemon.prepctl_ok("rm", "small")
    assert daemon.prepctl_ok("gc").stdout.startswith("1 record of"), "the manifest alone is of no use any more"
    shutil.rmtree(small.images)
    out, err = rest_of(reader, 30)
    assert first + out == expected, err
    assert not daemon.prepctl_ok("gc").stdout.startswith("0 records of") and daemon.status()["cache_records"] < 5


def test_gc_keeps_failures_of_a_data_set(daemon, tmp_path):
    rows = write_pictures(tmp_path / "p", 4)
    (tmp_path / "p" / "bad.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    table = write_csv(tmp_path / "c.csv", [*rows, ("bad.jpg", "a bad one", "red")])
    small = SmallData(tmp_path / "v", train=3, val=3)
    daemon.prepctl_ok("add", "some", "--format", "csv", "--images", tmp_path / "p", "--captions", table, "--vocab", small.vocab, "--size", "32",
                      "--on-bad", "skip")
    listed = daemon.prepctl_ok("failures", "some").stdout
    assert "bad.jpg" in listed
    daemon.prepctl_ok("gc")
    assert daemon.prepctl_ok("failures", "some").stdout == listed


def test_gc_and_add_do_not_meet(daemon, tmp_path):
    rows = write_pictures(tmp_path / "many", 1)
    for i in range(1, 1500):
        shutil.copyfile(tmp_path / "many" / rows[0][0], tmp_path / "many" / f"c{i}.jpg")
        with open(tmp_path / "many" / f"c{i}.jpg", "ab") as file:
            file.write(str(i).encode())  # another content
    table = write_csv(tmp_path / "many.csv", [(path.name, "one", "red") for path in sorted((tmp_path / "many").iterdir())])
    small = SmallData(tmp_path / "v", train=3, val=3)
    import subprocess
    from harness import BIN, environment
    adding = subprocess.Popen([str(BIN / "prepctl"), "add", "many", "--format", "csv", "--images", str(tmp_path / "many"), "--captions", str(table),
                               "--vocab", str(small.vocab), "--size", "224", *map(str, daemon.at())], env=environment(), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    while adding.poll() is None and not any(client["doing"].startswith("add many") for client in daemon.status()["clients"]):
        pass  # a gc that came first would refuse the add
    refused = 0
    while adding.poll() is None:
        result = daemon.prepctl("gc")
        refused += result.returncode == 1 and "being added" in result.stderr
    assert adding.returncode == 0 and refused > 0
    decoded = daemon.status()["decoded"]
    daemon.prepctl_ok("digests", "many", "--split", "train", "--batch-size", "32", "--size", "224")
    assert daemon.status()["decoded"] == decoded  # gc took nothing of it


def test_the_daemon_stops_meanwhile(tmp_path):
    """That is no interruption by the user, whose exit code is 130. The daemon is one that says what ours says then."""
    hello, cancelled = wire.message((1, 1), (2, "preprocessd 1.0")), wire.message((1, 14), (2, "verify was cancelled"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        for verb in ("verify", "gc"):
            asking = subprocess.Popen([BIN / "prepctl", verb, "--socket", tmp_path / "s"], stderr=subprocess.PIPE, text=True, env=environment())
            client, _ = listener.accept()
            for reply in (wire.message((1, 0), (3, hello)), wire.message((1, 1), (2, cancelled))):
                assert client.recv(65536)
                client.sendall(wire.frame(reply))
            said = asking.communicate(timeout=20)[1]
            assert asking.returncode == 1 and "preprocessd was stopped" in said and verb in said and "same command" in said, said
            client.close()
