"""Files and folders that no one should send: each function writes one to a folder and gives the path to load.

`ARCHIVES` are .npz files and `FOLDERS` folders of images, by what is wrong with them. `load_images` must refuse every
one of them at once, with ValueError and the name of the file.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Generator: TypeAlias = Callable[[Path], Path]

GREY = (np.arange(10 * 8 * 8) % 251).astype(np.uint8).reshape(10, 8, 8)


def npy(array: NDArray) -> bytes:
    """The content of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text: str, content: bytes = bytes(64), version: tuple[int, int] = (1, 0)) -> bytes:
    """The content of an .npy file with this header."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text.encode() + content


def shaped(shape: str, descr: str = "'<f4'", content: bytes = bytes(64)) -> bytes:
    """The content of an .npy file that declares this shape."""
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", content)


def archive(member: bytes | NDArray, compression: int = zipfile.ZIP_DEFLATED, **others: NDArray) -> bytes:
    """The content of an .npz file whose `images` are this member, with other arrays."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("images.npy", member if isinstance(member, bytes) else npy(member))
        for name, array in others.items():
            made.writestr(f"{name}.npy", npy(array))
    return file.getvalue()


def changed(content: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """A content in which, at a distance from each place where a signature stands, other bytes stand."""
    made = bytearray(content)
    for signature, distance, other in changes:
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            made[place + distance : place + distance + len(other)] = other
    return bytes(made)


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"  # signatures in an archive: of a member, and of its entry in the directory


def _file(content: bytes | Callable[[], bytes]) -> Generator:
    def write(folder: Path) -> Path:
        (folder / "mine.npz").write_bytes(content if isinstance(content, bytes) else content())
        return folder / "mine.npz"

    return write


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "mine.npz")
    return folder / "mine.npz"


def _device(folder: Path) -> Path:
    (folder / "mine.npz").symlink_to("/dev/zero")
    return folder / "mine.npz"


def _folder(folder: Path) -> Path:
    (folder / "mine.npz").mkdir()
    return folder / "mine.npz"


def _damaged(compression: int) -> bytes:
    content = archive(np.random.default_rng(0).random((50, 8, 8)), compression)
    middle = content.index(b"images.npy") + len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 8]) + content[middle + 8 :]


_gigabyte = shaped("(16777216, 4, 4)", content=b"")

ARCHIVES: dict[str, Generator] = {
    "empty file": _file(b""),
    "text": _file(b"images"),
    "huge shape": _file(archive(shaped("(1000000000000, 28, 28)"))),
    "dimension of 2^64": _file(archive(shaped("(18446744073709551616, 8, 8)"))),
    "product of 2^64": _file(archive(shaped("(4294967296, 4294967296, 1)"))),
    "negative dimensions": _file(archive(shaped("(-4, -4, 1)"))),
    "shape of a truth value": _file(archive(shaped("(True, 4, 4)"))),
    "shape that is a list": _file(archive(shaped("[1, 4, 4]"))),
    "elements without size": _file(archive(shaped("(1000000000000, 28, 28)", "'|V0'", b""))),
    "too little content": _file(archive(shaped("(1, 8, 8)"))),
    "too much content": _file(archive(shaped("(1, 2, 2)"))),
    "array of arrays": _file(archive(shaped("(1, 4, 4)", "('<f4', (2, 2))", bytes(256)))),
    "named fields": _file(archive(shaped("(1, 4, 4)", "[('a', '<f4')]"))),
    "objects": _file(archive(np.array([None, {}], dtype=object))),
    "objects in fields": _file(archive(shaped("(1, 4, 4)", "[('a', '|O')]"))),
    "no array": _file(archive(b"images")),
    "nothing": _file(archive(b"")),
    "malformed header": _file(archive(header("{'descr': '<f4', "))),
    "header of another kind": _file(archive(header("[1, 2]"))),
    "header that can't be hashed": _file(archive(header("{[]: 1}"))),
    "header of many brackets": _file(archive(header("(" * 9000))),
    "header that calls": _file(archive(header("__import__('os').abort()"))),
    "header of 64 MB": _file(lambda: archive(header(" " * 2**26, version=(2, 0)))),
    "unknown version": _file(archive(changed(npy(GREY), (b"\x93NUMPY", 6, b"\x03")))),
    "damaged deflate": _file(lambda: _damaged(zipfile.ZIP_DEFLATED)),
    "damaged bzip2": _file(lambda: _damaged(zipfile.ZIP_BZIP2)),
    "damaged LZMA": _file(lambda: _damaged(zipfile.ZIP_LZMA)),
    "damaged without compression": _file(lambda: _damaged(zipfile.ZIP_STORED)),
    "unknown compression": _file(changed(archive(GREY), (LOCAL, 8, b"\x63\0"), (CENTRAL, 10, b"\x63\0"))),
    "encrypted": _file(changed(archive(GREY), (LOCAL, 6, b"\1"), (CENTRAL, 8, b"\1"))),
    "wrong checksum": _file(changed(archive(GREY), (CENTRAL, 16, bytes(4)))),
    "wrong size": _file(changed(archive(GREY), (CENTRAL, 24, struct.pack("<I", 2**30)))),
    "a gigabyte that is not there": _file(
        changed(archive(_gigabyte + bytes(64)), (CENTRAL, 24, struct.pack("<I", 2**30 + len(_gigabyte))))
    ),
    "damaged directory": _file(changed(archive(GREY), (CENTRAL, 0, b"XXXX"))),
    "array before the archive": _file(npy(GREY) + archive(GREY)),
    "label of 4e10": _file(archive(GREY, labels=np.arange(10) * 4 * 10**10)),
    "label of 2^63": _file(archive(GREY, labels=np.arange(10, dtype=np.uint64) << np.uint64(60))),
    "negative labels": _file(archive(GREY, labels=-np.arange(10))),
    "pixels beyond float32": _file(archive(GREY * 1e300)),
    "infinite pixels": _file(archive(np.full((10, 8, 8), np.inf))),
    "complex pixels": _file(archive(GREY * 1j)),
    "pipe": _pipe,
    "device": _device,
    "folder": _folder,
}


# Images


def png(width: int, height: int, *, depth: int = 8, kind: int = 0, chunks: bytes = b"", content: bytes = b"") -> bytes:
    """The content of a PNG file. kind: 0 for grey, 2 for colour, 3 for a palette, 4 and 6 with transparency."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunks + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND")
    )


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def encoded(image: Image.Image | NDArray, kind: str = "PNG", **settings: object) -> bytes:
    """The content of an image file that Pillow writes."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **settings)
    return file.getvalue()


def fill(folder: Path, content: bytes | Callable[[], bytes] = b"", name: str = "b/x.png") -> Path:
    """Write a folder of five sound images of 8x8 and one with this content; without any, only the five."""
    for part in ("a", "b"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(GREY[:5]):
        (folder / "ab"[number % 2] / f"{number}.png").write_bytes(encoded(image))
    if content:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
    return folder


def _image(content: bytes | Callable[[], bytes], name: str = "b/x.png") -> Generator:
    return lambda folder: fill(folder / "mine", content, name)


def _link(name: str, to: str) -> Generator:
    def write(folder: Path) -> Path:
        fill(folder / "mine")
        (folder / "mine" / name).symlink_to(to)
        return folder / "mine"

    return write


def _links_everywhere(folder: Path) -> Path:
    fill(folder / "mine")
    for part in ("a", "b"):
        for number in range(4):
            (folder / "mine" / part / f"loop{number}").symlink_to("..")
    return folder / "mine"


def _pipe_in_a_folder(folder: Path) -> Path:
    fill(folder / "mine")
    os.mkfifo(folder / "mine/b/x.png")
    return folder / "mine"


def _of_one_size(*sides: int) -> Generator:
    def write(folder: Path) -> Path:
        (folder / "mine/a").mkdir(parents=True)
        for number in range(10):
            (folder / f"mine/a/{number}.png").write_bytes(encoded(np.full(sides, 20 * number, np.uint8)))
        return folder / "mine"

    return write


def _damaged_image(kind: str, suffix: str) -> Generator:
    content = encoded(GREY[0], kind)
    return _image(content[: len(content) * 2 // 3], f"b/x{suffix}")


def _white_on_transparency() -> bytes:
    image = np.full((8, 8, 4), 255, np.uint8)
    image[:4, :, 3] = 0
    return encoded(image)


def _several(kind: str) -> bytes:
    first, *others = (Image.fromarray(image) for image in GREY[:3])
    return encoded(first, kind, save_all=True, append_images=others)


_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) show\n%%EOF\n"
_RGB16 = bytes(range(48)) * 8

FOLDERS: dict[str, Generator] = {
    "PostScript": _image(_POSTSCRIPT),
    "GIF": _image(lambda: encoded(GREY[0], "GIF")),
    "ICO": _image(lambda: encoded(GREY[0], "ICO")),
    "TGA": _image(lambda: encoded(GREY[0], "TGA")),
    "PDF": _image(lambda: encoded(GREY[0], "PDF")),
    "PSD": _image(b"8BPS\0\1" + bytes(64)),
    "empty image": _image(lambda: png(8, 8)),
    "400 million pixels": _image(lambda: png(20000, 20000)),
    "100 million pixels": _image(lambda: png(10000, 10000)),
    "100 million pixels in PPM": _image(b"P5 10000 10000 255\n", "b/x.pgm"),
    "no pixels": _image(lambda: png(0, 8)),
    "text of 80 MB": _image(
        lambda: png(8, 8, chunks=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(80 * 2**20))), content=bytes(72))
    ),
    "animated PNG": _image(lambda: _several("PNG")),
    "animated WebP": _image(lambda: _several("WEBP"), "b/x.webp"),
    "pages of TIFF": _image(lambda: _several("TIFF"), "b/x.tif"),
    "16 bits in grey": _image(lambda: encoded(GREY[0].astype(np.uint16))),
    "16 bits in colour": _image(lambda: png(8, 8, depth=16, kind=2, content=(b"\0" + bytes(48)) * 8)),
    "16 bits with transparency": _image(lambda: png(8, 8, depth=16, kind=4, content=(b"\0" + bytes(32)) * 8)),
    "16 bits in PPM": _image(b"P6 8 8 65535\n" + _RGB16, "b/x.ppm"),
    "12 bits in PPM": _image(b"P6 8 8 4095\n" + _RGB16, "b/x.ppm"),
    "16 bits in PPM as text": _image(b"P3 8 8 65535\n" + b"999 " * 192, "b/x.ppm"),
    "floats": _image(lambda: encoded(GREY[0].astype(np.float32), "TIFF"), "b/x.tif"),
    "integers": _image(lambda: encoded(GREY[0].astype(np.int32), "TIFF"), "b/x.tif"),
    "white on transparency": _image(_white_on_transparency),
    "another size": _image(lambda: encoded(GREY[0, :7])),
    "another size when turned": _image(lambda: encoded(GREY[0, :7], exif=_turned(6))),
    "damaged BMP": _damaged_image("BMP", ".bmp"),
    "damaged JPEG": _damaged_image("JPEG", ".jpg"),
    "damaged PNG": _damaged_image("PNG", ".png"),
    "damaged PPM": _damaged_image("PPM", ".pgm"),
    "damaged TIFF": _damaged_image("TIFF", ".tif"),
    "damaged WebP": _damaged_image("WEBP", ".webp"),
    "empty image file": _image(lambda: b" "),
    "1x1": _of_one_size(1, 1),
    "3x3": _of_one_size(3, 3),
    "3x3 in colour": _of_one_size(3, 3, 3),
    "links round in circles": _links_everywhere,
    "class that is the folder": _link("c", "."),
    "image that links to itself": _link("b/x.png", "x.png"),
    "image that links to nothing": _link("b/x.png", "nowhere"),
    "image that is a device": _link("b/x.png", "/dev/zero"),
    "image that is a pipe": _pipe_in_a_folder,
    "image that is a folder": _image(lambda: encoded(GREY[0]), "b/x.png/1.png"),
    "class of hidden files": _image(lambda: encoded(GREY[0]), "c/.x.png"),
    "class of other suffixes": _image(lambda: encoded(GREY[0], "GIF"), "c/x.gif"),
}


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
