"""A small base model for the toy expert."""

import jax
import pytest

from internal_rl.models.steered_model import SteeredModel
from tests.methods.toy import make_base


@pytest.fixture(scope="session")
def model():
    """An untrained base model, without a metacontroller."""
    base = make_base()
    return SteeredModel(base, 1, jax.jit(base.initial_params)(jax.random.key(0)))
