"""Checks of worlds and blocks from outside: what breaks a contract is said before anything trains.

    irl.testing.check_world(MyWorld(config))
    irl.testing.check_block("my-block")

Both raise a ContractError with one line per fault; `world_faults` and `block_faults` only give the
lines.
"""

from internal_rl.errors import ContractError
from internal_rl.testing.blocks import SHAPE, block_faults
from internal_rl.testing.worlds import world_faults

__all__ = ["SHAPE", "block_faults", "check_block", "check_world", "world_faults"]


def check_world(world) -> None:
    """Tries a world out on a few whole episodes, with all that it tells.

    Args:
      world: see `types.World` and, for what it may tell beyond, `envs.world.CAPABILITIES`.

    Raises:
      ContractError: it breaks its contract; one line per fault.
    """
    _raise(type(world).__name__, "world", world_faults(world))


def check_block(block, *, shape=SHAPE) -> None:
    """Tries a sequence block out on random packed rows, in its parallel and its one-step form.

    Args:
      block: name of a registered block, or what makes one: `make(shape, **keywords)`.
      shape: sizes of the block that is tried.

    Raises:
      ContractError: it breaks its contract, see `models.blocks.Block`; one line per fault.
      SettingError: there is no block of this name, or the sizes do not suit it.
    """
    name = block if isinstance(block, str) else getattr(block, "__name__", repr(block))
    _raise(name, "block", block_faults(block, shape=shape))


def _raise(name: str, kind: str, faults: list[str]) -> None:
    if faults:
        raise ContractError("\n".join([f"{name} breaks the contract of a {kind}:", *faults]))
