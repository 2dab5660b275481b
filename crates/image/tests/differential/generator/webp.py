"""WebP files: lossy and lossless images of Pillow's encoder in containers of every kind."""

import io
import struct

from PIL import Image


def encode(image, **options):
    out = io.BytesIO()
    image.save(out, "WEBP", **options)
    return out.getvalue()


def chunks(data):
    out, rest = [], data[12:]
    while len(rest) >= 8:
        size = struct.unpack("<I", rest[4:8])[0]
        out.append((rest[:4], rest[8 : 8 + size]))
        rest = rest[8 + size + size % 2 :]
    return out


def container(parts):
    body = b"WEBP" + b"".join(n + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for n, d in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended(flags, w, h):
    return (b"VP8X", bytes([flags, 0, 0, 0]) + struct.pack("<I", w - 1)[:3] + struct.pack("<I", h - 1)[:3])


def smooth(rng, mode, size):
    w, h = size
    planes = []
    for _ in range(len(mode)):
        a, b, c = rng.uniform(-8, 8), rng.uniform(-8, 8), rng.uniform(60, 200)
        planes.append([[int(min(255, max(0, c + a * x + b * y + rng.uniform(-5, 5)))) for x in range(w)] for y in range(h)])
    image = Image.new(mode, size)
    image.putdata([tuple(p[y][x] for p in planes) for y in range(h) for x in range(w)])
    return image


ALPHA, EXIF, XMP, ICC, ANIMATED = 0x10, 0x08, 0x04, 0x20, 0x02
TAGS = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"


def files(rng):
    sizes = [(16, 16), (9, 13), (1, 1), (17, 3), (2, 31)]
    sources = {}
    for size in sizes:
        for mode in ("RGB", "RGBA"):
            image = smooth(rng, mode, size)
            for name, options in {"lossy": {"quality": 80}, "lossy low": {"quality": 20}, "lossless": {"lossless": True}, "exact": {"lossless": True, "exact": True}, "method 0": {"quality": 70, "method": 0}, "alpha 50": {"quality": 80, "alpha_quality": 50}}.items():
                data = encode(image, **options)
                sources[size, mode, name] = data
                yield f"{name} {mode} {size}", data
        palette = smooth(rng, "RGB", size).quantize(5)
        yield f"lossless palette {size}", encode(palette, lossless=True)
        image = smooth(rng, "RGBA", size)
        image.putalpha(image.getchannel("A").point(lambda v: 255 if v > 128 else 0))
        yield f"lossless masked {size}", encode(image, lossless=True, exact=True)
        yield f"lossy masked {size}", encode(image, quality=60)
    for (size, mode, name), data in sources.items():
        if size not in ((16, 16), (9, 13)) or name not in ("lossy", "exact"):
            continue
        parts = [c for c in chunks(data) if c[0] in (b"VP8 ", b"VP8L", b"ALPH")]
        w, h = size
        alpha = ALPHA if mode == "RGBA" else 0
        for flags in (0, alpha, EXIF, XMP, ICC, EXIF | XMP | ICC | alpha, 0xC1 | alpha, ALPHA):
            yield f"flags {flags:02x} {name} {mode} {size}", container([extended(flags, w, h), *parts])
        for chunk in (b"EXIF", b"Exif", b"exif", b"XMP ", b"ICCP", b"JUNK"):
            for flags in (alpha, alpha | EXIF | XMP):
                yield f"chunk {chunk.decode()} behind {flags:02x} {name} {mode} {size}", container([extended(flags, w, h), *parts, (chunk, TAGS)])
                yield f"chunk {chunk.decode()} before {flags:02x} {name} {mode} {size}", container([extended(flags, w, h), (chunk, TAGS), *parts])
            yield f"chunk {chunk.decode()} behind a simple file {name} {mode} {size}", container([*parts, (chunk, TAGS)])
        for prefix in (b"", b"Exif\0\0"):
            yield f"exif {len(prefix)} {name} {mode} {size}", container([extended(alpha | EXIF, w, h), *parts, (b"EXIF", prefix + TAGS)])
        for canvas in ((w + 3, h), (w, h + 5), (w - 1, h)):
            yield f"canvas {canvas} {name} {mode} {size}", container([extended(alpha, *canvas), *parts])
        yield f"bytes behind {name} {mode} {size}", container([extended(alpha, w, h), *parts]) + b"trailing"
        yield f"two images {name} {mode} {size}", container([extended(alpha, w, h), *parts, *parts])
        whole = container([extended(alpha, w, h), *parts])
        for cut in (1, 2, 9, 40):
            yield f"cut {cut} {name} {mode} {size}", whole[:-cut]
            shorter = whole[:-cut]
            yield f"cut {cut} stated {name} {mode} {size}", shorter[:4] + struct.pack("<I", len(shorter) - 8) + shorter[8:]
        for x, y, dispose, blend, flags in ((0, 0, 0, 0, alpha), (2, 4, 0, 0, alpha), (2, 4, 1, 1, alpha), (0, 0, 0, 1, 0), (4, 0, 0, 0, ALPHA), (4, 2, 0, 0, 0)):
            canvas = (w + 6, h + 4)
            head = struct.pack("<I", x // 2)[:3] + struct.pack("<I", y // 2)[:3] + struct.pack("<I", w - 1)[:3] + struct.pack("<I", h - 1)[:3] + struct.pack("<I", 100)[:3] + bytes([blend << 1 | dispose])
            frame = (b"ANMF", head + b"".join(n + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for n, d in parts))
            for background in (b"\0\0\0\0", b"\xff\x80\x20\xff"):
                yield f"animation at {x},{y} dispose {dispose} blend {blend} flags {flags:02x} background {background.hex()} {name} {mode} {size}", container([extended(flags | ANIMATED, *canvas), (b"ANIM", background + b"\0\0"), frame, frame])
            yield f"animation at {x},{y} without ANIM {flags:02x} {name} {mode} {size}", container([extended(flags | ANIMATED, *canvas), frame])
