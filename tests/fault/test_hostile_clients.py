"""Clients that stop in the middle, ask and never listen, come by the thousand, or send what no client of ours would: nobody else
notices, and nothing of them stays. And daemons that start where something is in the way."""
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import wire  # noqa: E402
from harness import BIN, SLOW, Daemon, SmallData, daemon, environment, run, small  # noqa: E402,F401

READ = ["small", "--split", "train", "--batch-size", 8, "--size", 64, "--steps", 20]


@pytest.fixture(scope="module")
def want(daemon):
    return daemon.prepctl_ok("digests", *READ).stdout


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def memory_kib(daemon):
    return int(pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])


def wait_until(true, seconds=20.0):
    until = time.monotonic() + seconds * SLOW
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.skipif(SLOW > 1, reason="ten seconds of silence show a sanitizer nothing")
def test_half_a_frame_and_then_silence(daemon, want):
    silent = []
    for hello in (False, True):
        for part in (b"", b"\x40", b"\x40\0\0\0", b"\x40\0\0\0abc"):
            raw = wire.Raw(daemon.socket, hello=hello)
            raw.socket.sendall(part)
            silent.append(raw)
    assert daemon.prepctl_ok("digests", *READ).stdout == want
    begun = time.monotonic()
    for raw in silent[:4]:  # one that has not said Hello is sent away
        raw.socket.settimeout(30)
        assert raw.reply() is None
    assert 5 < time.monotonic() - begun < 15 * SLOW
    assert silent[4].ask(wire.message((1, 1), (7, b""))) is not None  # one that has may take its time
    for raw in silent:
        raw.close()


def test_no_credits_and_never_listening(daemon, want):
    """Every slot is lent, no answer is ever read."""
    greedy = []
    for _ in range(8):
        raw = wire.Raw(daemon.socket)
        assert 11 in raw.ask(wire.open_request("small", batch=8, size=64, slots=8))
        for slot in range(8):
            raw.send(wire.read_request(step=slot % 3, slot=slot))
        greedy.append(raw)
    assert daemon.prepctl_ok("digests", *READ).stdout == want
    for raw in greedy[:4]:
        raw.send(wire.read_request(step=0, slot=0))  # lent twice, or filled and never given back: both are the client's own affair
    assert daemon.prepctl_ok("digests", *READ).stdout == want
    for raw in greedy:
        raw.close()
    wait_until(lambda: daemon.status()["clients"] == [])


def test_slots_that_are_none(daemon):
    for slot, step in ((8, 0), (1 << 31, 0), (0, 1 << 60)):
        raw = wire.Raw(daemon.socket)
        assert 11 in raw.ask(wire.open_request("small", slots=8))
        reply = raw.ask(wire.read_request(step=step, slot=slot))
        code, said = wire.error_of(reply)
        assert code != 0 and ("slot" in said or "steps" in said)
        assert reply[1] == [8 + slot], "the reply carries the id of the request"
        assert "slot" not in said or (raw.reply() is None and f"broke the protocol: {said}; closing" in daemon.log.read_text())
        raw.close()


def test_questions_without_end(daemon, want):
    """A client that asks for what there is not, again and again, and reads no answer: it is not read from any more."""
    raw = wire.Raw(daemon.socket, timeout=2.0)
    assert 11 in raw.ask(wire.open_request("small"))
    before, sent = memory_kib(daemon), 0
    burst = wire.frame(wire.read_request(step=999)) * 2000
    try:
        for _ in range(2000):
            sent += raw.socket.send(burst)
    except (TimeoutError, OSError):
        pass
    assert sent < 2000 * len(burst), "nothing ever stopped it"
    assert memory_kib(daemon) - before < 64 * 1024 * SLOW
    assert daemon.prepctl_ok("digests", *READ).stdout == want
    raw.close()


def test_a_later_signal_ends_it_at_once(small):
    """A client that takes no answer holds the daemon's end up for some seconds; who signals again does not want to wait for it."""
    with Daemon() as own:
        small.add(own)
        raw = wire.Raw(own.socket, timeout=1.0)
        raw.ask(wire.open_request("small"))
        with pytest.raises((TimeoutError, OSError)):
            while True:
                raw.socket.send(wire.frame(wire.read_request(step=999)) * 2000)
        own.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        own.process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        assert own.process.poll() is None
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(2 * SLOW) == -signal.SIGTERM
        raw.close()


def test_thousands_of_connections(daemon, want):
    before = descriptors(daemon)
    for i in range(4000):
        raw = wire.Raw(daemon.socket, hello=i % 3 == 0)
        if i % 5 == 0:
            raw.socket.sendall(b"\x05\0\0")
        raw.close()
    wait_until(lambda: descriptors(daemon) <= before + 1)
    assert daemon.prepctl_ok("digests", *READ).stdout == want


def mutated(draw, body):
    body = bytearray(body)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(body) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(body):
            body[at] = draw.randrange(256)
        elif kind == 1:
            body[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 9)))
        elif kind == 2:
            del body[at:at + draw.randint(1, 5)]
        elif at < len(body):
            body[at:at] = body[at:at + draw.randint(1, 20)]
    return bytes(body) or b"\0"


def connect_again(daemon, why):
    """A connection; a daemon that stopped in good order because a client asked for it is started again."""
    try:
        return wire.Raw(daemon.socket, timeout=30 * SLOW)
    except (ConnectionError, FileNotFoundError):
        assert daemon.process.wait(30 * SLOW) == 0 and "stopping (asked" in daemon.log.read_text(errors="replace"), why
        daemon.log.unlink()
        daemon.start()
        return wire.Raw(daemon.socket, timeout=30 * SLOW)


def test_requests_that_are_nearly_right(small, want, tmp_path):
    """Well-formed frames of damaged messages: an answer or an end, and never the daemon's, unless it was asked for.

    One byte makes a request to remove a data set, or to stop, of many of them: so they name a data set and have a daemon of their own."""
    seed = int(os.environ.get("HOSTILE_SEED", str(int(time.time()))))
    print(f"HOSTILE_SEED={seed}")
    draw = random.Random(seed)
    data = SmallData(tmp_path, train=3, val=2)
    whole = [wire.add_request("near", [data.images], [f"train={data.train}"], vocab=data.vocab), wire.explain_request(data.images / data.rows[0][0]),
             wire.open_request("damaged"), wire.message((1, 2), (4, b"")), wire.message((1, 3), (5, wire.message((1, "damaged")))),
             wire.message((1, 3), (6, wire.message((1, "damaged"), (2, 1)))), wire.message((1, 4), (7, b"")),
             wire.message((1, 5), (20, wire.message((1, "damaged"), (2, 3), (2, 4)))),
             wire.message((1, 5), (14, wire.message((1, wire.message((1, "damaged"), (2, "train"), (3, b"\1" * 32), (4, 8))), (2, 0), (3, 4))))]
    with Daemon() as daemon:
        small.add(daemon)
        data.add(daemon, "damaged")
        for _ in range(int(os.environ.get("HOSTILE_REQUESTS", "600"))):
            raw = connect_again(daemon, f"HOSTILE_SEED={seed}")
            try:
                for _ in range(draw.randint(1, 3)):
                    raw.send(mutated(draw, draw.choice(whole)))
                    if draw.random() < 0.8 and raw.reply() is None:
                        break
            except ConnectionError:
                pass
            raw.close()
        connect_again(daemon, f"HOSTILE_SEED={seed}").close()
        wait_until(lambda: daemon.status()["clients"] == [])
        assert daemon.prepctl_ok("digests", *READ).stdout == want


def test_a_client_that_sleeps(daemon, want):
    """SIGSTOP in the middle of reading, with batches of its own filled; woken, it goes on with the right ones."""
    words = [*READ[:-1], 400]
    whole = daemon.prepctl_ok("digests", *words).stdout
    sleeper = subprocess.Popen([str(BIN / "prepctl"), "digests", *map(str, [*words, *daemon.at()])], stdout=subprocess.PIPE, text=True, env=environment())
    first = sleeper.stdout.readline()
    sleeper.send_signal(signal.SIGSTOP)
    for _ in range(5):
        assert daemon.prepctl_ok("digests", *READ).stdout == want
    sleeper.send_signal(signal.SIGCONT)
    assert first + sleeper.stdout.read() == whole and sleeper.wait(60) == 0


@pytest.mark.parametrize("limit", range(5, 30, 3))
def test_hardly_any_descriptors(limit, small, want, tmp_path):
    """A daemon that may open only so many files: it ends and says why, or serves what it can, and neither hangs nor dies."""
    socket, cache = tmp_path / "s", tmp_path / "c"
    cache.mkdir()
    with open(tmp_path / "log", "wb") as log:
        daemon = subprocess.Popen([str(BIN / "preprocessd"), "--socket", str(socket), "--cache", str(cache), "--workers", "1"], stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, env=environment(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    try:
        until = time.monotonic() + 10 * SLOW
        while daemon.poll() is None and not socket.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        if daemon.poll() is None:
            said = run("prepctl", "status", "--socket", socket, timeout=30)
            assert said.returncode == 0, said.stderr
            add = run("prepctl", "add", *small.arguments(), "--socket", socket, timeout=30)
            read = run("prepctl", "digests", *READ, "--socket", socket, timeout=30)
            assert add.returncode in (0, 1) and read.returncode in (0, 1), (add.stderr, read.stderr)
            assert add.returncode == 0 or len(add.stderr) > 20
            assert (read.stdout == want) if read.returncode == 0 else len(read.stderr) > 20
            daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20 * SLOW) in (0, 1)
        assert daemon.returncode == 0 or len((tmp_path / "log").read_text()) > 20
        assert not socket.exists()
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.skipif(SLOW > 1, reason="sanitizers need more stack")
def test_hardly_any_stack(small, want, tmp_path):
    """ulimit -s 128 is what threads would get."""
    os.mkdir(tmp_path / "c")
    command = f"ulimit -s 128; exec {BIN / 'preprocessd'} --socket {tmp_path / 's'} --cache {tmp_path / 'c'}"
    daemon = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    try:
        wait_until((tmp_path / "s").exists, 10)
        for words in (("add", *small.arguments()), ("digests", *READ), ("verify",), ("gc",), ("status",)):
            result = run("prepctl", *words, "--socket", tmp_path / "s", timeout=20)
            assert result.returncode == 0, (words, result.stderr)
            assert words[0] != "digests" or result.stdout == want
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()


def start_with_few_descriptors(folder):
    """Its socket is s, its log is log."""
    (folder / "c").mkdir()
    with open(folder / "log", "wb") as log:
        return subprocess.Popen([str(BIN / "preprocessd"), "--socket", str(folder / "s"), "--cache", str(folder / "c"), "--workers", "1"],
                                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(),
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)))


def test_no_descriptor_for_one_more_client(tmp_path):
    """The client is told, and the log has a line: libuv by itself would cut it off without a word."""
    sock, held = tmp_path / "s", []
    daemon = start_with_few_descriptors(tmp_path)
    try:
        wait_until(sock.exists, 10 * SLOW)
        for _ in range(40):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].connect(str(sock))
        refused = run("prepctl", "status", "--socket", sock, timeout=30)
        assert refused.returncode == 1 and "ulimit -n" in refused.stderr, refused.stderr
        assert "turning a client away" in (tmp_path / "log").read_text()
        while held:
            held.pop().close()
        wait_until(lambda: run("prepctl", "status", "--socket", sock, timeout=30).returncode == 0, 10 * SLOW)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20 * SLOW) == 0
    finally:
        daemon.kill()
        daemon.wait()


def test_no_descriptors_for_many_clients_at_once(tmp_path):
    """Those for whom there is none are all told, also when all come in one turn of the daemon's loop."""
    sock, clients = tmp_path / "s", []
    daemon = start_with_few_descriptors(tmp_path)
    try:
        wait_until(lambda: run("prepctl", "status", "--socket", sock, timeout=30).returncode == 0, 10 * SLOW)
        daemon.send_signal(signal.SIGSTOP)
        for _ in range(90):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].settimeout(10 * SLOW)
            clients[-1].connect(str(sock))
        daemon.send_signal(signal.SIGCONT)
        told = sum(b"ulimit -n" in client.recv(4096) for client in clients[60:])
        assert told == 30
    finally:
        daemon.kill()
        daemon.wait()
        for client in clients:
            client.close()


def test_daemons_race_to_start(small, want, tmp_path):
    """Many at once, on what a killed one left: one of them serves, the others say who does."""
    cache, socket = tmp_path / "c", tmp_path / "s"
    cache.mkdir()
    for turn in range(4):
        logs = [open(tmp_path / f"log-{turn}-{i}", "wb") for i in range(6)]
        started = [subprocess.Popen([str(BIN / "preprocessd"), "--socket", str(socket), "--cache", str(cache)], stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=log, env=environment()) for log in logs]
        try:
            wait_until(lambda: sum(process.poll() is None for process in started) == 1, 30)
            serving = next(process for process in started if process.poll() is None)
            for i, process in enumerate(started):
                said = (tmp_path / f"log-{turn}-{i}").read_text()
                assert process is serving or (process.returncode == 1 and "another preprocessd" in said), said
            if turn == 0:
                assert run("prepctl", "add", *small.arguments(), "--socket", socket).returncode == 0
            assert run("prepctl", "digests", *READ, "--socket", socket).stdout == want
        finally:
            for process in started:
                process.kill()  # leaves socket and locks behind
                process.wait()
            for log in logs:
                log.close()


def test_the_cache_folder_goes_away(small, want, tmp_path):
    """Removed under a running daemon: it serves on from what it has open; the next daemon begins anew."""
    with Daemon(folder=tmp_path) as daemon:
        small.add(daemon)
        shutil.rmtree(daemon.cache)
        for _ in range(2):
            result = daemon.prepctl("digests", *READ)
            assert result.returncode == 1 or result.stdout == want
        assert daemon.prepctl("add", *small.arguments("again")).returncode in (0, 1)
        assert daemon.stop() in (0, 1)
        daemon.start()
        assert "small" not in daemon.prepctl_ok("datasets").stdout
        small.add(daemon)
        assert daemon.prepctl_ok("digests", *READ).stdout == want


@pytest.fixture
def mounted(tmp_path):
    """A function that gives a folder with a file system of that size, gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    place = tmp_path / "mount"
    place.mkdir()

    def mount(size):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting is not allowed here")
        return place

    yield mount
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def test_a_cache_that_cannot_be_written(small, want, mounted, tmp_path):
    """A read-only file system: the daemon says so at the start. One that becomes read-only: what is there is served, the rest is an error."""
    place = mounted("64m")
    with Daemon(folder=tmp_path, cache=place / "cache") as daemon:
        small.add(daemon)
        assert daemon.prepctl_ok("digests", *READ).stdout == want
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    result = run("preprocessd", "--socket", tmp_path / "s", "--cache", place / "cache", timeout=20)
    assert result.returncode == 1 and "Read-only file system" in result.stderr and not (tmp_path / "s").exists()
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    with Daemon(folder=tmp_path, cache=place / "cache") as daemon:
        assert daemon.prepctl_ok("digests", *READ).stdout == want


def test_a_full_disk(small, want, mounted, tmp_path):
    """A real one: adds fail with the reason until there is room; batches of what is there are served all the while."""
    place = mounted("8m")
    with Daemon(folder=tmp_path, cache=place / "cache") as daemon:
        small.add(daemon)
        (place / "ballast").write_bytes(bytes(2 << 20))
        result = daemon.prepctl("add", *small.arguments("large")[:-1], "700")
        assert result.returncode == 1 and ("space" in result.stderr or "full" in result.stderr), result.stderr
        assert daemon.prepctl_ok("digests", *READ).stdout == want
        # served from memory, if not kept
        assert daemon.prepctl("digests", *READ[:-4], "--size", 300, "--steps", 2).returncode in (0, 1)
        assert "large" not in daemon.prepctl_ok("datasets").stdout
        (place / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=256m", str(place)], check=True)
        daemon.prepctl_ok("add", *small.arguments("large")[:-1], "700")
        assert "0 damaged" in daemon.prepctl_ok("verify").stdout or daemon.prepctl("verify").returncode == 0


def test_names_that_are_none_are_shown_to_nobody(daemon):
    """A data set's name that is not allowed: its add is refused before anybody's status could have it as what is under way."""
    name, ended = b"\x1b[2J\xff" + b"\xc3\xa9" * 40, threading.Event()

    def add_again_and_again():
        raw = wire.Raw(daemon.socket)
        while not ended.is_set():
            code, said = wire.error_of(raw.ask(wire.add_request(name, ["/tmp"], ["/tmp/c.csv"])))
            assert code == 1 and "name" in said
        raw.close()

    adders = [threading.Thread(target=add_again_and_again) for _ in range(4)]
    for adder in adders:
        adder.start()
    asker, shown = wire.Raw(daemon.socket), set()
    for _ in range(1000):
        status = wire.fields(asker.ask(wire.message((1, 7), (7, b"")))[9][0])
        shown |= {wire.fields(client).get(3, [b""])[0] for client in status[12]}
    ended.set()
    for adder in adders:
        adder.join()
    asker.close()
    assert shown == {b""}, shown
