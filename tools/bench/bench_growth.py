#!/usr/bin/python3
"""What grows with the count: time a picture, the daemon's memory and the latency of a random batch, up to 50,000 pictures
with 250,000 captions; and the cache's index up to 10 million records.

    tools/bench/bench_growth.py [--out FILE.md] [--coco DIR] [--counts 1000,5000,20000,50000] [--size 224] [--records 10000000]

The pictures are tools/make-coco's (in --coco, where they are already; it takes 1.5 GB, the cache 7.6 GB, below $TMPDIR or
/tmp). For each count, the pictures that are not in the cache yet are added, as a data set of their own: time a picture is the wall clock
of that over their number, captions and commits included, and, because a machine may be busy, the daemon's processor time over it. Then
all of them together are added as the data set that batches come from.
Memory is what /proc says is the daemon's own: RssAnon (the highest while adding, and that of a fresh daemon while it serves) without
the pages of LMDB's map; the slots of a client are RssShmem. A random batch is 32 samples, float32, of a random epoch and step, asked
for with nothing read ahead, from the fresh daemon, whose every page of the cache is mapped when it is first read, and again after an
epoch was read. The fastest twentieth of the batches is the figure that other programs disturb least.

The index: records as captions leave them, put through the store's own code in random order (tools/bench/bench_index.c), into
memory rather than onto a disk where /dev/shm has the room, so that the tree is measured and not the disk.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from common import BUILD, ROOT, SHARED_DATA, give, note
from harness import Daemon, write_vocab

TICKS = os.sysconf("SC_CLK_TCK")
BATCHES = 400
INDEX_BYTES_A_RECORD = 500


def memory(pid):
    """{RssAnon, RssShmem, ...} in bytes."""
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().split("\n"):
        if line.startswith("Rss"):
            name, value = line.split(":")
            found[name] = int(value.split()[0]) * 1024
    return found


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Highest:
    """The most of RssAnon while the block runs."""

    def __init__(self, pid):
        self.pid, self.value, self.end = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.end.is_set():
            self.value = max(self.value, memory(self.pid)["RssAnon"])
            self.end.wait(0.02)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()


def part_of(whole, first, end, path):
    images = whole["images"][first:end]
    there = {image["id"] for image in images}
    path.write_text(json.dumps({**whole, "images": images, "annotations": [a for a in whole["annotations"] if a["image_id"] in there]}))


def add(daemon, name, images, captions, vocab, size):
    """Seconds, processor seconds, and the highest memory."""
    began, started = processor_seconds(daemon.process.pid), time.monotonic()
    with Highest(daemon.process.pid) as highest:
        daemon.prepctl_ok("add", name, "--format", "coco", "--images", f"train={images}", "--captions", f"train={captions}", "--vocab", vocab,
                          "--size", size, "--quiet", timeout=3600)
    return time.monotonic() - started, processor_seconds(daemon.process.pid) - began, highest.value


def serve(daemon, count, size):
    """What bench_stream measured of a daemon that has read nothing yet and of one that has read an epoch, and the highest RssAnon and
    RssShmem meanwhile."""
    base = [BUILD / "bench" / "bench_stream", "--socket", daemon.socket, "--data", f"growth{count}", "--batch-size", "32", "--size", str(size)]
    found, most = [], {"RssAnon": 0, "RssShmem": 0}
    for more in (["--random", str(BATCHES)], ["--seconds", "2"], ["--random", str(BATCHES)]):
        reader = subprocess.Popen([*base, *more], stdout=subprocess.PIPE, text=True)
        while reader.poll() is None:
            now = memory(daemon.process.pid)
            most = {name: max(value, now[name]) for name, value in most.items()}
            time.sleep(0.02)
        if reader.returncode != 0:
            sys.exit("bench_stream failed")
        found.append(json.loads(reader.stdout.read()))
    return found[0], found[2], most


def pictures(options, folder):
    coco = options.coco
    counts = [int(count) for count in options.counts.split(",")]
    if coco is None:
        coco = folder / "coco"
        note(f"making {counts[-1]} pictures")
        subprocess.run([ROOT / "tools" / "make-coco", coco, "--pictures", str(counts[-1])], check=True)
    whole = json.loads((coco / "annotations" / "captions_train2017.json").read_text())
    vocab = SHARED_DATA / "text" / "bert-base-uncased-vocab.txt"
    if not vocab.exists():
        vocab = write_vocab(folder / "vocab.txt")
    rows, before = [], 0
    daemon_folder = folder / "daemon"
    daemon_folder.mkdir()
    for count in counts:
        new = count - before
        part_of(whole, before, count, folder / "new.json")
        part_of(whole, 0, count, folder / "captions.json")
        with Daemon(folder=daemon_folder) as daemon:
            wall, work, new_highest = add(daemon, f"new{count}", coco / "train2017", folder / "new.json", vocab, options.size)
            _, _, highest = add(daemon, f"growth{count}", coco / "train2017", folder / "captions.json", vocab, options.size)
            disk = (daemon.cache / "data.mdb").stat().st_blocks * 512
        with Daemon(folder=daemon_folder) as daemon:
            fresh, warm, most = serve(daemon, count, options.size)
        row = (count, 1e3 * wall / new, 1e3 * work / new, max(highest, new_highest) / 1e6, most["RssAnon"] / 1e6, most["RssShmem"] / 1e6, 1e3 * fresh["low_s"], 1e3 * fresh["median_s"],
               1e3 * warm["low_s"], 1e3 * warm["median_s"], 1e3 * fresh["first_batch_s"], 1e3 * warm["first_batch_s"], disk / 1e3 / count)
        rows.append(row)
        print("  {:,} pictures: {:.2f} ms a picture ({:.2f} of processor), memory {:.0f} MB adding, {:.0f} serving and slots of {:.0f}; "
              "random batch {:.2f} ms low, {:.2f} median, after an epoch {:.2f} and {:.2f}; first batch {:.1f}, then {:.1f}; {:.0f} kB a picture on disk".format(*row), flush=True)
        before = count
    lines = [f"### Growth: pictures at {options.size} px", "",
             "| pictures | captions | ms each | processor ms | MB adding | MB serving | MB slots | random batch, low ms | median ms | "
             "after an epoch, low ms | median ms | first batch, ms | of a later stream | kB on disk |", "|---:" * 14 + "|"]
    for row in rows:
        lines.append("| {:,} | {:,} | {:.2f} | {:.2f} | {:.0f} | {:.0f} | {:.0f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.1f} | {:.1f} | {:.0f} |".format(row[0], 5 * row[0],
                                                                                                                       *row[1:]))
    return "\n".join(lines) + "\n"


def index(records, folder):
    memory_disk = pathlib.Path("/dev/shm")
    if memory_disk.is_dir() and shutil.disk_usage(memory_disk).free > 2 * INDEX_BYTES_A_RECORD * records:
        folder = memory_disk
    lines = ["### Growth: the index", "", "| records | µs a put, durable | µs a lookup that finds | µs a lookup that finds nothing | file, MB |",
             "|---:|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(prefix="growth-", dir=folder) as cache:
        bench = subprocess.Popen([BUILD / "bench" / "bench_index", "--cache", cache, "--records", str(records)], stdout=subprocess.PIPE, text=True)
        for line in bench.stdout:
            got = json.loads(line)
            lines.append("| {:,} | {:.2f} | {:.2f} | {:.2f} | {:,.0f} |".format(got["records"] // 10 * 10, got["put_us"], got["found_us"],
                                                                             got["missed_us"], got["file_bytes"] / 1e6))
            print("  " + lines[-1], flush=True)
        if bench.wait() != 0:
            sys.exit("bench_index failed")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--coco", type=pathlib.Path)
    parser.add_argument("--counts", default="1000,5000,20000,50000")
    parser.add_argument("--size", type=int, default=224, help="prepared size in pixels: 112 takes a quarter of the disk")
    parser.add_argument("--records", type=int, default=10000000, help="0: no index")
    options = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = pathlib.Path(name)
        if options.counts != "0":
            parts.append(pictures(options, folder))
        if options.records > 0:
            parts.append(index(options.records, folder))
    give("\n".join(parts), options.out)


if __name__ == "__main__":
    main()
