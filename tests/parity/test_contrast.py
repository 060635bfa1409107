"""--task contrast against PyTorch: loss, logits and every gradient of one step (the temperature's too) in float64, some
steps of training with the clamp of the temperature, and the validation's ranks against numpy."""
import json
import math
import os
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
sys.path.insert(0, os.path.dirname(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "golden"))
import pairs  # noqa: E402
import tensors  # noqa: E402
from harness import Daemon, run, run_ok, write_csv, write_pictures, write_vocab  # noqa: E402
from torch_model import FusionModel, off_constants, without_dropout  # noqa: E402

PROBE_WORDS, SIZE, BATCH, STEPS, SEED = 200, 64, 6, 8, 5


class ContrastModel(torch.nn.Module):
    """The script's two towers, and CLIP's temperature."""

    def __init__(self, preset, words, log_scale=math.log(1 / 0.07)):
        super().__init__()
        model = without_dropout(FusionModel(preset, words))
        self.image_encoder, self.text_encoder, self.text_projector = model.image_encoder, model.text_encoder, model.text_projector
        self.logit_scale = torch.nn.Parameter(torch.tensor(log_scale))

    def features(self, batch):
        v = self.image_encoder(batch["image"])
        return v, self.text_projector(self.text_encoder(batch["input_ids"], batch["attention_mask"]))

    def logits(self, batch):
        v, t = (torch.nn.functional.normalize(x) for x in self.features(batch))
        return self.logit_scale.exp() * v @ t.T


def contrast_loss(logits, left_out):
    kept = logits.masked_fill(left_out, -math.inf)
    own = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(kept, own) + cross_entropy(kept.T, own)) / 2


def same(values):
    values = np.asarray(values)
    equal = values[:, None] == values[None, :]
    return torch.from_numpy(equal & ~np.eye(len(values), dtype=bool))


def save(path, model):
    tensors.write(path, {name: value.float().numpy() if value.is_floating_point() else value.numpy()
                         for name, value in model.state_dict().items()})


def probe_batch(B, seed, repeat):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, B)
    ids, mask = np.zeros((B, 20), np.int64), np.zeros((B, 20), np.int64)
    for b, n in enumerate(lengths):
        ids[b, :n], mask[b, :n] = rng.integers(1, PROBE_WORDS, n), 1
    pictures = np.arange(B)
    if repeat:
        ids[3], mask[3] = ids[0], mask[0]   # the same caption
        pictures[4] = pictures[1]           # the same picture
    batch = {"image": rng.standard_normal((B, 3, SIZE, SIZE), np.float32), "input_ids": ids, "attention_mask": mask}
    if repeat:
        batch["picture"] = pictures
    words = [tuple(row[:n]) for row, n in zip(ids, mask.sum(1))]
    return batch, same(pictures) | same([words.index(w) for w in words])


def torch_step(model, batch, left_out, mode, dtype):
    model = model.to(dtype).train(mode == "train")
    kept = {name: value.clone() for name, value in model.state_dict().items() if "running" in name or "tracked" in name}
    model.zero_grad(set_to_none=True)
    get = {name: torch.from_numpy(array) for name, array in batch.items()}
    get["image"] = get["image"].to(dtype).requires_grad_(True)
    logits = model.logits(get)
    loss = contrast_loss(logits, left_out)
    loss.backward()
    model.load_state_dict(kept, strict=False)
    grads = {name + ".grad": p.grad.double().numpy() for name, p in model.named_parameters() if p.grad is not None}
    grads["image.grad"] = get["image"].grad.double().numpy()
    return logits.detach().double().numpy(), loss.item(), grads


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("repeat", [False, True])
def test_probe(tmp_path, mode, repeat):
    """As test_probe.py: within 5e-3 of a gradient's norm, or 4 times what PyTorch's own float32 makes of it; the best of
    three batches counts, since a ReLU that flips makes any of them jump."""
    worst = {}
    for seed in range(3):
        torch.manual_seed(seed)
        model = off_constants(ContrastModel("tiny", PROBE_WORDS))
        batch, left_out = probe_batch(7, seed + 10, repeat)
        assert bool(left_out.any()) == repeat
        save(tmp_path / "w.safetensors", model)
        tensors.write(tmp_path / "b.safetensors", batch)
        run_ok("trainer", "probe", "--preset", "tiny", "--task", "contrast", "--mode", mode, "--weights", tmp_path / "w.safetensors", "--batch",
               tmp_path / "b.safetensors", "--out", tmp_path / "o.safetensors", "--pixel-gradients")
        ours = tensors.read(tmp_path / "o.safetensors")
        _, _, single = torch_step(model, batch, left_out, mode, torch.float32)
        logits, loss, exact = torch_step(model, batch, left_out, mode, torch.float64)
        assert abs(float(ours["loss"]) - loss) <= 1e-4 * loss
        assert tensors.distance(ours["logits"], logits) <= 1e-4
        assert set(ours) == set(exact) | {"loss", "logits"} and ours["logit_scale.grad"].shape == ()
        ratios = {name: tensors.distance(ours[name], value) / max(5e-3, 4 * tensors.distance(single[name], value))
                  for name, value in exact.items() if not name.endswith("attention.self.key.bias.grad")}
        name = max(ratios, key=ratios.get)
        if ratios[name] <= 1:
            return
        worst[name] = ratios[name]
    pytest.fail(f"none of three batches is within the allowance: {worst}")


def test_probe_wants_the_temperature(tmp_path):
    model = ContrastModel("tiny", PROBE_WORDS)
    batch, _ = probe_batch(4, 1, False)
    del model.logit_scale
    save(tmp_path / "w.safetensors", model)
    tensors.write(tmp_path / "b.safetensors", batch)
    result = run("trainer", "probe", "--preset", "tiny", "--task", "contrast", "--weights", tmp_path / "w.safetensors", "--batch",
                 tmp_path / "b.safetensors", "--out", tmp_path / "o.safetensors")
    assert result.returncode == 1 and "logit_scale" in result.stderr
    result = run("trainer", "probe", "--preset", "tiny", "--task", "contrast", "--reg", "l2+adv", "--weights", tmp_path / "w.safetensors", "--batch",
                 tmp_path / "b.safetensors", "--out", tmp_path / "o.safetensors")
    assert result.returncode == 2 and "--reg l2+adv: " in result.stderr and "match and classify" in result.stderr


# --- runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 pictures to train on; 12 to measure, with two captions each, of which some say the same."""
    folder = tmp_path_factory.mktemp("contrast")
    rows = write_pictures(folder / "images", 36)
    train = [(name, text, label) for name, text, label in rows[:24]]
    train[5] = (train[5][0], train[4][1], train[5][2])
    train[6] = (train[6][0], train[4][1], train[6][2])
    val = []
    for name, text, label in rows[24:]:
        val += [(name, text, label), (name, f"a {label} square", label)]
    write_csv(folder / "train.csv", train)
    write_csv(folder / "val.csv", val)
    write_vocab(folder / "words.txt")
    folder.joinpath("val.json").write_text(json.dumps(val))
    return folder


@pytest.fixture(scope="module")
def daemon(folder):
    with Daemon() as running:
        running.prepctl_ok("add", "small", "--format", "csv", "--images", folder / "images", "--captions", f"train={folder / 'train.csv'}",
                           "--captions", f"val={folder / 'val.csv'}", "--columns", "image,caption,label", "--vocab", folder / "words.txt",
                           "--size", SIZE)
        yield running


def words_of(folder):
    return len((folder / "words.txt").read_text().splitlines())


def train(daemon, out, *more):
    run_ok("trainer", "--data", "small", "--preset", "tiny", "--task", "contrast", "--batch-size", BATCH, "--seed", SEED, "--threads", 1,
           "--out", out, *more, *daemon.at())
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def batch_at(daemon, path, step):
    daemon.prepctl_ok("batch", "small", "--split", "train", "--batch-size", BATCH, "--seed", SEED, "--epoch", step // 4, "--step", step % 4,
                      "--size", SIZE, "--out", path)
    return {name: torch.from_numpy(np.array(value)) for name, value in tensors.read(path).items()}


@pytest.mark.parametrize("start", [math.log(1 / 0.07), 4.7])
def test_steps(folder, daemon, tmp_path, start):
    """Losses, gradient norms, accuracies and the temperature step by step; above ln(100) it is brought back."""
    torch.manual_seed(2)
    model = ContrastModel("tiny", words_of(folder), start).train()
    save(tmp_path / "start.safetensors", model)
    ours = train(daemon, tmp_path / "run", "--steps", STEPS, "--init", tmp_path / "start.safetensors", "--bert-dropout", 0, "--warmup", 0,
                 "--lr", 2e-4, "--schedule", "constant", "--val-split", "none")
    optimizer = torch.optim.AdamW([p for name, p in model.named_parameters() if "pooler" not in name], lr=2e-4, weight_decay=0)
    held = repeated = 0
    for step in range(STEPS):
        batch = batch_at(daemon, tmp_path / "b.safetensors", step)
        texts = [tuple(row.tolist()) for row in batch["input_ids"]]
        left_out = same([texts.index(text) for text in texts])
        repeated += int(left_out.any())
        optimizer.zero_grad()
        logits = model.logits(batch)
        loss = contrast_loss(logits, left_out)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        with torch.no_grad():
            held += int(model.logit_scale > math.log(100))
            model.logit_scale.clamp_(0, math.log(100))
        kept = logits.detach().masked_fill(left_out, -math.inf)
        own = torch.arange(BATCH)
        accuracy = ((kept.argmax(1) == own).sum() + (kept.argmax(0) == own).sum()).item() / (2 * BATCH)
        said = f"step {step}: {ours[step]}, PyTorch {loss.item()}, {norm}, {accuracy}"
        assert abs(ours[step]["loss"] - loss.item()) <= 1e-3 * max(1.0, loss.item()), said
        assert abs(ours[step]["grad_norm"] - norm) <= 2e-2 * norm, said
        assert abs(ours[step]["accuracy"] - accuracy) <= 1 / BATCH + 1e-9, said
    assert repeated > 0
    found = tensors.read(tmp_path / "run" / "last.safetensors")
    assert set(found) == set(model.state_dict())
    assert abs(float(found["logit_scale"]) - model.logit_scale.item()) <= 1e-4
    assert float(found["logit_scale"]) <= math.log(100) + 1e-6
    assert (held > 0) == (start > 4)


def val_features(folder, model, tmp_path):
    val = json.loads((folder / "val.json").read_text())
    names = list(dict.fromkeys(row[0] for row in val))
    images = []
    for name in names:
        run_ok("prepctl", "inspect", "image", folder / "images" / name, "--size", SIZE, "--out", tmp_path / "i.safetensors")
        images.append(torch.from_numpy(np.array(tensors.read(tmp_path / "i.safetensors")["image"])))
    text = run_ok("prepctl", "inspect", "text", "--vocab", folder / "words.txt", stdin="\n".join(row[1] for row in val) + "\n").stdout
    ids = [list(map(int, line.split())) for line in text.splitlines()]
    assert len(ids) == len(val)
    padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for i, row in enumerate(ids):
        padded[i, :len(row)], mask[i, :len(row)] = torch.tensor(row), 1
    with torch.no_grad():
        v, t = model.eval().features({"image": torch.stack(images), "input_ids": padded, "attention_mask": mask})
    normal = torch.nn.functional.normalize
    return normal(v).double().numpy(), normal(t).double().numpy(), np.array([names.index(row[0]) for row in val]), [row[1] for row in val]


def expected_ranks(v, t, own, texts, scale):
    """What retrieval.h says, caption by caption and picture by picture."""
    score = t @ v.T
    related = np.array([[any(texts[d] == texts[c] for d in np.flatnonzero(own == p)) for p in range(len(v))] for c in range(len(t))])
    ranks, loss, negative = [], 0.0, []
    for c in range(len(t)):
        ranks.append((score[c][~related[c]] > score[c, own[c]] - 1e-6).sum())
        loss += np.log(np.exp(scale * score[c][~related[c]]).sum() + np.exp(scale * score[c, own[c]])) - scale * score[c, own[c]]
    picture_ranks = []
    for p in range(len(v)):
        best = score[own == p, p].max()
        others = score[~related[:, p], p]
        picture_ranks.append((others > best - 1e-6).sum())
        for c in np.flatnonzero(own == p):
            loss += np.log(np.exp(scale * others).sum() + np.exp(scale * score[c, p])) - scale * score[c, p]
    at = (1, 5, 10)
    return ([float(np.mean(np.array(picture_ranks) < k)) for k in at], [float(np.mean(np.array(ranks) < k)) for k in at], loss / (2 * len(t)))


def test_validation(folder, daemon, tmp_path):
    ours = train(daemon, tmp_path / "run", "--epochs", 6)
    vals = [line for line in ours if line["split"] == "val"]
    assert len(vals) == 6
    model = ContrastModel("tiny", words_of(folder))
    found = {name: torch.from_numpy(np.array(value)) for name, value in tensors.read(tmp_path / "run" / "last.safetensors").items()}
    model.load_state_dict(found, strict=True)
    v, t, own, texts = val_features(folder, model, tmp_path)
    to_text, to_image, loss = expected_ranks(v, t, own, texts, math.exp(model.logit_scale.item()))
    assert [vals[-1][f"image_to_text_r{k}"] for k in (1, 5, 10)] == pytest.approx(to_text)
    assert [vals[-1][f"text_to_image_r{k}"] for k in (1, 5, 10)] == pytest.approx(to_image)
    assert vals[-1]["loss"] == pytest.approx(loss, rel=1e-3)
    assert 0 < to_image[0] < 1 and to_image[0] < to_image[1]  # or the comparison says little
    version = bytes.fromhex(json.loads((tmp_path / "run" / "run.json").read_text())["dataset"]["version"])
    rows = [(c, "", "train") for c in range(24)] + [(24 + p, text, "val") for p, text in zip(own, texts)]
    wrong = [w for w in pairs.pairs(rows, version, "val", lambda split: split == "val")]
    right = [t[c] @ v[own[c]] - t[c] @ v[w] > 1e-6 for c, w in enumerate(wrong) if w >= 0]
    assert vals[-1]["accuracy"] == pytest.approx(np.mean(right)) and vals[-1]["pairs"] == len(right)
    evaluated = json.loads(run_ok("trainer", "eval", tmp_path / "run" / "last.safetensors", "--data", "small", "--json", *daemon.at()).stdout)
    for key in ("accuracy", "loss", "pairs", "image_to_text_r1", "text_to_image_r10"):
        assert evaluated[key] == pytest.approx(vals[-1][key])
    assert "ece" not in evaluated  # ranks have no probability, and 0 would be a perfect one


def test_init_of_a_match_run(daemon, tmp_path):
    """The towers come from the contrast run; the fusion layer and head are said to start at random."""
    train(daemon, tmp_path / "c", "--epochs", 1)
    start = tensors.read(tmp_path / "c" / "last.safetensors")
    assert "logit_scale" in start and not any(name.startswith(("fusion", "head")) for name in start)
    result = run_ok("trainer", "--data", "small", "--preset", "tiny", "--batch-size", BATCH, "--steps", 1, "--warmup", 1, "--threads", 1, "--init",
                    tmp_path / "c" / "last.safetensors", "--out", tmp_path / "m", *daemon.at())  # the first step has rate 0
    assert "6 missing" in result.stderr and "fusion_layer.1.weight" in result.stderr and "head.bias" in result.stderr
    assert "1 left out on purpose" in result.stderr
    found = tensors.read(tmp_path / "m" / "last.safetensors")
    for name, value in start.items():
        if name != "logit_scale" and "running" not in name and "tracked" not in name:
            assert np.array_equal(found[name], value), name
    assert not any(name == "logit_scale" for name in found)
    # and back: a match run's towers into contrast
    result = run_ok("trainer", "--data", "small", "--preset", "tiny", "--task", "contrast", "--batch-size", BATCH, "--steps", 1, "--threads", 1,
                    "--init", tmp_path / "m" / "last.safetensors", "--out", tmp_path / "c2", *daemon.at())
    assert "logit_scale" in result.stderr and "6 unexpected" in result.stderr


def test_resume_and_adversary(daemon, tmp_path):
    """Interrupted and continued is the same as in one go; an adversary works on this task's loss too."""
    whole = train(daemon, tmp_path / "whole", "--epochs", 2, "--reg", "adv", "--checkpoint-every", 1)
    assert all(line["adv_loss"] > line["loss"] for line in whole if line["split"] == "train")
    again = train(daemon, tmp_path / "again", "--epochs", 2, "--reg", "adv")
    strip = ("pairs_per_s", "data_wait_s", "seconds", "adv_cost")
    assert [{k: v for k, v in line.items() if k not in strip} for line in whole] == [{k: v for k, v in line.items() if k not in strip}
                                                                                      for line in again]


@pytest.mark.parametrize("more,words", [(["--reg", "dropout"], ["--reg dropout: 'dropout:at=fusion'", "fusion layer"]), (["--negatives", "3"], ["--negatives 3", "whole batch"]),
                                        (["--batch-size", "1"], ["contrast", "at least 2"]), (["--task", "clip"], ["'clip'", "contrast"])])
def test_usage(daemon, tmp_path, more, words):
    result = run("trainer", "--data", "small", "--preset", "tiny", "--task", "contrast", "--out", tmp_path / "x", *more, *daemon.at())
    assert result.returncode == 2
    for word in words:
        assert word in result.stderr
