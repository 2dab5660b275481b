"""PNG files of every colour type, depth and interlace, with chunks of every kind, written by hand."""

import struct
import zlib

COLOURS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind, data, crc=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def header(w, h, depth, colour, interlace=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlace))


def pack(samples, depth):
    if depth == 16:
        return b"".join(struct.pack(">H", v) for v in samples)
    n = len(samples) * depth
    size = -(-n // 8)
    value = 0
    for v in samples:
        value = value << depth | v
    return (value << (size * 8 - n)).to_bytes(size, "big")


def filtered(raw, before, kind, bpp):
    out = bytearray()
    for i, v in enumerate(raw):
        a = raw[i - bpp] if i >= bpp else 0
        b = before[i] if before else 0
        c = before[i - bpp] if before and i >= bpp else 0
        p = a + b - c
        paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        out.append((v - (0, a, b, (a + b) // 2, paeth)[kind]) & 255)
    return bytes([kind]) + bytes(out)


def scan(pixels, depth, colour):
    """Rows of pixels (tuples of samples), filtered."""
    bpp = max(1, COLOURS[colour] * depth // 8)
    out, before = b"", None
    for n, row in enumerate(pixels):
        raw = pack([v for p in row for v in p], depth)
        out += filtered(raw, before, n % 5, bpp)
        before = raw
    return out


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def stream(pixels, depth, colour, interlace):
    if not interlace:
        return scan(pixels, depth, colour)
    out = b""
    for x, y, dx, dy in ADAM7:
        part = [row[x::dx] for row in pixels[y::dy]]
        if part and part[0]:
            out += scan(part, depth, colour)
    return out


def image(pixels, depth, colour, interlace=0, before=b"", behind=b"", end=True, split=None, level=9):
    data = zlib.compress(stream(pixels, depth, colour, interlace), level)
    if split:
        idat = b"".join(chunk(b"IDAT", data[i : i + split]) for i in range(0, len(data), split))
    else:
        idat = chunk(b"IDAT", data)
    return SIGNATURE + header(len(pixels[0]), len(pixels), depth, colour, interlace) + before + idat + behind + (chunk(b"IEND", b"") if end else b"")


TAGS = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def files(rng):
    def pixels(w, h, depth, colour, limit=None):
        return [[tuple(int(v) for v in rng.integers(0, limit or 1 << depth, COLOURS[colour])) for _ in range(w)] for _ in range(h)]

    kinds = [(0, d) for d in (1, 2, 4, 8, 16)] + [(3, d) for d in (1, 2, 4, 8)] + [(c, d) for c in (2, 4, 6) for d in (8, 16)]
    for colour, depth in kinds:
        for w, h in ((13, 9), (8, 8), (1, 1), (3, 5), (16, 2), (5, 1)):
            for interlace in (0, 1):
                p = pixels(w, h, depth, colour)
                plte = chunk(b"PLTE", bytes(int(v) for v in rng.integers(0, 256, 3 << depth))) if colour == 3 else b""
                name = f"colour {colour} depth {depth} {w}x{h} interlace {interlace}"
                yield name, image(p, depth, colour, interlace, plte)
                if colour == 3:
                    n = 1 << depth
                    for label, alphas in {"one": [255] * (n - 1) + [0], "first": [0], "mixed": [int(v) for v in rng.integers(0, 256, n)], "few": [int(v) for v in rng.integers(0, 256, n // 2)], "opaque": [255] * n, "too many": [0] * (n + 3)}.items():
                        yield f"{name} tRNS {label}", image(p, depth, colour, interlace, plte + chunk(b"tRNS", bytes(alphas)))
                elif colour in (0, 2):
                    key = p[0][0] if w > 1 else (0,) * COLOURS[colour]
                    yield f"{name} key", image(p, depth, colour, interlace, chunk(b"tRNS", b"".join(struct.pack(">H", v) for v in key)))
                    yield f"{name} other key", image(p, depth, colour, interlace, chunk(b"tRNS", b"".join(struct.pack(">H", v ^ 1) for v in key)))
                    yield f"{name} wide key", image(p, depth, colour, interlace, chunk(b"tRNS", b"".join(struct.pack(">H", v | 0x4000) for v in key)))
    p = pixels(9, 7, 8, 2)
    odd = {
        "short palette": image(pixels(9, 7, 8, 3), 8, 3, 0, chunk(b"PLTE", bytes(range(30)))),
        "short palette of 4 bits": image(pixels(9, 7, 4, 3), 4, 3, 0, chunk(b"PLTE", bytes(range(30)))),
        "palette of 300": image(pixels(9, 7, 8, 3), 8, 3, 0, chunk(b"PLTE", bytes(900))),
        "long palette": image(pixels(9, 7, 2, 3), 2, 3, 0, chunk(b"PLTE", bytes(range(90)))),
        "odd palette": image(pixels(9, 7, 8, 3, 8), 8, 3, 0, chunk(b"PLTE", bytes(range(31)))),
        "no palette": image(pixels(9, 7, 8, 3), 8, 3),
        "empty palette": image(pixels(9, 7, 8, 3), 8, 3, 0, chunk(b"PLTE", b"")),
        "palette in colours": image(p, 8, 2, 0, chunk(b"PLTE", bytes(range(90)))),
        "palette in grey": image(pixels(9, 7, 8, 0), 8, 0, 0, chunk(b"PLTE", bytes(range(90)))),
        "tRNS before the palette": image(pixels(9, 7, 8, 3), 8, 3, 0, chunk(b"tRNS", bytes(range(50))) + chunk(b"PLTE", bytes(range(256)) * 3)),
        "tRNS in RGBA": image(pixels(9, 7, 8, 6), 8, 6, 0, chunk(b"tRNS", bytes(6))),
        "tRNS behind": image(p, 8, 2, 0, b"", chunk(b"tRNS", bytes(6))),
        "palette behind": image(pixels(9, 7, 8, 3), 8, 3, 0, b"", chunk(b"PLTE", bytes(range(256)) * 3)),
        "short tRNS": image(p, 8, 2, 0, chunk(b"tRNS", bytes(5))),
        "short tRNS grey": image(pixels(9, 7, 8, 0), 8, 0, 0, chunk(b"tRNS", bytes(1))),
        "split": image(p, 8, 2, split=7), "split with empty": SIGNATURE + header(9, 7, 8, 2) + chunk(b"IDAT", b"") + chunk(b"IDAT", zlib.compress(stream(p, 8, 2, 0))) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "apart": SIGNATURE + header(9, 7, 8, 2) + chunk(b"IDAT", zlib.compress(stream(p, 8, 2, 0))[:60]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", zlib.compress(stream(p, 8, 2, 0))[60:]) + chunk(b"IEND", b""),
        "no end": image(p, 8, 2, end=False), "bytes behind": image(p, 8, 2) + b"trailing", "two": image(p, 8, 2) + image(p, 8, 2),
        "eXIf": image(p, 8, 2, 0, chunk(b"eXIf", TAGS)), "eXIf behind": image(p, 8, 2, 0, b"", chunk(b"eXIf", TAGS)), "eXIf with prefix": image(p, 8, 2, 0, chunk(b"eXIf", b"Exif\0\0" + TAGS)),
        "other order": SIGNATURE + chunk(b"tEXt", b"a\0b") + image(p, 8, 2)[8:],
        "unknown critical": image(p, 8, 2, 0, chunk(b"ABCD", b"123")), "unknown": image(p, 8, 2, 0, chunk(b"abCd", b"123")),
        "IHDR twice": image(p, 8, 2, 0, header(9, 7, 8, 2)), "long IHDR": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 2, 0, 0, 0) + b"\0\0") + image(p, 8, 2)[33:],
        "compression 1": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 2, 1, 0, 0)) + image(p, 8, 2)[33:],
        "filter 1": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 2, 0, 1, 0)) + image(p, 8, 2)[33:],
        "interlace 2": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 2, 0, 0, 2)) + image(p, 8, 2)[33:],
        "more rows": image(p, 8, 2)[:8] + header(9, 5, 8, 2) + image(p, 8, 2)[33:], "fewer rows": image(p, 8, 2)[:8] + header(9, 9, 8, 2) + image(p, 8, 2)[33:],
        "fewer rows interlaced": image(p, 8, 2, 1)[:8] + header(9, 9, 8, 2, 1) + image(p, 8, 2, 1)[33:],
        "depth 3": SIGNATURE + header(9, 7, 3, 0) + image(p, 8, 2)[33:], "colour 1": SIGNATURE + header(9, 7, 8, 1) + image(p, 8, 2)[33:], "colour 5": SIGNATURE + header(9, 7, 8, 5) + image(p, 8, 2)[33:],
        "depth 4 of colours": SIGNATURE + header(9, 7, 4, 2) + image(p, 8, 2)[33:], "depth 16 of a palette": SIGNATURE + header(9, 7, 16, 3) + chunk(b"PLTE", bytes(range(90))) + image(p, 8, 2)[33:],
        "raw deflate": SIGNATURE + header(9, 7, 8, 2) + chunk(b"IDAT", zlib.compress(stream(p, 8, 2, 0))[2:]) + chunk(b"IEND", b""),
        "filter 5": SIGNATURE + header(3, 1, 8, 0) + chunk(b"IDAT", zlib.compress(b"\5abc")) + chunk(b"IEND", b""),
        "wrong IHDR checksum": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 2, 0, 0, 0), 5) + image(p, 8, 2)[33:],
        "wrong text checksum": image(p, 8, 2, 0, chunk(b"tEXt", b"a\0b", 5)), "wrong gAMA checksum": image(p, 8, 2, 0, chunk(b"gAMA", b"\0\0\0\1", 5)),
        "wrong IDAT checksum": SIGNATURE + header(9, 7, 8, 2) + chunk(b"IDAT", zlib.compress(stream(p, 8, 2, 0)), 5) + chunk(b"IEND", b""),
        "wrong IEND checksum": image(p, 8, 2, end=False) + chunk(b"IEND", b"", 5),
        "wrong text checksum behind": image(p, 8, 2, 0, b"", chunk(b"tEXt", b"a\0b", 5)),
        "animation": image(p, 8, 2, 0, chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 9, 7, 0, 0, 1, 10, 0, 0)), chunk(b"fcTL", struct.pack(">IIIIIHHBB", 1, 9, 7, 0, 0, 1, 10, 0, 0)) + chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(stream(pixels(9, 7, 8, 2), 8, 2, 0)))),
        "animation without default": image(p, 8, 2, 0, chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 4, 3, 1, 1, 1, 10, 0, 0)) + chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(stream(pixels(4, 3, 8, 2), 8, 2, 0)))),
    }
    for kind, data in {"gAMA": b"\0\0\xb1\x8f", "gAMA short": b"\0", "cHRM": bytes(32), "cHRM short": bytes(7), "sRGB": b"\0", "sRGB empty": b"", "sRGB bad": b"\x77", "iCCP": b"name\0\0" + zlib.compress(b"profile"), "iCCP bad": b"name\0\0xyz", "iCCP empty": b"", "pHYs": struct.pack(">IIB", 2835, 2835, 1), "pHYs short": b"\0", "bKGD": bytes(6), "bKGD bad": bytes(1), "hIST": bytes(4), "sBIT": b"\5\5\5", "sBIT bad": b"\x99", "tIME": bytes(7), "tIME bad": bytes(2), "zTXt": b"a\0\0" + zlib.compress(b"x"), "zTXt bad": b"a\0\0xyz", "iTXt": b"a\0\0\0\0\0x", "iTXt bad": b"a", "tEXt empty": b"", "sPLT": b"a\0\x08" + bytes(6), "eXIf bad": b"xyz", "cICP": b"\1\x0d\0\1", "mDCV": bytes(24), "cLLI": bytes(8), "vpAg": bytes(9), "acTL bad": bytes(3), "fcTL bad": bytes(3), "acTL zero": bytes(8)}.items():
        odd[f"chunk {kind}"] = image(p, 8, 2, 0, chunk(kind[:4].encode(), data))
        odd[f"chunk {kind} twice"] = image(p, 8, 2, 0, chunk(kind[:4].encode(), data) * 2)
        odd[f"chunk {kind} behind"] = image(p, 8, 2, 0, b"", chunk(kind[:4].encode(), data))
    whole = image(p, 8, 2, 0, chunk(b"tEXt", b"a\0b"))
    for cut in (1, 4, 11, 12, 13, 14, 15, 16, 18, 20, 30, 60, 150, len(whole) - 40, len(whole) - 20, len(whole) - 9):
        odd[f"cut {cut}"] = whole[:-cut]
    for n in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(8, len(whole)))] ^= int(rng.integers(1, 256))
        odd[f"damaged {n}"] = bytes(damaged)
    yield from odd.items()
