"""All checks of `osprey doctor`, in order."""

from __future__ import annotations

from collections.abc import Iterator

from osprey_ros.doctor.finding import Finding
from osprey_ros.doctor.software import check_libraries, check_package, check_python, usable


def examine(seconds: float = 2.0, hashes: bool = True, scene_file: str = "") -> Iterator[Finding]:
    """Yield a finding for each thing that is looked at. Checks that need a library that is missing are left out.

    Args:
        seconds: How long the topics of a running graph are counted; 0: the graph is not looked at.
        hashes: Whether the files of bundles are compared with their hashes.
        scene_file: Scene file whose folder is checked; "": none.
    """
    yield check_python()
    yield check_package()
    libraries = check_libraries()
    yield from libraries
    if usable(libraries):
        yield from _engines(hashes, scene_file)
    from osprey_ros.doctor.ros import check_ros

    ros = []
    for found in check_ros():
        ros.append(found)
        yield found
    if seconds and usable(ros):
        from osprey_ros.doctor.graph import check_graph

        yield from check_graph(seconds)


def _engines(hashes: bool, scene_file: str) -> Iterator[Finding]:
    from osprey_ros.doctor.machine import check_gpu, check_memory, check_processor, has_gpu
    from osprey_ros.doctor.software import check_onnxruntime, check_tensorrt
    from osprey_ros.doctor.storage import check_bundles, check_folders

    yield check_onnxruntime(has_gpu())
    yield check_tensorrt(has_gpu())
    yield check_processor()
    yield check_gpu()
    yield check_memory()
    yield from check_bundles(hashes)
    yield from check_folders(scene_file)
