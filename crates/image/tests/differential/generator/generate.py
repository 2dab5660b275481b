#!/usr/bin/env python3
"""Writes the files of the differential test, and what Pillow makes of them, to `cases.bin` beside the generator's directory.

    python3 generate.py            # needs Pillow and numpy; expectations are those of this Pillow

The file is one zlib stream of records, whose integers are little-endian:

    name            u8 length, bytes
    file            u32 length, bytes
    outcomes        two: with alpha dropped and as stored; and upright over white (only if the first byte of the second is not 3)

An outcome is u8: 0 decoded, 1 refused, 2 decoded with a warning, 3 not recorded. If it is decoded, there follow u16 width, u16 height,
u8 whether a pixel is transparent (0 if not known), and the pixels: u32 CRC-32 of RGB for lossless formats, RGB itself for lossy ones.
"""

import io
import os
import struct
import sys
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

import bmp
import gif
import jpeg
import png
import pnm
import tiff
import webp

MODULES = {"jpeg": jpeg, "png": png, "gif": gif, "bmp": bmp, "tiff": tiff, "webp": webp, "pnm": pnm}


def is_lossy(module, data):
    return module == "jpeg" or (module == "webp" and b"VP8 " in data)


def published(data):
    return Image.open(io.BytesIO(data)).convert("RGB"), False


def upright_over_white(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image).convert("RGBA")
    alpha = np.asarray(image.getchannel("A")).min() < 255
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), alpha


def outcome(read, data, lossy):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            image, alpha = read(data)
        except Exception:
            return b"\1"
    pixels = image.tobytes()
    kept = pixels if lossy else struct.pack("<I", zlib.crc32(pixels))
    return struct.pack("<BHHB", 2 if warned else 0, *image.size, int(alpha)) + kept


def has_second(module, name):
    """Whether the file is read over white too. Keys of grey of a few bits and keys out of range are as in the standard, not as in Pillow."""
    if module in ("jpeg", "pnm"):
        return False
    if module == "png":
        return not ("key" in name and ("wide" in name or "colour 0" in name)) and "too many" not in name and "colour 2 depth 16" not in name and "eXIf bad" not in name
    return module != "tiff" or "extra" in name or "orientation" in name


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    records, counts = [], {}
    for module, source in MODULES.items():
        seen = set()
        for name, data in source.files(np.random.default_rng(7)):
            if data in seen:
                continue
            seen.add(data)
            full = f"{module} {name}".encode()[:255]
            lossy = is_lossy(module, data)
            second = outcome(upright_over_white, data, lossy) if has_second(module, name) else b"\3"
            first = outcome(published, data, lossy)
            # Recorded only where it says more.
            if second != b"\3" and second[0] != 1 and first[1:] == second[1:]:
                second = b"\3"
            records.append(bytes([len(full)]) + full + struct.pack("<I", len(data)) + data + first + second)
            counts[module] = counts.get(module, 0) + 1
    packed = zlib.compress(b"".join(records), 9)
    with open(os.path.join(here, "..", "cases.bin"), "wb") as f:
        f.write(packed)
    print(counts, sum(counts.values()), "files,", len(packed), "bytes")


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
