"""The interface of promptable segmenters in PyTorch, which the export builds engines from."""

from __future__ import annotations

from torch import Tensor, nn

from osprey_ros.segmenter.spec import SegmenterSpec


class SegmenterModel(nn.Module):
    """A segmenter in PyTorch: `encode` an image once, then `decode` prompts.

    Attributes:
        spec: settings of the runtime.
        features: names of the encoder's outputs that the decoder reads, in order.
        blocks: paths of modules, of which the precision of the engines is chosen one by one. A path has the names of
            the modules that are called on the way, such as "encoder/stages.0"; the longest one that fits counts. What
            is in no block always computes in float32.
    """

    def __init__(self, spec: SegmenterSpec, features: tuple[str, ...], blocks: tuple[str, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.features = features
        self.blocks = blocks

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Return the encoder's outputs by their names: `features`, and `objectness` where the family has it.

        image: float32 [1, 3, H, W], normalized, of `spec.input_size`.
        """
        raise NotImplementedError

    def decode(self, features: dict[str, Tensor], point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits float32 [P, M, h, w] and predicted IoUs float32 [P, M].

        Args:
            features: what `encode` returned, without `objectness`.
            point_coords: float32 [P, N, 2], x and y in pixels of the encoder's input.
            point_labels: int64 [P, N]: 1 object, 0 background, 2 and 3 corners of a box, -1 unused.
        """
        raise NotImplementedError
