"""`trainer probe` against the same model in PyTorch, float64: loss, logits and every gradient.

Loss and logits within 1e-4 relative. A gradient may differ by 5e-3 relative to its norm, or by 4 times what PyTorch's
own float32 makes of the same batch where that is more. One ReLU that flips makes a single batch jump, in PyTorch too:
the best of up to three batches counts, and none may be beyond 50 times the allowance. PyTorch pads the captions, the
trainer packs them.

FULL=1 runs `full` in every mode, and every combination of the smaller presets.
"""
import os
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import tensors  # noqa: E402
from harness import run, run_ok  # noqa: E402
from torch_model import FusionModel, off_constants, without_dropout  # noqa: E402

FULL = os.environ.get("FULL") == "1"
GRADIENT_LIMIT, VALUE_LIMIT, BATCHES, BEYOND = 5e-3, 1e-4, 3, 50
VOCAB = {"full": 30522, "small": 3000, "tiny": 200}


def make_model(preset, classes, seed, text=None):
    """Random weights by each layer's rule, with norms, biases and running statistics moved off their constants."""
    torch.manual_seed(seed)
    return off_constants(without_dropout(FusionModel(preset, VOCAB[preset], classes, text=text)))


def make_batch(preset, task, classes, B, seed):
    rng = np.random.default_rng(seed)
    size = {"full": 224, "small": 112, "tiny": 64}[preset]
    lengths = rng.integers(3, 30, B)
    lengths[0], lengths[-1] = 2, 33
    ids = np.zeros((B, lengths.max()), np.int64)
    mask = np.zeros_like(ids)
    for b, n in enumerate(lengths):
        ids[b, :n] = rng.integers(1, VOCAB[preset], n)
        mask[b, :n] = 1
    ids[1, 1] = 0  # [PAD] as a token: embedded, but without a gradient
    batch = {"image": rng.standard_normal((B, 3, size, size), np.float32), "input_ids": ids, "attention_mask": mask}
    if task == "match":
        batch["pair_image"] = np.concatenate([np.arange(B), rng.integers(0, B, 3 * B)])
        batch["pair_text"] = np.concatenate([np.arange(B), rng.integers(0, B, 3 * B)])
        batch["pair_label"] = (batch["pair_image"] == batch["pair_text"]).astype(np.int64)
    else:
        batch["labels"] = rng.integers(0, classes, B)
    return batch


def torch_step(model, batch, mode, dtype):
    """(logits, loss, gradients) as float64 numpy."""
    model = model.to(dtype)
    model.train(mode == "train")
    kept = {name: value.clone() for name, value in model.state_dict().items() if "running" in name or "tracked" in name}
    model.zero_grad(set_to_none=True)
    get = {name: torch.from_numpy(array) for name, array in batch.items()}
    image = get["image"].to(dtype).requires_grad_(True)
    logits = model(image, get["input_ids"], get["attention_mask"], get.get("pair_image"), get.get("pair_text"))
    loss = torch.nn.functional.cross_entropy(logits, get["pair_label"] if "pair_label" in get else get["labels"])
    loss.backward()
    model.load_state_dict(kept, strict=False)
    grads = {name + ".grad": p.grad.double().numpy() for name, p in model.named_parameters() if p.grad is not None}
    grads["image.grad"] = image.grad.double().numpy()
    return logits.detach().double().numpy(), loss.item(), grads


def probe(folder, preset, task, mode, model, batch, *more):
    tensors.write(folder / "w.safetensors", {name: value.float().numpy() if value.is_floating_point() else value.numpy()
                                             for name, value in model.state_dict().items()})
    tensors.write(folder / "b.safetensors", batch)
    run_ok("trainer", "probe", "--preset", preset, "--task", task, "--mode", mode, "--weights", folder / "w.safetensors",
           "--batch", folder / "b.safetensors", "--out", folder / "o.safetensors", "--pixel-gradients", *more, timeout=300)
    return tensors.read(folder / "o.safetensors")


def is_zero_in_theory(name):
    """A bias of all keys shifts every score of a query alike, which softmax does not see."""
    return name.endswith("attention.self.key.bias.grad")


def check_batch(folder, preset, task, mode, B, seed):
    """Each gradient's error in units of its allowance."""
    classes = 2 if task == "match" else 5
    model = make_model(preset, classes, seed)
    batch = make_batch(preset, task, classes, B, seed + 1)
    ours = probe(folder, preset, task, mode, model, batch)
    _, _, single = torch_step(model, batch, mode, torch.float32)
    logits, loss, exact = torch_step(model, batch, mode, torch.float64)

    assert ours["loss"].shape == ()
    assert abs(float(ours["loss"]) - loss) <= VALUE_LIMIT * abs(loss)
    assert tensors.distance(ours["logits"], logits) <= VALUE_LIMIT
    assert set(ours) == set(exact) | {"loss", "logits"}
    ratios = {}
    for name, expected in exact.items():
        assert ours[name].shape == expected.shape, name
        if not is_zero_in_theory(name):
            allowed = max(GRADIENT_LIMIT, 4 * tensors.distance(single[name], expected))
            ratios[name] = tensors.distance(ours[name], expected) / allowed
    worst = max(ratios, key=ratios.get)
    print(f"{preset} {task} {mode}: worst {ratios[worst]:.3f} of the allowance at {worst}")
    assert ratios[worst] <= BEYOND, f"{worst}: {ratios[worst]} times the allowance"
    pad = ours["text_encoder.embeddings.word_embeddings.weight.grad"][0]
    assert not pad.any(), "the padding row has a gradient"
    return ratios


CASES = [("tiny", "match", "train"), ("tiny", "match", "eval"), ("tiny", "classify", "train"), ("tiny", "classify", "eval"),
         ("small", "match", "train"), ("small", "classify", "eval"), ("full", "match", "train")]
if FULL:
    CASES += [("small", "match", "eval"), ("small", "classify", "train"), ("full", "match", "eval"), ("full", "classify", "train"),
              ("full", "classify", "eval")]


@pytest.mark.parametrize("preset,task,mode", CASES)
def test_parity(tmp_path, preset, task, mode):
    worst = {}
    for seed in range(BATCHES):
        ratios = check_batch(tmp_path, preset, task, mode, 4 if preset == "full" else 6, 100 * seed + len(preset))
        name = max(ratios, key=ratios.get)
        if ratios[name] <= 1:
            return
        worst[name] = ratios[name]
    pytest.fail(f"none of {BATCHES} batches is within the allowance: {worst}")


@pytest.mark.parametrize("text", [dict(layers=4, width=312, heads=12, inner=1200), dict(layers=2, width=63, heads=7, inner=11)], ids=["TinyBERT", "odd"])
@pytest.mark.parametrize("kernels", ["own", "libraries"])
def test_bert_of_any_width(tmp_path, monkeypatch, text, kernels):
    """Rows that fill no vector: queries, keys and values are one matrix whose parts lie at any address."""
    monkeypatch.setenv("TRAINER_KERNELS", kernels)
    model, batch = make_model("tiny", 2, 4, text), make_batch("tiny", "match", 2, 5, 8)
    ours = probe(tmp_path, "tiny", "match", "eval", model, batch, "--text-encoder", ",".join(f"{key}={value}" for key, value in text.items()))
    logits, loss, exact = torch_step(model, batch, "eval", torch.float64)
    assert abs(float(ours["loss"]) - loss) <= VALUE_LIMIT * abs(loss) and tensors.distance(ours["logits"], logits) <= VALUE_LIMIT
    worst = {name: tensors.distance(ours[name], value) for name, value in exact.items() if not is_zero_in_theory(name)}
    assert max(worst.values()) <= GRADIENT_LIMIT, max(worst, key=worst.get)


def accumulated(model, batch, mode, K):
    """(logits, loss, gradients) of PyTorch going through the batch in K chunks, in float64; batch norm's statistics are each chunk's."""
    model = model.double()
    model.train(mode == "train")
    kept = {name: value.clone() for name, value in model.state_dict().items() if "running" in name or "tracked" in name}
    model.zero_grad(set_to_none=True)
    get = {name: torch.from_numpy(array) for name, array in batch.items()}
    image = get["image"].double().requires_grad_(True)
    match = "pair_label" in get
    N, chosen, total, logits = len(get["pair_label"] if match else get["labels"]), [], 0.0, []
    for rows in torch.arange(len(image)).chunk(K):
        first, last = int(rows[0]), int(rows[-1]) + 1
        if match:
            mine = torch.nonzero((get["pair_image"] >= first) & (get["pair_image"] < last))[:, 0]
            scored = model(image[first:last], get["input_ids"][first:last], get["attention_mask"][first:last], get["pair_image"][mine] - first,
                           get["pair_text"][mine] - first)
        else:
            mine = rows
            scored = model(image[first:last], get["input_ids"][first:last], get["attention_mask"][first:last])
        loss = torch.nn.functional.cross_entropy(scored, (get["pair_label"] if match else get["labels"])[mine], reduction="sum") / N
        loss.backward()
        total += loss.item()
        chosen.append(mine)
        logits.append(scored.detach())
    model.load_state_dict(kept, strict=False)
    grads = {name + ".grad": p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    grads["image.grad"] = image.grad.numpy()
    ordered = np.empty((N, logits[0].shape[1]))
    ordered[torch.cat(chosen).numpy()] = torch.cat(logits).numpy()
    return ordered, total, grads


@pytest.mark.parametrize("task, mode", [("match", "eval"), ("match", "train"), ("classify", "eval"), ("classify", "train")])
def test_accumulation(tmp_path, task, mode):
    """Micro-batches of 3, 3 and 2 give PyTorch's gradients, and with running statistics those of one batch."""
    B, K, classes = 8, 3, 2 if task == "match" else 5
    model, batch = make_model("tiny", classes, 5), make_batch("tiny", task, classes, B, 6)
    if task == "match":  # pairs within the micro-batches, in no order, and not as many in each
        i, j = np.meshgrid(np.arange(B), np.arange(B), indexing="ij")
        within = np.random.default_rng(7).permutation(np.flatnonzero((i // 3 == j // 3).ravel()))[:-3]
        batch["pair_image"], batch["pair_text"] = i.ravel()[within], j.ravel()[within]
        batch["pair_label"] = (batch["pair_image"] == batch["pair_text"]).astype(np.int64)
    one = probe(tmp_path, "tiny", task, mode, model, batch)
    ours = probe(tmp_path, "tiny", task, mode, model, batch, "--accumulate", K)
    logits, loss, exact = accumulated(model, batch, mode, K)
    assert abs(float(ours["loss"]) - loss) <= VALUE_LIMIT * abs(loss)
    assert tensors.distance(ours["logits"], logits) <= VALUE_LIMIT
    assert set(ours) == set(one) == set(exact) | {"loss", "logits"}
    apart = max(tensors.distance(ours[name], one[name]) for name in exact if not is_zero_in_theory(name))
    assert apart <= 1e-4 if mode == "eval" else apart > 1e-2, apart
    worst = {name: tensors.distance(ours[name], value) for name, value in exact.items() if not is_zero_in_theory(name)}
    assert max(worst.values()) <= GRADIENT_LIMIT, max(worst, key=worst.get)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model and a matching batch as files, and the arguments of a probe that works."""
    folder = tmp_path_factory.mktemp("tiny")
    state = {name: value.numpy() for name, value in make_model("tiny", 2, 1).state_dict().items()}
    batch = make_batch("tiny", "match", 2, 4, 2)
    return folder, state, batch


def attempt(tiny, change_batch=None, change_state=None, arguments=()):
    folder, state, batch = tiny
    state, batch = dict(state), dict(batch)
    for change, to in ((change_state, state), (change_batch, batch)):
        if change:
            change(to)
    tensors.write(folder / "w.safetensors", state)
    tensors.write(folder / "b.safetensors", batch)
    (folder / "o.safetensors").unlink(missing_ok=True)
    result = run("trainer", "probe", "--preset", "tiny", "--weights", folder / "w.safetensors", "--batch", folder / "b.safetensors",
                 "--out", folder / "o.safetensors", *arguments)
    return result, folder / "o.safetensors"


def test_i32_and_half(tiny):
    """Integers may be I32, weights F16; the pooler, counters and running statistics may be missing."""
    def batch(b):
        for name in ("input_ids", "attention_mask", "pair_image", "pair_text", "pair_label"):
            b[name] = b[name].astype(np.int32)

    def state(s):
        for name in list(s):
            if "pooler" in name or "tracked" in name or "running" in name:
                del s[name]
        s["head.weight"] = s["head.weight"].astype(np.float16)
        s["text_projector.weight"] = s["text_projector.weight"].astype(np.float64)

    result, out = attempt(tiny, batch, state)
    assert result.returncode == 0, result.stderr
    assert np.isfinite(tensors.read(out)["loss"])


def test_same_bits_twice(tiny):
    first = attempt(tiny)[1].read_bytes()
    assert attempt(tiny)[1].read_bytes() == first


@pytest.mark.parametrize("variable, value", [("OMP_THREAD_LIMIT", "1"), ("OMP_MAX_ACTIVE_LEVELS", "0")])
def test_threads_that_openmp_does_not_give(tiny, monkeypatch, variable, value):
    """OpenBLAS would wait for them for ever."""
    monkeypatch.setenv("TRAINER_KERNELS", "libraries")
    alone = attempt(tiny, arguments=["--threads", "1"])[1].read_bytes()
    monkeypatch.setenv(variable, value)
    result, out = attempt(tiny, arguments=["--threads", "2"])
    assert result.returncode == 0 and "2 threads" in result.stderr and variable in result.stderr, result.stderr
    assert out.read_bytes() == alone
    result, out = attempt(tiny)
    assert result.returncode == 0 and variable not in result.stderr and out.read_bytes() == alone, result.stderr


def test_padding_is_ignored(tiny):
    """Longer padding, and other ids in it, change nothing."""
    def batch(b):
        ids = np.full((b["input_ids"].shape[0], 60), 9, np.int64)
        mask = np.zeros_like(ids)
        T = b["input_ids"].shape[1]
        mask[:, :T] = b["attention_mask"]
        ids[:, :T] = np.where(b["attention_mask"] == 1, b["input_ids"], 11)
        b["input_ids"], b["attention_mask"] = ids, mask

    first = attempt(tiny)[1].read_bytes()
    assert attempt(tiny, batch)[1].read_bytes() == first


def set_at(name, index, value):
    def change(d):
        d[name] = d[name].copy()
        d[name][index] = value
    return change


def drop(name):
    return lambda d: d.pop(name)


def reshape(name, shape):
    def change(d):
        d[name] = np.zeros(shape, d[name].dtype)
    return change


@pytest.mark.parametrize("batch,state,words", [
    (drop("pair_label"), None, ["pair_label", "--task classify"]),
    (drop("image"), None, ["no tensor image"]),
    (drop("attention_mask"), None, ["no tensor attention_mask"]),
    (set_at("pair_image", 2, 4), None, ["pair_image has 4", "4 pictures"]),
    (set_at("pair_text", 0, -1), None, ["pair_text has -1"]),
    (set_at("pair_label", 1, 2), None, ["pair_label has 2"]),
    (set_at("input_ids", (0, 0), 200), None, ["input_ids has 200", "199"]),
    (set_at("attention_mask", (1, 0), 0), None, ["attention_mask", "row 1"]),
    (set_at("attention_mask", (1, 0), 2), None, ["attention_mask", "row 1"]),
    (set_at("image", (0, 0, 0, 0), np.nan), None, ["image", "not finite"]),
    (reshape("image", (4, 1, 64, 64)), None, ["(4, 1, 64, 64)", "three channels"]),
    (reshape("image", (4, 3, 64, 48)), None, ["square"]),
    (reshape("input_ids", (3, 33)), None, ["(4, T)"]),
    (reshape("pair_text", (5,)), None, ["pair_text has 5 entries", "16"]),
    (None, drop("head.bias"), ["head.bias", "lacks"]),
    (None, drop("head.weight"), ["head.weight"]),
    (None, reshape("fusion_layer.1.weight", (128, 250)), ["fusion_layer.1.weight", "(128, 250)", "(128, 256)"]),
    (None, reshape("head.weight", (7, 128)), ["--task classify"]),
    (None, set_at("head.bias", 0, np.inf), ["head.bias", "not finite"]),
    (None, set_at("image_encoder.bn1.running_var", 3, -1e-3), ["image_encoder.bn1.running_var", "-0.001", "no variance"]),
    (None, drop("text_encoder.embeddings.word_embeddings.weight"), ["word_embeddings", "first tensor is image_encoder.conv1.weight"]),
])
def test_errors(tiny, batch, state, words):
    result, out = attempt(tiny, batch, state)
    assert result.returncode == 1, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("trainer: "), result.stderr
    for word in words:
        assert word in result.stderr
    assert not out.exists()


def test_usage_errors(tiny):
    for arguments, words in [(["--task", "rank"], ["--task", "'rank'", "classify"]), (["--mode", "test"], ["--mode test"]),
                             (["--preset", "huge"], ["huge", "small"]), (["--threads", "0"], ["threads"])]:
        result, out = attempt(tiny, arguments=arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        for word in words:
            assert word in result.stderr
        assert not out.exists()
    result, out = attempt(tiny, arguments=["--accumulate", "5"])
    assert result.returncode == 2 and "--accumulate 5" in result.stderr and "4 pictures" in result.stderr and not out.exists()
    result, out = attempt(tiny, set_at("pair_text", 0, 3), arguments=["--accumulate", "2"])
    assert result.returncode == 1 and "pair 0 joins picture 0 with caption 3" in result.stderr and not out.exists(), result.stderr
    result = attempt(tiny, arguments=["--image-size", "112"])[0]
    assert result.returncode == 1 and "64" in result.stderr


def test_one_value_a_channel(tiny):
    """PyTorch: "Expected more than 1 value per channel when training"; also where only the last micro-batch is of one picture."""
    for batch, more in ((1, []), (3, ["--accumulate", "2"])):
        def change(d, batch=batch):
            for name in ("image", "input_ids", "attention_mask"):
                d[name] = d[name][:batch]
            d["image"] = d["image"][:, :, :32, :32]
            for name in ("pair_image", "pair_text"):
                d[name] = np.arange(batch)
            d["pair_label"] = np.ones(batch, np.int64)
        result, out = attempt(tiny, change, arguments=["--mode", "train", *more])
        assert result.returncode == 1 and "batch norm" in result.stderr and not out.exists(), result.stderr
        assert attempt(tiny, change, arguments=["--mode", "eval", *more])[0].returncode == 0


def test_truncated_weights(tiny):
    folder = tiny[0]
    attempt(tiny)
    data = (folder / "w.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[:len(data) // 2])
    result = run("trainer", "probe", "--preset", "tiny", "--weights", folder / "cut.safetensors", "--batch", folder / "b.safetensors",
                 "--out", folder / "o2.safetensors")
    assert result.returncode == 1 and "cut.safetensors" in result.stderr
    assert not (folder / "o2.safetensors").exists()
