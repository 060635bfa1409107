#!/usr/bin/env python3
"""Makes a study's folder with known effects, as `trainer study` leaves it (schemas/study.md), without training anything.

    tests/support/study_folder.py DIR [--folds 5] [--seeds 3] [--pictures 300] [--robustness]

Margins of pairs are normal: a pair's own difficulty, a part that its picture's pairs share, one that
a fold's runs share, and what is new in each run. An arm's effect moves all of its margins.
"""
import argparse
import hashlib
import json
import math
import pathlib
import shutil

import numpy as np

ARMS = {"none": 0.0, "dropout": 0.18, "l2": 0.02, "adv": 0.12, "noise": 0.01, "dropout+l2": 0.2, "dropout+adv": 0.24, "l2+adv": 0.12,
        "dropout+l2+adv": 0.25, "dropout@3": -0.25}
REGS = {"dropout": "dropout=0.3", "l2": "l2=0.01:mode=decoupled,on=weights",
        "adv": "adv:method=fgm,target=text+feat,rel=0.03,norm=l2,weight=1", "noise": "noise:target=text+feat,rel=0.03", "dropout@3": "dropout=0.3@3"}
COST = {"dropout": 0.02, "l2": 0.01, "adv": 0.42, "noise": 0.4, "dropout@3": 0.02}


def reg_of(arm):
    return "+".join(REGS.get(term, term) for term in arm.split("+"))


def digest(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def make_study(folder, arms=None, folds=5, seeds=(0, 1, 2), pictures=200, captions=2, epochs=8, name="made", data="made", version=None, task="match",
               design="factorial", baseline="none", seed=1, skip=(), spread=0.05, picture_ids=None, options=None, failed=None, curves=True, predictions=True,
               fold_seed=0):
    """Returns {(arm, fold, seed): accuracy}. skip: (arm, fold, seed) without a run."""
    folder = pathlib.Path(folder)
    arms = dict(ARMS if arms is None else arms)
    rng = np.random.default_rng(seed)
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "runs").mkdir(parents=True)
    version = version or digest("data", data)
    write_json(folder / "study.json", {
        "schema": "trainer-study-1", "name": name, "data": data, "data_version": version, "task": task, "folds": folds, "seeds": list(seeds),
        "baseline": baseline, "split": "train+val", "fold_seed": fold_seed, "threads": 1, "design": design, "equal": "epochs",
        "arms": [{"name": arm, "reg": reg_of(arm), "options": (options or {}).get(arm, {})} for arm in arms],
        "common": {"preset": "tiny", "epochs": epochs, "batch-size": 32, "lr": 0.0003, "threads": 1},
        "command": ["trainer", "study", "made.json", "--out", str(folder)],
        "versions": {"trainer": "0.1.0", "preprocessd": "0.1.0", "openblas": "0.3.21", "onednn": "2.6.3", "cpu": "a made-up one", "threads": 1,
                     "os": "Linux"},
        "init": {"file": "encoders.safetensors", "sha256": digest("init")}})
    # Pairs: each picture's captions, once with it and once with the next picture.
    per_picture = 2 * captions
    by_fold = [[p for p in range(pictures) if p % folds == f] for f in range(folds)]
    ability, difficulty = {}, {}
    for f in range(folds):
        rows = []
        for at, picture in enumerate(by_fold[f]):
            other = by_fold[f][(at + 1) % len(by_fold[f])]
            for c in range(captions):
                caption = picture * captions + c
                rows.append((picture * captions, caption, 1))
                rows.append((other * captions, caption, 0))
        ability[f] = rows
        difficulty[f] = rng.normal(0.55, 0.8, len(rows)) + np.repeat(rng.normal(0, 0.35, len(by_fold[f])), per_picture)
    result = {}
    for arm, effect in arms.items():
        for f in range(folds):
            arm_fold = rng.normal(0, spread * 0.6)
            for s in seeds:
                shift = effect + arm_fold + rng.normal(0, spread)
                margin = difficulty[f] + shift + rng.normal(0, 0.7, len(difficulty[f]))
                if (arm, f, s) in skip:
                    continue
                rows = ability[f]
                correct = margin > 0
                accuracy = float(correct.mean())
                result[arm, f, s] = accuracy
                run = folder / "runs" / arm.replace("/", "_") / f"f{f + 1}-s{s}"
                run.mkdir(parents=True)
                confidence = 1 / (1 + np.exp(-1.9 * margin))
                if predictions:
                    lines = ["pair,picture,caption,label,p,correct"]
                    for i, (picture, caption, label) in enumerate(rows):
                        p = confidence[i] if label == 1 else 1 - confidence[i]
                        lines.append(f"{i},{picture},{caption},{label},{p:.9g},{int(correct[i])}")
                    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
                gap = max(0.02, 0.16 - 0.4 * effect + rng.normal(0, 0.01))
                train = min(0.999, accuracy + gap)
                with open(run / "metrics.jsonl", "w") as file:
                    for e in range(epochs if curves else 0):
                        share = 1 - math.exp(-(e + 1) / 2.5)
                        for step in range(4):
                            file.write(json.dumps({"step": 4 * e + step, "epoch": e, "split": "train", "loss": 0.69 - 0.45 * share + rng.normal(0, 0.01),
                                                   "accuracy": 0.5 + (train - 0.5) * share + rng.normal(0, 0.01)}) + "\n")
                        file.write(json.dumps({"step": 4 * e + 3, "epoch": e, "split": "val", "loss": 0.69 - 0.25 * share + 0.012 * e * gap * 10,
                                               "accuracy": 0.5 + (accuracy - 0.5) * share}) + "\n")
                cost = 1 + sum(COST.get(term, 0) for term in arm.split("+"))
                if isinstance(broken := (failed or {}).get((arm, f, s)), str):
                    write_json(run / "failed.json", {"schema": "trainer-failure-1", "arm": arm, "fold": f + 1, "seed": s, "state": "diverged", "message": broken})
                    del result[arm, f, s]
                    continue
                write_json(run / "result.json", {
                    "schema": "trainer-result-1", "arm": arm, "reg": reg_of(arm), "fold": f + 1, "seed": s, "steps": 4 * epochs, "epochs": epochs,
                    "accuracy": accuracy, "loss": 0.5, "ece": 0.05, "train_accuracy": train, "train_loss": 0.3, "best_accuracy": accuracy + 0.01,
                    "best_epoch": max(0, epochs - 2), "pairs": len(rows), "pictures": len(by_fold[f]),
                    "train_pictures": pictures - len(by_fold[f]) or 4 * len(by_fold[f]), "train_seconds": 20 * cost + rng.normal(0, 0.5),
                    "cost": cost, "digest": digest("batches", f, s), "val_digest": digest("val", f), "init_digest": digest("weights", s),
                    "pairs_digest": digest("pairs", f)})
    return result


def make_robustness(folder, arms=None, seed=2):
    """Accuracies that fall with epsilon, a transfer table and some checks."""
    folder = pathlib.Path(folder)
    arms = list(ARMS if arms is None else arms)
    rng = np.random.default_rng(seed)
    attacks = []
    for attack, target, norm, scale in (("fgsm", "pixel", "linf", 2 / 255), ("pgd", "pixel", "linf", 2 / 255), ("pgd", "text", "l2", 0.1), ("noise", "text", "l2", 0.1)):
        for arm in arms:
            strength = 1.0 + (0.9 if "adv" in arm else 0) + rng.normal(0, 0.05)
            for share in (0, 0.25, 0.5, 1, 4, 32):
                for fold in range(2):
                    attacks.append({"arm": arm, "source_arm": arm, "fold": fold, "seed": 0, "attack": attack, "target": target, "norm": norm,
                                    "eps": share * scale, "steps": {"pgd": 10, "fgsm": 1, "noise": 0}[attack], "restarts": 3 if attack == "pgd" else 1,
                                    "accuracy": max(0.02, 0.75 * math.exp(-share / strength) + rng.normal(0, 0.004)), "loss": 0.5 + share, "pairs": 200})
        if attack == "pgd" and target == "pixel":
            for source in arms[:4]:
                for arm in arms[:4]:
                    if arm != source:
                        attacks.append({"arm": arm, "source_arm": source, "fold": 0, "seed": 0, "attack": attack, "target": target, "norm": norm, "eps": scale,
                                        "steps": 10, "restarts": 3, "accuracy": 0.6 + rng.normal(0, 0.05), "loss": 0.8, "pairs": 200})
    checks = [{"name": "monotone in epsilon", "arm": arm, "ok": arm != "noise", "detail": "" if arm != "noise" else "pgd pixel: 0.31 at 0.012, 0.33 at 0.024"}
              for arm in arms]
    checks.append({"name": "PGD is never weaker than FGSM", "arm": arms[0], "ok": True, "detail": ""})
    write_json(folder / "robustness.json", {"schema": "trainer-robustness-1", "attacks": attacks, "checks": checks})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--robustness", action="store_true")
    chosen = parser.parse_args()
    make_study(chosen.folder, folds=chosen.folds, seeds=tuple(range(chosen.seeds)), pictures=chosen.pictures)
    if chosen.robustness:
        make_robustness(chosen.folder)
