"""The sets of objects that the simulator places: primitives on a tabletop, or models of real things in a home."""

from __future__ import annotations

from pathlib import Path

from osprey_sim.home import sample_home, shipped_models, with_colors
from osprey_sim.meshes.store import ModelSet
from osprey_sim.render import Frame, Renderer
from osprey_sim.scene import Scene, sample_scene

TABLETOP, HOME = "tabletop", "home"
OBJECT_SETS: tuple[str, ...] = (TABLETOP, HOME)


class SceneSource:
    """Sample and render scenes of one set of objects.

    Args:
        objects: One of OBJECT_SETS.
        models: Folder of models for a home; None for those that ship with the simulator.

    Raises:
        InputError: The folder has no models.
    """

    def __init__(self, objects: str = TABLETOP, models: Path | None = None) -> None:
        if objects not in OBJECT_SETS:
            raise ValueError(f"objects is {objects!r}; use one of {', '.join(OBJECT_SETS)}")
        self._home = objects == HOME
        self._models = None
        if self._home:
            self._models = ModelSet(models) if models is not None else shipped_models()

    def preload(self, renderer: Renderer) -> None:
        """Load all models at once, before many scenes. Raises InputError if a model cannot be read."""
        if self._models is not None:
            renderer.preload(mesh for name in self._models.models for mesh in self._models.meshes(name))

    def sample(self, seed: int, split: str, count: tuple[int, int] = (4, 9)) -> Scene:
        """Return the scene of a seed, as `sample_scene` and `sample_home` do."""
        if self._home:
            return sample_home(seed, split, count, self._models)
        return sample_scene(seed, split, count)

    def render(self, renderer: Renderer, scene: Scene, depth: bool = True) -> tuple[Scene, Frame]:
        """Return the scene with the colors of its objects, and its frame."""
        frame = renderer.render(scene, depth, albedo=self._home)
        return (with_colors(scene, frame) if self._home else scene), frame
