"""What the bytes of image messages are decides, not what is declared: ids, cut-off frames, ranges and orientation."""

from __future__ import annotations

import array
import io

import cv2
import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CompressedImage

from osprey_ros.messages import images
from osprey_ros.ros.outputs import messages

RNG = np.random.default_rng(7)
HEADER = messages.header_message(5, "camera_optical_frame")


def png_message(pixels: np.ndarray, name: str = "png") -> CompressedImage:
    """Return a compressed image message with a PNG of these values."""
    return CompressedImage(format=name, data=array.array("B", cv2.imencode(".png", pixels)[1].tobytes()))


def file_message(image: PIL.Image.Image, kind: str, name: str = "png", **options: object) -> CompressedImage:
    """Return a compressed image message whose data is a file of one format, whatever it declares."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return CompressedImage(format=name, data=array.array("B", file.getvalue()))


def test_ids_are_refused_by_their_bytes_and_not_by_what_is_declared() -> None:
    gray = PIL.Image.fromarray(np.full((20, 30), 3, np.uint8))
    exact = images.ids_from_compressed(file_message(gray, "PNG", name="jpeg"))
    np.testing.assert_array_equal(exact, 3)
    for kind, shown in (("JPEG", "JPEG"), ("WEBP", "lossy WebP")):
        with pytest.raises(images.InputError, match=f"encoded as {shown}, which changes values"):
            images.ids_from_compressed(file_message(gray, kind))
    two = file_message(gray, "TIFF", save_all=True, append_images=[gray])
    with pytest.raises(images.InputError, match="it has 2 pages"):
        images.ids_from_compressed(two)


def test_a_palette_of_ids_is_taken_as_its_indices() -> None:
    ids = RNG.integers(0, 9, (20, 30)).astype(np.uint8)
    image = PIL.Image.fromarray(ids).convert("P")
    image.putpalette([value * 37 % 256 for value in range(768)])
    image.putdata(ids.reshape(-1).tolist())
    np.testing.assert_array_equal(images.ids_from_compressed(file_message(image, "PNG")), ids)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_frame_that_is_cut_off_is_refused_whatever_opencv_does(kind: str, share: float) -> None:
    message = file_message(PIL.Image.fromarray(RNG.integers(0, 256, (40, 60, 3), np.uint8)), kind)
    message.data = message.data[: int(len(message.data) * share)]
    with pytest.raises(images.InputError, match=f"the {kind} image of .* bytes is damaged: its end"):
        images.rgb_from_compressed(message)
    gray = file_message(PIL.Image.fromarray(RNG.integers(0, 256, (40, 60), np.uint8)), "PNG")
    gray.data = gray.data[: int(len(gray.data) * share)]
    with pytest.raises(images.InputError, match="damaged PNG file: its end is missing"):
        images.ids_from_compressed(gray)


def test_the_depth_behind_the_header_is_checked() -> None:
    whole = png_message(RNG.integers(0, 9999, (40, 60)).astype(np.uint16), "16UC1; compressedDepth png")
    whole.data = array.array("B", bytes(12) + whole.data.tobytes()[:-20])
    with pytest.raises(images.InputError, match="the depth behind the header is damaged: its end is missing"):
        images.depth_from_compressed(whole)
    tiff = file_message(PIL.Image.fromarray(np.zeros((20, 30), np.uint16)), "TIFF", "16UC1; compressedDepth png")
    tiff.data = array.array("B", bytes(12) + tiff.data.tobytes())
    with pytest.raises(images.InputError, match="the data behind the header is not a gray PNG with 16 bits"):
        images.depth_from_compressed(tiff)
    jpeg = file_message(PIL.Image.fromarray(np.zeros((20, 30), np.uint8)), "JPEG", "16UC1; compressedDepth jpeg")
    jpeg.data = array.array("B", bytes(12) + jpeg.data.tobytes())
    with pytest.raises(images.InputError, match="encoded as JPEG, which changes values"):
        images.depth_from_compressed(jpeg)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_the_range_in_use_is_scaled_in_raw_and_compressed_images(bits: int, caplog: pytest.LogCaptureFixture) -> None:
    values = np.linspace(0, 2**bits - 1, 48).reshape(6, 8).astype(np.uint16)
    expected = np.repeat(np.rint(values / (2**bits - 1) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    for found in (
        images.rgb_from_message(messages.image_message(values, "mono16", HEADER)),
        images.rgb_from_message(messages.image_message(np.dstack([values] * 3), "rgb16", HEADER)),
        images.rgb_from_compressed(png_message(values, "mono16; png compressed ")),
        images.rgb_from_compressed(png_message(np.dstack([values] * 3), "bgr16; png compressed ")),
    ):
        np.testing.assert_allclose(found, expected, atol=1)
    (line,) = caplog.messages  # said once
    assert f"values end at {2**bits - 1} of 65535, so they are taken as {bits} bits and scaled" in line


def test_an_orientation_that_is_ignored_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    message = file_message(PIL.Image.new("RGB", (30, 20)), "JPEG", "jpeg", exif=exif)
    for _ in range(2):
        assert images.rgb_from_compressed(message).shape == (20, 30, 3)
    (line,) = caplog.messages
    assert "EXIF orientation 6, which is ignored, as image_transport does" in line
