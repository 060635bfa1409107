"""Data sets in a daemon: bad pictures, sources that change, damaged records, names and versions, and what is said about them."""
import csv
import hashlib
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import SLOW, Daemon, SmallData, run, write_csv, write_pictures, write_vocab  # noqa: E402
from serving import daemon, digests, small, start, wait_until  # noqa: E402,F401


def bad_data(folder):
    rows = write_pictures(folder / "images", 12)
    (folder / "images" / rows[3][0]).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    data = (folder / "images" / rows[7][0]).read_bytes()
    (folder / "images" / rows[7][0]).write_bytes(data[:len(data) // 2])
    return rows, write_csv(folder / "c.csv", rows)


def test_samples(tmp_path, daemon):
    """Raw captions, pictures and classes by sample id, as reports show them."""
    data = SmallData(tmp_path)
    data.add(daemon)
    rows = [*csv.reader(open(data.train)), *csv.reader(open(data.val))]
    rows = [row for row in rows if row[0] != "image"]
    lines = [line.split("\t") for line in daemon.prepctl_ok("samples", "small", 30, 0, 5, 5).stdout.splitlines()]
    assert [int(line[0]) for line in lines] == [30, 0, 5, 5]
    for line in lines:
        image, caption, _ = rows[int(line[0])]
        assert line[5] == caption and line[4].endswith(image)
        assert line[2] == ("train" if int(line[0]) < 24 else "val")
        assert line[3] == hashlib.sha256((data.images / image).read_bytes()).hexdigest()
    result = daemon.prepctl("samples", "small", 33)
    assert result.returncode == 1 and "33 captions" in result.stderr
    assert daemon.prepctl("samples", "nope", 1).returncode == 1
    assert daemon.prepctl("samples", "small", "x").returncode == 2 and daemon.prepctl("samples", "small").returncode == 2


def test_samples_with_long_captions(tmp_path, daemon):
    """What is shown of a long caption ends with a whole character."""
    rows = write_pictures(tmp_path / "images", 1)
    texts = ["a" * 8192, "a" * 8191 + "\u00e9", "a" * 8190 + "\U0001f600 b", "a" * 100000]
    captions = write_csv(tmp_path / "c.csv", [(rows[0][0], text) for text in texts], header=("image", "caption"))
    daemon.prepctl_ok("add", "long", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--size", 16)
    shown = [line.split("\t")[5] for line in daemon.prepctl_ok("samples", "long", 0, 1, 2, 3).stdout.splitlines()]
    assert shown == [texts[0], "a" * 8191, "a" * 8190, "a" * 8192]


def test_bad_pictures(tmp_path, daemon):
    rows, captions = bad_data(tmp_path)
    arguments = ["bad", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--size", 64]
    result = daemon.prepctl("add", *arguments)
    assert result.returncode == 1
    for needle in (rows[3][0], rows[7][0], "PNG", "2 of 12", "--on-bad skip"):
        assert needle in result.stderr, result.stderr
    assert daemon.status()["datasets"] == 0 and daemon.prepctl("show", "bad").returncode == 1
    decoded = daemon.status()["decoded"]
    assert "10 pictures, 10 captions" in daemon.prepctl_ok("add", *arguments, "--on-bad", "skip").stdout
    assert daemon.status()["decoded"] == decoded == 10
    lines = daemon.prepctl_ok("failures", "bad").stdout.splitlines()
    assert len(lines) == 2 and rows[3][0] in lines[0] and "PNG" in lines[0] and rows[7][0] in lines[1]
    failures = daemon.status()["failures"]
    daemon.prepctl_ok("add", *arguments, "--on-bad", "skip")
    assert daemon.status()["failures"] == failures, "a known failure was tried again"


def test_source_that_changes_or_disappears(tmp_path, daemon):
    rows = write_pictures(tmp_path / "images", 8)
    vocab = write_vocab(tmp_path / "v.txt")
    daemon.prepctl_ok("add", "data", "--format", "csv", "--images", tmp_path / "images", "--captions", write_csv(tmp_path / "c.csv", rows),
                      "--vocab", vocab, "--size", 32)
    assert digests(daemon, "data", "--batch-size", 8, "--size", 32)  # needs no source any more
    victim = tmp_path / "images" / rows[2][0]
    kept = victim.read_bytes()
    victim.write_bytes((tmp_path / "images" / rows[3][0]).read_bytes())
    changed = daemon.prepctl("digests", "data", "--batch-size", 8, "--size", 48)
    assert changed.returncode == 1 and "has changed" in changed.stderr and str(victim) in changed.stderr
    victim.unlink()
    gone = daemon.prepctl("digests", "data", "--batch-size", 8, "--size", 48)
    assert gone.returncode == 1 and "is gone" in gone.stderr and str(victim) in gone.stderr
    victim.write_bytes(kept)
    assert digests(daemon, "data", "--batch-size", 8, "--size", 48)


def test_one_data_sets_missing_source_is_not_anothers(tmp_path):
    """Two streams want the same picture at the same moment, and it is the first one's file that has changed."""
    vocab = write_vocab(tmp_path / "v.txt")
    with Daemon("--workers", 2) as daemon:
        for name in ("broken", "sound"):
            rows = write_pictures(tmp_path / name, 1)
            daemon.prepctl_ok("add", name, "--format", "csv", "--images", tmp_path / name, "--captions",
                              write_csv(tmp_path / f"{name}.csv", rows), "--vocab", vocab, "--size", 32)
        victim = tmp_path / "broken" / rows[0][0]
        os.truncate(victim, 500 << 20)  # to be read and hashed before anybody knows
        first = start("prepctl", "digests", "broken", "--batch-size", 1, "--size", 48, "--socket", daemon.socket)
        wait_until(lambda: any("broken" in client["doing"] for client in daemon.status()["clients"]), "the first stream")
        assert len(digests(daemon, "sound", "--batch-size", 1, "--size", 48)) == 1
        _, complaint = first.communicate(timeout=60)
        assert first.returncode == 1 and "has changed" in complaint and str(victim) in complaint


def flip_record(daemon, picture, size, tmp_path):
    """Changes one byte of a picture's record in the stopped daemon's cache file."""
    out = tmp_path / "pixels.safetensors"
    assert run("prepctl", "inspect", "image", picture, "--size", size, "--dtype", "u8", "--out", out).returncode == 0
    raw = out.read_bytes()
    pixels = raw[8 + struct.unpack("<Q", raw[:8])[0]:][:3 * size * size]
    with open(daemon.cache / "data.mdb", "r+b") as file:
        at = file.read().find(pixels)
        assert at > 0, "the record was not found"
        file.seek(at + 100)
        file.write(bytes([pixels[100] ^ 1]))


def test_damaged_record_is_made_again(small, daemon, tmp_path):
    small.add(daemon)
    arguments = ["small", "--size", 64, "--batch-size", 48]
    want = digests(daemon, *arguments)
    assert daemon.stop() == 0
    picture = small.images / small.rows[5][0]
    flip_record(daemon, picture, 64, tmp_path)
    daemon.start()
    assert digests(daemon, *arguments) == want
    status = daemon.status()
    assert (status["remade"], status["decoded"]) == (1, 1)
    assert digests(daemon, *arguments) == want and daemon.status()["remade"] == 1
    assert daemon.stop() == 0
    flip_record(daemon, picture, 64, tmp_path)
    moved = picture.with_suffix(".moved")
    picture.rename(moved)
    daemon.start()
    try:
        result = daemon.prepctl("digests", *arguments)
        assert result.returncode == 1 and "is gone" in result.stderr and picture.name in result.stderr
    finally:
        moved.rename(picture)
    assert digests(daemon, *arguments) == want


def test_names_and_versions(small, daemon, tmp_path):
    small.add(daemon)
    other = SmallData(tmp_path / "other", train=10, val=4)
    result = daemon.prepctl("add", *other.arguments())
    assert result.returncode == 1 and "--replace" in result.stderr
    assert daemon.prepctl_ok("show", "small").stdout.startswith("small: 57 pictures")
    # The numbers show it: not one of its pictures was opened for that. As many captions of others take a look at all of them.
    before = daemon.status()["decoded"]
    assert "57 pictures with 57 captions; these files name 14 with 14" in result.stderr and before == 57
    same = SmallData(tmp_path / "same", train=48, val=9, first=100)
    result = daemon.prepctl("add", *same.arguments())
    assert result.returncode == 1 and "--replace" in result.stderr and "version" in result.stderr
    assert daemon.status()["decoded"] > before
    daemon.prepctl_ok("add", *other.arguments(), "--replace")
    assert daemon.prepctl_ok("show", "small").stdout.startswith("small: 14 pictures")
    daemon.prepctl_ok("rm", "small")
    for verb in ("rm", "show", "failures"):
        result = daemon.prepctl(verb, "small")
        assert result.returncode == 1 and "small" in result.stderr
    write_vocab(tmp_path / "small-vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nother\n")
    arguments = other.arguments("again")
    arguments[arguments.index("--vocab") + 1] = tmp_path / "small-vocab.txt"
    result = daemon.prepctl("add", *arguments)
    assert result.returncode == 1 and "small-vocab.txt" in result.stderr and "another name" in result.stderr


def test_replaced_data_set_stops_a_running_stream_after_a_restart(small, daemon, tmp_path):
    small.add(daemon)
    reader = start("prepctl", "digests", "small", "--batch-size", 8, "--steps", 100000, "--pause", 20, *daemon.at())
    reader.stdout.readline()
    other = SmallData(tmp_path / "other", train=10, val=4)
    daemon.prepctl_ok("add", *other.arguments(), "--replace")
    daemon.kill()
    daemon.start()
    _, err = reader.communicate(timeout=30 * SLOW)
    assert reader.returncode == 1 and "another version" in err


def test_explain_says_which_setting_differs(small, daemon, tmp_path):
    picture = small.images / small.rows[0][0]

    def there(*options, path=picture):
        lines = daemon.prepctl_ok("explain", path, *options).stdout.splitlines()
        first = [i for i, line in enumerate(lines) if line.startswith("  there with")]
        return [line[14:] for line in lines[first[0]:]] if first else None

    assert there() == ["no settings at all: this content is new here"]
    small.add(daemon)
    assert there("--size", "64") is None, "it is there itself"
    assert there() == ["size=64"] and there("--size", "64", "--exif", "apply") == ["exif=ignore"]
    assert there("--size", "2048", "--exif", "apply") == ["size=64, exif=ignore"]
    write_csv(tmp_path / "one.csv", [(str(picture), "y")], header=("image", "caption"))
    daemon.prepctl_ok("add", "turned", "--format", "csv", "--captions", tmp_path / "one.csv", "--size", "2048", "--exif", "apply")
    assert sorted(there("--size", "2048")) == ["exif=apply", "size=64"]
    assert there("--size", "1", "--exif", "apply") in (["size=2048", "size=64, exif=ignore"], ["size=64, exif=ignore", "size=2048"])
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(picture.read_bytes()[:200])
    write_csv(tmp_path / "bad.csv", [("bad.jpg", "x"), (str(picture), "y")], header=("image", "caption"))
    daemon.prepctl_ok("add", "bad", "--format", "csv", "--captions", tmp_path / "bad.csv", "--on-bad", "skip")
    assert there(path=bad) is None and there("--size", "32", path=bad) == ["no settings at all: this content is new here"]


def test_one_of_everything(tmp_path, daemon):
    """What is said about one picture, caption, step, sample; and an epoch beyond the last is no fault of its step."""
    rows = [(name, "red square") for name, *_ in write_pictures(tmp_path / "images", 4)]
    vocab = write_vocab(tmp_path / "v.txt")

    def add(name, count):
        captions = write_csv(tmp_path / f"{count}.csv", rows[:count], header=("image", "caption"))
        return daemon.prepctl("add", name, "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--vocab", vocab, "--size", 32)

    assert add("one", 1).returncode == 0
    assert "(1 picture with 1 caption; these files name 4 with 4)" in add("one", 4).stderr
    out = ["--size", 32, "--out", tmp_path / "b.safetensors"]
    assert ": 1 sample, 4 tokens, digest " in daemon.prepctl_ok("batch", "one", *out).stdout
    assert "has 1 step, counted from 0" in daemon.prepctl("batch", "one", "--step", 1, *out).stderr
    assert "has 1 caption;" in daemon.prepctl("samples", "one", 1).stderr
    last = daemon.prepctl("digests", "one", "--size", 32, "--epoch", 4294967295, "--steps", 3)
    assert last.returncode == 2 and last.stdout.startswith("4294967295 0 ") and last.stdout.count("\n") == 1
    assert "epoch 4294967296: epochs are counted from 0 to 4294967295" in last.stderr and "step" not in last.stderr, last.stderr
    assert "1 sample in " in daemon.prepctl("digests", "one", "--size", 32, "--rate").stderr
    assert "got 1 byte (" in run("preprocessd", "--max-cache", 1, "--cache", tmp_path / "c", "--socket", tmp_path / "s", timeout=20).stderr


def test_unknown_things_name_the_known_ones(small, daemon):
    small.add(daemon)
    out = ["--out", "/dev/null"]
    for arguments, needles in ((["smal", *out], ["smal", "small"]), (["small", "--split", "dev", *out], ["dev", "train", "val"]),
                               (["small", "--vocab", "bert", *out], ["bert", "small-vocab"])):
        result = daemon.prepctl("batch", *arguments)
        assert result.returncode == 1 and all(needle in result.stderr for needle in needles), result.stderr
    assert daemon.prepctl("batch", "small", "--step", 999, *out).returncode == 2
    assert daemon.prepctl("batch", "small", "--batch-size", 7, "--world", 2, *out).returncode == 2
    assert daemon.prepctl("batch", "small", "--vocab", "small-vocab", *out).returncode == 0  # without .txt
