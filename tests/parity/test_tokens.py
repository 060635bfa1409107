"""prepctl inspect text against Hugging Face's Rust tokenizer.

golden.txt and golden.ids (made by that tokenizer) are compared where the test
data is; everything else asks the tokenizer itself, which
tests/support/install-node-oracle.sh puts into tests/node_modules.
FULL=1 sweeps every code point and runs more random lines.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data")) / "text"
PREPCTL = Path(os.environ.get("PREPCTL", ROOT / "build" / os.environ.get("MODE", "release") / "bin" / "prepctl"))
ORACLE = ROOT / "tests" / "support" / "oracle_encode.cjs"
FULL = os.environ.get("FULL") == "1"

sys.path.insert(0, str(ROOT / "tests" / "golden"))
import tokens as golden_tokens  # noqa: E402

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data in {DATA}")
needs_oracle = pytest.mark.skipif(
    shutil.which("node") is None or not (ROOT / "tests/node_modules/tokenizers").is_dir(),
    reason="the reference tokenizer is not installed: run tests/support/install-node-oracle.sh")

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def ours(vocab, text):
    done = subprocess.run([PREPCTL, "inspect", "text", "--vocab", vocab], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.split(b"\n")[:-1]


def theirs(vocab, text):
    done = subprocess.run(["node", "--max-old-space-size=4096", ORACLE, vocab], input=text, capture_output=True, check=True)
    return done.stdout.split(b"\n")[:-1]


def assert_same(vocab, text):
    got, expected = ours(vocab, text), theirs(vocab, text)
    lines = text.split(b"\n")
    assert len(got) == len(expected)
    wrong = [i for i in range(len(got)) if got[i] != expected[i]]
    assert not wrong, f"{len(wrong)} of {len(got)} lines differ, the first: {lines[wrong[0]][:200]!r} gave " \
                      f"{got[wrong[0]][:200]!r}, expected {expected[wrong[0]][:200]!r}"


def write_vocab(path, words):
    """One line for each distinct word; none of them ends in white space."""
    seen = dict.fromkeys(SPECIALS)
    seen.update(dict.fromkeys(w for w in words if w == w.rstrip() and "\n" not in w and w != "##"))
    path.write_bytes("\n".join(seen).encode())
    return path


def what_becomes_of(character):
    """Everything that a character may turn into, so that the vocabulary shows it."""
    for form in ("NFC", "NFD", "NFKD"):
        for text in (unicodedata.normalize(form, character), unicodedata.normalize(form, character.lower())):
            for c in text:
                yield c
                yield from c.lower()


def vocab_of_characters(path, characters):
    """Each character alone and inside words is a token of its own."""
    visible = set("abcdefghijklmnopqrstuvwxyz0123456789\u302e\U0001d165")
    for c in characters:
        visible.update(what_becomes_of(c))
    visible = sorted(visible)
    return write_vocab(path, visible + ["##" + c for c in visible])


@needs_data
def test_golden_lines():
    got = ours(DATA / "bert-base-uncased-vocab.txt", (DATA / "golden.txt").read_bytes())
    expected = (DATA / "golden.ids").read_bytes().split(b"\n")[:-1]
    assert len(expected) > 16000
    assert got == expected


@pytest.mark.parametrize("first", golden_tokens.parts(), ids="{:06X}".format)
def test_golden_code_points(first):
    """Every code point, against hashes of what the reference tokenizer said once."""
    expected = json.loads((ROOT / "tests/golden/tokens.json").read_bytes())["parts"]
    assert golden_tokens.hash_of_part(first, [PREPCTL, "inspect", "text", "--vocab"]) == expected[f"{first:06X}"], \
        "other ids than the reference tokenizer's: FULL=1 with test_code_points tells where"


@needs_data
@needs_oracle
@pytest.mark.parametrize("name", ["UTF-8-test.txt", "UTF-8-demo.txt", "blns.txt"])
def test_hostile_files(name):
    assert_same(DATA / "bert-base-uncased-vocab.txt", (DATA / name).read_bytes())


@needs_data
@needs_oracle
def test_captions():
    captions = json.loads((DATA / "captions_val2017.json").read_bytes())["annotations"]
    lines = [c["caption"].replace("\n", " ") for c in captions]
    assert_same(DATA / "bert-base-uncased-vocab.txt", "\n".join(lines if FULL else lines[::10]).encode())


def chosen_code_points():
    if FULL:
        return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    rest = random.Random(7).sample([c for c in range(0x3000, 0x110000) if not 0xD800 <= c < 0xE000], 6000)
    # Everything that is not simply kept as it is, as far as Python knows.
    changed = [c for c in range(0x3000, 0x32000) if unicodedata.category(chr(c))[0] in "MPZC" and
               not 0xD800 <= c < 0xF900 and unicodedata.category(chr(c)) != "Cn" or
               chr(c).lower() != chr(c) or 0xF900 <= c < 0xFB00 or unicodedata.combining(chr(c))]
    return sorted(set(list(range(0x3000)) + rest + changed))


@needs_oracle
def test_code_points(tmp_path):
    """Each between letters, alone, doubled, after and before marks that NFD would move."""
    points = chosen_code_points()
    for start in range(0, len(points), 1 << 17):
        characters = [chr(c) for c in points[start:start + (1 << 17)]]
        vocab = vocab_of_characters(tmp_path / "vocab.txt", characters)
        lines = [f"a{c}b {c} x{c}\u302e{c}\u0301y \u302e{c}\U0001d165{c}\u302e A\u0327{c}{c}" for c in characters if c != "\n"]
        assert_same(vocab, "\n".join(lines).encode())


def random_word(rng, alphabet):
    return "".join(rng.choices(alphabet, k=rng.choice([1, 1, 2, 3, 4, 5, 8, 13])))


def alphabets():
    blocks = [(0x00, 0x80), (0x80, 0x250), (0x250, 0x370), (0x370, 0x530), (0x530, 0x600), (0x600, 0x780), (0x900, 0xE00),
              (0xE00, 0x1000), (0x1000, 0x1200), (0x1B00, 0x1C00), (0x1D00, 0x2000), (0x2000, 0x2800), (0x2C00, 0x3100),
              (0x3130, 0x3400), (0x4DB0, 0x4E10), (0x9FE0, 0xA100), (0xA640, 0xAC00), (0xAC00, 0xAD00), (0xD700, 0xD800),
              (0xF8F0, 0xFB50), (0xFD00, 0x10000), (0x10000, 0x10400), (0x10400, 0x10600), (0x11000, 0x11800), (0x1D000, 0x1D800),
              (0x1E000, 0x1E980), (0x1F000, 0x1FB00), (0x2A6D0, 0x2A710), (0x2B730, 0x2B930), (0x2CEA0, 0x2CEC0),
              (0x2F800, 0x2FA30), (0xE0000, 0xE0200), (0xFFF00, 0x100010)]
    lists = [[chr(c) for c in range(*block) if c != 10] for block in blocks]
    # Marks of every class that survive, with some that are stripped and some starters.
    lists.append([chr(c) for c in (0x302E, 0x302F, 0x1D165, 0x1D166, 0x1D16D, 0x1D16E, 0x1B44, 0x94D, 0x8D4, 0x1E000, 0x1E94A,
                                   0x11446, 0x301, 0x327, 0x34F, 0x1DFB, 0x116B6, 0x61, 0x200D)])
    return lists


def random_lines(seed, count):
    rng = random.Random(seed)
    lists = alphabets()
    for _ in range(count):
        alphabet = rng.choice(lists)
        if rng.random() < 0.4:
            alphabet = alphabet + rng.choice(lists) + lists[0] + lists[-1]
        line = " ".join(random_word(rng, alphabet) for _ in range(rng.randrange(1, 12)))
        kind = rng.random()
        if kind < 0.1:
            line = "".join(rng.choices(alphabet, k=rng.choice([98, 99, 100, 101, 102, 150, 400])))
        yield line.replace("\n", " ")


@needs_oracle
def test_random_text(tmp_path):
    lines = list(random_lines(1, 60000 if FULL else 6000))
    vocab = vocab_of_characters(tmp_path / "vocab.txt", sorted(set("".join(lines))))
    assert_same(vocab, "\n".join(lines).encode())


@needs_data
@needs_oracle
def test_random_text_with_the_real_vocabulary():
    vocab = DATA / "bert-base-uncased-vocab.txt"
    words = [w.removeprefix("##") for w in vocab.read_text(encoding="utf-8").split("\n")]
    rng = random.Random(3)
    lines = []
    for _ in range(60000 if FULL else 6000):
        glue = rng.choice(["", " ", "", "-", "\u0301", "\u200b", "\u00a0"])
        words_here = [rng.choice((str, str.upper, str.title))(rng.choice(words)) for _ in range(rng.randrange(1, 30))]
        lines.append(glue.join(words_here).replace("\n", " "))
    assert_same(vocab, "\n".join(lines).encode())


@needs_oracle
def test_invalid_utf8(tmp_path):
    rng = random.Random(5)
    pieces = [b"a", b"B", b" ", b"\xc3\xa9", b"\xe4\xb8\xad", b"\xf0\x9f\x98\x80", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82",
              b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\x80", b"\xbf", b"\xc3", b"\xe0\x80", b"\xef\xbf\xbd",
              b"\xef\xbb\xbf", b"\x00", b"\r", b"\xf8\x88\x80\x80\x80", b"!", b"\xcc\x81"]
    lines = []
    for _ in range(20000 if FULL else 3000):
        line = b"".join(rng.choices(pieces, k=rng.randrange(0, 12)))
        if rng.random() < 0.5:
            line = bytes(rng.choice([b for b in range(256) if b != 10]) for _ in range(rng.randrange(0, 30)))
        lines.append(line)
    vocab = vocab_of_characters(tmp_path / "vocab.txt", [chr(c) for c in range(0x20, 0x800)] + ["中", "\U0001f600"])
    assert_same(vocab, b"\n".join(lines) + b"\n")


@needs_oracle
def test_lengths_of_words(tmp_path):
    """100 characters, not bytes, counted after accents are gone and syllables are apart."""
    vocab = vocab_of_characters(tmp_path / "vocab.txt", list("aé中각") + ["\u302e", "\u1100", "\u1161", "\u11a8"])
    lines = []
    for unit in ("a", "é", "e\u0301", "각", "가", "\u302e", "a\u200b", "A", "\U0001d15e", "ß"):
        for length in (1, 33, 34, 49, 50, 51, 99, 100, 101, 102, 3000):
            lines += [unit * length, "x" + unit * length + "!", unit * length + "\u302e"]
    assert_same(vocab, "\n".join(lines).encode())


@needs_oracle
@pytest.mark.parametrize("content", [
    b"[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n##b\r\nab\r\n",
    b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n\n##b\na\n\nc",
    b"[UNK]\n[CLS]\n[SEP]\n[PAD]\na  \n##b\t\nabc\xc2\xa0\n##c \xe3\x80\x80\n[CLS]\n",
    b"\xef\xbb\xbfa\n[PAD]\n[UNK]\n[CLS]\n[SEP]\nab\n##c\n",
    b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n##\n#\n##a\n!\n##!\n",
    b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nab\nabc\n##d\n##de\n",
])
def test_vocabulary_files(tmp_path, content):
    vocab = tmp_path / "vocab.txt"
    vocab.write_bytes(content)
    text = b"a b ab abc abcd abcde abcdef aa abb c # ## ! a! [CLS] [UNK] \xef\xbb\xbfa\n"
    assert_same(vocab, text)
