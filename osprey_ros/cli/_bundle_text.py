"""Text of ``osprey bundle show``: what a bundle contains, as lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from osprey_ros.bundle.manifest import Manifest
from osprey_ros.segmenter.bundle import SegmenterBundle

if TYPE_CHECKING:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.segmenter.spec import SegmenterSpec


def describe_bundle(bundle: Bundle | SegmenterBundle) -> list[str]:
    """Return the lines of ``osprey bundle show``. Raises BundleError for an invalid tree of kinds."""
    manifest = bundle.manifest
    compared = "compared with its PyTorch model" if manifest.verified else "NEVER compared with its PyTorch model"
    layers = manifest.verification.get("decoder_layers", {})
    if manifest.verified and layers.get("compared") != layers.get("all"):
        compared += f" (only the first {layers['compared']} of {layers['all']} layers of the language model)"
    format_text = f"format {manifest.format_version}"
    if isinstance(manifest, Manifest):
        format_text += f", prompt template {manifest.template}"
    lines = [f"{manifest.name}  {bundle.root}", f"{compared}; {format_text}", "", "Model"]
    lines += _segmenter(bundle.manifest.model) if isinstance(bundle, SegmenterBundle) else _describer(bundle)
    lines += ["", "Engines"]
    rows = [
        (role, entry.file, f"{entry.runtime} on {entry.device}", manifest.precisions.get(role, "-"))
        for role, entry in manifest.engines.items()
    ]
    others = sorted(set(manifest.precisions) - set(manifest.engines))
    lines += table([*rows, *((name, "", "", manifest.precisions[name]) for name in others)])
    for role, entry in manifest.engines.items():
        if entry.fingerprint:
            lines += ["", f"Built for ({role}, {entry.file})", *table(sorted(entry.fingerprint.items()))]
    total = sum(entry.bytes for entry in manifest.files.values())
    lines += ["", f"Files, {size_text(total)}"]
    lines += table([(name, size_text(entry.bytes)) for name, entry in sorted(manifest.files.items())])
    return [*lines, *_verification(manifest.verification)]


def _describer(bundle: Bundle) -> list[str]:
    model = bundle.manifest.model
    heads = f"{model.num_heads} heads"
    if model.kv_heads != model.num_heads:
        heads += f" ({model.kv_heads} of keys and values)"
    lines = [
        f"  image           {model.image_size} x {model.image_size} pixels, {model.image_tokens} tokens",
        f"  language model  {model.num_layers} layers of {model.hidden_size}, {heads} of "
        f"{model.head_dim}, {model.vocab_size} words, {model.max_positions} positions",
    ]
    if "crop" in bundle.manifest.engines:
        lines.append(f"  crops           {model.crop_size} x {model.crop_size} pixels, of single regions")
    kinds = bundle.kinds()
    if kinds is not None:
        lines.append(
            f"  tree of kinds   {len(kinds) - 1} kinds, answers with a probability of {kinds.threshold:g} or more"
        )
    return lines


def _segmenter(model: SegmenterSpec) -> list[str]:
    height, width = model.input_size
    return [
        f"  family          {model.family}",
        f"  image           {width} x {height} pixels ({model.resize}, {model.interpolation})",
        f"  everything      up to {model.everything.max_regions} regions of {model.everything.min_area} pixels or more",
    ]


def _verification(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures of the verification: a table of the stages, then one line for each other figure."""
    stages = figures.get("stages")
    lines = []
    if isinstance(stages, Mapping) and stages:
        columns = list(dict.fromkeys(k for f in stages.values() for k, v in f.items() if isinstance(v, Real)))
        rows = [("stage", *(column.replace("_", " ") for column in columns), "limits")]
        for name, stage in stages.items():
            limits = stage.get("limits", {})
            rows.append((name, *(_figure(stage.get(column)) for column in columns), _in_line(limits)))
        lines += ["", "Verification", *table(rows)]
    rest = {name: value for name, value in figures.items() if name not in ("stages", "verified")}
    if rest:
        lines += ["", "Verification, further" if lines else "Verification"]
        lines += table([(name.replace("_", " "), _in_line(value)) for name, value in rest.items()])
    return lines


def _in_line(value: Any) -> str:
    """Return a figure, or a list or a mapping of figures, on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_in_line(v)}" for name, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_in_line(v) for v in value)
    return _figure(value)


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.8f}".rstrip("0").rstrip(".") if 0.001 <= abs(value) < 1e6 else f"{value:.3g}"
    return str(value)


def table(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Return rows of cells as indented lines with aligned columns."""
    cells = [list(row) for row in rows]
    widths = [max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(max(map(len, cells)))]
    return [indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in cells]


def size_text(count: float) -> str:
    """Return a number of bytes as text in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
