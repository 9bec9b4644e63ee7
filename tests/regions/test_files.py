"""Regions from files: id images, folders of masks, and errors for files that cannot be used."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage
from PIL import Image

from osprey_ros.errors import RegionError
from osprey_ros.regions.files import load_image_with_masks, load_mask_files, load_regions
from osprey_ros.regions.regions import regions_from_id_image


@pytest.fixture
def files(tmp_path: Path, sample: SampleImage) -> Path:
    """A folder with ids.png (16 bits) and masks/ (one binary PNG for each region)."""
    Image.fromarray(sample.ids).save(tmp_path / "ids.png")
    (tmp_path / "masks").mkdir()
    for region in (3, 7, 9, 12, 300):
        Image.fromarray((sample.ids == region).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{region}.png")
    return tmp_path


def test_names_that_are_not_numbers_count_from_one(files: Path) -> None:
    (files / "masks" / "300.png").rename(files / "masks" / "mug.png")
    regions = load_regions(files / "masks")
    np.testing.assert_array_equal(regions.ids, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(regions.areas, load_regions(files / "ids.png").select([3, 7, 9, 12, 300]).areas)


def test_eight_bits_palettes_and_single_bits_are_taken(tmp_path: Path) -> None:
    ids = np.zeros((6, 8), np.uint8)
    ids[1:3, 2:5], ids[4, :] = 1, 2
    Image.fromarray(ids).save(tmp_path / "eight.png")
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "palette.png")
    for name in ("eight.png", "palette.png"):
        np.testing.assert_array_equal(load_regions(tmp_path / name).areas, [6, 8])
    Image.fromarray(ids > 0).save(tmp_path / "one_bit.png")
    np.testing.assert_array_equal(load_regions(tmp_path / "one_bit.png").areas, [14])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ids_of_few_bits_are_as_stored(tmp_path: Path, bits: int) -> None:
    ids = np.random.default_rng(bits).integers(0, 2**bits, (6, 16), dtype=np.uint8)
    ids[0, 0] = 2**bits - 1
    _write_gray_png(tmp_path / "few.png", ids, bits)
    expected = regions_from_id_image(ids)
    regions = load_regions(tmp_path / "few.png")
    np.testing.assert_array_equal(regions.ids, expected.ids)
    np.testing.assert_array_equal(regions.areas, expected.areas)
    np.testing.assert_array_equal(regions.boxes, expected.boxes)


def _write_gray_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Writes uint8 [H, W] as a gray PNG of 1, 2 or 4 bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = np.packbits(np.unpackbits(values[:, :, None], axis=2)[:, :, -bits:].reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # each row begins with its filter: none
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((60, 80), np.uint8), r"7\.png is left out: it is empty; set the pixels"),
        (np.ones((30, 80), np.uint8), r"7\.png is left out: it is 80x30, others are 80x60"),
        (np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3), r"7\.png is left out: it has 3 channels"),
        (None, r"7\.png is left out: it is not an image of a known format"),
    ],
)
def test_a_bad_mask_is_named_and_the_others_are_read(
    files: Path, pixels: np.ndarray | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    if pixels is None:
        (files / "masks" / "7.png").write_text("text")
    else:
        Image.fromarray(pixels).save(files / "masks" / "7.png")
    found = load_mask_files(files / "masks")
    assert found.regions.ids.tolist() == [3, 9, 12, 300]
    assert found.files == ("3.png", "9.png", "12.png", "300.png")
    (line,) = caplog.messages
    assert re.search(reason, line)


def test_masks_of_the_image_size_count_in_a_folder_with_several_sizes(files: Path) -> None:
    for name in ("1.png", "2.png", "4.png", "5.png", "6.png", "8.png"):
        Image.fromarray(np.full((6, 8), 255, np.uint8)).save(files / "masks" / name)
    assert load_mask_files(files / "masks").regions.shape == (6, 8)
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(files / "image.png")
    _, found = load_image_with_masks(files / "image.png", files / "masks")
    assert found.files == ("3.png", "7.png", "9.png", "12.png", "300.png")


def test_a_folder_without_a_good_mask_is_refused(files: Path) -> None:
    masks = files / "masks"
    for path in masks.iterdir():
        Image.fromarray(np.zeros((60, 80), np.uint8)).save(path)
    with pytest.raises(RegionError, match=r"none of the 5 masks in .* can be used; mask .*3\.png: it is empty"):
        load_regions(masks)


def test_masks_as_sam_writes_them_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in range(12):
        mask = np.zeros((20, 30), np.uint8)
        mask[name, : name + 1] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.csv").write_text("id,area\n")
    found = load_mask_files(tmp_path)
    assert found.files == tuple(f"{name}.png" for name in range(12))
    assert found.regions.ids.tolist() == list(range(1, 13))  # 0 is the background
    assert found.regions.areas.tolist() == list(range(1, 13))


def test_numbers_in_names_count_also_beside_words(tmp_path: Path) -> None:
    for area, name in enumerate(("mask_2.png", "mask_10.png", "mask_100.png"), start=1):
        mask = np.zeros((20, 30), np.uint8)
        mask[0, :area] = 1
        Image.fromarray(mask).save(tmp_path / name)
    assert load_mask_files(tmp_path).files == ("mask_2.png", "mask_10.png", "mask_100.png")


def test_files_that_systems_add_are_passed_over(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("._3.png", "._masks", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (files / "masks" / name).write_bytes(b"Mac OS X")
    assert load_regions(files / "masks").ids.tolist() == [3, 7, 9, 12, 300]
    assert not caplog.records


def test_gray_stored_as_color_and_float_masks_are_masks(files: Path) -> None:
    masks = files / "masks"
    seven = np.asarray(Image.open(masks / "7.png"))
    Image.fromarray(np.dstack([seven] * 3)).save(masks / "7.png")
    Image.fromarray((np.asarray(Image.open(masks / "9.png")) / 255).astype(np.float32)).save(masks / "9.tif")
    (masks / "9.png").unlink()
    found = load_mask_files(masks)
    assert found.files == ("3.png", "7.png", "9.tif", "12.png", "300.png")
    ids = load_regions(files / "ids.png")
    np.testing.assert_array_equal(found.regions.areas, ids.areas)


LOSSY = ("JPEG", "WEBP", "TIFF", "JPEG2000")


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("name", ["m.jpg", "m.png"])
def test_lossy_encodings_are_refused_by_content(tmp_path: Path, kind: str, name: str) -> None:
    ids = np.zeros((60, 80), np.uint8)
    ids[10:30, 10:30] = 3
    options = {"compression": "jpeg"} if kind == "TIFF" else {}
    Image.fromarray(ids).save(tmp_path / name, kind, **options)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes((tmp_path / name).read_bytes())
    shown = {"WEBP": "lossy WebP", "JPEG2000": "JPEG 2000"}.get(kind, "JPEG")
    for path in (tmp_path / name, tmp_path / "folder"):
        with pytest.raises(RegionError, match=f"m\\..*encoded as {shown}, which changes values; save it as PNG"):
            load_regions(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "WEBP"])
def test_several_pages_or_frames_are_refused(tmp_path: Path, kind: str) -> None:
    first, second = (np.full((60, 80), value, np.uint8) for value in (3, 5))
    Image.fromarray(first).save(
        tmp_path / "m.png", kind, save_all=True, append_images=[Image.fromarray(second)], lossless=True
    )
    with pytest.raises(RegionError, match=r"m\.png: it has 2 (pages|frames); save the one as PNG"):
        load_regions(tmp_path / "m.png")


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "PPM"])
def test_exact_encodings_are_taken_whatever_the_name(tmp_path: Path, kind: str) -> None:
    ids = np.zeros((60, 80), np.uint8)
    ids[10:30, 10:30] = 3
    Image.fromarray(ids).save(tmp_path / "m.jpg", kind)
    assert load_regions(tmp_path / "m.jpg").areas.tolist() == [400]


def test_an_id_image_of_speckles_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    ids = np.zeros((60, 80), np.uint8)
    ids[0, :64] = np.arange(1, 65)
    Image.fromarray(ids).save(tmp_path / "m.png")
    assert len(load_regions(tmp_path / "m.png")) == 64
    ids[2, 1] = 99
    Image.fromarray(ids).save(tmp_path / "m.png")
    with pytest.raises(RegionError, match=r"m\.png: 65 of the 65 ids .* fewer than 16 pixels each.*--masks-anyway"):
        load_regions(tmp_path / "m.png")
    assert len(load_regions(tmp_path / "m.png", masks_anyway=True)) == 65


def test_a_palette_whose_0_is_not_the_background_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = np.full((60, 80), 7, np.uint8)
    ids[10:30, 10:30], ids[40:50, 10:30] = 0, 1
    image = Image.fromarray(ids).convert("P")
    image.putpalette([value * 37 % 256 for value in range(768)])
    image.putdata(ids.reshape(-1).tolist())
    image.save(tmp_path / "m.png")
    assert load_regions(tmp_path / "m.png").ids.tolist() == [1, 7]
    (line,) = caplog.messages
    assert "its ids are palette indices, which optimizers of PNG files re-order; 0 is taken for the background" in line
    assert "id 7 covers 88 %, also at the border" in line


def test_masks_are_turned_as_their_image_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    upright_ids = np.zeros((60, 80), np.uint8)
    upright_ids[5:20, 10:70] = 3
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(upright_ids)
    Image.fromarray(np.dstack([stored] * 3)).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(upright_ids).save(tmp_path / "upright.png")
    Image.fromarray(stored).save(tmp_path / "stored.png")
    for masks in ("turned.png", "upright.png"):
        rgb, found = load_image_with_masks(tmp_path / "photo.png", tmp_path / masks)
        np.testing.assert_array_equal(rgb[:, :, 0] > 0, upright_ids > 0)
        assert found.regions.boxes.tolist() == [[10, 5, 60, 15]]
    assert "turned.png has EXIF orientation 6 and is turned upright" in caplog.text
    with pytest.raises(RegionError, match=r"stored\.png have the size of the stored pixels .* EXIF \(orientation 6\)"):
        load_image_with_masks(tmp_path / "photo.png", tmp_path / "stored.png")


def test_masks_of_another_resolution_are_resized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = np.zeros((30, 40), np.uint8)
    ids[5:10, 20:30] = 3
    Image.fromarray(ids).save(tmp_path / "half.png")
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "image.png")
    _, found = load_image_with_masks(tmp_path / "image.png", tmp_path / "half.png")
    assert found.regions.boxes.tolist() == [[40, 10, 20, 10]]
    assert found.regions.areas.tolist() == [200]
    assert "half.png are 40x30 pixels, the image is 80x60; they are resized by nearest neighbor" in caplog.text


def test_mask_folders_that_cannot_be_used_are_named(files: Path) -> None:
    masks = files / "masks"
    (masks / "9.png").rename(masks / "1718000000123456789.png")  # no id: numbered in order
    found = load_mask_files(masks)
    assert found.regions.ids.tolist() == [1, 2, 3, 4, 5]
    assert found.files[-1] == "1718000000123456789.png"
    (files / "none").mkdir()
    with pytest.raises(RegionError, match=r"none has no \.png file"):
        load_regions(files / "none")
