"""The osprey_ros package, for colcon (ament_python) and for pip. Its ROS dependencies are in package.xml."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "osprey_ros"


def files(folder: str) -> tuple[str, list[str]]:
    """One entry of data_files: the files of a folder of the source tree, installed below share/osprey_ros."""
    return f"share/{NAME}/{folder}", sorted(str(path) for path in Path(folder).iterdir() if path.is_file())


setup(
    name=NAME,
    version="0.1.0",
    description="Camera images and masks in, descriptions of objects out: Osprey on ROS 2.",
    maintainer="osprey_ros maintainers",
    maintainer_email="maintainers@example.org",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["osprey_ros", "osprey_ros.*", "osprey_sim", "osprey_sim.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        files("launch"),
        files("osprey_interfaces/msg"),
        files("config"),
        files("rviz"),
        files("foxglove"),
        files("engines/nano"),
    ],
    install_requires=[
        "setuptools",
        "numpy",
        "onnxruntime>=1.23",
        "opencv-python-headless",
        "pillow",
        "regex",
        "scipy",
        "tokenizers",
    ],
    # By "test" colcon knows that `colcon test` is pytest: without it, it finds no test.
    extras_require={
        "bag": ["mcap", "rosbags", "ruamel.yaml", "zstandard"],
        "sim": ["mujoco", "PyOpenGL"],
        "test": ["pytest"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "osprey = osprey_ros.cli:main",
            "osprey_node = osprey_ros.ros.node:main",
            "sim_camera = osprey_sim.camera_node:main",
        ],
    },
)
