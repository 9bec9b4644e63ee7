"""Conversion of messages into a frame: regions in each form, depth, camera matrix, and invalid messages."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, RegionOfInterest

from osprey_interfaces.msg import Region, RegionArray
from osprey_ros.errors import InputError
from osprey_ros.frame import Frame, RegionLabel
from osprey_ros.messages import regions as region_messages
from osprey_ros.messages.frames import RawFrame, camera_matrix_of, frame_from_messages
from osprey_ros.messages.regions import regions_from_detections, regions_from_message
from osprey_ros.regions.masks import rle_from_mask
from osprey_ros.regions.regions import Regions
from osprey_ros.ros.outputs import messages

STAMP = 1_700_000_000_123_456_789
HEADER = messages.header_message(STAMP, "camera_optical_frame")
RGB = np.random.default_rng(7).integers(0, 256, (60, 80, 3), np.uint8)
IMAGE = messages.image_message(RGB, "rgb8", HEADER)
IDS = messages.image_message(np.ones((60, 80), np.uint8), "mono8", HEADER)
MATRIX = np.array([[500.0, 0, 39.5], [0, 501.0, 29.5], [0, 0, 1]])
TOPICS = {name: f"/robot/{name}" for name in ("image", "segmentation", "regions", "detections", "depth", "camera_info")}


def raw(**changes: Any) -> RawFrame:
    return RawFrame(**{"image": IMAGE, "regions": IDS, "regions_from": "segmentation", "topics": TOPICS, **changes})


def region_array(*regions: Region) -> RegionArray:
    return RegionArray(header=HEADER, height=60, width=80, regions=list(regions))


def rle_region(number: int, mask: np.ndarray, roi: tuple[int, int, int, int], **fields: Any) -> Region:
    """Return a region from a full-size mask, with runs for the roi: x, y, width, height."""
    x, y, width, height = roi
    return Region(
        id=number,
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        encoding=Region.RLE,
        rle=array.array("I", rle_from_mask(mask[y : y + height, x : x + width] if width else mask)),
        **fields,
    )


def mask_of(regions: Regions, row: int) -> np.ndarray:
    x, y, width, height = regions.boxes[row]
    mask = np.zeros(regions.shape, bool)
    mask[y : y + height, x : x + width] = regions.crop(row)
    return mask


def detection(identity: str, box: tuple[float, float, float, float, float], *results: tuple[str, float]) -> Any:
    """Return the fields of a vision_msgs/Detection2D that the conversion reads."""
    x, y, width, height, theta = box
    return SimpleNamespace(
        id=identity,
        bbox=SimpleNamespace(
            center=SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta), size_x=width, size_y=height
        ),
        results=[SimpleNamespace(hypothesis=SimpleNamespace(class_id=name, score=score)) for name, score in results],
    )


def test_the_constants_are_those_of_the_message() -> None:
    assert (Region.RLE, Region.POLYGON, Region.BOX) == (
        region_messages.RLE,
        region_messages.POLYGON,
        region_messages.BOX,
    )


def test_a_frame_has_the_stamp_and_frame_id_of_its_image() -> None:
    frame = frame_from_messages(raw())
    assert (frame.stamp, frame.frame_id) == (STAMP, "camera_optical_frame")
    np.testing.assert_array_equal(frame.rgb, RGB)
    assert frame.regions.shape == (60, 80)
    assert (frame.depth, frame.camera_matrix, frame.labels) == (None, None, {})
    assert raw().stamp == STAMP


def test_image_and_ids_may_be_compressed() -> None:
    ids = np.arange(4800, dtype=np.uint16).reshape(60, 80)
    png = CompressedImage(header=HEADER, format="16UC1; png compressed ", data=cv2.imencode(".png", ids)[1].tobytes())
    compressed = CompressedImage(
        header=HEADER, format="rgb8; png compressed bgr8", data=cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
    )
    frame = frame_from_messages(raw(image=compressed, regions=png))
    np.testing.assert_array_equal(frame.rgb, RGB)
    np.testing.assert_array_equal(frame.regions, ids)
    assert frame.stamp == STAMP


@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (5, 10, 60, 40)])
def test_run_lengths_may_cover_the_roi_or_the_image(roi: tuple[int, int, int, int]) -> None:
    first, second = np.zeros((2, 60, 80), bool)
    first[12:40, 8:30], second[20:45, 20:64] = True, True
    message = region_array(rle_region(7, first, roi, label="cup", score=0.5), rle_region(3, second, roi))
    regions, labels = regions_from_message(message)
    assert regions.ids.tolist() == [7, 3]
    np.testing.assert_array_equal(mask_of(regions, 0), first)
    np.testing.assert_array_equal(mask_of(regions, 1), second)
    assert labels == {7: RegionLabel("cup", 0.5)}
    assert regions.boxes.tolist() == [[8, 12, 22, 28], [20, 20, 44, 25]]


def test_polygons_and_boxes_are_regions() -> None:
    ring = np.zeros((60, 80), np.uint8)
    cv2.circle(ring, (40, 30), 20, 1, -1)
    outer, _ = cv2.findContours(ring, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = outer[0].reshape(-1).astype(np.float32)
    hole = [35, 25, 45, 25, 45, 35, 35, 35]
    message = region_array(
        Region(id=1, encoding=Region.POLYGON, polygon=array.array("f", corners)),
        Region(
            id=2,
            encoding=Region.POLYGON,
            polygon=array.array("f", [*corners, *hole]),
            outlines=array.array("I", [len(corners) // 2, 4]),
        ),
        Region(id=3, encoding=Region.BOX, roi=RegionOfInterest(x_offset=3, y_offset=4, width=10, height=20)),
    )
    regions, _ = regions_from_message(message)
    np.testing.assert_array_equal(mask_of(regions, 0), ring.astype(bool))
    assert not mask_of(regions, 1)[30, 40]
    assert regions.areas[1] < regions.areas[0]
    assert regions.boxes[2].tolist() == [3, 4, 10, 20]
    assert regions.areas[2] == 200


def test_an_array_without_regions_is_one() -> None:
    regions, labels = regions_from_message(region_array())
    assert len(regions) == 0
    assert regions.shape == (60, 80)
    assert labels == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (RegionArray(height=0, width=80), "the image size of the regions is 80x0 pixels; set height and width"),
        (region_array(Region(id=4, encoding=9)), r"region 4: encoding 9 is not RLE \(0\), POLYGON \(1\) or BOX \(2\)"),
        (
            region_array(Region(id=4, rle=array.array("I", [5]))),
            "region 4: its run lengths add up to 5 pixels but 80x60",
        ),
        (
            region_array(Region(id=4, encoding=2, roi=RegionOfInterest(x_offset=70, width=20, height=5))),
            r"region 4: the roi of 20x5 pixels at \(70, 0\) exceeds the image of 80x60",
        ),
        (region_array(Region(id=4, encoding=1, polygon=array.array("f", [1, 2, 3]))), "region 4: its polygon has 3"),
        (region_array(Region(id=0, encoding=2)), r"region ids must be 1 to 2147483647 \(0 is background\), not 0"),
    ],
)
def test_wrong_regions_are_named_with_their_topic(message: RegionArray, reason: str) -> None:
    with pytest.raises(InputError, match=f"^/robot/regions: .*{reason}"):
        frame_from_messages(raw(regions=message, regions_from="regions"))


CORNER = RegionOfInterest(width=5, height=5)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Region(id=4, encoding=9), "region 4 is left out: encoding 9 is not RLE"),
        (Region(id=0, encoding=2, roi=CORNER), "region 0 is left out: region ids must be 1 to"),
        (Region(id=3, encoding=2, roi=CORNER), "region 3 is left out: its id is given twice"),
        (Region(id=4, rle=array.array("I", [60 * 80])), "region 4 is left out: it has no pixel inside the image"),
    ],
)
def test_a_bad_region_is_named_once_and_the_others_are_used(
    bad: Region, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = [Region(id=number, encoding=2, roi=CORNER) for number in (3, 5)]
    for _ in range(2):
        regions, _ = regions_from_message(region_array(good[0], bad, good[1]))
        assert regions.ids.tolist() == [3, 5]
    (line,) = caplog.messages
    assert reason in line


def test_a_bad_detection_is_named_once_and_the_others_are_used(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = (20.0, 15.0, 20.0, 10.0, 0.0), (20.0, 15.0, float("nan"), 10.0, 0.0)
    outside = (200.0, 15.0, 20.0, 10.0, 0.0)
    message = SimpleNamespace(detections=[detection("8", bad), detection("9", good), detection("10", outside)])
    for _ in range(2):
        assert regions_from_detections(message, 60, 80)[0].ids.tolist() == [9]
    assert [line.split(":")[0] for line in caplog.messages] == ["detection 8 is left out", "detection 10 is left out"]


def test_boxes_of_detections_are_regions() -> None:
    message = SimpleNamespace(
        detections=[
            detection("12", (20.0, 15.0, 20.0, 10.0, 0.0), ("cup", 0.25), ("mug", 0.75)),
            detection("7", (70.0, 50.0, 40.0, 8.0, 0.0)),
            detection("9", (40.0, 30.0, 20.0, 6.0, np.pi / 2), ("pen", 0.5)),
        ]
    )
    frame = frame_from_messages(raw(regions=message, regions_from="detections"))
    assert isinstance(frame.regions, Regions)
    assert frame.regions.ids.tolist() == [12, 7, 9]
    # The second box exceeds the image, the third one is upright.
    assert frame.regions.boxes.tolist() == [[10, 10, 20, 10], [50, 46, 30, 8], [37, 20, 6, 20]]
    assert frame.labels == {12: RegionLabel("mug", 0.75), 9: RegionLabel("pen", 0.5)}


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_becomes_0(score: float, caplog: pytest.LogCaptureFixture) -> None:
    box = (20.0, 15.0, 20.0, 10.0, 0.0)
    message = SimpleNamespace(
        detections=[detection("1", box, ("cup", score), ("mug", -0.25)), detection("2", box, ("pen", score))]
    )
    assert regions_from_detections(message, 60, 80)[1] == {1: RegionLabel("mug", -0.25), 2: RegionLabel("pen", 0.0)}
    corner = RegionOfInterest(width=5, height=5)
    array = region_array(
        Region(id=3, encoding=Region.BOX, roi=corner, label="cup", score=score),
        Region(id=4, encoding=Region.BOX, roi=corner, score=score),
    )
    assert regions_from_message(array)[1] == {3: RegionLabel("cup", 0.0)}
    assert caplog.text.count("scores that are not finite count as 0") == 1


@pytest.mark.parametrize("identities", [["", ""], ["3", "3"], ["a", "b"], ["0", "5"], ["-1", "99999999999"]])
def test_detections_without_numbers_are_counted(identities: list[str]) -> None:
    message = SimpleNamespace(detections=[detection(i, (20.0, 15.0, 20.0, 10.0, 0.0)) for i in identities])
    assert regions_from_detections(message, 60, 80)[0].ids.tolist() == [1, 2]


def test_a_wrong_detection_is_named() -> None:
    message = SimpleNamespace(detections=[detection("8", (20.0, 15.0, float("nan"), 10.0, 0.0))])
    with pytest.raises(InputError, match=r"^/robot/detections: detection 8: invalid box"):
        frame_from_messages(raw(regions=message, regions_from="detections"))


def test_depth_and_camera_are_read() -> None:
    depth = messages.image_message(np.full((60, 80), 1500, np.uint16), "16UC1", HEADER)
    info = messages.camera_info_message(MATRIX, 80, 60, HEADER)
    frame: Frame = frame_from_messages(raw(depth=depth, camera_info=info))
    assert frame.depth is not None
    np.testing.assert_allclose(frame.depth, 1.5)
    np.testing.assert_array_equal(frame.camera_matrix, MATRIX)


def test_binning_and_roi_of_a_camera_are_applied() -> None:
    info = messages.camera_info_message(MATRIX, 640, 480, HEADER)
    info.roi = RegionOfInterest(x_offset=10, y_offset=20, width=160, height=120)
    info.binning_x = info.binning_y = 2
    found = camera_matrix_of(info, (60, 80))
    # A ray through a pixel of the small image is the ray through the middle of the four that made it.
    u, v = 33, 21
    full = (10 + 2 * u + 0.5 - 39.5) / 500, (20 + 2 * v + 0.5 - 29.5) / 501
    assert ((u - found[0, 2]) / found[0, 0], (v - found[1, 2]) / found[1, 1]) == pytest.approx(full)


def test_the_matrix_is_that_of_the_rectified_image() -> None:
    info = messages.camera_info_message(MATRIX, 80, 60, HEADER)
    info.p = [450.0, 0, 41.5, -54.0, 0, 455.0, 28.5, 0, 0, 0, 1, 0]  # of the right one of two cameras
    rectified = [[450, 0, 41.5], [0, 455, 28.5], [0, 0, 1]]
    np.testing.assert_array_equal(camera_matrix_of(info, (60, 80)), rectified)
    info.p = [0.0] * 12
    np.testing.assert_array_equal(camera_matrix_of(info, (60, 80)), MATRIX)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": messages.image_message(RGB, "nv24", HEADER)}, "^/robot/image: encoding 'nv24' is not supported"),
        ({"regions": IMAGE}, "^/robot/segmentation: encoding 'rgb8' is not supported for instance ids"),
        ({"depth": IMAGE}, "^/robot/depth: encoding 'rgb8' is not supported for depth"),
        (
            {"camera_info": messages.camera_info_message(MATRIX, 640, 480, HEADER)},
            "^/robot/camera_info: the calibration is for images of 640x480 pixels, the image is 80x60",
        ),
        (
            {"camera_info": messages.camera_info_message(MATRIX * 0, 80, 60, HEADER)},
            "^/robot/camera_info: the focal lengths are 0 and 0; calibrate the camera",
        ),
    ],
)
def test_errors_name_the_topic(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        frame_from_messages(raw(**changes))


def test_a_camera_matrix_that_is_not_finite_is_named() -> None:
    matrix = MATRIX.copy()
    matrix[0, 2] = np.nan
    with pytest.raises(InputError, match=r"the camera matrix is not finite \(\[500\.0, 0\.0, nan, "):
        camera_matrix_of(messages.camera_info_message(matrix, 80, 60, HEADER), (60, 80))
