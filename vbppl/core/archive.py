"""The one codec of files, of checkpoints and of stored posteriors: arrays by their names, and a JSON text beside them.

An `.npz` archive; nothing in it is ever executed. Its array `meta` holds the text, as bytes: the kind of file, the
version of its format, and everything that is no array. It is written to a file beside it, flushed to the disk and
renamed, so that at any moment the path holds either the old file or the new one, whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import numbers
import os
import platform
import uuid
import zipfile
from collections import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import PathLike, PyTree

T = TypeVar("T")

META = "meta"
# What reading a file of something else can raise; the last ones where it claims what no memory holds.
WRONG = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, NotImplementedError)
WRONG += (zipfile.BadZipFile, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a file is of.

    Attributes:
      word: what the file itself says that it is.
      format: the version of what stands in it: a reader reads its own.
      called: what messages call it.
      mend: what to do with a file that is no such thing.
    """

    word: str
    format: int
    called: str
    mend: str


CHECKPOINT = Kind(
    "checkpoint",
    3,
    "a checkpoint of a fit",
    "It was left as it is. Move it away, or give another path, to begin anew.",
)


def write(path: PathLike, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], kind: Kind = CHECKPOINT) -> None:
    """Put `meta`, which JSON can hold, and `arrays` into `path`, all or nothing; an array's name is its own there."""
    path = Path(os.path.realpath(path))  # a link goes on pointing to the file
    dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    head = {"kind": kind.word, "format": kind.format}
    text = json.dumps({**head, "meta": meta, "dtypes": dtypes, "digest": digest(*arrays.values())})
    stored: dict[str, Any] = {name: _plain(array) for name, array in arrays.items()}
    stored[META] = np.frombuffer(text.encode(), np.uint8)
    # A name of its own: two fits that write to one path must not write to one file.
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            np.savez(file, **stored)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # the disk is full, or somebody interrupts: the old file stays, and nothing beside it
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is on the disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(
    path: PathLike, content: bytes | None = None, kind: Kind = CHECKPOINT
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The `meta` and `arrays` that `write` put into `path`; or into `content`, where the file has been read already.

    Raises:
      ModelError: it is of another kind, of another version, foreign or damaged.
    """
    with refused(path, kind):
        if not zipfile.is_zipfile(path if content is None else io.BytesIO(content)):
            os.stat(path)  # a file that is not there says so
            raise ValueError("it is no archive, or was cut short")
        with np.load(path if content is None else io.BytesIO(content), allow_pickle=False) as file:
            _check_sizes(file.zip, os.path.getsize(path) if content is None else len(content))
            if META not in file.files:
                raise ValueError("it is an archive that something else has written")
            text = json.loads(bytes(file[META]))
            _check_kind(text, kind)
            arrays = {name: file[name].view(np.dtype(dtype)) for name, dtype in text["dtypes"].items()}
        if digest(*arrays.values()) != text["digest"]:
            raise ValueError("its arrays are not those that were written")
        return text["meta"], arrays


def _check_sizes(file: zipfile.ZipFile, size: int) -> None:
    """Refuse what would unfold to more than the file itself: a small one from a stranger could fill all memory."""
    members = file.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise ValueError("its arrays are compressed or encrypted, as this package writes none")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its arrays overlap")


def _check_kind(text: Mapping[str, Any], kind: Kind) -> None:
    """Refuse a file of another kind or format; one of a newer format says so."""
    word, format = text.get("kind", CHECKPOINT.word), text["format"]
    if word != kind.word:
        raise ValueError(f"it is a {word}")
    if format != kind.format:
        newer = ", which a newer vbppl has written" if isinstance(format, int) and format > kind.format else ""
        raise ValueError(f"its format is {format}{newer}, not {kind.format}")


@contextlib.contextmanager
def refused(path: PathLike, kind: Kind = CHECKPOINT, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever goes wrong with what a file holds is one `ModelError` that names the file; `passing` is as it is."""
    try:
        yield
    except passing:
        raise
    except WRONG as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        if "pickle" in what:  # NumPy says how to run what is in it: never
            what = "it holds things that are no numbers"
        raise ModelError(f"{os.fspath(path)} cannot be read as {kind.called}: {what}.", mend=kind.mend) from error


def typed(kind: type[T], fields: Mapping[str, Any]) -> T:
    """The dataclass `kind` of these fields, each of which must be of the type that it says."""
    hints = get_type_hints(kind)
    for name, value in fields.items():
        if not fits(value, hints[name]):
            raise TypeError(f"it holds {value!r:.80} as {name}")
    return kind(**fields)


NUMBERS = {float: numbers.Real, int: numbers.Integral}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, its parts too; of a type that says nothing it is.

    >>> fits((1, 2), tuple[int, ...]), fits({"a": 1}, Mapping[str, str]), fits(True, float), fits(None, int | None)
    (True, False, False, True)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return type(value) is str and value in parts
    if origin is tuple:
        parts = parts[:1] * len(value) if parts[1:] == (...,) and type(value) is tuple else parts
        return type(value) is tuple and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is Mapping or origin is abc.Mapping:
        keys, values = parts
        return isinstance(value, Mapping) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    if hint in NUMBERS:
        is_one = isinstance(value, NUMBERS[hint]) and not isinstance(value, (bool, np.bool_))
        return is_one and not (isinstance(value, int) and abs(value) >= 2**63)
    kind = origin or hint
    if kind is np.ndarray:
        return isinstance(value, (np.ndarray, jax.Array))
    return not isinstance(kind, type) or isinstance(value, kind)


@contextlib.contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Nobody else writes to `path` meanwhile; the system itself lets go of it when a process dies.

    Raises:
      ModelError: somebody else does, or nobody can.
    """
    if os.name != "posix":  # where there is no such lock, the last writer wins, whole
        yield
        return
    import fcntl

    beside = os.path.realpath(path) + ".lock"
    try:
        file = open(beside, "a")
    except OSError as error:
        raise ModelError(f"{os.fspath(path)} cannot be written: {error}.", mend="Give another path.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"{os.fspath(path)} is the checkpoint of a fit that is running.",
                mend="Wait for it to end, or give another path.",
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(beside)


def check(path: PathLike, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Make sure that the fingerprint in the file is that of this fit; both are flat.

    Raises:
      ModelError: it is not; the message names what disagrees.
    """
    differ = [name for name in expected if found.get(name) != expected[name]]
    if differ:
        lines = [f"{name}: {found.get(name, 'nothing')} in the file, {expected[name]} here" for name in differ]
        raise ModelError(
            f"{os.fspath(path)} is the checkpoint of another fit: {', '.join(differ)} "
            f"{'disagrees' if len(differ) == 1 else 'disagree'}.",
            details="\n".join(lines),
            mend=CHECKPOINT.mend,
        )


def pack(tree: PyTree, name: str) -> dict[str, np.ndarray]:
    """The leaves of a pytree as arrays, by names that begin with `name`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {name + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unpack(template: PyTree, name: str, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The pytree of `template`'s structure whose leaves `pack` named.

    Raises:
      ModelError: a leaf is missing, or has another shape or dtype.
    """

    def leaf(path: Any, like: Any) -> np.ndarray:
        key, like = name + jax.tree_util.keystr(path), np.asarray(like)
        array = arrays.get(key)
        if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
            what = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ModelError(f"the checkpoint holds {what} as {key}, not {like.dtype}{list(like.shape)}.")
        return array

    return jax.tree_util.tree_map_with_path(leaf, template)


def digest(*parts: Any) -> str:
    """A short hash of texts and arrays."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        array = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else np.asarray(part)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(_plain(array)).view(np.uint8).data)
    return found.hexdigest()


def machine() -> dict[str, str]:
    """What the bits of a fit depend on besides the fit: versions, and the kind of device."""
    return {
        "JAX": jax.__version__,
        "NumPy": np.__version__,
        "device": jax.devices()[0].device_kind,
        "processor": platform.machine(),
    }


def _plain(array: np.ndarray) -> np.ndarray:
    """The same bits in a dtype that NumPy's file format knows (it does not know bfloat16)."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
