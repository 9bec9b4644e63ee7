"""Render scenes with MuJoCo, without a display: color, exact instance and part ids, and depth."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from math import tan

import numpy as np

from osprey_ros.errors import InputError
from osprey_sim.assets import FAR, NEAR, Assets
from osprey_sim.gl import open_context
from osprey_sim.meshes.store import Mesh
from osprey_sim.room import Panel
from osprey_sim.scene import Scene, Solid, camera_matrix, camera_pose, sample_scene
from osprey_sim.sensor import exposed

WIDTH, HEIGHT = 320, 240  # of the images for training and evaluation
MIN_AREA = 200  # pixels; evaluation ignores smaller objects

_SHAPES = ("plane", "box", "sphere", "ellipsoid", "cylinder", "capsule", "mesh")
_TABLE_SIZE = 3.0  # half side of the table top in meters
_MAX_GEOMS = 1000
_MAX_TRIANGLES = 2_000_000  # of the meshes that are kept for the next scenes


@dataclass(frozen=True)
class Frame:
    """The rendered images of one scene.

    Attributes:
        rgb: uint8 [H, W, 3].
        instance_ids: uint16 [H, W], 0 is background.
        part_ids: uint16 [H, W], 0 outside of named parts.
        parts: (instance id, part name) by part id, for the parts of all objects, visible or not.
        depth: float32 [H, W], meters along the optical axis; None if depth was not rendered.
        camera_matrix: float64 [3, 3].
        albedo: uint8 [H, W, 3], the colors of the surfaces without light; None if it was not rendered.
    """

    rgb: np.ndarray
    instance_ids: np.ndarray
    part_ids: np.ndarray
    parts: dict[int, tuple[int, str]]
    depth: np.ndarray | None
    camera_matrix: np.ndarray
    albedo: np.ndarray | None = None

    @property
    def ros_camera_matrix(self) -> np.ndarray:
        """The matrix float64 [3, 3] in ROS: the origin of pixels is the center of the first one, not its corner."""
        return self.camera_matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]

    def objects(self, min_area: int = 0) -> list[int]:
        """Return the ascending ids of the instances with more than `min_area` visible pixels."""
        areas = np.bincount(self.instance_ids.ravel())
        return [number for number in range(1, len(areas)) if areas[number] > min_area]


class Renderer:
    """Render scenes at a fixed image size. Use it from one thread; close() frees the GL context."""

    def __init__(self, width: int = 320, height: int = 240) -> None:
        self._gl = self._context = None  # close() runs even if the constructor fails
        if not (16 <= width <= 4096 and 16 <= height <= 4096):
            raise InputError(f"image size is {width}x{height}; use 16 to 4096 pixels a side")
        self.width, self.height = width, height
        mujoco, self._gl = open_context(width, height)
        # Exit handlers run last in, first out: this one closes the context before the GL library closes its display.
        self._at_exit = _closer(weakref.ref(self))
        atexit.register(self._at_exit)
        self._mujoco = mujoco
        self._types = {name: int(getattr(mujoco.mjtGeom, f"mjGEOM_{name.upper()}")) for name in _SHAPES}
        self._upload(())
        self._stage = mujoco.MjvScene(model=self._assets.model, maxgeom=_MAX_GEOMS)
        self._stage.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = True
        self._stage.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._stage.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Free the GL context. Safe to call twice; render() afterwards raises RuntimeError."""
        # Only resources of the current context are freed.
        if self._gl is not None:
            self._gl.make_current()
            if self._context is not None:
                self._context.free()
            self._gl.free()
            atexit.unregister(self._at_exit)
        self._gl = self._context = None

    def preload(self, meshes: Iterable[Mesh]) -> None:
        """Load meshes at once, before many scenes with them. Otherwise each scene loads those that it adds.

        Raises:
            RuntimeError: The renderer is closed.
        """
        if self._gl is None:
            raise RuntimeError("this Renderer is closed; create a new one")
        self._gl.make_current()
        needed = dict.fromkeys(meshes)
        if not needed.keys() <= self._assets.meshes.keys():
            added = sum(len(mesh.faces) for mesh in needed.keys() - self._assets.meshes.keys())
            kept = self._assets.meshes if self._assets.triangles + added <= _MAX_TRIANGLES else {}
            self._upload(dict.fromkeys([*kept, *needed]))

    def render(self, scene: Scene, depth: bool = True, albedo: bool = False) -> Frame:
        """Return the rendered frame of a scene. Depth and albedo are None if they are not asked for.

        Raises:
            RuntimeError: The renderer is closed.
            ValueError: The scene has too many primitives.
        """
        meshes = [solid.mesh for obj in scene.objects for solid in obj.solids if solid.mesh is not None]
        self.preload(meshes)
        instance_of, part_of = self._fill(scene)
        # Surfaces of real models have both sides.
        self._stage.flags[self._mujoco.mjtRndFlag.mjRND_CULL_FACE] = not meshes

        pixels = self._color()
        codes = np.empty((self.height, self.width, 3), np.uint8)
        zbuffer = np.empty((self.height, self.width), np.float32) if depth else None
        self._set_flags(segment=True)
        self._mujoco.mjr_render(self._rect, self._stage, self._context)
        self._mujoco.mjr_readPixels(codes, zbuffer, self._rect, self._context)
        # A pixel's color is the index of its primitive plus one, low byte first. Rows are bottom up.
        numbers = codes[::-1, :, 0].astype(np.int32) + (codes[::-1, :, 1].astype(np.int32) << 8)
        unlit = None
        if albedo:
            self._set_white_light()
            unlit = self._color()

        return Frame(
            rgb=pixels if scene.sensor is None else exposed(pixels, scene.sensor, scene.seed),
            instance_ids=instance_of[numbers],
            part_ids=part_of[numbers],
            parts={part.part_id: (obj.instance_id, part.name) for obj in scene.objects for part in obj.parts},
            depth=None if zbuffer is None else _meters(zbuffer[::-1]),
            camera_matrix=camera_matrix(scene.camera, self.width, self.height),
            albedo=unlit,
        )

    def _upload(self, meshes: Iterable[Mesh]) -> None:
        """Compile assets with these meshes and move them into a new rendering context."""
        self._assets = Assets(self._mujoco, self.width, self.height, meshes)
        if self._context is not None:
            self._context.free()
        self._context = self._mujoco.MjrContext(self._assets.model, self._mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # Reversed depth (1 at the near plane): float32 is then most precise far away.
        self._context.readDepthMap = self._mujoco.mjtDepthMap.mjDEPTH_ZEROFAR

    def _color(self) -> np.ndarray:
        """Return the colors of the stage, uint8 [H, W, 3]."""
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        self._set_flags(segment=False)
        self._mujoco.mjr_render(self._rect, self._stage, self._context)
        self._mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def _set_flags(self, segment: bool) -> None:
        flags = self._mujoco.mjtRndFlag
        self._stage.flags[flags.mjRND_SEGMENT] = segment
        self._stage.flags[flags.mjRND_IDCOLOR] = segment

    def _fill(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Put the scene on the stage. Return instance ids and part ids, uint16 [geoms + 1], by segment number."""
        geoms = 2 + len(scene.panels) + sum(len(obj.solids) for obj in scene.objects)
        if geoms > _MAX_GEOMS:
            raise InputError(f"the scene has {geoms} primitives, more than {_MAX_GEOMS}; use fewer objects")
        instance_of, part_of = np.zeros(geoms + 1, np.uint16), np.zeros(geoms + 1, np.uint16)
        self._stage.ngeom = 0
        if scene.panels:
            for panel in scene.panels:
                self._add_panel(panel)
        else:
            self._add_room(scene)
        for obj in scene.objects:
            for solid in obj.solids:
                number = self._add_solid(solid, obj.position, obj.rotation) + 1
                instance_of[number], part_of[number] = obj.instance_id, solid.part_id
        self._set_light(scene)
        self._set_camera(scene)
        return instance_of, part_of

    def _add(
        self, shape: str, size: tuple[float, ...], position: np.ndarray, rotation: np.ndarray, rgb: tuple[float, ...]
    ) -> int:
        number = int(self._stage.ngeom)
        geom = self._stage.geoms[number]
        rgba = np.array([*rgb, 1.0], np.float32)
        self._mujoco.mjv_initGeom(
            geom, self._types[shape], np.array(size, np.float64), position, rotation.reshape(9), rgba
        )
        geom.segid, geom.category = number, self._mujoco.mjtCatBit.mjCAT_STATIC
        if hasattr(geom, "castshadow"):  # missing in the MuJoCo release for Python 3.10
            geom.castshadow = shape != "plane"  # planes would be speckled by their own shadows
        geom.specular, geom.shininess, geom.reflectance, geom.emission = 0.15, 0.3, 0.0, 0.0
        self._stage.ngeom = number + 1
        return number

    def _add_solid(self, solid: Solid, position: np.ndarray, rotation: np.ndarray) -> int:
        if solid.mesh is not None:
            return self._add_mesh(solid.mesh, position, rotation)
        number = self._add(
            solid.shape, solid.size, position + rotation @ solid.position, rotation @ solid.rotation, solid.rgb
        )
        if solid.glossy:
            self._stage.geoms[number].specular, self._stage.geoms[number].shininess = 0.6, 0.6
        return number

    def _add_mesh(self, mesh: Mesh, position: np.ndarray, rotation: np.ndarray) -> int:
        asset = self._assets.meshes[mesh]
        number = self._add(
            "mesh", (1.0, 1.0, 1.0), position + rotation @ asset.position, rotation @ asset.rotation, mesh.rgb
        )
        geom = self._stage.geoms[number]
        geom.dataid, geom.matid, geom.texcoord = asset.dataid, asset.material, mesh.texture is not None
        geom.rgba[3], geom.transparent = mesh.opacity, mesh.opacity < 1.0
        geom.specular, geom.shininess = 0.1 + 0.5 * mesh.specular, 0.2 + 0.4 * mesh.specular
        return number

    def _add_panel(self, panel: Panel) -> None:
        number = self._add(panel.shape, panel.size, panel.position, panel.rotation, panel.rgb)
        geom = self._stage.geoms[number]
        geom.matid, geom.specular = self._assets.material(panel.pattern, panel.period), panel.gloss

    def _add_room(self, scene: Scene) -> None:
        c, s = np.cos(scene.table.rotation), np.sin(scene.table.rotation)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        number = self._add("plane", (_TABLE_SIZE, _TABLE_SIZE, 1.0), np.zeros(3), turn, scene.table.rgb)
        self._stage.geoms[number].matid = self._assets.material(scene.table.kind)
        self._stage.geoms[number].specular = 0.05
        yaw = np.radians(scene.camera.azimuth) + scene.wall.yaw
        away = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        facing = np.stack([[0.0, 0.0, 1.0], [-away[1], away[0], 0.0], -away], axis=1)
        middle = np.array([scene.camera.lookat[0], scene.camera.lookat[1], 0.0]) + scene.wall.distance * away
        number = self._add("plane", (4.0, 6.0, 1.0), middle, facing, scene.wall.rgb)
        self._stage.geoms[number].specular = 0.0

    def _set_light(self, scene: Scene) -> None:
        lamp, fill = self._stage.lights[0], self._stage.lights[1]
        for light in (lamp, fill):
            light.type = self._mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
            light.attenuation[:] = (1, 0, 0)
            light.headlight = 0
        lamp.dir[:] = scene.light.direction
        lamp.pos[:] = -1.5 * lamp.dir
        lamp.ambient[:], lamp.diffuse[:], lamp.specular[:] = (0, 0, 0), scene.light.diffuse, (0.3, 0.3, 0.3)
        lamp.castshadow = 1
        # Ambient light comes from a lamp without shadows; otherwise shadows would be black. A part of it comes from the
        # camera, so that faces in the shade keep their shape.
        fill.dir[:] = camera_pose(scene.camera)[1][:, 2]
        fill.pos[:] = -1.5 * fill.dir
        ambient = np.asarray(scene.light.ambient)
        fill.ambient[:], fill.diffuse[:], fill.specular[:] = 0.75 * ambient, 0.5 * ambient, (0, 0, 0)
        fill.castshadow = 0
        self._stage.nlight = 2

    def _set_white_light(self) -> None:
        """Replace all light by white ambient light, so that each surface has its own color."""
        lamp, fill = self._stage.lights[0], self._stage.lights[1]
        fill.ambient[:], fill.diffuse[:], fill.specular[:] = (1, 1, 1), (0, 0, 0), (0, 0, 0)
        lamp.ambient[:], lamp.diffuse[:], lamp.specular[:] = (0, 0, 0), (0, 0, 0), (0, 0, 0)
        lamp.castshadow = 0
        for number in range(self._stage.ngeom):
            self._stage.geoms[number].specular = 0.0

    def _set_camera(self, scene: Scene) -> None:
        position, rotation = camera_pose(scene.camera)
        half = NEAR * tan(np.radians(scene.camera.fovy) / 2)
        for eye in self._stage.camera:
            eye.pos[:], eye.forward[:], eye.up[:] = position, rotation[:, 2], -rotation[:, 1]
            eye.frustum_center, eye.frustum_width = 0.0, 0.0  # width 0: from the aspect ratio of the image
            eye.frustum_bottom, eye.frustum_top = -half, half
            eye.frustum_near, eye.frustum_far = NEAR, FAR
            eye.orthographic = 0


def render_scenes(
    split: str,
    seeds: Iterable[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    depth: bool = False,
    objects: tuple[int, int] = (4, 9),
) -> Iterator[tuple[Scene, Frame]]:
    """Yield scenes of a split with their frames, in the order of their seeds (by default all seeds from 0 on).

    Raises:
        ModuleNotFoundError: mujoco or PyOpenGL is not installed.
        InputError: No GL library works.
    """
    with Renderer(*size) as renderer:
        for seed in count() if seeds is None else seeds:
            scene = sample_scene(seed, split, objects)
            yield scene, renderer.render(scene, depth)


def _closer(reference: weakref.ref[Renderer]) -> Callable[[], None]:
    """Return a function that closes the renderer if it still exists, and that does not keep it alive."""

    def close() -> None:
        renderer = reference()
        if renderer is not None:
            renderer.close()

    return close


def _meters(zbuffer: np.ndarray) -> np.ndarray:
    """Convert reversed z-buffer values [H, W] (1 near, 0 far) to meters, float32."""
    z = zbuffer.astype(np.float64)
    return (NEAR * FAR / (NEAR + z * (FAR - NEAR))).astype(np.float32)
