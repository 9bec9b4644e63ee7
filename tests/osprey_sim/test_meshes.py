"""Models: from OBJ files in a package to meshes in meters with author and license, and the set that ships."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_ros.errors import InputError
from osprey_sim.home import sample_home
from osprey_sim.meshes import folder
from osprey_sim.meshes.attribution import LICENSES
from osprey_sim.meshes.furniture import main
from osprey_sim.meshes.obj import read_obj
from osprey_sim.meshes.store import ATTRIBUTION, HOME, ModelSet

MEGABYTE = 1_000_000

# A block of 2 x 4 x 6 (x, y up, z) with a textured top and a clear rest; one face refers backwards.
OBJ = """mtllib block.mtl
v -1 0 -3
v 1 0 -3
v 1 0 3
v -1 0 3
v -1 4 -3
v 1 4 -3
v 1 4 3
v -1 4 3
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 1 0
usemtl top
f 8/1/1 7/2/1 6/3/1 5/4/1
usemtl rest
f 1 2 3 4
f -8 -4 -3 -7
f 2 6 7 3
f 3 7 8 4
f 4 8 5 1
"""
MTL = """newmtl top
Kd 0.2 0.2 0.2
map_Kd top.png
newmtl rest
Kd 0.5 0.25 0
Ks 0.4 0.5 0.6
d 0.5
"""
TWICE = '[{"id": "a", "name": "A", "obj": "a.obj"}, {"id": "a", "name": "B", "obj": "b.obj"}]'
TABLE = """id#{n}={catalog}#{name}
name#{n}=Wooden block
model#{n}=/models/{name}/block.obj
width#{n}=10
depth#{n}=30
height#{n}=20
creator#{n}=Ada
"""


def catalog(name: str, models: dict[str, dict[str, str]]) -> bytes:
    """Return a catalog with a block for each model; a value is a notice, or a line of its entry."""
    image = io.BytesIO()
    # The top left quarter is red.
    pixels = np.full((64, 64, 3), (0, 0, 255), np.uint8)
    pixels[:32, :32] = (255, 0, 0)
    Image.fromarray(pixels).save(image, "PNG")
    table, data = "", io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number, (model, more) in enumerate(models.items(), start=1):
            table += TABLE.format(n=number, catalog=name, name=model) + more.get("line", "").format(n=number)
            archive.writestr(f"models/{model}/block.obj", more.get("obj", OBJ))
            archive.writestr(f"models/{model}/block.mtl", MTL)
            archive.writestr(f"models/{model}/top.png", image.getvalue())
            if "notice" in more:
                archive.writestr(f"models/{model}/BLENDSWAP_LICENSE.txt", more["notice"])
        archive.writestr("PluginFurnitureCatalog.properties", table)
    return data.getvalue()


def package(output: Path, catalogs: dict[str, bytes]) -> Path:
    """Return a .deb file with catalogs."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in catalogs.items():
            member = tarfile.TarInfo(f"./usr/share/sweethome3d/furniture/{name}.sh3f")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    content = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", lzma.compress(tar.getvalue()))):
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path = output / "models.deb"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models")
    models = {
        "block": {"notice": "Creative Commons Attribution 3.0\nhttp://www.blendswap.com/blends/view/7"},
        "again": {"line": "modelRotation#{n}=0 0 1 0 1 0 -1 0 0\n"},
        "zero": {"notice": "Creative Commons Zero"},
        "noncommercial": {"notice": "Creative Commons Attribution-NonCommercial"},
        "hanging": {"line": "elevation#{n}=120\n"},
        "large": {"line": "width#{n}=300\n"},
        "damaged": {"obj": OBJ.replace("f 1 2 3 4", "f 1 2 3 99")},
    }
    deb = package(output, {"BlendSwap-CC-BY": catalog("Blend Swap CC-BY", models)})
    assert main(["--package", str(deb), "--output", str(output / "set"), "--texture", "16"]) == 0
    return output / "set"


def test_a_model_keeps_size_material_texture_and_author(converted: Path) -> None:
    models = ModelSet(converted)
    info = models.models["wooden_block"]
    assert (info.kind, info.title, info.author) == ("wooden block", "Wooden block", "Ada")
    assert (info.license, info.source) == ("CC-BY-3.0", "BlendSwap-CC-BY#block")
    assert info.url == "http://www.blendswap.com/blends/view/7"
    assert info.size == (0.1, 0.3, 0.2)
    top, rest = models.meshes("wooden_block")
    everything = np.concatenate([top.vertices, rest.vertices])
    np.testing.assert_allclose(everything.min(axis=0), [-0.05, -0.15, 0], atol=1e-4)
    np.testing.assert_allclose(everything.max(axis=0), [0.05, 0.15, 0.2], atol=1e-4)
    np.testing.assert_allclose(top.normals, [[0, 0, 1]] * 4, atol=1e-6)
    assert (len(top.faces), len(rest.faces)) == (2, 10)
    assert top.texture is not None
    assert top.texture.shape == (16, 16, 3)
    assert top.texture[2, 2].argmax() == 0
    assert top.texture[12, 12].argmax() == 2
    assert (rest.texture, rest.opacity) == (None, 0.5)
    assert rest.rgb == pytest.approx((0.5, 0.25, 0.0))


def test_what_hangs_is_large_damaged_or_of_unclear_license_is_left_out(converted: Path) -> None:
    sources = {info.source.split("#")[1] for info in ModelSet(converted).models.values()}
    assert sources == {"block", "again"}


def test_the_rotation_of_a_catalog_is_applied(converted: Path) -> None:
    for name, x in (("wooden_block", -0.05), ("wooden_block_2", 0.05)):
        top, _ = ModelSet(converted).meshes(name)
        (corner,) = top.vertices[(top.uv == 0).all(axis=1)]
        np.testing.assert_allclose(corner, [x, -0.15, 0.2], atol=1e-4)


def test_a_folder_of_catalogs_gives_the_same_models(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "Scopia.sh3f").write_bytes(catalog("Scopia", {"block": {}}))
    assert main(["--package", str(tmp_path), "--output", str(tmp_path / "set"), "--texture", "16"]) == 0
    ours, theirs = ModelSet(tmp_path / "set").meshes("wooden_block"), ModelSet(converted).meshes("wooden_block")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
    assert "| wooden_block | Wooden block | Ada | CC-BY-3.0 | Scopia#block |" in (
        (tmp_path / "set" / ATTRIBUTION).read_text()
    )


@pytest.mark.parametrize("content", [b"", b"text", b"!<arch>\ndata.tar.xz     "])
def test_a_damaged_package_is_refused_in_a_line(content: bytes, tmp_path: Path, capsys) -> None:
    (tmp_path / "p.deb").write_bytes(content)
    assert main(["--package", str(tmp_path / "p.deb"), "--output", str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert "p.deb" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("line", ["v 1 2", "f 1 2 x", "f 1 2 9", "f //1 2 3", "v a b c"])
def test_an_invalid_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "m.obj").write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\n{line}\n")
    with pytest.raises(InputError, match="line 4"):
        read_obj(tmp_path / "m.obj")


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"models\.json"):
        ModelSet(tmp_path)
    (tmp_path / "models.json").write_text('[{"name": "mug"}]')
    with pytest.raises(InputError, match=r"models\.json"):
        ModelSet(tmp_path)


def test_the_shipped_models_are_small_and_all_attributed() -> None:
    models = ModelSet(HOME)
    files = list(HOME.iterdir())
    assert sum(file.stat().st_size for file in files) < 10 * MEGABYTE
    assert {file.stem for file in files if file.suffix == ".npz"} == set(models.models)
    assert len({info.kind for info in models.models.values()}) >= 40
    rows = (HOME / ATTRIBUTION).read_text(encoding="utf-8").splitlines()
    for info in models.models.values():
        assert info.license in LICENSES
        assert info.author
        (row,) = [row for row in rows if row.startswith(f"| {info.name} |")]
        assert f"| {info.title} | {info.author} | {info.license} | {info.source}" in row
        assert any(LICENSES[info.license] in line for line in rows)


def test_the_shipped_models_have_their_true_size() -> None:
    models = ModelSet(HOME)
    for info in models.models.values():
        bounds = [mesh.bounds for mesh in models.meshes(info.name)]
        size = np.max([high for _, high in bounds], axis=0) - np.min([low for low, _ in bounds], axis=0)
        np.testing.assert_allclose(size, info.size, rtol=0.01, atol=0.001, err_msg=info.name)


@pytest.mark.parametrize(("up", "size"), [("y", (2.0, 6.0, 4.0)), ("z", (2.0, 4.0, 6.0))])
def test_a_folder_of_models_with_an_index_is_converted(up: str, size: tuple[float, ...], tmp_path: Path) -> None:
    (tmp_path / "block.obj").write_text(OBJ)
    (tmp_path / "block.mtl").write_text(MTL)
    known = {"id": "a block/1", "name": "Block", "obj": "block.obj", "license": "MIT", "source": "here"}
    missing = {"id": "gone", "name": "Gone", "obj": "gone.obj"}
    (tmp_path / "index.json").write_text(json.dumps([known, missing]))
    assert folder.main([str(tmp_path), "--output", str(tmp_path / "set"), "--up", up]) == 0
    (info,) = ModelSet(tmp_path / "set").models.values()
    assert (info.name, info.kind, info.license, info.size) == ("a_block_1", "block", "MIT", size)
    assert "| a_block_1 | Block |" in (tmp_path / "set" / ATTRIBUTION).read_text()
    with pytest.raises(InputError, match=r"no model of .* has a size"):
        sample_home(0, "test", models=ModelSet(tmp_path / "set"))


@pytest.mark.parametrize("index", [None, "{", "[1]", '[{"id": "a"}]', "[]", TWICE])
def test_a_folder_without_a_valid_index_is_refused_in_a_line(index: str | None, tmp_path: Path, capsys) -> None:
    if index is not None:
        (tmp_path / "index.json").write_text(index)
    assert folder.main([str(tmp_path), "--output", str(tmp_path / "set")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
