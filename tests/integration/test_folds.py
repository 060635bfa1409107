"""Folds of cross-validation as names of splits: the same as schemas/manifest.md worked out here, in every program that names a split."""
import hashlib
import json
import os
import re
import struct
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "golden"))
from harness import Daemon, run, run_ok, write_csv, write_pictures, write_vocab  # noqa: E402
from order import key, philox  # noqa: E402

TRAIN, VAL = 40, 23
FOLD_DOMAIN = 32


class Data:
    """Pictures with two captions each. Some share captions but for spelling, some are of one group, all share one text."""

    def __init__(self, folder):
        self.images = folder / "images"
        names = [row[0] for row in write_pictures(self.images, TRAIN + VAL)]
        self.rows = []
        for i, name in enumerate(names):
            text = {7: "A red,  SQUARE 3", 50: "a red square 3!"}.get(i, f"a red square {i}")
            group = "together" if i in (11, 12, 45) else f"g{i}"
            self.rows.append((name, text, ["red", "green", "blue", ""][i % 4], group))
            self.rows.append((name, "a picture", ["red", "green", "blue", ""][i % 4], group))
        header = ("image", "caption", "label", "group")
        self.train = write_csv(folder / "train.csv", self.rows[:2 * TRAIN], header)
        self.val = write_csv(folder / "val.csv", self.rows[2 * TRAIN:], header)
        self.vocab = write_vocab(folder / "words.txt")

    def add(self, daemon):
        daemon.prepctl_ok("add", "folds", "--format", "csv", "--images", self.images, "--captions", f"train={self.train}",
                          "--captions", f"val={self.val}", "--vocab", self.vocab, "--size", "64")

    def folds(self, count, seed, pictures):
        """The fold of each of the pictures, from the text of the schema; no limit on what hangs together is reached."""
        most = max(2, len(pictures) // (4 * count))
        unit = {p: p for p in pictures}

        def unite(a, b):
            for p in pictures:
                if unit[p] == a:
                    unit[p] = b

        texts, groups = {}, {}
        for i, (_, text, _, group) in enumerate(self.rows):
            if i // 2 in unit:
                texts.setdefault(re.sub(r"[^a-z0-9]+", " ", text.lower()).strip(), []).append(i // 2)
                groups.setdefault(group, []).append(i // 2)
        for members in groups.values():
            for p in members[1:]:
                unite(unit[p], unit[members[0]])
        for members in texts.values():
            for p in members[1:] if len(members) <= most else []:
                unite(unit[p], unit[members[0]])
        labels = sorted({row[2] for row in self.rows} - {""})
        units = []
        for name in set(unit.values()):
            members = [p for p in pictures if unit[p] == name]
            keyed = []
            for p in members:
                words = struct.unpack("<4I", hashlib.sha256((self.images / self.rows[2 * p][0]).read_bytes()).digest()[:16])
                keyed.append((philox(*key(seed, FOLD_DOMAIN), *words), p))
            smallest, owner = min(keyed)
            label = self.rows[2 * owner][2]
            units.append((labels.index(label) if label else -1, -len(members), smallest, members))
        result, every = {}, [0] * count
        labelled = {}
        for label, _, _, members in sorted(units):
            mine = labelled.setdefault(label, [0] * count)
            k = min(range(count), key=lambda i: (mine[i], every[i], i))
            mine[k] += len(members)
            every[k] += len(members)
            result.update({p: k + 1 for p in members})
        return result


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("folds"))


@pytest.fixture(scope="module")
def daemon(data):
    with Daemon() as running:
        data.add(running)
        yield running


def pictures_of(daemon, split, tmp_path):
    out = tmp_path / "b.safetensors"
    daemon.prepctl_ok("batch", "folds", "--split", split, "--batch-size", "64", "--size", "32", "--out", out)
    content = out.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    begin, end = json.loads(content[8:8 + size])["sample_ids"]["data_offsets"]
    ids = struct.unpack(f"<{(end - begin) // 8}q", content[8 + size + begin:8 + size + end])
    return {sample // 2 for sample in ids}


@pytest.mark.parametrize("base, first, last, count, seed", [("all", 0, TRAIN + VAL, 5, 0), ("train+val", 0, TRAIN + VAL, 2, 9),
                                                            ("train", 0, TRAIN, 3, 0)])
def test_folds_are_those_of_the_schema(daemon, data, tmp_path, base, first, last, count, seed):
    expected = data.folds(count, seed, range(first, last))
    more = f",seed={seed}" if seed else ""
    for k in range(1, count + 1):
        assert pictures_of(daemon, f"{base}~fold={k}/{count}{more}", tmp_path) == {p for p, fold in expected.items() if fold == k}
        assert pictures_of(daemon, f"{base}~rest={k}/{count}{more}", tmp_path) == {p for p, fold in expected.items() if fold != k}
    if base == "all" and count == 5:
        assert expected[11] == expected[12] == expected[45] and expected[7] == expected[50] == expected[3]


def test_a_fold_is_cut_again(daemon, data, tmp_path):
    outer = data.folds(5, 0, range(TRAIN + VAL))
    rest = sorted(p for p, fold in outer.items() if fold != 2)
    inner = data.folds(3, 8, rest)
    for k in (1, 2, 3):
        for kind in ("fold", "rest"):
            split = f"all~rest=2/5~{kind}={k}/3,seed=8"
            assert pictures_of(daemon, split, tmp_path) == {p for p in rest if (inner[p] == k) == (kind == "fold")}


def test_a_fold_that_is_none_is_refused(daemon, tmp_path):
    for split, word in (("all~fold=6/5", "count from 1"), ("all~fold=1/64", "fewer folds"), ("all~part=1/5", "fold= or rest="),
                        ("all~fold=1/5~fold=1/40", "fewer folds"), ("all~fold=1/2~fold=1/2~fold=1/2~fold=1/2", "three deep"),
                        ("dev~fold=1/5", 'no split "dev"'),
                        ("train+all", '"all" is every split')):
        result = daemon.prepctl("batch", "folds", "--split", split, "--batch-size", "4", "--out", tmp_path / "x.safetensors")
        assert result.returncode in (1, 2) and word in result.stderr, result.stderr


def test_training_and_eval_on_folds(daemon, tmp_path):
    common = ["--data", "folds", "--preset", "tiny", "--batch-size", "8", "--threads", "1", "--epochs", "1", *daemon.at()]
    result = run_ok("trainer", *common, "--train-split", "all~rest=2/5", "--val-split", "all~fold=2/5", "--out", tmp_path / "run")
    assert "says nothing about other pictures" not in result.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["train"]["pictures"] + record["val"]["pictures"] == TRAIN + VAL and record["val"]["pictures"] in (12, 13)
    said = json.loads(run_ok("trainer", "eval", tmp_path / "run" / "last.safetensors", "--data", "folds", "--split", "all~fold=2/5", "--json",
                             "--threads", "1", *daemon.at()).stdout)
    assert said["accuracy"] == record["result"]["val"]["accuracy"] and said["pictures"] == record["val"]["pictures"]
    result = run("trainer", *common, "--train-split", "all~rest=2/5", "--val-split", "all~fold=1/5", "--out", tmp_path / "overlap")
    assert result.returncode == 0 and "says nothing about other pictures" in result.stderr
