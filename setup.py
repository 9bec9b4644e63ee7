"""Install osprey_ros, for colcon (ament_python) and for pip.

Name, version, description, maintainer and license come from package.xml, as do the ROS dependencies.
"""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

PACKAGE = ElementTree.parse(Path(__file__).resolve().with_name("package.xml"))
NAME = PACKAGE.findtext("name")
MAINTAINER = PACKAGE.find("maintainer")


def files(folder: str) -> tuple[str, list[str]]:
    """Return one entry of data_files: the files of a folder of the source tree, installed below share/osprey_ros."""
    return f"share/{NAME}/{folder}", sorted(str(path) for path in Path(folder).iterdir() if path.is_file())


setup(
    name=NAME,
    version=PACKAGE.findtext("version"),
    description=PACKAGE.findtext("description"),
    long_description=Path(__file__).resolve().with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    maintainer=MAINTAINER.text,
    maintainer_email=MAINTAINER.get("email"),
    license=PACKAGE.findtext("license"),
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    packages=find_packages(include=["osprey_ros", "osprey_ros.*", "osprey_sim", "osprey_sim.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", "LICENSE", "NOTICE"]),
        files("launch"),
        files("osprey_interfaces/msg"),
        files("config"),
        files("rviz"),
        files("foxglove"),
        files("engines/nano"),
        files("engines/home"),
        files("engines/segmenter"),
    ],
    install_requires=[
        "setuptools",
        "llguidance>=1.6,<2",
        "numpy",
        "onnxruntime>=1.23",
        "opencv-python-headless",
        "pillow",
        "scipy",
        "tokenizers",
        "tqdm",
    ],
    # By "test" colcon knows that `colcon test` is pytest: without it, it finds no test.
    extras_require={
        "bag": ["mcap", "rosbags"],
        # One module with onnxruntime, which pip then has to give up: docs/install.md.
        "gpu": ["onnxruntime-gpu>=1.23"],
        "mcp": ["mcp>=2"],
        "parquet": ["pyarrow"],
        "sim": ["mujoco", "PyOpenGL"],
        "test": ["pytest"],
        "web": ["aiohttp>=3.9"],
    },
    package_data={
        NAME: ["py.typed"],
        "osprey_ros.web": ["page/*", "samples/*"],
        "osprey_sim.meshes": ["kinds.json", "home/*"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "osprey = osprey_ros.cli.main:main",
            "osprey_node = osprey_ros.ros.node:main",
            "segmenter_node = osprey_ros.ros.segmenter.node:main",
            "sim_camera = osprey_sim.camera_node:main",
        ],
    },
)
