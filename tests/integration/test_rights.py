"""Users other than the daemon's own: who may connect, who may add, and whose files are read.

Needs root, to become one user after the other: a daemon of one, a reader, an adder and a stranger.
"""
import grp
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, SLOW, environment, write_pictures  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")

OWNER, READER, ADDER, STRANGER = "daemon", "games", "man", "news"  # users of every Debian
READERS, ADDERS = "audio", "video"                                 # groups, joined below for one process each


class Users:
    """Programs run as one of the users, each in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.socket = folder / "open" / "d.sock"
        for name in ("bin", "open"):
            (folder / name).mkdir()
        for program in ("preprocessd", "prepctl"):
            shutil.copy(BIN / program, folder / "bin" / program)
        os.chown(folder / "open", pwd.getpwnam(OWNER).pw_uid, -1)

    def command(self, user, words, groups=(), **variables):
        person = pwd.getpwnam(user)
        numbers = ",".join(str(grp.getgrnam(group).gr_gid) for group in (*groups,)) or None
        become = ["setpriv", f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", f"--groups={numbers}" if numbers else "--clear-groups"]
        env = environment(PREPROCESSD_SOCKET=self.socket, HOME=self.folder, **variables)
        return [*become, *map(str, words)], env

    def run(self, user, program, *words, groups=(), trusts=OWNER):
        command, env = self.command(user, [self.folder / "bin" / program, *words], groups, **({"PREPROCESSD_USER": trusts} if trusts else {}))
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL, check=False)


@pytest.fixture
def users():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pd-", dir="/tmp"))
    folder.chmod(0o755)
    daemons = []

    def start(*words):
        command, env = made.command(OWNER, [made.folder / "bin" / "preprocessd", "--cache", folder / "open" / "cache", *words])
        daemons.append(subprocess.Popen(command, env=env, cwd="/", stderr=open(folder / "log", "ab"), stdin=subprocess.DEVNULL))
        until = time.monotonic() + 10 * SLOW
        while time.monotonic() < until:
            if made.run(OWNER, "prepctl", "status").returncode == 0:
                return
        raise AssertionError((folder / "log").read_text())

    made = Users(folder)
    made.start = start
    yield made
    for daemon in daemons:
        daemon.terminate()
        assert daemon.wait(20 * SLOW) == 0
    shutil.rmtree(folder)


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
    assert result.returncode != 0 and "Permission denied" in result.stderr


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
