"""Loading and patching images (systrap/platforms/systrap/blob.py)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from systrap.platforms.systrap import blob
from systrap.platforms.systrap.blob import BlobError, Image
from systrap.platforms.systrap.layout import area_shape

FOLDER = Path(blob.images_folder())


@pytest.mark.parametrize("name", blob.IMAGES)
def test_our_images_load(name: str) -> None:
    image = blob.load(name)
    assert image.name == name
    assert image.size == len(image.data) > 0
    assert image.parameters == {"PAGE_SIZE": 4096, "THREAD_AREA_SIZE": 32768}


def test_values_are_stored_where_the_exports_are() -> None:
    image = blob.load("sysmsg")
    data = image.patched({"stub_start": 0x1122334455667788, "arch_state": (2, 2440, 1)})
    at = image.offset("stub_start")
    assert data[at : at + 8] == bytes.fromhex("8877665544332211")
    at = image.offset("arch_state")
    assert data[at : at + 16] == bytes.fromhex("02000000 88090000 01000000 00000000")
    assert image.data != data
    assert len(data) == image.size


@pytest.mark.parametrize("value", [-1, 1 << 64, (1 << 32,), (-1,)])
def test_values_that_do_not_fit(value: blob.Value) -> None:
    with pytest.raises(BlobError, match="does not fit"):
        blob.load("sysmsg").patched({"stub_start": value})


def test_a_store_beyond_the_end() -> None:
    with pytest.raises(BlobError, match="beyond its end"):
        Image("x", bytes(8), {"last": 7}, {}).patched({"last": 1})


def test_unknown_exports_are_named() -> None:
    image = blob.load("bootstrap")
    assert image.has("begin")
    assert not image.has("sighandler")
    with pytest.raises(BlobError, match="bootstrap does not export sighandler; it has begin"):
        image.offset("sighandler")


def test_an_export_outside_the_image() -> None:
    with pytest.raises(BlobError, match="outside its 4 bytes"):
        Image("x", bytes(4), {"far": 4}, {})


def test_unknown_images() -> None:
    """What there is is told."""
    kinds = "aarch64-16k, aarch64-4k, aarch64-64k, x86_64"
    complaint = f"no image sysmsg for riscv64; there are bootstrap, sysmsg, sentry for {kinds}"
    with pytest.raises(BlobError, match=complaint):
        blob.load("sysmsg", "riscv64")


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_an_arm64_host_gets_the_images_for_its_page_size(page: int) -> None:
    """10-stub §8.3: page size and size of a thread area are built in, and those of the layout."""
    for name in blob.IMAGES:
        image = blob.load(name, blob.host_images("aarch64", page))
        assert image.parameters == {"PAGE_SIZE": page, "THREAD_AREA_SIZE": area_shape(page).size}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in FOLDER.iterdir():
        if file.suffix in (".bin", ".txt", ".json"):
            shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\x00" + data[1:]])
def test_a_damaged_image(folder: Path, damage: "object") -> None:
    assert callable(damage)
    path = folder / "x86_64-sysmsg.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BlobError, match="not the image of its manifest"):
        blob.load("sysmsg", "x86_64", str(folder))


def test_a_missing_image(folder: Path) -> None:
    (folder / "x86_64-sysmsg.bin").unlink()
    with pytest.raises(BlobError, match="cannot read .*: No such file"):
        blob.load("sysmsg", "x86_64", str(folder))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("format 2\n", "not a manifest of format 1"),
        ("", "not a manifest of format 1"),
        ("format 1\nimage x86_64 sysmsg file\n", "damaged"),
        ("format 1\nexport a b\n", "damaged"),
        ("format 1\nsurprise a 1\n", "damaged"),
        ("format 1\n\n", "damaged"),
    ],
)
def test_a_damaged_manifest(folder: Path, text: str, complaint: str) -> None:
    (folder / "manifest.txt").write_text(text)
    with pytest.raises(BlobError, match=complaint):
        blob.load("sysmsg", "x86_64", str(folder))


# ---- foreign images ----


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.bin"
    path.write_bytes(bytes(1000))
    return path


def load_foreign(foreign: Path, manifest: object) -> Image:
    path = foreign.parent / "foreign.json"
    path.write_text(json.dumps(manifest))
    return blob.load_foreign(str(foreign), str(path))


@pytest.mark.parametrize("prefix", ["", "__export_", "Sighandler_blob_offset____export_"])
def test_a_foreign_image_with_a_table_of_symbols(foreign: Path, prefix: str) -> None:
    image = load_foreign(foreign, {prefix + name: 8 * i for i, name in enumerate(blob.SYSMSG_EXPORTS)})
    assert image.offset("context_queue_addr") == 8
    assert not image.has("ready_ring")
    assert image.parameters == {}


def test_a_foreign_image_with_a_manifest_like_ours(tmp_path: Path) -> None:
    """The image is found by its hash, whatever its file is called."""
    path = tmp_path / "another-name"
    shutil.copy(FOLDER / "x86_64-sysmsg.bin", path)
    image = blob.load_foreign(str(path), str(FOLDER / "manifest.json"))
    assert image.exports == blob.load("sysmsg", "x86_64").exports
    assert image.parameters["PAGE_SIZE"] == 4096


def test_a_manifest_like_ours_of_other_images(foreign: Path) -> None:
    with pytest.raises(BlobError, match="no entry has the sha256"):
        blob.load_foreign(str(foreign), str(FOLDER / "manifest.json"))


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ({"__export_sighandler": 8}, "lacks arch_state"),
        ({"__export_sighandler": "8"}, "must be an integer offset"),
        ({"__export_sighandler": True}, "must be an integer offset"),
        ({"__export_sighandler": 4000}, "outside its 1000 bytes"),
        (["__export_sighandler"], "must hold JSON objects"),
        ({"architectures": 1}, "must hold JSON objects"),
    ],
)
def test_foreign_manifests_that_are_wrong(foreign: Path, manifest: object, complaint: str) -> None:
    with pytest.raises(BlobError, match=complaint):
        load_foreign(foreign, manifest)


def test_a_foreign_manifest_that_is_no_json(foreign: Path) -> None:
    path = foreign.parent / "foreign.json"
    path.write_text("__export_sighandler = 8")
    with pytest.raises(BlobError, match="is not JSON"):
        blob.load_foreign(str(foreign), str(path))


def test_loading_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from systrap.platforms.systrap import blob; [blob.load(name) for name in blob.IMAGES]; "
        "print(sorted({'json', 'hashlib', '_hashlib', 'dataclasses', 'pathlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "[]\n"
