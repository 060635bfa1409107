#!/usr/bin/python3
"""What README's "Your own 50,000 COCO pictures" takes on this machine: rates are measured on a few hundred pictures, times computed.

    tools/bench/expect.py [--out FILE.md] [--pictures 300] [--threads N]
    tools/bench/expect.py --out build/expect.md && tools/readme.py --expect build/expect.md

Measured, at full size (ResNet-50 and BERT-base at 224 px; random weights, which take as long as others): adding pictures of COCO's
size to an empty cache; encoding pictures and captions by frozen towers; steps of frozen and of whole models for each arm, as `trainer --dry-run` takes
them; the pairs a second of a frozen run's validation, and what a run takes besides its steps. How many pictures, arms, folds, seeds and epochs
there are, and the batches' sizes, is read off the lines in README.md. bf16 is left out where the processor has none. Takes about 3 minutes on
two idle cores; wants 4 GB.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

from common import ROOT, SHARED_DATA, note
from harness import Daemon, has_bf16, run_ok, write_vocab

CAPTIONS = 5  # a picture of COCO


def lines():
    """What the lines in README.md say."""
    section = re.search(r"^## Your own 50,000 COCO pictures\n(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M).group(1)
    studies = [block.replace("\\\n", " ") for block in re.findall(r"^```sh\n(.*?)^```$", section, re.S | re.M) if "trainer study" in block]

    def option(text, name, default=None):
        found = re.search(rf"--{name} (\S+)", text)
        return found.group(1) if found else default

    def study(text):
        terms = option(text, "arms").split(",")
        if option(text, "design") == "factorial":
            arms = ["+".join(term for k, term in enumerate(terms) if mask >> k & 1) or "none" for mask in range(1 << len(terms))]
        else:
            arms = terms
        return {"arms": arms, **{name: int(option(text, name, "1")) for name in ("folds", "seeds", "epochs", "batch-size")},
                "negatives": option(text, "negatives", "all")}

    shares = dict(part.split("=") for part in option(section, "split").split(","))
    return int(option(section, "limit")), float(shares["val"]), study(studies[0]), study(studies[1])


def figure(text, pattern):
    return float(re.search(pattern, text, re.M).group(1))


class Trainer:
    def __init__(self, daemon, threads):
        self.at = ["--data", "coco", "--preset", "full", "--quiet", *daemon.at(), *(["--threads", threads] if threads else [])]

    def plan(self, *options):
        """--dry-run's figures."""
        said = run_ok("trainer", *self.at, *options, "--dry-run", timeout=1800).stdout
        found = {"step_s": figure(said, r"^a step +([\d.]+) s"), "planned": figure(said, r"^together +([\d.]+) MiB"),
                 "peak": figure(said, r"^peak memory +([\d.]+) MiB"), "threads": int(figure(said, r"on (\d+) threads"))}
        for name in ("pictures", "captions"):
            rate = re.search(rf"^  {name} +\d+ at ([\d.]+) a second", said, re.M)
            found[name] = float(rate.group(1)) if rate else None
        note(f"{' '.join(map(str, options))}: {found}")
        return found

    def run(self, out, *options):
        """Seconds of the whole command, of them in steps, and the pairs a second of its validation."""
        started = time.monotonic()
        run_ok("trainer", *self.at, *options, "--out", out, timeout=1800)
        whole = time.monotonic() - started
        seconds, pairs = 0, None
        for line in (out / "metrics.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry["split"] == "train":
                seconds += entry["samples"] / entry["pairs_per_s"]
            else:
                seconds += entry["seconds"]
                pairs = entry["pairs_per_s"]
        return whole - seconds, pairs


def cost_of(arm):
    """The measured arm whose steps this one's resemble: adversaries run passes of their own, dropout scores each pair apart."""
    return "+".join(term for term in arm.split("+") if term.startswith(("adv", "dropout"))) or "none"


def measure(options, frozen, whole):
    got = {}
    with tempfile.TemporaryDirectory(prefix="expect-") as name:
        folder = pathlib.Path(name)
        vocab = SHARED_DATA / "text" / "bert-base-uncased-vocab.txt"
        if not vocab.exists():
            vocab = write_vocab(folder / "vocab.txt")
        subprocess.run([ROOT / "tools" / "make-coco", folder / "coco", "--pictures", str(options.pictures)], check=True)
        with Daemon() as daemon:
            started = time.monotonic()
            daemon.prepctl_ok("add", "coco", "--format", "coco", "--images", folder / "coco" / "train2017", "--captions",
                              folder / "coco" / "annotations" / "captions_train2017.json", "--split", "train=0.9,val=0.1", "--vocab", vocab,
                              timeout=1800)
            got["add_per_s"] = options.pictures / (time.monotonic() - started)
            got["disk"] = (daemon.cache / "data.mdb").stat().st_blocks * 512 / options.pictures
            trainer = Trainer(daemon, options.threads)
            freeze = ["--freeze", "image,text", "--batch-size", frozen["batch-size"], "--negatives", frozen["negatives"]]
            got["frozen"] = {arm: trainer.plan(*freeze, "--reg", arm) for arm in sorted({cost_of(arm) for arm in frozen["arms"]})}
            trainer.run(folder / "first", *freeze, "--epochs", "1")
            got["start_s"], got["frozen_pairs"] = trainer.run(folder / "second", *freeze, "--epochs", "1")
            size = ["--batch-size", whole["batch-size"], "--negatives", whole["negatives"]]
            for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
                got[precision] = {arm: trainer.plan(*size, "--precision", precision, "--reg", arm)
                                  for arm in sorted({cost_of(arm) for arm in whole["arms"]})}
    return got


def text_of_time(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def seconds_of(study, got, plans, train, validation_s, start_s):
    """Of all runs of a study."""
    total = 0
    for arm in study["arms"]:
        steps = train // study["batch-size"] * study["epochs"]
        total += steps * plans[cost_of(arm)]["step_s"] + study["epochs"] * validation_s + start_s
    return total * study["folds"] * study["seeds"]


def table(got, pictures, share, frozen, whole):
    first = got["frozen"]["none"]
    encode = pictures / first["pictures"] + pictures * CAPTIONS / first["captions"]
    fold = pictures // frozen["folds"]
    frozen_val = 2 * fold * CAPTIONS / got["frozen_pairs"]
    features = pictures * (1 + CAPTIONS) * 768 * 4
    val = pictures * share
    whole_val = val / first["pictures"] + val * CAPTIONS / first["captions"]
    cores = first["threads"]
    load = os.getloadavg()[0]
    rows = [
        ("adding the pictures", f"{got['add_per_s']:,.0f} pictures/s", text_of_time(pictures / got["add_per_s"]),
         f"cache {pictures * got['disk'] / 1e9:.1f} GB"),
        ("features, once, frozen", f"{first['pictures']:.1f} pictures/s, {first['captions']:.0f} captions/s", text_of_time(encode),
         f"cache +{features / 1e9:.1f} GB, memory {first['peak'] * 1.048576e-3 + features / 1e9:.1f} GB"),
        ("an epoch, frozen, `none`", f"{first['step_s'] * 1e3:.0f} ms a step", text_of_time((pictures - fold) // frozen["batch-size"] * first["step_s"]),
         ""),
        (f"the frozen study's {len(frozen['arms']) * frozen['folds'] * frozen['seeds']} runs", f"{got['start_s']:.0f} s before the first step of each",
         text_of_time(seconds_of(frozen, got, got["frozen"], pictures - fold, frozen_val, got["start_s"])), ""),
    ]
    for precision in [precision for precision in ("fp32", "bf16") if precision in got]:
        plans = got[precision]
        runs = len(whole["arms"]) * whole["folds"] * whole["seeds"]
        train = int(pictures * (1 - share))
        rows += [(f"an epoch, whole, `none`, {precision}", f"{whole['batch-size'] / plans['none']['step_s']:.1f} pairs/s",
                  text_of_time(train // whole["batch-size"] * plans["none"]["step_s"]), f"memory {plans['none']['peak'] * 1.048576e-3:.1f} GB"),
                 (f"the whole study's {runs} runs, {precision}", ", ".join(f"`{arm}` {plan['step_s'] / plans['none']['step_s']:.2f}"
                                                                            for arm, plan in plans.items() if arm.startswith("adv")) + " of `none`",
                  text_of_time(seconds_of(whole, got, plans, train, whole_val, got["start_s"])), "")]
    out = [f"Computed for {pictures} pictures; frozen: {len(frozen['arms'])} arms, {frozen['folds']} folds, {frozen['epochs']} epochs of "
           f"{frozen['batch-size']} a step; whole: {len(whole['arms'])} arms, {whole['epochs']} epochs, {whole['seeds']} seeds.",
           got.get("source") or f"Measured with {cores} threads on {os.cpu_count()} cores"
           + (f" that other programs used too (load {load:.0f})." if load > cores + 1 else "."), "",
           "| what | rate | time, computed | memory, disk |", "|---|---|---:|---|"]
    out += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=300, help="that are measured on; at least a batch must be left for training")
    parser.add_argument("--threads", type=int, help="default: one for each core")
    parser.add_argument("--rates", type=pathlib.Path, help="keep what was measured in this file, or compute from it where it is there")
    options = parser.parse_args()
    pictures, share, frozen, whole = lines()
    if options.rates and options.rates.exists():
        got = json.loads(options.rates.read_text())
    else:
        got = measure(options, frozen, whole)
        if options.rates:
            options.rates.write_text(json.dumps(got, indent=1))
    text = table(got, pictures, share, frozen, whole)
    if options.out:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
