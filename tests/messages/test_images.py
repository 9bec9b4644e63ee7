"""Conversion of image messages into arrays: encodings, padding, byte order, compression, invalid messages."""

from __future__ import annotations

import array
import io
import struct
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CompressedImage, Image

from osprey_ros.messages import images
from osprey_ros.ros.outputs import messages

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
GRAY = RGB[..., 0]
HEADER = messages.header_message(5, "camera_optical_frame")


def padded(pixels: np.ndarray, encoding: str, padding: int, big: bool = False) -> Image:
    """Return an image message with padding of random bytes behind each row."""
    wide = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = wide.reshape(len(pixels), -1).view(np.uint8)
    rows = np.hstack([rows, np.full((len(rows), padding), 0xA5, np.uint8)])
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=rows.shape[1])
    message.data = array.array("B", rows.tobytes())
    return message


def compressed(pixels: np.ndarray, extension: str, format_text: str) -> CompressedImage:
    """Return a compressed image message; the pixels are gray or in OpenCV's channel order."""
    ok, data = cv2.imencode(extension, pixels)
    assert ok
    return CompressedImage(format=format_text, data=array.array("B", data.tobytes()))


def wide(pixels: np.ndarray) -> np.ndarray:
    """Return 8-bit values as 16-bit values of the same brightness."""
    return pixels.astype(np.uint16) * 257


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("8UC3", RGB[..., ::-1], RGB),
        ("rgba8", cv2.cvtColor(RGB, cv2.COLOR_RGB2RGBA), RGB),
        ("bgra8", cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA), RGB),
        ("8UC4", cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA), RGB),
        ("mono8", GRAY, np.repeat(GRAY[..., None], 3, axis=2)),
        ("8UC1", GRAY, np.repeat(GRAY[..., None], 3, axis=2)),
        ("mono16", wide(GRAY), np.repeat(GRAY[..., None], 3, axis=2)),
        ("16UC1", wide(GRAY), np.repeat(GRAY[..., None], 3, axis=2)),
        ("rgb16", wide(RGB), RGB),
        ("bgr16", wide(RGB[..., ::-1]), RGB),
        ("rgba16", wide(cv2.cvtColor(RGB, cv2.COLOR_RGB2RGBA)), RGB),
        ("bgra16", wide(cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA)), RGB),
    ],
)
def test_colors_of_each_encoding(
    encoding: str, pixels: np.ndarray, expected: np.ndarray, padding: int, big: bool
) -> None:
    found = images.rgb_from_message(padded(pixels, encoding, padding, big))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_the_colors_they_filter(pattern: str, padding: int, bits: int) -> None:
    # The image is red on the left and bluish green on the right, so that swapped channels or rows show.
    colors = np.empty((12, 16, 3), np.uint8)
    colors[:, :8], colors[:, 8:] = (200, 40, 10), (30, 120, 220)
    mosaic = np.empty((12, 16), np.uint8)
    for place, channel in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = colors[row::2, column::2, "rgb".index(channel)]
    found = images.rgb_from_message(padded(wide(mosaic) if bits == 16 else mosaic, f"bayer_{pattern}{bits}", padding))
    np.testing.assert_array_equal(found[2:-2, 2:6], colors[2:-2, 2:6])
    np.testing.assert_array_equal(found[2:-2, 10:-2], colors[2:-2, 10:-2])


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv_pixels_share_their_color_in_pairs(encoding: str, order: str, padding: int) -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(60, 190, (4, 6)).astype(np.uint8)
    u, v = (rng.integers(110, 146, (4, 3)).astype(np.uint8) for _ in range(2))
    packed = np.empty((4, 3, 4), np.uint8)
    lumas = iter((0, 1))
    for place, part in enumerate(order):
        packed[..., place] = {"u": u, "v": v}[part] if part in "uv" else y[:, next(lumas) :: 2]
    found = images.rgb_from_message(padded(packed.reshape(4, 6, 2), encoding, padding))

    # ITU-R BT.601, studio range.
    luma = 1.164 * (y.astype(float) - 16)
    cb, cr = (np.repeat(part.astype(float) - 128, 2, axis=1) for part in (u, v))
    expected = np.stack([luma + 1.596 * cr, luma - 0.813 * cr - 0.391 * cb, luma + 2.018 * cb], axis=2)
    np.testing.assert_allclose(found, expected, atol=1.5)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_yuv_planes_share_their_color_in_squares(encoding: str, padding: int) -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(60, 190, (4, 6)).astype(np.uint8)
    u, v = (rng.integers(110, 146, (2, 3)).astype(np.uint8) for _ in range(2))
    colors = np.dstack((u, v) if encoding == "nv12" else (v, u)).reshape(2, 6)
    message = padded(np.vstack([y, colors]), encoding, padding)
    message.height = 4
    found = images.rgb_from_message(message)

    # ITU-R BT.601, studio range.
    luma = 1.164 * (y.astype(float) - 16)
    cb, cr = (part.astype(float).repeat(2, 0).repeat(2, 1) - 128 for part in (u, v))
    expected = np.stack([luma + 1.596 * cr, luma - 0.813 * cr - 0.391 * cb, luma + 2.018 * cb], axis=2)
    np.testing.assert_allclose(found, expected, atol=1.5)


def test_all_values_of_16_bits_are_scaled_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = images.rgb_from_message(padded(values, "mono16", 0))
    np.testing.assert_array_equal(found[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        ("8UC1", np.uint8),
        ("mono8", np.uint8),
        ("16UC1", np.uint16),
        ("mono16", np.uint16),
        ("16SC1", np.int16),
        ("32SC1", np.int32),
    ],
)
def test_ids_of_each_encoding(encoding: str, dtype: type, padding: int, big: bool) -> None:
    ids = RNG.integers(0, np.iinfo(dtype).max, (4, 5)).astype(dtype)
    found = images.ids_from_message(padded(ids, encoding, padding, big))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, ids)


def test_what_needs_no_conversion_shares_the_memory_of_the_message() -> None:
    depth = RNG.random((4, 5), np.float32)
    ids = np.ones((4, 5), np.uint16)
    for pixels, encoding, convert in (
        (RGB, "rgb8", images.rgb_from_message),
        (ids, "mono16", images.ids_from_message),
        (depth, "32FC1", images.depth_from_message),
    ):
        message = messages.image_message(pixels, encoding, HEADER)
        assert np.shares_memory(convert(message), np.frombuffer(message.data, np.uint8)), encoding


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 2])
def test_depth_is_in_meters(padding: int, big: bool) -> None:
    meters = np.array([[0.5, 1.25, 0], [12.0, np.nan, np.inf]], np.float32)
    np.testing.assert_array_equal(images.depth_from_message(padded(meters, "32FC1", padding, big)), meters)
    millimeters = np.array([[500, 1250, 0], [12000, 1, 65535]], np.uint16)
    found = images.depth_from_message(padded(millimeters, "16UC1", padding, big))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.5, 1.25, 0], [12, 0.001, 65.535]], rtol=1e-6)


def test_compressed_images_keep_their_colors() -> None:
    bgr = RGB[..., ::-1]
    np.testing.assert_array_equal(images.rgb_from_compressed(compressed(bgr, ".png", "png")), RGB)
    np.testing.assert_array_equal(images.rgb_from_compressed(compressed(bgr, ".png", "bgr8; png compressed bgr8")), RGB)
    # The format names the channel order that the encoder was given.
    np.testing.assert_array_equal(images.rgb_from_compressed(compressed(RGB, ".png", "rgb8; png compressed rgb8")), RGB)
    np.testing.assert_array_equal(
        images.rgb_from_compressed(compressed(GRAY, ".png", "mono8; png compressed ")), np.dstack([GRAY] * 3)
    )
    flat = np.full((32, 48, 3), (30, 90, 200), np.uint8)  # blue, green, red
    found = images.rgb_from_compressed(compressed(flat, ".jpg", "rgb8; jpeg compressed bgr8"))
    assert found.shape == (32, 48, 3)
    np.testing.assert_allclose(found, flat[..., ::-1], atol=4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_compressed_ids_are_kept_exactly(dtype: type) -> None:
    ids = RNG.integers(0, np.iinfo(dtype).max, (30, 40)).astype(dtype)
    found = images.ids_from_compressed(compressed(ids, ".png", "16UC1; png compressed "))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, ids)


def test_small_ids_may_be_packed_in_few_bits() -> None:
    inside = np.eye(5, dtype=bool)
    file = io.BytesIO()
    PIL.Image.fromarray(inside).save(file, "PNG")  # 1 bit a pixel
    message = CompressedImage(format="png", data=array.array("B", file.getvalue()))
    np.testing.assert_array_equal(images.ids_from_compressed(message), inside)


def test_the_bytes_decide_and_not_the_format() -> None:
    np.testing.assert_array_equal(images.ids_from_compressed(compressed(GRAY, ".png", "jpeg")), GRAY)


def test_an_orientation_in_the_file_is_ignored() -> None:
    flat = np.zeros((20, 30, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = io.BytesIO()
    PIL.Image.fromarray(flat).save(file, "JPEG", exif=exif)
    message = CompressedImage(format="jpeg", data=array.array("B", file.getvalue()))
    assert images.rgb_from_compressed(message).shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("message", "convert", "reason"),
    [
        (compressed(GRAY, ".jpg", "mono8; jpeg compressed "), images.ids_from_compressed, "as JPEG, which changes"),
        (compressed(GRAY, ".jpg", "png"), images.ids_from_compressed, "encoded as JPEG, which changes"),
        (compressed(RGB, ".png", "png"), images.ids_from_compressed, r"3 channels \(mode RGB\)"),
        (CompressedImage(format="jpeg", data=b"not a JPEG"), images.rgb_from_compressed, "10 bytes of format 'jpeg'"),
        (CompressedImage(format="jpeg"), images.rgb_from_compressed, "data is empty"),
    ],
)
def test_wrong_compressed_images_are_named(message: CompressedImage, convert: object, reason: str) -> None:
    with pytest.raises(images.InputError, match=reason):
        convert(message)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "nv24"}, "encoding 'nv24' is not supported; publish one of rgb8"),
        ({"encoding": "nv12", "step": 8, "height": 18}, "8x18 nv12 image with step 8 needs 216; set height to that of"),
        ({"encoding": "nv12", "step": 7}, "step 7 is too small for 8 pixels of nv12"),
        ({"encoding": "nv21", "width": 7}, "a nv21 image has 7x6 pixels, width and height must be even"),
        ({"encoding": "8UC2"}, "encoding '8UC2' is not supported"),
        ({"step": 23}, "step 23 is too small for 8 pixels of rgb8, which need 24 bytes"),
        ({"height": 7}, "data has 144 bytes, a 8x7 image with step 24 needs 168"),
        ({"width": 0}, r"the image is empty \(0x6 pixels\)"),
        ({"encoding": "uyvy", "width": 7}, "a uyvy image is 7 pixels wide"),
    ],
)
def test_wrong_images_are_named(change: dict[str, object], reason: str) -> None:
    image = messages.image_message(RGB, "rgb8", HEADER)
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(images.InputError, match=reason):
        images.rgb_from_message(image)


def compressed_depth(levels: np.ndarray, format_text: str, a: float = 0.0, b: float = 0.0) -> CompressedImage:
    """Return a message of image_transport's compressedDepth: a header and levels of 16 bits as PNG."""
    message = compressed(levels, ".png", format_text)
    message.data = array.array("B", struct.pack("<iff", 0, a, b) + message.data.tobytes())
    return message


def test_compressed_depth_is_in_meters() -> None:
    millimeters = np.array([[500, 1250, 0], [12000, 1, 65535]], np.uint16)
    found = images.depth_from_compressed(compressed_depth(millimeters, "16UC1; compressedDepth png"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.5, 1.25, 0], [12, 0.001, 65.535]], rtol=1e-6)
    # The defaults of the publisher: 100 levels at a distance of one meter, and a maximum of 10 m.
    a = 100.0 * (100.0 + 1.0)
    b = 1.0 - a / 10.0
    meters = np.array([[0.5, 1.25], [9.5, np.nan]], np.float32)
    levels = np.nan_to_num(a / meters + b).astype(np.uint16)
    for text in ("32FC1; compressedDepth png", "32FC1; compressedDepth"):
        found = images.depth_from_compressed(compressed_depth(levels, text, a, b))
        np.testing.assert_allclose(found, meters, rtol=0.01)


def test_wrong_compressed_depth_is_named() -> None:
    levels = np.ones((2, 3), np.uint16)
    for message, reason in (
        (compressed_depth(levels, "32FC1; compressedDepth rvl"), "and its parameter format set to png"),
        (compressed(levels, ".png", "mono16; png compressed "), "with the compressedDepth transport"),
        (compressed_depth(levels.astype(np.uint8), "16UC1; compressedDepth png"), "not a gray PNG with 16 bits"),
        (compressed(levels, ".png", "16UC1; compressedDepth png"), "not a gray PNG with 16 bits"),
        (CompressedImage(format="16UC1; compressedDepth png"), "data has 0 bytes, the header alone has 12"),
    ):
        with pytest.raises(images.InputError, match=reason):
            images.depth_from_compressed(message)


def test_wrong_ids_and_depth_are_named() -> None:
    image = messages.image_message(RGB, "rgb8", HEADER)
    with pytest.raises(images.InputError, match="encoding 'rgb8' is not supported for instance ids; publish one of"):
        images.ids_from_message(image)
    with pytest.raises(images.InputError, match="encoding 'rgb8' is not supported for depth; publish 16UC1"):
        images.depth_from_message(image)


def test_the_last_row_may_lack_its_padding() -> None:
    message = padded(RGB, "bgr8", 5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(images.rgb_from_message(message), RGB[..., ::-1])


def test_unknown_encodings_are_left_to_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    message = messages.image_message(RGB, "nv24", HEADER)
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(images.InputError, match="or install cv_bridge, which supports more"):
        images.rgb_from_message(message)

    asked = []

    class Bridge:
        def imgmsg_to_cv2(self, given: Image, desired_encoding: str) -> np.ndarray:
            asked.append((given.encoding, desired_encoding))
            if given.height == 5:
                raise ValueError("bad luck")
            return RGB[:, ::2]

    module = ModuleType("cv_bridge")
    module.CvBridge = Bridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    np.testing.assert_array_equal(images.rgb_from_message(message), RGB[:, ::2])
    assert asked == [("nv24", "rgb8")]
    message.height = 5
    with pytest.raises(images.InputError, match=r"encoding 'nv24' is not supported.*\(cv_bridge, which is") as error:
        images.rgb_from_message(message)
    assert "bad luck" not in str(error.value)


def test_any_object_with_the_fields_of_an_image_will_do() -> None:
    # Messages of a recording have other classes, and their data may be bytes or an array.
    fields = {"height": 6, "width": 8, "encoding": "rgb8", "is_bigendian": 0, "step": 24}
    for data in (RGB.tobytes(), RGB.reshape(-1), memoryview(RGB.tobytes())):
        np.testing.assert_array_equal(images.rgb_from_message(SimpleNamespace(**fields, data=data)), RGB)
