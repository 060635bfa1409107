"""The daemon with real clients: exact batches, one preparation for all, and what happens when something dies."""
import csv
import fcntl
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, Daemon, SmallData, environment, rest_of, run, shared_data, write_csv, write_pictures, write_vocab  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_safetensors(path):
    numpy = pytest.importorskip("numpy")
    data = pathlib.Path(path).read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    kinds = {"F32": "<f4", "I64": "<i8"}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[8 + length + begin:8 + length + end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


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


# --- the same as the oracle ----------------------------------------------------------


@pytest.mark.parametrize("size", [224, 64, 33])
def test_batch_equals_torchvision(small, daemon, tmp_path, size):
    torchvision = pytest.importorskip("torchvision")
    numpy = pytest.importorskip("numpy")
    from PIL import Image
    small.add(daemon)
    out = tmp_path / "b.safetensors"
    daemon.prepctl_ok("batch", "small", "--split", "train", "--batch-size", 16, "--seed", 3, "--epoch", 1, "--step", 2, "--size", size,
                      "--out", out)
    tensors, metadata = read_safetensors(out)
    transforms = torchvision.transforms
    prepare = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    assert tensors["image"].shape == (16, 3, size, size)
    assert len(set(tensors["sample_ids"].tolist())) == 16 and max(tensors["sample_ids"]) < 48
    labels = sorted({row[2] for row in small.rows})
    for i, sample in enumerate(tensors["sample_ids"]):
        name, caption, label = small.rows[sample]
        want = prepare(Image.open(small.images / name).convert("RGB")).numpy()
        assert numpy.array_equal(want, tensors["image"][i]), f"sample {sample}: {numpy.abs(want - tensors['image'][i]).max()}"
        assert tensors["attention_mask"][i].sum() >= len(caption.split()) + 2
        assert tensors["input_ids"][i][0] == 2 and set(tensors["input_ids"][i][tensors["attention_mask"][i] == 0]) <= {0}
        assert labels[tensors["labels"][i]] == label
    assert tensors["input_ids"].shape[1] == tensors["attention_mask"].sum(1).max()
    assert len(metadata["digest"]) == 64 and metadata["epoch"] == "1" and metadata["step"] == "2"


def test_evaluation_is_every_caption_in_order(small, daemon, tmp_path):
    small.add(daemon)
    seen = []
    for step in range(2):
        out = tmp_path / f"{step}.safetensors"
        daemon.prepctl_ok("batch", "small", "--split", "val", "--order", "eval", "--batch-size", 5, "--step", step, "--out", out, "--size", 32)
        seen += read_safetensors(out)[0]["sample_ids"].tolist()
    assert seen == list(range(48, 57))


def test_training_epoch_visits_each_picture_once_and_ranks_share_it(small, daemon, tmp_path):
    small.add(daemon)

    def ids(*arguments):
        out = tmp_path / "x.safetensors"
        daemon.prepctl_ok("batch", "small", "--size", 32, "--batch-size", 12, "--seed", 5, *arguments, "--out", out)
        return read_safetensors(out)[0]["sample_ids"].tolist()

    epoch = [ids("--step", step) for step in range(4)]
    assert sorted(sum(epoch, [])) == list(range(48))
    assert [ids("--step", step, "--epoch", 1) for step in range(4)] != epoch
    for step in (0, 3):
        parts = [ids("--step", step, "--world", 3, "--rank", rank) for rank in range(3)]
        assert sum(parts, []) == epoch[step]


def test_max_len_keeps_sep(small, daemon, tmp_path):
    small.add(daemon)
    out = tmp_path / "b.safetensors"
    daemon.prepctl_ok("batch", "small", "--size", 16, "--batch-size", 8, "--max-len", 4, "--out", out)
    tensors, _ = read_safetensors(out)
    assert tensors["input_ids"].shape == (8, 4)
    assert set(tensors["input_ids"][:, 3]) == {3}  # [SEP]
    long, _ = digests(daemon, "small", "--size", 16, "--batch-size", 24), None
    short = digests(daemon, "small", "--size", 16, "--batch-size", 24, "--max-len", 4)
    assert long != short


# --- nothing is prepared twice --------------------------------------------------------


def test_second_add_decodes_nothing(small, daemon):
    first = small.add(daemon).stdout
    assert "57 pictures decoded" in first
    before = daemon.status()
    second = small.add(daemon).stdout
    assert "already there" in second and "nothing had to be decoded" in second
    small.add(daemon, "other-name")
    after = daemon.status()
    assert (after["decoded"], after["tokenized"]) == (before["decoded"], before["tokenized"])
    assert after["hits"] > before["hits"] and after["datasets"] == 2


def test_clients_at_the_same_moment_share_one_decoding(small, daemon):
    small.add(daemon)
    before = daemon.status()["decoded"]
    readers = [start("prepctl", "digests", "small", "--size", 96, "--batch-size", 6, "--seed", 9, *daemon.at()) for _ in range(6)]
    outputs = [reader.communicate(timeout=60 * SLOW) for reader in readers]
    assert all(reader.returncode == 0 for reader in readers), outputs
    assert len({out for out, _ in outputs}) == 1 and outputs[0][0].count("\n") == 8
    assert daemon.status()["decoded"] - before == 48


def test_cache_survives_and_serves_a_later_daemon(small, daemon):
    small.add(daemon)
    want = digests(daemon, "small", "--batch-size", 8, "--size", 64)
    assert daemon.stop() == 0
    daemon.start()
    assert digests(daemon, "small", "--batch-size", 8, "--size", 64) == want
    assert daemon.status()["decoded"] == 0


def test_digests_do_not_depend_on_cache_or_workers(small, tmp_path):
    seen = set()
    for workers in (1, 3):
        with Daemon("--workers", workers) as running:
            small.add(running)
            seen.add(tuple(digests(running, "small", "--batch-size", 7, "--size", 48, "--steps", 20)))  # cold
            seen.add(tuple(digests(running, "small", "--batch-size", 7, "--size", 48, "--steps", 20)))  # warm
    assert len(seen) == 1 and len(seen.pop()) == 20


# --- dying ---------------------------------------------------------------------------------


def test_killed_daemon_loses_nothing(small, daemon):
    small.add(daemon)
    arguments = ["small", "--size", 80, "--batch-size", 8, "--steps", 150]
    want = digests(daemon, *arguments)
    reader = start("prepctl", "digests", *arguments, "--pause", 10, *daemon.at())
    lines = []
    for kill in range(3):
        while len(lines) < 15 * (kill + 1):
            lines.append(reader.stdout.readline().strip())
        daemon.kill()
        daemon.start()
    out, err = rest_of(reader, 120)
    assert reader.returncode == 0, err
    assert lines + out.splitlines() == want
    assert err.count("waiting for it to come back") == 3 and err.count("is back") == 3


def test_killed_while_preparing_loses_nothing(small, daemon, tmp_path):
    small.add(daemon)
    arguments = ["small", "--size", 300, "--batch-size", 4, "--steps", 12]
    reader = start("prepctl", "digests", *arguments, *daemon.at())
    reader.stdout.readline()
    daemon.kill()
    daemon.start()
    first = rest_of(reader, 60)[0]
    assert reader.returncode == 0
    assert digests(daemon, *arguments)[1:] == first.splitlines()


def test_dead_clients_cost_nothing(small, daemon):
    small.add(daemon)
    for _ in range(12):
        reader = start("prepctl", "digests", "small", "--size", 128, "--batch-size", 16, "--steps", 100000, *daemon.at())
        reader.stdout.readline()
        reader.kill()
        reader.wait()
    wait_until(lambda: daemon.status()["clients"] == [], "dead clients to be forgotten")
    # Memory is given back by a thread of the lowest priority.
    maps = pathlib.Path(f"/proc/{daemon.process.pid}/maps")
    wait_until(lambda: maps.read_text().count("preprocessd-batches") == 0, "their memory to be given back")
    assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) < 64
    assert digests(daemon, "small", "--batch-size", 16, "--size", 128)


def test_stopped_client_does_not_hold_up_others(small, daemon):
    small.add(daemon)
    stopped = start("prepctl", "digests", "small", "--size", 64, "--batch-size", 8, "--steps", 100000, *daemon.at())
    stopped.stdout.readline()
    stopped.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert len(digests(daemon, "small", "--size", 64, "--batch-size", 8, "--steps", 200)) == 200
        assert time.monotonic() - begun < 30 * SLOW
        assert [c["name"] for c in daemon.status()["clients"]] == ["prepctl digests"]
    finally:
        stopped.kill()
        stopped.communicate()


def test_sigterm_finishes_and_removes_the_socket(small, daemon):
    small.add(daemon)
    reader = start("prepctl", "digests", "small", "--batch-size", 8, "--steps", 100000, *daemon.at())
    reader.stdout.readline()
    assert daemon.stop() == 0
    assert not daemon.socket.exists() and not pathlib.Path(f"{daemon.socket}.lock").exists()
    reader.send_signal(signal.SIGINT)
    assert reader.wait(10 * SLOW) == 130
    reader.communicate()


@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "nohup"])
def test_sighup_cancels_a_client(small, daemon, ignored):
    small.add(daemon)
    reader = start("prepctl", "digests", "small", "--batch-size", 8, "--steps", 100000, *daemon.at(),
                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL))
    reader.stdout.readline()
    reader.send_signal(signal.SIGHUP)
    if ignored:
        reader.stdout.readline()
        time.sleep(0.3)
        assert reader.poll() is None
        reader.send_signal(signal.SIGTERM)
    said = rest_of(reader, 20)[1]
    assert reader.returncode == 130 and "cancelled" in said, said


@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "nohup"])
def test_sighup_ends_it_too(tmp_path, ignored):
    """As when the terminal of `preprocessd &` is closed; what nohup ignores stays ignored."""
    sock = tmp_path / "s"
    (tmp_path / "c").mkdir()
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([BIN / "preprocessd", "--socket", sock, "--cache", tmp_path / "c"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env=environment(), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL))
    try:
        wait_until(lambda: run("prepctl", "status", "--socket", sock).returncode == 0, "the daemon to be ready")
        process.send_signal(signal.SIGHUP)
        if ignored:
            time.sleep(0.3)
            assert process.poll() is None and run("prepctl", "status", "--socket", sock).returncode == 0
        else:
            assert process.wait(20 * SLOW) == 0 and not sock.exists()
    finally:
        process.kill()
        process.wait()


def test_signals_that_come_in_numbers(small, daemon):
    """As timeout(1) sends them, to the process and to its group; some hit the cache while it is closed, and the way out behind it."""
    small.add(daemon)
    process = daemon.process
    process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 0.3
    while process.poll() is None and time.monotonic() < until:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    assert process.wait(20 * SLOW) == 0 and daemon.log.read_text().endswith("stopped\n")
    assert not daemon.socket.exists() and not pathlib.Path(f"{daemon.socket}.lock").exists()


def slow_picture(path, side, scans, tail):
    """Progressive, and hardly any data: each scan passes over the whole picture and says nothing."""
    def segment(marker, content):
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    one_code = bytes([1, 1] + [0] * 14)
    data = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC4, b"\0" + one_code + b"\0\1") + segment(0xC4, b"\x10" + one_code + b"\0\xe0")
    data += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])) + segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(4)
    path.write_bytes(data + (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(4)) * scans + b"\xff\xd9" + tail)


@pytest.mark.skipif(SLOW > 1, reason="a sanitizer makes minutes of what is seconds")
def test_status_waits_for_no_decoder(tmp_path):
    """Small files that take seconds to decode: who asks is answered meanwhile. With more scans they are refused."""
    for i in range(4):
        slow_picture(tmp_path / f"{i}.jpg", 13000, 60, bytes([i]))
    captions = write_csv(tmp_path / "c.csv", [(f"{i}.jpg", "x") for i in range(4)], header=("image", "caption"))
    with Daemon("--workers", 1) as daemon:
        adding = start("prepctl", "add", "slow", "--format", "csv", "--images", tmp_path, "--captions", captions, "--size", 8, *daemon.at())
        wait_until(lambda: any("pictures" in client["doing"] for client in daemon.status()["clients"]), "the add to begin")
        assert daemon.status()["decoded"] < 4 and adding.poll() is None
        assert daemon.prepctl_ok("datasets").returncode == 0
        assert daemon.status()["decoded"] < 4 and adding.poll() is None
        # and when the daemon goes, that is no Ctrl-C
        assert daemon.stop() == 0
        said = adding.communicate(timeout=60 * SLOW)[1]
        assert adding.returncode == 1 and "preprocessd was stopped" in said and "same command" in said, said
    slow_picture(tmp_path / "more.jpg", 13000, 200, b"")
    refused = run("prepctl", "inspect", "image", tmp_path / "more.jpg", "--out", tmp_path / "out.safetensors")
    assert refused.returncode == 1 and "scans of 13000 x 13000" in refused.stderr, refused.stderr


def test_shutdown_verb(small, daemon):
    small.add(daemon)
    daemon.prepctl_ok("digests", "small", "--split", "train", "--batch-size", "8", "--size", "600")
    daemon.prepctl_ok("shutdown")
    with open(daemon.cache / "daemon.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what was made last is written: the cache may be copied now
    assert daemon.process.wait(10 * SLOW) == 0
    daemon.process = None
    result = daemon.prepctl("status")
    assert result.returncode == 1 and "start one with: preprocessd" in result.stderr


def test_interrupted_add_goes_on_where_it_stopped(tmp_path, daemon):
    rows = write_pictures(tmp_path / "images", 400)
    captions = write_csv(tmp_path / "c.csv", rows)
    arguments = ["many", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--size", 512]
    adding = start("prepctl", "add", *arguments, *daemon.at())
    wait_until(lambda: daemon.status()["decoded"] > 20, "some pictures to be decoded")
    adding.send_signal(signal.SIGINT)
    _, err = adding.communicate(timeout=20 * SLOW)
    assert adding.returncode == 130 and "stays in the cache" in err
    wait_until(lambda: daemon.status()["clients"] == [], "the add to end")
    wait_until(lambda: "warning: adding many was cancelled" in daemon.log.read_text(), "the log to say so, once")
    done = daemon.status()["decoded"]
    assert done < 400 and daemon.status()["datasets"] == 0
    again = daemon.prepctl_ok("add", *arguments).stdout
    assert daemon.status()["decoded"] == 400, "pictures that were prepared were prepared again"
    # The first one's last pictures may have been in the making when the second began.
    assert 0 < int(re.search(r"(\d+) pictures decoded", again).group(1)) <= 400 - done


def test_killed_add_registers_nothing_and_goes_on(tmp_path, daemon):
    rows = write_pictures(tmp_path / "images", 300)
    captions = write_csv(tmp_path / "c.csv", rows)
    arguments = ["many", "--format", "csv", "--images", tmp_path / "images", "--captions", captions, "--size", 512]
    adding = start("prepctl", "add", *arguments, *daemon.at())
    wait_until(lambda: daemon.status()["decoded"] > 20, "some pictures to be decoded")
    daemon.kill()
    _, err = adding.communicate(timeout=20 * SLOW)
    assert adding.returncode == 1 and "broke" in err
    daemon.start()
    assert daemon.status()["datasets"] == 0
    assert "300 pictures, 300 captions" in daemon.prepctl_ok("add", *arguments).stdout


# --- starting ------------------------------------------------------------------------------------


def test_the_next_command_waits_for_a_daemon_that_starts(tmp_path):
    """`preprocessd &` and a line behind it, pasted together; also where the daemon has much to look over before it listens."""
    socket, cache = tmp_path / "s", tmp_path / "cache"
    lock = tmp_path / "s.lock"

    def ask():
        return subprocess.Popen([BIN / "prepctl", "datasets", "--socket", socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=environment())

    def daemon():
        return subprocess.Popen([BIN / "preprocessd", "--socket", socket, "--cache", cache], stdin=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=environment())

    for slow in (False, True):
        cache.mkdir(exist_ok=True)
        with open(cache / "daemon.lock", "w", encoding="ascii") as held:
            if slow:  # it waits for whoever has the cache
                fcntl.flock(held, fcntl.LOCK_EX)
            server = daemon()
            asking = ask()
            if slow:
                time.sleep(0.6)
                assert asking.poll() is None
        try:
            out, said = rest_of(asking, 30 * SLOW)
            assert out.startswith("no data sets yet") and said == ""
        finally:
            server.terminate()
            server.wait(20 * SLOW)
    # None, one that ends, one that died, and whose number is another process's by now: said at once.
    for text in (None, f"{os.getpid()} stopping\n", f"{os.getpid()}\n", "0\n", "-1\n", "", "x" * 100):
        lock.unlink(missing_ok=True)
        if text is not None:
            lock.write_text(text)
        began = time.monotonic()
        assert "no preprocessd at" in rest_of(ask(), 30 * SLOW)[1] and time.monotonic() - began < 5 * SLOW, text


def test_stale_socket_is_replaced(daemon):
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.status()["pid"] == daemon.process.pid
    assert oct(daemon.socket.stat().st_mode & 0o777) == "0o600"


def test_live_daemon_on_the_same_socket_or_cache(daemon, tmp_path):
    pid = str(daemon.process.pid)
    for arguments in (["--socket", daemon.socket, "--cache", tmp_path / "other"], ["--socket", daemon.folder / "e.sock", "--cache", daemon.cache]):
        result = run("preprocessd", *arguments, timeout=20)
        assert result.returncode == 1 and pid in result.stderr, result.stderr
    assert not (tmp_path / "other").exists(), "a daemon that was refused left a folder"
    assert daemon.status()["pid"] == daemon.process.pid
    assert not (daemon.folder / "e.sock").exists()


def test_a_live_socket_whose_lock_file_is_gone(daemon, tmp_path):
    lock = pathlib.Path(f"{daemon.socket}.lock")
    lock.unlink()
    result = run("preprocessd", "--socket", daemon.socket, "--cache", tmp_path / "other", timeout=20)
    assert result.returncode == 1 and f"pid {daemon.process.pid}" in result.stderr and "prepctl shutdown" in result.stderr, result.stderr
    assert daemon.status()["pid"] == daemon.process.pid and not lock.exists()
    # One whose socket was removed as well ends without taking away its successor's.
    daemon.socket.unlink()
    orphan, daemon.process, daemon.cache = daemon.process, None, tmp_path / "other"
    daemon.start()
    orphan.terminate()
    assert orphan.wait(20 * SLOW) == 0
    assert daemon.status()["pid"] == daemon.process.pid and lock.exists()


def test_a_second_daemon_beside_a_stopped_one(daemon, tmp_path):
    """It need not be told to wait: after some seconds it says what it waits for."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        result = run("preprocessd", "--socket", daemon.socket, "--cache", tmp_path / "other", timeout=30)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert result.returncode == 1 and f"pid {daemon.process.pid}" in result.stderr and "does not answer" in result.stderr, result.stderr
    assert daemon.status()["pid"] == daemon.process.pid


def test_another_programs_socket_is_not_removed(tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        result = run("preprocessd", "--socket", tmp_path / "s", "--cache", tmp_path / "c", timeout=20)
        assert result.returncode == 1 and f"pid {os.getpid()}" in result.stderr, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"], "a lock file or a cache was left"


def test_a_socket_in_a_folder_that_is_missing(tmp_path):
    result = run("preprocessd", "--socket", tmp_path / "missing" / "s", "--cache", tmp_path / "c", timeout=20)
    assert result.returncode == 1 and "folder" in result.stderr and "does not exist" in result.stderr, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_sockets_place_is_not_removed(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    result = run("preprocessd", "--socket", path, "--cache", tmp_path / "c", timeout=20)
    assert result.returncode == 1 and "no socket" in result.stderr
    assert path.read_text() == "data"


def test_config_file(tmp_path):
    config = tmp_path / "preprocessd.conf"
    config.write_text(f"# mine\nworkers = 3\n\nsocket={tmp_path}/not-this-one\n")
    with Daemon("--config", config) as running:
        assert running.status()["workers"] == 3
    config.write_text("wrokers = 3\n")
    result = run("preprocessd", "--config", config, timeout=20)
    assert result.returncode == 2 and f"{config}:1" in result.stderr and "wrokers" in result.stderr
    config.write_text("max-cache = 0\nworkers = 2\n", encoding="utf-8-sig")
    with Daemon("--config", config, "--workers", 1) as running:
        assert running.status()["workers"] == 1 and running.status()["cache_max_bytes"] == 0


@pytest.mark.parametrize("line, words", [("workers = 300", "from 1 to 256, got '300'"), ("max-cache = much", "a size such as"), ("cache =", "empty"),
                                         ("max-cache = 500K", "at least 1024 KiB"),
                                         ("log-level = loud", "got 'loud'"), ("readers = nosuchgroup", "no group nosuchgroup")])
def test_a_bad_value_is_named_with_file_and_line(tmp_path, line, words):
    config = tmp_path / "preprocessd.conf"
    config.write_text(f"# mine\n\n{line}\nworkers = 2\n")
    result = run("preprocessd", "--config", config, "--workers", 1, timeout=20)
    assert result.returncode == 2 and f"{config}:3: --{line.split()[0]}: " in result.stderr and words in result.stderr, result.stderr
    # What the command line says is not the file's fault.
    result = run("preprocessd", "--config", config, "--log-level", "silent", timeout=20)
    assert result.returncode == 2 and "'silent'" in result.stderr and str(config) not in result.stderr, result.stderr


def test_a_configuration_that_would_be_taken_for_another(tmp_path):
    """No shell expands ~, and nothing behind a zero byte is passed over."""
    config = tmp_path / "preprocessd.conf"
    for text, words in (("cache = ~/prepared\n", f"{config}:1: ~/prepared: no shell"), ("workers = 1\n\0\nmax-cache = 5G\n", "zero bytes")):
        config.write_text(text)
        result = run("preprocessd", "--config", config, timeout=20, cwd=tmp_path)
        assert result.returncode == 2 and words in result.stderr, result.stderr
    assert os.listdir(tmp_path) == [config.name]


# --- bad input -------------------------------------------------------------------------------------


def test_garbage_on_the_socket(small, daemon):
    small.add(daemon)
    reader = start("prepctl", "digests", "small", "--batch-size", 8, "--steps", 100000, *daemon.at())
    reader.stdout.readline()
    hostile = [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\0\0\0\0", struct.pack("<I", 2 << 20), struct.pack("<I", 3) + b"\x0a\x0b\x0c",
               struct.pack("<I", 100) + b"abc", b"", struct.pack("<I", 2) + b"\x52\x00", os.urandom(4096)]
    for bytes_ in hostile * 3:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10 * SLOW)
            client.connect(str(daemon.socket))
            try:
                client.sendall(bytes_)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except ConnectionError:
                pass
    before = reader.stdout.readline()
    assert before and reader.poll() is None
    reader.kill()
    reader.communicate()
    wait_until(lambda: daemon.status()["clients"] == [], "hostile clients to be gone")


def test_garbage_is_answered_with_a_reason(daemon):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10 * SLOW)
        client.connect(str(daemon.socket))
        client.sendall(struct.pack("<I", 1 << 30))
        reply = b""
        while part := client.recv(65536):
            reply += part
    assert b"1073741824 bytes" in reply


def test_more_clients_than_the_limit(daemon):
    clients = []
    for _ in range(300):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(daemon.socket))  # blocks while the daemon is behind; with a timeout it would not
        client.settimeout(10 * SLOW)
        clients.append(client)
    assert b"limit" in clients[-1].recv(65536)
    for client in clients:
        client.close()
    wait_until(lambda: daemon.prepctl("status").returncode == 0, "the daemon to take clients again")


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


def test_rank_without_samples(small, daemon, tmp_path):
    small.add(daemon)
    arguments = ["small", "--split", "val", "--order", "eval", "--batch-size", 8, "--world", 4, "--size", 16]
    assert len(digests(daemon, *arguments, "--rank", 0)) == 2
    assert len(digests(daemon, *arguments, "--rank", 3)) == 2  # the second one is empty
    result = daemon.prepctl("batch", *arguments, "--rank", 3, "--step", 1, "--out", tmp_path / "x")
    assert result.returncode == 1 and "rank 3" in result.stderr and not (tmp_path / "x").exists()


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


def test_status_names_clients(small, daemon):
    small.add(daemon)
    reader = start("prepctl", "digests", "small", "--batch-size", 8, "--steps", 100000, "--pause", 5, *daemon.at())
    for _ in range(9):
        reader.stdout.readline()
    client, = daemon.status()["clients"]
    assert client["pid"] == reader.pid and client["name"] == "prepctl digests" and "small train" in client["doing"] and client["batches"] > 0
    assert re.search(r"prepctl digests: .*, \d+ batches delivered, connected", daemon.prepctl_ok("status").stdout)
    reader.kill()
    reader.communicate()


# --- real data ------------------------------------------------------------------------------------------


def test_real_coco_batch(daemon, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    numpy = pytest.importorskip("numpy")
    from PIL import Image
    root = shared_data("tiny_coco")
    vocab = shared_data("text/bert-base-uncased-vocab.txt")
    notes = root / "annotations"
    daemon.prepctl_ok("add", "tiny", "--format", "coco", "--images", f"train={root}/train2017", "--images", f"val={root}/val2017",
                      "--captions", f"train={notes}/captions_train2017.json", "--captions", f"val={notes}/captions_val2017.json", "--vocab", vocab)
    out = tmp_path / "b.safetensors"
    daemon.prepctl_ok("batch", "tiny", "--split", "train", "--batch-size", 6, "--out", out)
    tensors, _ = read_safetensors(out)
    train = json.loads((notes / "captions_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in train["images"]}
    transforms = torchvision.transforms
    prepare = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for i, sample in enumerate(tensors["sample_ids"]):
        name = names[train["annotations"][sample]["image_id"]]
        want = prepare(Image.open(root / "train2017" / name).convert("RGB")).numpy()
        assert numpy.array_equal(want, tensors["image"][i]), name
