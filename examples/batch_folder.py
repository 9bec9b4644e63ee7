"""Describe a folder of pairs NAME.png and NAME.masks.png, a line of JSON each: `examples/batch_folder.py DIR`."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from osprey_ros import Describer, load_image

with Describer() as describer:  # loaded once for all images
    for masks in sorted(Path(sys.argv[1]).glob("*.masks.png")):
        image = masks.with_name(masks.name.replace(".masks.png", ".png"))
        describer.set_image(load_image(image))
        words = {d.region_id: d.text for d in describer.describe(np.array(Image.open(masks)))}
        print(json.dumps({"image": image.name, "objects": words}))
