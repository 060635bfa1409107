"""--freeze: frozen towers' features through preprocessd's cache are the same bits as those computed for each batch, are
computed once for all runs, clients and data sets, and survive restarts, damage and a refusal to keep them."""
import json
import os
import re
import socket
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, Daemon, SmallData, environment, has_bf16, run, write_csv, write_pictures  # noqa: E402
import tensors  # noqa: E402

TIMES = {"pairs_per_s", "data_wait_s", "seconds", "adv_cost"}
TRAIN, VAL = 24, 9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return SmallData(tmp_path_factory.mktemp("small"), TRAIN, VAL)


@pytest.fixture(scope="module")
def towers(data, tmp_path_factory):
    """Weights to freeze, from a short run of contrast."""
    out = tmp_path_factory.mktemp("towers") / "run"
    with Daemon() as daemon:
        data.add(daemon)
        train(daemon, out, "--task", "contrast", "--epochs", "2", init=None)
    return out / "last.safetensors"


@pytest.fixture
def daemon(data):
    with Daemon() as running:
        data.add(running)
        yield running


def arguments(daemon, out, *more, init, data="small"):
    return ["--data", data, "--preset", "tiny", "--batch-size", "8", "--threads", "1", "--epochs", "2", "--out", str(out),
            *(["--init", str(init)] if init else []), *map(str, more), *map(str, daemon.at())]


def train(daemon, out, *more, **options):
    result = run("trainer", *arguments(daemon, out, *more, **options))
    assert result.returncode == 0, result.stderr
    return result.stderr


def lines(out):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found]


def same(a, b):
    assert lines(a) == lines(b)
    assert (a / "last.safetensors").read_bytes()[-4096:] == (b / "last.safetensors").read_bytes()[-4096:]
    one, other = tensors.read(a / "last.safetensors"), tensors.read(b / "last.safetensors")
    assert all((one[name].tobytes() == other[name].tobytes()) for name in one)


def computed(stderr):
    """{"pictures in train": (from the cache, computed), ...}"""
    return {f"{m[1]} in {m[2]}": (int(m[3]), int(m[4]))
            for m in re.finditer(r"features of \d+ (\w+) in (\S+): (\d+) from the cache, (\d+) computed", stderr)}


ALL_NEW = {"pictures in train": (0, TRAIN), "captions in train": (0, TRAIN), "pictures in val": (0, VAL), "captions in val": (0, VAL)}
ALL_THERE = {"pictures in train": (TRAIN, 0), "captions in train": (TRAIN, 0), "pictures in val": (VAL, 0), "captions in val": (VAL, 0)}


# --- the same bits -----------------------------------------------------------------------


@pytest.mark.parametrize("more", [["--freeze", "image,text"], ["--freeze", "image"], ["--freeze", "text"],
                                  ["--freeze", "image,text", "--reg", "dropout+l2+adv:target=feat", "--negatives", "1"],
                                  ["--freeze", "image,text", "--reg", "mixup+smooth"],
                                  ["--freeze", "image,text", "--task", "classify"], ["--freeze", "image,text", "--precision", "bf16"], ["--freeze", "image", "--task", "contrast"],
                                  ["--freeze", "image", "--reg", "adv", "--accumulate", "2"], ["--freeze", "text,image", "--accumulate", "2"]],
                         ids=" ".join)
def test_cached_is_computed(daemon, towers, tmp_path, more):
    if "bf16" in more and not has_bf16():
        pytest.skip("this build or processor has no bf16")
    first = train(daemon, tmp_path / "on", *more, init=towers)
    again = train(daemon, tmp_path / "again", *more, init=towers)
    off = train(daemon, tmp_path / "off", *more, "--feature-cache", "off", init=towers)
    frozen = [name for name in ALL_NEW if ("pictures" in name and "image" in more[1]) or ("captions" in name and "text" in more[1])]
    assert computed(first) == {name: ALL_NEW[name] for name in frozen}
    assert computed(again) == {name: ALL_THERE[name] for name in frozen}
    assert computed(off) == {}
    same(tmp_path / "on", tmp_path / "again")
    same(tmp_path / "on", tmp_path / "off")


def test_digests_are_those_of_any_run(daemon, towers, tmp_path):
    """Batches, their order and their digests do not change because of what is frozen."""
    train(daemon, tmp_path / "free", init=towers)
    train(daemon, tmp_path / "frozen", "--freeze", "image,text", init=towers)
    digests = [[(line["split"], line["digest"]) for line in lines(tmp_path / name)] for name in ("free", "frozen")]
    assert digests[0] == digests[1]


def test_frozen_towers_stay(daemon, towers, tmp_path):
    start = tensors.read(towers)
    for freeze, prefixes in (("image", ("image_encoder.",)), ("text", ("text_",)), ("image,text", ("image_encoder.", "text_"))):
        out = tmp_path / freeze
        train(daemon, out, "--freeze", freeze, init=towers)
        found = tensors.read(out / "last.safetensors")
        for name, value in start.items():
            if name.startswith(prefixes):
                assert found[name].tobytes() == value.tobytes(), name
        moved = [name for name, value in start.items() if name in found and found[name].tobytes() != value.tobytes()]
        assert bool(moved) == (freeze != "image,text")
        optimizer = tensors.read(next((out / "checkpoints").glob("step-*")) / "optimizer.safetensors")
        assert optimizer and not any(prefix in name for name in optimizer for prefix in prefixes)
    result = run("trainer", "eval", tmp_path / "image,text" / "last.safetensors", "--data", "small", "--json", *daemon.at())
    assert result.returncode == 0
    val = [line for line in lines(tmp_path / "image,text") if line["split"] == "val"][-1]
    assert abs(json.loads(result.stdout)["loss"] - val["loss"]) < 1e-4


def test_batch_size_does_not_matter(daemon, towers, tmp_path):
    """Features do not depend on the batches that they were computed in."""
    train(daemon, tmp_path / "8", "--freeze", "image,text", init=towers)
    train(daemon, tmp_path / "5", "--freeze", "image,text", "--batch-size", "5", init=towers)
    train(daemon, tmp_path / "5off", "--freeze", "image,text", "--batch-size", "5", "--feature-cache", "off", init=towers)
    same(tmp_path / "5", tmp_path / "5off")


def test_resume(daemon, towers, tmp_path):
    process = subprocess.Popen([str(BIN / "trainer"), *arguments(daemon, tmp_path / "killed", "--freeze", "image,text", "--checkpoint-every", "1", "--eval-every", "1000",
                                                                 "--epochs", "100", init=towers)], stderr=subprocess.DEVNULL, env=environment())
    while not (tmp_path / "killed" / "checkpoints").exists() or not list((tmp_path / "killed" / "checkpoints").glob("step-*")):
        assert process.poll() is None
    process.kill()
    process.wait()
    result = run("trainer", "--resume", "--checkpoint-every", "1000", "--eval-every", "1000", "--out", tmp_path / "killed", *daemon.at())
    assert result.returncode == 0 and computed(result.stderr) == ALL_THERE, result.stderr
    train(daemon, tmp_path / "once", "--freeze", "image,text", "--epochs", "100", "--eval-every", "1000", init=towers)
    assert lines(tmp_path / "killed") == lines(tmp_path / "once")
    result = run("trainer", "--resume", "--out", tmp_path / "once", *daemon.at())
    assert result.returncode == 0 and "nothing is left to do" in result.stderr, result.stderr
    assert "features of" not in result.stderr, "a run that is complete needs none: " + result.stderr


def test_best_weights_of_short_epochs(daemon, towers, tmp_path):
    """Checkpoints are rare, the best weights are kept all the same: those that a checkpoint after each step has."""
    train(daemon, tmp_path / "rare", "--freeze", "image,text", "--epochs", "12", "--lr", "0.02", init=towers)
    train(daemon, tmp_path / "often", "--freeze", "image,text", "--epochs", "12", "--lr", "0.02", "--checkpoint-every", "1", init=towers)
    best = [json.loads((tmp_path / name / "run.json").read_text())["result"]["best"]["steps"] for name in ("rare", "often")]
    assert best[0] == best[1] < 36, "the best is the last: the test says nothing"
    for name in ("best.safetensors", "last.safetensors"):
        one, other = (tensors.read(tmp_path / out / name) for out in ("rare", "often"))
        assert all(one[key].tobytes() == other[key].tobytes() for key in other)
    step = re.search(rb'"step":"(\d+)"', (tmp_path / "rare" / "best.safetensors").read_bytes()[:200000])
    assert int(step[1]) == best[0]
    assert len(list((tmp_path / "rare" / "checkpoints").glob("step-*"))) == 1
    result = run("trainer", "eval", tmp_path / "rare", "--data", "small", "--json", *daemon.at())
    assert result.returncode == 0, result.stderr


# --- shared -------------------------------------------------------------------------------


def test_two_clients_at_once(daemon, towers, tmp_path):
    outs = [tmp_path / "a", tmp_path / "b"]
    processes = [subprocess.Popen([str(BIN / "trainer"), *arguments(daemon, out, "--freeze", "image,text", init=towers)], text=True,
                                  stderr=subprocess.PIPE, env=environment()) for out in outs]
    for process in processes:
        _, err = process.communicate(timeout=120 * SLOW)
        assert process.returncode == 0, err
    same(*outs)
    # Both may have computed a row, and then the same bits. The next one computes nothing.
    assert 2 * (TRAIN + VAL) <= daemon.status()["features_kept"] <= 4 * (TRAIN + VAL)
    assert computed(train(daemon, tmp_path / "c", "--freeze", "image,text", init=towers)) == ALL_THERE


def test_other_data_set_with_the_same_pictures(daemon, data, towers, tmp_path):
    """Half of the pictures under other names and splits, and new ones."""
    train(daemon, tmp_path / "a", "--freeze", "image", init=towers)
    rows = data.rows[12:] + [(f"../more/{name}", f"{text} again", label) for name, text, label in write_pictures(data.folder / "more", 5, first=500)]
    write_csv(data.folder / "other.csv", rows)
    daemon.prepctl_ok("add", "other", "--format", "csv", "--images", data.images, "--captions", data.folder / "other.csv", "--columns",
                      "image,caption,label", "--vocab", data.vocab, "--size", "64", "--split", "train=0.8,val=0.2")
    found = computed(train(daemon, tmp_path / "b", "--freeze", "image", init=towers, data="other"))
    assert sum(new for _, new in found.values()) == 5
    assert sum(old for old, _ in found.values()) == len(data.rows) - 12


def test_other_weights_are_other_features(daemon, towers, tmp_path):
    train(daemon, tmp_path / "a", "--freeze", "image,text", init=towers)
    assert computed(train(daemon, tmp_path / "b", "--freeze", "image,text", "--seed", "3", init=towers)) == ALL_THERE
    assert computed(train(daemon, tmp_path / "c", "--freeze", "image,text", init=None)) == ALL_NEW
    other = computed(train(daemon, tmp_path / "d", "--freeze", "image,text", "--image-size", "48", init=towers))
    assert other == {**ALL_THERE, "pictures in train": (0, TRAIN), "pictures in val": (0, VAL)}
    other = computed(train(daemon, tmp_path / "e", "--freeze", "image,text", "--max-len", "20", init=towers))
    assert other == {**ALL_THERE, "captions in train": (0, TRAIN), "captions in val": (0, VAL)}
    one_tower = dict(tensors.read(towers))
    one_tower["text_projector.bias"] = one_tower["text_projector.bias"] + 1
    tensors.write(tmp_path / "w.safetensors", one_tower)
    other = computed(train(daemon, tmp_path / "f", "--freeze", "image,text", init=tmp_path / "w.safetensors"))
    assert other == {**ALL_THERE, "captions in train": (0, TRAIN), "captions in val": (0, VAL)}


# --- when things go wrong --------------------------------------------------------------------


def test_restart_keeps_them(daemon, towers, tmp_path):
    train(daemon, tmp_path / "a", "--freeze", "image,text", init=towers)
    daemon.kill()
    daemon.start()
    assert computed(train(daemon, tmp_path / "b", "--freeze", "image,text", init=towers)) == ALL_THERE
    same(tmp_path / "a", tmp_path / "b")


def test_daemon_dies_in_between(daemon, towers, tmp_path):
    """Killed again and again while features are computed and trained on: the same outcome."""
    train(daemon, tmp_path / "a", "--freeze", "image,text", "--feature-cache", "off", "--epochs", "100", init=towers)
    process = subprocess.Popen([str(BIN / "trainer"), *arguments(daemon, tmp_path / "b", "--freeze", "image,text", "--epochs", "100", init=towers)],
                               stderr=subprocess.PIPE, env=environment(), text=True)
    while not (tmp_path / "b" / ".lock").exists():  # it has met the daemon
        assert process.poll() is None
    for _ in range(4):
        daemon.kill()
        daemon.start()
    _, err = process.communicate(timeout=120 * SLOW)
    assert process.returncode == 0, err
    same(tmp_path / "a", tmp_path / "b")


def test_damaged_record_is_computed_again(daemon, towers, tmp_path):
    train(daemon, tmp_path / "a", "--freeze", "image,text", init=towers)
    assert daemon.stop() == 0
    path = daemon.cache / "data.mdb"
    content, damaged = bytearray(path.read_bytes()), 0
    at = content.find(b"PPRCE\x01")
    while at >= 0:
        content[at + 60] ^= 0x40  # a byte of the first row's payload
        damaged += 1
        at = content.find(b"PPRCE\x01", at + 1)  # copy-on-write leaves old pages with the same records: all of them
    assert damaged >= 2 * (TRAIN + VAL)
    path.write_bytes(content)
    daemon.start()
    found = computed(train(daemon, tmp_path / "b", "--freeze", "image,text", init=towers))
    assert found == ALL_NEW
    assert "damaged features" in daemon.log.read_text()
    same(tmp_path / "a", tmp_path / "b")
    assert computed(train(daemon, tmp_path / "c", "--freeze", "image,text", init=towers)) == ALL_THERE


def test_status_counts(daemon, towers, tmp_path):
    train(daemon, tmp_path / "a", "--freeze", "image,text", init=towers)
    status = daemon.status()
    assert status["features_kept"] == 2 * (TRAIN + VAL) and status["feature_misses"] >= 2 * (TRAIN + VAL)
    assert "features    hits" in daemon.prepctl_ok("status").stdout


# --- said clearly -----------------------------------------------------------------------------


@pytest.mark.parametrize("more,words", [
    (["--freeze", "head"], ["'head'", "image,text"]), (["--freeze", "image", "--feature-cache", "yes"], ["'yes'", "on nor off"]),
    (["--freeze", "text", "--reg", "adv"], ["text tower", "target=feat"]),
    (["--freeze", "image,text", "--task", "contrast"], ["temperature", "one tower"])])
def test_usage(daemon, tmp_path, more, words):
    result = run("trainer", *arguments(daemon, tmp_path / "x", *more, init=None))
    assert result.returncode == 2
    for word in words:
        assert word in result.stderr


def test_random_towers_are_told(daemon, tmp_path):
    err = train(daemon, tmp_path / "x", "--freeze", "image,text", init=None)
    assert "image tower stays at random weights" in err and "text tower stays at random weights" in err


def test_dry_run(daemon, towers, tmp_path):
    result = run("trainer", *arguments(daemon, tmp_path / "x", "--freeze", "image,text", "--dry-run", init=towers))
    assert result.returncode == 0 and "a step" in result.stdout and computed(result.stderr) == {}


def test_explain_names_them(daemon, data, towers, tmp_path):
    picture = data.images / data.rows[0][0]

    def rows():
        text = daemon.prepctl_ok("explain", picture, "--size", "64").stdout
        return re.findall(r"\b[0-9a-f]{64}\b", text.split("settings")[1])

    assert rows() == []
    train(daemon, tmp_path / "a", "--freeze", "image", init=towers)
    one = rows()
    train(daemon, tmp_path / "b", "--freeze", "image", "--image-size", "48", init=towers)
    assert len(one) == 1 and len(rows()) == 2 and one[0] in rows()


# --- hostile clients ------------------------------------------------------------------------------


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


class Client:
    """Protocol Buffers by hand: what no client of ours would send."""

    def __init__(self, daemon):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20 * SLOW)
        self.socket.connect(str(daemon.socket))
        self.ask(2, field(1, 1) + field(2, "test"))

    def ask(self, verb, body):
        message = field(1, 1) + field(verb, body)
        self.socket.sendall(struct.pack("<I", len(message)) + message)
        header = self.read(4)
        return self.read(struct.unpack("<I", header)[0])

    def read(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the daemon closed the connection"
            data += more
        return data


def features(dataset="small", split="train", encoder=b"e" * 32, captions=0, size=64, width=4, version=b""):
    return (field(1, dataset) + (field(2, version) if version else b"") + field(3, split) + field(4, encoder) + field(5, captions) +
            field(6, field(1, size)) + field(8, 16) + field(9, width))


GET, PUT = 14, 15


@pytest.mark.parametrize("verb,body,words", [
    (GET, field(3, 8), b"32 bytes"),
    (GET, field(1, features(encoder=b"short")) + field(3, 8), b"32 bytes"),
    (GET, field(1, features(width=0)) + field(3, 8), b"1 to 65536"),
    (GET, field(1, features(width=1 << 31)) + field(3, 8), b"1 to 65536"),
    (GET, field(1, features(width=65536)) + field(3, 1 << 20), None),
    (GET, field(1, features()) + field(2, 24) + field(3, 1), b"there are 24"),
    (GET, field(1, features()) + field(3, 0), b"0 rows"),
    (GET, field(1, features(size=0)) + field(3, 1), b"picture size"),
    (GET, field(1, features(dataset="none")) + field(3, 1), b"small"),
    (GET, field(1, features(split="none")) + field(3, 1), b"train"),
    (GET, field(1, features(version=b"v" * 32)) + field(3, 1), b"another version"),
    (PUT, field(1, features()) + field(2, varint(24)) + field(3, struct.pack("<4f", 1, 2, 3, 4)), b"row 24"),
    (PUT, field(1, features()) + field(2, varint(0)) + field(3, struct.pack("<4f", 1, 2, 3, float("nan"))), b"not finite"),
    (PUT, field(1, features()) + field(2, varint(0)) + field(3, struct.pack("<3f", 1, 2, 3)), b"12 bytes"),
    (PUT, field(1, features()) + field(2, varint(0) + varint(1)) + field(3, struct.pack("<4f", 1, 2, 3, 4)), b"16 bytes"),
    (PUT, field(1, features(width=1 << 30)) + field(2, varint(0)) + field(3, b""), b"0 bytes"),
])
def test_hostile_requests(daemon, verb, body, words):
    """An answer that says why, nothing kept, and everybody is served on."""
    client = Client(daemon)
    answer = client.ask(verb, body)
    assert words is None or words in answer, answer
    assert client.ask(GET, field(1, features()) + field(3, 1))
    assert daemon.status()["features_kept"] == 0


def test_a_row_stays(daemon):
    """What is there is not replaced by another client's numbers."""
    client = Client(daemon)
    for numbers, kept in (((1, 2, 3, 4), 1), ((5, 6, 7, 8), 0)):
        client.ask(PUT, field(1, features()) + field(2, varint(3)) + field(3, struct.pack("<4f", *numbers)) + field(4, 1))
        assert daemon.status()["features_kept"] == 1, kept


def test_rows_without_room(tmp_path):
    """Rows that a full cache did not keep are told of with the flush, once, and to whoever put them: not to a client that came later."""
    with Daemon("--max-cache", "2M") as daemon:
        SmallData(tmp_path / "small").add(daemon)
        small = field(1, features()) + field(2, varint(3)) + field(3, struct.pack("<4f", 1, 2, 3, 4)) + field(4, 1)
        client = Client(daemon)
        for row in range(20):
            answer = client.ask(PUT, field(1, features(width=65536)) + field(2, varint(row)) + field(3, bytes(4 * 65536)))
            assert b"limit" not in answer, answer
        assert b"has reached its limit" in client.ask(PUT, small)
        later = Client(daemon)
        for asking in (client, later):
            answer = asking.ask(PUT, small)
            assert b"limit" not in answer, answer
