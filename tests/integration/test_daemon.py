"""The daemon with real clients: how it starts, who else is there, what clients may do to it, and what happens when something dies."""
import fcntl
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, Daemon, environment, rest_of, run, write_csv, write_pictures  # noqa: E402
from serving import daemon, digests, small, start, wait_until  # noqa: E402,F401


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


# --- hostile clients ----------------------------------------------------------------------------------


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
