"""Objects keep their words from frame to frame: `python examples/scene_memory.py IMAGE MASKS`.

The second frame is the same view with its masks numbered afresh, as a segmentation does.
"""

import sys

import numpy as np
from PIL import Image

from osprey_ros import Describer, Frame, Pipeline, StepSettings, load_image

image, masks = sys.argv[1:]
rgb, ids = load_image(image), np.array(Image.open(masks)).astype(np.int32)
renumbered = np.where(ids > 0, ids.max() + 1 - ids, 0)
with Describer() as describer:
    pipeline = Pipeline(describer)
    for number, regions in enumerate((ids, renumbered)):
        frame = Frame(stamp=number * 100_000_000, frame_id="camera", rgb=rgb, regions=regions)
        result = pipeline.step(frame, StepSettings())
        print(f"frame {number}: {result.described} described, {result.reused} remembered")
        for obj in result.objects:
            print(f"  mask {obj.instance_id} is object {obj.track_id}: {obj.description}")
