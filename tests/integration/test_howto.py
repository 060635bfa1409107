"""README's "Your own 50,000 COCO pictures": every line of it, in order, as it stands there, on files of the formats that COCO,
torchvision and Hugging Face publish. What is made smaller is said in SMALLER; `wget` finds its files in a folder. FULL=1: BERT-base
at full size and pictures at 224 px."""
import json
import os
import re
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "parity"))
from harness import BIN, ROOT, SLOW, environment, shared_data  # noqa: E402
from torch_model import Bert  # noqa: E402

FULL = bool(os.environ.get("FULL"))
LIMIT, PICTURES = 24, 32
SMALLER = [("--limit 50000", f"--limit {LIMIT}"), ("--folds 5", "--folds 2"), ("--epochs 10", "--epochs 1"), ("--epochs 2", "--epochs 1"),
           ("--seeds 2", "--seeds 1"), ("--arms dropout,l2,adv:target=feat", "--arms adv:target=feat"), ("--arms none,dropout,l2,adv", "--arms none,adv"),
           ("--batch-size 256", "--batch-size 8"), ("--batch-size 16", "--batch-size 8"),
           ("--jobs 1", "--jobs 1 --threads 1"), ("--dry-run", "--threads 1 --dry-run")]
WGET = """#!/bin/sh
# as wget does it: the last part of the address, in the folder that -P names
folder=.
if [ "$1" = -P ]; then folder=$2; shift 2; fi
mkdir -p "$folder" && cp "$FILES/$(basename "$1")" "$folder/"
"""
CONFIG = {"architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False, "hidden_act": "gelu",
          "hidden_dropout_prob": 0.1, "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 256, "layer_norm_eps": 1e-12,
          "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0,
          "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522}


def lines_of_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Your own 50,000 COCO pictures\n(.*?)^## ", text, re.S | re.M).group(1)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.S | re.M)
    assert len(blocks) == 5, "download, add, frozen, whole, dry-run"
    return blocks


def test_commands_are_there_where_they_are_typed():
    """Once a section has changed into a folder of its own, tools/ is not there any more."""
    for section in re.split(r"^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M):
        away = False
        for block in re.findall(r"^```sh\n(.*?)^```$", section, re.S | re.M):
            for line in block.splitlines():
                away = away or re.search(r"\bcd ", line) is not None
                assert not (away and re.match(r"\s*(tools|build)/", line)), f"## {section.splitlines()[0]}: {line}"


def smaller(text):
    for long, short in SMALLER:
        text = text.replace(long, short)
    # at 64 px ResNet-50 is as deep and has the same weights
    return text if FULL else text.replace("trainer study", "trainer study --image-size 64").replace("trainer --data", "trainer --image-size 64 --data")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the addresses lead to."""
    folder = tmp_path_factory.mktemp("files")
    vocab = shared_data("text/bert-base-uncased-vocab.txt")
    shared_data("tiny_coco")
    subprocess.run(["/usr/bin/python3", ROOT / "tools" / "make-coco", folder, "--pictures", str(PICTURES), "--zip"], check=True,
                   stdout=subprocess.DEVNULL)
    (folder / "vocab.txt").write_bytes(vocab.read_bytes())
    config = dict(CONFIG, hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12) if FULL else CONFIG
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    torch.manual_seed(1)
    bert = Bert(config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"], config["intermediate_size"], 30522)
    names = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
             for name, value in bert.state_dict().items()}
    width = config["hidden_size"]
    torch.save({**{"bert." + name: value for name, value in names.items()}, "bert.embeddings.position_ids": torch.arange(512)[None],
                "cls.predictions.bias": torch.zeros(30522), "cls.seq_relationship.weight": torch.zeros(2, width)},
               folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), folder / "resnet50-0676ba61.pth")
    return folder


@pytest.fixture(scope="module")
def shell(files, tmp_path_factory):
    """Runs lines in one folder, with a daemon at the usual places of a user who is nobody else."""
    home = tmp_path_factory.mktemp("user")
    (home / "bin").mkdir()
    wget = home / "bin" / "wget"
    wget.write_text(WGET)
    wget.chmod(0o755)
    run_dir = tmp_path_factory.mktemp("r")
    run_dir.chmod(0o700)
    env = environment(FILES=files, HOME=home, XDG_CACHE_HOME=home / "cache", XDG_RUNTIME_DIR=run_dir, PATH=f"{home / 'bin'}:{BIN}:{os.environ['PATH']}")

    def run_lines(text, cwd=home / "coco"):
        result = subprocess.run(["sh", "-eu", "-c", smaller(text)], cwd=cwd if cwd.exists() else home, env=env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=open(home / "log", "a"), text=True, timeout=300 * SLOW, check=False)
        assert result.returncode == 0, f"{smaller(text)}\n{result.stdout}\n{(home / 'log').read_text()[-4000:]}"
        return result.stdout

    yield home, run_lines
    subprocess.run(["prepctl", "shutdown"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def background(text):
    """The daemon outlives the shell; with its output elsewhere the shell's end is seen."""
    return text.replace("preprocessd &", "preprocessd > ../daemon.log 2>&1 &")


def study_of(folder):
    return json.loads((folder / "study.json").read_text()), json.loads((folder / "report.json").read_text())


def test_every_line_of_the_readme(shell):
    home, run_lines = shell
    download, add, frozen, whole, dry_run = lines_of_readme()
    for long, _ in SMALLER:
        assert any(long in block for block in (add, frozen, whole, dry_run)), f"README says {long!r} no more"
    run_lines(download)
    assert (home / "coco" / "annotations" / "captions_train2017.json").exists()
    assert len(list((home / "coco" / "train2017").iterdir())) == PICTURES

    said = run_lines(background(add))
    assert f"{LIMIT} pictures, {5 * LIMIT} captions" in said and f"{LIMIT} of {PICTURES} pictures" in said, said

    run_lines(frozen)
    study, report = study_of(home / "coco" / "studies" / "frozen")
    assert len(list((home / "coco" / "studies" / "frozen").glob("runs/*/*/result.json"))) == 4  # none and adv, two folds
    assert (home / "coco" / "studies" / "frozen" / "report.html").stat().st_size > 10000
    assert len(report["arms"]) == len(study["arms"]) == 2

    run_lines(whole)
    assert len(list((home / "coco" / "studies" / "whole").glob("runs/*/*/result.json"))) == 2
    assert (home / "coco" / "studies" / "whole" / "report.html").stat().st_size > 10000

    said = run_lines(dry_run)
    log = (home / "log").read_text()
    assert log.count("resnet50-0676ba61.pth: 318 tensors loaded, 0 missing, 0 unexpected") == 2 and log.count("0 missing, 0 unexpected") == 4, log[-3000:]
    assert said.count("peak memory") == 2 and said.count("the run ") == 2, said
    assert len(re.findall(r"^encoding +\d+ s at most", said, re.M)) == 1, said
    assert re.search(rf"^  pictures +{LIMIT} at [\d.]+ a second\n  captions +{5 * LIMIT} at [\d.]+ a second$", said, re.M), said


def test_expectations_are_of_these_lines():
    """The table of what to expect was computed for what the lines say."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- expect -->\n(.*?)<!-- end expect -->", text, re.S).group(1)
    _, add, frozen, whole, _ = lines_of_readme()
    want = [re.search(r"--limit (\d+)", add).group(1), re.search(r"--folds (\d+)", frozen).group(1), re.search(r"--epochs (\d+)", frozen).group(1),
            re.search(r"--epochs (\d+)", whole).group(1), re.search(r"--seeds (\d+)", whole).group(1)]
    said = re.search(r"Computed for (\d+) pictures; frozen: \d+ arms, (\d+) folds, (\d+) epochs.*; whole: \d+ arms, (\d+) epochs, (\d+) seeds", table)
    assert said is not None and list(said.groups()) == want
