"""Repeated stratified group k-fold: drawing folds, and the file that keeps them."""

from hilbert_ray.folds.draw import choose_strata, inner_folds, make_folds
from hilbert_ray.folds.file import read_folds, write_folds
from hilbert_ray.folds.records import Fold, Folds, FoldsError, Strata

__all__ = [
    "Fold",
    "Folds",
    "FoldsError",
    "Strata",
    "choose_strata",
    "inner_folds",
    "make_folds",
    "read_folds",
    "write_folds",
]
