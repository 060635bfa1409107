"""Users other than the daemon's own: who may connect, who may add, and whose files are read.

Needs root, to become one user after the other: a daemon of one, a reader, an adder and a stranger.
"""
import ast
import ctypes
import grp
import hashlib
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import wire  # noqa: E402
from harness import BIN, SLOW, environment, write_pictures  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")

OWNER, READER, ADDER, STRANGER = "daemon", "games", "man", "news"  # users of every Debian
READERS, ADDERS = "audio", "video"                                 # groups, joined below for one process each


class Users:
    """Programs run as one of the users, each in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.socket = folder / "open" / "d.sock"
        self.log = folder / "log"
        self.daemons = []
        for name in ("bin", "open"):
            (folder / name).mkdir()
        for program in (BIN / "preprocessd", BIN / "prepctl", wire.__file__):
            shutil.copy(program, folder / "bin")
        os.chown(folder / "open", pwd.getpwnam(OWNER).pw_uid, -1)

    def command(self, user, words, groups=(), **variables):
        person = pwd.getpwnam(user)
        numbers = ",".join(str(grp.getgrnam(group).gr_gid) for group in (*groups,)) or None
        become = ["setpriv", f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", f"--groups={numbers}" if numbers else "--clear-groups"]
        env = environment(PREPROCESSD_SOCKET=self.socket, HOME=self.folder, **variables)
        return [*become, *map(str, words)], env

    def start(self, *words):
        """A daemon of the owner's, when it answers."""
        command, env = self.command(OWNER, [self.folder / "bin" / "preprocessd", "--cache", self.folder / "open" / "cache", *words])
        with open(self.log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            self.daemons.append(subprocess.Popen(command, env=env, cwd="/", stderr=log, stdin=subprocess.DEVNULL))
        until = time.monotonic() + 10 * SLOW
        while time.monotonic() < until and self.daemons[-1].poll() is None:
            if self.run(OWNER, "prepctl", "status").returncode == 0:
                return
            time.sleep(0.02)
        raise AssertionError("the daemon did not become ready:\n" + self.log.read_text(errors="replace"))

    def finish(self, command, env):
        """The result of a command. A daemon that dies meanwhile fails the test at once: its clients would wait for another one."""
        process = subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 60 * SLOW
        while True:
            try:
                out, err = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                died = [daemon.returncode for daemon in self.daemons if daemon.poll() is not None]
                if not died and time.monotonic() < until:
                    continue
                process.kill()
                out, err = process.communicate()
                reason = f"the daemon ended with {died[0]} before" if died else "over time:"
                raise AssertionError(f"{reason} {' '.join(command)}\n{err}\nthe daemon's log:\n{self.log.read_text(errors='replace')}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run(self, user, program, *words, groups=(), trusts=OWNER):
        return self.finish(*self.command(user, [self.folder / "bin" / program, *words], groups, **({"PREPROCESSD_USER": trusts} if trusts else {})))

    def ask(self, user, request, groups=(), times=None):
        """(code, message) of the error that a request made by hand is answered with; None: it was granted. As wire.py."""
        words = ["/usr/bin/python3", self.folder / "bin" / "wire.py", self.socket, request.hex(), *([times] if times else [])]
        result = self.finish(*self.command(user, words, groups))
        assert result.returncode == 0, result.stderr
        return ast.literal_eval(result.stdout)

    def stop(self):
        """What the daemons ended with, on SIGTERM."""
        for daemon in self.daemons:
            daemon.terminate()
        codes = []
        for daemon in self.daemons:
            try:
                codes.append(daemon.wait(20 * SLOW))
            except subprocess.TimeoutExpired:
                daemon.kill()
                codes.append(daemon.wait())
        return codes


@pytest.fixture
def users():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pd-", dir="/tmp"))
    folder.chmod(0o755)
    made = Users(folder)
    yield made
    codes = made.stop()
    log = made.log.read_text(errors="replace") if made.log.exists() else ""
    shutil.rmtree(folder)
    assert not any(codes), f"the daemon ended with {codes}:\n{log}"


def data_of(users, user, name, mode=0o644, folder_mode=0o755):
    """A data set of a user, in a folder of its own."""
    folder = users.folder / name
    folder.mkdir()
    write_pictures(folder / "pictures", 3)
    pictures = sorted((folder / "pictures").iterdir())
    (folder / "captions.csv").write_text("image,caption\n" + "".join(f"{p.name},a caption\n" for p in pictures))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncaption\n")
    for path in (folder, folder / "pictures", *pictures, folder / "captions.csv", folder / "vocab.txt"):
        os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        path.chmod(mode if path.is_file() else 0o755)
    folder.chmod(folder_mode)
    return ["add", name, "--format", "csv", "--images", folder / "pictures", "--captions", folder / "captions.csv", "--vocab",
            folder / "vocab.txt", "--size", "32"]


def test_only_its_own_user_by_default(users):
    users.start()
    assert users.run(OWNER, "prepctl", *data_of(users, OWNER, "mine")).returncode == 0
    result = users.run(READER, "prepctl", "datasets", groups=[READERS, ADDERS])
    said = f"user {pwd.getpwnam(OWNER).pw_uid}'s"
    assert result.returncode != 0 and said in result.stderr and "--readers" in result.stderr and "start one with" not in result.stderr, result.stderr
    (users.folder / "open").chmod(0o700)
    result = users.run(READER, "prepctl", "datasets", groups=[READERS, ADDERS])
    assert result.returncode != 0 and "its folder" in result.stderr and "start one with" not in result.stderr, result.stderr


KNOCK = """
import socket, sys, time
print(flush=True)
until, count = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    knocks = [socket.socket(socket.AF_UNIX) for _ in range(400)]
    for knock in knocks:
        knock.setblocking(False)
        count += knock.connect_ex(sys.argv[1]) == 0
    for knock in knocks:
        knock.close()
print(count)
"""


def test_strangers_that_knock_without_end(users):
    """They are not counted as clients, whose places they would take, and fill no log."""
    users.start("--readers", READERS)
    command, env = users.command(STRANGER, ["/usr/bin/python3", "-c", KNOCK, users.socket, 3 * SLOW])
    strangers = [subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for stranger in strangers:
        stranger.stdout.readline()
    while any(stranger.poll() is None for stranger in strangers):
        asked = users.run(READER, "prepctl", "datasets", groups=[READERS])
        assert asked.returncode == 0 or "its limit" not in asked.stderr, asked.stderr  # its queue may be full for a while
    assert sum(int(stranger.stdout.read()) for stranger in strangers) > 1000
    noted = users.log.read_text().count("tried to connect and may not")
    assert 1 <= noted <= 1 + 3 * SLOW, noted


def test_readers_read_and_nothing_else(users):
    users.start("--readers", READERS, "--adders", ADDERS)
    assert users.run(OWNER, "prepctl", *data_of(users, OWNER, "mine", folder_mode=0o700)).returncode == 0
    out = users.folder / "batch.safetensors"
    out.touch()
    out.chmod(0o666)
    assert "mine" in users.run(READER, "prepctl", "datasets", groups=[READERS]).stdout
    batch = users.run(READER, "prepctl", "digests", "mine", "--batch-size", "2", "--size", "32", groups=[READERS])
    assert batch.returncode == 0, batch.stderr
    for words, reason in ((data_of(users, READER, "theirs"), "--adders"), (["rm", "mine"], "who runs"), (["shutdown"], "who runs")):
        result = users.run(READER, "prepctl", *words, groups=[READERS])
        assert result.returncode != 0 and reason in result.stderr, (words, result.stderr)
    assert "mine" in users.run(OWNER, "prepctl", "datasets").stdout
    stranger = users.run(STRANGER, "prepctl", "datasets")
    assert stranger.returncode != 0 and "groups" in stranger.stderr, stranger.stderr


def test_a_client_trusts_another_users_daemon_only_by_name(users):
    users.start("--readers", READERS)
    result = users.run(READER, "prepctl", "datasets", groups=[READERS], trusts=None)
    assert result.returncode != 0 and "PREPROCESSD_USER=" in result.stderr
    assert users.run(READER, "prepctl", "datasets", groups=[READERS], trusts=STRANGER).returncode != 0
    assert users.run(READER, "prepctl", "datasets", groups=[READERS], trusts=str(pwd.getpwnam(OWNER).pw_uid)).returncode == 0


def test_adders_add_what_they_could_read(users):
    users.start("--adders", ADDERS)
    assert users.run(OWNER, "prepctl", *data_of(users, OWNER, "mine")).returncode == 0
    added = users.run(ADDER, "prepctl", *data_of(users, ADDER, "theirs"), groups=[ADDERS])
    assert added.returncode == 0, added.stderr
    # files of the daemon's own user, which the daemon could read and the client could not
    for name, modes in (("secret_files", {"mode": 0o600}), ("secret_folder", {"folder_mode": 0o700})):
        words = data_of(users, OWNER, name, **modes)
        assert users.run(OWNER, "prepctl", *words).returncode == 0
        words[1] = name + "_stolen"
        result = users.run(ADDER, "prepctl", *words, groups=[ADDERS])
        assert result.returncode != 0 and "may" in result.stderr, result.stderr
    explained = users.run(ADDER, "prepctl", "explain", users.folder / "secret_files" / "pictures" / "0000.jpg", groups=[ADDERS])
    assert explained.returncode != 0 and "may read" in explained.stderr
    result = users.run(ADDER, "prepctl", *["add", "mine", *data_of(users, ADDER, "other")[2:]], "--replace", groups=[ADDERS])
    assert result.returncode != 0 and "another user" in result.stderr


def test_a_link_swapped_in_later_is_not_followed(users):
    users.start("--adders", ADDERS)
    words = data_of(users, ADDER, "theirs")
    assert users.run(ADDER, "prepctl", *words, groups=[ADDERS]).returncode == 0
    picture = users.folder / "theirs" / "pictures" / "0000.jpg"
    secret = users.folder / "open" / "secret.jpg"
    secret.write_bytes(picture.read_bytes())  # the same bytes: only the rights tell them apart
    os.chown(secret, pwd.getpwnam(OWNER).pw_uid, -1)
    secret.chmod(0o600)
    picture.unlink()
    picture.symlink_to(secret)
    result = users.run(OWNER, "prepctl", "digests", "theirs", "--batch-size", "3", "--size", "48")
    assert result.returncode != 0 and "0000.jpg" in result.stderr, result.stderr
    secret.chmod(0o644)
    assert users.run(OWNER, "prepctl", "digests", "theirs", "--batch-size", "3", "--size", "48").returncode == 0


def test_files_whose_modes_say_too_much(users):
    """What the system hands out by other rules than modes: of /proc/PID/maps, 0444, only that user gets anything to read."""
    users.start("--adders", ADDERS)
    data_of(users, ADDER, "theirs")
    pictures = users.folder / "theirs" / "pictures"
    for path in ("/proc/self/maps", "/proc/self/environ", "/proc/self/cmdline", "/proc/self/mem", "/proc/self/root/etc/shadow", "/sys/kernel/uevent_seqnum",
                 *(f"/proc/self/fd/{fd}" for fd in range(30))):
        for request in (wire.add_request("x", [pictures], [path], "jsonl"), wire.explain_request(path),
                        wire.add_request("x", [pictures], [users.folder / "theirs" / "captions.csv"], vocab=path)):
            code, said = users.ask(ADDER, request, [ADDERS])
            assert "may read" in said or "rename the file" in said, (path, said)
    # by way of a link of their own, or as a folder of pictures, it is the same
    link = users.folder / "theirs" / "link.jsonl"
    link.symlink_to("/proc/self/maps")
    assert "may read" in users.ask(ADDER, wire.add_request("x", [pictures], [link], "jsonl"), [ADDERS])[1]
    assert "may search" in users.ask(ADDER, wire.add_request("x", ["/proc/self/cwd/proc/self"], [users.folder / "theirs" / "captions.csv"]), [ADDERS])[1]
    assert users.ask(ADDER, wire.add_request("x", [pictures], [users.folder / "theirs" / "captions.csv"]), [ADDERS]) is None


def test_groups_and_hard_links(users):
    """Supplementary groups count as the system counts them: a member of the file's group has the group's rights, be they fewer than others have."""
    users.start("--adders", ADDERS)
    data_of(users, OWNER, "data")
    picture = users.folder / "data" / "pictures" / "0000.jpg"
    os.chown(picture, -1, grp.getgrnam(READERS).gr_gid)
    explain = wire.explain_request(picture)
    for mode, member, other in ((0o640, True, False), (0o604, False, True), (0o644, True, True), (0o600, False, False)):
        picture.chmod(mode)
        assert (users.ask(ADDER, explain, [ADDERS, READERS]) is None) == member, oct(mode)
        assert (users.ask(ADDER, explain, [ADDERS]) is None) == other, oct(mode)
    # a folder that may be listed and not entered, and one that may be entered and not listed
    picture.chmod(0o644)
    for mode, allowed in ((0o744, False), (0o711, True), (0o700, False)):
        picture.parent.chmod(mode)
        assert (users.ask(ADDER, explain, [ADDERS]) is None) == allowed, oct(mode)
    picture.parent.chmod(0o755)
    # another name for it, where all may go, changes nothing
    link = users.folder / "link.jpg"
    os.link(picture, link)
    picture.chmod(0o600)
    assert "may read" in users.ask(ADDER, wire.explain_request(link), [ADDERS])[1]


def exchange(a, b):
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2) != 0:
        pytest.skip("this file system cannot exchange names")


def test_folders_that_change_places(users):
    """A private folder in the adder's own, exchanged with an open one all the time: what lies in it is never read."""
    users.start("--adders", ADDERS)
    data_of(users, ADDER, "theirs")
    parent = users.folder / "theirs"
    private, open_ = parent / "private", parent / "open"
    for folder, number in ((private, 1), (open_, 2)):
        folder.mkdir()
        shutil.copy(parent / "pictures" / f"000{number}.jpg", folder / "p.jpg")
        (folder / "p.jpg").chmod(0o644)
    secret = users.folder / "secret.jpg"
    secret.write_bytes((private / "p.jpg").read_bytes() + b"its own bytes")
    shutil.copy(secret, private / "p.jpg")
    os.chown(private, pwd.getpwnam(OWNER).pw_uid, -1)
    private.chmod(0o700)
    done = threading.Event()

    def swap():
        while not done.is_set():
            exchange(private, open_)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = users.ask(ADDER, wire.explain_request(private / "p.jpg"), [ADDERS], times=4000)
    finally:
        done.set()
        swapper.join()
    taken = seen.count(hashlib.sha256(secret.read_bytes()).hexdigest())
    assert taken == 0, f"read {taken} times of {len(seen)}"
    assert len(set(seen)) == 2, "neither refusals nor the open picture were seen"


def test_the_same_data_of_two_users(users):
    """One version, two data sets: each is read from its own files, with its own user's rights."""
    users.start("--adders", ADDERS)
    words = data_of(users, OWNER, "mine")
    assert users.run(OWNER, "prepctl", *words).returncode == 0
    shutil.copytree(users.folder / "mine", users.folder / "theirs")
    theirs = ["add", "theirs", *(str(word).replace("/mine/", "/theirs/") for word in words[2:])]
    assert users.run(ADDER, "prepctl", *theirs, groups=[ADDERS]).returncode == 0
    shows = [re.search(r"version +([0-9a-f]+)", users.run(OWNER, "prepctl", "show", name).stdout) for name in ("mine", "theirs")]
    assert shows[0].group(1) == shows[1].group(1)
    picture = users.folder / "theirs" / "pictures" / "0000.jpg"
    kept = picture.read_bytes()
    picture.unlink()
    result = users.run(OWNER, "prepctl", "digests", "theirs", "--batch-size", "3", "--size", "48")
    assert result.returncode != 0 and str(picture) in result.stderr
    assert users.run(OWNER, "prepctl", "digests", "mine", "--batch-size", "3", "--size", "48").returncode == 0
    # and the other way round: what only the owner may read does not serve the other's
    picture.write_bytes(kept)
    picture.chmod(0o600)
    assert users.run(OWNER, "prepctl", *words).returncode == 0
    assert users.run(OWNER, "prepctl", "digests", "mine", "--batch-size", "3", "--size", "56").returncode == 0
    picture.unlink()
    assert users.run(OWNER, "prepctl", "gc").returncode == 0
    assert users.run(OWNER, "prepctl", "digests", "mine", "--batch-size", "3", "--size", "60").returncode == 0
    assert str(picture) in users.run(OWNER, "prepctl", "digests", "theirs", "--batch-size", "3", "--size", "64").stderr


def test_groups_in_the_configuration(users):
    config = users.folder / "config"
    config.write_text(f"readers = {grp.getgrnam(READERS).gr_gid}\n")
    users.start("--config", config)
    assert users.run(READER, "prepctl", "status", "--json", groups=[READERS]).returncode == 0
    status = json.loads(users.run(OWNER, "prepctl", "status", "--json").stdout)
    assert status["clients"] == []


def test_an_unknown_group_is_named(users):
    command, env = users.command(OWNER, [users.folder / "bin" / "preprocessd", "--cache", users.folder / "open" / "c", "--readers", "nosuchgroup"])
    result = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 2 and "nosuchgroup" in result.stderr


def test_a_daemon_that_dies_is_noticed(users):
    """Of this file itself: a client waits minutes for another daemon, a test does not."""
    users.start()
    assert users.run(OWNER, "prepctl", *data_of(users, OWNER, "mine")).returncode == 0
    daemon, began = users.daemons[0], time.monotonic()
    killer = threading.Timer(0.3, daemon.kill)
    killer.start()
    with pytest.raises(AssertionError, match="ended with -9 .*digests(.|\n)*the daemon's log:(.|\n)*preprocessd"):
        users.run(OWNER, "prepctl", "digests", "mine", "--batch-size", "1", "--size", "32", "--steps", "1000000", "--pause", "20")
    assert time.monotonic() - began < 10 * SLOW
    users.daemons.clear()
    with pytest.raises(AssertionError, match="(did not become ready|ended with 2 before)(.|\n)*nosuch"):
        users.start("--nosuch-option")
    assert time.monotonic() - began < 20 * SLOW
    users.daemons.clear()
