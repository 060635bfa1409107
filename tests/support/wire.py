#!/usr/bin/env python3
"""The wire protocol by hand (schemas/wire.proto), for requests that no client of ours would send.

    wire.py SOCKET HEX           says Hello, sends one request (the bytes of a message Request), prints the error it is answered with
    wire.py SOCKET HEX COUNT     sends an explain_request() so often, prints what explained() says each time

Needs nothing but Python's standard library: tests run it as other users.
"""
import socket
import struct
import sys

FINAL_BUT_PROGRESS = 4  # the field of Reply that is not an answer yet


def varint(value):
    out = b""
    value &= (1 << 64) - 1
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(*fields):
    """Pairs of a field's number and its value: a whole number, a float (fixed32), text or bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """{number: [values]} of a message; what is nested stays bytes."""
    out, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == 0:
            value, at = read_varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if size is None:
                size, at = read_varint(data, at)
            value, at = data[at:at + size], at + size
        out.setdefault(tag >> 3, []).append(value)
    return out


def frame(body):
    return struct.pack("<I", len(body)) + body


HELLO = message((1, 1), (2, message((1, 1), (2, "raw"))))


class Raw:
    """A connection that says what it is told."""

    def __init__(self, path, timeout=30.0, hello=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.bytes = b""
        if hello:
            self.send(HELLO)
            self.hello = self.reply()

    def send(self, body):
        self.socket.sendall(frame(body))

    def reply(self):
        """Fields of the next Reply, or None where the connection has ended."""
        while len(self.bytes) < 4 or len(self.bytes) < 4 + struct.unpack("<I", self.bytes[:4])[0]:
            part = self.socket.recv(65536)
            if not part:
                return None
            self.bytes += part
        size = 4 + struct.unpack("<I", self.bytes[:4])[0]
        body, self.bytes = self.bytes[4:size], self.bytes[size:]
        return fields(body)

    def ask(self, body):
        """The final reply to a request."""
        self.send(body)
        while (reply := self.reply()) is not None and FINAL_BUT_PROGRESS in reply:
            pass
        return reply

    def close(self):
        self.socket.close()


def error_of(reply):
    """(code, message) of an Error, or None."""
    if reply is None or 2 not in reply:
        return None
    error = fields(reply[2][0])
    return error.get(1, [0])[0], error[2][0].decode()


def add_request(name, images, captions, form="csv", size=32, vocab=None, replace=False):
    body = [(1, name), (2, form), *((3, str(path)) for path in images), *((4, str(path)) for path in captions), (9, message((1, size)))]
    if vocab:
        body.append((10, str(vocab)))
    if replace:
        body.append((11, 1))
    return message((1, 7), (3, message(*body)))


def explain_request(path, size=32):
    return message((1, 7), (13, message((1, str(path)), (2, message((1, size))))))


def explained(reply):
    """The hash (hex) of the file that an explain_request() read; None: it was refused."""
    return fields(reply[14][0])[1][0].hex() if 14 in reply else None


def open_request(dataset, split="train", batch=2, size=32, slots=2, max_len=64):
    """A training stream of uint8 pixels."""
    mean_std = [(11, 0.5)] * 3 + [(12, 0.5)] * 3
    return message((1, 7), (9, message((1, dataset), (2, split), (3, 1), (5, batch), (6, 1), (8, message((1, size))), (9, 1), *mean_std,
                                       (14, max_len), (15, slots))))


def read_request(step=0, slot=0, epoch=0):
    return message((1, 8 + slot), (10, message((1, epoch), (2, step), (3, slot), (4, 1))))


def main():
    raw, request = Raw(sys.argv[1]), bytes.fromhex(sys.argv[2])
    if len(sys.argv) < 4:
        print(error_of(raw.ask(request)))
    else:
        print([explained(raw.ask(request)) for _ in range(int(sys.argv[3]))])


if __name__ == "__main__":
    main()
