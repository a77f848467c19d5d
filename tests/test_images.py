"""Loaders of images, on small files of the published formats that are made here; the drawn tasks; label noise."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import KNeighborsClassifier

from telescoping_sklearn.datasets import downsample, fetch_images, flip_labels, make_mnist1d, make_polynomial
from telescoping_sklearn.datasets._synthetic import _curves

REAL_FOLDER = os.environ.get("TELESCOPING_DATA")


def digits(n, rng, shape=(28, 28)):
    return rng.integers(0, 256, size=(n, *shape), dtype=np.uint8), np.resize(np.arange(10, dtype=np.uint8), n)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


def write_idx(folder, parts, packed=True):
    folder.mkdir(parents=True)
    for prefix, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(array)
            name = f"{prefix}-{kind}-ubyte"
            (folder / (name + ".gz" if packed else name)).write_bytes(
                gzip.compress(content, mtime=0) if packed else content
            )


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return digits(60, rng), digits(40, rng)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TELESCOPING_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("telescoping_sklearn.datasets._tables.fetch_openml", refuse)


# -- averaging ---------------------------------------------------------------------------------------------------------


def averaged(image, size, parts_of_a_pixel):
    """The oracle: every pixel is cut into so many squares that the new edges fall between them."""
    height, width = image.shape
    fine = np.kron(image, np.ones((parts_of_a_pixel, parts_of_a_pixel)))
    rows, columns = height * parts_of_a_pixel // size, width * parts_of_a_pixel // size
    return [
        [fine[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean() for j in range(size)]
        for i in range(size)
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_averages_are_those_over_the_area_of_a_new_pixel(height, width, data):
    size = data.draw(st.integers(1, min(height, width)))
    images = np.random.default_rng(height * 13 + width).normal(size=(2, height, width))
    expected = [averaged(image, size, size) for image in images]
    np.testing.assert_allclose(downsample(images, size), expected, atol=1e-12)


def test_28_pixels_become_8_of_three_and_a_half(parts):
    images = parts[0][0][:3] / 255.0
    np.testing.assert_allclose(downsample(images, 8), [averaged(image, 8, 2) for image in images], atol=1e-12)
    np.testing.assert_allclose(downsample(images, 8).mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=1e-12)


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (np.ones((2, 4)), 2, r"shape \(n_images, height, width\), got \(2, 4\)"),
        (np.ones((2, 4, 5)), 5, "size=5 is more than the images have: they are 4 x 5"),
        (np.ones((2, 4, 5)), 0, "size=0 must be an int of at least 1"),
        (np.ones((2, 4, 5)), 2.0, "size=2.0 must be an int"),
    ],
)
def test_what_cannot_be_averaged_is_refused(images, size, message):
    with pytest.raises(ValueError, match=message):
        downsample(images, size)


# -- label noise -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 5), st.floats(0, 1), st.integers(0, 99))
def test_a_share_of_the_labels_is_wrong_and_no_other(n_classes, share, seed):
    y = np.resize(np.arange(n_classes) * 1.5, 37)
    noisy = flip_labels(y, share, random_state=seed)
    assert (noisy != y).sum() == round(share * 37)
    assert set(noisy) <= set(y)
    np.testing.assert_array_equal(noisy, flip_labels(y, share, random_state=seed))


def test_wrong_labels_are_uniform_over_the_other_classes():
    y = np.repeat([0, 1, 2], 3000)
    noisy = flip_labels(y, 0.5, random_state=0)
    of_class = noisy[:3000]
    wrong = np.bincount(of_class, minlength=3)[1:]
    assert abs(wrong[0] - wrong[1]) < 5 * np.sqrt(wrong.sum())
    assert 1300 < wrong.sum() < 1700


@pytest.mark.parametrize("share", [-0.1, 1.5, "half", None])
def test_shares_outside_0_to_1_are_refused(share):
    with pytest.raises(ValueError, match=f"share={share!r} must be a number between 0 and 1"):
        flip_labels([0, 1], share)


def test_labels_of_one_class_cannot_be_wrong():
    with pytest.raises(ValueError, match="one class only"):
        flip_labels([1, 1, 1, 1], 0.5)
    np.testing.assert_array_equal(flip_labels([1, 1], 0.0), [1, 1])


# -- published formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"), [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_from_where_they_usually_lie(folder, parts, name, place, packed):
    write_idx(folder / place, parts, packed)
    found = fetch_images(name, classes=(5, 3))
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        chosen = np.isin(labels, (3, 5))
        np.testing.assert_allclose(found[f"X_{part}"], images[chosen].reshape(-1, 784) / 255)
        np.testing.assert_array_equal(found[f"y_{part}"], labels[chosen] == 3)  # labels are positions in `classes`
    assert found.image_shape == (28, 28)
    assert found.filename == str(folder / place)


def test_images_are_drawn_averaged_and_given_noise(folder, parts):
    write_idx(folder / "mnist", parts)
    every = fetch_images(classes=None, size=8)
    clean = fetch_images(n_train=9, n_test=7, size=8, random_state=1)
    noisy = fetch_images(n_train=9, n_test=7, size=8, label_noise=0.3, random_state=1)
    assert clean.X_train.shape == (9, 64)
    assert clean.X_test.shape == (7, 64)
    np.testing.assert_array_equal(np.unique(every.y_train), np.arange(10))
    for part in ("train", "test"):
        np.testing.assert_array_equal(clean[f"X_{part}"], noisy[f"X_{part}"])
        rows = [np.flatnonzero((every[f"X_{part}"] == row).all(axis=1)).item() for row in clean[f"X_{part}"]]
        assert len(set(rows)) == len(rows)
        np.testing.assert_array_equal(np.array([3, 5])[clean[f"y_{part}"]], every[f"y_{part}"][rows])
    assert (noisy.y_train != clean.y_train).sum() == 3
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)


def test_npz_files_are_read_and_may_hold_some_classes(folder, parts):
    arrays = {}
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        chosen = np.isin(labels, (3, 5))
        arrays |= {f"x_{part}": images[chosen], f"y_{part}": labels[chosen]}
    np.savez(folder / "mnist_3v5.npz", **arrays)
    found = fetch_images()
    np.testing.assert_allclose(found.X_train, arrays["x_train"].reshape(-1, 784) / 255)
    with pytest.raises(FileNotFoundError, match=r"mnist_3v5.npz holds the classes \[3, 5\] only, and \[0, 1\]"):
        fetch_images(classes=(0, 1), download_if_missing=False)


def cifar_batch(rng, n=20):
    images, labels = digits(n, rng, (32, 32, 3))
    rows = images.transpose(0, 3, 1, 2).reshape(n, -1)
    return images, labels, pickle.dumps({b"data": rows, b"labels": labels.tolist(), b"batch_label": b"a"}, protocol=2)


def test_batches_of_cifar_are_read_packed_and_unpacked(folder):
    rng = np.random.default_rng(0)
    batches = {name: cifar_batch(rng) for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")}
    unpacked = folder / "elsewhere" / "cifar-10-batches-py"
    unpacked.mkdir(parents=True)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, (_, _, content) in batches.items():
            (unpacked / name).write_bytes(content)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    images, labels = (np.concatenate([batches[f"data_batch_{i}"][which] for i in range(1, 6)]) for which in (0, 1))
    cats_and_dogs = np.isin(labels, (3, 5))
    grey = (images[cats_and_dogs] * [0.299, 0.587, 0.114]).sum(axis=-1) / 255
    for path in (None, folder / "elsewhere", unpacked):
        found = fetch_images("cifar10", classes=("cat", "dog"), path=path)
        np.testing.assert_allclose(found.X_train, grey.reshape(-1, 1024))
        np.testing.assert_array_equal(found.y_train, labels[cats_and_dogs] == 5)
        assert found.target_names == ["cat", "dog"]
        assert len(found.X_test) == 4


class Harmful:
    def __reduce__(self):
        return os.getcwd, ()


def test_a_pickle_that_names_anything_but_arrays_is_refused(folder):
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (place / name).write_bytes(pickle.dumps({b"data": Harmful(), b"labels": []}, protocol=2))
    with pytest.raises(ValueError, match=r"data_batch_1 of .* names posix.getcwd, and a batch holds arrays only"):
        fetch_images("cifar10")


def test_pictures_in_folders_of_classes_are_read(folder):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pictures = {}
    with zipfile.ZipFile(folder / "cifar10_cat_dog.zip", "w") as archive:
        for part in ("train", "test"):
            for label in ("cat", "dog"):
                pixels = rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
                pictures[part, label] = pixels
                file = io.BytesIO()
                image.fromarray(pixels).save(file, format="PNG")
                archive.writestr(f"{part}/{label}/0.png", file.getvalue())
    with zipfile.ZipFile(folder / "cifar10_cat_dog.zip") as archive:
        archive.extractall(folder / "unpacked")
    for path in (None, folder / "unpacked"):
        found = fetch_images("cifar10", path=path)
        for part in ("train", "test"):
            expected = [pictures[part, label].ravel() / 255 for label in ("cat", "dog")]
            grey = np.reshape(expected, (2, 1024, 3)) @ [0.299, 0.587, 0.114]
            np.testing.assert_allclose(found[f"X_{part}"], grey)
            np.testing.assert_array_equal(found[f"y_{part}"], [0, 1])


def test_openml_is_asked_where_there_is_no_file(folder, parts, monkeypatch):
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    asked = []

    def fetch(name):
        import pandas as pd

        asked.append(name)
        return pd.DataFrame(images.reshape(100, -1)), pd.Series(labels.astype(str), dtype="category")

    monkeypatch.setattr("telescoping_sklearn.datasets._images.fetch_openml_table", fetch)
    monkeypatch.setattr(
        "telescoping_sklearn.datasets._images._SETS",
        {"mnist": _set_of(60)},
    )
    found = fetch_images()
    assert asked == ["mnist_784"]
    assert len(found.X_train) == 12
    assert len(found.X_test) == 8
    np.testing.assert_allclose(found.X_test, parts[1][0][np.isin(parts[1][1], (3, 5))].reshape(-1, 784) / 255)


def _set_of(n_train):
    from telescoping_sklearn.datasets._images import _SETS

    return _SETS["mnist"]._replace(n_train=n_train)


# -- what is missing or wrong ------------------------------------------------------------------------------------------


def test_missing_files_are_named_with_their_source(folder, no_network, monkeypatch):
    with pytest.raises(OSError, match=r"Get train-images-idx3-ubyte.gz, .*yann.lecun.com.*no network here"):
        fetch_images()
    with pytest.raises(FileNotFoundError, match=r"Get cifar-10-python.tar.gz of www.cs.toronto.edu"):
        fetch_images("cifar10")
    with pytest.raises(FileNotFoundError, match="path='nowhere' does not exist"):
        fetch_images(path="nowhere")
    monkeypatch.delenv("TELESCOPING_DATA")
    with pytest.raises(FileNotFoundError, match="is not at TELESCOPING_DATA, which is not set"):
        fetch_images("fashion_mnist", download_if_missing=False)


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("train-images-idx3-ubyte.gz", None, FileNotFoundError, "has neither train-images-idx3-ubyte.gz nor"),
        ("train-images-idx3-ubyte.gz", b"no gzip", ValueError, "train-images-idx3-ubyte.gz cannot be unpacked"),
        (
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(b"\0\0\x0d\1\0\0\0\1", mtime=0),
            ValueError,
            "is no idx file of bytes with 1",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            gzip.compress(idx(np.ones((9, 9, 9), "u1"))[:-1], mtime=0),
            ValueError,
            "cut off or too long",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.ones(9, "u1")), mtime=0),
            ValueError,
            "has 40 images and labels of",
        ),
    ],
)
def test_damaged_idx_files_are_refused_by_name(folder, parts, file, content, error, message):
    write_idx(folder / "mnist", parts)
    (folder / "mnist" / file).unlink()
    if content is not None:
        (folder / "mnist" / file).write_bytes(content)
    with pytest.raises(error, match=message):
        fetch_images()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "svhn"}, "name='svhn' is no set of images; give one of mnist, fashion_mnist, cifar10"),
        ({"classes": (3, 11)}, r"classes=\(3, 11\) names 11, which is none of 0, 1"),
        ({"classes": ("3", "cat")}, "names 'cat'"),
        ({"classes": (3,)}, r"classes=\(3,\) must name two or more classes"),
        ({"classes": (3, 3)}, "each once"),
        ({"n_train": 0}, "n_train=0 must be an int of at least 1"),
        ({"n_test": 9}, "n_test=9 is more than there are: .* has 8 images"),
        ({"label_noise": 2}, "label_noise=2 must be a number between 0 and 1"),
        ({"size": 29}, "size=29 is more than the images have"),
        ({"path": __file__}, "is in no format that is known here"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(folder, parts, arguments, message):
    write_idx(folder / "mnist", parts)
    with pytest.raises(ValueError, match=message):
        fetch_images(**arguments)


@pytest.mark.skipif(not REAL_FOLDER, reason="TELESCOPING_DATA is not set")
@pytest.mark.parametrize(
    ("name", "classes", "n_train"),
    [("mnist", (3, 5), 11552), ("fashion_mnist", (0, 6), 2000), ("cifar10", (3, 5), 2000)],
)
def test_real_images_can_be_told_apart(name, classes, n_train):
    try:
        found = fetch_images(name, classes=classes, size=8, download_if_missing=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert len(found.X_train) == n_train
    score = KNeighborsClassifier(5).fit(found.X_train[:2000], found.y_train[:2000]).score(found.X_test, found.y_test)
    assert score > {"mnist": 0.96, "fashion_mnist": 0.75, "cifar10": 0.53}[name]


# -- drawn tasks -------------------------------------------------------------------------------------------------------


def curve(heights, padding, factor, shift, smoothed, noise, slope, length):
    """The oracle: the published procedure, one curve at a time, by scipy's interpolation."""
    template = np.array(heights, dtype=float)
    template -= template.mean()
    template /= template.std()
    template = (template - template[0]) / 6 + 1e-8  # so that padding is what is zero

    def at(values, n):
        return interp1d(np.linspace(0, 1, len(values)), values)(np.linspace(0, 1, n))

    values = at(np.concatenate([template, np.zeros(padding)]), 72) * factor
    values = np.concatenate([values[72 - shift :], values[: 72 - shift]])
    values = np.where(values != 0, values, gaussian_filter(smoothed, 2)) + noise
    return at(values - slope * np.linspace(-0.5, 0.5, 72), length)


def test_curves_follow_the_published_procedure():
    from telescoping_sklearn.datasets._synthetic import _TEMPLATES

    drawn = np.resize(np.arange(10), 40)
    found = _curves(drawn, 40, np.random.RandomState(3))
    rng = np.random.RandomState(3)  # the same numbers in the same order
    padding, factors, shifts = rng.randint(36, 61, size=40), 1 + 0.4 * (rng.rand(40) - 0.5), rng.randint(48, size=40)
    smoothed, noise = 0.25 * rng.randn(40, 72), 0.02 * rng.randn(40, 72)
    slopes = 0.75 * (rng.rand(40) - 0.5)
    rows = zip(padding, factors, shifts, smoothed, noise, slopes, strict=True)
    expected = [curve(_TEMPLATES[digit], *row, 40) for digit, row in zip(drawn, rows, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert {0, 47} <= set(shifts.tolist()) | {0, 47}


def test_mnist1d_has_equal_classes_unit_scale_and_noise_in_training_only():
    clean, noisy = (make_mnist1d(300, 100, classes=(1, 0), label_noise=share, random_state=0) for share in (0.0, 0.15))
    X, y = np.concatenate([clean.X_train, clean.X_test]), np.concatenate([clean.y_train, clean.y_test])
    np.testing.assert_allclose([X.mean(), X.std()], [0, 1], atol=1e-12)
    np.testing.assert_array_equal(np.bincount(y), [200, 200])
    np.testing.assert_array_equal(clean.X_train, noisy.X_train)
    assert (clean.y_train != noisy.y_train).sum() == 45
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    assert clean.target_names == ["1", "0"]
    assert make_mnist1d(30, 20, length=25, random_state=0).X_test.shape == (20, 25)


def test_mnist1d_agrees_with_the_published_generator():
    published = pytest.importorskip("mnist1d.data", reason="mnist1d is not installed")
    theirs = published.make_dataset()
    ours = make_mnist1d(random_state=0)
    quantiles = np.linspace(0.01, 0.99, 50)
    for digit in range(10):
        mine, other = ours.X_train[ours.y_train == digit], theirs["x"][theirs["y"] == digit]
        np.testing.assert_allclose(np.quantile(mine, quantiles), np.quantile(other, quantiles), atol=0.12)


def test_the_polynomial_is_what_it_says():
    task = make_polynomial(2000, 500, d=30, random_state=0)
    np.testing.assert_allclose(np.linalg.norm(task.beta), np.sqrt(30))
    np.testing.assert_allclose(task.X_train.T @ task.X_train / 2000, np.eye(30) / 30, atol=0.01)
    for part in ("train", "test"):
        np.testing.assert_allclose(task[f"y_{part}"], (task[f"X_{part}"] @ task.beta) ** 2 / 2)
    np.testing.assert_allclose([task.y_train.mean(), task.y_train.var()], [0.5, 0.5], rtol=0.15)
    noisy = make_polynomial(2000, 500, d=30, noise=0.2, random_state=0)
    np.testing.assert_array_equal(noisy.y_test, task.y_test)
    np.testing.assert_allclose((noisy.y_train - task.y_train).std(), 0.2, rtol=0.1)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_mnist1d, {"n_train": 0}, "n_train=0"),
        (make_mnist1d, {"length": 1}, "length=1 must be an int of at least 2"),
        (make_mnist1d, {"classes": (3, 12)}, "names 12"),
        (make_mnist1d, {"label_noise": -1}, "label_noise=-1"),
        (make_polynomial, {"d": 0}, "d=0"),
        (make_polynomial, {"noise": -1.0}, "noise=-1.0"),
    ],
)
def test_tasks_that_make_no_sense_are_refused_by_name(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
