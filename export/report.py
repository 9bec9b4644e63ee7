"""The verification of a bundle as a page for people: `report.md` beside its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPORT = "report.md"

_STAGES = {
    "vision_features": "four feature maps of the image",
    "image_tokens": "image tokens, the input of the language model",
    "mask_tokens": "appearance of a region",
    "position_tokens": "position of a region",
    "crop_tokens": "what its own crop adds to the appearance of a region",
    "decoder_graph": "language model, PyTorch on the engine's own inputs and weights",
    "prefix_logits": "language model, end of the shared prefix",
    "answer_logits": "language model, answers",
}

_COMPARISON = (
    "Each stage of the engines reads what the one before it wrote; PyTorch computes everything in fp32 from the pixels."
)


def write_report(folder: Path, name: str, precisions: Mapping[str, str], verification: Mapping[str, Any]) -> Path:
    """Write `report.md` into a bundle's folder and returns its path.

    name, precisions, verification: as in the manifest. The page states if the verification failed or was not done.
    The page depends on these and on the sizes of the files in the folder, on nothing else.
    """
    sections = [f"# {name}: what its engines say, against PyTorch", _verdict(verification)]
    if "stages" in verification:
        sections += [stages(verification, _STAGES, _COMPARISON), _words(verification["greedy_tokens"])]
    sections += [
        "## Weights\n\n" + table(("part", "stored as"), sorted(precisions.items())),
        "## Files\n\n" + table(("file", "MB"), sizes(folder)),
    ]
    return write_sections(folder, sections, verification)


def write_sections(folder: Path, sections: Sequence[str], verification: Mapping[str, Any]) -> Path:
    """Write `report.md` with these sections and the versions of the verification; return its path."""
    sections = list(sections)
    if "versions" in verification:
        sections.append("## Versions\n\n" + table(("package", "version"), sorted(verification["versions"].items())))
    path = folder / REPORT
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _verdict(verification: Mapping[str, Any]) -> str:
    if verification.get("verified"):
        lines = ["**Verified**: every figure is within its limit."]
    elif verification.get("failures"):
        lines = ["**Failed**:", *(f"- {line}" for line in verification["failures"])]
    else:
        return "**Not verified**: the engines were not compared with PyTorch. What they say may be wrong."
    images = verification["pictures"]
    lines += ["", f"Reference: {verification['reference']}, on {len(images)} images: {', '.join(images)}."]
    lines += [f'Question: "{verification["question"]}"']
    layers = verification["decoder_layers"]
    if layers["compared"] < layers["all"]:
        lines += [
            "",
            f"Only the first {layers['compared']} of {layers['all']} layers of the language model were compared, on "
            "both sides: as many as were asked for, or as fit the memory of the machine that built this bundle.",
        ]
    return "\n".join(lines)


def stages(verification: Mapping[str, Any], meanings: Mapping[str, str], note: str) -> str:
    """Return the section with the figures of all stages. meanings: what the stages are. note: how they are compared."""
    rows = []
    for stage, figures in verification["stages"].items():
        limits = figures["limits"]
        rows.append(
            (
                stage,
                meanings.get(stage, ""),
                f"{figures['cosine']:.6f} (>= {limits['cosine']})",
                f"{figures['relative']:.2e} (<= {limits['relative']})",
                f"{figures['max_difference']:.2e}",
            )
        )
    header = ("stage", "what it is", "least cosine", "difference / largest value", "largest difference")
    return f"## Stages\n\n{note} In brackets the limits.\n\n{table(header, rows)}"


def _words(tokens: Mapping[str, Any]) -> str:
    margin = tokens["margin_of_decided_steps"]
    rows = [
        ("answers with the same words", _share(tokens["identical_answers"], tokens["regions"])),
        ("same token, all steps", _share(tokens["steps_equal"], tokens["steps"])),
        (
            f"same token where PyTorch leads by {margin} in probability (>= {tokens['limits']['agreement']:.0%})",
            _share(tokens["decided_steps_equal"], tokens["decided_steps"]),
        ),
        ("KL divergence of a step, mean", f"{tokens['mean_kl_divergence']:.2e}"),
        ("KL divergence of a step, largest", f"{tokens['max_kl_divergence']:.2e}"),
    ]
    note = (
        "Greedy answers of the engine, and what PyTorch would say next at each of their steps. The divergence (natural "
        "logarithm) is what the engine's precision costs."
    )
    return f"## Words\n\n{note}\n\n{table(('figure', 'value'), rows)}"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")


def sizes(folder: Path) -> list[tuple[str, str]]:
    """Return the names and sizes in megabytes of the files of a bundle."""
    files = [p for p in folder.iterdir() if p.is_file() and p.name[0] != "." and p.suffix != ".md"]
    return [(p.name, f"{p.stat().st_size / 1e6:.2f}") for p in sorted(files) if p.name != "manifest.json"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
