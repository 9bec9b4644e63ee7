"""Commands that are programs of other folders: the simulator, and what only a checkout has.

They are imported by name when they run: osprey_ros does not depend on them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import osprey_ros
from osprey_ros.errors import InputError


@dataclass(frozen=True)
class Program:
    """One command that another module runs.

    Attributes:
        module: Has a function ``main(argv)`` that returns the exit status.
        help: What the command does, for the list of commands.
        needs: How to install what it imports.
        installed: Whether an installed package has the module. If not, only a checkout has it.
    """

    module: str
    help: str
    needs: str
    installed: bool = False


_VENV = "run `make venv` in the checkout and use its environment"
PROGRAMS = {
    "sim": Program("osprey_sim.__main__", "render a simulated scene into files", "pip install mujoco PyOpenGL", True),
    "demo": Program(
        "osprey_sim.demo",
        "describe the objects of a simulated camera over ROS 2",
        "it needs ROS 2, and pip install mujoco PyOpenGL",
        True,
    ),
    "build": Program("export.build_engines", "build an engine bundle from a checkpoint (from a checkout)", _VENV),
    "train": Program("training.train", "train a model (from a checkout)", _VENV),
}
EVALUATIONS = {
    name: Program(module, text, _VENV)
    for name, module, text in (
        ("accuracy", "evaluation.accuracy", "share of right descriptions and categories on simulated scenes"),
        ("calibration", "evaluation.calibration", "fit the calibration of confidences, and measure it"),
        (
            "captioning",
            "evaluation.published.captioning",
            "captions of regions on RefCOCOg: METEOR, CIDEr, BLEU, ROUGE-L",
        ),
        ("dlc_bench", "evaluation.published.dlc_bench", "detailed descriptions, judged by multiple-choice questions"),
        (
            "ferret_bench",
            "evaluation.published.ferret_bench",
            "questions about regions, judged against reference answers",
        ),
        ("gallery", "evaluation.gallery", "draw photographs with masks and answers, right or wrong"),
        (
            "gpt_description",
            "evaluation.published.gpt_description",
            "detailed descriptions, judged against reference descriptions",
        ),
        ("lvis_paco", "evaluation.published.lvis_paco", "categories on LVIS and PACO: similarity and overlap of words"),
        ("ovseg_ade", "evaluation.published.ovseg_ade", "open-vocabulary segmentation on ADE20K-150: PQ, mIoU, AP"),
        (
            "ovseg_cityscapes",
            "evaluation.published.ovseg_cityscapes",
            "open-vocabulary segmentation on Cityscapes: PQ, IoU, AP",
        ),
        ("ovseg_sim", "evaluation.published.ovseg_sim", "open-vocabulary segmentation on simulated scenes"),
        ("own_masks", "evaluation.own_masks", "share of right answers on your own annotated images"),
        ("parity", "evaluation.parity", "compare the answers of the engines with those of PyTorch"),
        ("photographs", "evaluation.photographs", "share of right kinds on packs of photographs with masks"),
        ("pope", "evaluation.published.pope", "questions whether an object is in the image"),
        ("precisions", "evaluation.precisions", "accuracy with fp32, fp16, int8 and int4 weights, side by side"),
        ("quantization", "export.quantization_cost", "effect of the precision of the decoder's weights"),
        ("queries", "evaluation.queries", "share of right answers to questions about the objects of a scene"),
        ("world_questions", "evaluation.world_questions", "the same of questions over time, on simulated sequences"),
        ("rooms", "evaluation.rooms", "share of right kinds and colors in simulated homes and on tabletops"),
        ("scene", "evaluation.scene", "tracking, cost of a frame, time budgets, queries and calibration together"),
        ("segmenter", "evaluation.segmenter", "masks of a segmenter: objects found, IoU, clicks"),
        ("unlike_training", "evaluation.unlike_training", "fit the score of what is unlike training, and measure it"),
    )
}


def run_program(command: str, program: Program, argv: Sequence[str]) -> int:
    """Run a program as if it had been started by itself.

    Args:
        command: Its name on the command line, such as "osprey build".
        program: The program.
        argv: Its arguments.

    Returns:
        Its exit status.

    Raises:
        InputError: This installation does not have the program, or a package that it needs.
    """
    if not program.installed:
        _require_checkout(command, program)
    before = sys.argv
    sys.argv = [command, *argv]  # argparse takes the name of the program from here
    try:
        module = importlib.import_module(program.module)
        status: int = module.main(list(argv))
    except ModuleNotFoundError as error:
        raise InputError(f"{command} needs {error.name}, which is not installed; {program.needs}") from error
    finally:
        sys.argv = before
    return status


def _require_checkout(command: str, program: Program) -> None:
    root = Path(osprey_ros.__file__).resolve().parents[1]
    if not (root / f"{program.module.replace('.', '/')}.py").is_file():
        raise InputError(
            f"{command} is not part of the installed package; clone the repository of osprey_ros, run `make venv` in "
            "it and use the command `osprey` of its environment"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
