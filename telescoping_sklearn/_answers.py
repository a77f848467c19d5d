"""What can be asked of a telescope, derived once from what a model knows.

A question is planned once, and the plan executed. Questions that presume that weights times labels rebuild the
prediction are refused in one place where they do not; so are questions beyond the last sound stage.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, ClassVar, cast

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telescoping_sklearn._estimates import (
    Estimate,
    KeptValues,
    Statistic,
    choose_sum,
    sum_over_columns,
    trained_blocks,
    unit_columns,
)
from telescoping_sklearn._memory import items_per_block, refuse_if_too_large
from telescoping_sklearn._telescope import (
    Denominators,
    ExactSums,
    NotASmootherError,
    Plan,
    Subsets,
    Telescope,
    UnstableResponseError,
    resolve_stages,
    resolve_subsets,
)

#: Influence up to this many standard deviations of the labels is rounding.
_NO_INFLUENCE = 1e-10


@dataclass(frozen=True)
class ApproximationError:
    """Gaps between a model and its telescope on a query set, in units of the label.

    Attributes
    ----------
    telescoping_mean, telescoping_max : float
        Mean and largest gap between the model and the telescoping model at the last stage.
    reconstruction_mean, reconstruction_max : float
        Mean and largest gap between the model and ``kernel_weights(X) @ y + offset(X)`` at the last stage.
    by_stage : pandas.DataFrame
        The same four columns for every stage asked for; the index is the stage.
    """

    telescoping_mean: float
    telescoping_max: float
    reconstruction_mean: float
    reconstruction_max: float
    by_stage: pd.DataFrame


class AnsweringTelescope(Telescope):
    """A telescope and everything that can be asked of it; takes what `Telescope` takes.

    Questions have the parameters and answers of the estimators' methods of the same name, see `base`, on arrays.
    """

    #: What columns give, and the question to ask about earlier stages, in messages.
    response_name: ClassVar[str] = "label response"
    staged_question: ClassVar[str] = "staged_effective_params"
    #: Why a response fails its checks and how to fit instead, in messages; empty where responses are exact.
    unsound_remedy: ClassVar[str] = ""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._training_peaks: dict[bytes, float] = {}
        self._probe_values = KeptValues()

    # -- the response ------------------------------------------------------------------------------------------------

    def plan(self, X: NDArray | None, *, n_columns: int | None = None) -> Plan:
        """Choose the cheapest way to compute a response.

        Parameters
        ----------
        X : ndarray of shape (n_query, n_features) or None
            Query rows; None stands for the training rows.
        n_columns : int or None, default=None
            Label directions that are carried, such as probes; None stands for kernel weights, which may also be
            computed backward.

        Returns
        -------
        Plan
            The way, its multiplications, and its memory a column.
        """
        n_query = self.n_query(X)
        return self._weights_plan(n_query) if n_columns is None else self.forward_plan(n_query, n_columns)

    def _weights_plan(self, n_query: int, stages: NDArray | None = None, output: int | None = None) -> Plan:
        """Choose the cheapest way to kernel weights, forward or backward, at stages or the last, of all outputs or one.

        Forward, all stages are passed on the way; backward starts again from every one.
        """
        plan = self.forward_plan(n_query, self.n_columns if output is None else self.n_trained)
        if self.has_adjoint:
            backward, share = self.backward_plan(n_query), 1.0 if output is None else 1.0 / self.n_outputs
            passes = 1.0 if stages is None else stages.sum() / stages[-1] if stages[-1] else 0.0
            if passes * share * backward.operations < plan.operations:
                plan = replace(backward, column_bytes=share * backward.column_bytes)
        return plan if output is None else replace(plan, output=output)

    def staged_response(
        self, X: NDArray | None, V: NDArray, offset: bool = False, stages: Any = None
    ) -> Iterator[NDArray]:
        """F_t(X; V), (n_query, k) for each stage; ``offset=True`` appends the offset's column. See `apply_response`.

        It is raw: stages at which the response is not sound are answered too.
        """
        plan = self.forward_plan(self.n_query(X), V.shape[-1] + offset)
        yield from self.apply_response(plan, X, V, offset, resolve_stages(stages, self.n_stages))

    def kernel_weights(self, X: NDArray | None, output: Any = None) -> NDArray:
        """S(x) = F_T(x; I), (n_query, n_train): the weight of every training label in every prediction.

        With several outputs it is (n_query, n_outputs, n_train, n_outputs); of one output, (n_query, n_train), the
        weight of its labels in its predictions; with ``output="each"`` these of all, (n_query, n_outputs, n_train).
        """
        last = np.array([self.n_stages])
        if isinstance(output, str) and output == "each" and self.output_shape:
            self._refuse_large_weights("kernel_weights", self.n_query(X), 1, self.n_outputs * self.n_samples)
            each = (self._staged_weights(X, last, "kernel_weights", output)[0] for output in range(self.n_outputs))
            return np.stack(list(each), axis=1)
        return self._staged_weights(X, last, "kernel_weights", output)[0]

    def _staged_weights(self, X: NDArray | None, stages: NDArray, question: str, output: Any = None) -> NDArray:
        """S_t(x) at stages, (n_stages, n_query, n_train), for a question by its name."""
        n_query, output = self.n_query(X), self.resolve_output(output, question)
        self._refuse_large_weights(question, n_query, len(stages), math.prod(self._axes_of_weights(output)))
        self._refuse_unsound(question, stages)
        return self._weights(self._weights_plan(n_query, stages, output), X, stages)

    def _refuse_large_weights(self, question: str, n_query: int, n_stages: int, n_columns: int) -> None:
        """Raise MemoryError where an array of weights would not fit; a query has so many columns."""
        at_stages = f" at {n_stages} stages" if n_stages > 1 else ""
        of_one = "for one output, or " if self.output_shape and n_columns > self.n_samples else ""
        refuse_if_too_large(
            8.0 * n_stages * n_query * n_columns,
            f"{question} of {n_query} queries by {self.n_samples} training rows{at_stages}",
            f"Ask {of_one}for fewer {'stages or ' if at_stages else ''}query rows at a time; "
            "effective_params(X, n_probes=32) needs no such matrix.",
        )

    def _axes_of_weights(self, output: int | None) -> tuple[int, ...]:
        """Axes of kernel weights that follow that of queries, of all outputs or one."""
        return (*self.output_shape, *self.column_shape) if output is None else self.column_shape[:1]

    def _weights(self, plan: Plan, X: NDArray | None, stages: NDArray | None = None) -> NDArray:
        """S_t(x) at stages or the last, (n_stages, n_query, n_train), by a plan."""
        stages, of = np.array([self.n_stages]) if stages is None else stages, plan.output
        weights = np.zeros((len(stages), self.n_query(X), *self._axes_of_weights(of)))
        if plan.direction == "backward":
            for position, stage in enumerate(stages):
                weights[position] = self.apply_adjoint(plan, X, int(stage))
            return weights
        n_axes = 2 if of is None else 1
        by_column = weights.reshape(*weights.shape[: n_axes + len(self.output_shape)], -1)
        for columns in trained_blocks(self, plan):
            V = unit_columns(self, columns)
            places = columns if of is None else columns // math.prod(self.column_shape[1:])
            for position, response in enumerate(self.apply_response(plan, X, V, False, stages)):
                by_column[position][..., places] = response if of is None else response[:, of]
        return weights

    def own_weights(self) -> NDArray:
        """Diagonal of S over the training rows, of the shape of the labels, with no matrix; zero off rows trained on.

        Where columns are those of rows, every output of a row responds to its row's.
        """
        return self._own_weights(self.forward_plan(0, self.n_columns))

    def _own_weights(self, plan: Plan) -> NDArray:
        """Diagonal of S over the training rows, by a plan for a unit column for every label."""
        last = np.array([self.n_stages])
        own = np.zeros((math.prod(self.column_shape), self.y.size // math.prod(self.column_shape)))
        for columns in trained_blocks(self, plan):
            response = next(self.apply_response(plan, None, unit_columns(self, columns), False, last))
            own[columns] = response.reshape(*own.shape, -1)[columns, :, np.arange(len(columns))]
        return own.reshape(self.y.shape)

    # -- influence ---------------------------------------------------------------------------------------------------

    def influence(self, X: NDArray | None, *, output: Any = None, denominators: Denominators = "moving") -> NDArray:
        """D(x), (n_query, n_train): derivative of every prediction in the weight of every training row.

        With several outputs it is (n_query, n_outputs, n_train), or (n_query, n_train) of one. ``denominators`` is for
        nets trained with adaptive optimisers; see `TangentTelescope.influence_telescope`.
        """
        return self.staged_influence(X, [self.n_stages], output=output, denominators=denominators)[0]

    def staged_influence(
        self, X: NDArray | None, stages: Any = None, *, output: Any = None, denominators: Denominators = "moving"
    ) -> NDArray:
        """D_t(x) after each stage, (n_stages, n_query, n_train)."""
        asked = resolve_stages(stages, self.n_stages)
        return self._of_weights(denominators)._staged_weights(X, asked, "influence", output)

    def self_influence(self, *, denominators: Denominators = "moving") -> NDArray:
        """Take the derivative of every training row's own prediction in its weight, (n_train,), with no matrix."""
        of_weights = self._of_weights(denominators)
        of_weights._refuse_unsound("self_influence")
        return of_weights.own_weights()

    def _of_weights(self, denominators: Denominators) -> "AnsweringTelescope":
        """Return the telescope whose columns are weights of rows."""
        of_weights = cast(AnsweringTelescope, self.influence_telescope(denominators))
        of_weights.verbose = self.verbose
        return of_weights

    def offset(self, X: NDArray | None) -> NDArray:
        """c(x), (n_query,): what is left of the prediction when all labels are zero."""
        self._refuse_non_smoother("offset")
        self._refuse_unsound("offset")
        no_columns = np.empty((*self.y.shape, 0))
        return next(self.staged_response(X, no_columns, offset=True, stages=[self.n_stages]))[..., 0]

    def staged_reconstruction(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield S_t y + c after each stage, (n_query,): one column, no matrix; raw, as `staged_response` is."""
        self._refuse_non_smoother("A reconstruction (approximation_error)")
        labels = np.zeros_like(self.y)
        labels[self.trained] = self.y[self.trained]  # others weigh nothing, and would only take digits
        for response in self.staged_response(X, labels[..., None], offset=True, stages=stages):
            yield response.sum(axis=-1)

    def reconstruct(self, X: NDArray | None) -> NDArray:
        """S(x) y + c(x), (n_query,), raw: its gap to the model shows where it is not sound."""
        return next(self.staged_reconstruction(X, [self.n_stages]))

    def top_examples(
        self, X: NDArray, k: int, *, by: str = "weight", output: Any = None
    ) -> tuple[NDArray[np.intp], NDArray]:
        """Find the ``k`` rows of largest weight, or influence, in every prediction; no matrix of all is made.

        Returns rows and weights or influence, each (n_query, k), the largest absolute value first. Which of several
        equal ones are among them is not fixed. Of several outputs one must be given.
        """
        if by not in ("weight", "influence"):
            raise ValueError(f"by must be 'weight' or 'influence', got {by!r}.")
        if by == "influence":
            rows, values = self._of_weights("moving")._top_examples(X, k, "top_examples(by='influence')", output)
            self._warn_of_none(values)
            return rows, values
        return self._top_examples(X, k, "top_examples", output)

    def _top_examples(self, X: NDArray, k: int, question: str, output: Any) -> tuple[NDArray[np.intp], NDArray]:
        """Find the columns of largest weight; the question is for messages."""
        self._check_k(k)
        output = self.resolve_output(output, question, needed=True)
        n_query, columns = len(X), np.flatnonzero(self.trained)
        refuse_if_too_large(
            48.0 * n_query * k,  # rows and weights, and the five columns of the table made of them
            f"{question} of {n_query} queries by {k} rows",
            "Ask for fewer query rows at a time, or for a smaller k.",
        )
        rows, weights = np.empty((n_query, k), dtype=np.intp), np.empty((n_query, k))
        size = items_per_block(8.0 * 4 * self.n_samples, n_query)  # weights, a copy of them, magnitudes and their order
        self._refuse_unsound(question)
        plan = self._weights_plan(size, output=output)
        for first in range(0, n_query, size):
            block = slice(first, first + size)
            found = self._weights(plan, X[block])[0][:, columns]
            largest = _largest(np.abs(found), k)
            rows[block], weights[block] = columns[largest], np.take_along_axis(found, largest, axis=1)
        return rows, weights

    def _warn_of_none(self, influence: NDArray) -> None:
        """Warn where the largest influence on a prediction, (n_query, k), is rounding."""
        none = np.abs(influence).max(axis=1) <= _NO_INFLUENCE * np.std(self.y[self.trained])
        if none.any():
            warnings.warn(
                f"No row has influence on {none.sum()} of {len(none)} predictions, whose rows come in no order. Leaves "
                "that are medians or quantiles, or hold rows of one label, do not respond to weights. Use by='weight'.",
                UserWarning,
                stacklevel=4,
            )

    def breakdown(self, X: NDArray | None, stages: Any = None) -> tuple[NDArray[np.intp], NDArray]:
        """Split the telescoping model into its start and what every stage, or stretch of stages, added to it.

        Returns 0 and the stages asked for, and the contributions, (n_stretches + 1, n_query), whose sum is the
        telescoping model after the last stage asked for.
        """
        asked = np.union1d([0], resolve_stages(stages, self.n_stages))
        n_query = self.n_query(X)
        refuse_if_too_large(
            8.0 * len(asked) * n_query * self.n_outputs,
            f"breakdown of {n_query} queries over {len(asked)} stages",
            "Ask for fewer stages, for example stages=20.",
        )
        reached = np.zeros((n_query, *self.output_shape))
        contributions = np.empty((len(asked), *reached.shape))
        for position, prediction in enumerate(self.staged_telescoping(X, asked)):
            contributions[position] = prediction - reached
            reached = prediction
        return asked, contributions

    # -- sums over all label directions ------------------------------------------------------------------------------

    def staged_effective_params(
        self,
        X: NDArray | None,
        *,
        stages: Any = None,
        n_probes: Any = "auto",
        subsets: Subsets = None,
        output: Any = None,
    ) -> Estimate:
        """P = n/m sum_j ||s_t(x_j)||^2 after each stage, (n_stages,), or (n_stages, n_subsets) in one pass.

        With several outputs the sum runs over all, or one, each with the weights of the labels of all outputs.
        """
        self._refuse_non_smoother("effective_params")
        output = self.resolve_output(output, "effective_params")
        asked = resolve_stages(stages, self.n_stages)
        sets = resolve_subsets(subsets, self.n_query(X))
        sizes = [self.n_query(X)] if sets is None else [len(rows) for rows in sets]

        def energies(V: NDArray, response: NDArray) -> NDArray:
            response = response if output is None else response[:, output]
            of_sets = [response] if sets is None else [response[rows] for rows in sets]
            means = [_squares(of_set) / size for of_set, size in zip(of_sets, sizes, strict=True)]
            return self.n_trained * np.stack(means)

        def exactly(sums: ExactSums, stages: NDArray) -> NDArray:
            return self.n_trained * (sums.squared_weights(X, sets, stages) / sizes)

        answer = self._sum(X, energies, exactly, n_probes, ("energies", joblib.hash(sets), output))
        value, error = self._while_sound(X, asked, answer, "effective_params")
        return Estimate(value, error) if subsets is not None else Estimate(value[:, 0], error[:, 0])

    def training_summary(self, n_probes: Any = "auto") -> tuple[Estimate, Estimate]:
        """Effective parameters on the rows trained on, and the trace of S there, in one pass; of all outputs."""
        summaries = self.staged_training_summary(stages=[self.n_stages], n_probes=n_probes)
        p, trace = (Estimate(staged.value[-1], staged.standard_error[-1]) for staged in summaries)
        return p, trace

    def staged_training_summary(
        self, *, stages: Any = None, n_probes: Any = "auto", output: Any = None
    ) -> tuple[Estimate, Estimate]:
        """Effective parameters on the rows trained on, and the trace of S there, after each stage, in one pass."""
        self._refuse_non_smoother("A count of effective parameters or degrees of freedom")
        output = self.resolve_output(output, "staged_training_summary")

        def energy_and_trace(V: NDArray, response: NDArray) -> NDArray:
            if output is not None:
                V, response = V[:, output], response[:, output]
            own = response if self.trained.all() else response[self.trained]
            return np.stack([_squares(own), _products(V, response)])  # V is zero off the rows trained on

        def exactly(sums: ExactSums, stages: NDArray) -> NDArray:
            rows = None if self.trained.all() else [np.flatnonzero(self.trained)]
            return np.column_stack([sums.squared_weights(None, rows, stages), sums.traces(stages)])

        answer = self._sum(None, energy_and_trace, exactly, n_probes, ("summary", output))
        values, errors = self._while_sound(None, resolve_stages(stages, self.n_stages), answer, "effective_params")
        return Estimate(values[:, 0], errors[:, 0]), Estimate(values[:, 1], errors[:, 1])

    def _sum(
        self,
        X: NDArray | None,
        statistic: Statistic,
        exactly: Callable[[ExactSums, NDArray], NDArray],
        n_probes: Any,
        question: tuple[Any, ...],
    ) -> Callable[[NDArray], Estimate]:
        """Choose how a sum over all label directions is computed; return the function that computes it at stages."""
        way = choose_sum(self, n_probes, self.n_query(X))
        if isinstance(way, Plan | int):
            return lambda stages: sum_over_columns(self, X, statistic, stages, way, self._probe_values, question)

        def exact(stages: NDArray) -> Estimate:
            value = exactly(way, stages)
            return Estimate(value, np.zeros_like(value))

        return exact

    # -- kernels and gaps --------------------------------------------------------------------------------------------

    def kernel_norms(self, X: NDArray | None, stages: Any = "auto") -> NDArray:
        """||k_t(x)||_2, (n_stages, n_query)."""
        asked = self.kernel_stages(stages)
        refuse_if_too_large(
            8.0 * len(asked) * self.n_query(X) * self.n_outputs,
            f"kernel_norms of {self.n_query(X)} queries at {len(asked)} stages",
            "Ask for fewer stages, for example stages=20; kernel_norm_ratio needs no such array.",
        )
        return np.stack(list(self.staged_kernel_norms(X, asked)))

    def kernel_norm_ratio(self, X: NDArray | None, stages: Any = "auto", subsets: Subsets = None) -> NDArray:
        """Stage mean of the largest kernel norm of the query over that of the rows trained on; one value a subset."""
        asked = self.kernel_stages(stages)
        sets = resolve_subsets(subsets, self.n_query(X)) or [np.arange(self.n_query(X))]
        peaks = np.mean([[norms[rows].max() for rows in sets] for norms in self.staged_kernel_norms(X, asked)], axis=0)
        ratios = peaks / self._training_peak(asked)
        return ratios if subsets is not None else ratios[0]

    def approximation_error(self, X: NDArray | None, stages: Any = None, output: Any = None) -> ApproximationError:
        """Gaps between the model, the telescoping model and the reconstruction; see `ApproximationError`.

        Means and maxima are those of all outputs, or of one.
        """
        output = self.resolve_output(output, "approximation_error")
        asked = resolve_stages(stages, self.n_stages)
        rows = []
        routes = (self.staged_model(X, asked), self.staged_telescoping(X, asked), self.staged_reconstruction(X, asked))
        for model, telescoping, reconstruction in zip(*routes, strict=True):
            gaps = np.abs(telescoping - model), np.abs(reconstruction - model)
            gaps = gaps if output is None else (gaps[0][:, output], gaps[1][:, output])
            rows.append([summary for gap in gaps for summary in (gap.mean(), gap.max())])
        names = ["telescoping_mean", "telescoping_max", "reconstruction_mean", "reconstruction_max"]
        by_stage = pd.DataFrame(rows, columns=names, index=pd.Index(asked, name="stage"))
        last = dict(zip(names, map(float, rows[-1]), strict=True))
        return ApproximationError(**last, by_stage=by_stage)

    def kernel_stages(self, stages: Any) -> NDArray[np.intp]:
        """Stages at which kernels are taken: the family's default for "auto"; the start has no kernel."""
        chosen = self.default_kernel_stages if isinstance(stages, str) and stages == "auto" else stages
        return resolve_stages(chosen, self.n_stages, with_start=False)

    def _training_peak(self, stages: NDArray) -> float:
        """Stage mean of the largest kernel norm among the rows trained on, kept for later questions."""
        key = stages.tobytes()
        if key not in self._training_peaks:
            peaks = [norms[self.trained].max() for norms in self.staged_kernel_norms(None, stages)]
            self._training_peaks[key] = float(np.mean(peaks))
        return self._training_peaks[key]

    # -- refusals ----------------------------------------------------------------------------------------------------

    def _check_k(self, k: Any) -> None:
        """Raise unless ``k`` is a number of rows that were trained on."""
        if not isinstance(k, Integral) or isinstance(k, bool):
            raise TypeError(f"k must be an int, got {k!r}.")
        if not 1 <= int(k) <= self.n_trained:
            raise ValueError(f"k={k} must lie between 1 and {self.n_trained}, the number of rows trained on.")

    def _refuse_non_smoother(self, question: str) -> None:
        """Raise `NotASmootherError` where weights times labels do not rebuild the prediction."""
        if not self.is_smoother:
            raise NotASmootherError(
                f"{question} does not exist for this loss: kernel_weights are the derivative of the raw score in the "
                "labels, and their sum with the labels does not rebuild the prediction. Use kernel_weights, "
                "top_examples, breakdown or staged_kernel; or fit squared error."
            )

    def _refuse_unsound(self, question: str, stages: NDArray | None = None) -> None:
        """Raise `UnstableResponseError` where the response fails its checks at one of the stages, or the last."""
        asked = np.array([self.n_stages]) if stages is None else stages
        failing = asked[~self.is_sound(asked)]
        if len(failing):
            raise UnstableResponseError(f"{question} does not exist after stage {failing[0]}: {self._unsound()}")

    def _unsound(self) -> str:
        """Say where the response is not sound, and what to do."""
        last = self.last_sound_stage
        return (
            f"the {self.response_name} of this run fails its checks there, and passes them last at stage {last} of "
            f"{self.n_stages}. Ask for earlier stages, as in {self.staged_question}(X, stages=[{last}]). "
            f"{self.unsound_remedy}"
        ).rstrip()

    def _while_sound(
        self, X: NDArray | None, stages: NDArray, answer: Callable[[NDArray], Estimate], question: str
    ) -> Estimate:
        """Answer for the stages at which the response is sound; the others are nan, and a warning says so.

        What an approximate response leaves joins the standard error.

        Raises
        ------
        UnstableResponseError
            If the response is sound at none of the stages.
        """
        passes = self.is_sound(stages)
        sound = stages[passes]
        if not len(sound):
            raise UnstableResponseError(f"{question} does not exist at stage {stages[-1]}: {self._unsound()}")
        value, error = answer(sound)
        left = self.response_error(X, sound).reshape(-1, *[1] * (value.ndim - 1)) * np.abs(value)
        error = np.hypot(error, left)
        if len(sound) < len(stages):
            message = f"{question} is nan at {len(stages) - len(sound)} of the stages asked for: "
            warnings.warn(message + self._unsound(), UserWarning, stacklevel=4)
            whole = np.full((2, len(stages), *value.shape[1:]), np.nan)
            whole[:, passes] = value, error
            value, error = whole
        return Estimate(value, error)


def _squares(columns: NDArray) -> NDArray:
    """Sum of squares of every column."""
    return _products(columns, columns)


def _products(columns: NDArray, others: NDArray) -> NDArray:
    """Inner products of columns over all rows and outputs, with no array of products."""
    columns, others = (part.reshape(-1, part.shape[-1]) for part in (columns, others))
    return np.einsum("ij,ij->j", columns, others)


def _largest(magnitudes: NDArray, k: int) -> NDArray[np.intp]:
    """Columns of the ``k`` largest entries of every row, the largest first."""
    chosen = np.sort(np.argpartition(magnitudes, -k, axis=1)[:, -k:], axis=1)
    order = np.argsort(-np.take_along_axis(magnitudes, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)
