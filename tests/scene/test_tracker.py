"""Track ids: kept through renumbering, gaps, leaving and returning, by appearance and place."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from evaluation.tracking import tracking_figures
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.regions.geometry import Extent, extents
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.camera_motion import small_gray
from osprey_ros.scene.detections import Detections
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.tracker import Tracker
from osprey_sim.render import Renderer
from osprey_sim.sequence import Sequence, SequenceSettings

HEIGHT, WIDTH, DEPTH = 240, 320, 16
FOCAL = 300.0


@pytest.fixture(scope="module")
def looks() -> np.ndarray:
    """What eight things look like, float32 [8, D]; number 7 looks as number 0 does."""
    drawn = np.random.default_rng(11).normal(2.0, 1.0, (8, DEPTH)).astype(np.float32)
    drawn[7] = drawn[0]
    return drawn


class Tracking:
    """A scene and a tracker, as the pipeline uses them."""

    def __init__(self) -> None:
        self.scene, self.tracker = Scene(), Tracker()
        self.merges: dict[int, int] = {}

    def update(self, stamp: int, detections: Detections, gray: np.ndarray | None = None) -> np.ndarray:
        self.scene.set_image_size(detections.regions.shape)
        assignment = self.tracker.associate(self.scene.tracks, detections, self.scene.frame + 1, gray)
        self.merges = dict(assignment.merges)
        return self.scene.update(stamp, "camera", detections, assignment).track_ids


def seen(
    things: dict[int, tuple[int, int]], looks: np.ndarray, numbers=None, size: int = 24, z=None, noise=0
) -> Detections:
    """Things (row of looks -> center in pixels) as regions, whose ids are ``numbers`` or 1, 2, 3 ..."""
    image = np.zeros((HEIGHT, WIDTH), np.int32)
    numbers = numbers or range(1, len(things) + 1)
    row_of = {}
    for number, (thing, (x, y)) in zip(numbers, things.items(), strict=True):
        image[max(0, y - size // 2) : y + size // 2, max(0, x - size // 2) : x + size // 2] = number
        row_of[number] = thing
    regions = regions_from_id_image(image)
    rows = [row_of[int(region)] for region in regions.ids]
    error = np.random.default_rng(noise).normal(0, 0.1, (len(rows), DEPTH))
    places = []
    if z is not None:
        for row in rows:
            x, y = (np.array(things[row]) - (WIDTH / 2, HEIGHT / 2)) * z[row] / FOCAL
            places.append(Extent((x, y, z[row]), (0.1, 0.1, 0.1)))
    return Detections(regions, (looks[rows] + error).astype(np.float32), places)


def tracks_of(tracker: Tracking, stamp: int, things: dict[int, tuple[int, int]], looks, numbers=None, **more):
    """Thing -> track id after a frame."""
    detections = seen(things, looks, numbers, noise=stamp, **more)
    given = tracker.update(stamp, detections)
    row = {number: thing for number, thing in zip(numbers or range(1, len(things) + 1), things, strict=True)}
    return {row[int(region)]: int(track) for region, track in zip(detections.regions.ids, given, strict=True)}


PLACES = {0: (40, 40), 1: (120, 60), 2: (200, 50), 3: (80, 150), 4: (180, 160)}


def test_new_objects_get_ids_from_one_up(looks):
    assert sorted(tracks_of(Tracking(), 1, PLACES, looks).values()) == [1, 2, 3, 4, 5]


def test_renumbered_regions_keep_their_tracks(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 1, PLACES, looks)
    for stamp, numbers in ((2, [5, 4, 3, 2, 1]), (3, [70000, 9, 2, 33, 8]), (4, [2, 1, 3, 4, 5])):
        assert tracks_of(tracker, stamp, PLACES, looks, numbers) == first


def test_a_missed_frame_changes_nothing(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 1, PLACES, looks)
    without = {thing: place for thing, place in PLACES.items() if thing != 2}
    for stamp in range(2, 6):
        assert tracks_of(tracker, stamp, without, looks) == {t: first[t] for t in without}
    assert tracks_of(tracker, 6, PLACES, looks) == first


def test_what_left_is_recognized_elsewhere_by_its_looks(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 1, PLACES, looks)
    others = {thing: place for thing, place in PLACES.items() if thing != 1}
    for stamp in range(2, 60):
        tracks_of(tracker, stamp, others, looks)
    assert tracks_of(tracker, 60, {**others, 1: (280, 200)}, looks) == first


def test_something_else_in_the_same_place_is_a_new_object(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 1, PLACES, looks)
    others = {thing: place for thing, place in PLACES.items() if thing != 1}
    later = tracks_of(tracker, 2, {**others, 6: PLACES[1]}, looks)
    assert later[6] == 6
    assert {t: later[t] for t in others} == {t: first[t] for t in others}


def test_same_looking_objects_are_kept_apart_by_place(looks):
    tracker = Tracking()
    places = {0: (60, 100), 7: (260, 100), 1: (100, 200), 2: (200, 30)}
    first = tracks_of(tracker, 1, places, looks)
    for stamp in range(2, 12):
        places[0], places[7] = (60 + 8 * stamp, 100), (260 - 8 * stamp, 140)  # they pass each other
        numbers = [2, 1, 3, 4] if stamp % 2 else [1, 2, 3, 4]
        assert tracks_of(tracker, stamp, places, looks, numbers) == first


def test_depth_tells_same_looking_objects_apart_after_a_turn_of_the_camera(looks):
    """The camera moves a long way between two frames: what is in the old places of the image is something else."""
    z = {0: 1.0, 7: 1.0, 1: 1.2, 2: 0.9, 3: 1.1, 4: 1.3}
    places = {**PLACES, 7: (110, 40)}
    # Without depth, number 7 would be taken for number 0, whose place it has now, if they are all that is seen of it.
    moved = {thing: (round(x - 70 / z[thing]), y) for thing, (x, y) in places.items() if x - 70 / z[thing] > 5}
    assert abs(moved[7][0] - places[0][0]) < 8
    tracker = Tracking()
    first = tracks_of(tracker, 1, places, looks, z=z)
    assert tracks_of(tracker, 2, moved, looks, z=z) == {thing: first[thing] for thing in moved}


def test_the_images_motion_keeps_same_looking_objects_apart(looks):
    world = np.random.default_rng(3).integers(0, 255, (60, 90)).astype(np.uint8)
    world = cv2.resize(world, (900, 600), interpolation=cv2.INTER_CUBIC)
    images = [np.repeat(world[100:340, 100 + shift : 420 + shift, None], 3, axis=2) for shift in (0, 40)]
    row = {thing: (60 + 40 * n, 120) for n, thing in enumerate((0, 7, 6, 5))}
    alike = looks.copy()
    alike[:] = looks[0]
    before, after = seen(row, alike), seen({t: (x - 40, y) for t, (x, y) in row.items()}, alike, noise=9)
    tracker = Tracking()
    first = tracker.update(1, before, small_gray(images[0]))
    np.testing.assert_array_equal(tracker.update(2, after, small_gray(images[1])), first)
    # With a image that stands still, each of them has gone to the place of the next.
    tracker = Tracking()
    first = tracker.update(1, before, small_gray(images[0]))
    np.testing.assert_array_equal(tracker.update(2, after, small_gray(images[0]))[1:], first[:-1])


def test_images_of_another_size_keep_same_looking_objects_apart(looks):
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    for number in range(1, 5):
        ids[100:124, 50 * number : 50 * number + 24] = number
    alike = looks[[0, 0, 0, 1]]

    def observed(scale: int) -> Detections:
        return Detections(regions_from_id_image(ids.repeat(scale, axis=0).repeat(scale, axis=1)), alike)

    gray = np.full((HEIGHT, WIDTH), 90, np.uint8)  # the same image, made small
    tracker = Tracking()
    for stamp, scale in enumerate((1, 1, 2, 2, 1), start=1):
        np.testing.assert_array_equal(tracker.update(stamp, observed(scale), gray), [1, 2, 3, 4])


def test_a_frame_without_regions_does_not_break_the_motion(looks):
    world = np.random.default_rng(4).integers(0, 255, (60, 90)).astype(np.uint8)
    world = cv2.resize(world, (900, 600), interpolation=cv2.INTER_CUBIC)
    grays = [small_gray(np.repeat(world[100:340, 100 + shift : 420 + shift, None], 3, axis=2)) for shift in (0, 25, 50)]
    row = {thing: (100 + 50 * n, 120) for n, thing in enumerate((0, 7, 6))}
    alike = np.repeat(looks[:1], 8, axis=0)
    tracker = Tracking()
    first = tracker.update(1, seen(row, alike), grays[0])
    tracker.scene.update(2, "camera", (), tracker.tracker.skip_frame((HEIGHT, WIDTH), grays[1]))
    shifted = {t: (x - 50, y) for t, (x, y) in row.items()}
    np.testing.assert_array_equal(tracker.update(3, seen(shifted, alike, noise=9), grays[2]), first)


def test_a_track_begun_on_a_part_gives_way_to_the_object_it_is_of(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 1, PLACES, looks)
    others = {thing: place for thing, place in PLACES.items() if thing != 1}
    for stamp in range(2, 30):
        tracks_of(tracker, stamp, others, looks)
    in_part = looks.copy()
    in_part[1] = looks[5]  # what is seen of it first looks like something else
    young = tracks_of(tracker, 30, {**others, 1: (290, 200)}, in_part)[1]
    assert young == 6
    in_part[1] = 0.35 * looks[5] + 0.65 * looks[1]
    assert tracks_of(tracker, 31, {**others, 1: (284, 200)}, in_part) == first
    assert tracker.merges == {young: first[1]}
    tracks_of(tracker, 32, {**others, 1: (280, 200)}, looks)
    assert tracker.merges == {}


def test_ids_are_never_used_again(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 1, PLACES, looks)
    tracker.scene.forget([first[0], first[1], 999])
    again = tracks_of(tracker, 2, PLACES, looks)
    assert sorted((again[0], again[1])) == [6, 7]
    assert {t: again[t] for t in (2, 3, 4)} == {t: first[t] for t in (2, 3, 4)}
    assert tracker.scene.next_id == 8


def test_what_is_stored_is_recognized_after_a_restart(looks):
    tracker = Tracking()
    first = tracks_of(tracker, 5, PLACES, looks)
    other = Tracking()
    other.scene.restore(tracker.scene.persistent_objects(), next_id=50)
    turned = {thing: (WIDTH - x, y) for thing, (x, y) in PLACES.items()}
    found = tracks_of(other, 6, {**turned, 5: (160, 220)}, looks)
    assert {t: found[t] for t in PLACES} == first
    assert found[5] == 50


def test_looks_of_any_scale_do(looks):
    """Another model's mask tokens are of another size and have other means."""
    small, large = Tracking(), Tracking()
    for stamp in range(1, 4):
        things = {thing: (x + 6 * stamp, y) for thing, (x, y) in PLACES.items()}
        assert tracks_of(small, stamp, things, looks) == tracks_of(large, stamp, things, 400 * looks)


def test_a_single_object_is_followed(looks):
    tracker = Tracking()
    assert [tracks_of(tracker, n, {3: (60 + 10 * n, 100)}, looks)[3] for n in range(1, 6)] == [1] * 5


def test_what_does_not_belong_together_is_refused(looks):
    tracker = Tracking()
    good = seen(PLACES, looks)
    with pytest.raises(InputError, match=r"embeddings have the shape \[1, 16\]: it must be \[5, D\]"):
        tracker.update(1, replace(good, embeddings=good.embeddings[:1]))
    with pytest.raises(InputError, match="there are 1 extents for 5 regions"):
        tracker.update(1, replace(good, extents=[None]))
    for bad in (np.nan, np.inf):
        broken = good.embeddings.copy()
        broken[2, 5] = bad
        with pytest.raises(
            InputError, match=r"mask token of region 3 is not finite .*: build them with `osprey build .* --vision fp32"
        ):
            tracker.update(1, replace(good, embeddings=broken))
    tracker.update(1, good)
    with pytest.raises(InputError, match="another bundle"):
        tracker.update(2, replace(good, embeddings=np.ones((5, 99), np.float32)))
    objects = tracker.scene.persistent_objects()
    for wrong in ([objects[0]] * 2, [replace(objects[0], track_id=0)]):
        with pytest.raises(InputError, match="different numbers"):
            tracker.scene.restore(wrong)


@pytest.mark.parametrize("depth", [False, True])
def test_objects_of_a_sequence_keep_their_ids_by_nanos_mask_tokens(nano_shots, depth):
    tracker, frames = Tracking(), []
    for truth, detections, stamp, gray in nano_shots:
        given = tracker.update(stamp, detections if depth else replace(detections, extents=()), gray)
        frames.append((truth, given))
    figures = tracking_figures(frames)
    assert figures.idf1 >= 0.95
    assert figures.regions > 150


@pytest.fixture(scope="module")
def nano_shots():
    """Of each frame of a short, quick sequence: true ids, detections, stamp and small image."""
    describer = Describer("nano")
    settings = SequenceSettings(frames=25, rate=5.0 / 3, missing=0.08)
    shots = []
    with Renderer(240, 180) as renderer:
        for shot in Sequence(6, settings=settings).frames(renderer):
            regions = regions_from_id_image(shot.frame.instance_ids, min_area=30)
            describer.set_image(shot.frame.rgb)
            matrix = shot.frame.camera_matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
            places = extents(regions, shot.frame.depth, matrix)
            tokens = describer.encode(regions).mask_tokens
            truth = np.array([shot.truth[int(region)] for region in regions.ids])
            shots.append((truth, Detections(regions, tokens, places), shot.stamp, small_gray(shot.frame.rgb)))
    return shots
