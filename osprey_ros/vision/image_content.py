"""What the bytes of an image file are: the format, whether values are exact, whether the file is whole.

Names and declared formats are not looked at. Damage is found here, because decoders hide it: what is missing of a JPEG
is gray with some versions of OpenCV.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps

from osprey_ros.errors import ImageError

_PNG = b"\x89PNG\r\n\x1a\n"
# Bytes at the beginning of a file, and the name of its format.
_IMAGES = (
    (_PNG, "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
    *((b"P%d" % kind + space, "PNM") for kind in range(1, 8) for space in (b"\n", b" ", b"\r", b"\t")),
)
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image; run git lfs pull"),
    (b"\x00\x05\x16\x07", "a sidecar file of macOS (AppleDouble), not an image; give the file without ._ in its name"),
    (b"%PDF", "a PDF document; export the page as PNG"),
    (b"PK\x03\x04", "a ZIP archive (.npz files are, too); unpack it and give an image file"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"\x93NUMPY", "a NumPy array; save it as PNG, or pass the array to the library"),
    (b"<svg", "an SVG drawing; export it as PNG"),
    (b"<!DOCTYPE", "a web page; download the image itself"),
    (b"<html", "a web page; download the image itself"),
    (b"<?xml", "XML text; give an image file"),
    (b"{", "JSON text; give an image file"),
    (b"[", "JSON text; give an image file"),
)
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_LOSSY = ("JPEG", "JPEG 2000", "JPEG XL", "AVIF", "HEIC")
_EXACT = ("PNG", "TIFF", "GIF", "BMP", "PNM", "WebP")
_LOSSY_TIFF = {6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 34892: "JPEG", 50001: "WebP", 50002: "JPEG XL"}
_TIFF_COMPRESSION, _TIFF_BITS, _ORIENTATION = 259, 258, 0x0112
_DECODER_ERRORS = (  # of Pillow, for files that are damaged in one way or another
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    KeyError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_GRAY_PNG = (0, 3)  # color types: gray, palette


@dataclass(frozen=True)
class ImageContent:
    """What the bytes of an image file are.

    Attributes:
        kind: Name of the format, such as "PNG"; "" if it is unknown.
        lossy: Whether the encoding changes values.
        damage: What is missing or wrong, such as "its end is missing"; "" if nothing is known to be.
        bits: Bits of each value of a PNG; 0 for other formats.
    """

    kind: str
    lossy: bool = False
    damage: str = ""
    bits: int = 0


def image_content(data: bytes) -> ImageContent:
    """Return what the bytes of a file are. Raises ImageError if they are something other than an image."""
    if not data:
        raise ImageError("it is empty (0 bytes); copy or record it again")
    kind = _kind(data)
    if not kind:
        start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
        for signature, text in _OTHERS:
            if start[: len(signature)].lower() == signature.lower():
                raise ImageError(f"it is {text}")
        return ImageContent("")
    if kind == "PNG":
        return ImageContent(kind, damage=_png_damage(data), bits=data[24] if len(data) > 24 else 0)
    if kind == "WebP":
        lossy = _webp_is_lossy(data)
        whole = len(data) >= 8 + int.from_bytes(data[4:8], "little")
        return ImageContent("lossy WebP" if lossy else kind, lossy, "" if whole else "its end is missing")
    return ImageContent(kind, kind in _LOSSY, _damage(kind, data))


def decoded_image(data: bytes, turn: bool = True) -> Image.Image:
    """Decode the bytes of an image file, upright as EXIF says if ``turn``, else as stored.

    Raises ImageError, whose text begins with "it" or "its", if they are no image, damaged, or of an unknown format.
    """
    with _opened(data) as image:
        try:
            image.load()
            return ImageOps.exif_transpose(image) if turn else image
        except _DECODER_ERRORS as error:
            raise ImageError(_unreadable(image_content(data).kind)) from error


def size_of(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels of the upright image of a file. Raises ImageError as `decoded_image` does."""
    with _opened(data) as image:
        width, height = image.size
    return (height, width) if exif_orientation(data) >= 5 else (width, height)


def _opened(data: bytes) -> Image.Image:
    content = image_content(data)
    if content.damage:
        raise ImageError(f"it is a damaged {content.kind} file: {content.damage}; copy or record it again")
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; scale it down") from error
    except _DECODER_ERRORS as error:
        raise ImageError(_unreadable(content.kind)) from error


def check_exact(data: bytes) -> ImageContent:
    """Return what the bytes of a file are, after a check that decoding gives the stored values.

    Raises ImageError if they are no image, the encoding changes values, or there are several pages or frames.
    """
    content = image_content(data)
    if content.lossy:
        raise ImageError(f"it is encoded as {content.kind}, which changes values; save it as PNG")
    if content.kind not in _EXACT or content.damage:
        return content  # the decoder's error says more
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = int(getattr(image, "n_frames", 1))
            tags = getattr(image, "tag_v2", {})
    except _DECODER_ERRORS:
        return content
    lossy = _LOSSY_TIFF.get(tags.get(_TIFF_COMPRESSION, 1))
    if lossy:
        raise ImageError(f"it is a TIFF encoded as {lossy}, which changes values; save it as PNG")
    if frames > 1:
        raise ImageError(f"it has {frames} {'pages' if content.kind == 'TIFF' else 'frames'}; save the one as PNG")
    return content


def frame_count(data: bytes) -> int:
    """Return the number of pages or frames of an image file, 1 if it is unknown. Previews of cameras do not count."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except _DECODER_ERRORS:
        return 1


def has_deep_color(data: bytes) -> bool:
    """Return whether an image file has more than 8 bits for each of several channels, which Pillow cuts to 8 bits."""
    if data.startswith(_PNG):
        return len(data) > 25 and data[24] == 16 and data[25] not in _GRAY_PNG
    if _kind(data) != "TIFF":
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))
            return len(bits) > 1 and max(bits) == 16
    except _DECODER_ERRORS:
        return False


def exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation of an image file, 1 to 8. 1 is upright, and also what is returned without one."""
    if b"Exif" not in data and b"eXIf" not in data and b"EXIF" not in data and b"rientation" not in data:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _kind(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "HEIC" if brand in _HEIF else "AVIF" if brand in (b"avif", b"avis") else "MP4 video"
    return next((name for signature, name in _IMAGES if data.startswith(signature)), "")


def _unreadable(kind: str) -> str:
    if kind in ("HEIC", "AVIF", "JPEG XL", "OpenEXR"):
        return f"it is {kind}, which cannot be read here; convert it to PNG or JPEG"
    if kind == "MP4 video":
        return "it is an MP4 video; extract the frame as PNG"
    if kind:
        return f"it is a damaged {kind} file; copy or record it again"
    return "it is not an image of a known format; give PNG, JPEG or another common format"


def _damage(kind: str, data: bytes) -> str:
    if kind == "JPEG":
        return "" if _jpeg_is_whole(data) else "its end-of-image marker is missing"
    if kind == "GIF":
        return "" if b"\x3b" in data[-64:] else "its end is missing"
    if kind == "BMP" and len(data) >= 6 and len(data) < int.from_bytes(data[2:6], "little"):
        return "its end is missing"
    return ""


def _jpeg_is_whole(data: bytes) -> bool:
    """Return whether a JPEG has an end-of-image marker behind its pixels; the one of a preview does not count."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:  # the pixels, in which 0xFF is always followed by 0 or a marker
            return data.find(b"\xff\xd9", at) >= 0
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _png_damage(data: bytes) -> str:
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):
            break
        needed = not data[at + 4] & 0x20  # a lower-case first letter marks chunks that a decoder can pass over
        if needed and zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return "a checksum is wrong"
        if data[at + 4 : at + 8] == b"IEND":
            return ""
        at = end
    return "its end is missing"


def _webp_is_lossy(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"VP8 ":
            return True
        if name == b"ANMF":  # a frame: its own chunks begin behind 16 bytes
            at += 24
            continue
        at += 8 + length + length % 2
    return False
