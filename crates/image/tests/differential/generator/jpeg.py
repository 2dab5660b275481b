"""JPEG files of every layout, written by hand: any sampling factors, scans, tables and markers."""

import itertools
import math
import struct

import numpy as np

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
BASIS = np.array([[math.sqrt((1 if u else 0.5) / 4) * math.cos((2 * x + 1) * u * math.pi / 16) for x in range(8)] for u in range(8)])
QUANTISATION = [8 + 2 * i for i in range(64)]
DC = ([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], list(range(12)))
DC_CHROMA = ([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], list(range(12)))
AC = ([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D], bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aa"
    "b2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"))
AC_CHROMA = ([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], bytes.fromhex(
    "0001020311040521310612415107617113223281081442 91a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
    .replace(" ", "") +
    "434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aa"
    "b2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"))
# A table with a code for every symbol, for progressive scans.
ANY = ([0] * 7 + [254, 2] + [0] * 7, list(range(256)))


def codes(table):
    counts, symbols = table
    out, code, i = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            out.setdefault(symbols[i], (code, length))
            code += 1
            i += 1
        code <<= 1
    return out


class Bits:
    def __init__(self):
        self.value, self.count, self.out = 0, 0, bytearray()

    def put(self, value, count):
        if count:
            self.value, self.count = (self.value << count) | (value & ((1 << count) - 1)), self.count + count
        while self.count >= 8:
            self.count -= 8
            byte = (self.value >> self.count) & 255
            self.out += bytes([byte, 0]) if byte == 255 else bytes([byte])

    def flush(self):
        if self.count:
            self.put((1 << (8 - self.count)) - 1, 8 - self.count)
        self.value = 0


def segment(marker, content):
    return bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content


def magnitude(v):
    n = abs(v).bit_length()
    return n, v if v >= 0 else v + (1 << n) - 1


class Jpeg:
    """Planes of samples, one per component, transformed and quantised; then written in any order."""

    def __init__(self, size, factors, rng, components=None):
        self.size, self.factors = size, factors
        self.hmax, self.vmax = max(h for h, _ in factors), max(v for _, v in factors)
        width, height = size
        self.blocks, self.real = [], []
        for i, (h, v) in enumerate(factors):
            columns = -(-width * h // (8 * self.hmax))
            rows = -(-height * v // (8 * self.vmax))
            self.real.append((columns, rows))
            pc, pr = -(-columns // h) * h, -(-rows // v) * v
            y, x = np.mgrid[0 : pr * 8, 0 : pc * 8]
            a, b, c = rng.uniform(-9, 9), rng.uniform(-9, 9), rng.uniform(40, 210)
            plane = np.clip(c + a * x * self.hmax / h / 2 + b * y * self.vmax / v / 2 + rng.uniform(-12, 12, x.shape), 0, 255) - 128
            blocks = plane.reshape(pr, 8, pc, 8).transpose(0, 2, 1, 3)
            coefficients = np.einsum("uy,rcyx,vx->rcuv", BASIS, blocks, BASIS).reshape(pr, pc, 64)
            q = np.zeros(64)
            q[ZIGZAG] = QUANTISATION
            self.blocks.append(np.round(coefficients / q).astype(int)[:, :, ZIGZAG])

    def units(self, scan):
        """The blocks of a scan, MCU by MCU: lists of (component, row, column)."""
        if len(scan) == 1:
            columns, rows = self.real[scan[0]]
            return [[(scan[0], r, c)] for r in range(rows) for c in range(columns)]
        mcus = (-(-self.size[0] // (8 * self.hmax)), -(-self.size[1] // (8 * self.vmax)))
        return [
            [(i, my * self.factors[i][1] + v, mx * self.factors[i][0] + h) for i in scan for v in range(self.factors[i][1]) for h in range(self.factors[i][0])]
            for my in range(mcus[1])
            for mx in range(mcus[0])
        ]

    def sequential(self, scan, tables, restart=0):
        bits, last, out = Bits(), {}, b""
        for n, unit in enumerate(self.units(scan)):
            if restart and n and n % restart == 0:
                bits.flush()
                bits.out += bytes([255, 0xD0 + (n // restart - 1) % 8])
                last = {}
            for i, r, c in unit:
                block = self.blocks[i][r, c]
                dc, ac = tables[i]
                size, value = magnitude(int(block[0]) - last.get(i, 0))
                last[i] = int(block[0])
                bits.put(*dc[size])
                bits.put(value, size)
                run = 0
                nonzero = [k for k in range(1, 64) if block[k]]
                for k in range(1, (nonzero[-1] if nonzero else 0) + 1):
                    if not block[k]:
                        run += 1
                        continue
                    while run > 15:
                        bits.put(*ac[0xF0])
                        run -= 16
                    size, value = magnitude(int(block[k]))
                    bits.put(*ac[run << 4 | size])
                    bits.put(value, size)
                    run = 0
                if not nonzero or nonzero[-1] < 63:
                    bits.put(*ac[0])
        bits.flush()
        return bytes(bits.out)

    def progressive(self, scan, first, last, high, low, table, restart=0):
        bits, dc_last = Bits(), {}
        state = {"run": 0, "pending": []}

        def point(v):
            return -(-v >> low) if v < 0 else v >> low

        def end_run():
            if state["run"]:
                n = state["run"].bit_length() - 1
                bits.put(*table[n << 4])
                bits.put(state["run"] - (1 << n), n)
                state["run"] = 0
            for bit in state["pending"]:
                bits.put(bit, 1)
            state["pending"] = []

        for n, unit in enumerate(self.units(scan)):
            if restart and n and n % restart == 0:
                end_run()
                bits.flush()
                bits.out += bytes([255, 0xD0 + (n // restart - 1) % 8])
                dc_last = {}
            for i, r, c in unit:
                block = [int(v) for v in self.blocks[i][r, c]]
                if first == 0:
                    if high:
                        bits.put(block[0] >> low & 1, 1)
                        continue
                    value = block[0] >> low
                    size, extra = magnitude(value - dc_last.get(i, 0))
                    dc_last[i] = value
                    bits.put(*table[size])
                    bits.put(extra, size)
                    continue
                band = [(-(-v >> low) if v < 0 else v >> low) for v in block[first : last + 1]]
                if not high:
                    nonzero = [k for k, v in enumerate(band) if v]
                    run = 0
                    if nonzero:
                        end_run()
                    for v in band[: nonzero[-1] + 1 if nonzero else 0]:
                        if not v:
                            run += 1
                            continue
                        while run > 15:
                            bits.put(*table[0xF0])
                            run -= 16
                        size, extra = magnitude(v)
                        bits.put(*table[run << 4 | size])
                        bits.put(extra, size)
                        run = 0
                    if not nonzero or nonzero[-1] < last - first:
                        state["run"] += 1
                        if state["run"] == 0x7FFF:
                            end_run()
                    continue
                new = [k for k, v in enumerate(band) if abs(v) == 1]
                correction, run = [], 0
                for k, v in enumerate(band):
                    if not v:
                        run += 1
                    if abs(v) > 1:
                        correction.append(abs(v) & 1)
                        continue
                    if not v:
                        while run > 15 and new and k <= new[-1]:
                            end_run()
                            bits.put(*table[0xF0])
                            for bit in correction:
                                bits.put(bit, 1)
                            correction, run = [], run - 16
                        continue
                    end_run()
                    bits.put(*table[run << 4 | 1])
                    bits.put(int(v > 0), 1)
                    for bit in correction:
                        bits.put(bit, 1)
                    correction, run = [], 0
                if run or correction:
                    state["run"] += 1
                    state["pending"] += correction
                    if state["run"] == 0x7FFF or len(state["pending"]) > 900:
                        end_run()
        end_run()
        bits.flush()
        return bytes(bits.out)


def dqt(index=0, wide=False):
    values = struct.pack(">64H", *QUANTISATION) if wide else bytes(QUANTISATION)
    return segment(0xDB, bytes([index | (16 if wide else 0)]) + values)


def dht(kind, table):
    return segment(0xC4, bytes([kind]) + bytes(table[0]) + bytes(table[1]))


TABLES = [dht(0x00, DC), dht(0x10, AC), dht(0x01, DC_CHROMA), dht(0x11, AC_CHROMA)]
JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def sof(marker, jpeg, ids, precision=8, tables=None):
    w, h = jpeg.size
    out = struct.pack(">BHHB", precision, h, w, len(ids))
    for n, (i, (hs, vs)) in enumerate(zip(ids, jpeg.factors)):
        out += bytes([i, hs << 4 | vs, tables[n] if tables else 0])
    return segment(marker, out)


def sos(ids, tables, parameters=(0, 63, 0)):
    return segment(0xDA, bytes([len(ids)]) + b"".join(bytes(p) for p in zip(ids, tables)) + bytes(parameters))


def baseline(jpeg, ids=None, scans=None, head=(JFIF,), marker=0xC0, restart=0, huffman=TABLES, between=(), tail=b"", order=None, wide=False, ending=b"\xff\xd9"):
    """A sequential file. `scans`: lists of components; `between`: segments before each scan but the first."""
    count = len(jpeg.factors)
    ids = ids or list(range(1, count + 1))
    scans = scans or [list(range(count))]
    coded = [(codes(DC), codes(AC))] + [(codes(DC_CHROMA), codes(AC_CHROMA))] * (count - 1)
    selectors = [0x00] + [0x11] * (count - 1)
    parts = {"head": b"".join(head), "dqt": dqt(wide=wide), "sof": sof(marker, jpeg, ids), "dht": b"".join(huffman), "dri": segment(0xDD, struct.pack(">H", restart)) if restart else b""}
    out = b"\xff\xd8" + b"".join(parts[p] for p in order or ("head", "dqt", "sof", "dht", "dri"))
    for n, scan in enumerate(scans):
        if n:
            out += b"".join(between)
        out += sos([ids[i] for i in scan], [selectors[i] for i in scan])
        out += jpeg.sequential(scan, coded, restart)
    return out + tail + ending


def progressive(jpeg, script, ids=None, head=(JFIF,), restart=0):
    count = len(jpeg.factors)
    ids = ids or list(range(1, count + 1))
    out = b"\xff\xd8" + b"".join(head) + dqt() + sof(0xC2, jpeg, ids) + dht(0x00, DC) + dht(0x10, ANY)
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))
    for scan, first, last, high, low in script:
        table = codes(DC) if first == 0 else codes(ANY)
        out += sos([ids[i] for i in scan], [0] * len(scan), (first, last, high << 4 | low))
        out += jpeg.progressive(scan, first, last, high, low, table, restart)
    return out + b"\xff\xd9"


def scripts(count):
    """Scan scripts of progressive files."""
    everything = list(range(count))
    single = [[i] for i in everything]
    yield "plain", [(everything, 0, 0, 0, 0)] + [(s, 1, 63, 0, 0) for s in single]
    yield "bands", [(everything, 0, 0, 0, 0)] + [(s, a, b, 0, 0) for a, b in ((1, 5), (6, 20), (21, 63)) for s in single]
    yield "refined", [(everything, 0, 0, 0, 1)] + [(s, 1, 63, 0, 2) for s in single] + [(everything, 0, 0, 1, 0)] + [(s, 1, 63, h, h - 1) for h in (2, 1) for s in single]
    yield "dc apart", [(s, 0, 0, 0, 1) for s in single] + [(s, 1, 9, 0, 1) for s in reversed(single)] + [(s, 10, 63, 0, 1) for s in single] + [(s, 0, 0, 1, 0) for s in single] + [(s, 1, 63, 1, 0) for s in single]


def layouts():
    """All sampling factors of three components with at most ten blocks per MCU, the most usual first."""
    pairs = list(itertools.product((1, 2, 3, 4), repeat=2))
    usual = [((2, 2), (1, 1), (1, 1)), ((2, 1), (1, 1), (1, 1)), ((1, 2), (1, 1), (1, 1)), ((1, 1), (1, 1), (1, 1))]
    rest = [(y, b, r) for y in pairs for b in pairs for r in pairs if sum(h * v for h, v in (y, b, r)) <= 10 and (y, b, r) not in usual]
    return usual, rest


def files(rng):
    """Yields (name, bytes)."""
    sizes = [(16, 16), (13, 9), (17, 5), (1, 1), (3, 19), (8, 8), (33, 18), (5, 2), (2, 5), (40, 3)]
    usual, rest = layouts()
    for n, factors in enumerate(usual):
        for size in sizes:
            for restart in (0, 1, 2):
                j = Jpeg(size, factors, rng)
                yield f"baseline {factors} {size} restart {restart}", baseline(j, restart=restart)
        for size in sizes[:5]:
            j = Jpeg(size, factors, rng)
            for scans in ([[0], [1], [2]], [[0], [1, 2]], [[0, 1], [2]], [[2], [0], [1]]):
                yield f"baseline {factors} {size} scans {scans}", baseline(j, scans=scans)
                yield f"baseline {factors} {size} scans {scans} restart", baseline(j, scans=scans, restart=2)
            for name, script in scripts(3):
                yield f"progressive {factors} {size} {name}", progressive(j, script)
                yield f"progressive {factors} {size} {name} restart", progressive(j, script, restart=2)
    chosen = [rest[i] for i in sorted(rng.permutation(len(rest))[:260])]
    for n, factors in enumerate(chosen):
        j = Jpeg(sizes[n % 9], factors, rng)
        yield f"baseline {factors} {j.size}", baseline(j)
        if n % 3 == 0:
            yield f"baseline {factors} {j.size} apart", baseline(j, scans=[[0], [1], [2]])
        if n % 3 == 1:
            name, script = list(scripts(3))[n // 3 % 4]
            yield f"progressive {factors} {j.size} {name}", progressive(j, script)
    for h, v in itertools.product((1, 2, 3, 4), repeat=2):
        for size in sizes[:4]:
            j = Jpeg(size, [(h, v)], rng)
            yield f"grey {h}x{v} {size}", baseline(j)
            yield f"grey {h}x{v} {size} progressive", progressive(j, list(scripts(1))[h % 4][1])
    four = [((1, 1),) * 4, ((2, 2), (1, 1), (1, 1), (2, 2)), ((2, 1), (1, 1), (1, 1), (2, 1)), ((2, 1), (1, 1), (1, 1), (1, 1)), ((1, 2), (1, 1), (1, 1), (1, 2)), ((2, 2), (2, 1), (1, 1), (1, 1))]
    for factors in four:
        for size in sizes[:4]:
            j = Jpeg(size, factors, rng)
            for name, head in (("bare", ()), ("jfif", (JFIF,)), ("adobe0", (adobe(0),)), ("adobe2", (adobe(2),)), ("adobe1", (adobe(1),)), ("adobe2 jfif", (JFIF, adobe(2)))):
                yield f"four {factors} {size} {name}", baseline(j, head=head)
            yield f"four {factors} {size} apart", baseline(j, head=(adobe(2),), scans=[[0], [1], [2], [3]])
            yield f"four {factors} {size} progressive", progressive(j, list(scripts(4))[2][1], head=(adobe(2),))
    short = segment(0xEE, b"Adobe\0\x64\0\0")
    five = segment(0xEE, b"Adobe")
    long = segment(0xEE, b"Adobe\0\x64\0\0\0\0\1junk")
    heads = {"bare": (), "jfif": (JFIF,), "short jfif": (segment(0xE0, b"JFIF\0\1\1"),), "jfif long": (segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(30)),),
             "jfxx": (JFIF, segment(0xE0, b"JFXX\0\x10")), "avi1": (segment(0xE0, b"AVI1" + bytes(12)),), "exif": (segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),),
             "comment": (JFIF, segment(0xFE, b"hello")), "app2": (JFIF, segment(0xE2, b"MPF\0")), "empty segments": (segment(0xE0, b""), segment(0xE1, b""), segment(0xEE, b""), segment(0xED, b""), segment(0xE2, b"")),
             "icc": (JFIF, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(20))), "photoshop": (segment(0xED, b"Photoshop 3.0\0" + bytes(8)),),
             "xmp": (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),), "adobe short": (short,), "adobe short jfif": (JFIF, short), "adobe five": (five,), "adobe long": (long,), "jfif behind adobe": (adobe(0), JFIF)}
    for t in (0, 1, 2, 3, 255):
        heads[f"adobe{t}"] = (adobe(t),)
        heads[f"jfif adobe{t}"] = (JFIF, adobe(t))
    heads["adobe twice"] = (adobe(0), adobe(1))
    heads["adobe twice other"] = (adobe(1), adobe(0))
    for size in ((16, 16), (9, 13)):
        for factors in usual[:1] + usual[3:]:
            j = Jpeg(size, factors, rng)
            for name, head in heads.items():
                for ids in ((1, 2, 3), tuple(b"RGB"), (0, 1, 2), tuple(b"rgb")):
                    yield f"markers {factors} {size} {name} ids {ids}", baseline(j, head=head, ids=list(ids))
            for ids in ((1, 1, 1), (1, 2, 2), (36, 2, 3), tuple(b"YUV"), (2, 1, 3), (3, 2, 1), (1, 34, 35), (255, 254, 0), (1, 2, 1), (0, 0, 1)):
                for head in ((), (JFIF,)):
                    yield f"ids {factors} {size} {ids} {len(head)}", baseline(j, head=head, ids=list(ids))
                    yield f"ids {factors} {size} {ids} {len(head)} apart", baseline(j, head=head, ids=list(ids), scans=[[0], [1], [2]])
                yield f"ids {factors} {size} {ids} progressive", progressive(j, list(scripts(3))[0][1], ids=list(ids))
            for n, order in enumerate((("dht", "dqt", "sof", "head", "dri"), ("sof", "dht", "dqt", "dri", "head"), ("dri", "sof", "head", "dht", "dqt"))):
                yield f"order {factors} {size} {n}", baseline(j, order=order, restart=n)
            yield f"no tables {factors} {size}", baseline(j, huffman=[])
            yield f"no tables bare {factors} {size}", baseline(j, huffman=[], head=())
            yield f"no tables avi1 {factors} {size}", baseline(j, huffman=[], head=heads["avi1"], restart=1)
            yield f"no tables apart {factors} {size}", baseline(j, huffman=[], scans=[[0], [1], [2]])
            yield f"half the tables {factors} {size}", baseline(j, huffman=TABLES[:2])
            yield f"tables joined {factors} {size}", baseline(j, huffman=[segment(0xC4, b"".join(t[4:] for t in TABLES))])
            yield f"tables between {factors} {size}", baseline(j, scans=[[0], [1], [2]], between=TABLES + [segment(0xFE, b"x"), JFIF])
            yield f"adobe between {factors} {size}", baseline(j, scans=[[0], [1], [2]], between=[adobe(0)], head=())
            yield f"wide dqt {factors} {size}", baseline(j, wide=True)
            yield f"extended {factors} {size}", baseline(j, marker=0xC1)
            yield f"extended apart {factors} {size}", baseline(j, marker=0xC1, scans=[[0], [1], [2]])
            yield f"fill bytes {factors} {size}", baseline(j, head=(JFIF, b"\xff\xff\xff")) 
            yield f"stray bytes {factors} {size}", baseline(j, head=(JFIF, b"\1\2\3"))
            yield f"bytes behind {factors} {size}", baseline(j) + b"trailing"
            yield f"bytes before the end {factors} {size}", baseline(j, tail=b"\1\2\3")
            yield f"stuffing before the end {factors} {size}", baseline(j, tail=b"\xff\0\xff\0")
            yield f"restart marker at the end {factors} {size}", baseline(j, restart=1, tail=b"\xff\xd3")
            yield f"DNL {factors} {size}", baseline(j, tail=segment(0xDC, struct.pack(">H", size[1])))
            yield f"two images {factors} {size}", baseline(j) + baseline(j)
            yield f"scan twice {factors} {size}", baseline(j, scans=[[0, 1, 2], [0, 1, 2]])
            yield f"scan of one again {factors} {size}", baseline(j, scans=[[0], [1, 2], [0]])
            yield f"scan missing {factors} {size}", baseline(j, scans=[[0], [1]])
            yield f"luma only {factors} {size}", baseline(j, scans=[[0]])
            yield f"scan order {factors} {size}", baseline(j, scans=[[2, 1, 0]])
            yield f"no end {factors} {size}", baseline(j, ending=b"")
            yield f"12 bit {factors} {size}", baseline(j, marker=0xC1).replace(b"\xff\xc1\0\x11\x08", b"\xff\xc1\0\x11\x0c")
            for marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
                yield f"frame {marker:02x} {factors} {size}", baseline(j, marker=marker)
            for marker in (0x02, 0xBF, 0xC8, 0xCC, 0xDE, 0xDF, 0xF0, 0xF7, 0xFD, 0xDC, 0x01, 0xD0, 0xD8):
                extra = segment(marker, b"\0\0") if marker not in (1, 0xD0, 0xD8) else bytes([255, marker])
                yield f"marker {marker:02x} {factors} {size}", baseline(j, head=(JFIF, extra))
            progress = progressive(j, list(scripts(3))[0][1])
            yield f"progressive unfinished {factors} {size}", progressive(j, list(scripts(3))[0][1][:2])
            yield f"progressive dc only {factors} {size}", progressive(j, list(scripts(3))[0][1][:1])
            yield f"progressive no tables {factors} {size}", progress.replace(dht(0x00, DC), b"")
            yield f"progressive new quantisation {factors} {size}", progress.replace(dht(0x10, ANY), dht(0x10, ANY) + dqt(1))
            for cut in (3, 9, 17):
                whole = baseline(j)
                yield f"damaged {cut} {factors} {size}", whole[: -cut - 2] + whole[-2:]
                damaged = bytearray(whole)
                damaged[-cut - 3] ^= 0x40
                yield f"flipped {cut} {factors} {size}", bytes(damaged)
    for count in (2, 5):
        j = Jpeg((9, 9), ((1, 1),) * count, rng)
        yield f"{count} components", baseline(j, scans=[[0], [1]])
