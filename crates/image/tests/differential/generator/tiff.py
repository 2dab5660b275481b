"""TIFF files of every organisation, written by hand: strips, tiles, planes, predictors, compressions and kinds of pixels."""

import io
import itertools
import struct
import zlib

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, LONG8 = 1, 2, 3, 4, 16
SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, LONG8: 8, 6: 1, 8: 2, 9: 4, 13: 4}


def pack_bits(data):
    out = b""
    for i in range(0, len(data), 100):
        part = data[i : i + 100]
        if len(set(part)) == 1:
            out += bytes([257 - len(part) if len(part) > 1 else 0, part[0]])
        else:
            out += bytes([len(part) - 1]) + part
    return out


def lzw(data):
    out, count, width = 0, 0, 9

    def emit(code):
        nonlocal out, count
        out = out << width | code
        count += width

    emit(256)
    table = {bytes([i]): i for i in range(256)}
    n, prefix = 258, b""
    for v in data:
        joined = prefix + bytes([v])
        if joined in table:
            prefix = joined
            continue
        emit(table[prefix])
        table[joined] = n
        n += 1
        width = 12 if n > 2046 else 11 if n > 1022 else 10 if n > 510 else 9
        prefix = joined[-1:]
    if prefix:
        emit(table[prefix])
    emit(257)
    size = -(-count // 8)
    return (out << (size * 8 - count)).to_bytes(size, "big")


def zstd(data):
    """One frame of one uncompressed block."""
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + struct.pack("<I", len(data) << 3 | 1)[:3] + data


COMPRESSIONS = {1: bytes, 5: lzw, 8: lambda d: zlib.compress(d, 9), 32946: lambda d: zlib.compress(d, 1), 32773: pack_bits, 50000: zstd}


def write(tags, chunks, big=False, large=False, tiles=False, prefix=None, tail=b"", sizes=True, offsets_kind=LONG):
    """A file of one directory behind the chunks. `tags`: number to (type, values)."""
    e = ">" if big else "<"
    head = 16 if large else 8
    data, places = b"", []
    for c in chunks:
        places.append(head + len(data))
        data += c + bytes(len(c) % 2)
    tags = dict(tags)
    tags[324 if tiles else 273] = (offsets_kind, places)
    if sizes:
        tags[325 if tiles else 279] = (LONG, [len(c) for c in chunks])
    letters = {1: "B", 2: "B", 3: "H", 4: "I", 16: "Q", 6: "b", 8: "h", 9: "i", 13: "I"}
    start = head + len(data)
    word, count = ("Q", "Q") if large else ("I", "H")
    size = struct.calcsize("<" + word)
    extra, entries = b"", b""
    base = start + struct.calcsize("<" + count) + len(tags) * (4 + 2 * size) + size
    for tag in sorted(tags):
        kind, values = tags[tag]
        raw = struct.pack(e + letters[kind] * len(values), *values)
        entries += struct.pack(e + "HH" + word, tag, kind, len(values))
        if len(raw) <= size:
            entries += raw + bytes(size - len(raw))
        else:
            entries += struct.pack(e + word, base + len(extra))
            extra += raw + bytes(len(raw) % 2)
    directory = struct.pack(e + count, len(tags)) + entries + struct.pack(e + word, 0) + extra
    magic = (b"MM" if big else b"II") + struct.pack(e + "H", 43 if large else 42)
    header = (prefix or magic) + (struct.pack(e + "HHQ", 8, 0, start) if large else struct.pack(e + "I", start))
    return header + data + directory + tail


def samples(array, bits, big):
    """Bytes of an array [rows, values] of unsigned numbers; rows begin at bytes."""
    if bits in (8, 16, 32):
        return array.astype({8: "u1", 16: ">u2" if big else "<u2", 32: ">u4" if big else "<u4"}[bits]).tobytes()
    out = b""
    for row in array:
        text = "".join(f"{int(v):0{bits}b}" for v in row)
        text += "0" * (-len(text) % 8)
        out += int(text, 2).to_bytes(len(text) // 8, "big") if text else b""
    return out


def differences(array, bits, step):
    out = array.astype(np.int64).copy()
    out[:, step:] -= array.astype(np.int64)[:, :-step] if step else 0
    return out % (1 << bits)


def float_differences(array, big, step):
    raw = array.astype("<f4").view("<u4").reshape(array.shape)
    planes = [((raw >> s) & 255).astype(np.uint8) for s in (24, 16, 8, 0)]
    line = np.concatenate(planes, axis=1).astype(int)
    out = line.copy()
    out[:, step:] -= line[:, :-step]
    return (out % 256).astype(np.uint8).tobytes()


def reverse(data):
    return bytes(int(f"{b:08b}"[::-1], 2) for b in data)


def image(pixels, bits, photometric, big=False, compression=1, predictor=1, planar=1, tile=None, rows=None, extra=(), fill=1, form=None, more=None, floats=False, **options):
    """`pixels`: array [h, w, samples]."""
    h, w, n = pixels.shape
    tags = {256: (SHORT, [w]), 257: (SHORT, [h]), 258: (SHORT, [bits] * n), 259: (SHORT, [compression]), 262: (SHORT, [photometric]), 277: (SHORT, [n])}
    if planar != 1:
        tags[284] = (SHORT, [planar])
    if extra:
        tags[338] = (SHORT, list(extra))
    if fill != 1:
        tags[266] = (SHORT, [fill])
    if predictor != 1:
        tags[317] = (SHORT, [predictor])
    if form is not None:
        tags[339] = (SHORT, [form] * n)
    if tile:
        tags[322], tags[323] = (SHORT, [tile[0]]), (SHORT, [tile[1]])
    else:
        rows = rows or h
        tags[278] = (SHORT, [rows])
    tags.update(more or {})
    chunks = []
    planes = [pixels[:, :, i : i + 1] for i in range(n)] if planar == 2 else [pixels]
    for plane in planes:
        step = plane.shape[2]
        if tile:
            tw, th = tile
            parts = []
            for y in range(0, h, th):
                for x in range(0, w, tw):
                    part = np.zeros((th, tw, step), pixels.dtype)
                    cut = plane[y : y + th, x : x + tw]
                    part[: cut.shape[0], : cut.shape[1]] = cut
                    parts.append(part)
        else:
            parts = [plane[y : y + rows] for y in range(0, h, rows)]
        for part in parts:
            flat = part.reshape(part.shape[0], -1)
            if predictor == 3:
                data = float_differences(flat, big, step)
            elif floats:
                data = flat.astype(">f4" if big else "<f4").tobytes()
            else:
                flat = flat.astype(np.int64) % (1 << bits)
                if predictor == 2:
                    flat = differences(flat, bits, step)
                data = samples(flat, bits, big)
            data = COMPRESSIONS[compression](data)
            chunks.append(reverse(data) if fill == 2 else data)
    return write(tags, chunks, big, tiles=bool(tile), **options)


def files(rng):
    sizes = [(13, 9), (8, 8), (1, 1), (17, 5), (16, 16)]

    def noise(w, h, n, bits):
        return rng.integers(0, 1 << bits, (h, w, n))

    kinds = [(0, 1, 1, (), None), (1, 1, 1, (), None), (0, 2, 1, (), None), (1, 2, 1, (), None), (0, 4, 1, (), None), (1, 4, 1, (), None), (0, 8, 1, (), None), (1, 8, 1, (), None), (1, 8, 1, (), 2),
             (1, 12, 1, (), None), (0, 16, 1, (), None), (1, 16, 1, (), None), (1, 16, 1, (), 2), (1, 32, 1, (), None), (1, 32, 1, (), 2), (1, 8, 2, (0,), None), (1, 8, 2, (1,), None), (1, 8, 2, (2,), None),
             (2, 8, 3, (), None), (2, 8, 4, (), None), (2, 8, 4, (0,), None), (2, 8, 4, (1,), None), (2, 8, 4, (2,), None), (2, 8, 4, (999,), None), (2, 8, 5, (0, 0), None), (2, 8, 5, (1, 0), None), (2, 8, 5, (2, 0), None), (2, 8, 6, (0, 0, 0), None), (2, 8, 6, (2, 0, 0), None),
             (2, 16, 3, (), None), (2, 16, 4, (), None), (2, 16, 4, (0,), None), (2, 16, 4, (1,), None), (2, 16, 4, (2,), None), (5, 8, 4, (), None), (5, 8, 5, (0,), None), (5, 8, 6, (0, 0), None), (5, 16, 4, (), None), (6, 8, 1, (), None), (6, 8, 3, (), None),
             (2, 8, 2, (), None), (2, 4, 3, (), None), (1, 8, 3, (), None), (3, 16, 1, (), None), (2, 32, 3, (), None), (4, 1, 1, (), None), (8, 16, 3, (), None), (1, 8, 1, (), 3), (2, 8, 3, (), 2)]
    for (photometric, bits, n, extra, form), big in itertools.product(kinds, (False, True)):
        name = f"photometric {photometric} {n}x{bits} extra {extra} format {form} big {big}"
        for k, (w, h) in enumerate(sizes[:4]):
            p = noise(w, h, n, bits)
            if extra[:1] == (1,):
                p[..., : n - len(extra)] = p[..., : n - len(extra)] * p[..., -len(extra) : n - len(extra) + 1] // ((1 << bits) - 1)
            if bits > 8 and n == 1:
                p[0, :, 0] = rng.integers(0, 300, w)
            yield f"{name} {w}x{h}", image(p, bits, photometric, big, extra=extra, form=form)
            if k == 0:
                for compression in (5, 8, 32773, 50000) if photometric != 6 else ():
                    yield f"{name} compression {compression}", image(p, bits, photometric, big, compression, extra=extra, form=form, rows=4)
                yield f"{name} strips", image(p, bits, photometric, big, extra=extra, form=form, rows=4)
                yield f"{name} tiles", image(p, bits, photometric, big, extra=extra, form=form, tile=(16, 16))
                yield f"{name} tiles deflated", image(p, bits, photometric, big, 8, extra=extra, form=form, tile=(16, 16))
                if bits in (8, 16, 32):
                    yield f"{name} predictor lzw", image(p, bits, photometric, big, 5, 2, extra=extra, form=form, rows=4)
                    yield f"{name} predictor deflate tiles", image(p, bits, photometric, big, 8, 2, extra=extra, form=form, tile=(16, 16))
                if bits <= 8:
                    yield f"{name} fill order", image(p, bits, photometric, big, extra=extra, form=form, fill=2)
                    yield f"{name} fill order packed", image(p, bits, photometric, big, 32773, extra=extra, form=form, fill=2)
                if n > 1:
                    yield f"{name} planes deflated", image(p, bits, photometric, big, 8, planar=2, extra=extra, form=form, rows=4)
                    yield f"{name} planes deflated tiles", image(p, bits, photometric, big, 8, 2 if bits > 7 else 1, planar=2, extra=extra, form=form, tile=(16, 16))
                    yield f"{name} planes", image(p, bits, photometric, big, planar=2, extra=extra, form=form, rows=4)
    for (h, v), big, compression in itertools.product(((1, 1), (2, 1), (2, 2), (1, 2), (4, 2), (4, 4), (4, 1)), (False, True), (5, 8, 32773, 50000)):
        for w, hh in sizes[:4]:
            units = rng.integers(0, 256, (-(-hh // v), -(-w // h), h * v + 2)).astype(np.uint8)
            tags = {256: (SHORT, [w]), 257: (SHORT, [hh]), 258: (SHORT, [8, 8, 8]), 259: (SHORT, [compression]), 262: (SHORT, [6]), 277: (SHORT, [3]), 278: (SHORT, [v * 2]), 530: (SHORT, [h, v])}
            yield f"subsampled {h}x{v} big {big} compression {compression} {w}x{hh}", write(tags, [COMPRESSIONS[compression](units[i : i + 2].tobytes()) for i in range(0, len(units), 2)], big)
    for bits, big in itertools.product((1, 2, 4, 8), (False, True)):
        colours = {320: (SHORT, [int(v) for v in rng.integers(0, 65536, 3 << bits)])}
        for w, h in sizes[:4]:
            for compression in (1, 5, 32773):
                for fill in (1, 2):
                    p = noise(w, h, 1, bits)
                    yield f"palette {bits} bits big {big} {w}x{h} compression {compression} fill {fill}", image(p, bits, 3, big, compression, fill=fill, more=colours)
        if bits == 8:
            for extra in (0, 1, 2):
                yield f"palette extra {extra} big {big}", image(noise(9, 7, 2, 8), 8, 3, big, extra=(extra,), more=colours)
        yield f"palette {bits} bits no colours big {big}", image(noise(9, 7, 1, bits), bits, 3, big)
        yield f"palette {bits} bits few colours big {big}", image(noise(9, 7, 1, bits), bits, 3, big, more={320: (SHORT, [1000, 2000, 3000])})
    for photometric, big in itertools.product((0, 1), (False, True)):
        values = rng.uniform(-40, 300, (9, 13, 1)).astype(np.float32)
        for compression, predictor in ((1, 1), (5, 1), (8, 3), (5, 3), (50000, 3)):
            yield f"float {photometric} big {big} compression {compression} predictor {predictor}", image(values, 32, photometric, big, compression, predictor, form=3, floats=True, rows=4)
        yield f"float tiles {photometric} big {big}", image(values, 32, photometric, big, 8, 3, form=3, floats=True, tile=(16, 16))
    for size, mode in itertools.product(sizes, ("1", "L", "RGB", "RGBA", "CMYK", "LA", "P", "I;16", "F", "I", "YCbCr", "LAB")):
        w, h = size
        if mode == "F":
            source = Image.fromarray(rng.uniform(-20, 290, (h, w)).astype(np.float32))
        elif mode == "I":
            source = Image.fromarray(rng.integers(-20, 290, (h, w)).astype(np.int32))
        elif mode == "I;16":
            source = Image.fromarray(rng.integers(0, 500, (h, w)).astype(np.uint16))
        elif mode == "1":
            source = Image.fromarray((rng.integers(0, 2, (h, w)) * 255).astype(np.uint8)).convert("1")
        else:
            n = len(Image.new(mode, (1, 1)).getbands())
            source = Image.frombytes(mode, size, rng.integers(0, 256, (h, w, n)).astype(np.uint8).tobytes()) if mode != "P" else Image.fromarray(rng.integers(0, 256, (h, w, 3)).astype(np.uint8)).quantize(20)
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "jpeg", "group3", "group4", "tiff_ccitt", "webp", "lzma"):
            if compression in ("group3", "group4", "tiff_ccitt") and mode != "1":
                continue
            out = io.BytesIO()
            try:
                source.save(out, "TIFF", compression=compression)
            except Exception:
                continue
            yield f"saved {mode} {size} {compression}", out.getvalue()
    rgb = noise(9, 7, 3, 8)
    for orientation in range(0, 10):
        yield f"orientation {orientation}", image(rgb, 8, 2, more={274: (SHORT, [orientation])})
        yield f"orientation {orientation} lzw", image(rgb, 8, 2, compression=5, more={274: (SHORT, [orientation])})
    for name, options in {
        "large": {"large": True}, "large big": {"large": True, "big": True}, "wrong magic": {"prefix": b"II\0*"}, "wrong magic big": {"prefix": b"MM*\0", "big": True},
        "bytes behind": {"tail": b"trailing"}, "no sizes": {"sizes": False}, "offsets of 2 bytes": {"offsets_kind": SHORT}, "offsets of 13": {"offsets_kind": 13},
    }.items():
        yield name, image(rgb, 8, 2, rows=3, **options)
        yield f"{name} deflate", image(rgb, 8, 2, compression=8, rows=3, **options)
    for tag in (256, 257, 258, 259, 262, 277, 278):
        whole = image(rgb, 8, 2)
        tags = {256: (SHORT, [9]), 257: (SHORT, [7]), 258: (SHORT, [8, 8, 8]), 259: (SHORT, [1]), 262: (SHORT, [2]), 277: (SHORT, [3]), 278: (SHORT, [7])}
        del tags[tag]
        yield f"without {tag}", write(tags, [rgb.astype(np.uint8).tobytes()])
    tags = {256: (SHORT, [9]), 257: (SHORT, [7]), 258: (SHORT, [8, 8, 8]), 262: (SHORT, [2]), 277: (SHORT, [3])}
    flat = rgb.astype(np.uint8).tobytes()
    for name, more in {"bits once": {258: (SHORT, [8])}, "four bits": {258: (SHORT, [8, 8, 8, 8])}, "width of 4 bytes": {256: (LONG, [9])}, "width of 1 byte": {256: (BYTE, [9])}, "rows 0": {278: (SHORT, [0])}, "rows 1000": {278: (LONG, [100000])}, "rows max": {278: (LONG, [0xFFFFFFFF])},
                       "planar 3": {284: (SHORT, [3])}, "format 4": {339: (SHORT, [4])}, "formats differ": {339: (SHORT, [1, 1, 2])}, "predictor raw": {317: (SHORT, [2])}, "photo": {0xBC01: (BYTE, [1])}, "compression 99": {259: (SHORT, [99])}, "compression 6": {259: (SHORT, [6])}, "seven samples": {277: (SHORT, [7])}}.items():
        yield f"odd {name}", write({**tags, **more}, [flat])
    yield "two strips of the whole", write({**tags, 278: (SHORT, [7])}, [bytes(189), flat])
    yield "too few strips", write({**tags, 278: (SHORT, [2])}, [flat[:54], flat[54:108]])
    yield "too few strips deflate", write({**tags, 278: (SHORT, [2]), 259: (SHORT, [8])}, [zlib.compress(flat[:54]), zlib.compress(flat[54:108])])
    whole = image(rgb, 8, 2)
    for cut in (1, 2, 50, 100, 150, 200, 250, 300):
        if cut < len(whole):
            yield f"cut {cut}", whole[:-cut]
    moved = write({**tags, 278: (SHORT, [7])}, [flat])
    yield "strip beyond the end", moved.replace(struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 1, 250))
    for compression in (5, 8, 32773, 50000):
        whole = image(rgb, 8, 2, compression=compression)
        for n in range(8):
            damaged = bytearray(whole)
            damaged[int(rng.integers(8, 150))] ^= int(rng.integers(1, 256))
            yield f"damaged {compression} {n}", bytes(damaged)
