"""Runs that start from other programs' weights: a Hugging Face folder, torchvision's files, towers of other sizes; what is
recorded of them is enough for --resume and eval, and what comes out loads into the PyTorch module with strict=True."""
import json
import os
import shutil
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "parity"))
import tensors  # noqa: E402
from harness import Daemon, daemon, run, run_ok, small, write_csv  # noqa: E402,F401
from runs import metrics, record  # noqa: E402
from torch_model import Bert, FusionModel  # noqa: E402
from training import arguments, lines, same_outcome, start, train, train_ok, wait_for_lines  # noqa: E402

SIZES = dict(layers=3, width=96, heads=3, inner=200, positions=80, types=1)
ROWS = 100  # more embeddings than the vocabulary has words
CONFIG = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3,
          "intermediate_size": 200, "max_position_embeddings": 80, "type_vocab_size": 1, "vocab_size": ROWS, "layer_norm_eps": 1e-6,
          "hidden_dropout_prob": 0.05, "attention_probs_dropout_prob": 0.15, "pad_token_id": 0, "initializer_range": 0.02}
RECORDED = "layers=3,width=96,heads=3,inner=200,positions=80,types=1,eps=1e-06,vocab=100,attention-dropout=0.15"


def old_name(name):
    """As BertForPreTraining of TensorFlow's days called it."""
    return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder as save_pretrained() writes it, and the BertModel's state dict."""
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(1)
    state = Bert(SIZES["layers"], SIZES["width"], SIZES["heads"], SIZES["inner"], ROWS, positions=80, types=1).state_dict()
    for value in state.values():
        value.add_(torch.randn_like(value) * 0.01)
    whole = {old_name(name): value for name, value in state.items()}
    whole.update({"bert.embeddings.position_ids": torch.arange(80)[None], "cls.predictions.bias": torch.zeros(ROWS),
                  "cls.predictions.transform.LayerNorm.gamma": torch.ones(96), "cls.seq_relationship.weight": torch.zeros(2, 96)})
    torch.save(whole, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder, state


def load_strict(path, **kind):
    """The file in the PyTorch module, and its tensors."""
    state = tensors.read(path)
    FusionModel("tiny", ROWS, **kind).load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()}, strict=True)
    return state


def test_towers_of_other_sizes_from_their_files(daemon, bert, tmp_path):
    folder, state = bert
    torch.manual_seed(2)
    net = torchvision.models.resnet34(weights=None)
    torch.save({"state_dict": {"module." + name: value for name, value in net.state_dict().items()}}, tmp_path / "resnet34.pth",
               _use_new_zipfile_serialization=False)
    # the first step has rate 0, so what comes out is what went in
    result = train(daemon, tmp_path / "run", "--image-encoder", "resnet34", "--image-weights", tmp_path / "resnet34.pth", "--text-weights", folder,
                   "--steps", "1", "--warmup", "1", "--optimizer", "sgd")
    assert result.returncode == 0, result.stderr
    assert "0 missing, 0 unexpected, 2 left out on purpose" in result.stderr, result.stderr  # fc
    assert "0 missing, 0 unexpected, 4 left out on purpose" in result.stderr, result.stderr  # cls.*, position_ids
    out = load_strict(tmp_path / "run" / "last.safetensors", image="resnet34", text=SIZES)
    for name, value in state.items():
        assert (out["text_encoder." + name] == value.numpy()).all(), name
    compared = 0
    for name, value in net.state_dict().items():
        if not name.startswith("fc.") and "running" not in name and "tracked" not in name:
            assert (out["image_encoder." + name] == value.numpy()).all(), name
            compared += 1
    assert compared == 108
    said = record(tmp_path / "run")
    assert said["config"]["text-encoder"] == RECORDED and said["config"]["bert-dropout"] == 0.05
    assert said["model"]["image_encoder"] == "resnet34" and said["model"]["text_encoder"] == RECORDED and said["model"]["vocab_size"] == ROWS
    evaluated = run("trainer", "eval", tmp_path / "run", "--data", "small", "--json", *daemon.at())
    assert json.loads(evaluated.stdout)["accuracy"] == lines(tmp_path / "run", "val")[-1]["accuracy"]
    told = run("trainer", "eval", tmp_path / "run", "--data", "small", "--json", "--text-config", folder / "config.json", *daemon.at())
    assert json.loads(told.stdout)["loss"] == json.loads(evaluated.stdout)["loss"] and "is not read" in told.stderr, told.stderr
    # the same weights in a file that says nothing about itself
    torch.save({name: torch.from_numpy(value.copy()) for name, value in out.items()}, tmp_path / "anonymous.pth")
    words = ["trainer", "eval", tmp_path / "anonymous.pth", "--data", "small", "--json", "--preset", "tiny", "--image-encoder", "resnet34", *daemon.at()]
    plain = run(*words, "--text-config", folder / "config.json")
    assert plain.returncode == 1 and "100" in plain.stderr  # no proof that the vocabulary is the one


def test_record_is_enough_to_go_on(daemon, bert, tmp_path):
    folder, _ = bert
    mine = tmp_path / "hf"
    shutil.copytree(folder, mine)
    options = ["--text-config", mine / "config.json", "--text-weights", mine / "pytorch_model.bin", "--epochs", "3", "--checkpoint-every", "1"]
    whole = train_ok(daemon, tmp_path / "whole", *options)
    out = tmp_path / "killed"
    process = start(daemon, out, *options)
    wait_for_lines(process, out, 5)
    process.kill()
    process.communicate()
    shutil.rmtree(mine)
    result = run("trainer", "--resume", "--out", out, "--text-encoder", "layers=3,width=96", *daemon.at())
    assert result.returncode == 0, result.stderr
    same_outcome(whole, out)
    result = run("trainer", "--resume", "--out", out, "--text-encoder", "layers=2", *daemon.at())
    assert result.returncode == 1 and "--text-encoder" in result.stderr and "layers=3" in result.stderr, result.stderr


def test_options_over_config_json(daemon, bert, tmp_path):
    folder, _ = bert
    out = train_ok(daemon, tmp_path / "run", "--text-weights", folder, "--text-encoder", "eps=1e-12", "--bert-dropout", "0.3", "--steps", "1")
    said = record(out)["config"]
    assert said["bert-dropout"] == 0.3 and "eps=1e-12" in said["text-encoder"] and "attention-dropout" not in said["text-encoder"]
    out = train_ok(daemon, tmp_path / "sizes", "--text-config", folder, "--steps", "1")
    assert record(out)["config"]["text-encoder"] == RECORDED
    load_strict(out / "last.safetensors", text=SIZES)
    out = train_ok(daemon, tmp_path / "none", "--steps", "1")
    assert record(out)["config"]["text-encoder"].startswith("layers=2,width=64,heads=2,inner=256,positions=512")


def test_init_from_pth(daemon, tmp_path):
    first = train_ok(daemon, tmp_path / "first", "--steps", "2")
    state = {name: torch.from_numpy(value.copy()) for name, value in tensors.read(first / "last.safetensors").items()}
    torch.save({"model": state}, tmp_path / "first.pth")
    one = train_ok(daemon, tmp_path / "one", "--init", first / "last.safetensors", "--steps", "2")
    other = train_ok(daemon, tmp_path / "other", "--init", tmp_path / "first.pth", "--steps", "2")
    assert metrics(one) == metrics(other)


def add_again(daemon, small, name, folder, rename=(), vocab=None):
    """The small data set once more, with a label called otherwise or with another vocabulary."""
    tables = {}
    for split, rows in (("train", small.rows[:24]), ("val", small.rows[24:])):
        renamed = [(picture, caption, dict(rename).get(label, label)) for picture, caption, label in rows]
        tables[split] = write_csv(folder / f"{name}-{split}.csv", renamed)
    daemon.prepctl_ok("add", name, "--format", "csv", "--images", small.images, "--captions", f"train={tables['train']}", "--captions",
                      f"val={tables['val']}", "--columns", "image,caption,label", "--vocab", vocab or small.vocab, "--size", "64")


def other_data(words, name):
    return [name if word == "small" else word for word in words]


def test_classes_of_other_names_are_refused(daemon, small, tmp_path):
    """Classes are ranks of names: with one label called otherwise the head's numbers fit and mean something else."""
    first = train_ok(daemon, tmp_path / "first", "--task", "classify", "--epochs", "1")
    assert record(first)["model"]["class_names"] == ["blue", "green", "red"]
    add_again(daemon, small, "renamed", tmp_path, rename=[("blue", "zzz")])
    said = run("trainer", "eval", first, "--data", "renamed", *daemon.at())
    assert said.returncode == 1 and "class 0 is 'blue' there and 'green' here" in said.stderr and "same labels" in said.stderr, said.stderr
    run_ok("trainer", "eval", first, "--data", "small", *daemon.at())
    start_there = other_data(arguments(daemon, tmp_path / "run", "--task", "classify", "--steps", "1"), "renamed")
    said = run("trainer", *start_there, "--init", first / "best.safetensors")
    assert said.returncode == 1 and "--init" in said.stderr and "class 0 is 'blue' there and 'green' here" in said.stderr, said.stderr
    assert "head.weight" in said.stderr and not (tmp_path / "run").exists()
    # What the message says to do. The copy says nothing of its origin any more.
    state = {name: torch.from_numpy(value.copy()) for name, value in tensors.read(first / "best.safetensors").items() if not name.startswith("head.")}
    torch.save(state, tmp_path / "headless.pth")
    said = run_ok("trainer", *start_there, "--init", tmp_path / "headless.pth")
    assert "head.weight" in said.stderr
    train_ok(daemon, tmp_path / "same", "--task", "classify", "--steps", "1", "--init", first / "best.safetensors")


def test_a_head_of_another_task_is_refused(daemon, small, tmp_path):
    """With two labels the head of matching fits by its shape."""
    match = train_ok(daemon, tmp_path / "match", "--steps", "1")
    add_again(daemon, small, "two", tmp_path, rename=[("blue", "green")])
    words = other_data(arguments(daemon, tmp_path / "run", "--task", "classify", "--steps", "1"), "two")
    said = run("trainer", *words, "--init", match / "last.safetensors")
    assert said.returncode == 1 and "--task match" in said.stderr and "head.weight" in said.stderr, said.stderr
    contrast = train_ok(daemon, tmp_path / "contrast", "--task", "contrast", "--steps", "1")
    for number, (task, init) in enumerate((("classify", contrast), ("match", contrast), ("contrast", match))):
        train_ok(daemon, tmp_path / str(number), "--task", task, "--steps", "1", "--init", init / "last.safetensors")


def test_probe_takes_a_runs_heads_and_eps(daemon, tmp_path):
    """Without a word on the command line the tower is the one that was trained; a copy that says nothing is taken for what the preset has."""
    out = train_ok(daemon, tmp_path / "run", "--text-encoder", "heads=4,eps=1e-3", "--image-encoder", "resnet34", "--steps", "2", "--warmup", "0")
    run_ok("prepctl", "batch", "small", "--split", "train", "--batch-size", "4", "--seed", "1", "--epoch", "0", "--step", "0", "--size", "64",
           "--out", tmp_path / "b.safetensors", *daemon.at())
    batch = tensors.read(tmp_path / "b.safetensors")
    batch["pair_image"] = batch["pair_text"] = np.arange(4)
    tensors.write(tmp_path / "b.safetensors", {**batch, "pair_label": np.ones(4, np.int64)})
    tensors.write(tmp_path / "copy.safetensors", tensors.read(out / "last.safetensors"))

    def probe(weights, *more):
        return run("trainer", "probe", "--preset", "tiny", "--mode", "eval", "--weights", weights, "--batch", tmp_path / "b.safetensors",
                   "--out", tmp_path / "o.safetensors", "--threads", "2", *more)

    def loss(*words):
        assert (result := probe(*words)).returncode == 0, result.stderr
        return tensors.read(tmp_path / "o.safetensors")["loss"]

    mine = loss(out / "last.safetensors")
    named = ("--image-encoder", "resnet34", "--text-encoder", "heads=4,eps=1e-3")
    assert mine == loss(out / "last.safetensors", *named) == loss(tmp_path / "copy.safetensors", *named)
    assert mine != loss(tmp_path / "copy.safetensors", *named[:2])
    for sizes in ("heads=2,eps=1e-3", "heads=4"):
        said = probe(out / "last.safetensors", "--text-encoder", sizes)
        assert said.returncode == 1 and "--text-encoder heads=4,eps=0.001" in said.stderr, said.stderr


@pytest.mark.parametrize("option", ["--init", "--text-weights"])
@pytest.mark.parametrize("sizes", ["heads=4", "eps=1e-05"])
def test_heads_and_eps_that_no_shape_shows(daemon, tmp_path, option, sizes):
    first = train_ok(daemon, tmp_path / "first", "--text-encoder", sizes, "--steps", "1")
    said = train(daemon, tmp_path / "run", option, first / "last.safetensors", "--steps", "1")
    assert said.returncode == 1 and option in said.stderr and "--text-encoder heads=" in said.stderr and sizes in said.stderr, said.stderr
    assert not (tmp_path / "run").exists()
    train_ok(daemon, tmp_path / "run", option, first / "last.safetensors", "--steps", "1", "--text-encoder", sizes)
    # Of a tower of another width heads and eps are not what is wrong.
    said = train(daemon, tmp_path / "wide", option, first / "last.safetensors", "--steps", "1", "--text-encoder", "width=96,heads=3")
    assert said.returncode == 1 and "choose the preset, encoders" in said.stderr, said.stderr


def test_sizes_said_again(daemon, tmp_path):
    """A part of what is recorded is no difference; what cannot be read is not passed over."""
    out = train_ok(daemon, tmp_path / "run", "--text-encoder", "heads=4", "--steps", "1")
    asked = ["eval", out / "last.safetensors", "--data", "small", "--json"], ["--resume", "--out", out]
    for words in asked:
        for again, code in (("heads=4", 0), ("inner=256,heads=4", 0), ("heads=2", 1), ("heads", 1)):
            said = run("trainer", *words, "--text-encoder", again, *daemon.at())
            assert said.returncode == code and (code == 0 or f"--text-encoder {again}: the" in said.stderr), (words, again, said.stderr)


@pytest.mark.parametrize("option", ["--init", "--text-weights"])
def test_words_of_another_vocabulary_are_refused(daemon, small, tmp_path, option):
    """As many words in another order: every embedding would be another word's."""
    first = train_ok(daemon, tmp_path / "first", "--steps", "1")
    words = small.vocab.read_text().splitlines()
    (tmp_path / "turned.txt").write_text("\n".join(words[:5] + words[5:][::-1]) + "\n")
    add_again(daemon, small, "turned", tmp_path, vocab=tmp_path / "turned.txt")
    there = other_data(arguments(daemon, tmp_path / "run", "--steps", "1", option, first / "last.safetensors"), "turned")
    said = run("trainer", *there)
    assert said.returncode == 1 and option in said.stderr and "turned.txt" in said.stderr and f"--vocab {small.vocab.name}" in said.stderr, said.stderr
    assert not (tmp_path / "run").exists()
    run_ok("trainer", *there, "--vocab", small.vocab.name)
    # A file of the same name with other words.
    (tmp_path / small.vocab.name).write_text((tmp_path / "turned.txt").read_text().replace("stripes", "stripe"))
    with Daemon() as own:
        add_again(own, small, "small", tmp_path, vocab=tmp_path / small.vocab.name)
        said = run("trainer", *arguments(own, tmp_path / "other", "--steps", "1", option, first / "last.safetensors"))
    assert said.returncode == 1 and "another vocabulary of the name" in said.stderr, said.stderr


def damage(source, target, change=None):
    """One bit of one weight: the values are finite and the shapes right, only the checksum knows."""
    content = bytearray(source.read_bytes())
    if change is None:
        content[-1000] ^= 1
    else:
        assert content.count(change) == 1
        content = content.replace(change, bytes([change[0], change[1] ^ 1]) + change[2:])
    target.write_bytes(content)
    return target


def refused_as_damaged(result, path, *more):
    assert result.returncode == 1, result.stderr
    said = [line for line in result.stderr.splitlines() if "damaged" in line]
    assert len(said) == 1 and all(part in said[0] for part in (str(path), "checksum", "another checkpoint", *more)), result.stderr


def test_damaged_file_of_ours_is_refused_by_every_reader(daemon, tmp_path):
    """Where a run starts, probe and eval; also where the bit is in the key `checksum` itself, or in what the file says of itself."""
    first = train_ok(daemon, tmp_path / "first", "--steps", "1")
    batch = tmp_path / "batch.safetensors"
    daemon.prepctl_ok("batch", "small", "--split", "train", "--batch-size", 4, "--size", 64, "--seed", 0, "--epoch", 0, "--step", 0, "--out", batch)
    tensors.write(batch, {**tensors.read(batch), "pair_image": np.arange(4), "pair_text": np.arange(4)[::-1].copy(), "pair_label": np.zeros(4, np.int64)})

    def probe(path):
        return run("trainer", "probe", "--preset", "tiny", "--task", "match", "--mode", "eval", "--weights", path, "--batch", batch, "--out",
                   tmp_path / "out.safetensors")

    whole = probe(first / "last.safetensors")
    assert whole.returncode == 0 and (tmp_path / "out.safetensors").exists(), whole.stderr
    (tmp_path / "out.safetensors").unlink()
    for number, change in enumerate((None, b'"checksum"', b"trainer-checkpoint-1")):
        path = damage(first / "last.safetensors", tmp_path / f"damaged-{number}.safetensors", change)
        refused_as_damaged(probe(path), path)
        assert not (tmp_path / "out.safetensors").exists()
        refused_as_damaged(run("trainer", "eval", path, "--data", "small", *daemon.at()), path)
        for option in ("--init", "--image-weights", "--text-weights"):
            refused_as_damaged(train(daemon, tmp_path / "run", option, path, "--steps", "1"), path, option)
            assert not (tmp_path / "run").exists()
    damage(first / "best.safetensors", first / "damaged")
    (first / "damaged").rename(first / "best.safetensors")
    refused_as_damaged(run("trainer", "eval", first, "--data", "small", *daemon.at()), first / "best.safetensors")


def test_attacks_on_a_damaged_arm_are_refused(daemon, tmp_path):
    out = tmp_path / "s"
    run_ok("trainer", "study", "--data", "small", "--arms", "none,l2", "--folds", "2", "--preset", "tiny", "--batch-size", "8", "--epochs", "1",
           "--keep", "last", "--threads", "2", "--out", out, *daemon.at())
    path = out / "runs" / "l2" / "f1-s0" / "last.safetensors"
    damage(path, tmp_path / "damaged").replace(path)
    refused_as_damaged(run("trainer", "robust", out, "--pairs", "4", "--steps", "1", "--restarts", "1", *daemon.at()), path)
    assert not (out / "robustness.json").exists()


def test_resume_with_every_checkpoint_damaged_is_refused(daemon, tmp_path):
    """The newest alone: the run goes on from the one before (test_train.py). All of them: one line, nothing written."""
    out = train_ok(daemon, tmp_path / "run", "--epochs", "2", "--checkpoint-every", "1")
    found = sorted((out / "checkpoints").iterdir())
    assert len(found) == 2
    for number, folder in enumerate(found):
        path = folder / ("model.safetensors", "optimizer.safetensors")[number]
        damage(path, tmp_path / "damaged").replace(path)
    before = (out / "last.safetensors").read_bytes()
    result = run("trainer", "--resume", "--out", out, *daemon.at())
    assert result.returncode == 1 and result.stderr.count("every checkpoint is damaged; start again with another --out") == 1, result.stderr
    assert all(str(folder) in result.stderr for folder in found)
    assert (out / "last.safetensors").read_bytes() == before


def test_attention_dropout_is_its_own(daemon, tmp_path):
    runs = {spec: train_ok(daemon, tmp_path / str(number), "--text-encoder", spec, "--bert-dropout", "0.2", "--steps", "1")
            for number, spec in enumerate(("attention-dropout=0.2", "attention-dropout=0.5", "layers=2"))}
    losses = {spec: lines(out, "train")[0]["loss"] for spec, out in runs.items()}
    assert losses["attention-dropout=0.2"] == losses["layers=2"] != losses["attention-dropout=0.5"]


def test_frozen_features_are_of_one_encoder(daemon, tmp_path):
    """The features that the daemon keeps are not taken for those of a BERT that differs in what no weight shows."""
    losses = set()
    for number, spec in enumerate(("eps=1e-12", "eps=1e-3", "heads=4")):
        out = train_ok(daemon, tmp_path / str(number), "--freeze", "text", "--text-encoder", spec, "--steps", "1")
        losses.add(lines(out, "train")[0]["loss"])
    assert len(losses) == 3


@pytest.mark.parametrize("words,code,needles", [
    (["--image-encoder", "vit"], 2, ["vit", "resnet50"]),
    (["--text-encoder", "layers=4;width=3"], 2, ["layers"]),
    (["--text-encoder", "vocab=5"], 1, ["vocabulary", "--vocab"]),
    (["--text-config", "/nonexistent/config.json"], 1, ["--text-config", "/nonexistent"]),
    (["--text-weights", "/nonexistent"], 1, ["--text-weights", "/nonexistent"]),
    (["--text-encoder", "positions=16"], 2, ["--max-len", "16"]),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_refused(daemon, tmp_path, words, code, needles):
    result = train(daemon, tmp_path / "run", *words)
    assert result.returncode == code, result.stderr
    for needle in needles:
        assert needle in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_study_does_not_say_the_same_for_each_arm(daemon, bert, tmp_path):
    result = run("trainer", "study", "--data", "small", "--preset", "tiny", "--arms", "none,dropout,l2", "--folds", "1", "--steps", "1", "--text-weights",
                 bert[0], "--dry-run", "--out", tmp_path / "study", *daemon.at())
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("text tower as") == 0, result.stderr
    alone = train(daemon, tmp_path / "run", "--text-weights", bert[0], "--steps", "1")
    assert alone.stderr.count("text tower as") == 1, alone.stderr


def test_a_deeper_resnet_is_no_resnet18(daemon, tmp_path):
    """All its tensors that have a name there fit by shape; together they would be a part of another network."""
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    result = train(daemon, tmp_path / "run", "--image-encoder", "resnet18", "--image-weights", tmp_path / "resnet34.pth")
    assert result.returncode == 1 and "deeper" in result.stderr and "--image-encoder" in result.stderr, result.stderr
    excited = torchvision.models.resnet18(weights=None).state_dict() | {"layer1.0.se.fc1.weight": torch.zeros(4, 64, 1, 1)}
    torch.save(excited, tmp_path / "se.pth")
    result = train(daemon, tmp_path / "run", "--image-encoder", "resnet18", "--image-weights", tmp_path / "se.pth")
    assert result.returncode == 1 and "layer1.0.se.fc1.weight is in no block" in result.stderr and "of another kind" in result.stderr, result.stderr


def test_a_deeper_bert_is_no_shallow_one(daemon, bert, tmp_path):
    """As of a ResNet, nothing is left of which only a warning would tell; who wants a part of the layers names them in the file."""
    torch.save(bert[1], tmp_path / "bert.bin")
    sizes = ("--text-encoder", "layers=2,width=96,heads=3,inner=200,positions=80,types=1,vocab=100,eps=1e-6", "--steps", "1")
    result = train(daemon, tmp_path / "run", "--text-weights", tmp_path / "bert.bin", *sizes)
    assert result.returncode == 1 and "encoder.layer.2." in result.stderr and "deeper BERT" in result.stderr, result.stderr
    first = {name: value for name, value in bert[1].items() if ".layer.2." not in name}
    torch.save(first | {"encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(159, 32)}, tmp_path / "relative.bin")
    result = train(daemon, tmp_path / "run", "--text-weights", tmp_path / "relative.bin", *sizes)
    assert result.returncode == 1 and "relative positions" in result.stderr and not (tmp_path / "run").exists(), result.stderr
    torch.save(first, tmp_path / "first.bin")
    train_ok(daemon, tmp_path / "run", "--text-weights", tmp_path / "first.bin", *sizes)


def test_kinds_that_nobody_looks_for(daemon, tmp_path):
    """A counter of a scheduler, say, or scales of a quantizer: no reason to refuse the rest. Where one is wanted, it is named."""
    state = tensors.read(train_ok(daemon, tmp_path / "first", "--steps", "1") / "last.safetensors")
    sizes = {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8}
    tensors.write(tmp_path / "more.safetensors", state, {f"extra.{kind}": (kind, [3], bytes(3 * size)) for kind, size in sizes.items()})
    result = train(daemon, tmp_path / "run", "--steps", "1", "--init", tmp_path / "more.safetensors")
    assert result.returncode == 0 and "0 missing, 6 unexpected" in result.stderr, result.stderr
    for kind, size in sizes.items():
        for name, shape in (("head.bias", [2]), ("image_encoder.bn1.num_batches_tracked", [])):
            rest = {key: value for key, value in state.items() if key != name}
            tensors.write(tmp_path / "bad.safetensors", rest, {name: (kind, shape, bytes(size * (shape or [1])[0]))})
            result = train(daemon, tmp_path / "other", "--steps", "1", "--init", tmp_path / "bad.safetensors")
            assert result.returncode == 1 and f"tensor {name} is {kind}, which is not read" in result.stderr, result.stderr


def test_a_tower_comes_whole(daemon, bert, tmp_path):
    """A smaller network's tensors all fit, and a stem under another name is a stem of random numbers: neither is the tower that was asked for."""
    small = torchvision.models.resnet18(weights=None).state_dict()
    deep_stem = {name.replace("conv1.weight", "conv1.0.weight") if name == "conv1.weight" else name: value for name, value in small.items()}
    no_statistics = {name: value for name, value in small.items() if "running" not in name}
    shallow = {name: value for name, value in bert[1].items() if ".layer.2." not in name}
    (tmp_path / "bert").mkdir()
    shutil.copy(bert[0] / "config.json", tmp_path / "bert")
    for state, path, words, first in (
            (small, "r.pth", ["--image-encoder", "resnet34"], "image_encoder.layer1.2.conv1.weight"),
            (deep_stem, "r.pth", ["--image-encoder", "resnet18"], "image_encoder.conv1.weight"),
            (no_statistics, "r.pth", ["--image-encoder", "resnet18"], "image_encoder.bn1.running_mean"),
            (shallow, "bert/pytorch_model.bin", [], "text_encoder.encoder.layer.2.attention.self.query.weight")):
        torch.save(state, tmp_path / path)
        option = "--image-weights" if path == "r.pth" else "--text-weights"
        result = train(daemon, tmp_path / "run", *words, option, tmp_path / path, "--steps", "1")
        assert result.returncode == 1 and f"first {first}:" in result.stderr and "--init" in result.stderr, result.stderr
        assert not (tmp_path / "run").exists()


def test_names_that_nobody_knows_are_shown(daemon, tmp_path):
    """What the file's names begin with, and what is looked for."""
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({"encoder_q." + name: value for name, value in state.items()}, tmp_path / "moco.pth")
    result = train(daemon, tmp_path / "run", "--image-encoder", "resnet18", "--image-weights", tmp_path / "moco.pth")
    assert result.returncode == 1 and "the first is encoder_q.conv1.weight, and names such as conv1.weight are looked for" in result.stderr, result.stderr


def test_other_size_without_config_says_what_to_do(daemon, bert, tmp_path):
    folder, _ = bert
    shutil.copy(folder / "pytorch_model.bin", tmp_path / "alone.bin")
    result = train(daemon, tmp_path / "run", "--text-weights", tmp_path / "alone.bin")
    assert result.returncode == 1 and "has shape" in result.stderr and "encoders" in result.stderr, result.stderr
    assert "no config.json beside" in result.stderr and "2 heads and an eps of 1e-12" in result.stderr, result.stderr
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "hidden_act": "silu"}))
    result = train(daemon, tmp_path / "run", "--text-weights", tmp_path / "alone.bin")
    assert result.returncode == 1 and "silu" in result.stderr and "--text-config" in result.stderr, result.stderr
