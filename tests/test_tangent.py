"""Products with the Jacobian of a multilayer perceptron, against the Jacobian that autograd gives."""

import pytest
import torch

from telescoping_sklearn.neural._network import Architecture
from telescoping_sklearn.neural._tangent import tangent


@pytest.mark.parametrize("widths", [(3, 7, 1), (7, 3, 1), (3, 5, 4, 1), (4, 5, 6, 1), (2, 5, 5, 1), (3, 6, 2), (3, 1)])
def test_products_with_the_jacobian_whichever_side_of_a_layer_is_wider(widths):
    net = Architecture(widths, "tanh", "identity")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    theta, X = net.initial_parameters(1).double(), normal(5, widths[0])
    expected = torch.autograd.functional.jacobian(lambda theta: net.forward(theta, X).reshape(-1), theta)
    found = tangent(net, theta, X)
    directions, columns = normal(4, net.n_params), normal(found.n_pairs, 3)
    torch.testing.assert_close(found.jvp(directions), expected @ directions.T)
    torch.testing.assert_close(found.vjp(columns), columns.T @ expected)
    torch.testing.assert_close(found.gradients(), expected)
