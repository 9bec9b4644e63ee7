"""True descriptions of the objects in a scene: categories, short phrases, detailed sentences, parts and relations."""

from __future__ import annotations

import numpy as np

from osprey_ros.query.word_forms import with_article
from osprey_sim import catalog
from osprey_sim.render import Frame
from osprey_sim.scene import Part, Scene, SceneObject, camera_pose, object_center, project

CLASSES: tuple[str, ...] = tuple(catalog.CLASSES)
COLORS: tuple[str, ...] = tuple(catalog.COLORS)
SIZES: tuple[str, ...] = tuple(catalog.SIZES)
PARTS: tuple[str, ...] = tuple(dict.fromkeys(part for kind in catalog.CLASSES.values() for part in kind.parts))
TABLES: tuple[str, ...] = tuple(catalog.TABLES)
LEFT, RIGHT, FRONT, BEHIND = "to the left of", "to the right of", "in front of", "behind"
RELATIONS: tuple[str, ...] = (LEFT, RIGHT, FRONT, BEHIND)
ON = "on a"
PLACES: tuple[str, ...] = ("on the left side of a", "on the right side of a", "in the middle of a", ON)
_UNCOUNTED = frozenset({"bread", "butter", "tape"})  # have no article

# Shares of the image area, so that descriptions do not depend on the image size.
_VISIBLE_OBJECT = 8e-4  # 61 pixels at 320x240
_VISIBLE_PART = 1.6e-4  # 12 pixels at 320x240
# A relation is unambiguous if one direction dominates and the centers are far enough apart.
_DOMINANCE = 1.5  # ratio of the distances along the two directions
_APART = 0.05  # meters, least distance of the centers
_NEAR = 0.45  # meters, largest distance of a neighbor in descriptions


def short(obj: SceneObject) -> str:
    """Return size, color and class: "a small red mug". The size "medium" is omitted: "a red mug".

    Models of a home have no name of their size, and a color only if one dominates: "a mug".
    """
    size = "" if obj.size == "medium" else obj.size
    phrase = " ".join(word for word in (size, obj.color, obj.category) if word)
    return phrase if obj.category in _UNCOUNTED else with_article(phrase)


def detailed(scene: Scene, frame: Frame, obj: SceneObject) -> str:
    """Return a sentence: short phrase, visible parts, place on the table or floor, and the nearest visible neighbor.

    "a small red mug with a handle on the left side of a wooden table, behind a blue bowl". Place and neighbor are
    relative to the camera. They are omitted if they are ambiguous.
    """
    parts = visible_parts(frame, obj)
    text = short(obj)
    if parts:
        text += " with " + " and ".join(with_article(name) for name in parts)
    if obj.lying:
        text += " lying"
    text += f" {place(scene, frame, obj)} {scene.table.kind} {scene.table.noun}"
    neighbor = _neighbor(scene, frame, obj)
    if neighbor is not None:
        relation, other = neighbor
        text += f", {relation} {short(other)}"
    return text


def part_short(obj: SceneObject, part: Part) -> str:
    """Return the part and its object: "the handle of a small red mug"."""
    return f"the {part.name} of {short(obj)}"


def visible_parts(frame: Frame, obj: SceneObject) -> list[str]:
    """Return the names of the object's visible parts, each at least 0.016 % of the image."""
    areas = np.bincount(frame.part_ids.ravel(), minlength=max(frame.parts, default=0) + 1)
    return [part.name for part in obj.parts if areas[part.part_id] >= _VISIBLE_PART * frame.part_ids.size]


def place(scene: Scene, frame: Frame, obj: SceneObject) -> str:
    """Return the object's place relative to the camera: one of PLACES; "on a" if no other place is unambiguous."""
    height, width = frame.instance_ids.shape
    u, v, _ = project(scene.camera, object_center(obj)[None], width, height)[0]
    left, right, middle, somewhere = PLACES
    if u < 0.33 * width:
        return left
    if u > 0.67 * width:
        return right
    if 0.40 * width < u < 0.60 * width and 0.30 * height < v < 0.70 * height:
        return middle
    return somewhere


def visible_objects(scene: Scene, frame: Frame) -> list[SceneObject]:
    """Return the visible objects, each at least 0.08 % of the image."""
    areas = np.bincount(frame.instance_ids.ravel(), minlength=len(scene.objects) + 1)
    return [obj for obj in scene.objects if areas[obj.instance_id] >= _VISIBLE_OBJECT * frame.instance_ids.size]


def relations(scene: Scene, frame: Frame) -> list[tuple[int, str, int]]:
    """Return the unambiguous relations between visible objects: (instance id, one of RELATIONS, id of the other)."""
    visible = visible_objects(scene, frame)
    found = []
    for a in visible:
        for b in visible:
            relation = None if a is b else _relation(scene, frame, a, b)
            if relation is not None:
                found.append((a.instance_id, relation, b.instance_id))
    return found


def _neighbor(scene: Scene, frame: Frame, obj: SceneObject) -> tuple[str, SceneObject] | None:
    """Return the nearest visible object within 0.45 m that has an unambiguous relation to this one, or None."""
    best, nearest = None, _NEAR
    for other in visible_objects(scene, frame):
        if other is obj:
            continue
        distance = float(np.linalg.norm((object_center(obj) - object_center(other))[:2]))
        relation = _relation(scene, frame, obj, other)
        if relation is not None and distance < nearest:
            best, nearest = (relation, other), distance
    return best


def _relation(scene: Scene, frame: Frame, a: SceneObject, b: SceneObject) -> str | None:
    """Return the relation of `a` to `b` relative to the camera, or None if it is ambiguous."""
    height, width = frame.instance_ids.shape
    centers = np.stack([object_center(a), object_center(b)])
    right_axis = camera_pose(scene.camera)[1][:, 0]
    away_axis = np.array([-right_axis[1], right_axis[0], 0.0])
    step = centers[0] - centers[1]
    right, away = float(step @ right_axis), float(step @ away_axis)
    u = project(scene.camera, centers, width, height)[:, 0]
    if abs(right) > max(_APART, _DOMINANCE * abs(away)) and (u[0] - u[1]) * right > 0:
        return RIGHT if right > 0 else LEFT
    if abs(away) > max(_APART, _DOMINANCE * abs(right)):
        return BEHIND if away > 0 else FRONT
    return None
