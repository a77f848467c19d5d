"""MNIST, Fashion-MNIST and CIFAR-10 from local files in their published formats, as grey images of a few classes."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state

from telescoping_sklearn.datasets._labels import class_numbers, flip_labels, refuse_count, refuse_share
from telescoping_sklearn.datasets._tables import FOLDER_VARIABLE, fetch_openml_table, tabular_folder

#: Weights of red, green and blue in the luminance of ITU-R BT.601.
_LUMINANCE = (0.299, 0.587, 0.114)
_PARTS = ("train", "test")
_IDX_FILES = {"train": "train-{}-ubyte", "test": "t10k-{}-ubyte"}
_CIFAR_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_CIFAR_FOLDER = "cifar-10-batches-py"
_PICTURES = (".jpg", ".jpeg", ".png")


class _ImageSet(NamedTuple):
    """Classes of a data set, places where its files may lie, and where they come from."""

    title: str
    class_names: tuple[str, ...]
    places: tuple[str, ...]  # patterns below the folder TELESCOPING_DATA
    files: str
    openml: str | None  # its name there, if the first rows there are those of training
    n_train: int
    shape: tuple[int, ...]


_IDX_NAMES = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
)
_SETS = {
    "mnist": _ImageSet(
        "MNIST, handwritten digits",
        tuple(map(str, range(10))),
        ("mnist", "MNIST/raw", "mnist*.npz"),
        f"{_IDX_NAMES} of yann.lecun.com/exdb/mnist (torchvision.datasets.MNIST downloads them to MNIST/raw)",
        "mnist_784",
        60_000,
        (28, 28),
    ),
    "fashion_mnist": _ImageSet(
        "Fashion-MNIST, articles of Zalando",
        ("T-shirt/top", *"Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split(), "Ankle boot"),
        ("fashion_mnist", "FashionMNIST/raw", "fashion_mnist*.npz"),
        f"{_IDX_NAMES} of github.com/zalandoresearch/fashion-mnist, in a folder fashion_mnist "
        "(torchvision.datasets.FashionMNIST downloads them to FashionMNIST/raw)",
        "Fashion-MNIST",
        60_000,
        (28, 28),
    ),
    "cifar10": _ImageSet(
        "CIFAR-10, photographs",
        tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        (_CIFAR_FOLDER, "cifar-10-python.tar.gz", "cifar10*.npz", "cifar10*.zip"),
        "cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, as it is or unpacked "
        "(torchvision.datasets.CIFAR10 downloads it)",
        None,
        50_000,
        (32, 32, 3),
    ),
}

IMAGE_NAMES = tuple(_SETS)
"""Names that :func:`fetch_images` takes."""


class _Part(NamedTuple):
    """Training or test images as a file has them."""

    images: NDArray  # (n, height, width) or (n, height, width, 3), uint8
    labels: NDArray  # (n,), numbers of classes


_Parts = dict[str, _Part]


def downsample(images: ArrayLike, size: int) -> NDArray:
    """Average grey images down to fewer pixels.

    A new pixel is the mean of the image over the area that it covers. Where its edges cut old pixels, as from 28 x 28
    to 8 x 8, these count by the share of their area that lies inside. So the mean of an image stays the same.

    Parameters
    ----------
    images : array-like of shape (n_images, height, width)
        Grey images.
    size : int
        Pixels of a side of the new images, at most those of the old ones.

    Returns
    -------
    ndarray of shape (n_images, size, size)
        The averaged images, float64.

    Raises
    ------
    ValueError
        If `images` does not have three dimensions, or `size` is no int from 1 to the shorter side.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.datasets import downsample
    >>> downsample(np.arange(9.0).reshape(1, 3, 3), 2)[0]
    array([[1.33333333, 2.66666667],
           [5.33333333, 6.66666667]])
    """
    pixels = np.asarray(images)
    if pixels.ndim != 3:
        raise ValueError(f"images must be of shape (n_images, height, width), got {pixels.shape}.")
    refuse_count("size", size)
    if size > min(pixels.shape[1:]):
        raise ValueError(f"size={size} is more than the images have: they are {pixels.shape[1]} x {pixels.shape[2]}.")
    rows, columns = (_area_weights(side, size) for side in pixels.shape[1:])
    return rows @ pixels @ columns.T


def _area_weights(side: int, size: int) -> NDArray:
    """Share of every old pixel in the mean over a new one, along one side, (size, side)."""
    edges = np.arange(size + 1) * (side / size)
    old = np.arange(side)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.maximum(covered, 0.0) * (size / side)


def fetch_images(
    name: str = "mnist",
    *,
    classes: Sequence[int | str] | None = (3, 5),
    n_train: int | None = None,
    n_test: int | None = None,
    size: int | None = None,
    label_noise: float = 0.0,
    path: str | Path | None = None,
    download_if_missing: bool = True,
    random_state: Any = None,
) -> Bunch:
    """Load images of some classes of MNIST, Fashion-MNIST or CIFAR-10, grey, as rows of numbers in [0, 1].

    The files are looked for in the folder named by the environment variable TELESCOPING_DATA, or at `path`:

    ============= =============================================================================================
    name          files, by the names that their authors gave them
    ============= =============================================================================================
    mnist         four files ``*-ubyte.gz`` in a folder ``mnist`` or, as torchvision has them, ``MNIST/raw``
    fashion_mnist the same in ``fashion_mnist`` or ``FashionMNIST/raw``
    cifar10       ``cifar-10-python.tar.gz``, or the folder ``cifar-10-batches-py`` that it holds
    ============= =============================================================================================

    Files may be unpacked. An ``.npz`` file with the arrays x_train, y_train, x_test and y_test will do too, under a
    name that begins with that of the set; so will, for CIFAR-10, a ``.zip`` file or folder of pictures
    ``{train,test}/{class}/*.png``. They need not hold all classes. Where there is none of them, MNIST and
    Fashion-MNIST come from OpenML.

    Parameters
    ----------
    name : {"mnist", "fashion_mnist", "cifar10"}, default="mnist"
        The data set.
    classes : sequence of int or str, or None, default=(3, 5)
        Classes to load, by number or name; 3 and 5 are the cats and dogs of CIFAR-10. Labels are positions in this
        sequence, 0 and 1 for two classes. None loads all.
    n_train : int or None, default=None
        Training images, drawn without replacement; None takes all.
    n_test : int or None, default=None
        Test images.
    size : int or None, default=None
        Pixels of a side that images are averaged down to, as `downsample` does; None leaves them.
    label_noise : float, default=0.0
        Share of the training labels that are given another class, as `flip_labels` does. Test labels stay.
    path : str or Path or None, default=None
        A file, or a folder that holds the files; None looks in TELESCOPING_DATA.
    download_if_missing : bool, default=True
        Whether OpenML is asked for what no local file has.
    random_state : None, int or RandomState, default=None
        Seeds the draws. Training images, test images and noise are drawn in this order, so that the same seed gives the
        same images with and without noise.

    Returns
    -------
    sklearn.utils.Bunch
        With the entries

        X_train, X_test : ndarray of shape (n_train, n_pixels) and (n_test, n_pixels)
            Pixels, row by row, in [0, 1]. Colours are turned into their luminance.
        y_train, y_test : ndarray of int of shape (n_train,) and (n_test,)
            Labels.
        image_shape : tuple of int
            Height and width.
        target_names : list of str
            Names of the classes, in the order of the labels.
        DESCR : str
            What was loaded.
        filename : str
            Where it was read.

    Raises
    ------
    ValueError
        If a parameter makes no sense, if there are fewer images than asked for, or if a file is not what its name says.
    FileNotFoundError
        If the files are not there; the message names them and where they come from.
    OSError
        If OpenML is asked and cannot be reached.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. "Gradient-based learning applied to document recognition". Proceedings
    of the IEEE 86 (1998), 2278-2324.

    H. Xiao, K. Rasul, R. Vollgraf. "Fashion-MNIST". arXiv 1708.07747.

    A. Krizhevsky. "Learning Multiple Layers of Features from Tiny Images". 2009.

    Examples
    --------
    >>> from telescoping_sklearn.datasets import fetch_images
    >>> digits = fetch_images(n_train=1000, n_test=1000, size=8, label_noise=0.2, random_state=0)  # doctest: +SKIP
    >>> digits.X_train.shape  # doctest: +SKIP
    (1000, 64)
    """
    if name not in _SETS:
        raise ValueError(f"name={name!r} is no set of images; give one of {', '.join(IMAGE_NAMES)}.")
    wanted = _SETS[name]
    numbers = class_numbers(classes, wanted.class_names)
    refuse_share("label_noise", label_noise)
    counts = {"train": n_train, "test": n_test}
    for part, count in counts.items():
        if count is not None:
            refuse_count(f"n_{part}", count)
    parts, origin = _read(name, numbers, path, download_if_missing)
    rng = check_random_state(random_state)
    loaded = {}
    for part, count in counts.items():
        images, labels = parts[part]
        rows = np.flatnonzero(np.isin(labels, numbers))
        if count is not None and count > len(rows):
            raise ValueError(f"n_{part}={count} is more than there are: {origin} has {len(rows)} images to draw from.")
        rows = rows if count is None else rng.permutation(rows)[:count]
        pixels = _grey(images[rows])
        loaded[f"X_{part}"] = pixels if size is None else downsample(pixels, size)
        loaded[f"y_{part}"] = np.argsort(numbers)[np.searchsorted(np.sort(numbers), labels[rows])]
    shape = loaded["X_train"].shape[1:]
    named = [wanted.class_names[number] for number in numbers]
    noise = f" {label_noise:.0%} of the training labels are wrong." if label_noise else ""
    return Bunch(
        X_train=loaded["X_train"].reshape(-1, shape[0] * shape[1]),
        y_train=flip_labels(loaded["y_train"], label_noise, random_state=rng),
        X_test=loaded["X_test"].reshape(-1, shape[0] * shape[1]),
        y_test=loaded["y_test"],
        image_shape=shape,
        target_names=named,
        DESCR=f"{wanted.title}: {', '.join(named)}, {shape[0]} x {shape[1]} pixels, grey.{noise} From {origin}.",
        filename=str(origin),
    )


def _grey(images: NDArray) -> NDArray:
    """Turn bytes into numbers in [0, 1], and colours into their luminance."""
    return (images @ np.array(_LUMINANCE) if images.ndim == 4 else images) / 255.0


# -- where the images are ----------------------------------------------------------------------------------------------


def _read(name: str, numbers: list[int], path: str | Path | None, download: bool) -> tuple[_Parts, str | Path]:
    """Read a set from the first place that holds all classes; raise what says what is missing."""
    wanted = _SETS[name]
    if path is not None:
        places = [Path(path)]
        if not places[0].exists():
            raise FileNotFoundError(f"path={str(path)!r} does not exist. {_how(wanted)}")
    else:
        folder = tabular_folder()
        places = [found for pattern in wanted.places for found in sorted(Path(folder).glob(pattern))] if folder else []
    lacking = ""
    for place in places:
        parts = _read_place(place, wanted)
        held = set.intersection(*(set(np.unique(part.labels).tolist()) for part in parts.values()))
        if set(numbers) <= held:
            return parts, place
        lacking += f" {place} holds the classes {sorted(held)} only, and {numbers} are wanted."
    where = f"{FOLDER_VARIABLE}={tabular_folder()!r}" if tabular_folder() else f"{FOLDER_VARIABLE}, which is not set"
    missing = f"{wanted.title} is not at {path if path else where}.{lacking} {_how(wanted)}"
    if path is not None or not download or wanted.openml is None:
        raise FileNotFoundError(missing)
    try:
        return _from_openml(wanted), f"OpenML's {wanted.openml}"
    except OSError as error:
        raise OSError(f"{missing} {error}") from error


def _how(wanted: _ImageSet) -> str:
    return f"Get {wanted.files}, and name the folder that holds it by path or by {FOLDER_VARIABLE}."


def _read_place(place: Path, wanted: _ImageSet) -> _Parts:
    """Read a file or folder by what it is."""
    if place.is_dir():
        names = {file.name for file in place.iterdir()}
        if any("-ubyte" in file for file in names):
            return {part: _read_idx_part(place, part) for part in _PARTS}
        if _CIFAR_FOLDER in names:
            return _read_place(place / _CIFAR_FOLDER, wanted)
        if "test_batch" in names:
            return _read_cifar(lambda batch: (place / batch).read_bytes(), place)
        if set(_PARTS) <= names:
            found = (file for file in sorted(place.rglob("*")) if file.suffix.lower() in _PICTURES)
            files = {file.relative_to(place).as_posix(): file for file in found}
            return _read_pictures(list(files), lambda file: files[file].read_bytes(), place, wanted)
    elif place.suffix == ".npz":
        return _read_npz(place)
    elif place.suffix == ".zip":
        with zipfile.ZipFile(place) as archive:
            pictures = [file for file in sorted(archive.namelist()) if file.lower().endswith(_PICTURES)]
            return _read_pictures(pictures, archive.read, place, wanted)
    elif place.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(place) as archive:
            return _read_cifar(partial(_member, archive), place)
    raise ValueError(f"{place} is in no format that is known here. {_how(wanted)}")


def _from_openml(wanted: _ImageSet) -> _Parts:
    assert wanted.openml is not None
    table, target = fetch_openml_table(wanted.openml)
    images, labels = table.to_numpy(dtype=np.uint8).reshape(-1, *wanted.shape), target.astype(int).to_numpy()
    n_train = wanted.n_train
    return {"train": _Part(images[:n_train], labels[:n_train]), "test": _Part(images[n_train:], labels[n_train:])}


# -- formats -----------------------------------------------------------------------------------------------------------


def _read_idx_part(folder: Path, part: str) -> _Part:
    images = _read_idx(folder, _IDX_FILES[part].format("images-idx3"), 3)
    labels = _read_idx(folder, _IDX_FILES[part].format("labels-idx1"), 1)
    return _checked(images, labels, folder)


def _read_idx(folder: Path, name: str, n_dimensions: int) -> NDArray:
    """Read an array of bytes: two zeros, 8 for bytes, the number of dimensions, their sizes as big-endian int32."""
    packed, plain = folder / f"{name}.gz", folder / name
    if not (packed.is_file() or plain.is_file()):
        raise FileNotFoundError(f"{folder} has neither {name}.gz nor {name}; it takes all of {_IDX_NAMES}.")
    file = plain if plain.is_file() else packed
    try:
        content = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be unpacked: {error}") from error
    start = 4 + 4 * n_dimensions
    if content[:4] != bytes((0, 0, 8, n_dimensions)) or len(content) < start:
        raise ValueError(f"{file} is no idx file of bytes with {n_dimensions} dimensions.")
    shape = np.frombuffer(content, dtype=">i4", count=n_dimensions, offset=4).tolist()
    if len(content) != start + int(np.prod(shape)):
        raise ValueError(f"{file} is cut off or too long: {len(content) - start} bytes for an array of shape {shape}.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _read_npz(file: Path) -> _Parts:
    with np.load(file, allow_pickle=False) as stored:
        keys = {key.lower(): key for key in stored.files}
        lost = [f"{kind}_{part}" for part in _PARTS for kind in "xy" if f"{kind}_{part}" not in keys]
        if lost:
            raise ValueError(f"{file} lacks the arrays {', '.join(lost)}; it holds {', '.join(stored.files)}.")
        arrays = {part: (stored[keys[f"x_{part}"]], stored[keys[f"y_{part}"]].ravel()) for part in _PARTS}
    return {part: _checked(*pair, file) for part, pair in arrays.items()}


class _BatchUnpickler(pickle.Unpickler):
    """Reads dictionaries of arrays; anything else that a pickle may name is refused."""

    _KNOWN = ("_reconstruct", "ndarray", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        """Look up numpy's arrays only."""
        if (module.split(".")[0] == "numpy" and name in self._KNOWN) or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, and a batch holds arrays only")


def _read_cifar(read: Any, place: Path) -> _Parts:
    return {part: _cifar_part([_read_batch(read, batch, place) for batch in _CIFAR_BATCHES[part]]) for part in _PARTS}


def _cifar_part(batches: list[_Part]) -> _Part:
    images, labels = zip(*batches, strict=True)
    return _Part(np.concatenate(images), np.concatenate(labels))


def _read_batch(read: Any, batch: str, place: Path) -> _Part:
    """Read a batch of CIFAR-10's python version: a pickled dictionary of rows, red before green before blue."""
    try:
        content = _BatchUnpickler(io.BytesIO(read(batch)), encoding="bytes").load()
        rows, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
    except (OSError, KeyError) as error:
        raise FileNotFoundError(f"{place} lacks {batch}, or it is no batch of CIFAR-10: {error}") from error
    except Exception as error:  # what a damaged pickle raises can be anything
        raise ValueError(f"{batch} of {place} cannot be read: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != 3072 or rows.dtype != np.uint8:
        raise ValueError(f"{batch} of {place} holds {rows.dtype} of shape {rows.shape}, and not bytes of (n, 3072).")
    return _checked(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, place)


def _member(archive: tarfile.TarFile, batch: str) -> bytes:
    found = archive.extractfile(f"{_CIFAR_FOLDER}/{batch}")  # KeyError if it is not there
    if found is None:
        raise KeyError(batch)
    return found.read()


def _read_pictures(names: list[str], read: Any, place: Path, wanted: _ImageSet) -> _Parts:
    """Read pictures that lie in a folder for each part and class."""
    by_part: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name in names:
        part, label = ("", "", *name.split("/"))[-3:-1]
        if part not in _PARTS or label not in wanted.class_names:
            raise ValueError(f"{name} in {place} does not lie in train or test, in a folder named by its class.")
        by_part[part].append((name, wanted.class_names.index(label)))
    if set(by_part) != set(_PARTS):
        raise ValueError(f"{place} holds no pictures in {' or '.join(sorted(set(_PARTS) - set(by_part)))}.")
    return {
        part: _checked(
            np.stack(list(_pixels(read, [name for name, _ in files], place))),
            np.array([label for _, label in files]),
            place,
        )
        for part, files in by_part.items()
    }


def _pixels(read: Any, names: list[str], place: Path) -> Iterator[NDArray]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{place} holds pictures, and reading them needs Pillow: pip install pillow") from error
    for name in names:
        with Image.open(io.BytesIO(read(name))) as picture:
            yield np.asarray(picture.convert("RGB"))


def _checked(images: NDArray, labels: NDArray, place: Path) -> _Part:
    """Check that images and labels fit together."""
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or (images.ndim == 4 and images.shape[-1] != 3):
        raise ValueError(
            f"{place} holds images as {images.dtype} of shape {images.shape}; they must be bytes, grey or RGB."
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{place} has {len(images)} images and labels of shape {labels.shape}.")
    return _Part(images, labels.astype(int))
