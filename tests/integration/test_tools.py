"""The tools around the programs: vocabulary trainer, demo data, the demo itself, source rules, test counting, set-up script."""
import collections
import csv
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BUILD, ROOT, Daemon, SmallData, environment, run_ok  # noqa: E402

DEMO_DATA = BUILD / "demo" / "make_demo_data"
TRAIN_VOCAB = BUILD / "tools" / "train_vocab"


def tool(path, *arguments, code=0, **options):
    if not path.exists():
        pytest.skip(f"{path} is not built")
    result = subprocess.run([str(path), *map(str, arguments)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                            timeout=300, **options)
    assert result.returncode == code, result.stdout + result.stderr
    return result


@pytest.mark.parametrize("path", [DEMO_DATA, TRAIN_VOCAB], ids=lambda path: path.name)
def test_help_that_cannot_be_written(path):
    if not path.exists():
        pytest.skip(f"{path} is not built")
    with open("/dev/full", "w", encoding="ascii") as full:
        ended = subprocess.run([path, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1 and "standard output" in ended.stderr, ended


# --- vocabulary trainer -------------------------------------------------------


def plain_vocab(text, size, min_count):
    """The same algorithm in its plainest form: every pair is counted anew for every merge."""
    words = collections.Counter(re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower()))
    letters = sorted({c for word in words for c in word})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *["##" + c for c in letters]]
    spelled = [([word[0], *["##" + c for c in word[1:]]], count) for word, count in words.items()]
    while len(vocab) < size:
        pairs = collections.Counter()
        for pieces, count in spelled:
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += count
        if not pairs:
            break
        order = {piece: i for i, piece in reversed(list(enumerate(vocab)))}
        best = min(pairs, key=lambda pair: (-pairs[pair], order[pair[0]], order[pair[1]]))
        if pairs[best] < min_count:
            break
        merged = best[0] + best[1][2:]
        if merged not in vocab:
            vocab.append(merged)
        for i, (pieces, count) in enumerate(spelled):
            out = []
            while pieces:
                if tuple(pieces[:2]) == best:
                    out.append(merged)
                    pieces = pieces[2:]
                else:
                    out.append(pieces[0])
                    pieces = pieces[1:]
            spelled[i] = (out, count)
    return vocab


@pytest.mark.parametrize("size, min_count", [(60, 2), (150, 2), (100000, 1), (400, 3)])
def test_vocabulary_equals_the_plain_algorithm(tmp_path, size, min_count):
    text = (ROOT / "README.md").read_text().encode("ascii", "ignore").decode() + "\n" + "banana bananas ananas aaaa aaaaa " * 5
    text = re.sub(r"[^\x20-\x7e\n]", " ", text)
    (tmp_path / "t.txt").write_text(text)
    size = max(size, len({c for c in text.lower() if not c.isspace()}) * 2 + 5)
    tool(TRAIN_VOCAB, "--size", size, "--min-count", min_count, "--out", tmp_path / "v.txt", tmp_path / "t.txt")
    assert (tmp_path / "v.txt").read_text().split("\n")[:-1] == plain_vocab(text, size, min_count)


def test_vocabulary_covers_its_own_text(tmp_path):
    """With the tokenizer: no [UNK] in the text it was made from, whatever the script."""
    text = "Café à la crème\nнародное искусство\n東京 tokyo\n한국어 한국\nnaïve Ärger\n"
    (tmp_path / "t.txt").write_text(text)
    tool(TRAIN_VOCAB, "--size", 300, "--min-count", 1, "--out", tmp_path / "v.txt", tmp_path / "t.txt")
    words = (tmp_path / "v.txt").read_text().split("\n")
    assert "cafe" in words and "##e" in words and "東" in words
    ids = run_ok("prepctl", "inspect", "text", "--vocab", tmp_path / "v.txt", stdin=text).stdout
    assert len(ids.split("\n")) == 6
    assert str(words.index("[UNK]")) not in ids.split()


def test_vocabulary_errors(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "t.txt").write_text("some words here\n")
    assert "empty.txt" in tool(TRAIN_VOCAB, "--out", tmp_path / "v", tmp_path / "empty.txt", code=1).stderr
    assert "nowhere" in tool(TRAIN_VOCAB, "--out", tmp_path / "v", tmp_path / "nowhere", code=1).stderr
    assert "--size" in tool(TRAIN_VOCAB, "--size", 10, "--out", tmp_path / "v", tmp_path / "t.txt", code=2).stderr
    assert "--out" in tool(TRAIN_VOCAB, tmp_path / "t.txt", code=2).stderr
    assert not (tmp_path / "v").exists()


# --- demo data ------------------------------------------------------------------


def digest_of(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_demo_data(tmp_path):
    image = pytest.importorskip("PIL.Image")
    tool(DEMO_DATA, "--out", tmp_path / "a", "--train", 60, "--val", 20)
    tool(DEMO_DATA, "--out", tmp_path / "b", "--train", 60, "--val", 20)
    tool(DEMO_DATA, "--out", tmp_path / "c", "--train", 60, "--val", 20, "--seed", 2)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "c")
    rows = {name: list(csv.reader(open(tmp_path / "a" / f"{name}.csv"))) for name in ("train", "val")}
    pictures = {name: {row[0] for row in rows[name][1:]} for name in rows}
    assert len(pictures["train"]) == 60 and len(pictures["val"]) == 20 and not pictures["train"] & pictures["val"]
    sizes, modes, progressive = set(), set(), set()
    for name in pictures["train"] | pictures["val"]:
        with image.open(tmp_path / "a" / "images" / name) as picture:
            assert picture.format == "JPEG"
            sizes.add(picture.size)
            modes.add(tuple((c[1], c[2]) for c in picture.layer))
            progressive.add(bool(picture.info.get("progressive")))
    assert len(sizes) > 40 and len(modes) == 3 and len(progressive) == 2
    captions = [row[1] for row in rows["train"][1:]]
    assert len(set(captions)) > 0.9 * len(captions)


def test_demo_captions_are_true(tmp_path):
    """A caption's colors are in the picture: many pixels are near each color that is named."""
    numpy = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    tool(DEMO_DATA, "--out", tmp_path, "--train", 40, "--val", 0)
    rgb = {"red": (208, 36, 40), "blue": (40, 80, 208), "yellow": (236, 212, 48), "purple": (140, 50, 170), "orange": (240, 136, 30)}
    wrong = 0
    for name, caption, _ in list(csv.reader(open(tmp_path / "train.csv")))[1:]:
        pixels = numpy.asarray(image.open(tmp_path / "images" / name).convert("RGB"), numpy.float64)
        for color, value in rgb.items():
            if re.search(rf"\b{color}\b", caption.lower()):
                near = (numpy.abs(pixels - value).max(2) < 60).mean()
                wrong += near < 0.003
    assert wrong == 0


# --- the demo ---------------------------------------------------------------------


def demo_environment(tmp_path, **changes):
    return environment(DEMO_PICTURES=48, DEMO_EPOCHS=1, DEMO_ARMS="none adv", TMPDIR=tmp_path, HOME=tmp_path / "home", **changes)


@pytest.fixture
def demo_ready():
    for path in (ROOT / "build/release/bin/trainer", ROOT / "build/release/bin/preprocessd", ROOT / "build/release/demo/make_demo_data",
                 ROOT / "build/release/tools/train_vocab"):
        if not path.exists():
            pytest.skip(f"{path} is not built")


def test_demo_twice(tmp_path, demo_ready):
    """A short demo: its table, nothing left behind, another daemon of the same user untouched."""
    with Daemon() as other:
        SmallData(other.folder / "data").add(other)
        before = other.prepctl_ok("datasets").stdout
        for _ in range(2):
            result = tool(ROOT / "tools/demo/run.sh", env=demo_environment(tmp_path, PREPROCESSD_SOCKET=other.socket, PREPROCESSD_CACHE=other.cache))
            table = [line.split() for line in result.stdout.split("\n")]
            rows = {line[0]: line for line in table if line and line[0] in ("none", "adv")}
            assert set(rows) == {"none", "adv"}, result.stdout
            for row in rows.values():
                assert 0.0 <= float(row[2]) <= 1.0 and float(row[3]) > 0.0 and float(row[5]) >= 0.0
            assert rows["none"][-1] == "1.00x"
            assert not list(tmp_path.glob("demo-*"))
        assert other.prepctl_ok("datasets").stdout == before


def test_demo_keeps_its_folder(tmp_path, demo_ready):
    """Where it is told to, and never in the place of something else."""
    arms = {"DEMO_ARMS": "none"}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    result = tool(ROOT / "tools/demo/run.sh", env=demo_environment(tmp_path, DEMO_KEEP=mine) | arms, code=1)
    assert "not empty" in result.stderr and (mine / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.glob("demo-*"))
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (tmp_path / "new", empty):
        result = tool(ROOT / "tools/demo/run.sh", env=demo_environment(tmp_path, DEMO_KEEP=folder) | arms)
        assert f"kept in {folder}" in result.stdout and (folder / "runs/none/best.safetensors").exists()
    result = tool(ROOT / "tools/demo/run.sh", env=demo_environment(tmp_path, DEMO_KEEP=tmp_path / "no" / "such") | arms)
    [kept] = tmp_path.glob("demo-*")
    assert f"kept in {kept}" in result.stderr and (kept / "runs/none/best.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_demo_interrupted(tmp_path, demo_ready, number):
    process = subprocess.Popen([ROOT / "tools/demo/run.sh"], env=demo_environment(tmp_path) | {"DEMO_EPOCHS": "500"}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
                               # A shell that was started with SIGINT ignored (a job in the background) cannot trap it.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    folder = None
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = list(tmp_path.glob("demo-*/runs/none/metrics.jsonl"))
        if found:
            folder = found[0].parents[2]
            break
        time.sleep(0.1)
    assert folder is not None
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not folder.exists()
    # Whatever ran in its folder is gone.
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(folder).encode() not in entry.read_bytes()
        except OSError:
            pass


# --- the rest -----------------------------------------------------------------------


def test_source_rules_can_fail():
    tool(ROOT / "tools/lint/check_source.py", "--self")


def test_install_deps_says_what_and_needs_nothing_when_all_is_there():
    listed = tool(ROOT / "tools/install-deps.sh", "--list").stdout
    assert "libuv1-dev" in listed and "event loop" in listed
    assert "unknown option" in tool(ROOT / "tools/install-deps.sh", "--nonsense", code=2).stderr


def test_install_deps_on_an_unknown_system(tmp_path):
    """No dpkg, no libraries: it names what to install and exits with 1."""
    for name in ("sh", "dirname", "sed", "printf", "uname", "cat", "id"):
        for place in ("/usr/bin", "/bin"):
            if pathlib.Path(place, name).exists():
                (tmp_path / name).symlink_to(pathlib.Path(place, name))
                break
    result = tool(ROOT / "tools/install-deps.sh", code=1, env={"PATH": str(tmp_path)})
    assert "libuv" in result.stderr and "libjpeg-turbo" in result.stderr and "OpenBLAS" in result.stderr


def test_install_deps_where_pytorch_is_no_package(tmp_path):
    """Ubuntu has no torchvision: the tests run without what needs it, and `make test` does not end there."""
    fakes = {"dpkg-query": 'case "$*" in *torch*) exit 1;; esac\nprintf installed', "apt-cache": "exit 100", "id": "echo 0",
             "apt-get": "echo apt-get was called; exit 1"}
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    if not {"debian", "ubuntu"} & set(pathlib.Path("/etc/os-release").read_text(encoding="utf-8").replace('"', "").replace("=", " ").split()):
        pytest.skip("neither Debian nor Ubuntu")
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")
    result = tool(ROOT / "tools/install-deps.sh", "--test", env=environment)
    assert "no package python3-torchvision" in result.stdout and "going on without" in result.stdout


def test_missing_libraries_are_one_list(tmp_path):
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\ncase \"$(cat)\" in *uv.h*|*lmdb.h*) exit 1;; esac\nexit 0\n")
    fake.chmod(0o755)
    for cc in (str(fake), f"{fake} -m64"):
        result = tool(ROOT / "tools/check-deps.sh", code=1, env=dict(os.environ, CC=cc))
        assert "libuv" in result.stderr and "LMDB" in result.stderr and "make deps" in result.stderr and "xxHash" not in result.stderr


def test_install_into_a_folder_with_blanks(tmp_path):
    """What install puts there uninstall removes, and nothing of a folder whose name begins alike."""
    if not (ROOT / "build/release/bin/trainer").exists():
        pytest.skip("build/release/bin/trainer is not built")
    mine = tmp_path / "my" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    prefix = tmp_path / "my programs"
    make = ["make", "--no-print-directory", "MODE=release", f"PREFIX={prefix}"]
    subprocess.run([*make, "install"], cwd=ROOT, check=True)
    for name in ("bin/trainer", "bin/prepctl", "bin/preprocessd", "share/doc/preprocessd/docs/study.md", "share/doc/preprocessd/schemas/wire.proto"):
        assert (prefix / name).is_file()
    subprocess.run([*make, "uninstall"], cwd=ROOT, check=True)
    assert not [path for path in prefix.rglob("*") if path.is_file()]
    assert mine.read_text() == "years of work"


def fake_program(path, text, code):
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n{code}\n")
    path.chmod(0o755)
    return path


def count(tmp_path, *kinds):
    results = tmp_path / "r.jsonl"
    for kind, *rest in kinds:
        tool(pathlib.Path(sys.executable), ROOT / "tests/support/run_tests.py", "--results", results, kind, *rest, env=dict(os.environ, TEST_LIMIT_S="2"))
    result = subprocess.run([sys.executable, ROOT / "tests/support/run_tests.py", "--results", results, "total"], capture_output=True, text=True, check=False)
    return result.stdout.strip().split("\n")[-1], result.returncode


def test_counting(tmp_path):
    good = "[==========] Running 2 test(s).\n[ RUN      ] a\n[       OK ] a\n[ RUN      ] b\n[  SKIPPED ] b\n[==========] 2 test(s) run.\n[  PASSED  ] 1 test(s).\n"
    fine = fake_program(tmp_path / "fine", good, "exit 0")
    assert count(tmp_path, ("unit", fine)) == ("1 passed, 0 failed, 1 skipped", 0)
    bad = fake_program(tmp_path / "bad", good.replace("[       OK ] a", "[  FAILED  ] a") + "[  FAILED  ] 1 test(s), listed below:\n[  FAILED  ] a\n", "exit 1")
    assert count(tmp_path, ("unit", bad)) == ("1 passed, 1 failed, 2 skipped", 1)
    crash = fake_program(tmp_path / "crash", "[ RUN      ] a\n[       OK ] a\n[ RUN      ] b\n", "kill -SEGV $$")
    assert count(tmp_path, ("unit", crash)) == ("2 passed, 2 failed, 2 skipped", 1)
    leak = fake_program(tmp_path / "leak", good, "exit 23")
    assert count(tmp_path, ("unit", leak)) == ("3 passed, 3 failed, 3 skipped", 1)
    late = fake_program(tmp_path / "late", "[ RUN      ] a\n", "sleep 60")
    assert count(tmp_path, ("unit", late)) == ("3 passed, 4 failed, 3 skipped", 1)
    silent = fake_program(tmp_path / "silent", "", "exit 0")
    assert count(tmp_path, ("unit", silent)) == ("3 passed, 5 failed, 3 skipped", 1)
    python = tmp_path / "test_python.py"
    python.write_text("import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('no')\n")
    assert count(tmp_path, ("pytest", python)) == ("4 passed, 6 failed, 4 skipped", 1)
    assert count(tmp_path, ("failure", "build", "exit code 2")) == ("4 passed, 7 failed, 4 skipped", 1)


def test_nothing_ran_is_a_failure(tmp_path):
    assert count(tmp_path)[1] == 1


def write_run(folder, lines, **record):
    """A run's folder, as far as tools/report-table reads it."""
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"result": {"steps": 4, "train_seconds": 10.0}, **record}
    (folder / "run.json").write_text("{\n%s\n}\n" % ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in record.items()))


def test_report_table(tmp_path):
    for name, seconds in (("none", 10.0), ("adv", 15.0)):
        lines = [{"step": s, "epoch": s // 2, "split": "train", "loss": 0.5, "accuracy": 0.6 + 0.1 * s} for s in range(4)]
        lines.insert(2, {"step": 1, "epoch": 0, "split": "val", "loss": 0.9, "accuracy": 0.51, "pairs": 100})
        lines.append({"step": 3, "epoch": 1, "split": "val", "loss": 6.5e-1, "accuracy": 0.75, "pairs": 100})
        write_run(tmp_path / name, lines, result={"steps": 4, "train_seconds": seconds})
    result = tool(ROOT / "tools/report-table", tmp_path / "none", tmp_path / "adv").stdout.split("\n")
    assert result[1].split() == ["none", "2", "0.750", "0.650", "0.850", "10.0", "1.00x"]
    assert result[2].split() == ["adv", "2", "0.750", "0.650", "0.850", "15.0", "1.50x"]
    assert "0.043" in result[4]
    # A folder may have blanks and backslashes in its name; where two end alike, all are called by their paths.
    write_run(tmp_path / "a \\n run", lines)
    rows = tool(ROOT / "tools/report-table", tmp_path / "a \\n run", tmp_path / "adv").stdout.split("\n")
    assert rows[1].startswith("a \\n run ") and rows[1].split()[-6:] == ["2", "0.750", "0.650", "0.850", "10.0", "1.00x"] and "relative to a \\n run." in rows[4]
    (tmp_path / "deep").mkdir()
    write_run(tmp_path / "deep" / "adv", lines)
    rows = tool(ROOT / "tools/report-table", tmp_path / "adv", tmp_path / "deep" / "adv").stdout.split("\n")
    assert [row.split()[0] for row in rows[1:3]] == [str(tmp_path / "adv"), str(tmp_path / "deep" / "adv")]
    assert "missing" in tool(ROOT / "tools/report-table", tmp_path, code=1).stderr
    assert "no options" in tool(ROOT / "tools/report-table", "--nonsense", tmp_path / "adv", code=2).stderr
    (tmp_path / "adv" / "metrics.jsonl").write_text('{"step": 0, "epoch": 0, "split": "train", "loss": 0.5, "accuracy": 0.6}\n')
    result = tool(ROOT / "tools/report-table", tmp_path / "adv").stdout.split("\n")
    assert result[1].split() == ["adv", "1", "-", "-", "0.600", "15.0", "1.00x"] and "error" not in result[3]
    # What a run that was killed has in run.json is no time of its own.
    (tmp_path / "adv" / "run.json").write_text('{\n  "state": "running",\n  "result": {"steps": 0, "train_seconds": 0}\n}\n')
    for order in (("none", "adv"), ("adv", "none")):
        rows = tool(ROOT / "tools/report-table", *[tmp_path / name for name in order]).stdout.split("\n")[1:3]
        assert rows[order.index("adv")].split() == ["adv", "1", "-", "-", "0.600", "-", "-"]
        assert rows[order.index("none")].split()[-2:] == ["10.0", "1.00x" if order[0] == "none" else "-"]


def test_report_table_without_labels(tmp_path):
    """A step of which no sample has a label has no accuracy; it is not one of 0."""
    lines = [{"step": s, "epoch": s // 4, "split": "train", "loss": loss, "accuracy": loss and 1 - loss}
             for s, loss in enumerate([None, 0.2, None, 0.4, 0.1, None, None, 0.3])]
    write_run(tmp_path / "part", lines)
    assert tool(ROOT / "tools/report-table", tmp_path / "part").stdout.split("\n")[1].split()[:5] == ["part", "2", "-", "-", "0.800"]
    write_run(tmp_path / "bare", [{**line, "loss": None, "accuracy": None} for line in lines])
    assert tool(ROOT / "tools/report-table", tmp_path / "bare").stdout.split("\n")[1].split()[:5] == ["bare", "2", "-", "-", "-"]


def test_report_table_on_other_measures(tmp_path):
    """One standard error is that of one measure: of runs on other data, tasks, splits or pairs it says that they cannot be compared."""
    lines = [{"step": 0, "epoch": 0, "split": "train", "loss": 0.5, "accuracy": 0.6},
             {"step": 0, "epoch": 0, "split": "val", "loss": 0.9, "accuracy": 0.75, "pairs": 100}]
    record = {"model": {"task": "match", "image_size": 64}, "dataset": {"name": "x", "version": "0a"}, "val": {"split": "val", "pictures": 50}}
    write_run(tmp_path / "none", lines, **record)
    bare = [{**lines[0]}]
    for name, more, change in (("same", lines, {}), ("bare", bare, {"val": {"split": "train"}}), ("data", lines, {"dataset": {"name": "x", "version": "0b"}}),
                               ("task", lines, {"model": {"task": "classify", "image_size": 64}}),
                               ("split", lines, {"val": {"split": "train~fold=1/3", "pictures": 50}}), ("pairs", [lines[0], {**lines[1], "pairs": 98}], {})):
        write_run(tmp_path / name, more, **{**record, **change})
        said = tool(ROOT / "tools/report-table", tmp_path / "none", tmp_path / name).stdout
        alike = name in ("same", "bare")
        assert ("validation pairs: 0.043" in said) == alike and ("cannot be compared" in said) == (not alike), said


# --- make bench -----------------------------------------------------------------------

BENCH = ROOT / "tools" / "bench"


@pytest.mark.parametrize("words", [["tools/bench/fair_start.py"], ["tools/bench/bf16_curve.py"], ["tools/rsicd-study", "studies"],
                                   ["tools/rsicd-study", "studies", "--tables"]], ids=" ".join)
def test_without_the_data(tmp_path, words):
    """What docs/ says to type, on a machine that does not have it: a line that says so, not a traceback."""
    result = tool(ROOT / words[0], *words[1:], code=1, cwd=tmp_path, env=environment(SHARED_DATA=tmp_path / "no"))
    assert len(result.stderr.splitlines()) == 1 and str(tmp_path) in result.stderr, result.stderr
    assert result.stdout == "" and not list(tmp_path.iterdir())


@pytest.fixture
def bench_runner(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import run
    return run


def test_benches_become_one_document(bench_runner, tmp_path, monkeypatch, capsys):
    """A bench that fails is named, and costs nobody else's results, which are in the document as soon as they are there."""
    scripts, programs, out = tmp_path / "tools" / "bench", tmp_path / "bench", tmp_path / "new" / "bench.md"
    scripts.mkdir(parents=True)
    programs.mkdir()
    (scripts / "bench_table.py").write_text("import sys\nopen(sys.argv[2], 'w').write('a table\\n')\n")
    (scripts / "bench_wrong.py").write_text(f"import sys\nassert 'a table' in open({str(out)!r}).read()\nsys.exit(3)\n")
    for name, text in {"bench_resnet": "echo said: $*", "bench_lost": "exit 4", "bench_stream": "echo not to be run"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(bench_runner, "ROOT", tmp_path)
    monkeypatch.setattr(bench_runner, "BUILD", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(out)])
    assert bench_runner.main() == 1
    assert "failed: bench_wrong, bench_lost" in capsys.readouterr().out
    text = out.read_text()
    assert text.startswith("Measured on ") and "a table" in text and "said: speed resnet50" in text and "not to be run" not in text


def test_helpers_of_benches_are_not_run_alone(bench_runner):
    started = set()
    for path in BENCH.glob("bench_*.py"):
        started |= set(re.findall(r'BUILD / "bench" / "(\w+)"', path.read_text()))
    assert started and started == bench_runner.NOT_ALONE


# --- what to expect ---------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_what_to_expect(tmp_path, bf16):
    """From rates in a file; a processor without bf16 has none of it. 45,000 pictures, 16 a step of 2 s: 2,812 steps are 1.6 hours."""
    plan = {"step_s": 2.0, "planned": 3000.0, "peak": 3100.0, "threads": 2, "pictures": 20.0, "captions": 100.0}
    arms = ("none", "dropout", "adv", "adv:target=feat", "dropout+adv:target=feat")
    rates = {"add_per_s": 500.0, "disk": 150000.0, "start_s": 5.0, "frozen_pairs": 10000.0, "frozen": {arm: dict(plan, step_s=0.01) for arm in arms},
             "fp32": {arm: plan for arm in arms}}
    if bf16:
        rates["bf16"] = {arm: dict(plan, step_s=1.0) for arm in arms}
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    said = tool(BENCH / "expect.py", "--rates", tmp_path / "rates.json", "--out", tmp_path / "expect.md").stdout
    assert (tmp_path / "expect.md").read_text() in said and "| adding the pictures | 500 pictures/s | 2 min |" in said
    assert "| an epoch, whole, `none`, fp32 | 8.0 pairs/s | 1.6 h |" in said and ("bf16" in said) == bf16
