#!/usr/bin/env python3
"""Writes the seeds of fuzz_frame and fuzz_record that are Protocol Buffers messages (schemas/), packed here by hand.

    tests/fuzz/make_message_seeds.py     from the repository's root
"""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from wire import message  # noqa: E402


def frames(piece, *messages):
    return bytes([piece]) + b"".join(struct.pack("<I", len(m)) + m for m in messages)


def replies():
    hello = message((1, 1), (2, b"preprocessd 1.0.0"), (3, 7), (4, b"/cache"))
    failure = message((1, b"a.jpg"), (2, b"no JPEG"))
    error = message((1, 6), (2, b"a.jpg: no JPEG"), (3, failure), (4, 1))
    return [message((1, 1), (3, hello)), message((1, 2), (2, error)), message((1, 3), (10, b"")),
            message((1, 4), (6, message((1, message((1, b"flowers"))))))]


SEEDS = {
    "frame/replies": frames(32, *replies()),
    # A record's seed: its kind, which byte changes (two bytes) and how, then the payload.
    "record/pixels": b"\x00\x00\x40\x04" + bytes(range(100)),
    "record/empty": b"\x06\x00\x00\x00",
    "record/unchanged": b"\x01\x00\x00\x00" + struct.pack("<4i", 101, 7, 8, 102),
    "record/dataset": b"\x04\x00\x10\x01" + message((1, 1), (2, b"\x01" * 32), (4, 2), (5, 3), (9, b"csv"), (10, b"/p"),
                                                   (11, b"/p/captions.csv"), (18, 1001)),
    "record/failures": b"\x02\x00\x30\x80" + message((1, 1), (2, message((1, b"a.jpg"), (2, b"cut off")))),
    "record/failure": b"\x02\x00\x05\x10" + message((1, 1), (2, -6), (3, b"cut off")),
}


def main():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
    for name, content in SEEDS.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


if __name__ == "__main__":
    main()
