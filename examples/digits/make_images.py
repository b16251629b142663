# SPDX-License-Identifier: Apache-2.0
"""Writes the 1,797 handwritten digits that ship with scikit-learn as PNG files:
OUT/<label>/<index>.png, 8x8 pixels, grey, one folder per label.

Usage: make_images.py OUT
"""
import pathlib
import struct
import sys
import zlib

from sklearn.datasets import load_digits


def png(pixels) -> bytes:
    """Encodes rows of 0..255 grey values."""
    height, width = len(pixels), len(pixels[0])

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    raw = b"".join(b"\0" + bytes(row) for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def main(out: str) -> None:
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target)):
        folder = pathlib.Path(out, str(label))
        folder.mkdir(parents=True, exist_ok=True)
        # 0..16 becomes 0..240: exact, so that nothing is lost on the way.
        (folder / f"{index:04d}.png").write_bytes(png([[int(v) * 15 for v in row] for row in image]))


if __name__ == "__main__":
    main(sys.argv[1])
