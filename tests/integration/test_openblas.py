"""The trainer without oneDNN (`make openblas`, the same as ONEDNN=0): trains, repeats bit for bit, and its losses are those of
the usual build but for rounding.

Where the trainer has products of its own (gemm.h), both builds are told to leave them; a last test holds those against the libraries."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BUILD, daemon, run, small  # noqa: E402,F401
from runs import differences, metrics  # noqa: E402

ALONE = BUILD / "openblas" / "trainer"
# Training amplifies rounding from step to step: so far apart at the first step, and at the last of twelve.
FIRST_LIMIT, LAST_LIMIT = 1e-5, 1e-3


@pytest.fixture(autouse=True, scope="module")
def libraries():
    os.environ["TRAINER_KERNELS"] = "libraries"
    yield
    del os.environ["TRAINER_KERNELS"]


def train(daemon, program, out, *more):
    return run(program, "--data", "small", "--preset", "tiny", "--batch-size", "8", "--epochs", "4", "--warmup", "4", "--threads", "1",
               "--reg", "adv:target=text+feat", "--out", out, *more, *daemon.at())


def train_ok(daemon, program, out, *more):
    result = train(daemon, program, out, *more)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def alone(daemon, tmp_path_factory):
    return train_ok(daemon, ALONE, tmp_path_factory.mktemp("alone") / "run")



def has_onednn():
    """Whether the usual build is linked with it."""
    return "libdnnl" in subprocess.run(["ldd", BUILD / "bin" / "trainer"], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_agrees_with_the_usual_build(daemon, alone, tmp_path):
    usual = train_ok(daemon, "trainer", tmp_path / "run")
    pairs = list(zip(metrics(alone, "train"), metrics(usual, "train"), strict=True))
    assert len(pairs) == 12
    for step, (a, b) in enumerate(pairs):
        limit = FIRST_LIMIT + (LAST_LIMIT - FIRST_LIMIT) * step / (len(pairs) - 1)
        assert a["digest"] == b["digest"] and a["lr"] == b["lr"]
        assert abs(a["loss"] - b["loss"]) < limit * b["loss"], (step, a["loss"], b["loss"])
    if has_onednn():
        assert any(a["loss"] != b["loss"] for a, b in pairs), "oneDNN is in both, or in neither"


def has_own_products():
    flags = set(next(line for line in open("/proc/cpuinfo", encoding="ascii") if line.startswith("flags")).split())
    return {"avx2", "fma"} <= flags


def test_own_products_agree_with_the_libraries(daemon, alone, tmp_path, monkeypatch):
    if not has_own_products():
        pytest.skip("on this processor the libraries' products are the trainer's")
    monkeypatch.delenv("TRAINER_KERNELS")
    own = metrics(train_ok(daemon, "trainer", tmp_path / "run"), "train")
    theirs = metrics(alone, "train")
    for step, (a, b) in enumerate(zip(own, theirs, strict=True)):
        limit = FIRST_LIMIT + (LAST_LIMIT - FIRST_LIMIT) * step / (len(own) - 1)
        assert abs(a["loss"] - b["loss"]) < limit * b["loss"], (step, a["loss"], b["loss"])
    assert any(a["loss"] != b["loss"] for a, b in zip(own, theirs)), "the environment's TRAINER_KERNELS changes nothing"


def test_same_bits_again(daemon, alone, tmp_path):
    assert not differences(train_ok(daemon, ALONE, tmp_path / "run"), alone)


def test_bf16_is_refused(daemon, tmp_path):
    """Before anything is done, with the reason and the remedy."""
    refused = train(daemon, ALONE, tmp_path / "run", "--precision", "bf16")
    assert refused.returncode != 0, refused.stderr
    assert ("oneDNN (release 2 or 3)" in refused.stderr or "this processor has no" in refused.stderr) and "fp32" in refused.stderr, refused.stderr
    assert not (tmp_path / "run").exists()
