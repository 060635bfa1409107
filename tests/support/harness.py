"""What the Python tests share: the programs, a daemon of one's own, small data sets.

Programs come from build/$MODE/bin (MODE: release). A Daemon has its socket and
cache in a temporary folder and is gone when its `with` block ends.
"""
import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODE = os.environ.get("MODE", "release")
BUILD = ROOT / "build" / MODE
BIN = BUILD / "bin"
SHARED_DATA = pathlib.Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
# Sanitizers make programs several times slower.
SLOW = 1.0 if MODE == "release" else 8.0


def environment(**changes):
    """The environment of a program under test: nothing of the caller's own daemon in it."""
    result = {key: value for key, value in os.environ.items() if not key.startswith("PREPROCESSD_")}
    result.update({key: str(value) for key, value in changes.items()})
    return result


def run(program, *arguments, timeout=120, stdin=None, env=None, cwd=None):
    """Runs one of the programs to its end. stdout and stderr are text."""
    path = BIN / program
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return subprocess.run([str(path), *map(str, arguments)], stdin=subprocess.DEVNULL if stdin is None else None, input=stdin,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout * SLOW, env=env or environment(),
                          cwd=cwd, text=True, errors="replace", check=False)


def run_ok(program, *arguments, **options):
    result = run(program, *arguments, **options)
    assert result.returncode == 0, f"{program} {' '.join(map(str, arguments))}\n{result.stdout}\n{result.stderr}"
    return result


def has_bf16():
    """Whether this build and processor train in bf16; asked of a run that then finds no daemon."""
    asked = run("trainer", "--data", "none", "--precision", "bf16", "--socket", "/nonexistent/socket", "--out", "/nonexistent/out")
    return "--precision bf16" not in asked.stderr


def rest_of(process, timeout):
    """(stdout, stderr) from where they were read up to. Not communicate(): that loses lines which readline() took ahead."""
    timer = threading.Timer(timeout * SLOW, process.kill)
    timer.start()
    try:
        out, err = process.stdout.read(), process.stderr.read()
        process.wait()
    finally:
        timer.cancel()
    return out, err


def shared_data(name):
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there (set SHARED_DATA)")
    return path


class Daemon:
    """A preprocessd with its own socket and cache."""

    def __init__(self, *arguments, folder=None, cache=None):
        self.folder = pathlib.Path(folder) if folder else pathlib.Path(tempfile.mkdtemp(prefix="pd-", dir="/tmp"))
        self.own_folder = folder is None
        self.socket = self.folder / "d.sock"
        self.cache = pathlib.Path(cache) if cache else self.folder / "cache"
        self.arguments = arguments
        self.process = None
        self.log = self.folder / "daemon.log"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, wait_s=10.0):
        path = BIN / "preprocessd"
        if not path.exists():
            pytest.skip(f"{path} is not built")
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(path), "--socket", str(self.socket), "--cache", str(self.cache), *map(str, self.arguments)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())
        until = time.monotonic() + wait_s * SLOW
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            if run("prepctl", "status", "--socket", self.socket).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("the daemon did not become ready:\n" + self.log.read_text(errors="replace"))

    def stop(self, wait_s=20.0):
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(wait_s * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.process = None
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def at(self):
        """The options that point a client at this daemon."""
        return ["--socket", self.socket]

    def prepctl(self, verb, *arguments, **options):
        return run("prepctl", verb, *arguments, *self.at(), **options)

    def prepctl_ok(self, verb, *arguments, **options):
        return run_ok("prepctl", verb, *arguments, *self.at(), **options)

    def status(self):
        return json.loads(self.prepctl_ok("status", "--json").stdout)


WORDS = ("red", "green", "blue", "dark", "square", "noise", "stripes")


def write_vocab(path, leave_out=()):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *WORDS, *[c for c in letters if c != "a"], *["##" + c for c in letters]]
    path.write_text("\n".join(line for line in lines if line not in leave_out) + "\n")
    return path


def write_pictures(folder, count, first=0):
    """Small JPEG files of one color with stripes; returns (file name, caption, label) of each."""
    numpy = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    colors = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
    rows = []
    for i in range(first, first + count):
        name = list(colors)[i % 3]
        pixels = numpy.zeros((40 + i % 7, 48, 3), numpy.uint8) + numpy.array(colors[name], numpy.uint8)
        pixels[i % 30:i % 30 + 4] = (i * 37) % 256
        image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=90)
        rows.append((f"{i:04d}.jpg", f"a {name} square with stripe {i}", name))
    return rows


def write_csv(path, rows, header=("image", "caption", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return path


class SmallData:
    """A folder with pictures, train.csv, val.csv and a vocabulary; add() registers it as `small`."""

    def __init__(self, folder, train=24, val=9, first=0):
        self.folder = pathlib.Path(folder)
        self.images = self.folder / "images"
        self.rows = write_pictures(self.images, train + val, first)
        self.train = write_csv(self.folder / "train.csv", self.rows[:train])
        self.val = write_csv(self.folder / "val.csv", self.rows[train:])
        self.vocab = write_vocab(self.folder / "small-vocab.txt")

    def arguments(self, name="small"):
        return [name, "--format", "csv", "--images", self.images, "--captions", f"train={self.train}", "--captions", f"val={self.val}",
                "--columns", "image,caption,label", "--vocab", self.vocab, "--size", "64"]

    def add(self, daemon, name="small"):
        return daemon.prepctl_ok("add", *self.arguments(name))


# Fixtures, for a module that imports both: a small data set, and a daemon that has it.

@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallData(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def daemon(small):
    with Daemon() as running:
        small.add(running)
        yield running
