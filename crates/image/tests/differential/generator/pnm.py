"""PBM, PGM and PPM files of every kind, maximum and form of header, written by hand, and those that Pillow writes."""

import io

import numpy as np
from PIL import Image

SIZES = [(13, 7), (8, 8), (1, 1), (5, 3), (16, 2)]
MAXIMA = [1, 2, 3, 15, 100, 127, 254, 255, 256, 300, 1000, 1023, 4095, 65534, 65535]


def data(kind, values, maximum, separator=b" "):
    """The values as text (`P1` to `P3`) or as bytes."""
    flat = [int(v) for v in values.reshape(-1)]
    if kind <= 3:
        return separator.join(str(v).encode() for v in flat)
    if kind == 4:
        return np.packbits(values.astype(np.uint8), axis=1).tobytes()
    return b"".join(v.to_bytes(1 if maximum < 256 else 2, "big") for v in flat)


def values_of(kind, w, h, limit, rng):
    return rng.integers(0, limit, (h, w, 3) if kind in (3, 6) else (h, w))


def whole(kind, w, h, maximum, content, form=b"P%d\n%d %d\n%s"):
    numbers = b"" if kind in (1, 4) else b"%d\n" % maximum
    return form % (kind, w, h, numbers) + content


FORMS = {
    "one line": b"P%d %d %d %s",
    "comments": b"P%d\n# made by hand\n%d %d\n# 7 7\r#\n%s",
    "comments behind numbers": b"P%d\n%d # the width\n%d # the height\n%s",
    "comments in numbers": b"P%d %d#\n %d#x\r 0%s",
    "whitespace": b"P%d\x0b\x0c \t%d\r\n\r\n%d\r%s",
    "zeros": b"P%d\n000%d 00%d\n00%s",
    "signs": b"P%d\n+%d +%d\n+%s",
    "underscores": b"P%d\n0_%d 0_%d\n0_%s",
    "comment at the magic": b"P%d# a\n%d %d\n%s",
    "no space": b"P%d%d %d\n%s",
    "long comment": b"P%d\n#" + b"x" * 200 + b"\n%d %d\n%s",
    "long number": b"P%d\n%011d %d\n%s",
    "ten digits": b"P%d\n%010d %d\n%s",
    "fraction": b"P%d\n%d.0 %d\n%s",
    "hexadecimal": b"P%d\n0x%d %d\n%s",
}


def files(rng):
    for w, h in SIZES:
        for kind in (1, 4):
            yield f"P{kind} {w}x{h}", whole(kind, w, h, 1, data(kind, values_of(kind, w, h, 2, rng), 1))
        for kind in (2, 3, 5, 6):
            for maximum in MAXIMA:
                values = values_of(kind, w, h, maximum + 1, rng)
                yield f"P{kind} {w}x{h} of {maximum}", whole(kind, w, h, maximum, data(kind, values, maximum))
            for maximum in (3, 100, 300, 40_000):
                values = values_of(kind, w, h, 256 if maximum < 256 else 65_536, rng)
                yield f"P{kind} {w}x{h} above {maximum}", whole(kind, w, h, maximum, data(kind, values, maximum))
            small = values_of(kind, w, h, 300, rng)
            yield f"P{kind} {w}x{h} dark of 65535", whole(kind, w, h, 65_535, data(kind, small, 65_535))
    for kind in (1, 2, 3, 4, 5, 6):
        for maximum in (255, 1000):
            w, h = SIZES[0]
            limit = 2 if kind in (1, 4) else maximum + 1
            content = data(kind, values_of(kind, w, h, limit, rng), maximum)
            for name, form in FORMS.items():
                yield f"header {name} P{kind} of {maximum}", whole(kind, w, h, maximum, content, form)
            for cut in (1, 2, 3, 6, len(content) // 2, len(content)):
                yield f"cut {cut} P{kind} of {maximum}", whole(kind, w, h, maximum, content[:-cut])
            for tail in (b"\n", b"0", b" 0 1", b"#", b"\nP5 1 1 255 a", bytes(40), b"\n" + b"x" * 12):
                yield f"tail {tail[:8]} P{kind} of {maximum}", whole(kind, w, h, maximum, content + tail)
        for maximum in (0, -1, 65_536, 100_000):
            yield f"maximum {maximum} P{kind}", whole(kind, 3, 2, maximum, data(kind, values_of(kind, 3, 2, 2, rng), 255))
        for w, h in ((0, 2), (2, 0), (-3, 2), (3, -2)):
            yield f"size {w}x{h} P{kind}", whole(kind, w, h, 255, bytes(100))
    for kind, limit in ((1, 2), (2, 256), (3, 256)):
        values = values_of(kind, 7, 5, limit, rng)
        for separator in (b"\n", b"\t\r\n", b"\x0b", b" # a comment\n", b" #7 8\r", b"#\n ", b"", b",", b"\0"):
            yield f"separator {separator} P{kind}", whole(kind, 7, 5, 255, data(kind, values, 255, separator))
        for token in (b"-1", b"-0", b"+1", b"01", b"0000000001", b"00000000001", b"1_0", b"1__0", b"1.0", b"x", b"256", b"2", b"#\n1", b"1#\n1"):
            yield f"token {token} P{kind}", whole(kind, 3, 1, 255, b"0 1 0 1 0 0 " + token + b" 1 0") if kind == 3 else whole(kind, 3, 1, 255, b"0 " + token + b" 1")
    for magic in (b"P0", b"P7", b"P9", b"PF", b"p6", b"P 6", b"P66"):
        yield f"magic {magic}", magic + b"\n2 2\n255\n" + bytes(48)
    for mode in ("1", "L", "I", "I;16", "RGB", "RGBA"):
        for w, h in SIZES:
            values = rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
            image = Image.fromarray(values, "RGBA")
            grey = image.convert("L")
            image = {"I": grey.convert("I"), "I;16": grey.convert("I").convert("I;16")}.get(mode) or image.convert(mode)
            out = io.BytesIO()
            image.save(out, "PPM")
            yield f"saved {mode} {w}x{h}", out.getvalue()
