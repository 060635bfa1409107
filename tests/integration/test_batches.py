"""The batches that a daemon serves: those of the oracle, and nothing prepared twice for them."""
import json
import os
import pathlib
import struct
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import SLOW, Daemon, shared_data  # noqa: E402
from serving import daemon, digests, small, start  # noqa: E402,F401

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


def test_rank_without_samples(small, daemon, tmp_path):
    small.add(daemon)
    arguments = ["small", "--split", "val", "--order", "eval", "--batch-size", 8, "--world", 4, "--size", 16]
    assert len(digests(daemon, *arguments, "--rank", 0)) == 2
    assert len(digests(daemon, *arguments, "--rank", 3)) == 2  # the second one is empty
    result = daemon.prepctl("batch", *arguments, "--rank", 3, "--step", 1, "--out", tmp_path / "x")
    assert result.returncode == 1 and "rank 3" in result.stderr and not (tmp_path / "x").exists()


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
