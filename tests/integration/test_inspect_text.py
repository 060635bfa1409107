"""prepctl inspect text as a user meets it: lines, streams, errors. Needs no daemon.

Ids themselves are held against the reference tokenizer in tests/parity/test_tokens.py.
"""
import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREPCTL = Path(os.environ.get("PREPCTL", ROOT / "build" / os.environ.get("MODE", "release") / "bin" / "prepctl"))
LINE_BYTES_MAX = 1 << 20


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n!\n")
    return path


def run(*args, text=b"", **kwargs):
    return subprocess.run([PREPCTL, "inspect", "text", *args], input=text, capture_output=True, check=False, timeout=60, **kwargs)


@pytest.mark.parametrize("text, expected", [
    (b"", b""),
    (b"\n", b"2 3\n"),
    (b"a", b"2 4 3\n"),
    (b"a\n", b"2 4 3\n"),
    (b"a\n\nab!", b"2 4 3\n2 3\n2 4 5 6 3\n"),
    (b"a\r\na\ra\n", b"2 4 3\n2 4 4 3\n"),
    (b"a\0b\n\xff\n", b"2 4 5 3\n2 3\n"),
    (b"zzz a", b"2 1 4 3\n"),
])
def test_lines(vocab, text, expected):
    done = run("--vocab", vocab, text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


def test_many_lines_and_odd_read_sizes(vocab):
    text = b"".join(b"a" + b" ab" * (i % 97) + b"\n" for i in range(20000))
    expected = b"".join(b"2 4" + b" 4 5" * (i % 97) + b" 3\n" for i in range(20000))
    assert run(f"--vocab={vocab}", text=text).stdout == expected


def test_answers_line_by_line(vocab):
    with subprocess.Popen([PREPCTL, "inspect", "text", "--vocab", vocab], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for line, ids in ((b"a\n", b"2 4 3\n"), (b"ab\n", b"2 4 5 3\n")):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == ids
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_longest_line(vocab):
    done = run("--vocab", vocab, text=b"!" * LINE_BYTES_MAX + b"\na\n")
    assert done.returncode == 0
    assert done.stdout == b"2" + b" 6" * LINE_BYTES_MAX + b" 3\n2 4 3\n"
    done = run("--vocab", vocab, text=b"a\n" + b"!" * (LINE_BYTES_MAX + 1) + b"\n")
    assert done.returncode == 1
    assert done.stdout == b"2 4 3\n"
    assert b"line 2" in done.stderr and b"1048576" in done.stderr


@pytest.mark.parametrize("args, message", [
    ([], b"--vocab"),
    (["--vocab"], b"--vocab needs a value"),
    (["--vocabulary", "x"], b"did you mean --vocab?"),
    (["--vocab", "x", "operand"], b"unexpected argument 'operand'"),
])
def test_usage_errors(args, message):
    done = run(*args)
    assert done.returncode == 2
    assert message in done.stderr and done.stdout == b""
    assert done.stderr.count(b"\n") == 1


def test_vocabulary_errors(tmp_path):
    missing = tmp_path / "missing.txt"
    done = run("--vocab", missing)
    assert done.returncode == 1 and str(missing).encode() in done.stderr and b"No such file" in done.stderr
    done = run("--vocab", tmp_path)
    assert done.returncode == 1 and b"not a regular file" in done.stderr
    for word in (b"[UNK]", b"[CLS]"):
        bad = tmp_path / "bad.txt"
        bad.write_bytes(b"\n".join(w for w in (b"[PAD]", b"[UNK]", b"[CLS]", b"[SEP]", b"a") if w != word))
        done = run("--vocab", bad, text=b"a\n")
        assert done.returncode == 1 and done.stdout == b""
        assert str(bad).encode() in done.stderr and word in done.stderr and b"vocab.txt" in done.stderr
    bad.write_bytes(b"\xef\xbb\xbf[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    done = run("--vocab", bad, text=b"a\n")
    assert done.returncode == 1 and b"byte order mark" in done.stderr


def test_vocabulary_of_a_cased_model(tmp_path):
    """Its capital letters are never found; names in brackets are no words of texts."""
    cased = tmp_path / "cased.txt"
    cased.write_bytes(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nParis\nDog\na\n##B\n")
    done = run("--vocab", cased, text=b"a Dog\n")
    assert (done.returncode, done.stdout) == (0, b"2 6 1 3\n")
    assert done.stderr.startswith(b"warning: ") and b"3 of its words have capital letters" in done.stderr and done.stderr.count(b"\n") == 1


def test_full_disk(vocab):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([PREPCTL, "inspect", "text", "--vocab", vocab], input=b"a\n", stdout=full, stderr=subprocess.PIPE,
                              check=False, timeout=60)
    assert done.returncode == 1
    assert b"standard output: No space left on device" in done.stderr


def test_reader_that_leaves(vocab):
    """As `| head -1` does it: no message, ended by the pipe."""
    with subprocess.Popen([PREPCTL, "inspect", "text", "--vocab", vocab], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        process.stdout.close()
        try:
            process.stdin.write(b"a\n" * 1000000)
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.wait(timeout=30) == -signal.SIGPIPE
        assert process.stderr.read() == b""


def test_help():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == b""
    assert b"--vocab FILE" in done.stdout
    assert max(len(line) for line in done.stdout.split(b"\n")) <= 100
