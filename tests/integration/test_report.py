"""trainer report on made-up studies: what it says, in every format, also about incomplete, degenerate and hostile ones."""
import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import run, run_ok  # noqa: E402
from report_page import arm_of, as_json, check_page, report, study  # noqa: E402,F401
from study_folder import make_robustness, make_study  # noqa: E402

FULL = os.environ.get("FULL") == "1"
scipy_stats = pytest.importorskip("scipy.stats")
HOSTILE = ["none", "<script>alert(1)</script>&\"'%$#_{}~^\\", "=cmd|' /C calc'!A0", "ünï☃ 中文 |`*`", "a" * 200]


def close(got, want, rtol=1e-7):
    assert got is not None and math.isclose(got, want, rel_tol=rtol, abs_tol=1e-12), (got, want)


def holm_of(p):
    """{name: p} adjusted."""
    out, most = {}, 0
    for i, name in enumerate(sorted(p, key=p.get)):
        most = out[name] = max(most, min(1, p[name] * (len(p) - i)))
    return out


def test_numbers_are_scipys(study):
    folder, accuracies, _ = study
    found = as_json(folder)
    p = {}
    for arm in found["arms"]:
        values = np.array([v for (name, _, _), v in accuracies.items() if name == arm["name"]])
        low, high = scipy_stats.t.interval(0.95, len(values) - 1, values.mean(), scipy_stats.sem(values))
        assert np.allclose([arm["accuracy"][k] for k in ("mean", "low", "high")], [values.mean(), low, high], rtol=1e-9)
        if arm["name"] == "none":
            continue
        d = np.array([v - accuracies["none", f, s] for (name, f, s), v in accuracies.items() if name == arm["name"]])
        test = arm["against_baseline"]["corrected_t"]
        se = d.std(ddof=1) * math.sqrt(1 / 15 + 1 / 4)
        assert np.allclose([test["difference"], test["t"], test["p"]], [d.mean(), d.mean() / se, 2 * scipy_stats.t.sf(abs(d.mean() / se), 14)], rtol=1e-8)
        p[arm["name"]] = test["p"]
        folds = d.reshape(5, 3).mean(axis=1)
        by_fold = arm["against_baseline"]["corrected_t_by_fold"]
        assert np.allclose(by_fold["t"], folds.mean() / (folds.std(ddof=1) * math.sqrt(1 / 5 + 1 / 4)), rtol=1e-8)
    for name, value in holm_of(p).items():
        close(arm_of(found, name)["against_baseline"]["corrected_t"]["p_holm"], value, 1e-8)


def test_pairs_are_counted_right(study):
    """Bootstrap estimate, McNemar and ECE, from predictions.csv as Python reads it."""
    folder, _, _ = study
    found = as_json(folder)
    rows = {}
    for path in folder.glob("runs/*/*/predictions.csv"):
        rows[path.parent.parent.name, path.parent.name] = list(csv.DictReader(open(path)))
    arm = arm_of(found, "dropout+adv")["against_baseline"]
    gains, only = [], [0, 0]
    for (name, cell), table in rows.items():
        if name != "dropout+adv":
            continue
        for mine, base in zip(table, rows["none", cell]):
            gains.append(int(mine["correct"]) - int(base["correct"]))
            if cell.endswith("s0"):
                only[0] += gains[-1] > 0
                only[1] += gains[-1] < 0
    assert math.isclose(arm["bootstrap"]["difference"], np.mean(gains), abs_tol=1e-12)
    assert arm["bootstrap"]["low"] < np.mean(gains) < arm["bootstrap"]["high"] and arm["bootstrap"]["method"] == "BCa"
    assert (arm["mcnemar"]["only_arm"], arm["mcnemar"]["only_baseline"]) == tuple(only)
    assert math.isclose(arm["mcnemar"]["p"], scipy_stats.binomtest(min(only), sum(only)).pvalue, rel_tol=1e-9)
    confidence, correct = [], []
    for (name, _), table in rows.items():
        if name == "l2":
            confidence += [max(np.float32(r["p"]), 1 - np.float32(r["p"])) for r in table]
            correct += [int(r["correct"]) for r in table]
    confidence, correct = np.array(confidence), np.array(correct)
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(confidence[bins == b].mean() - correct[bins == b].mean()) * np.sum(bins == b) for b in set(bins)) / len(bins)
    assert math.isclose(arm_of(found, "l2")["calibration"]["ece"], ece, abs_tol=1e-6)


def test_every_number_again(study):
    """What the report says of each arm beside the t test, worked out anew from the runs' own files with SciPy: simultaneous intervals, power,
    sizes of effects, McNemar, BCa bootstrap and sign flips over pictures, and the effects of the factorial with their tests."""
    folder, accuracies, _ = study
    found, cells = as_json(folder), [(f, s) for f in range(1, 6) for s in range(3)]
    others = [arm["name"] for arm in found["arms"] if arm["name"] != "none"]
    tables = {(path.parent.parent.name, path.parent.name): list(csv.DictReader(open(path))) for path in folder.glob("runs/*/*/predictions.csv")}
    results = {key: json.loads((folder / "runs" / key[0] / key[1] / "result.json").read_text())["accuracy"] for key in tables}
    order = sorted({row["picture"] for table in tables.values() for row in table})
    place = {picture: i for i, picture in enumerate(order)}
    scale, alpha, flips, spreads = math.sqrt(1 / 15 + 1 / 4), 0.05 / len(others), {}, []

    def power(difference, sd, level):
        shift, critical = difference / (sd * scale), scipy_stats.t.ppf(1 - level / 2, 14)
        return scipy_stats.nct.sf(critical, 14, shift) + scipy_stats.nct.cdf(-critical, 14, shift)

    for name in others:
        against = arm_of(found, name)["against_baseline"]
        d = np.array([results[name, f"f{f}-s{s}"] - results["none", f"f{f}-s{s}"] for f, s in cells])
        sd = d.std(ddof=1)
        spreads.append(sd)
        assert np.allclose(against["differences"], d, atol=1e-12)
        half = scipy_stats.t.ppf(1 - alpha / 2, 14) * sd * scale
        close(against["simultaneous"]["low"], d.mean() - half)
        close(against["simultaneous"]["high"], d.mean() + half)
        close(power(against["detectable"], sd, alpha), 0.8, 1e-6)
        close(against["effect"]["cohen_d"], d.mean() / sd)
        close(against["effect"]["hedges_g"], d.mean() / sd * math.gamma(7) / (math.sqrt(7) * math.gamma(6.5)))
        close(against["effect"]["error_reduction"], d.mean() / np.mean([1 - results["none", f"f{f}-s{s}"] for f, s in cells]))
        sums, counts, only = np.zeros(len(order)), np.zeros(len(order)), [0, 0]
        for f, s in cells:
            for mine, base in zip(tables[name, f"f{f}-s{s}"], tables["none", f"f{f}-s{s}"]):
                gain = int(mine["correct"]) - int(base["correct"])
                sums[place[mine["picture"]]] += gain
                counts[place[mine["picture"]]] += 1
                only = [only[0] + (s == 0 and gain > 0), only[1] + (s == 0 and gain < 0)]
        assert [against["mcnemar"]["only_arm"], against["mcnemar"]["only_baseline"]] == only
        close(against["mcnemar"]["p"], scipy_stats.binomtest(min(only), sum(only)).pvalue)
        want = scipy_stats.bootstrap((sums, counts), lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis), paired=True, vectorized=True,
                                     n_resamples=20000, method="BCa", random_state=3, batch=2000)
        width = want.confidence_interval.high - want.confidence_interval.low
        assert abs(against["bootstrap"]["low"] - want.confidence_interval.low) < 0.06 * width, name
        assert abs(against["bootstrap"]["high"] - want.confidence_interval.high) < 0.06 * width, name
        assert abs(against["bootstrap"]["se"] / want.standard_error - 1) < 0.04
        rng = np.random.default_rng(5)
        drawn = abs((rng.integers(0, 2, (20000, len(sums))) * 2 - 1) @ sums) >= abs(sums.sum()) - 1e-9
        flips[name] = against["permutation"]["p"]
        assert abs(flips[name] - (drawn.sum() + 1) / 20001) < 0.015, name
    for name, p in holm_of(flips).items():
        close(arm_of(found, name)["against_baseline"]["permutation"]["p_holm"], p)
    pooled = math.sqrt(np.mean(np.square(spreads)))
    close(found["power"]["sd"], pooled)
    close(power(found["power"]["detectable"], pooled, alpha), 0.8, 1e-6)
    close(power(found["power"]["detectable_alone"], pooled, 0.05), 0.8, 1e-6)
    close(found["power"]["detectable_any_seeds"], (scipy_stats.norm.ppf(1 - alpha / 2) + scipy_stats.norm.ppf(0.8)) * pooled / 2)
    # Least squares on factors coded -1 and +1: an effect is twice its coefficient.
    factors, p = found["factorial"]["factors"], {}
    arms = [name for name in ["none", *others] if name == "none" or set(name.split("+")) <= set(factors)]
    for effect in found["factorial"]["effects"]:
        signs = np.array([math.prod(1 if factor in name.split("+") else -1 for factor in effect["factors"]) for name in arms])
        values = np.array([2 * np.mean(signs * [results[name, f"f{f}-s{s}"] for name in arms]) for f, s in cells])
        t = values.mean() / (values.std(ddof=1) * scale)
        close(effect["test"]["t"], t)
        p["x".join(effect["factors"])] = 2 * scipy_stats.t.sf(abs(t), 14)
    for effect in found["factorial"]["effects"]:
        close(effect["test"]["p_holm"], holm_of(p)["x".join(effect["factors"])])


def test_factorial(study):
    folder, accuracies, _ = study
    found = as_json(folder)["factorial"]
    assert found["factors"] == ["dropout", "l2", "adv"] and len(found["effects"]) == 7
    means = {name: np.mean([v for (n, _, _), v in accuracies.items() if n == name]) for name in {n for n, _, _ in accuracies}}
    on = [means[a] for a in ("dropout", "dropout+l2", "dropout+adv", "dropout+l2+adv")]
    off = [means[a] for a in ("none", "l2", "adv", "l2+adv")]
    assert math.isclose(found["effects"][0]["test"]["difference"], np.mean(on) - np.mean(off), rel_tol=1e-9)
    effect = 100 * (np.mean(on) - np.mean(off))
    words = f"Over all 8 combinations of dropout, l2 and adv: dropout adds {effect:+.2f} points".replace("-", "\u2212")
    for name in ("report.md", "report.html"):
        assert words in (folder / name).read_text()
    assert words in study[2]


LONG = "adv:method=freelb,target=text+feat,rel=0.012345678,norm=linf,k=3,step=0.5,init=0.25,every=2,warmup=200steps"


@pytest.mark.parametrize("factors, named", [
    (("dropout=0.3:at=fusion+head", "l2"), ["dropout", "l2"]), (("dropout:at=bert.hidden+text", "depth:at=image+text"), ["dropout", "depth"]),
    (("dropout+l2", "adv"), ["dropout+l2", "adv"]), (("dropout+l2", "dropout=0.1:at=head+image"), ["dropout+l2", "dropout"]), ((LONG, "l2"), ["adv", "l2"]),
    (("dropout:at=fusion+head", "dropout=0.1:at=text"), ["dropout:at=fusion+head", "dropout=0.1:at=text"])])
def test_factors_with_a_plus_inside(tmp_path, factors, named):
    """Of places or targets, or as a design's factor that is a sum itself: the effects are those of the two factors."""
    arms = ["none", factors[0], factors[1], "+".join(factors)]
    accuracies = make_study(tmp_path / "s", dict.fromkeys(arms, 0), folds=2, pictures=30)
    found = as_json(tmp_path / "s")["factorial"]
    assert found["factors"] == named and [effect["factors"] for effect in found["effects"]] == [[named[0]], [named[1]], named]
    mean = [np.mean([v for (arm, _, _), v in accuracies.items() if arm == name]) for name in arms]
    assert math.isclose(found["effects"][0]["test"]["difference"], (mean[1] + mean[3] - mean[0] - mean[2]) / 2, rel_tol=1e-9)
    # Listed arms have no factors but their terms.
    make_study(tmp_path / "s", dict.fromkeys(arms, 0), folds=2, pictures=30, design="listed")
    assert ("factorial" in as_json(tmp_path / "s")) == ("dropout+l2" not in factors)
    # Arms that were changed by hand are not the design's.
    make_study(tmp_path / "s", dict.fromkeys([arms[0], "smooth", *arms[2:]], 0), folds=2, pictures=30)
    assert "factorial" not in as_json(tmp_path / "s")


def test_another_baseline(study, tmp_path):
    folder, accuracies, _ = study
    arm = next(name for name, _, _ in accuracies if name != "none")
    before = (folder / "report.json").read_bytes()
    found = json.loads(run_ok("trainer", "report", folder, "--baseline", arm, "--json").stdout)
    assert found["baseline"] == arm and (folder / "report.json").read_bytes() == before
    d = np.array([v - accuracies[arm, f, s] for (name, f, s), v in accuracies.items() if name == "none"])
    test = arm_of(found, "none")["against_baseline"]["corrected_t"]
    assert np.allclose([test["difference"], test["t"]], [d.mean(), d.mean() / (d.std(ddof=1) * math.sqrt(1 / 15 + 1 / 4))], rtol=1e-8)
    text = run_ok("trainer", "report", folder, "--baseline", arm, "--format", "md", "--out", tmp_path).stdout
    assert arm in text.splitlines()[0] and f"Report: {tmp_path}" in text and (tmp_path / "report.md").exists() and not (tmp_path / "report.json").exists()


def test_formats(study):
    folder, _, said = study
    words = check_page(folder)
    for needle in ("Every arm", "Cost and gain", "Main effects and interactions", "Calibration", "Robustness", "Transfer", "identical over the arms"):
        assert needle in words, needle
    lines = said.splitlines()
    assert "arms" in lines[0] and lines[1].startswith("Over all 8") and sum(" none" in line for line in lines[2:11]) == 9
    rows = list(csv.DictReader(open(folder / "report.csv", newline="")))
    assert len(rows) == 10 and rows[0]["verdict"] == "baseline" and all(len(row) == 28 and None not in row for row in rows)
    runs = list(csv.DictReader(open(folder / "report-runs.csv", newline="")))
    assert len(runs) == 150 and all(None not in row for row in runs)
    tex = (folder / "report.tex").read_text()
    assert tex.count("\\\\\n") == 11 and "\\begin{tabular}" in tex
    # The column is step_seconds over the baseline's, as report.json and the page say.
    assert "Cost: time of a step over the baseline's." in tex
    md = (folder / "report.md").read_text()
    table = [line for line in md.splitlines() if line.startswith("|")]
    assert all(re.sub(r"\\\|", "", line).count("|") == table[0].count("|") for line in table[:12])
    out = folder / "elsewhere"
    assert report(folder, "--out", out, "--format", "md,json").returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "report.md"]
    before = (folder / "report.json").read_bytes()
    report(folder)
    assert (folder / "report.json").read_bytes() == before, "the same study, another report"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_table_fits_a_page(study, tmp_path):
    folder, _, _ = study
    as_json(folder)
    shutil.copy(folder / "report.tex", tmp_path)
    (tmp_path / "page.tex").write_text("\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,textcomp,graphicx}\n"
                                       "\\begin{document}\\input{report.tex}\\end{document}\n")
    said = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                          errors="replace", check=False)
    assert said.returncode == 0 and "Overfull" not in said.stdout, said.stdout


def test_classify(tmp_path):
    """With many classes p is the true one's: no reliability diagram, everything else."""
    make_study(tmp_path / "s", {"none": 0, "a": 0.5}, folds=2, seeds=(0, 1, 2), pictures=80, task="classify")
    found = as_json(tmp_path / "s")
    assert arm_of(found, "a")["calibration"]["status"] == "nothing to compare" and arm_of(found, "a")["ece"]["mean"] == 0.05
    assert arm_of(found, "a")["against_baseline"]["bootstrap"]["status"] == "ok"
    run_ok("trainer", "report", tmp_path / "s", "--socket", tmp_path / "none.sock")
    words = check_page(tmp_path / "s")
    assert "Reliability diagrams need" in words and "class 1; given" in words


def test_effects_are_found(tmp_path):
    make_study(tmp_path / "s", {"none": 0, "good": 0.6, "same": 0, "bad": -0.6}, spread=0.02, seeds=(0, 1, 2), pictures=150)
    found = as_json(tmp_path / "s")
    assert {a["name"]: a.get("against_baseline", {}).get("verdict") for a in found["arms"]} == \
        {"none": None, "good": "better", "same": "not distinguishable", "bad": "worse"}


def test_plateau(tmp_path):
    """Arms that have learned nothing are named: to compare them is to compare who leaves chance."""
    def train_accuracy(value):
        for path in (tmp_path / "s" / "runs" / "none").rglob("result.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "train_accuracy": value}))

    make_study(tmp_path / "s", {"none": -0.5, "good": 0.6}, folds=2, seeds=(0, 1), pictures=100)
    train_accuracy(0.51)
    assert "At chance or near it (50%): none. These" in report(tmp_path / "s").stdout
    assert "At chance or near it (50%): none. These" in check_page(tmp_path / "s")
    train_accuracy(0.93)  # overfitted is not the plateau
    assert "At chance" not in report(tmp_path / "s").stdout
    make_study(tmp_path / "s", {"none": 0, "good": 0.6}, folds=2, seeds=(0, 1), pictures=100)
    assert "At chance" not in report(tmp_path / "s").stdout


def test_incomplete(tmp_path):
    skip = {("good", f, s) for f in range(5) for s in (1, 2)} | {("late", f, s) for f in range(5) for s in range(3)}
    make_study(tmp_path / "s", {"none": 0, "good": 0.5, "late": 0}, skip=skip, failed={("none", 0, 0): "loss is nan"}, pictures=60)
    said = report(tmp_path / "s").stdout
    assert "29 of 45" not in said and "19 of 45 runs have finished" in said and "late 15" in said and "1 run of none diverged" in said
    assert "late has no verdict: no run has finished" in said
    found = as_json(tmp_path / "s")
    assert not found["complete"] and arm_of(found, "good")["against_baseline"]["corrected_t"]["n"] == 4
    # Of an arm without runs nothing is a number, degrees of freedom neither; and a run that diverged is not missing, in any file.
    late = arm_of(found, "late")["against_baseline"]["corrected_t"]
    assert late["n"] == 0 and late["df"] is None and late["p"] is None
    for row in csv.DictReader(open(tmp_path / "s" / "report.csv", newline="")):
        assert int(row["missing"]) == arm_of(found, row["arm"])["missing"] == {"none": 0, "good": 10, "late": 15}[row["arm"]]
    assert "This study is not complete" in check_page(tmp_path / "s")


def test_arms_to_come_count(tmp_path):
    """Holm's correction is for all arms of the study, also while only some have runs: else each would be judged alone until the others come."""
    arms = {"none": 0, "good": 0.1, **{f"late{i}": 0 for i in range(4)}}
    late = {(arm, f, s) for arm in arms for f in range(5) for s in range(3) if arm.startswith("late")}
    make_study(tmp_path / "s", arms, skip=late, pictures=60)
    good = arm_of(as_json(tmp_path / "s"), "good")["against_baseline"]
    for test in ("corrected_t", "corrected_t_by_fold", "permutation"):
        assert good[test]["p_holm"] == pytest.approx(min(1, 5 * good[test]["p"])) and good[test]["p"] < 1, test
    late = arm_of(as_json(tmp_path / "s"), "late0")["against_baseline"]
    assert late["corrected_t"]["p"] is None and late["corrected_t"]["p_holm"] is None and late["verdict"] == "no verdict"
    report(tmp_path / "s")
    page = check_page(tmp_path / "s")
    assert "over 5 comparisons" in page and "corrected for all arms of the study" in page
    # All that has no p in a finished study was no comparison.
    make_study(tmp_path / "d", {"none": 0, "good": 0.1, "wild": 0}, failed={("wild", f, s): "loss is nan" for f in range(5) for s in range(3)}, pictures=60)
    good = arm_of(as_json(tmp_path / "d"), "good")["against_baseline"]["corrected_t"]
    assert good["p_holm"] == good["p"]


def test_an_arm_that_always_diverges(tmp_path):
    """There are no others that its figures could be of; and sentences of a caption stand apart."""
    failed = {("wild", f, s): "loss is nan" for f in range(2) for s in range(2)}
    make_study(tmp_path / "s", {"none": 0, "wild": 0, "good": 0.5}, folds=2, seeds=(0, 1), pictures=20, failed=failed)
    said = report(tmp_path / "s").stdout
    assert "4 runs of wild diverged and left no result. " in said and "of the others" not in said
    caption = (tmp_path / "s" / "report.tex").read_text().split("\\caption")[1]
    assert "baseline's. 4 runs of wild diverged" in caption and not re.search(r"[a-z]\.[A-Z0-9]", caption)


def test_nothing_yet(tmp_path):
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0}, folds=2, seeds=(0,), pictures=20)
    shutil.rmtree(folder / "runs")
    assert "0 of 4 runs" in report(folder).stdout
    check_page(folder)
    make_study(folder, {"none": 0}, folds=2, seeds=(0,), pictures=20)
    assert "one arm" in report(folder).stdout
    check_page(folder)


@pytest.mark.parametrize("folds,seeds,cut", [(1, 1, 0), (1, 4, 0), (2, 1, 0), (2, 5, 0), (2, 5, "each"), (2, 4, "each")])
def test_small_designs(tmp_path, folds, seeds, cut):
    make_study(tmp_path / "s", {"none": 0, "a": 0.4}, folds=folds, seeds=tuple(range(seeds)), pictures=40, fold_seed=cut)
    said = report(tmp_path / "s").stdout
    against = arm_of(as_json(tmp_path / "s"), "a")["against_baseline"]
    if folds * seeds == 1:
        assert "one run only" in said and against["verdict"] == "no verdict" and against["corrected_t"]["p"] is None
        assert against["bootstrap"]["low"] is not None
    else:
        assert against["corrected_t"]["test_over_train"] == pytest.approx(0.25 if folds == 1 else 1)
        assert against["corrected_t"]["p"] is not None
    # Five halvings, not one halving five times; and folds of different halvings are no folds to average over seeds.
    assert ("cv52_f" in against) == (folds == 2 and seeds == 5 and cut == "each")
    assert against["corrected_t_by_fold"]["n"] == (0 if cut == "each" else folds)
    check_page(tmp_path / "s")


def test_one_arm_with_five_halvings(tmp_path):
    """The page has F of those that have it, also where the arm in the first row lacks a run."""
    make_study(tmp_path / "s", {"none": 0, "a": 2, "b": 0.1}, folds=2, seeds=range(5), pictures=40, fold_seed="each", skip={("a", 1, 4)})
    found = {name: arm_of(as_json(tmp_path / "s"), name)["against_baseline"] for name in ("a", "b")}
    assert found["a"]["corrected_t"]["difference"] > found["b"]["corrected_t"]["difference"] and "cv52_f" not in found["a"]
    report(tmp_path / "s")
    assert "5×2cv F: p" in check_page(tmp_path / "s") and "cv52_f" in found["b"]


def change(folder, arm, cell, **changes):
    path = folder / "runs" / arm / cell / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_degenerate(tmp_path):
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "copy": 0, "shifted": 0, "nan": 0}, folds=2, seeds=(0, 1), pictures=20)
    for cell in ("f1-s0", "f1-s1", "f2-s0", "f2-s1"):
        base = json.loads((folder / "runs/none" / cell / "result.json").read_text())
        change(folder, "copy", cell, accuracy=base["accuracy"])
        change(folder, "shifted", cell, accuracy=base["accuracy"] + 0.125)
        change(folder, "nan", cell, accuracy=None, loss=None)
    verdicts = {a["name"]: a.get("against_baseline") for a in as_json(folder)["arms"]}
    assert verdicts["copy"]["verdict"] == "identical" and verdicts["copy"]["corrected_t"]["p"] == 1
    assert verdicts["shifted"]["verdict"] == "no verdict" and "no spread" in verdicts["shifted"]["why"]
    assert verdicts["nan"]["verdict"] == "no verdict" and "finite" in verdicts["nan"]["why"]
    said = report(folder).stdout
    assert "nan" not in said.lower().replace("nan has no verdict", "").replace("nan 4", "") and "4 runs ended without a finite accuracy" in said
    check_page(folder)


def test_one_fold_without_its_sizes(tmp_path):
    """Of no picture is no ratio of 0, with which the test would not be corrected at all."""
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0.4}, folds=1, seeds=(0, 1, 2), pictures=40)
    for arm in ("none", "a"):
        for seed in range(3):
            change(folder, arm, f"f1-s{seed}", pictures=0)
    found = as_json(folder)
    against = arm_of(found, "a")["against_baseline"]
    assert found["test_over_train"] is None and against["verdict"] == "no verdict" and "ratio of validation to training" in against["why"]
    report(folder)
    check_page(folder)


def test_runs_of_unequal_length(tmp_path):
    """Batches of arms that took as many steps are compared, also where the first arm took others."""
    folder = tmp_path / "s"
    make_study(folder, {"early": 0, "none": 0, "a": 0, "b": 0}, folds=2, seeds=(0,), pictures=20)
    for cell in ("f1-s0", "f2-s0"):
        change(folder, "early", cell, steps=5, digest="0" * 64)

    def batches():
        return next(check for check in as_json(folder)["identical"]["checks"] if check["key"] == "digest")

    assert (batches()["cells"], batches()["different"], batches()["unequal_steps"]) == (2, 0, 2)
    change(folder, "b", "f2-s0", digest="1" * 64)
    assert (batches()["cells"], batches()["different"], batches()["example"]) == (2, 1, "fold 2, seed 0: none and b")


def test_arms_that_differ_in_more(tmp_path):
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0.1}, folds=2, seeds=(0, 1), pictures=20)
    change(folder, "a", "f2-s1", init_digest="f" * 64)
    assert "differ in more than the regularizer" in report(folder).stdout and "initial weights: DIFFERENT in 1 of 4" in report(folder).stdout
    assert "differ in more than the regularizer" in check_page(folder)
    words = "Arms differ in more than the regularizer: initial weights: DIFFERENT in 1 of 4 folds x seeds, first fold 2, seed 1: none and a. "
    assert (folder / "report.md").read_text().index(words) < (folder / "report.md").read_text().index("| arm |")
    assert words in (folder / "report.tex").read_text()
    path = folder / "runs/a/f1-s0/predictions.csv"
    lines = path.read_text().splitlines()
    lines[3] = "2,0,777,1,0.5,1"
    path.write_text("\n".join(lines) + "\n")
    found = as_json(folder)
    assert arm_of(found, "a")["against_baseline"]["corrected_t"]["n"] == 3, "a run on other pairs took part"
    assert found["identical"]["checks"][4]["different"] == 1


def test_runs_without_predictions(tmp_path):
    """Their accuracy counts; what is made of single pairs is of the other runs, and says so."""
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0.1, "b": 0.2}, folds=3, seeds=(0, 1), pictures=30)
    assert "predictions.csv" not in run_ok("trainer", "report", folder, "--samples", "0").stderr
    assert all(arm_of(as_json(folder), name)["against_baseline"]["bootstrap"]["runs"] == 6 for name in "ab")
    (folder / "runs/a/f2-s1/predictions.csv").unlink()
    said = run_ok("trainer", "report", folder, "--samples", "0")
    assert "no predictions.csv in 1 of 18 finished runs" in said.stderr and "runs/a/f2-s1" in said.stderr
    assert "1 of 18 finished runs has no predictions.csv" in said.stdout and "1 of 18 finished runs has no predictions.csv" in check_page(folder)
    assert "row by row in predictions.csv: identical over the arms that recorded it in all 6 folds x seeds; 1 run did not record it" in (folder / "report.md").read_text()
    found = as_json(folder)
    assert [check["unrecorded"] for check in found["identical"]["checks"]] == [0, 0, 0, 0, 1]
    assert [arm_of(found, name)["against_baseline"]["bootstrap"]["runs"] for name in "ab"] == [5, 6]
    assert arm_of(found, "a")["against_baseline"]["corrected_t"]["n"] == 6


def test_what_folds_have_in_common(tmp_path):
    """Two halves share no picture; three parts do, and so do halves that each seed cuts anew."""
    for folds, cut, shared in ((2, 0, False), (3, 0, True), (2, "each", True)):
        make_study(tmp_path / "s", {"none": 0, "a": 0.1}, folds=folds, seeds=(0, 1), pictures=30, fold_seed=cut)
        report(tmp_path / "s")
        text = (tmp_path / "s" / "report.md").read_text()
        assert "and no further" in text and ("the folds share their training pictures" in text) == shared


def test_hostile_names(tmp_path):
    folder = tmp_path / "s"
    make_study(folder, {name: 0.1 * i for i, name in enumerate(HOSTILE)}, folds=2, seeds=(0, 1), pictures=30, name=HOSTILE[1], data=HOSTILE[3])
    make_robustness(folder, HOSTILE)
    report(folder)
    words = check_page(folder)
    assert HOSTILE[1] in words and HOSTILE[3] in words
    assert [row["arm"] for row in csv.DictReader(io.StringIO((folder / "report.csv").read_text()))][0] == "none"
    assert {row["arm"] for row in csv.DictReader(open(folder / "report.csv", newline=""))} == set(HOSTILE)
    assert {a["name"] for a in json.loads((folder / "report.json").read_text())["arms"]} == set(HOSTILE)
    tex = (folder / "report.tex").read_text()
    assert "\\textless{}script\\textgreater{}" in tex and "\\%\\$\\#\\_\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}" in tex
    assert "<script" not in (folder / "report.md").read_text()


DAMAGE = {
    "study.json": [("", "study.json"), ("{", "study.json"), ("[]", "not a JSON object"), ('{"schema": "trainer-study-2"}', "trainer-study-1"),
                   ('{"schema": "trainer-study-1", "arms": 3}', "arms"), ('{"schema": "trainer-study-1", "arms": []}', "0 arms"),
                   ('{"schema": "trainer-study-1", "arms": [{"name": 1}]}', "name"),
                   ('{"schema": "trainer-study-1", "arms": [{"name": "none"}, {"name": "none"}], "seeds": [0], "folds": 2}', "two arms"),
                   ('{"schema": "trainer-study-1", "arms": [{"name": "none"}], "seeds": [0.5], "folds": 2}', "seed"),
                   ('{"schema": "trainer-study-1", "arms": [{"name": "none"}], "seeds": [0], "folds": 1e300}', "folds"),
                   ('{"schema": "trainer-study-1", "arms": [{"name": "x"}], "baseline": "y", "seeds": [0], "folds": 2}', "baseline")],
    "runs/a/f1-s0/result.json": [("", "result.json"), ('{"schema": 1}', "schema"), ("{\"schema\": \"trainer-result-1\"", "result.json"),
                                 ('{"schema": "trainer-result-1", "arm": "b", "fold": 1, "seed": 0}', '"b"'), ('{"schema": "trainer-result-1", "arm": "a", "fold": 1}', "seed"),
                                 ('{"schema": "trainer-result-1", "arm": "a", "fold": 1, "seed": 7}', "seed 7"),
                                 ('{"schema": "trainer-result-1", "arm": "a", "fold": 2, "seed": 0}', "same arm, fold and seed"),
                                 ('{"schema": "trainer-result-1", "arm": "a", "fold": 1, "seed": 0, "accuracy": "high"}', "accuracy"),
                                 ('{"schema": "trainer-result-1", "arm": "a", "fold": 1, "seed": 0, "accuracy": 71}', "accuracy"),
                                 ('{"schema": "trainer-result-1", "arm": "a", "fold": 1, "seed": 0, "pairs": -3}', "pairs")],
    "runs/a/f1-s0/predictions.csv": [("", "empty"), ("a,b\n", "column"), ("pair,picture,caption,label,p,correct\n0,0,0,1,0.5", "cut short"),
                                     ("pair,picture,caption,label,p,correct\n0,0,0,1,0.5\n", "5 fields"),
                                     ("pair,picture,caption,label,p,correct\n0,0,0,1,1.5,1\n", '"p" is'),
                                     ("pair,picture,caption,label,p,correct\n0,0,0,1,0.5,2\n", '"correct" is'),
                                     ("pair,picture,caption,label,p,correct\n1,0,0,1,0.5,1\n", '"pair" is'),
                                     ("pair,picture,caption,label,p,correct\n0,-1,0,1,0.5,1\n", '"picture" is'),
                                     ("pair,picture,caption,label,p,correct\n0,0,99999999999999999999,1,0.5,1\n", '"caption" is'),
                                     ("pair,picture,caption,label,p,correct\n0,0,0,1,0.5,1\n", "1 rows")],
    "runs/a/f1-s0/metrics.jsonl": [("{\"epoch\": 0}\n", "metrics.jsonl"), ("garbage\n", "line 1"), ('{"epoch": 1e18, "split": "val"}\n', "metrics.jsonl"),
                                   ('{"epoch": 0, "split": 3}\n', "wrong kind")],
    "robustness.json": [("{", "robustness.json"), ('{"attacks": [{"arm": "zz", "attack": "fgsm", "eps": 0}]}', "zz"),
                        ('{"attacks": [{"arm": "a", "attack": "fgsm", "eps": -1}]}', "eps"), ('{"attacks": [], "checks": [{"name": "x"}]}', "ok")],
}


def test_damaged_files(tmp_path):
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0.1}, folds=2, seeds=(0,), pictures=12, epochs=2)
    for name, cases in DAMAGE.items():
        path = folder / name
        before = path.read_bytes() if path.exists() else None
        for content, needle in cases:
            path.write_text(content)
            result = run("trainer", "report", folder, "--samples", "0")
            # A run that the study can make again is left out; that a run is where it does not belong is said.
            left_out = name.endswith("result.json") and "this run is left out, and trainer study --out" in result.stderr
            assert left_out == (name.endswith("result.json") and needle not in ('"b"', "seed 7", "same arm, fold and seed"))
            assert not left_out or "3 of 4 runs have finished (missing: a 1)" in result.stdout and "1 run has a damaged result.json" in result.stdout
            assert result.returncode == (0 if left_out else 1) and needle in result.stderr and str(path.parent) in result.stderr, (name, content, result.returncode, result.stderr)
        path.unlink()
        if before is not None:
            path.write_bytes(before)
    # A line that its writer did not finish is none.
    path = folder / "runs/a/f1-s0/metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"epoch": 9, "sp')
    report(folder)


def test_usage(tmp_path):
    make_study(tmp_path / "s", {"none": 0, "a": 0}, folds=2, seeds=(0,), pictures=12)
    for arguments, code, needle in ((["report"], 2, "DIR"), (["report", tmp_path / "nope"], 1, "no such folder"), (["report", tmp_path], 1, "neither"),
                                    (["report", tmp_path / "s", tmp_path / "s"], 2, "one study"),
                                    (["report", tmp_path / "s", "--format", "pdf"], 2, "html, md, tex, csv, json"),
                                    (["report", tmp_path / "s", "--baseline", "b"], 2, "no arm of"),
                                    (["report", tmp_path / "s" / "study.json"], 1, "not a folder")):
        result = run("trainer", *arguments)
        assert result.returncode == code and needle in result.stderr, (arguments, result.stderr)


def test_two_runs_an_arm(tmp_path):
    """One degree of freedom: intervals, but nothing can be said of what would have been found; and the figure is of the thick bars."""
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0.3, "b": 0.1, "c": 0}, folds=2, seeds=(0,), pictures=100)
    for arm, shares in {"none": (0.60, 0.61), "a": (0.66, 0.66), "b": (0.605, 0.62), "c": (0.61, 0.60)}.items():
        for fold, share in enumerate(shares):
            change(folder, arm, f"f{fold + 1}-s0", accuracy=share)
    report(folder)
    words = check_page(folder)
    assert "known too roughly (1 degree of freedom)" in words and "not known yet" not in words and "A dash: too few runs to say" in words
    assert "Probably:" not in words and "probably" not in words and "An arrow: it goes on beyond" in words
    first = (folder / "report.html").read_text().split("<nav>")[0]
    ticks = [float(tick.replace("\u2212", "-")) for tick in re.findall(r'class="tick"[^>]*>([^<]*)</text>', first)]
    assert min(ticks) >= -60 and max(ticks) <= 60, ticks
    bars = re.findall(r'<path class="whisker thin unclear" d="M([0-9.]+) 17H([0-9.]+)([^"]*)"', first)
    assert len(bars) == 3 and all(0 <= float(x) <= 380 for bar in bars for x in bar[:2])
    assert any("L" in ends for _, _, ends in bars), "a bar that goes on ends in an arrow"


def test_no_difference_is_more_than_everything(tmp_path):
    folder = tmp_path / "s"
    make_study(folder, {"none": 0, "a": 0, "b": 0}, folds=2, seeds=(0,), pictures=60)
    for arm, shares in {"none": (0.5, 0.5), "a": (0.8, 0.4), "b": (0.3, 0.6)}.items():
        for fold, share in enumerate(shares):
            change(folder, arm, f"f{fold + 1}-s0", accuracy=share)
    report(folder)
    first = (folder / "report.html").read_text().split("<nav>")[0]
    ticks = [float(tick.replace("\u2212", "-")) for tick in re.findall(r'class="tick"[^>]*>([^<]*)</text>', first)]
    assert min(ticks) >= -100 and max(ticks) <= 100
    assert all(0 <= float(x) <= 380 for bar in re.findall(r'whisker[^"]*" d="M([0-9.]+) 17H([0-9.]+)', first) for x in bar)


def test_probably_is_explained_where_it_is_said(study):
    words = check_page(study[0])
    assert "would probably have been seen" in words and "Probably: with 80% probability." in words


def test_one_run_an_arm(tmp_path):
    """Done, and no verdict: nothing more will come, so nothing is 'yet'."""
    make_study(tmp_path / "s", {"none": 0, "a": 0.5}, folds=1, seeds=(0,), pictures=30)
    said = report(tmp_path / "s").stdout
    words = check_page(tmp_path / "s")
    assert said.startswith("1 of 1 arm has no verdict against none: one run an arm allows none.") and "so far" not in said
    assert not re.search(r"\byet\b", said + words) and "one run an arm has no spread" in words and "Thick:" not in words
    assert "identical over the arms in the one fold and seed" in words and "1 folds" not in words and "1 seeds" not in words
    assert "1 fold x 1 seed," in (tmp_path / "s" / "report.md").read_text() and "1 fold $\\times$ 1 seed." in (tmp_path / "s" / "report.tex").read_text()


def test_an_unfinished_factorial(tmp_path):
    """No cell has a run of every combination: there are no effects to name, in any format."""
    arms = {"none": 0, "dropout": 0.1, "l2": 0, "dropout+l2": 0.1}
    make_study(tmp_path / "s", arms, folds=2, seeds=(0, 1), pictures=30, skip={("l2", f, s) for f in range(2) for s in range(2)})
    said = report(tmp_path / "s").stdout
    told = "no effect can be said yet"
    for text in (said, (tmp_path / "s" / "report.md").read_text(), check_page(tmp_path / "s")):
        assert told in text and "adds" not in text and "interaction is seen" not in text
    assert "| effect" not in (tmp_path / "s" / "report.md").read_text()
    # One run of each has effects, but no test of them.
    make_study(tmp_path / "s", arms, folds=1, seeds=(0,), pictures=30)
    said = report(tmp_path / "s").stdout
    assert re.search(r"dropout adds \S+ points, l2 adds \S+ points, from 1 run of each: too few for intervals and tests\.", said)
    assert "interaction is seen" not in said


def test_quiet(study, tmp_path):
    """-q: the files are the result. Where none is written, or the answer is asked for as JSON, it is printed all the same."""
    folder = study[0]
    for more in ((), ("--out", tmp_path / "out"), ("--baseline", "l2", "--out", tmp_path / "out")):
        result = report(folder, "-q", *more)
        assert result.stdout == result.stderr == "", more
    assert (tmp_path / "out" / "report.html").exists()
    assert "arms" in report(folder, "-q", "--baseline", "l2").stdout and json.loads(report(folder, "-q", "--json").stdout)["complete"]


@pytest.mark.parametrize("own, steps, words", [
    ({}, None, "--batch-size 32 --epochs 8 --lr 0.0003"), ({"steps": 9}, None, "--batch-size 32 --lr 0.0003 --steps 9"),
    ({"epochs": 3, "lr": 0.1}, None, "--batch-size 32 --epochs 3 --lr 0.1"), ({"lr": 0.1}, 17, "--batch-size 32 --lr 0.1 --steps 17")])
def test_by_hand_is_as_long(tmp_path, own, steps, words):
    """An arm's own options take the place of the common ones, and with equal time its steps that of any length."""
    make_study(tmp_path / "s", {"none": 0, "dropout": 0.1}, folds=2, pictures=30, options={"dropout": own})
    study = json.loads((tmp_path / "s" / "study.json").read_text())
    study["common"] = dict(sorted((key, value) for key, value in study["common"].items() if key in ("batch-size", "epochs", "lr")))
    if steps:
        study["arms"][1].update(steps=steps, cost=1.5)
    (tmp_path / "s" / "study.json").write_text(json.dumps(study))
    report(tmp_path / "s")
    assert re.search(r"One run by hand\s*trainer .*~fold=1/2 (.*) --threads 1 --out run", check_page(tmp_path / "s")).group(1) == words


@pytest.mark.skipif(not FULL, reason="FULL=1 measures how often verdicts are wrong")
def test_verdicts_hold_their_level(tmp_path):
    """Sixty studies in which no arm differs, and sixty in which one does."""
    wrong, found, covered, total = 0, 0, 0, 0
    for seed in range(60):
        make_study(tmp_path / "s", {"none": 0, "a": 0, "b": 0, "c": 0}, seeds=(0, 1, 2), pictures=60, seed=seed, curves=False, captions=1)
        wrong += any(a.get("against_baseline", {}).get("verdict") in ("better", "worse") for a in as_json(tmp_path / "s")["arms"])
        make_study(tmp_path / "s", {"none": 0, "a": 0.8}, seeds=(0, 1, 2), pictures=60, seed=1000 + seed, curves=False, captions=1)
        against = arm_of(as_json(tmp_path / "s"), "a")["against_baseline"]
        found += against["verdict"] == "better"
        # The true difference, of margins normal with variances 0.64 + 0.1225 + 0.49 + 2 runs' spreads.
        sd = math.sqrt(0.8 ** 2 + 0.35 ** 2 + 0.7 ** 2 + 0.05 ** 2 * 1.36)
        truth = scipy_stats.norm.cdf(1.35 / sd) - scipy_stats.norm.cdf(0.55 / sd)
        covered += against["corrected_t"]["low"] <= truth <= against["corrected_t"]["high"]
        total += 1
    print(f"\nstudies without a difference where a verdict finds one: {wrong}/{total}; difference found: {found}/{total}; interval covers: {covered}/{total}")
    assert wrong <= 6 and found >= 57 and covered >= 54
