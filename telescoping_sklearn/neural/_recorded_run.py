"""What estimators of a recorded run share: their telescope, whose sections are chosen when it is first asked for."""

from abc import abstractmethod
from collections.abc import Callable
from numbers import Integral, Real
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from telescoping_sklearn.base import BaseTelescopingEstimator
from telescoping_sklearn.losses import Loss, SquaredError
from telescoping_sklearn.neural._isolation import isolates
from telescoping_sklearn.neural._path import RULES, Path
from telescoping_sklearn.neural._pilot import ResponseAccuracy, refined_sections, stages_read
from telescoping_sklearn.neural._run_loss import loss_parts, output_scale
from telescoping_sklearn.neural._saved_work import digest, remembered
from telescoping_sklearn.neural._sections import (
    LONGEST_EPOCHS,
    Sections,
    chosen_sections,
    equal_sections,
    gap_rows,
    largest_gap,
)
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope
from telescoping_sklearn.neural._training_settings import TrainingRows
from telescoping_sklearn.neural._trajectory import Trajectory


class RecordedRunEstimator(BaseTelescopingEstimator):
    """Base of estimators that hold a recorded run.

    A subclass sets `_trajectory`, `_rows`, `_chosen_sections` (empty) and `seed_`, and implements `_make_path`. The
    parameters `rule`, `section` and `section_tol` may be set after fitting.
    """

    _costly = (*BaseTelescopingEstimator._costly, "section_ends_", "section_gap_", "section_bias_", "last_sound_stage_")
    #: Constraints of the parameters that may be set after fitting.
    _after_fitting: ClassVar[dict[str, list]] = {
        "rule": [StrOptions(set(RULES))],
        "section": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "section_tol": [Interval(Real, 0, None, closed="neither")],
    }
    rule: str
    section: int | str
    section_tol: float
    seed_: int
    _trajectory: Trajectory
    _rows: TrainingRows
    #: Loss that the run took gradients of.
    _loss: Loss = SquaredError()
    _chosen_sections: dict[tuple[str, float], tuple[Sections, ResponseAccuracy]]

    @abstractmethod
    def _make_path(self) -> Path:
        """Make the path of the run, with its rows and `rule`."""

    @property
    def record_nbytes_(self) -> int:
        """Bytes that the record holds."""
        if not hasattr(self, "_trajectory"):
            raise AttributeError(f"This {type(self).__name__} keeps no record.")
        return self._trajectory.nbytes

    @property
    def section_ends_(self) -> NDArray:
        """Last stage of every section, chosen when first asked for and kept with the record."""
        return cast(TangentTelescope, self.telescope_).sections.ends

    @property
    @isolates
    def section_gap_(self) -> float:
        """Largest mean gap between net and telescope at any section's end, in standard deviations of the labels."""
        telescope = cast(TangentTelescope, self.telescope_)
        sample = gap_rows(telescope.path, telescope.trained, self.seed_)
        return largest_gap(telescope.path, sample, telescope.sections, telescope.output_scale)

    @property
    def section_bias_(self) -> float:
        """Relative error of effective parameters at the last sound stage that is due to sections."""
        telescope = cast(TangentTelescope, self.telescope_)
        return telescope.accuracy.relative_error(np.array([telescope.last_sound_stage])).item()

    @property
    def last_sound_stage_(self) -> int:
        """Last stage at which the label response passes its checks."""
        return self.telescope_.last_sound_stage

    def _answer_settings(self) -> tuple:
        return tuple(getattr(self, name) for name in self._after_fitting)

    @isolates
    def _make_telescope(self) -> TangentTelescope:
        if not hasattr(self, "_trajectory"):
            raise self._record_dropped()
        settings = dict(zip(self._after_fitting, self._answer_settings(), strict=True))
        validate_parameter_constraints(self._after_fitting, settings, type(self).__name__)  # `fit` has not seen them
        path, rows = self._make_path(), self._rows

        def make(sections: Sections, accuracy: ResponseAccuracy | None = None) -> TangentTelescope:
            return TangentTelescope(
                path,
                sections,
                self._trajectory.make_update_rule,
                accuracy,
                loss=self._loss,
                y=rows.y,
                trained=rows.weights > 0,
                seed=self.seed_,
            )

        if self.section != "auto":
            return make(equal_sections(self._trajectory.n_stages, int(self.section)))
        return make(*self._chosen(path, make))

    def _chosen(self, path: Path, make: Callable[..., TangentTelescope]) -> tuple[Sections, ResponseAccuracy]:
        """Choose sections; they are kept with the record, so that every later question shares them."""
        key = self.rule, self.section_tol
        if key not in self._chosen_sections:
            sample = gap_rows(path, self._rows.weights > 0, self.seed_)
            n_stages = self._trajectory.n_stages
            whole = make(Sections(np.array([n_stages]), chosen=True))
            longest = n_stages if whole.holds_kernels else LONGEST_EPOCHS * self._trajectory.batches.per_epoch
            scale = output_scale(path, self._loss, self._rows.y, self._rows.weights > 0)

            def choose() -> tuple[Sections, ResponseAccuracy]:
                first = chosen_sections(path, sample, self.section_tol, scale, longest, stages_read(n_stages))
                return refined_sections(make, first, 2 * self.section_tol)

            self._chosen_sections[key] = remembered(
                path.checkpoint_dir,
                "sections",
                choose,
                lambda: digest(path.key, loss_parts(self._loss), self._rows.y, self.seed_, *key),
            )
        return self._chosen_sections[key]

    def __sklearn_tags__(self):
        """Return the tags of a regressor of one output or several."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
