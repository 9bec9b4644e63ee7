"""Open-vocabulary segmentation on Cityscapes: PQ, SQ, RQ, IoU and AP.

Source: osprey/eval/eval_open_vocab_seg_detectron2.py of CircleRadon/Osprey, commit deb0e57.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from evaluation.published.command import run_task
from evaluation.published.segmentation_data import PanopticData, read_cityscapes
from evaluation.published.segmentation_task import SegmentationTask
from osprey_ros.cli._edge import command
from osprey_torch.readers.records import Skipped


class _Cityscapes(SegmentationTask):
    name = "ovseg_cityscapes"
    about = __doc__ or ""

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> PanopticData:
        return read_cityscapes(arguments.data, arguments.images, arguments.classes, arguments.split, skipped)


@command("osprey eval ovseg_cityscapes")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_Cityscapes(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
