"""GIF files with frames of any place and size, palettes, interlace and odd blocks, written by hand."""

import struct


def lzw(indices, code_size, clear_every=None, end=True):
    """Codes of at most `code_size` + 1 bits: the table is cleared before they grow, or as `clear_every` says."""
    clear, bits, count = 1 << code_size, 0, 0
    every = clear_every or max(1, (1 << code_size) - 2)
    codes = []
    for i, v in enumerate(indices):
        if i % every == 0:
            codes.append(clear)
        codes.append(int(v))
    if end:
        codes.append(clear + 1)
    width = code_size + 1
    for code in codes:
        bits |= code << count
        count += width
    return bits.to_bytes(-(-count // 8), "little")


def real_lzw(indices, code_size):
    """Codes of growing length, as usual encoders write them."""
    clear = 1 << code_size
    out, count, width = 0, 0, code_size + 1
    table = {bytes([i]): i for i in range(clear)}
    next_code = clear + 2

    def emit(code):
        nonlocal out, count
        out |= code << count
        count += width

    emit(clear)
    prefix = b""
    for v in indices:
        joined = prefix + bytes([int(v)])
        if joined in table:
            prefix = joined
            continue
        emit(table[prefix])
        if next_code < 4096:
            table[joined] = next_code
            if next_code == 1 << width and width < 12:
                width += 1
            next_code += 1
        prefix = joined[-1:]
    if prefix:
        emit(table[prefix])
    emit(clear + 1)
    return out.to_bytes(-(-count // 8), "little")


def blocks(data, size=255):
    return b"".join(bytes([len(data[i : i + size])]) + data[i : i + size] for i in range(0, len(data), size)) + b"\0"


def interlace(values):
    return [values[y] for first, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in range(first, len(values), step)]


def screen(w, h, palette=None, background=0, version=b"89a"):
    flags = 0x70 | (0x80 | (len(palette) // 3).bit_length() - 2 if palette else 0)
    return b"GIF" + version + struct.pack("<HHBBB", w, h, flags, background, 0) + (palette or b"")


def control(transparent=None, disposal=0):
    return b"!\xf9\4" + struct.pack("<BHB", disposal << 2 | (transparent is not None), 10, transparent or 0) + b"\0"


def frame(x, y, values, code_size, palette=None, interlaced=False, data=None, block=255):
    h, w = len(values), len(values[0]) if len(values) else 0
    flags = (0x40 if interlaced else 0) | (0x80 | (len(palette) // 3).bit_length() - 2 if palette else 0)
    rows = interlace(values) if interlaced else values
    flat = [v for row in rows for v in row]
    data = real_lzw(flat, code_size) if data is None else data
    return b"," + struct.pack("<HHHHB", x, y, w, h, flags) + (palette or b"") + bytes([code_size]) + blocks(data, block)


def files(rng):
    def colours(bits):
        return bytes(int(v) for v in rng.integers(0, 256, 3 << bits))

    for bits in range(1, 9):
        for w, h in ((7, 9), (16, 16), (1, 1), (3, 17)):
            for interlaced in (False, True):
                for where in ("global", "local", "both", "none"):
                    values = rng.integers(0, 1 << bits, (h, w)).tolist()
                    g = colours(bits) if where in ("global", "both") else None
                    l = colours(bits) if where in ("local", "both") else None
                    yield f"{bits} bits {w}x{h} interlaced {interlaced} palette {where}", screen(w, h, g) + frame(0, 0, values, max(bits, 2), l, interlaced) + b";"
    for fw, fh, x, y in ((4, 4, 0, 0), (4, 4, 3, 2), (8, 8, 0, 0), (12, 5, 0, 0), (5, 12, 0, 0), (12, 12, 0, 0), (4, 4, 6, 6), (4, 4, 20, 3), (8, 1, 0, 7), (1, 8, 7, 0)):
        for transparent in (None, 0, 2, 5, 200):
            for disposal in (0, 1, 2, 3):
                for background in (0, 3):
                    values = rng.integers(0, 8, (fh, fw)).tolist()
                    g = colours(3)
                    yield f"frame {fw}x{fh} at {x},{y} transparent {transparent} disposal {disposal} background {background}", screen(8, 8, g, background) + control(transparent, disposal) + frame(x, y, values, 3) + b";"
        values = rng.integers(0, 8, (fh, fw)).tolist()
        yield f"frame {fw}x{fh} at {x},{y} local", screen(8, 8, colours(3), 1) + frame(x, y, values, 3, colours(2)) + b";"
        yield f"frame {fw}x{fh} at {x},{y} no palette", screen(8, 8) + control(3) + frame(x, y, values, 3) + b";"
    values = rng.integers(0, 8, (8, 8)).tolist()
    flat = [v for row in values for v in row]
    g = colours(3)
    good = frame(0, 0, values, 3)
    head = screen(8, 8, g)
    identity = bytes(v for i in range(8) for v in (i, i, i))
    odd = {
        "two frames": head + good + frame(2, 2, values[:4], 3) + b";",
        "old version": screen(8, 8, g, version=b"87a") + good + b";",
        "comment": head + b"!\xfe\5hello\0" + good + b";",
        "empty comment": head + b"!\xfe\0" + good + b";",
        "application": head + b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0" + good + b";",
        "unknown extension": head + b"!\x77\3abc\2de\0" + good + b";",
        "text extension": head + b"!\1\x0c" + bytes(12) + b"\2hi\0" + good + b";",
        "empty extension": head + b"!\x77\0" + good + b";",
        "stray bytes": head + b"\0\0\1\2" + good + b";",
        "two controls": head + control(3) + control(None) + good + b";",
        "two transparent": head + control(3) + control(4) + good + b";",
        "control behind": head + good + control(3) + b";",
        "no end": head + good,
        "bytes behind": head + good + b";trailing",
        "no image": head + b";",
        "small blocks": head + frame(0, 0, values, 3, block=3) + b";",
        "no clear": head + frame(0, 0, values, 3, data=lzw(flat, 3, 1000)[1:]) + b";",
        "many clears": head + frame(0, 0, values, 3, data=lzw(flat, 3, 2)) + b";",
        "no end code": head + frame(0, 0, values, 3, data=lzw(flat, 3, end=False)) + b";",
        "more data": head + frame(0, 0, values, 3, data=lzw(flat + flat, 3)) + b";",
        "less data": head + frame(0, 0, values, 3, data=lzw(flat[:40], 3)) + b";",
        "less data, no end code": head + frame(0, 0, values, 3, data=lzw(flat[:40], 3, end=False)) + b";",
        "identity palette": screen(8, 8, identity) + good + b";",
        "identity local": head + frame(0, 0, values, 3, identity) + b";",
        "identity global and local": screen(8, 8, identity) + frame(0, 0, values, 3, g) + b";",
        "identity transparent": screen(8, 8, identity) + control(4) + good + b";",
        "indices beyond the palette": screen(8, 8, colours(1)) + good + b";",
        "screen 0x0": screen(0, 0, g) + good + b";",
        "screen 0x0 moved": screen(0, 0, g) + frame(2, 3, values, 3) + b";",
        "frame 0x0": head + b"," + bytes(9) + b"\3" + blocks(b"\x08\x01") + b";",
        "cut in the palette": head[:20],
        "cut before the image": head + b"!\xf9",
    }
    for size in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13):
        odd[f"codes of {size} bits"] = head + frame(0, 0, [[v & 1 for v in row] for row in values], size, data=lzw([v & 1 for v in flat], size, 1)) + b";"
    whole = odd["comment"]
    for cut in (1, 2, 3, 5, 10, 20, 30):
        odd[f"cut {cut}"] = whole[:-cut]
    for n in range(40):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(head) + 20, len(whole)))] ^= int(rng.integers(1, 256))
        odd[f"damaged {n}"] = bytes(damaged)
    yield from odd.items()
    large = [v for v in rng.integers(0, 256, 64 * 64)]
    yield "64x64 full table", screen(64, 64, colours(8)) + frame(0, 0, [large[i * 64 : i * 64 + 64] for i in range(64)], 8) + b";"
