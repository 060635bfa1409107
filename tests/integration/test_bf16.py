"""--precision bf16 end to end: runs repeat and resume bit for bit, stay near those in fp32, keep their precision, and
their checkpoints are float32."""
import json
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import daemon, has_bf16, run, run_ok, small  # noqa: E402,F401
from runs import differences, header, metrics  # noqa: E402


pytestmark = pytest.mark.skipif(not has_bf16(), reason="this build or processor has no bf16")


def train(daemon, out, *more):
    return run("trainer", "--data", "small", "--preset", "tiny", "--batch-size", "8", "--threads", "2", "--out", out, *more, *daemon.at())


def train_ok(daemon, out, *more):
    result = train(daemon, out, *more)
    assert result.returncode == 0, result.stderr
    return out


SPEC = ["--reg", "adv:target=text+feat+dropout=0.1", "--epochs", "4"]


@pytest.fixture(scope="module")
def whole(daemon, tmp_path_factory):
    return train_ok(daemon, tmp_path_factory.mktemp("whole") / "run", "--precision", "bf16", *SPEC)


def test_same_bits_again(daemon, whole, tmp_path):
    assert not differences(train_ok(daemon, tmp_path / "run", "--precision", "bf16", *SPEC), whole)


def test_resume(daemon, whole, tmp_path):
    """A run whose newest checkpoint is lost goes on from the one before."""
    out = tmp_path / "run"
    result = train(daemon, out, "--precision", "bf16", "--checkpoint-every", "5", *SPEC)
    assert result.returncode == 0, result.stderr
    newest = sorted((out / "checkpoints").iterdir())[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    for name in ("last.safetensors", "best.safetensors"):
        (out / name).unlink()
    record = json.loads((out / "run.json").read_text())
    record["state"] = "running"
    (out / "run.json").write_text(json.dumps(record))
    refused = train(daemon, out, "--resume", "--precision", "fp32")
    assert refused.returncode != 0 and "bf16" in refused.stderr, refused.stderr
    train_ok(daemon, out, "--resume")
    assert metrics(out, "train") == metrics(whole, "train")
    assert json.loads((out / "run.json").read_text())["config"]["precision"] == "bf16"


def test_near_fp32(daemon, whole, tmp_path):
    """The first losses, before small differences grow: the same weights, batches and masks."""
    single = train_ok(daemon, tmp_path / "run", "--precision", "fp32", *SPEC)
    pairs = list(zip(metrics(whole, "train"), metrics(single, "train")))
    for a, b in pairs[:3]:
        assert abs(a["loss"] - b["loss"]) < 0.02 * b["loss"], (a, b)
        assert a["digest"] == b["digest"] and a["lr"] == b["lr"]
    assert any(a["loss"] != b["loss"] for a, b in pairs)


def test_checkpoint_is_float32(whole):
    entries = header(whole / "last.safetensors")
    assert {entry["dtype"] for name, entry in entries.items() if name != "__metadata__"} == {"F32", "I64"}


def test_eval(daemon, whole, tmp_path):
    """As the run validated, unless told otherwise."""
    own = json.loads(run_ok("trainer", "eval", whole / "last.safetensors", "--data", "small", "--json", "--threads", "2", *daemon.at()).stdout)
    assert own["precision"] == "bf16" and own["loss"] == metrics(whole, "val")[-1]["loss"]
    single = json.loads(run_ok("trainer", "eval", whole / "last.safetensors", "--data", "small", "--json", "--precision", "fp32", "--threads",
                               "2", *daemon.at()).stdout)
    assert single["precision"] == "fp32" and single["loss"] != own["loss"] and abs(single["loss"] - own["loss"]) < 0.01
