"""Regions from files: id images, folders of masks, and errors for files that cannot be used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage
from PIL import Image

from osprey_ros.errors import RegionError
from osprey_ros.regions.files import load_regions
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
    np.testing.assert_array_equal(regions.areas, load_regions(files / "ids.png").select([12, 3, 7, 9, 300]).areas)


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


def test_mask_folders_that_are_no_good_are_named(files: Path) -> None:
    masks = files / "masks"
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(masks / "7.png")
    with pytest.raises(RegionError, match=r"7\.png is empty"):
        load_regions(masks)
    Image.fromarray(np.ones((30, 80), np.uint8)).save(masks / "7.png")
    with pytest.raises(RegionError, match=r"7\.png is 80x30, 3\.png is 80x60"):
        load_regions(masks)
    Image.fromarray(np.ones((60, 80, 3), np.uint8)).save(masks / "7.png")
    with pytest.raises(RegionError, match=r"7\.png have mode RGB.*non-zero inside the region") as refused:
        load_regions(masks)
    assert "ids" not in str(refused.value)
    Image.fromarray(np.ones((60, 80), np.uint8)).save(masks / "7.png")
    (masks / "9.png").rename(masks / "1718000000123456789.png")
    with pytest.raises(RegionError, match=r"masks .*masks: .*must be 1 to 2147483647.*not 1718000000123456789"):
        load_regions(masks)
    (files / "none").mkdir()
    with pytest.raises(RegionError, match=r"none has no \.png file"):
        load_regions(files / "none")
