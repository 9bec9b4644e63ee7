"""What the renderer needs compiled: the textures of surfaces, and the meshes of the scenes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from osprey_sim.meshes.store import Mesh
from osprey_sim.room import PERIODS
from osprey_sim.shapes import Array
from osprey_sim.textures import surface_textures

NEAR, FAR = 0.05, 12.0  # clipping planes in meters
_SAMPLES = 4  # samples per pixel, for smooth edges


@dataclass(frozen=True)
class MeshAsset:
    """A compiled mesh. MuJoCo moves a mesh to its center of mass: position and rotation lead back to its own frame."""

    dataid: int
    material: int
    position: Array
    rotation: Array


class Assets:
    """A MuJoCo model without bodies: textures, meshes, and the quality of buffer, shadows and primitives.

    Attributes:
        model: The compiled model.
        meshes: The compiled meshes.
        triangles: Number of triangles of all meshes.
    """

    def __init__(self, mujoco: ModuleType, width: int, height: int, meshes: Iterable[Mesh] = ()) -> None:
        self._mujoco = mujoco
        spec = mujoco.MjSpec()
        quality, screen = spec.visual.quality, getattr(spec.visual, "global")
        quality.offsamples, quality.shadowsize = _SAMPLES, 1024
        quality.numslices, quality.numstacks, quality.numquads = 20, 9, 1
        screen.offwidth, screen.offheight = width, height
        spec.visual.map.shadowclip = 1.0
        spec.visual.map.znear, spec.visual.map.zfar = NEAR, FAR
        spec.stat.extent = 1.2  # half width in meters of the area that gets shadows
        patterns = surface_textures()
        for name, image in patterns.items():
            self._add_texture(spec, name, image)
            self._add_material(spec, name, name, 3.0)
            for period in PERIODS:
                # MuJoCo counts uniform repetitions in 2 m.
                self._add_material(spec, f"{name} {period}", name, 2.0 / period, uniform=True)
        numbered = {mesh: f"mesh{number}" for number, mesh in enumerate(meshes)}
        for mesh, name in numbered.items():
            self._add_mesh(spec, name, mesh)
        self.model = spec.compile()
        self._material = {
            (name, period): self._id(mujoco.mjtObj.mjOBJ_MATERIAL, f"{name} {period}" if period else name)
            for name in patterns
            for period in (None, *PERIODS)
        }
        self.meshes = {mesh: self._asset(name, mesh) for mesh, name in numbered.items()}
        self.triangles = sum(len(mesh.faces) for mesh in numbered)

    def _id(self, kind: Any, name: str) -> int:
        return int(self._mujoco.mj_name2id(self.model, kind, name))

    def material(self, pattern: str, period: float | None = None) -> int:
        """Return the material of a pattern, -1 for "plain".

        Args:
            period: Length in meters of one repetition, one of PERIODS; None for three repetitions on each surface.
        """
        return self._material.get((pattern, period), -1)

    def _add_texture(self, spec: Any, name: str, image: np.ndarray) -> None:
        texture = spec.add_texture(
            name=name,
            type=self._mujoco.mjtTexture.mjTEXTURE_2D,
            width=image.shape[1],
            height=image.shape[0],
            nchannel=3,
        )
        texture.data = image.tobytes()

    def _add_material(self, spec: Any, name: str, texture: str, repeat: float, uniform: bool = False) -> None:
        material = spec.add_material(name=name, texrepeat=[repeat, repeat], texuniform=uniform)
        material.textures[self._mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture

    def _add_mesh(self, spec: Any, name: str, mesh: Mesh) -> None:
        added = spec.add_mesh(name=name, inertia=self._mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        added.uservert, added.userface = mesh.vertices.ravel(), mesh.faces.ravel()
        if mesh.normals is not None:
            added.usernormal = mesh.normals.ravel()
        if mesh.uv is not None and mesh.texture is not None:
            added.usertexcoord = mesh.uv.ravel()
            # Rows of a texture start at v = 0, which is the bottom of the image.
            self._add_texture(spec, name, np.ascontiguousarray(mesh.texture[::-1]))
            self._add_material(spec, name, name, 1.0)

    def _asset(self, name: str, mesh: Mesh) -> MeshAsset:
        number = self._id(self._mujoco.mjtObj.mjOBJ_MESH, name)
        rotation = np.empty(9)
        self._mujoco.mju_quat2Mat(rotation, self.model.mesh_quat[number])
        material = self._id(self._mujoco.mjtObj.mjOBJ_MATERIAL, name) if mesh.texture is not None else -1
        # The data of a mesh and of its convex hull have even and odd numbers.
        return MeshAsset(2 * number, material, self.model.mesh_pos[number].copy(), rotation.reshape(3, 3))
