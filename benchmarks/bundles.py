"""Opening a bundle for a measurement, on another device than it was built for if asked."""

from __future__ import annotations

from dataclasses import replace

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import onnx_engines


def open_bundle(path: str, device: str | None) -> Bundle:
    """The bundle, its engines as its manifest says or, with a device, as ONNX graphs on that. Raises BundleError."""
    bundle = Bundle.open(path)
    if device is None:
        return bundle
    return Bundle(bundle.root, replace(bundle.manifest, engines=onnx_engines(device)))
