"""Dropout masks by the rule written in trainer/kernels/dropout.h, in numpy: what an element draws follows from its name alone."""
import numpy as np

DROPOUT, HEAD_SHIFT = 0x1000, 16
U32, U64 = np.uint64(0xFFFFFFFF), np.uint64
MASK64 = (1 << 64) - 1


def key_of(seed, domain):
    z = (seed + 0x9E3779B97F4A7C15 * (domain + 1)) & MASK64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK64
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32


def philox(key, counter):
    """Philox4x32-10 of arrays: counter is four arrays, the result another four."""
    c0, c1, c2, c3 = (np.asarray(c).astype(U64) for c in np.broadcast_arrays(*counter))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = U64(0xD2511F53) * c0, U64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> U64(32)) ^ c1 ^ U64(k0), p1 & U32, (p0 >> U64(32)) ^ c3 ^ U64(k1), p0 & U32
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def factors(probability, layer, seed, step, position, token, channel):
    """0, or 1 / (1 - probability), for elements named by arrays of position, token and channel (broadcast)."""
    position, token, channel = np.broadcast_arrays(position, token, channel)
    if probability == 0:
        return np.ones(channel.shape)
    k0, k1 = key_of(seed, DROPOUT + layer)
    words = np.stack(philox((k0, k1 ^ step >> 32), (channel // 64 * 16 + channel % 16, position, token, np.uint64(step & 0xFFFFFFFF))))
    word = np.take_along_axis(words, (channel // 16 % 4)[None].astype(np.int64), 0)[0]
    threshold = int(float(np.float32(probability)) * 4294967296.0)
    return np.where(word < threshold, 0.0, 1.0 / (1.0 - float(np.float32(probability))))
