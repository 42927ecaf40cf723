"""The matrix products that a traced program holds."""

from collections.abc import Callable, Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def products_of(function: Callable, *inputs) -> list[tuple[str, tuple | None]]:
    """The type of the factors and the precision of every product in `function(*inputs)`."""
    # Not a function that jax has traced before.
    return products_in(jax.make_jaxpr(lambda *inputs: function(*inputs))(*inputs).jaxpr)


def products_in(jaxpr: Jaxpr) -> list[tuple[str, tuple | None]]:
    """The same of a program that has been traced."""
    return list(_products(jaxpr))


def precisions_of(function: Callable, *inputs) -> set[tuple | None]:
    """Precisions of the products of float32 numbers."""
    found = products_of(function, *inputs)
    assert found
    return {precision for dtype, precision in found if dtype == "float32"}


def _products(jaxpr: Jaxpr) -> Iterator[tuple[str, tuple | None]]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield str(equation.invars[0].aval.dtype), equation.params["precision"]
        for part in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_program):
            if _is_program(part):
                yield from _products(getattr(part, "jaxpr", part))


def _is_program(part) -> bool:
    return isinstance(part, ClosedJaxpr | Jaxpr)
