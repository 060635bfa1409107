#!/usr/bin/python3
"""Pictures a second: adding them cold, and reading prepared batches, beside torchvision's pipeline and memcpy.

    tools/bench/bench_pipeline.py [--out FILE.md]

Cold is `prepctl add` into an empty cache, from the command's start to its end:
reading, hashing, decoding, resizing, checksums and the durable write included.
It stands beside the limit, which is libjpeg-turbo alone decoding the same
pictures in memory to RGB on one core, and beside torchvision's pipeline on the
same files, in one process, nothing stored. Before each add that counts there is
one that does not: memory for the file cache that a machine has not used lately
costs a virtual one more than all the rest of a write, and which add comes upon
such memory is chance. One worker has a core more at its side for reading and writing where there is one; so that
two are not compared with what has more cores a worker, there is a row for one and two with a core each.

Warm is one client, beside one memcpy of a batch's bytes over and over (uint8's stay in the processor's cache), for
uint8 also of all the split's bytes from where they lie in memory, and beside PyTorch's
DataLoader over a NumPy memmap of the same pixels; then 16 clients at once.
Medians of BENCH_REPEATS (3) runs; here and limit alternate.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from common import BUILD, REPEATS, SHARED_DATA, Table, give, median_of, note, seconds_of
from harness import Daemon, write_vocab


def data_sets(folder):
    """name -> (files, arguments of prepctl add)"""
    vocab = SHARED_DATA / "text" / "bert-base-uncased-vocab.txt"
    found = {}
    for name in ("flowers", "coco300"):
        if (SHARED_DATA / name / "captions.csv").exists():
            images = next((path for path in (SHARED_DATA / name / "images", SHARED_DATA / name) if any(path.glob("*.jpg"))), None)
            if images:
                found[name] = (images, ["--format", "csv", "--captions", SHARED_DATA / name / "captions.csv"], vocab)
    coco = SHARED_DATA / "tiny_coco"
    if coco.exists():
        images = next((path.parent for path in coco.rglob("*.jpg")), None)
        if images:
            found["tiny_coco"] = (coco, ["coco"], vocab)
    if not found:
        note("no data in ../shared/data: measuring on the demo's pictures")
        subprocess.run([BUILD / "demo" / "make_demo_data", "--out", folder / "demo", "--train", "600", "--val", "1"], check=True)
        found["demo"] = (folder / "demo" / "images", ["--format", "csv", "--captions", folder / "demo" / "train.csv",
                                                      "--columns", "image,caption,label"], write_vocab(folder / "demo-vocab.txt"))
    return found


def add_arguments(images, arguments):
    if arguments != ["coco"]:
        return [*arguments, "--images", images], sorted(images.glob("*.jpg"))
    result = ["--format", "coco"]
    files = []
    for split in ("train", "val"):
        captions = images / "annotations" / f"captions_{split}2017.json"
        pictures = images / f"{split}2017"
        if not captions.exists() or not pictures.exists():
            continue
        result += ["--captions", f"{split}={captions}", "--images", f"{split}={pictures}"]
        names = {image["file_name"] for image in json.loads(captions.read_text())["images"]}
        files += [pictures / name for name in sorted(names)]
    return result, files


def torchvision_rate(files):
    """One core, as a DataLoader worker runs it."""
    import torch
    from PIL import Image
    from torchvision import transforms
    torch.set_num_threads(1)
    pipeline = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(),
                                   transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])

    def once():
        for path in files:
            with Image.open(path) as image:
                pipeline(image.convert("RGB"))

    return len(files) / seconds_of(once)


def decode_rates(files):
    """One core, files in memory: libjpeg-turbo alone, and the daemon's decoder."""
    result = subprocess.run([BUILD / "bench" / "bench_decode", *files], capture_output=True, text=True, check=True)
    rates = json.loads(result.stdout)
    return rates["decode_per_s"], rates["rows_per_s"]


def memmap_rate(folder, seconds=2.0):
    """float32 batches of 32 in random order from uint8 pixels on disk, normalized as torchvision does; bytes a second."""
    import numpy
    import torch
    count, size = 512, 224
    path = folder / "pixels.u8"
    numpy.random.default_rng(1).integers(0, 256, (count, size, size, 3), numpy.uint8).tofile(path)
    pixels = numpy.memmap(path, numpy.uint8, "r", shape=(count, size, size, 3))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return count

        def __getitem__(self, i):
            picture = torch.from_numpy(numpy.array(pixels[i])).permute(2, 0, 1).float().div_(255)
            return picture.sub_(mean).div_(std)

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(Pictures(), batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in loader:  # workers start, pages come in
        pass
    delivered, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        for batch in loader:
            delivered += batch.numel() * 4
    return delivered / (time.monotonic() - started)


CLIENTS = 16


def crowd(daemon, split):
    """Rates of clients that read at the same time, and what the daemon decoded meanwhile."""
    before = daemon.status()["decoded"]
    command = [BUILD / "bench" / "bench_stream", "--socket", daemon.socket, "--data", "bench", "--dtype", "u8", "--split", split,
               "--batch-size", "32", "--seconds", "4"]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
    rates = [json.loads(client.communicate(timeout=120)[0])["pictures_per_s"] for client in clients]
    return rates, daemon.status()["decoded"] - before


def add_once(arguments, vocab, workers):
    """Seconds from nothing to everything on disk."""
    with Daemon("--workers", workers) as daemon:
        return seconds_of(lambda: daemon.prepctl_ok("add", "bench", *arguments, "--vocab", vocab, timeout=600))


def cold_rate(count, arguments, vocab, workers, cores=None):
    """Daemon and prepctl on so many cores; None: on all of them."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        add_once(arguments, vocab, workers)
        return count / add_once(arguments, vocab, workers)
    finally:
        os.sched_setaffinity(0, allowed)


def measure_cold(table, name, files, arguments, vocab, peer):
    rates = {(1, None): [], (2, None): [], (1, 1): [], (2, 2): []}
    limits = []
    for _ in range(REPEATS):
        for (workers, cores), figures in rates.items():
            figures.append(cold_rate(len(files), arguments, vocab, workers, cores))
        limits.append(decode_rates(files))
    libjpeg, own = (statistics.median(figures) for figures in zip(*limits))
    one, two, one_core, two_cores = (statistics.median(figures) for figures in rates.values())
    table.add(f"{name}, {len(files)} pictures, 1 worker", one, "pictures/s", "libjpeg-turbo decoding alone, one core", libjpeg)
    table.add(f"{name}, 1 worker", one, "pictures/s", "torchvision, one core", peer)
    table.add(f"{name}, 2 workers", two, "pictures/s", "1 worker", one)
    table.add(f"{name}, 2 workers, all on two cores", two_cores, "pictures/s", "1 worker, all on one core", one_core)
    table.add(f"{name}, decoding alone, one core", own, "pictures/s", "libjpeg-turbo decoding alone, one core", libjpeg)


def stream_figures(daemon, dtype, split):
    result = subprocess.run([BUILD / "bench" / "bench_stream", "--socket", daemon.socket, "--data", "bench", "--dtype", dtype,
                             "--split", split, "--batch-size", "32"], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--only", choices=["cold", "warm"], help="half of it")
    options = parser.parse_args()
    try:
        import torchvision  # noqa: F401
        with_peer = True
    except ImportError:
        with_peer = False
        note("torchvision is not installed: no peer")
    cold = Table("Pipeline, cold: prepctl add, pictures a second")
    warm = Table("Pipeline, warm: batches of 32 at 224 px over the socket and shared memory")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name, (images, arguments, vocab) in data_sets(pathlib.Path(folder)).items():
            arguments, files = add_arguments(images, arguments)
            peer = median_of(lambda files=files: torchvision_rate(files)) if with_peer else None
            if options.only != "warm":
                measure_cold(cold, name, files, arguments, vocab, peer)
            if options.only == "cold":
                continue
            with Daemon() as daemon:
                daemon.prepctl_ok("add", "bench", *arguments, "--vocab", vocab, timeout=600)
                for dtype in ("f32", "u8"):
                    runs = [stream_figures(daemon, dtype, "train") for _ in range(REPEATS)]
                    middle = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
                    warm.add(f"{name}, {dtype}, pictures", middle["pictures_per_s"], "pictures/s", "torchvision, one core", peer)
                    warm.add(f"{name}, {dtype}, bytes", middle["bytes_per_s"] / 1e9, "GB/s", "memcpy", middle["memcpy_bytes_per_s"] / 1e9)
                    if "memcpy_split_bytes_per_s" in middle:
                        warm.add(f"{name}, {dtype}, bytes", middle["bytes_per_s"] / 1e9, "GB/s", "memcpy of the whole split",
                                 middle["memcpy_split_bytes_per_s"] / 1e9)
                    if dtype == "f32" and with_peer:
                        warm.add(f"{name}, {dtype}, bytes", middle["bytes_per_s"] / 1e9, "GB/s", "DataLoader over a memmap, 2 workers",
                                 memmap_rate(pathlib.Path(folder)) / 1e9)
                    warm.add(f"{name}, {dtype}, connect to first batch", 1e3 * middle["first_batch_s"], "ms", "the aim", 10.0)
                rates, decoded = crowd(daemon, "train")
                warm.add(f"{name}, u8, slowest of {CLIENTS} clients at once (decoded meanwhile: {decoded})", min(rates), "pictures/s",
                         "the fastest", max(rates))
    give("\n".join(table.markdown() for table in (cold, warm) if table.rows), options.out)


if __name__ == "__main__":
    main()
