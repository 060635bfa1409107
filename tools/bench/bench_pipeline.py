#!/usr/bin/env python3
"""Pictures a second: adding them cold, and reading prepared batches, beside torchvision's pipeline and memcpy.

    tools/bench/bench_pipeline.py [--out FILE.md]

Cold is `prepctl add` into an empty cache, from the command's start to its end:
reading, hashing, decoding, resizing, checksums and the durable write included.
The peer is torchvision's pipeline on the same files, in one process, nothing
stored. Medians of BENCH_REPEATS (3) runs.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

from common import BUILD, SHARED_DATA, Table, median_of, note, seconds_of
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


def cold_rate(count, arguments, vocab, workers):
    with Daemon("--workers", workers) as daemon:
        seconds = seconds_of(lambda: daemon.prepctl_ok("add", "bench", *arguments, "--vocab", vocab, timeout=600))
        return count / seconds


def stream_figures(daemon, dtype, split):
    result = subprocess.run([BUILD / "bench" / "bench_stream", "--socket", daemon.socket, "--data", "bench", "--dtype", dtype,
                             "--split", split, "--batch-size", "32"], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
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
            for workers in (1, 2):
                rate = median_of(lambda w=workers, n=len(files), a=arguments, v=vocab: cold_rate(n, a, v, w))
                cold.add(f"{name}, {len(files)} pictures, {workers} worker{'s' if workers > 1 else ''}", rate, "pictures/s",
                         "torchvision, one core", peer)
            with Daemon() as daemon:
                daemon.prepctl_ok("add", "bench", *arguments, "--vocab", vocab, timeout=600)
                for dtype in ("f32", "u8"):
                    runs = [stream_figures(daemon, dtype, "train") for _ in range(3)]
                    runs.sort(key=lambda run: run["pictures_per_s"])
                    middle = runs[1]
                    warm.add(f"{name}, {dtype}, pictures", middle["pictures_per_s"], "pictures/s", "torchvision, one core", peer)
                    warm.add(f"{name}, {dtype}, bytes", middle["bytes_per_s"] / 1e9, "GB/s", "memcpy", middle["memcpy_bytes_per_s"] / 1e9)
                    warm.add(f"{name}, {dtype}, connect to first batch", 1e3 * middle["first_batch_s"], "ms")
    text = cold.markdown() + "\n" + warm.markdown()
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
