#!/usr/bin/python3
"""Writes order.json: the results of schemas/order.md, implemented apart from the C code.

Run without arguments from anywhere; it replaces order.json beside it.
"""
import hashlib
import json
import pathlib

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF


def philox(k0, k1, c0, c1, c2, c3):
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & M32, (p0 >> 32) ^ c3 ^ k1, p0 & M32
        k0, k1 = (k0 + 0x9E3779B9) & M32, (k1 + 0xBB67AE85) & M32
    return c0, c1, c2, c3


def key(seed, domain):
    z = (seed + 0x9E3779B97F4A7C15 * (domain + 1)) & M64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M64
    z ^= z >> 31
    return z & M32, z >> 32


class Order:
    def __init__(self, version, split, seed, epoch, n):
        digest = hashlib.sha256(version + split.encode()).digest()
        part = key(int.from_bytes(digest[:8], "little"), 1)
        self.rounds = philox(*part, *key(seed, 1), 0, 0)[:2]
        self.captions = key(seed, 2)
        self.epoch, self.n = epoch, n
        self.h = next(h for h in range(1, 33) if 4**h >= n)

    def at(self, position):
        mask = (1 << self.h) - 1
        x = position
        while True:
            left, right = x >> self.h, x & mask
            for i in range(8):
                f = philox(*self.rounds, right, i, self.epoch, 0)[0] & mask
                left, right = right, left ^ f
            x = left << self.h | right
            if x < self.n:
                return x

    def caption(self, picture, count):
        w0, w1, _, _ = philox(*self.captions, picture, self.epoch, 0, 0)
        return ((w0 << 32 | w1) * count) >> 64


def main():
    cases = []
    for version, split, seed, epoch, n in [
        (bytes(32), "train", 0, 0, 1), (bytes(32), "train", 0, 0, 2), (bytes(32), "train", 0, 0, 5),
        (bytes(range(32)), "train", 1, 0, 16), (bytes(range(32)), "train", 1, 1, 16),
        (bytes(range(32)), "train+val", 2**64 - 1, 3, 17), (bytes(range(32)), "val", 42, 7, 1529),
        (hashlib.sha256(b"x").digest(), "all", 2**63, 2**32 - 1, 118287),
        (hashlib.sha256(b"y").digest(), "", 9, 2, 2**32 - 1),
    ]:
        order = Order(version, split, seed, epoch, n)
        positions = [0, 1, 2, n // 3, n // 2, n - 2, n - 1] if n > 40 else range(n)
        pictures = [0, 1, 2, 1000, 2**32 - 1]
        cases.append({
            "version": version.hex(), "split": split, "seed": str(seed), "epoch": epoch, "n": n,
            "positions": list(positions), "at": [order.at(p) for p in positions],
            "pictures": pictures, "counts": [1, 5, 7, 1000, 2**32 - 1],
            "captions": [order.caption(p, c) for p, c in zip(pictures, [1, 5, 7, 1000, 2**32 - 1])],
        })
    path = pathlib.Path(__file__).with_name("order.json")
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
