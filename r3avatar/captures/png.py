"""Decoding PNGs by FFmpeg: the pixels that OpenCV gives, in a third of the time.

PNG is lossless, so every right decoder gives the same pixels, and masks are among the largest costs of preparing a
capture. FFmpeg does not look at checksums: here every chunk's must be right, so that damage never passes. (Image data
that an encoder itself left incomplete, under right checksums, end in black rows; OpenCV would refuse them.)
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: ("gray", 1), 2: ("rgb24", 3), 6: ("rgba", 4)}  # PNG's colour type: FFmpeg's name, channels
_PLAIN = {b"IHDR", b"IDAT", b"IEND", b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"tIME", b"gAMA", b"sRGB", b"cHRM", b"eXIf"}


def decode_png(content: bytes) -> np.ndarray | None:
    """A PNG's pixels [H, W, 1, 3 or 4] uint8, RGB(A); None for what another decoder must judge.

    That is all but whole, undamaged, not interlaced 8-bit grey, RGB and RGBA images without transparent colours.
    """
    header = _header(content)
    if header is None:
        return None
    import av  # which only preparing needs: frames of the cache are decoded already

    width, height, name, channels = header
    codec = av.CodecContext.create("png", "r")
    codec.thread_count = 1
    try:
        frames = codec.decode(av.Packet(content)) + codec.decode(None)
    except av.FFmpegError:
        return None
    if len(frames) != 1 or (frames[0].width, frames[0].height, frames[0].format.name) != (width, height, name):
        return None
    plane = frames[0].planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, : width * channels]
    return rows.reshape(height, width, channels)


def _header(content: bytes) -> tuple[int, int, str, int] | None:
    """Width, height, FFmpeg's name of the pixels and their channels, of a file that `decode_png` takes."""
    if not content.startswith(SIGNATURE):
        return None
    header, kind, at = None, b"", len(SIGNATURE)
    while at + 12 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        if kind not in _PLAIN or end + 4 > len(content):
            return None
        if zlib.crc32(content[at + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return None
        if kind == b"IHDR" and header is None and length == 13:
            header = struct.unpack_from(">IIBBBBB", content, at + 8)
        at = end + 4
    if header is None or kind != b"IEND":
        return None
    width, height, depth, colour, *methods = header
    if depth != 8 or colour not in _CHANNELS or any(methods) or not (width and height):
        return None
    return width, height, *_CHANNELS[colour]
