"""One interface to what runs an engine file: onnxruntime or TensorRT, imported when first used."""

from typing import TYPE_CHECKING

from osprey_ros._moved import old_names

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("engines")  # osprey_ros.engines was a module in 0.1
