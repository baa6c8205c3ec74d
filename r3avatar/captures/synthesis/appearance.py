"""What the person looks like: colours and cloth by seed, and the painting of fragments.

Patterns are functions of the position on the cloth or on the body at rest. Seed 0's stripes and bands are at least 4 cm
wide, which is 5 pixels in a 1024-pixel image decoded at 1/4; other seeds' cloth may be a third finer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import person
from r3avatar.captures.synthesis.arithmetic import draws
from r3avatar.captures.synthesis.person import BODY, CLOTH, EYE, HAIR, HEAD, LIPS, SHOE, Marks
from r3avatar.numba_cache import follow

Array = NDArray[np.float64]

# Rows of the palette.
SKIN, HAIRS, LIP, IRIS, STRIPE, SHIRT, BADGE, LEGS, SOCK, UPPER, SOLE, PLAID, BAND, LINE, HEM, LINING = range(16)

_SKINS = [(238, 200, 174), (224, 178, 146), (196, 142, 106), (150, 101, 72), (112, 74, 54)]
_HAIRS = [(84, 50, 32), (44, 34, 31), (142, 88, 44), (196, 154, 90), (120, 46, 26)]
_IRISES = [(70, 110, 150), (92, 66, 42), (82, 112, 66)]
_OUTFITS = [  # stripe, shirt, badge, legs, plaid, band, line, hem
    [
        (28, 58, 104),
        (238, 234, 222),
        (214, 62, 52),
        (34, 40, 60),
        (178, 34, 44),
        (28, 40, 72),
        (244, 206, 90),
        (246, 240, 226),
    ],
    [
        (196, 62, 50),
        (246, 236, 214),
        (36, 92, 120),
        (52, 40, 44),
        (36, 108, 92),
        (16, 50, 58),
        (240, 190, 80),
        (240, 232, 214),
    ],
    [
        (54, 54, 62),
        (232, 190, 70),
        (232, 84, 60),
        (44, 44, 50),
        (72, 68, 140),
        (34, 30, 74),
        (226, 210, 240),
        (236, 176, 62),
    ],
    [
        (30, 112, 106),
        (236, 238, 230),
        (240, 150, 40),
        (40, 52, 60),
        (222, 138, 54),
        (120, 58, 30),
        (250, 236, 206),
        (36, 76, 84),
    ],
]
_SHOES = [
    ((236, 232, 226), (60, 66, 80), (240, 240, 236)),
    ((60, 30, 30), (150, 34, 38), (238, 232, 220)),
    ((238, 236, 232), (40, 42, 48), (226, 222, 212)),
]  # sock, upper, sole
_CLOTHS = [  # plaid, band, line, hem
    ((150, 28, 42), (24, 58, 44), (240, 222, 150), (232, 226, 212)),
    ((214, 196, 162), (60, 44, 38), (178, 36, 40), (34, 30, 32)),
    ((44, 74, 140), (220, 222, 226), (208, 64, 52), (26, 36, 72)),
    ((86, 120, 62), (34, 46, 30), (246, 224, 110), (226, 222, 196)),
    ((206, 108, 128), (96, 40, 74), (250, 236, 226), (248, 226, 214)),
    ((90, 92, 98), (36, 38, 44), (232, 160, 60), (206, 204, 200)),
    ((230, 168, 60), (122, 56, 34), (252, 244, 222), (84, 40, 40)),
    ((58, 132, 142), (22, 52, 78), (236, 118, 78), (238, 232, 214)),
]

PLAID_WEAVE, STRIPE_WEAVE, CHECK_WEAVE = range(3)
SHORTS, TROUSERS, YOKE = range(3)  # what is close around the legs; a yoke has the pattern of the wide legs below it


@dataclass
class Weave:
    """A garment's pattern: one of the weaves, its period down the cloth in metres, periods around, and how long it is.

    length: relative to the usual cut.
    """

    kind: int
    period: float
    repeats: int
    length: float


def weave(seed: int, garment: str) -> Weave:
    """The pattern and length of a seed's garment; seed 0 has a plaid of the usual period and length."""
    usual = {"skirt": 14, "cape": 7, "trousers": 7}.get(garment, 5)
    if seed == 0:
        return Weave(PLAID_WEAVE, 0.13, usual, 1.0)
    kind, period, length = draws(seed, 9, 3)
    scale = 0.70 + 0.50 * period
    kinds = (PLAID_WEAVE, PLAID_WEAVE, STRIPE_WEAVE if garment == "cape" else CHECK_WEAVE)
    # Trouser legs end at the ankles and a cape above the floor whatever the seed.
    shortest, longest = {"skirt": (0.80, 1.20), "cape": (0.80, 1.05), "trousers": (0.88, 1.0)}.get(garment, (1.0, 1.0))
    return Weave(kinds[int(3 * kind)], 0.13 * scale, int(usual / scale + 0.5), shortest + (longest - shortest) * length)


def palette(seed: int) -> Array:
    """The colours of one person, [16, 3] in [0, 1]."""
    tables = (_SKINS, _HAIRS, _IRISES, _OUTFITS, _SHOES)
    skin, hair, iris, outfit, shoes = (t[int(k * len(t))] for t, k in zip(tables, draws(seed, 2, len(tables))))
    stripe, shirt, badge, legs, plaid, band, line, hem = outfit
    if seed != 0:  # other seeds combine their outfit with any cloth
        plaid, band, line, hem = _CLOTHS[int(draws(seed, 10, 1)[0] * len(_CLOTHS))]
    sock, upper, sole = shoes
    lip = (0.72 * skin[0] + 20, 0.50 * skin[1], 0.52 * skin[2])
    lining = tuple(0.55 * c for c in plaid)
    rows = [skin, hair, lip, iris, stripe, shirt, badge, legs, sock, upper, sole, plaid, band, line, hem, lining]
    return np.array(rows, np.float64) / 255.0


def mark_array(marks: Marks, legs: int, cloth: Weave) -> Array:
    """The marks as the numbers that `paint` takes; legs: SHORTS, TROUSERS or YOKE."""
    values = [marks.waist, marks.crotch, marks.knee, marks.ankle, marks.sole, marks.shoulder, marks.elbow, marks.neck]
    return np.array([*values, *marks.head, *marks.eye, float(legs), float(cloth.repeats), cloth.period, cloth.kind])


def background(width: int, height: int) -> Array:
    """A grey studio: brighter in the middle, a little darker towards the floor, [H, W] in [0, 1]."""
    x = (np.arange(width) + 0.5) / width - 0.5
    y = (np.arange(height) + 0.5) / height - 0.5
    return 0.33 - 0.16 * (x * x)[None, :] - (0.14 * y * y + 0.05 * y)[:, None]


@numba.njit(cache=True, nogil=True)
def paint(index, projected, x0, y0, triangles, kind, pattern, light, colours, marks, back, image, mask):
    """Colour the window of an image: image [H, W, 3] uint8 RGB and mask [H, W] uint8 (255: more than half covered).

    index [2 h, 2 w]: the triangle at each of a pixel's 2 x 2 samples; projected, x0, y0 as for `rasterize`. light
    [V, 2]: the light that falls on the front and on the back of each vertex. back [H, W]: the background.
    """
    face = np.empty((3, 3))  # a triangle's corners: their weights are linear in the image, face @ (x, y, 1)
    values = np.empty((3, 4))  # pattern and light at its corners
    last, back_side = -1, 0
    for i in range(index.shape[0] // 2):
        for j in range(index.shape[1] // 2):
            first = index[2 * i, 2 * j]
            whole = first == index[2 * i + 1, 2 * j + 1] == index[2 * i, 2 * j + 1] == index[2 * i + 1, 2 * j]
            if whole and first < 0:
                continue
            red, green, blue, covered = 0.0, 0.0, 0.0, 0
            r, g, b = 0.0, 0.0, 0.0
            plain = whole
            for n in range(4):  # first the two on a diagonal
                down, along = n & 1, (n & 1) ^ (n >> 1)
                t = index[2 * i + down, 2 * j + along]
                if t < 0:
                    continue
                if n == 2 and plain:  # one triangle, one colour: the other diagonal is the same
                    red, green, blue, covered = 2.0 * red, 2.0 * green, 2.0 * blue, 4
                    break
                covered += 1
                if t != last:
                    last = t
                    a, b_, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                    back_side = _load(a, b_, c, projected, pattern, light, kind[t], face, values)
                x, y = j + x0 + 0.5 * along - 0.25, i + y0 + 0.5 * down - 0.25
                u = face[0, 0] * x + face[0, 1] * y + face[0, 2]
                v = face[1, 0] * x + face[1, 1] * y + face[1, 2]
                w = face[2, 0] * x + face[2, 1] * y + face[2, 2]
                scale = 1.0 / (u + v + w)
                u, v, w = u * scale, v * scale, w * scale
                before = r, g, b
                r, g, b = _albedo(
                    kind[t],
                    back_side,
                    u * values[0, 0] + v * values[1, 0] + w * values[2, 0],
                    u * values[0, 1] + v * values[1, 1] + w * values[2, 1],
                    u * values[0, 2] + v * values[1, 2] + w * values[2, 2],
                    colours,
                    marks,
                )
                plain = plain and (n == 0 or before == (r, g, b))
                lit = min(max(u * values[0, 3] + v * values[1, 3] + w * values[2, 3], 0.0), 1.0)
                red += r * (0.20 + 0.86 * lit)
                green += g * (0.19 + 0.87 * lit)
                blue += b * (0.21 + 0.84 * lit)
            grey = back[y0 + i, x0 + j] * (4 - covered)
            image[y0 + i, x0 + j, 0] = math.floor(min(0.25 * (red + grey), 1.0) * 255.0 + 0.5)
            image[y0 + i, x0 + j, 1] = math.floor(min(0.25 * (green + grey), 1.0) * 255.0 + 0.5)
            image[y0 + i, x0 + j, 2] = math.floor(min(0.25 * (blue + grey), 1.0) * 255.0 + 0.5)
            mask[y0 + i, x0 + j] = 255 if covered > 2 else 0


@numba.njit(cache=True, nogil=True, inline="always")
def _load(a, b, c, projected, pattern, light, kind, face, values):
    """Prepare a triangle for `paint`; returns 1 if its back is seen."""
    ax, ay, bx, by = projected[a, 0], projected[a, 1], projected[b, 0], projected[b, 1]
    cx, cy = projected[c, 0], projected[c, 1]
    # Areas opposite the corners times 1 / depth are, up to a common factor, linear on the triangle itself.
    face[0, 0], face[0, 1], face[0, 2] = by - cy, cx - bx, bx * cy - cx * by
    face[1, 0], face[1, 1], face[1, 2] = cy - ay, ax - cx, cx * ay - ax * cy
    face[2, 0], face[2, 1], face[2, 2] = ay - by, bx - ax, ax * by - bx * ay
    back_side = 1 if face[0, 2] + face[1, 2] + face[2, 2] > 0.0 else 0
    for n, vertex in enumerate((a, b, c)):
        for d in range(3):
            face[n, d] *= projected[vertex, 2]
            values[n, d] = pattern[vertex, d]
        values[n, 3] = light[vertex, back_side]
        if kind == CLOTH:  # turns around the garment: 0 and 1 are the same place
            values[n, 0] -= math.floor(values[n, 0] - values[0, 0] + 0.5)
    return back_side


@numba.njit(cache=True, nogil=True, inline="always")
def _mixed(colours, a, b, share):
    return (
        colours[a, 0] + share * (colours[b, 0] - colours[a, 0]),
        colours[a, 1] + share * (colours[b, 1] - colours[a, 1]),
        colours[a, 2] + share * (colours[b, 2] - colours[a, 2]),
    )


@numba.njit(cache=True, nogil=True, inline="always")
def _scaled(colours, a, factor):
    return colours[a, 0] * factor, colours[a, 1] * factor, colours[a, 2] * factor


@numba.njit(cache=True, nogil=True, inline="always")
def _fraction(x):
    return x - math.floor(x)


@numba.njit(cache=True, nogil=True, inline="always")
def _albedo(kind, back_side, x, y, z, colours, m):
    if kind == CLOTH:
        return _plaid(back_side, x, y, z, colours, m)
    if kind == BODY:
        return _outfit(x, y, z, colours, m)
    if kind == HEAD:
        return _head(x, y, z, colours, m)
    if kind == HAIR:
        strand = abs(_fraction(x * 40.0 + y * 30.0) - 0.5)
        return _scaled(colours, HAIRS, 0.85 + 0.5 * strand)
    if kind == LIPS:
        return _scaled(colours, LIP, 1.0)
    if kind == EYE:
        return _eye(x, y, colours, m)
    if kind == SHOE:
        if y < 0.019:
            return _scaled(colours, SOLE, 1.0)
        return _scaled(colours, SOLE if _fraction(x * 22.0) > 0.5 and 0.13 < x < 0.20 and y > 0.045 else UPPER, 1.0)
    return 0.30, 0.13, 0.13  # the inside of the mouth


@numba.njit(cache=True, nogil=True)
def _plaid(back_side, u, v, hem, colours, m):
    """u: turns around the garment in [0, 1], v: metres below its upper edge, hem: metres above its lower edge."""
    if back_side == 1:
        return _scaled(colours, LINING, 1.0)
    if hem < 0.045:
        return _scaled(colours, HEM, 1.0)
    return _woven(u * m[13], v / m[14], colours, m[15])


@numba.njit(cache=True, nogil=True)
def _woven(periods_across, periods_down, colours, weave_kind):
    across, down = _fraction(periods_across), _fraction(periods_down)
    if weave_kind == STRIPE_WEAVE:
        if across < 0.08 or 0.42 < across < 0.5:
            return _mixed(colours, PLAID, LINE, 0.8)
        return _mixed(colours, PLAID, BAND, 0.92 if across < 0.5 else 0.0)
    if weave_kind == CHECK_WEAVE:
        across, down = _fraction(2.0 * across), _fraction(2.0 * down)
        return _mixed(colours, HEM, PLAID, 0.5 * (across < 0.5) + 0.5 * (down < 0.5))
    share = 0.5 * (across < 0.5) + 0.5 * (down < 0.5)
    if abs(across - 0.75) < 0.055 or abs(down - 0.75) < 0.07:
        return _mixed(colours, PLAID, LINE, 0.8)
    return _mixed(colours, PLAID, BAND, 0.92 * share)


@numba.njit(cache=True, nogil=True)
def _outfit(x, y, z, colours, m):
    waist, crotch, knee, ankle, shoulder, elbow, neck = m[0], m[1], m[2], m[3], m[5], m[6], m[7]
    side = abs(x)
    if y < waist - 0.025 and side < elbow:
        if m[12] == YOKE and waist - 0.055 > y > crotch - 0.13:
            front = x / (side + 1.4 * abs(z))  # quarters of a turn around the hips: -1 to 1 in front, on to 2 behind
            turn = front if z > 0.0 else (2.0 if x > 0.0 else -2.0) - front
            return _woven(0.25 * turn * math.floor(0.96 / m[14] + 0.5), (waist - y) / m[14], colours, m[15])
        if m[12] > 0.5:
            return _scaled(colours, LEGS if y > ankle + 0.02 else SOCK, 1.0)
        if y > crotch - 0.13:
            return _scaled(colours, LEGS, 1.0)
        top = ankle + 0.45 * (knee - ankle)
        if y < top:
            return _scaled(colours, UPPER if top - 0.06 < y < top - 0.02 else SOCK, 1.0)
        return _scaled(colours, SKIN, 1.0)
    cuff = shoulder + 0.58 * (elbow - shoulder) - side
    collar = math.sqrt(x * x + (z - 0.01) * (z - 0.01)) + 0.55 * (neck - 0.03 - y) - 0.075
    if cuff < 0.0 or collar < 0.0 or y > neck + 0.02:
        return _scaled(colours, SKIN, 1.0)
    if cuff < 0.022 or collar < 0.018:
        return _scaled(colours, STRIPE, 1.0)
    dx, dy = x - 0.062, y - (neck - 0.178)
    if z > 0.0 and dx * dx + dy * dy < 0.036 * 0.036:
        return _scaled(colours, BADGE, 1.0)
    along = (shoulder - 0.01 - side) if side > shoulder - 0.01 else neck - y
    return _scaled(colours, STRIPE if _fraction(along / 0.086) < 0.5 else SHIRT, 1.0)


@numba.njit(cache=True, nogil=True)
def _hairline(side, y, z):
    line = -0.05
    places = (-0.10, -0.055, -0.02, 0.012, 0.045, 0.07, 0.09)
    values = (-0.05, -0.045, -0.02, 0.048, 0.062, 0.09, 0.098)
    for k in range(6):
        width = places[k + 1] - places[k]
        line += (values[k + 1] - values[k]) / width * min(max(z - places[k], 0.0), width)
    if -0.06 < z < 0.05:
        line = max(line, 4.0 * (side - 0.074) + 0.03)
    return y - line


@numba.njit(cache=True, nogil=True)
def _head(x, y, z, colours, m):
    side = abs(x)
    if y > m[7] - 0.02 and _hairline(side, y - m[8], z - m[9]) > 0.0:
        strand = abs(_fraction(side * 38.0 + z * 9.0) - 0.5)
        return _scaled(colours, HAIRS, 0.85 + 0.5 * strand)
    r, g, b = colours[SKIN, 0], colours[SKIN, 1], colours[SKIN, 2]
    dx, dy = side - m[10], y - m[11]
    if z - m[9] > 0.04:
        arch = dy - 0.0225 + 6.0 * (dx - 0.009) * (dx - 0.009)
        if -0.021 < dx < 0.026 and abs(arch) < 0.0042 - 0.05 * max(dx, 0.0):
            return _scaled(colours, HAIRS, 0.8)
        lid = dx * dx / (0.020 * 0.020) + (dy + 0.001) * (dy + 0.001) / (0.0105 * 0.0105)
        if lid < 1.0:
            shade = 0.55 if dy > -0.001 else 0.85
            return r * shade, g * shade * 0.9, b * shade * 0.9
        cx, cy = side - 0.045, y - (m[11] - 0.040)
        blush = max(1.0 - (cx * cx + cy * cy) / (0.022 * 0.022), 0.0)
        g -= 0.13 * blush * g
        b -= 0.09 * blush * b
    return r, g, b


@numba.njit(cache=True, nogil=True)
def _eye(x, y, colours, m):
    dx, dy = abs(x) - m[10], y - m[11]
    distance = math.sqrt(dx * dx + dy * dy)
    if distance < 0.0032:
        return 0.04, 0.03, 0.03
    if distance < 0.0072:
        return _scaled(colours, IRIS, 1.0)
    return 0.95, 0.94, 0.93


follow(paint, person)
