"""Command lines and their failures, end to end.

Every error must leave with a code other than 0 (2 for usage), say what is
wrong by name and what to do, and lose nothing: what was there before is there
afterwards.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import BIN, ROOT, Daemon, SmallData, daemon, environment, run, run_ok, small, write_csv, write_pictures, write_vocab  # noqa: E402,F401

PREPCTL_VERBS = ["add", "datasets", "show", "failures", "samples", "rm", "batch", "digests", "status", "explain", "verify", "gc", "shutdown"]
TRAINER_VERBS = ["study", "robust", "report", "eval", "probe", "reg"]
HELPS = [("preprocessd",), ("prepctl",), ("trainer",), ("prepctl", "inspect", "image"), ("prepctl", "inspect", "text"),
         *[("prepctl", verb) for verb in PREPCTL_VERBS], *[("trainer", verb) for verb in TRAINER_VERBS]]


def assert_fails(result, *needles, code=1):
    """Exit code, a message on standard error with every needle (regular expressions), no noise of a crash."""
    said = f"{result.args}\nexit {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
    assert result.returncode == code, said
    for needle in needles:
        assert re.search(needle, result.stderr, re.I), f"no {needle!r} in\n{said}"
    assert "Sanitizer" not in result.stderr and "CHECK(" not in result.stderr, said


def trainer(daemon, out, *arguments, **options):
    return run("trainer", "--data", "small", "--reg", "none", "--preset", "tiny", "--batch-size", "8", "--threads", "2", "--out", out,
               *arguments, *daemon.at(), **options)


# --- help and usage ---------------------------------------------------------


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_teaches(words):
    result = run_ok(words[0], *words[1:], "--help")
    assert len(result.stdout) > 150 and "usage" in result.stdout.lower(), result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("words", [("preprocessd", "--nonsense"), ("prepctl", "--nonsense"), ("prepctl", "nonsense"), ("prepctl",),
                                   ("trainer", "--nonsense"), ("trainer",), ("trainer", "--data"), ("preprocessd", "--workers", "none"),
                                   ("prepctl", "add"), ("prepctl", "inspect"), ("trainer", "eval"), ("trainer", "--data", "x", "--steps", "-4")],
                         ids=" ".join)
def test_usage_errors_exit_2(words):
    assert_fails(run(*words), r"\w", code=2)


def test_programs_say_one_release():
    said = {program: run_ok(program, "--version").stdout for program in ("preprocessd", "prepctl", "trainer")}
    releases = {text.removeprefix(program + " ") for program, text in said.items()}
    assert len(releases) == 1 and all(text.startswith(program + " ") for program, text in said.items()), said


def test_unknown_option_names_the_nearest():
    assert_fails(run("trainer", "--data", "x", "--reg", "none", "--bach-size", "4"), "--batch-size", code=2)


@pytest.mark.parametrize("spec, needle", [("dropuot", "dropout"), ("dropout=1.5", "dropout"), ("l2=minus", "l2"), ("adv:eps=", "eps"),
                                          ("adv:target=sound", "target"), ("none+dropout", "none"), ("", "reg"), ("dropout+dropout", "dropout"),
                                          ("l2:mode=tight", "mode")])
def test_bad_reg(tmp_path, daemon, spec, needle):
    out = tmp_path / "run"
    assert_fails(run("trainer", "--data", "small", "--reg", spec, "--preset", "tiny", "--out", out, *daemon.at()), needle, code=2)
    assert not out.exists()


# --- no daemon, wrong names ---------------------------------------------------


def test_where_to_read_on():
    """A verb whose command line is wrong has a help of its own."""
    assert "prepctl add --help" in run("prepctl", "add", "x").stderr
    assert "prepctl inspect image --help" in run("prepctl", "inspect", "image").stderr
    assert "prepctl --help" in run("prepctl", "nonsense").stderr


@pytest.mark.parametrize("verb", TRAINER_VERBS)
def test_help_of_a_verb_however_it_is_asked_for(verb):
    wanted = run_ok("trainer", verb, "--help").stdout
    for words in (("help", verb), ("--help", verb), ("-h", verb), (verb, "-h")):
        assert run_ok("trainer", *words).stdout == wanted, words
    assert run_ok("trainer", "help").stdout == run_ok("trainer", "--help").stdout != wanted
    # every program and verb takes them, whatever it does with them
    assert "--socket" in wanted and "--cache" in wanted
    assert run_ok("trainer", "reg", "l2", "--socket", "x", "--cache=y").stdout.startswith("l2=")


def test_no_daemon_names_the_one_that_was_asked_for(tmp_path):
    """What the message says to type starts a daemon where this very command looks for it."""
    socket = tmp_path / "s.sock"
    start = rf"start one with: preprocessd --socket {re.escape(str(socket))} &"
    assert_fails(run("prepctl", "status", "--socket", socket), start)
    assert_fails(run("prepctl", "--socket", socket, "status"), start)
    assert_fails(run("trainer", "--data", "x", "--socket", socket), start)
    assert_fails(run("prepctl", "status", env=environment(PREPROCESSD_SOCKET=socket)), start)
    (tmp_path / "run").mkdir(mode=0o700)
    assert_fails(run("prepctl", "status", env=environment(XDG_RUNTIME_DIR=tmp_path / "run")), r"start one with: preprocessd &")


def test_a_limit_on_the_size_of_files(tmp_path):
    """Is an error like a full disk, not a death by SIGXFSZ, and leaves nothing behind."""
    rows = write_pictures(tmp_path / "images", 1)
    words = f"ulimit -f 10; '{BIN / 'prepctl'}' inspect image '{tmp_path / 'images' / rows[0][0]}' --size 224 --out '{tmp_path / 'out.safetensors'}'"
    result = subprocess.run(["bash", "-c", words], capture_output=True, text=True, env=environment(), check=False)
    assert result.returncode == 1 and "File too large" in result.stderr, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_standard_output_is_no_file_of_tensors(tmp_path, daemon, small):
    picture = small.images / small.rows[0][0]
    assert_fails(run("prepctl", "inspect", "image", picture, "--out", "-", cwd=tmp_path), "--out -", "/dev/stdout", code=2)
    assert_fails(daemon.prepctl("batch", "small", "--out", "-", cwd=tmp_path), "--out -", "name a file", code=2)
    assert list(tmp_path.iterdir()) == []
    run_ok("prepctl", "inspect", "image", picture, "--size", "8", "--out", tmp_path / "8")
    piped = subprocess.run([BIN / "prepctl", "inspect", "image", picture, "--size", "8", "--out", "/dev/stdout"], stdout=subprocess.PIPE, check=True)
    assert piped.stdout == (tmp_path / "8").read_bytes()


@pytest.mark.parametrize("words", [["reg", "--help"], ["--data", "small", "--reg", "none", "--preset", "tiny", "--dry-run"]], ids=["reg", "dry-run"])
def test_a_reader_that_has_seen_enough(tmp_path, daemon, words):
    """`trainer ... | head -1` is no error; a disk that is full is one."""
    command = [BIN / "trainer", *words, *([] if words[0] == "reg" else ["--out", tmp_path / "run", *daemon.at()])]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment(), check=False, restore_signals=True)
    finally:
        os.close(writing)
    assert ended.returncode == -signal.SIGPIPE and "error" not in ended.stderr, ended
    with open("/dev/full", "w", encoding="ascii") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    assert ended.returncode == 1 and "standard output" in ended.stderr, ended


def closed(program, *arguments, standard="2>&-"):
    """The command line of a program that begins without some of its standard files."""
    return ["sh", "-c", f'exec "$0" "$@" {standard}', str(BIN / program), *map(str, arguments)]


def test_standard_error_is_no_file_of_ours(tmp_path, small, daemon):
    """What is closed at the start stays closed: no file gets its number, and messages with it."""
    socket, cache = tmp_path / "s", tmp_path / "cache"
    process = subprocess.Popen(closed("preprocessd", "--socket", socket, "--cache", cache, standard="<&- >&- 2>&-"), env=environment())
    try:
        run_ok("prepctl", "add", *small.arguments(), "--socket", socket)
        assert (tmp_path / "s.lock").read_text() == f"{process.pid}\n"
        assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
        run_ok("prepctl", "shutdown", "--socket", socket)
        assert process.wait(20) == 0
    finally:
        process.kill()
    unsaid, said = tmp_path / "unsaid", tmp_path / "said"
    assert trainer(daemon, said, "--steps", "3").returncode == 0
    ended = subprocess.run(closed("trainer", "--data", "small", "--reg", "none", "--preset", "tiny", "--batch-size", "8", "--threads", "2",
                                  "--steps", "3", "--out", unsaid, *daemon.at()), stdout=subprocess.DEVNULL, env=environment(), check=False)
    assert ended.returncode == 0
    losses = [[json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (said, unsaid)]
    assert losses[0] == losses[1] and len(losses[0]) >= 3


@pytest.mark.parametrize("words", [["preprocessd", "--help"], ["preprocessd", "--version"], ["prepctl", "--help"], ["prepctl", "--version"],
                                   ["prepctl", "inspect", "--help"], ["prepctl", "add", "--help"], ["trainer", "--version"]], ids=" ".join)
def test_help_that_cannot_be_written(words):
    with open("/dev/full", "w", encoding="ascii") as full:
        ended = subprocess.run([BIN / words[0], *words[1:]], stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    assert ended.returncode == 1 and "standard output" in ended.stderr, ended


def test_help_flows():
    """Sentences are broken where the terminal's width says so, and examples stand by themselves."""
    for words in HELPS:
        text = run_ok(*words, "--help").stdout.split("\nOptions:")[0]
        paragraphs = [part.split("\n") for part in text.strip().split("\n\n")[1:]]
        for lines in paragraphs:
            for line, following in zip(lines, lines[1:]):
                if line.strip() and not line.startswith(" ") and not following.startswith(" "):
                    assert len(line) + 1 + len(following.split()[0]) > 80, f"{words}: {line!r} ends early"


@pytest.mark.parametrize("words", [("prepctl", "status"), ("prepctl", "datasets"), ("prepctl", "show", "x"), ("prepctl", "rm", "x"),
                                   ("trainer", "--data", "x", "--reg", "none", "--preset", "tiny")], ids=" ".join)
def test_no_daemon(tmp_path, words):
    socket = tmp_path / "none.sock"
    assert_fails(run(*words, "--socket", socket, cwd=tmp_path), re.escape(str(socket)), "preprocessd")


def test_help_of_kinds_and_verbs():
    """What a newcomer types for help is answered, in either order."""
    for words in (["inspect", "--help"], ["inspect", "-h"], ["inspect", "help"], ["help", "inspect"]):
        said = run_ok("prepctl", *words).stdout
        assert said.startswith("Usage: prepctl inspect image|text") and "print the token ids" in said, said
    for verb in PREPCTL_VERBS:
        assert run_ok("prepctl", "help", verb).stdout == run_ok("prepctl", verb, "--help").stdout
    for kind in ("image", "text"):
        assert run_ok("prepctl", "help", "inspect", kind).stdout == run_ok("prepctl", "inspect", kind, "--help").stdout
    assert run_ok("prepctl", "help").stdout == run_ok("prepctl", "help", "help").stdout == run_ok("prepctl", "--help").stdout
    assert_fails(run("prepctl", "help", "nonsense"), "'nonsense' is no verb", code=2)


def test_inspect_accepts_socket_and_cache(tmp_path, small):
    """Every program and verb takes both, so that one set of options serves all."""
    common = ["--socket", tmp_path / "s", "--cache", tmp_path / "c"]
    assert run_ok("prepctl", "inspect", "text", "--vocab", small.vocab, *common, stdin="a red square\n").stdout.count(" ") == 4
    name, _, _ = write_pictures(tmp_path / "images", 1)[0]
    run_ok("prepctl", "inspect", "image", tmp_path / "images" / name, "--out", tmp_path / "o.safetensors", *common)
    assert (tmp_path / "o.safetensors").exists() and not (tmp_path / "c").exists()


@pytest.mark.parametrize("path", ["/dev/fd/63", "/proc/self/fd/3", "/dev/stdin", "-"])
def test_paths_that_only_the_client_has(tmp_path, daemon, path):
    """<(...) of a shell and standard input are this process's: the daemon would open its own."""
    usual = ["--format", "csv", "--images", tmp_path]
    for arguments in ([*usual, "--captions", path], [*usual, "--captions", f"val={path}"], [*usual, "--captions", "x.csv", "--vocab", path]):
        assert_fails(daemon.prepctl("add", "piped", *arguments), re.escape(path), "the daemon opens it.*write it to a file first", code=2)
    assert_fails(daemon.prepctl("explain", path), re.escape(path), "the daemon opens it", code=2)


@pytest.mark.parametrize("seed, needed", [("--limit-seed", "--limit N"), ("--split-seed", "--split")])
def test_a_seed_of_nothing(tmp_path, daemon, seed, needed):
    """What is drawn or dealt out must be asked for: a seed alone did nothing, without a word."""
    assert_fails(add(daemon, tmp_path, tmp_path / "c.csv", seed, 3), seed, needed, code=2)


def test_socket_path_too_long(tmp_path):
    long = tmp_path / ("x" * 120) / "d.sock"
    for program, words in (("preprocessd", ["--cache", tmp_path]), ("prepctl", ["status"]), ("trainer", ["--data", "x", "--reg", "none"])):
        result = run(program, *words, "--socket", long, cwd=tmp_path)
        assert result.returncode != 0
        assert_fails(result, r"10[78]", "socket", code=result.returncode)


def test_unknown_data_set(tmp_path, daemon):
    assert_fails(run("trainer", "--data", "nosuch", "--reg", "none", "--preset", "tiny", "--out", tmp_path / "run", *daemon.at()), "nosuch", "small")
    assert_fails(daemon.prepctl("show", "nosuch"), "nosuch")
    assert_fails(daemon.prepctl("rm", "nosuch"), "nosuch")
    assert "small" in daemon.prepctl_ok("datasets").stdout


def test_unknown_split(tmp_path, daemon):
    out = tmp_path / "b.safetensors"
    assert_fails(daemon.prepctl("batch", "small", "--split", "test", "--batch-size", "4", "--seed", "1", "--epoch", "0", "--step", "0",
                                "--out", out), "test", "train")
    assert not out.exists()


def test_empty_split(tmp_path, daemon, small):
    """All pictures of val were left out: asking for val says that it has none."""
    val = write_csv(tmp_path / "val.csv", [(f"gone-{i}.jpg", "a red square", "red") for i in range(3)])
    daemon.prepctl_ok("add", "noval", "--format", "csv", "--images", small.images, "--captions", f"train={small.train}", "--captions", f"val={val}",
                      "--columns", "image,caption,label", "--vocab", small.vocab, "--size", "64", "--on-bad", "skip")
    out = tmp_path / "b.safetensors"
    arguments = ["--batch-size", "4", "--seed", "1", "--epoch", "0", "--step", "0", "--size", "64", "--out", out]
    assert_fails(daemon.prepctl("batch", "noval", "--split", "val", *arguments), "val")
    assert not out.exists()
    daemon.prepctl_ok("batch", "noval", "--split", "train", *arguments)
    common = ["--data", "noval", "--reg", "none", "--preset", "tiny", "--batch-size", "8", "--steps", "1", "--threads", "1", *daemon.at()]
    assert_fails(run("trainer", *common, "--val-split", "val", "--out", tmp_path / "asked"), "val")
    result = run("trainer", *common, "--out", tmp_path / "not-asked")
    assert result.returncode == 0 and re.search("no val|without validation", result.stdout + result.stderr), result.stderr


def test_unknown_vocabulary(tmp_path, daemon):
    assert_fails(trainer(daemon, tmp_path / "run", "--vocab", "klingon"), "klingon", "small-vocab")


# --- bad input to add ---------------------------------------------------------


def add(daemon, folder, captions, *arguments, name="bad", vocab=None):
    return daemon.prepctl("add", name, "--format", "csv", "--images", folder, "--captions", captions, "--size", "64",
                          "--vocab", vocab or write_vocab(captions.parent / "v.txt"), *arguments)


@pytest.mark.parametrize("name", ["a b", "x" * 65, "a/b"])
def test_a_name_that_is_none(tmp_path, daemon, name):
    write_pictures(tmp_path / "images", 1)
    captions = write_csv(tmp_path / "c.csv", [("0000.jpg", "a red square")], header=("image", "caption"))
    assert_fails(add(daemon, tmp_path / "images", captions, name=name), "name", "prepctl add --help", code=2)


def test_missing_picture(tmp_path, daemon):
    rows = write_pictures(tmp_path / "images", 6)
    captions = write_csv(tmp_path / "c.csv", [*rows, ("gone.jpg", "a picture that is not there", "red")])
    assert_fails(add(daemon, tmp_path / "images", captions), r"gone\.jpg", "skip")
    assert "bad" not in daemon.prepctl_ok("datasets").stdout
    result = add(daemon, tmp_path / "images", captions, "--on-bad", "skip", name="skipped")
    assert result.returncode == 0, result.stderr
    assert "gone.jpg" in daemon.prepctl_ok("failures", "skipped").stdout


def test_one_line_each(tmp_path, daemon):
    """Newlines, tabs and escape sequences in names, captions and labels fake no rows and columns of what is printed."""
    (first, _, _), (second, _, _), (third, _, _) = write_pictures(tmp_path / "images", 3)
    odd, shown = "x\n1\t2\r\\n\x1b[2J\x7f\u009bé", r"x\n1\t2\r\\n\x1b[2J\x7f\xc2\x9bé"
    os.rename(tmp_path / "images" / first, tmp_path / "images" / (odd + ".jpg"))
    os.rename(tmp_path / "images" / second, os.fsencode(tmp_path / "images") + b"/y\xff.jpg")
    (tmp_path / "images" / third).write_bytes(b"no picture")
    os.rename(tmp_path / "images" / third, tmp_path / "images" / ("bad" + odd))
    rows = [(odd + ".jpg", "a " + odd, "l" + odd), ("bad" + odd, "b", ""), ("gone" + odd, "c", "")]
    path = tmp_path / ("c\t.jsonl")
    lines = [json.dumps({"image": image, "caption": caption, "label": label or None}).encode() for image, caption, label in rows]
    path.write_bytes(b"\n".join([*lines, b'{"image": "y\xff.jpg", "caption": "raw"}', b""]))
    daemon.prepctl_ok("add", "odd", "--format", "jsonl", "--images", tmp_path / "images", "--captions", path, "--size", "64", "--on-bad", "skip")
    samples = [line.split("\t") for line in daemon.prepctl_ok("samples", "odd", 0, 1).stdout.split("\n")]
    assert [len(line) for line in samples] == [6, 6, 1], samples
    assert samples[0][4].endswith(f"/{shown}.jpg") and samples[0][5] == f"a {shown}"
    assert samples[1][4].endswith(r"/y\xff.jpg")
    failures = [line.split("\t") for line in daemon.prepctl_ok("failures", "odd").stdout.split("\n")]
    assert [len(line) for line in failures] == [2, 2, 1], failures
    assert failures[0][0] == f"gone{shown}" and failures[1][0].endswith(f"/bad{shown}")
    show = daemon.prepctl_ok("show", "odd").stdout
    assert f"  label 0          l{shown} (1 picture)\n" in show and "  labels           1 class\n" in show
    assert f"  first caption    a {shown}\n" in show and r"c\t.jsonl" in show and "\x1b" not in show
    for verb in ("samples", "failures", "show"):
        assert r"\xHH" in run_ok("prepctl", verb, "--help").stdout


def test_show_cuts_a_long_caption(daemon, tmp_path):
    """A caption may have a megabyte; show says what the data set is. It is not cut in the middle of a character."""
    write_pictures(tmp_path, 1)
    picture = next(path for path in tmp_path.iterdir() if path.suffix == ".jpg")
    for text, shown in (("x" * 401, "x" * 400 + " ... (401 bytes)"), ("y" * 399 + "é", "y" * 399 + " ... (401 bytes)"), ("z" * 400, "z" * 400)):
        path = write_csv(tmp_path / "c.csv", [(picture.name, text)], header=("image", "caption"))
        daemon.prepctl_ok("add", "long", "--format", "csv", "--images", tmp_path, "--captions", path, "--size", "32", "--replace")
        assert f"  first caption    {shown}\n" in daemon.prepctl_ok("show", "long").stdout


def test_many_samples(daemon):
    """More ids than a request of the wire takes go in several; there is a limit, and it is told."""
    ids = [i % 7 for i in range(2500)]
    said = daemon.prepctl_ok("samples", "small", *ids).stdout.splitlines()
    assert [int(line.split("\t")[0]) for line in said] == ids
    assert_fails(daemon.prepctl("samples", "small", *[0] * 5000), "more than 4096 arguments", code=2)


@pytest.mark.parametrize("kind", ["garbage", "truncated", "png", "folder", "empty", "unreadable"])
def test_unreadable_picture(tmp_path, daemon, kind):
    rows = write_pictures(tmp_path / "images", 6)
    victim = tmp_path / "images" / "0003.jpg"
    good = victim.read_bytes()
    if kind == "folder":
        victim.unlink()
        victim.mkdir()
    elif kind == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        victim.chmod(0)
    elif kind == "png":
        from PIL import Image
        Image.new("RGB", (8, 8)).save(victim, format="PNG")
    else:
        victim.write_bytes({"garbage": b"not a picture at all" * 20, "truncated": good[:len(good) // 2], "empty": b""}[kind])
    captions = write_csv(tmp_path / "c.csv", rows)
    assert_fails(add(daemon, tmp_path / "images", captions), r"0003\.jpg", *(["PNG"] if kind == "png" else []))
    assert "bad" not in daemon.prepctl_ok("datasets").stdout
    result = add(daemon, tmp_path / "images", captions, "--on-bad", "skip", name=f"skip-{kind}")
    assert result.returncode == 0, result.stderr
    failures = daemon.prepctl_ok("failures", f"skip-{kind}").stdout
    assert "0003.jpg" in failures and "0002.jpg" not in failures


def test_captions_of_other_pictures(tmp_path, daemon):
    """The picture list and the captions do not match: COCO annotations of pictures that the file does not list."""
    write_pictures(tmp_path / "images", 3)
    listing = {"images": [{"id": i, "file_name": f"{i:04d}.jpg"} for i in range(3)],
               "annotations": [{"id": i, "image_id": i + 1, "caption": "a red square"} for i in range(3)]}
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(listing))
    result = daemon.prepctl("add", "bad", "--format", "coco", "--images", tmp_path / "images", "--captions", path, "--size", "64",
                            "--vocab", write_vocab(tmp_path / "v.txt"))
    assert_fails(result, re.escape(str(path)), r"\b3\b")
    wrong = write_csv(tmp_path / "c.csv", [(f"other-{i}.jpg", "a red square", "red") for i in range(4)])
    assert_fails(add(daemon, tmp_path / "images", wrong, "--columns", "image,caption,label"), r"other-0\.jpg")


def test_invalid_utf8(tmp_path, daemon):
    write_pictures(tmp_path / "images", 3)
    captions = tmp_path / "c.csv"
    captions.write_bytes(b"image,caption\n0000.jpg,a red square\n0001.jpg,a \xff\xfe square\n0002.jpg,a blue square\n")
    result = add(daemon, tmp_path / "images", captions)
    assert_fails(result, r"c\.csv:3", "UTF-8")
    result = add(daemon, tmp_path / "images", captions, "--on-bad", "skip", name="utf8")
    assert result.returncode == 0, result.stderr
    assert "UTF-8" in daemon.prepctl_ok("failures", "utf8").stdout


@pytest.mark.parametrize("word", ["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
def test_vocabulary_without_special_words(tmp_path, daemon, word):
    rows = write_pictures(tmp_path / "images", 3)
    captions = write_csv(tmp_path / "c.csv", rows)
    vocab = write_vocab(tmp_path / "lacking.txt", leave_out=(word,))
    assert_fails(add(daemon, tmp_path / "images", captions, vocab=vocab), re.escape(word), r"lacking")
    result = run("prepctl", "inspect", "text", "--vocab", vocab, stdin="a red square\n")
    assert_fails(result, re.escape(word), "lacking")


def test_vocabulary_of_a_cased_model(tmp_path, daemon):
    rows = write_pictures(tmp_path / "images", 3)
    vocab = write_vocab(tmp_path / "lower.txt")
    assert "capital" not in add(daemon, tmp_path / "images", write_csv(tmp_path / "c.csv", rows), name="lower", vocab=vocab).stdout
    lower, vocab = vocab, tmp_path / "cased.txt"
    vocab.write_bytes(lower.read_bytes() + b"Paris\n")
    done = add(daemon, tmp_path / "images", write_csv(tmp_path / "c.csv", rows), name="cased", vocab=vocab)
    assert done.returncode == 0 and "cased.txt: 1 of its words have capital letters" in done.stdout, done


@pytest.mark.parametrize("content, needles", [("", ["empty|ends"]), ('{"images": [', [r":1:|line 1|unexpected end|ends"]), ("[1, 2]", [r"\w"])])
def test_malformed_listing(tmp_path, daemon, content, needles):
    write_pictures(tmp_path / "images", 1)
    path = tmp_path / "broken.json"
    path.write_text(content)
    for form in ("coco", "karpathy"):
        result = daemon.prepctl("add", "bad", "--format", form, "--images", tmp_path / "images", "--captions", path, "--size", "64",
                                "--vocab", write_vocab(tmp_path / "v.txt"))
        assert_fails(result, r"broken\.json", *needles)


def test_full_disk(small):
    """A cache on a file system of 3 MB: add says so, the daemon lives, what was there stays, and space makes it work."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pd-full-", dir="/tmp"))
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, check=False).returncode != 0:
        shutil.rmtree(folder)
        pytest.skip("mount is not permitted here")
    try:
        with Daemon(folder=folder, cache=disk) as daemon:
            few = SmallData(folder / "few", train=4, val=2)
            few.add(daemon, "few")
            before = daemon.prepctl_ok("show", "few").stdout
            arguments = small.arguments("many")
            arguments[arguments.index("--size") + 1] = "224"
            assert_fails(daemon.prepctl("add", *arguments), "space|full", "many|cache|" + re.escape(str(disk)))
            assert daemon.prepctl_ok("show", "few").stdout == before
            out = folder / "b.safetensors"
            daemon.prepctl_ok("batch", "few", "--split", "train", "--batch-size", "4", "--seed", "1", "--epoch", "0", "--step", "0",
                              "--size", "64", "--out", out)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            daemon.prepctl_ok("add", *arguments)
            assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", str(disk)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


# --- weights and checkpoints ----------------------------------------------------


@pytest.fixture(scope="module")
def finished(daemon, tmp_path_factory):
    """A short run's folder."""
    out = tmp_path_factory.mktemp("finished") / "run"
    result = trainer(daemon, out, "--steps", "3")
    assert result.returncode == 0, result.stderr
    return out


def checkpoint_of(folder):
    found = sorted(folder.rglob("last*.safetensors")) or sorted(folder.rglob("*.safetensors"))
    assert found, list(folder.rglob("*"))
    return found[0]


def test_truncated_weights(tmp_path, daemon, finished):
    whole = checkpoint_of(finished).read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(whole[:size])
        assert_fails(trainer(daemon, tmp_path / "run", "--image-weights", cut), r"cut\.safetensors")
        assert_fails(run("trainer", "eval", cut, "--data", "small", "--split", "val", *daemon.at()), r"cut\.safetensors")


def test_weights_that_are_no_weights(tmp_path, daemon):
    for content in (b"hello", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"[]"):
        path = tmp_path / "text.safetensors"
        path.write_bytes(content)
        assert_fails(trainer(daemon, tmp_path / "run", "--text-weights", path), r"text\.safetensors")
    assert_fails(trainer(daemon, tmp_path / "run", "--image-weights", tmp_path / "nowhere.safetensors"), r"nowhere\.safetensors")


def test_checkpoint_of_another_model(tmp_path, daemon, finished):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    result = run("trainer", "--data", "small", "--reg", "none", "--preset", "small", "--batch-size", "8", "--out", out, "--resume", *daemon.at())
    assert_fails(result, r"\w")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_weights_of_another_shape(tmp_path, daemon, finished):
    """A file with the right names and a wrong shape is refused, by name."""
    torch = pytest.importorskip("torch")
    data = checkpoint_of(finished).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    name, entry = next((n, e) for n, e in header.items() if n == "image_encoder.conv1.weight")
    assert torch and entry["shape"]
    entry["shape"] = entry["shape"][::-1]
    for key in ("format", "checksum"):  # one of ours would be damaged
        header["__metadata__"].pop(key)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "turned.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
    assert_fails(run("trainer", "eval", path, "--preset", "tiny", "--data", "small", "--split", "val", *daemon.at()), name)


def test_out_folder_with_a_run(daemon, finished):
    """A new run does not overwrite a finished one."""
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    assert_fails(trainer(daemon, finished, "--steps", "1"), re.escape(str(finished)), "resume")
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before


# --- two daemons -----------------------------------------------------------------


def test_second_daemon_on_the_same_socket_or_cache(tmp_path, daemon):
    assert_fails(run("preprocessd", "--socket", daemon.socket, "--cache", tmp_path / "other"), re.escape(str(daemon.socket)))
    assert_fails(run("preprocessd", "--socket", tmp_path / "d.sock", "--cache", daemon.cache), re.escape(str(daemon.cache)))
    assert daemon.prepctl("status").returncode == 0


# --- documentation ---------------------------------------------------------------


def test_readme_shows_what_help_prints():
    for words in HELPS:
        assert f"<!-- help: {' '.join(words)} -->" in (ROOT / "README.md").read_text(), f"README.md has no options of {' '.join(words)}"
    if not (BIN / "trainer").exists():
        pytest.skip("not built")
    result = subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_links_of_documents_lead_somewhere():
    broken = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("schemas/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            if not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    assert not broken, broken
