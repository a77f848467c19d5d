"""Data sets: tables, images of two or more classes, synthetic tasks, and label noise.

Tables (`_tables`): one embedded set, five sets from a local folder, OpenML's sets, and CSV or Parquet files. Images
(`_images`): MNIST, Fashion-MNIST and CIFAR-10 in their published formats, averaged down to fewer pixels. Synthetic
tasks (`_synthetic`): MNIST-1D and polynomial regression, which need no file.
"""

from telescoping_sklearn.datasets._images import IMAGE_NAMES, downsample, fetch_images
from telescoping_sklearn.datasets._labels import flip_labels
from telescoping_sklearn.datasets._synthetic import make_mnist1d, make_polynomial
from telescoping_sklearn.datasets._tables import (
    TABULAR_NAMES,
    fetch_openml_suite,
    fetch_openml_table,
    fetch_tabular,
    load_lucas_county,
    load_table,
    read_column_names,
)
from telescoping_sklearn.datasets._tables import refuse_lost_columns as refuse_lost_columns
from telescoping_sklearn.datasets._tables import tabular_folder as tabular_folder

__all__ = [
    "IMAGE_NAMES",
    "TABULAR_NAMES",
    "downsample",
    "fetch_images",
    "fetch_openml_suite",
    "fetch_openml_table",
    "fetch_tabular",
    "flip_labels",
    "load_lucas_county",
    "load_table",
    "make_mnist1d",
    "make_polynomial",
    "read_column_names",
]
