"""Every kind of layer, forward and backward, against torch.nn in float64.

Tolerances are relative to the norm of the whole tensor: what float32 costs in one layer is below them with room to
spare, and what a wrong formula costs is far above. LIMIT holds for everything; sums over a batch in batch norm are the
reason that it is not smaller. Dropout masks are computed by a second implementation of the rule that names them.

With bf16, arguments are numbers that bf16 holds, PyTorch computes in float64 as before, and only what is stored as bf16 has
HALF, the rounding of one number to 8 bits, for a tolerance. What stays float32 (weight gradients, statistics, the products of
the encoder layers, everything else of text tower and fusion stage) is held as float32 is.

FULL=1 takes every distinct convolution of ResNet-50 at 224 px and of ResNet-18 at 112 px in its real size; the default run
has every kernel, stride and number of channels of them on fewer pixels.
"""
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torch.nn import functional as F  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import tensors  # noqa: E402
from harness import BUILD, MODE, ROOT  # noqa: E402
from philox import HEAD_SHIFT, factors  # noqa: E402

FULL = os.environ.get("FULL") == "1"
LAYERS = BUILD / "tests" / "layers"
LIMIT, HALF = 2e-6, 2 ** -8 / 3 ** 0.5
TABLES = ["fast", "reference", "bf16"]
NO_BF16 = 3


@pytest.fixture(scope="module", autouse=True)
def program():
    subprocess.run(["make", "-s", f"MODE={MODE}", str(LAYERS.relative_to(ROOT))], cwd=ROOT, check=True)


def write(path, arrays, metadata):
    """As tensors.write, with metadata."""
    tensors.write(path, arrays)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8:8 + length])
    head["__metadata__"] = {key: str(value) for key, value in metadata.items()}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])


def kernel(folder, table, op, arrays, threads=1, **numbers):
    """The kernel's outputs. Floats go in as float32: arrays must hold such values."""
    write(folder / "in.safetensors", {name: np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)
                                      for name, array in arrays.items()}, {"op": op, **numbers})
    result = subprocess.run([LAYERS, table, str(threads), folder / "in.safetensors", folder / "out.safetensors"], stderr=subprocess.PIPE, text=True, check=False)
    if table == "bf16" and result.returncode == NO_BF16:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    return tensors.read(folder / "out.safetensors")


def draw(seed, *shape, scale=1.0, shift=0.0):
    """Numbers that float32 holds exactly, as float64."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale + shift).astype(np.float32).astype(np.float64)


def for_table(table, array):
    """The numbers next to these that the table's activations can hold."""
    return torch.from_numpy(array).to(torch.bfloat16).double().numpy() if table == "bf16" else array


def leaf(array):
    return torch.from_numpy(np.array(array)).requires_grad_(array.dtype.kind == "f")


def compare(found, expected, limit=LIMIT, halves=()):
    for name, value in expected.items():
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        apart = tensors.distance(found[name], value)
        allowed = HALF * (1 + (name == "dx_added")) if name in halves else limit  # a gradient that is added is stored, then the sum
        assert apart <= allowed, f"{name}: {apart:.2e} of its norm away"
        assert name not in halves or apart > LIMIT, f"{name}: {apart:.2e} of its norm away, which is not bf16"


# --- convolution ------------------------------------------------------------------------


def convolutions():
    """(in, out, kernel, stride, pad, size) of every convolution of both image towers."""
    found = []
    for arch, size in (("resnet50", 224), ("resnet18", 112)):
        model = getattr(torchvision.models, arch)(weights=None).eval()

        def note(module, inputs, _):
            key = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], module.padding[0], inputs[0].shape[2])
            if key not in found:
                found.append(key)

        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(note)
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    return found


SHAPES = convolutions()


def small_shapes():
    """Every (in, out, kernel, stride) once, on at most 15 pixels a side, odd and even."""
    found = {}
    for i, (channels, out, k, stride, pad, size) in enumerate(SHAPES):
        found.setdefault((channels, out, k, stride), (channels, out, k, stride, pad, min(size, 31 if k == 7 else 14 + i % 2 if channels <= 128 else 7)))
    return list(found.values())


def check_conv(folder, table, shape, n, threads=1):
    channels, out, k, stride, pad, size = shape
    x, w = (for_table(table, a) for a in (draw(1, n, size, size, channels), draw(2, out, channels, k, k, scale=(channels * k * k) ** -0.5)))
    a, b = leaf(x.transpose(0, 3, 1, 2).copy()), leaf(w)
    y = F.conv2d(a, b, stride=stride, padding=pad)
    dy = for_table(table, draw(3, *y.shape))
    y.backward(torch.from_numpy(dy))
    found = kernel(folder, table, "conv", {"x": x, "w": w, "dy": dy.transpose(0, 2, 3, 1)}, threads, stride=stride, pad=pad)
    nhwc = (0, 2, 3, 1)
    compare(found, {"y": y.permute(nhwc), "dx": a.grad.permute(nhwc), "dx_added": a.grad.permute(nhwc) + torch.from_numpy(x), "dw": b.grad},
            LIMIT if size < 100 else 3 * LIMIT,  # sums over 37,632 places
            ("y", "dx", "dx_added") if table == "bf16" else ())


def test_the_shapes_are_those_of_the_towers():
    assert len(SHAPES) > 25 and len(small_shapes()) > 20
    assert {(3, 64, 7, 2), (64, 64, 1, 1), (128, 128, 3, 2), (1024, 2048, 1, 2), (512, 512, 3, 1), (256, 512, 3, 2)} <= {shape[:4] for shape in SHAPES}


CONVOLUTIONS = [(shape, table) for shape in (SHAPES if FULL else small_shapes()) for table in ("fast", "openblas", "bf16")
                if table != "openblas" or FULL or shape[0] * shape[1] <= 256 * 1024]


@pytest.mark.parametrize("shape, table", CONVOLUTIONS, ids=str)
def test_convolution(tmp_path, shape, table):
    check_conv(tmp_path, table, shape, 3, threads=2 if shape[0] == 64 else 1)


@pytest.mark.parametrize("shape", [(3, 8, 7, 2, 3, 12), (8, 8, 3, 2, 1, 7), (8, 16, 1, 2, 0, 7), (16, 8, 3, 1, 1, 5)], ids=str)
def test_convolution_reference(tmp_path, shape):
    check_conv(tmp_path, "reference", shape, 3)


# --- batch norm and pooling ----------------------------------------------------------------


def norm_arrays(seed, C, prefix=""):
    return {prefix + "weight": draw(seed, C, scale=0.3, shift=1), prefix + "bias": draw(seed + 1, C, scale=0.3), prefix + "running_mean": draw(seed + 2, C),
            prefix + "running_var": np.abs(draw(seed + 3, C)) + 0.5}


def torch_norm(x, arrays, train, prefix=""):
    """(bn(x), leaves, running statistics after it); x (rows, C)."""
    weight, bias = leaf(arrays[prefix + "weight"]), leaf(arrays[prefix + "bias"])
    mean, var = (torch.from_numpy(arrays[prefix + name].copy()) for name in ("running_mean", "running_var"))
    return F.batch_norm(x, mean, var, weight, bias, training=train, momentum=0.1, eps=1e-5), (weight, bias), (mean, var)


def away_from_zero(y):
    """A ReLU's input at which float32 and float64 cannot fall on different sides."""
    return float(y.abs().min()) > 1e-6


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("train", [1, 0], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["plain", "added", "projected"])
def test_batch_norm(tmp_path, table, train, kind):
    """relu(bn(x)), relu(bn(x) + shortcut), relu(bn(x) + bn(shortcut)): gradients, and running statistics with the unbiased variance."""
    rows, C = 3 * 7 * 7, 48
    arrays = {"x": for_table(table, draw(1, rows, C, scale=2, shift=0.5)), "dy": for_table(table, draw(2, rows, C)), **norm_arrays(3, C)}
    if kind != "plain":
        arrays["shortcut"] = for_table(table, draw(8, rows, C))
    if kind == "projected":
        arrays.update(norm_arrays(9, C, "shortcut_"))
    x = leaf(arrays["x"])
    y, (weight, bias), (mean, var) = torch_norm(x, arrays, bool(train))
    expected = {}
    if kind != "plain":
        shortcut = leaf(arrays["shortcut"])
        side = shortcut
        if kind == "projected":
            side, (other_weight, other_bias), (_, other_var) = torch_norm(shortcut, arrays, bool(train), "shortcut_")
        y = y + side
    assert away_from_zero(y)
    out = torch.relu(y)
    out.backward(torch.from_numpy(arrays["dy"]))
    expected.update(y=out, dx=x.grad, dweight=weight.grad, dbias=bias.grad, running_mean=mean, running_var=var)
    if kind != "plain":
        expected["dshortcut"] = shortcut.grad
    if kind == "projected":
        expected.update(shortcut_dweight=other_weight.grad, shortcut_dbias=other_bias.grad, shortcut_running_var=other_var)
    if train:
        biased = 0.9 * arrays["running_var"] + 0.1 * arrays["x"].var(0)
        assert tensors.distance(var.numpy(), biased) > 100 * LIMIT  # the test can tell the two apart
    halves = {"y", "dx"} | ({"dshortcut"} if kind == "projected" else set()) if table == "bf16" else set()
    compare(kernel(tmp_path, table, "batch_norm", arrays, train=train), expected, halves=halves)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("height, width", [(14, 14), (9, 12)])
def test_max_pooling(tmp_path, table, height, width):
    n, C = 3, 32
    arrays = {"x": for_table(table, draw(1, n, height, width, C)), **norm_arrays(2, C)}
    x = leaf(arrays["x"])
    y, (weight, bias), _ = torch_norm(x.reshape(-1, C), arrays, True)
    assert away_from_zero(y)
    pooled = F.max_pool2d(torch.relu(y).reshape(n, height, width, C).permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    arrays["dy"] = for_table(table, draw(9, *pooled.shape))
    pooled.backward(torch.from_numpy(arrays["dy"]))
    compare(kernel(tmp_path, table, "max_pool", arrays), dict(y=pooled, dx=x.grad, dweight=weight.grad, dbias=bias.grad),
            # the gradient before the maximum, a sum where windows overlap, is stored, too
            halves=("y", "dx", "dweight", "dbias") if table == "bf16" else ())


@pytest.mark.parametrize("table", TABLES)
def test_average_pooling(tmp_path, table):
    arrays = {"x": for_table(table, draw(1, 5, 49, 80)), "dy": draw(2, 5, 80)}
    x = leaf(arrays["x"])
    y = F.adaptive_avg_pool2d(x.permute(0, 2, 1).reshape(5, 80, 7, 7), 1).reshape(5, 80)
    y.backward(torch.from_numpy(arrays["dy"]))
    compare(kernel(tmp_path, table, "average_pool", arrays), dict(y=y, dx=x.grad), halves=("dx",) if table == "bf16" else ())


# --- the text tower and the fusion stage ---------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("rows, width, out", [(29, 64, 256), (7, 256, 768), (40, 130, 3), (1, 768, 2)])
def test_linear(tmp_path, table, rows, width, out):
    arrays = {"x": draw(1, rows, width), "w": draw(2, out, width, scale=width ** -0.5), "bias": draw(3, out), "dy": draw(4, rows, out)}
    x, w, bias = (leaf(arrays[name]) for name in ("x", "w", "bias"))
    y = F.linear(x, w, bias)
    y.backward(torch.from_numpy(arrays["dy"]))
    compare(kernel(tmp_path, table, "linear", arrays, threads=2), dict(y=y, dx=x.grad, dw=w.grad, dbias=bias.grad))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("rows, width, out", [(29, 64, 256), (221, 256, 768), (40, 136, 40), (25, 63, 189)])
def test_encoder_linear(tmp_path, table, rows, width, out):
    """In bf16 the operands are rounded and their products summed up in float32."""
    arrays = {"x": draw(1, rows, width), "w": draw(2, out, width, scale=width ** -0.5), "dy": draw(4, rows, out)}
    x, w = (leaf(for_table(table, arrays[name])) for name in ("x", "w"))
    bias = draw(3, out)
    y = F.linear(x, w, torch.from_numpy(bias))
    y.backward(torch.from_numpy(for_table(table, arrays["dy"])))
    compare(kernel(tmp_path, table, "encoder_linear", {**arrays, "bias": bias}, threads=2), dict(y=y, dx=x.grad, dw=w.grad))


@pytest.mark.parametrize("table", TABLES)
def test_gelu(tmp_path, table):
    """The erf form; the tanh form is far outside of the tolerance."""
    arrays = {"x": draw(1, 40, 96, scale=3), "bias": draw(2, 96), "dy": draw(3, 40, 96)}
    x = leaf(arrays["x"])
    pre = (x + torch.from_numpy(arrays["bias"])).float().double()  # rounded, as the kernel stores it
    y = F.gelu(pre)
    y.backward(torch.from_numpy(arrays["dy"]))
    assert tensors.distance(F.gelu(pre.detach().float(), approximate="tanh").numpy(), y.detach().numpy()) > 20 * LIMIT
    compare(kernel(tmp_path, table, "gelu", arrays), dict(y=y, dx=x.grad))


LENGTHS = [2, 33, 7, 1, 16, 20]
POSITIONS = [3, 70000, 0, 12, 5, 9]
DROPOUT = dict(layer=5, seed=2 ** 40 + 17, step=2 ** 33 + 4)


def packed():
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    token = np.concatenate([np.arange(n) for n in LENGTHS])
    position = np.repeat(POSITIONS, LENGTHS)
    return offsets, position, token


def mask_rows(probability, width):
    """(T, width) for packed rows."""
    _, position, token = packed()
    return torch.from_numpy(factors(probability, DROPOUT["layer"], DROPOUT["seed"], DROPOUT["step"], position[:, None], token[:, None],
                                    np.arange(width)[None]))


def test_masks_are_the_rule(tmp_path):
    """Known answers of Philox4x32-10 (Random123's kat_vectors), and the share that is dropped."""
    from philox import philox
    assert [int(v) for v in philox((0, 0), (0, 0, 0, 0))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(v) for v in philox((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344))] == [
        0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    share = float((mask_rows(0.3, 4096) == 0).double().mean())
    assert abs(share - 0.3) < 0.005


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
@pytest.mark.parametrize("width", [64, 200, 63])
def test_layer_norm(tmp_path, table, probability, eps, width):
    """LayerNorm(dropout(x + bias) + residual). Some rows vary so little that eps decides."""
    offsets, _, _ = packed()
    T = int(offsets[-1])
    small = np.where(np.arange(T) % 5 == 0, 2.0 ** -8, 1.0)[:, None]
    arrays = {"x": draw(1, T, width) * small, "bias": draw(2, width) * 2.0 ** -8, "residual": draw(3, T, width) * small, "dy": draw(4, T, width),
              "gamma": draw(5, width, shift=1), "beta": draw(6, width), "offsets": offsets, "positions": np.array(POSITIONS)}
    x, bias, residual, gamma, beta = (leaf(arrays[name]) for name in ("x", "bias", "residual", "gamma", "beta"))
    y = F.layer_norm((x + bias) * mask_rows(probability, width) + residual, (width,), gamma, beta, eps)
    y.backward(torch.from_numpy(arrays["dy"]))
    other = F.layer_norm((x + bias) * mask_rows(probability, width) + residual, (width,), gamma, beta, 1e-12 + 1e-5 - eps)
    assert tensors.distance(other.detach().numpy(), y.detach().numpy()) > 100 * LIMIT
    compare(kernel(tmp_path, table, "residual_norm", arrays, threads=2, eps=eps, dropout=probability, **DROPOUT),
            dict(y=y, dx=x.grad, dresidual=residual.grad, dgamma=gamma.grad, dbeta=beta.grad, dbias=bias.grad), 4 * LIMIT)


@pytest.mark.parametrize("table", TABLES)
def test_embeddings(tmp_path, table):
    """Word + type + position, LayerNorm, dropout; a word that comes several times, and the padding row that learns nothing."""
    offsets, _, token = packed()
    T, width, vocab = int(offsets[-1]), 64, 30
    ids = np.random.default_rng(1).integers(0, vocab, T)
    ids[3] = 0
    arrays = {"table": draw(2, vocab, width), "position": draw(3, 40, width), "type": draw(4, width), "gamma": draw(5, width, shift=1),
              "beta": draw(6, width), "dy": draw(7, T, width), "ids": ids, "offsets": offsets, "positions": np.array(POSITIONS)}
    words, positions, kind, gamma, beta = (leaf(arrays[name]) for name in ("table", "position", "type", "gamma", "beta"))
    total = F.embedding(torch.from_numpy(ids), words, padding_idx=0) + positions[torch.from_numpy(token)] + kind
    y = F.layer_norm(total, (width,), gamma, beta, 1e-12) * mask_rows(0.1, width)
    y.backward(torch.from_numpy(arrays["dy"]))
    found = kernel(tmp_path, table, "embeddings", arrays, eps=1e-12, pad=0, dropout=0.1, **DROPOUT)
    assert not found["dtable"][0].any()
    compare(found, dict(y=y, dtable=words.grad, dposition=positions.grad, dtype=kind.grad, dgamma=gamma.grad, dbeta=beta.grad))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("probability", [0.0, 0.1])
@pytest.mark.parametrize("heads, width", [(2, 64), (3, 192), (4, 80), (12, 312), (7, 63)])
def test_attention(tmp_path, table, probability, heads, width):
    """Packed captions against torch's padded batch with a mask; padding is scored and then masked there."""
    offsets, _, _ = packed()
    T, C, longest, d = int(offsets[-1]), len(LENGTHS), max(LENGTHS), width // heads
    arrays = {name: draw(i, T, width) for i, name in enumerate(("q", "k", "v", "dy"))}
    rows = np.concatenate([c * longest + np.arange(n) for c, n in enumerate(LENGTHS)])
    q, k, v = (leaf(arrays[name]) for name in ("q", "k", "v"))

    def padded(x):
        return torch.zeros(C * longest, width, dtype=torch.float64).index_put((torch.from_numpy(rows),), x).reshape(C, longest, heads, d).transpose(1, 2)

    mask = torch.from_numpy(np.arange(longest)[None] < np.array(LENGTHS)[:, None])
    scores = padded(q) @ padded(k).transpose(-1, -2) / d ** 0.5
    probs = scores.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)
    head, i, j = np.meshgrid(np.arange(heads), np.arange(longest), np.arange(longest), indexing="ij")
    kept = factors(probability, DROPOUT["layer"], DROPOUT["seed"], DROPOUT["step"], np.array(POSITIONS)[:, None, None, None], i[None],
                   ((head << HEAD_SHIFT) + j)[None])
    y = ((probs * torch.from_numpy(kept)) @ padded(v)).transpose(1, 2).reshape(C * longest, width)[torch.from_numpy(rows)]
    y.backward(torch.from_numpy(arrays["dy"]))
    arrays.update(offsets=offsets, positions=np.array(POSITIONS))
    compare(kernel(tmp_path, table, "attention", arrays, threads=2, heads=heads, longest=longest, dropout=probability, **DROPOUT),
            dict(y=y, dq=q.grad, dk=k.grad, dv=v.grad))


@pytest.mark.parametrize("table", TABLES)
def test_pairs(tmp_path, table):
    """Features of pairs side by side; the mask goes by picture and caption, and an absent caption gets no gradient."""
    B, C, n, width = 6, 7, 25, 96
    rng = np.random.default_rng(1)
    arrays = {"v": draw(1, B, width), "t": draw(2, C, width), "dy": draw(3, n, 2 * width), "picture": rng.integers(0, B, n), "caption": rng.integers(0, C - 1, n),
              "picture_positions": np.array([9, 4, 1000, 2, 3, 0]), "caption_positions": np.array([1, 0, 70000, 5, 6, 7, 8])}
    v, t = leaf(arrays["v"]), leaf(arrays["t"])
    i, j = arrays["picture"], arrays["caption"]
    mask = factors(0.3, DROPOUT["layer"], DROPOUT["seed"], DROPOUT["step"], arrays["picture_positions"][i][:, None], arrays["caption_positions"][j][:, None],
                   np.arange(2 * width)[None])
    y = torch.cat([v[i], t[j]], 1) * torch.from_numpy(mask)
    y.backward(torch.from_numpy(arrays["dy"]))
    compare(kernel(tmp_path, table, "pairs", arrays, dropout=0.3, **DROPOUT), dict(y=y, dv=v.grad, dt=t.grad))


@pytest.mark.parametrize("table", TABLES)
def test_relu_norm(tmp_path, table):
    arrays = {"x": draw(1, 30, 128), "bias": draw(2, 128), "gamma": draw(3, 128, shift=1), "beta": draw(4, 128), "dy": draw(5, 30, 128)}
    x, bias, gamma, beta = (leaf(arrays[name]) for name in ("x", "bias", "gamma", "beta"))
    assert away_from_zero(x + bias)
    y = F.layer_norm(torch.relu(x + bias), (128,), gamma, beta, 1e-5)
    y.backward(torch.from_numpy(arrays["dy"]))
    compare(kernel(tmp_path, table, "relu_norm", arrays, eps=1e-5), dict(y=y, dx=x.grad, dgamma=gamma.grad, dbeta=beta.grad, dbias=bias.grad))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("classes", [2, 17])
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy(tmp_path, table, classes, weighted):
    """Logits up to a hundred: softmax must not overflow."""
    n = 50
    rng = np.random.default_rng(1)
    arrays = {"logits": draw(1, n, classes, scale=30), "labels": rng.integers(0, classes, n)}
    if weighted:
        arrays["weight"] = np.abs(draw(2, n)) / n
    logits = leaf(arrays["logits"])
    labels = torch.from_numpy(arrays["labels"])
    each = F.cross_entropy(logits, labels, reduction="none")
    loss = (each * torch.from_numpy(arrays["weight"])).sum() if weighted else F.cross_entropy(logits, labels)
    loss.backward()
    found = kernel(tmp_path, table, "cross_entropy", arrays)
    assert abs(found["values"][0] - loss.item()) <= LIMIT * abs(loss.item())
    assert found["values"][1] == (logits.argmax(1) == labels).sum().item()
    compare(found, dict(dlogits=logits.grad))
