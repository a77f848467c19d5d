"""Tangents: the Jacobian of a block of rows, as what it is multiplied with.

Those of a chain of layers come from structured derivatives, with no Jacobian made, see `_layers`; any other module's go
through ``torch.func``, see `_functional`.

The derivative of an output in a linear layer's weight is an outer product: J_l(x) = delta_l(x) a_{l-1}(x)^T, with
a_{l-1} the layer's input and delta_l the derivative of the output in the layer's pre-activation (Novak et al. 2022).
Once both are known for a block of rows, products of J with k directions, of J^T with k columns, and J J'^T itself are
small matrix products. A convolution's is a sum of outer products.

With several outputs a row of J is one output of a row of X, the outputs of each row one after the other: n_pairs rows.
Only this module, and whoever goes from rows to pairs, needs to know how many outputs there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._functional import FunctionalNetwork, FunctionalTangent
from telescoping_sklearn.neural._layers import Term, Unparametrised, Weighted
from telescoping_sklearn.neural._network import Chain, Network
from telescoping_sklearn.neural._workspace import buffer

#: Bytes of temporaries beyond which a block of rows gets slower: it leaves the caches and pages come fresh.
_FASTEST_BLOCK = 16 * 2**20


class Tangent(Protocol):
    """The Jacobian of the outputs of a block of rows at one theta."""

    @property
    def n_pairs(self) -> int:
        """Outputs of all rows of the block."""

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k), for k directions in the parameters, (k, p)."""

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the outputs, (n_pairs, k)."""

    def kernel(self, other: Any, input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_pairs, n_other_pairs), with a tangent of the same network at the same or another theta.

        Inner products of the rows themselves, (n_rows, n_other_rows), may be given where they were kept.
        """

    def gradients(self) -> Tensor:
        """J itself, (n_pairs, p): for few rows only."""


@dataclass(frozen=True)
class LayerwiseTangent:
    """The Jacobian of a chain of layers as structured derivatives.

    Attributes
    ----------
    chain : Chain
        The net.
    n_rows : int
        Number of rows.
    terms : list of Term
        What every layer with trained parameters adds.
    like : Tensor
        The rows, whose precision and device are those of products.
    """

    chain: Chain
    n_rows: int
    terms: list[Term]
    like: Tensor

    @property
    def n_pairs(self) -> int:
        """Outputs of all rows of the block."""
        return self.n_rows * self.chain.n_outputs

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k), for k directions in the parameters, (k, p)."""
        product = directions.new_zeros((self.n_rows, self.chain.n_outputs, len(directions)))
        for term, piece in self._by_term(directions):
            term.add_jvp(product, piece)
        return product.flatten(0, 1)

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the outputs, (n_pairs, k)."""
        product = columns.new_empty((columns.shape[1], self.chain.n_params))
        for term, piece in self._by_term(product):
            term.write_vjp(piece, columns)
        return product

    def kernel(self, other: "LayerwiseTangent", input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_pairs, n_other_pairs): the sum over layers of their kernels."""
        shape = (self.n_pairs, other.n_pairs)
        total = self.like.new_empty(shape)
        for place, (mine, theirs) in enumerate(zip(self.terms, other.terms, strict=True)):
            part = buffer("term", shape, total) if place else total
            mine.write_kernel(part, theirs, None if place else input_products)  # only the first layer reads the rows
            if place:
                total.add_(part)
        return total

    def gradients(self) -> Tensor:
        """J itself, (n_pairs, p): for few rows only."""
        product = self.like.new_empty((self.n_pairs, self.chain.n_params))
        for term, piece in self._by_term(product):
            term.write_gradients(piece)
        return product

    def _by_term(self, theta: Tensor) -> Iterator[tuple[Term, Tensor]]:
        pieces = theta.split([size for size in self.chain.sizes if size], dim=-1)
        return zip(self.terms, pieces, strict=True)


def tangent(network: Network, theta: Tensor, X: Tensor) -> Tangent:
    """Take the Jacobian of a block of rows by the route that the network has.

    Parameters
    ----------
    network : Network
        The network.
    theta : Tensor of shape (p,)
        Where the Jacobian is taken.
    X : Tensor of shape (n_rows, n_features)
        The rows.

    Returns
    -------
    Tangent
        The Jacobian.
    """
    if isinstance(network, Chain):
        return _layerwise(network, theta, X)
    return FunctionalTangent(cast(FunctionalNetwork, network), theta, X)


def _layerwise(chain: Chain, theta: Tensor, X: Tensor) -> LayerwiseTangent:
    """Run the rows forward and back once.

    An activation makes memory of its own, so that what goes into it, either way, may be a buffer. The last layer whose
    input a derivative needs is not run, nor any after it.
    """
    pieces, o = chain.pieces(theta), chain.n_outputs
    rows = X
    kept: list[Any] = []
    for part, piece, reused in zip(chain.parts, pieces, chain.reused_outputs, strict=True):
        if len(kept) == chain.last_needed and not isinstance(part, Unparametrised):
            kept.append(rows)
            break
        rows, needed = part.run(piece, rows, reused)
        kept.append(needed)
    kept += [None] * (len(pieces) - len(kept))
    shape = (len(X) * o, *chain.shapes[-1])
    gradient = (
        X.new_ones(shape) if o == 1 else torch.eye(o, dtype=X.dtype, device=X.device).repeat(len(X), 1).view(shape)
    )
    terms: list[Term] = []
    for level in range(len(chain.parts) - 1, chain.first_trained - 1, -1):
        part = chain.parts[level]
        if chain.sizes[level]:
            terms.append(cast(Weighted, part).term(kept[level], gradient, o))
        if level > chain.first_trained:
            reused = chain.reused_gradients[level]
            gradient = part.pull_back(pieces[level], kept[level], gradient, o, reused)
    return LayerwiseTangent(chain, len(X), terms[::-1], X)


def row_blocks(
    network: Network, n_rows: int, *, n_columns: int = 0, n_others: int = 0, itemsize: int = 8
) -> Iterator[slice]:
    """Cut rows into blocks whose derivatives and products stay within the working memory and the caches.

    Parameters
    ----------
    network : Network
        The network.
    n_rows : int
        Number of rows.
    n_columns : int, default=0
        Directions or columns that the Jacobian is multiplied with.
    n_others : int, default=0
        Rows that kernels are taken with.
    itemsize : int, default=8
        Bytes of a number.

    Returns
    -------
    iterator of slice
        Consecutive blocks.
    """
    kernels = 3 * n_others * network.n_outputs**2
    held = itemsize * (network.row_numbers + n_columns * network.column_numbers + kernels)
    size = items_per_block(held, max(n_rows, 1), most_bytes=_FASTEST_BLOCK)
    return (slice(first, min(first + size, n_rows)) for first in range(0, n_rows, size))
