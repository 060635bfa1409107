"""--profile: its rows add up to the step, its arithmetic is the model's, and it changes nothing."""
import json
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import daemon, run, small  # noqa: E402,F401

BATCH = 8
TIME_FIELDS = {"pairs_per_s", "data_wait_s", "seconds", "adv_cost"}


def train(daemon, out, *more):
    result = run("trainer", "--data", "small", "--preset", "tiny", "--batch-size", BATCH, "--threads", "1", "--steps", "6", "--out", out,
                 *more, *daemon.at())
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().split("\n") if line]
    return result.stdout, [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


@pytest.fixture(scope="module")
def profiled(daemon, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "adv"
    stdout, metrics = train(daemon, out, "--reg", "adv", "--profile")
    return stdout, metrics, json.loads((out / "profile.json").read_text())


def kinds(profile, key):
    sums = {}
    for cell in profile["cells"]:
        sums[cell["kind"]] = sums.get(cell["kind"], 0) + cell[key]
    return sums


def tiny_convolutions(size=64, width=16):
    """(in, out, kernel, stride, height of the input) of every convolution of the tiny image tower."""
    def half(n):
        return (n - 1) // 2 + 1
    layers = [(3, width, 7, 2, size)]
    height, channels = half(half(size)), width
    for stage in range(4):
        out, stride = width << stage, 2 if stage else 1
        layers.append((channels, out, 3, stride, height))
        if stride != 1:
            layers.append((channels, out, 1, stride, height))
        height = half(height) if stride == 2 else height
        layers.append((out, out, 3, 1, height))
        channels = out
    return layers


def test_rows_add_up_to_the_step(profiled):
    _, _, profile = profiled
    assert profile["steps"] == 5 and profile["first_seconds"] > 0  # six, the first one left out
    assert sum(cell["seconds"] for cell in profile["cells"]) == pytest.approx(profile["seconds"], rel=1e-6)
    # What no operation accounts for. On a busy machine a step may be interrupted anywhere.
    assert 0 <= kinds(profile, "seconds")["other"] <= 0.2 * profile["seconds"]
    assert all(cell["seconds"] >= 0 for cell in profile["cells"])


def test_convolutions_are_counted_exactly(profiled):
    _, _, profile = profiled
    madds = [i * o * k * k * ((h - 1) // s + 1) ** 2 for i, o, k, s, h in tiny_convolutions()]
    flops = kinds(profile, "flops")
    each = 2 * BATCH * profile["steps"]
    assert flops["convolution forward"] == each * sum(madds)
    assert flops["convolution weight gradient"] == each * sum(madds)
    assert flops["convolution input gradient"] == each * sum(madds[1:])  # nobody wants the pixels' gradient
    shapes = {(s["in"], s["out"], s["kernel"], s["stride"], s["height"]) for s in profile["shapes"] if s["kind"] == "convolution forward"}
    assert shapes == set(tiny_convolutions())


def test_products_backward_are_twice_forward(profiled):
    _, _, profile = profiled
    flops = kinds(profile, "flops")
    for gradient in ("matrix product input gradient", "matrix product weight gradient"):
        assert flops[gradient] == flops["matrix product forward"]
    assert flops["attention backward"] == 2 * flops["attention forward"]


def test_optimizer_moves_eight_arrays(profiled):
    _, _, profile = profiled
    optimizer = [cell for cell in profile["cells"] if cell["kind"] == "optimizer"]
    assert [cell["part"] for cell in optimizer] == ["optimizer"]
    norm = [cell for cell in profile["cells"] if cell["kind"] == "gradient norm"]
    assert optimizer[0]["bytes"] == 8 * norm[0]["bytes"]


def test_the_adversary_has_a_part_of_its_own(profiled):
    _, _, profile = profiled
    part = {cell["kind"]: cell for cell in profile["cells"] if cell["part"] == "regularizer"}
    assert "attention forward" in part and "attention backward" in part and "perturbation, penalty" in part
    assert "convolution forward" not in part
    text = {cell["kind"]: cell for cell in profile["cells"] if cell["part"] == "text tower forward"}
    assert part["attention forward"]["flops"] == text["attention forward"]["flops"]  # it runs that tower once more


def test_drawing_partners_is_accounted_for(daemon, tmp_path):
    """mixup's draws are no kernel, and were time that nobody had taken."""
    train(daemon, tmp_path / "mixup", "--reg", "mixup", "--profile")
    profile = json.loads((tmp_path / "mixup" / "profile.json").read_text())
    assert kinds(profile, "calls")["choosing pairs"] == 2 * profile["steps"]


def test_the_table_is_printed(profiled):
    stdout, _, profile = profiled
    assert re.search(r"measured limits: \d+ GFLOP/s \(FMA peak\)", stdout)
    rows = re.findall(r"^(.{30}) +([0-9.]+) +([0-9.]+)% ", stdout, re.M)
    printed = {name.strip(): float(share) for name, _, share in rows[:next(i for i, row in enumerate(rows) if row[0].strip() == "step")]}
    assert set(printed) == set(kinds(profile, "seconds"))
    assert sum(printed.values()) == pytest.approx(100, abs=0.05 * len(printed))
    assert profile["peak_flops_per_s"] > 1e9


def test_it_changes_no_bit(daemon, profiled, tmp_path):
    _, metrics, _ = profiled
    stdout, plain = train(daemon, tmp_path / "plain", "--reg", "adv")
    assert plain == metrics
    assert "FMA peak" not in stdout and not (tmp_path / "plain" / "profile.json").exists()
