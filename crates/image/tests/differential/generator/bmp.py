"""BMP files of every header, depth, palette and compression, written by hand."""

import struct

import numpy as np


def header(size, w, h, bits, compression=0, colours=0, masks=(), top_down=False, offset=None, palette=b"", data=b""):
    """A file. `masks` follow a header of 40 bytes, and are in larger ones."""
    if size == 12:
        info = struct.pack("<IHHHH", 12, w, h, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", size, w, -h if top_down else h, 1, bits, compression, len(data), 2835, 2835, colours, 0)
        inner = b"".join(struct.pack("<I", m) for m in masks)
        info += (inner + bytes(200))[: size - 40] if size > 40 else inner
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start if offset is None else offset) + info + palette + data


def rows(values, bits):
    out = b""
    for row in values[::-1]:
        line = int("".join(f"{int(v):0{bits}b}" for v in row), 2) if bits < 8 else None
        if bits < 8:
            n = len(row) * bits
            size = -(-n // 8)
            line = (line << (size * 8 - n)).to_bytes(size, "big")
        else:
            line = b"".join(int(v).to_bytes(bits // 8, "little") for v in row)
        out += line + bytes(-len(line) % 4)
    return out


def rle8(indices, rng, short=False):
    out = b""
    for row in indices[::-1]:
        x = 0
        stop = len(row) - (int(rng.integers(0, 4)) if short else 0)
        while x < stop:
            n = 1
            while x + n < stop and row[x + n] == row[x] and n < 255:
                n += 1
            if n == 1 and stop - x >= 4 and rng.random() < 0.5:
                n = int(rng.integers(3, min(stop - x, 9) + 1))
                out += bytes([0, n]) + bytes(int(v) for v in row[x : x + n]) + bytes(n % 2)
            else:
                out += bytes([n, int(row[x])])
            x += n
        out += b"\0\0"
    return out + b"\0\1"


def rle4(indices, rng, short=False):
    out = b""
    for row in indices[::-1]:
        x = 0
        stop = len(row) - (int(rng.integers(0, 4)) if short else 0)
        while x < stop:
            if stop - x >= 3 and rng.random() < 0.4:
                n = int(rng.integers(3, stop - x + 1))
                part = [int(v) for v in row[x : x + n]] + [0] * (n % 2)
                packed = bytes(a << 4 | b for a, b in zip(part[::2], part[1::2]))
                out += bytes([0, n]) + packed + bytes(len(packed) % 2)
            else:
                n = int(min(stop - x, rng.integers(1, 5)))
                a, b = int(row[x]), int(row[min(x + 1, len(row) - 1)])
                out += bytes([n, a << 4 | b])
            x += n
        out += b"\0\0"
    return out + b"\0\1"


def files(rng):
    sizes = [(13, 7), (8, 8), (1, 1), (5, 3), (16, 2)]
    headers = [12, 40, 52, 56, 64, 108, 124]
    for size in headers:
        for w, h in sizes:
            for top_down in (False, True) if size != 12 else (False,):
                for bits in (1, 4, 8):
                    entry = 3 if size == 12 else 4
                    for count in (1 << bits, max(2, (1 << bits) - 3)):
                        palette = b"".join(bytes(int(v) for v in rng.integers(0, 256, 3)) + bytes(entry - 3) for _ in range(count))
                        stated = 0 if count == 1 << bits else count
                        if size == 12 and stated:
                            continue
                        values = rng.integers(0, count, (h, w))
                        yield f"indices {size} {w}x{h} {bits} bits {count} colours {top_down}", header(size, w, h, bits, 0, stated, top_down=top_down, palette=palette, data=rows(values, bits))
                for bits in (16, 24, 32):
                    values = rng.integers(0, 1 << bits, (h, w))
                    yield f"colours {size} {w}x{h} {bits} bits {top_down}", header(size, w, h, bits, top_down=top_down, data=rows(values, bits))
    grey = b"".join(bytes([i, i, i, 0]) for i in range(256))
    for w, h in sizes:
        yield f"grey {w}x{h}", header(40, w, h, 8, palette=grey, data=rows(rng.integers(0, 256, (h, w)), 8))
        for a, b in ((0, 255), (255, 0)):
            yield f"black and white {w}x{h} {a}", header(40, w, h, 1, palette=bytes([a, a, a, 0, b, b, b, 0]), data=rows(rng.integers(0, 2, (h, w)), 1))
        values = rng.integers(0, 256, (h, w))
        colours = bytes(int(v) for v in rng.integers(0, 256, 40))
        for stated, palette in ((10, colours), (0, grey)):
            yield f"offset at the palette {w}x{h} {stated}", header(40, w, h, 8, colours=stated, palette=palette, data=rows(values, 8), offset=54)
            yield f"no offset {w}x{h} {stated}", header(40, w, h, 8, colours=stated, palette=palette, data=rows(values, 8), offset=0)
        yield f"gap {w}x{h}", header(40, w, h, 24, data=bytes(6) + rows(rng.integers(0, 1 << 24, (h, w)), 24), offset=60)
    masks = [(0xFF0000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0), (0xFF000000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000, 0xFF000000), (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF000000, 0xFF00, 0xFF, 0xFF0000), (0, 0, 0, 0), (0xFF, 0xFF00, 0xFF0000, 0), (0x3FF00000, 0xFFC00, 0x3FF, 0)]
    for size in headers[1:]:
        for w, h in sizes[:2]:
            for mask in masks:
                data = rows(rng.integers(0, 1 << 32, (h, w)), 32)
                yield f"masks {size} {w}x{h} {mask}", header(size, w, h, 32, 3, masks=mask[:3] if size == 40 else mask, data=data)
            for mask in ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F), (0xF00, 0xF0, 0xF)):
                yield f"masks of 16 bits {size} {w}x{h} {mask}", header(size, w, h, 16, 3, masks=mask, data=rows(rng.integers(0, 1 << 16, (h, w)), 16))
            yield f"masks of 24 bits {size} {w}x{h}", header(size, w, h, 24, 3, masks=(0xFF0000, 0xFF00, 0xFF), data=rows(rng.integers(0, 1 << 24, (h, w)), 24))
            yield f"masks of 8 bits {size} {w}x{h}", header(size, w, h, 8, 3, masks=(0xFF0000, 0xFF00, 0xFF), palette=grey, data=rows(rng.integers(0, 256, (h, w)), 8))
    for n in range(40):
        w, h = sizes[n % 5]
        w += n % 3
        for bits, encode in ((8, rle8), (4, rle4)):
            palette = bytes(int(v) for v in rng.integers(0, 256, 4 << bits))
            values = rng.integers(0, 1 << bits, (h, w)) if n % 2 else np.repeat(rng.integers(0, 1 << bits, (h, w)), 2, 1)[:, :w]
            short = n >= 20
            data = encode(values, rng, short)
            yield f"runs of {bits} bits {n} short {short}", header(40, w, h, bits, 1 if bits == 8 else 2, palette=palette, data=data, top_down=n % 7 == 3)
    palette = bytes(int(v) for v in rng.integers(0, 256, 1024))
    for name, data in {
        "delta": b"\2\5\0\2\1\1\3\6\0\0\4\7\0\1", "delta at the end": b"\4\5\0\2\0\3\0\1", "no rows": b"\0\1", "ends early": b"\4\1\0\0\4\2\0\1",
        "no end": b"\4\1\0\0\4\2\0\0\4\3\0\0\4\4", "too long runs": b"\x09\1\0\0\x09\2\0\0\x09\3\0\0\x09\4\0\1", "empty rows": b"\0\0\0\0\4\3\0\0\4\2\0\0\0\1",
        "single pixels past the row": b"\0\6\1\2\3\4\5\6\2\7\0\0\4\1\0\0\4\1\0\1", "cut": b"\4\1\0\0\4", "no end of rows": b"\4\1\4\2\4\3\4\4\0\1", "end of row twice": b"\4\1\0\0\0\0\4\2\0\0\4\3\0\0\4\4\0\1",
    }.items():
        yield f"runs {name}", header(40, 4, 4, 8, 1, palette=palette, data=data)
        yield f"runs of 4 bits {name}", header(40, 4, 4, 4, 2, palette=palette[:64], data=data)
    whole = header(40, 8, 8, 24, data=rows(rng.integers(0, 1 << 24, (8, 8)), 24))
    for cut in (1, 3, 40, 190, 200, 220):
        yield f"cut {cut}", whole[:-cut]
    yield "bytes behind", whole + b"trailing"
    for bits in (0, 2, 5, 64):
        yield f"{bits} bits", header(40, 8, 8, bits, palette=grey, data=bytes(600))
    for compression in (4, 5, 6, 11):
        yield f"compression {compression}", header(40, 8, 8, 24, compression, data=bytes(600))
    yield "runs of colours", header(40, 8, 8, 24, 1, data=bytes(600))
    yield "width 0", header(40, 0, 8, 24, data=bytes(600))
    yield "header 16", b"BM" + struct.pack("<IHHIIIIHH", 200, 0, 0, 54, 16, 8, 8, 1, 24) + bytes(300)
