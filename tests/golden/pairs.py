#!/usr/bin/python3
"""Writes pairs.json: version and validation pairs of the data set that test_manifest.c makes with
make_pictures(60, 3), from the words of schemas/manifest.md and apart from the C code.
"""
import hashlib
import json
import pathlib
import struct

from order import key, philox


def make_pictures(count, texts):
    rows = []
    for p in range(count):
        for c in range(5):
            r = philox(*key(texts, 77), p, c, 0, 0)
            text = 0 if c == 0 and p % 10 else r[1] % texts if r[0] % 2 else 1000 + p * 5 + c
            rows.append((p, f"t{text}", "train" if p % 3 else "val"))
    return rows


def field(data):
    return struct.pack("<Q", len(data)) + data


def version(rows, count, splits, split_of):
    texts = [t.encode() for _, t, _ in rows]
    at = [0]
    for t in texts:
        at.append(at[-1] + len(t))
    h = hashlib.sha256()
    h.update(field(b"preprocessd manifest 1") + struct.pack("<QQQ", len(splits), 0, count))
    h.update(field(b"".join(s.encode() + b"\0" for s in splits)))
    h.update(field(b"".join(hashlib.sha256(str(p).encode()).digest() for p in range(count))))
    h.update(field(bytes(splits.index(split_of[p]) for p in range(count))))
    h.update(field(struct.pack(f"<{count}i", *[-1] * count)))
    h.update(field(struct.pack(f"<{count}I", *range(count))))
    h.update(field(struct.pack(f"<{len(rows)}I", *[p for p, _, _ in rows])))
    h.update(field(struct.pack(f"<{len(at)}Q", *at)) + field(b"".join(texts)))
    return h.digest()


def pairs(rows, digest, split, inside):
    part = sorted({p for p, _, s in rows if inside(s)})
    says = {p: [t for q, t, _ in rows if q == p] for p in part}
    number = int.from_bytes(hashlib.sha256(digest + split.encode()).digest()[:8], "little")
    k0, k1 = key(number, 4)
    wrong, seen = [], set()
    for c, (p, text, s) in enumerate(rows):
        if not inside(s):
            continue
        lacking = [i for i, q in enumerate(part) if text not in says[q]]
        having = len(part) - len(lacking)
        if (p, text) in seen or not lacking:
            wrong.append(-1)
            continue
        seen.add((p, text))
        candidates = lacking if 2 * having > len(part) else range(len(part))
        for attempt in range(256):
            w0, w1, _, _ = philox(k0, k1, c, attempt, 0, 0)
            i = candidates[((w0 << 32 | w1) * len(candidates)) >> 64]
            if text not in says[part[i]]:
                break
        wrong.append(i)
    return wrong


def main():
    rows = make_pictures(60, 3)
    split_of = {p: s for p, _, s in rows}
    splits = list(dict.fromkeys(s for _, _, s in rows))
    digest = version(rows, 60, splits, split_of)
    result = {"version": digest.hex(), "all": pairs(rows, digest, "all", lambda s: True),
              "val": pairs(rows, digest, "val", lambda s: s == "val")}
    pathlib.Path(__file__).with_name("pairs.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
