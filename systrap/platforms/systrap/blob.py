"""Loading the machine-code images, and patching the words they export (docs/images.md; 10-stub §1.5).

Our images lie in ``blobs/`` with a manifest; a wheel carries them as data of the package. The manifest that is read here is
``manifest.txt``, which the build writes with the same contents as ``manifest.json``: reading JSON would cost every start of
a guest two milliseconds for the module alone.

The sysmsg image may also be a foreign one, with upstream's exports; for that the manifest is JSON.
"""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from systrap.host.sys import PAGE_SIZE

EXPORT_PREFIX: Final = "__export_"
IMAGES: Final = ("bootstrap", "sysmsg", "sentry")

SYSMSG_EXPORTS: Final = (
    "arch_state",
    "context_queue_addr",
    "context_region",
    "deep_sleep_timeout",
    "restore_rt",
    "sighandler",
    "spinning_queue_addr",
    "stub_start",
    "syshandler",
)
"""What every sysmsg image must export. ``disable_syscall_patching`` and ``ready_ring`` may be absent in a foreign one."""

_FORMAT: Final = "1"
_MANIFEST: Final = "manifest.txt"
_U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1

Value = int | tuple[int, ...]
"""What can be stored at an export: an int is a u64, a tuple is so many u32 one after the other."""


class BlobError(Exception):
    """An image or its manifest is missing, damaged or not what is needed. The text says which, and what to do."""


class _Entry(NamedTuple):
    """One image in a manifest."""

    file: str
    size: int
    sha256: str
    parameters: dict[str, int]
    exports: dict[str, int]


class Image:
    """A flat, position-independent image and the offsets of its exports. Offsets are in bytes from its first byte.

    The image must be mapped at a page boundary, patched before it becomes executable, and not written afterwards.
    ``parameters`` are what it was built for (PAGE_SIZE, THREAD_AREA_SIZE); empty when a foreign manifest does not say.
    """

    __slots__ = ("data", "exports", "name", "parameters")

    def __init__(self, name: str, data: bytes, exports: Mapping[str, int], parameters: Mapping[str, int]) -> None:
        """Take the bytes and the exports, by names without prefix. Raises BlobError if an export lies outside."""
        self.name = name
        self.data = data
        self.exports = dict(exports)
        self.parameters = dict(parameters)
        for export, offset in self.exports.items():
            if not 0 <= offset < len(data):
                raise BlobError(f"image {name}: export {export} at {offset:#x} lies outside its {len(data)} bytes")

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return len(self.data)

    def has(self, export: str) -> bool:
        """Tell whether the image exports this name."""
        return export in self.exports

    def offset(self, export: str) -> int:
        """Return where an export lies. Raises BlobError when there is none of this name."""
        try:
            return self.exports[export]
        except KeyError:
            raise BlobError(f"image {self.name} does not export {export}; it has {', '.join(self.exports)}") from None

    def patched(self, values: Mapping[str, Value]) -> bytes:
        """Return the image with values stored at exports. Raises BlobError for an unknown export or a value out of range."""
        data = bytearray(self.data)
        for export, value in values.items():
            offset = self.offset(export)
            stored = self._encode(export, value)
            if offset + len(stored) > len(data):
                raise BlobError(f"image {self.name}: {len(stored)} bytes at {export} reach beyond its end")
            data[offset : offset + len(stored)] = stored
        return bytes(data)

    def _encode(self, export: str, value: Value) -> bytes:
        words, size, limit = ((value,), 8, _U64_MAX) if isinstance(value, int) else (value, 4, _U32_MAX)
        for word in words:
            if not 0 <= word <= limit:
                raise BlobError(f"image {self.name}: {word:#x} at {export} does not fit {size} bytes")
        return b"".join(word.to_bytes(size, "little") for word in words)


def host_images(machine: str, page: int) -> str:
    """Return what the images for a machine (``uname -m``) are called by. Where page sizes differ, there is a set for each."""
    return machine if machine == "x86_64" else f"{machine}-{page >> 10}k"


def load(name: str, arch: str | None = None, folder: str | None = None) -> Image:
    """Load one of our images ("bootstrap", "sysmsg", "sentry"), by default this host's; ``arch``: as host_images() returns it.

    ``folder``: where the images and their manifest lie, if not in the package or beside it. Raises BlobError.
    """
    where = folder or images_folder()
    wanted = arch or host_images(os.uname().machine, PAGE_SIZE)
    entries = _read_manifest(os.path.join(where, _MANIFEST))
    entry = entries.get((wanted, name))
    if entry is None:
        known = sorted({known_arch for known_arch, _ in entries})
        raise BlobError(f"there is no image {name} for {wanted}; there are {', '.join(IMAGES)} for {', '.join(known)}")
    path = os.path.join(where, entry.file)
    data = _read(path)
    if len(data) != entry.size or digest(data) != entry.sha256:
        raise BlobError(f"{path} is not the image of its manifest: reinstall, or build with python -m blobs.build")
    return Image(name, data, entry.exports, entry.parameters)


def load_foreign(image_path: str, manifest_path: str) -> Image:
    """Load a sysmsg image that was built elsewhere.

    Its manifest is JSON: either ``{symbol: offset}``, where a symbol is upstream's linker symbol (``__export_sighandler``),
    upstream's generated constant (``Sighandler_blob_offset____export_sighandler``) or the bare name; or a manifest.json in
    the format of ours, in which the image's hash is looked up. Raises BlobError.
    """
    data = _read(image_path)
    exports, parameters = _foreign_exports(_read_json(manifest_path), manifest_path, digest(data))
    image = Image("sysmsg", data, exports, parameters)
    missing = [export for export in SYSMSG_EXPORTS if not image.has(export)]
    if missing:
        raise BlobError(f"{manifest_path} lacks {', '.join(missing)}: a sysmsg image needs them")
    return image


def images_folder() -> str:
    """Return the folder of the images: in the installed package, or beside it in a source tree. Raises BlobError."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    candidates = (os.path.join(package, "blobs"), os.path.join(os.path.dirname(package), "blobs"))
    for folder in candidates:
        if os.path.exists(os.path.join(folder, _MANIFEST)):
            return folder
    raise BlobError(f"no machine-code images found: neither {' nor '.join(candidates)} holds a {_MANIFEST}")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BlobError(f"cannot read {path}: {error.strerror}") from error


def digest(data: bytes) -> str:
    """Hash without OpenSSL, whose loading alone takes four milliseconds; the names are those of CPython ≤ 3.11 and ≥ 3.12."""
    for module in ("_sha256", "_sha2", "hashlib"):
        try:
            found = __import__(module)
        except ImportError:
            continue
        return str(found.sha256(data).hexdigest())
    raise BlobError("this Python has no SHA-256")


def _read_manifest(path: str) -> dict[tuple[str, str], _Entry]:
    """Read manifest.txt: a line "format", then for each image a line "image" and its lines "parameter" and "export"."""
    entries: dict[tuple[str, str], _Entry] = {}
    entry = _Entry("", 0, "", {}, {})
    try:
        lines = _read(path).decode("ascii").splitlines()
        if not lines or lines[0] != f"format {_FORMAT}":
            raise BlobError(
                f"{path} is not a manifest of format {_FORMAT}: images and program are of different versions"
            )
        for line in lines[1:]:
            kind, *fields = line.split()
            if kind == "image":
                arch, name, file, size, digest = fields
                entry = _Entry(file, int(size), digest, {}, {})
                entries[arch, name] = entry
            else:
                name, value = fields
                {"parameter": entry.parameters, "export": entry.exports}[kind][name] = int(value)
    except (ValueError, KeyError) as error:
        raise BlobError(f"{path} is damaged: {error}") from error
    return entries


def _read_json(path: str) -> dict[str, object]:
    import json  # only foreign images pay for it

    try:
        document: object = json.loads(_read(path))
    except ValueError as error:
        raise BlobError(f"{path} is not JSON: {error}") from error
    return _object(document, path)


def _object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BlobError(f"{path} must hold JSON objects; see load_foreign in {__name__}")
    return {str(key): item for key, item in value.items()}


def _foreign_exports(document: dict[str, object], path: str, digest: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return exports and parameters out of either form of manifest."""
    if "architectures" not in document:
        return _integers(document, path), {}
    for arch in _object(document["architectures"], path).values():
        described = _object(arch, path)
        for image in _object(described.get("images"), path).values():
            entry = _object(image, path)
            if entry.get("sha256") == digest:
                exports = _integers(_object(entry.get("exports"), path), path)
                return exports, _integers(_object(described.get("parameters"), path), path)
    raise BlobError(f"{path} does not describe this image: no entry has the sha256 {digest}")


def _integers(table: dict[str, object], path: str) -> dict[str, int]:
    """Return a table of offsets by bare names. Raises BlobError for what is not a number."""
    result: dict[str, int] = {}
    for symbol, value in table.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise BlobError(f"{path}: {symbol} must be an integer offset, not {value!r}")
        result[symbol.rpartition(EXPORT_PREFIX)[2]] = value
    return result
