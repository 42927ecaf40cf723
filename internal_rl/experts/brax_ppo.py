"""What the expert uses of brax, imported without what MJX prints on the way."""

from internal_rl.envs.physics import quiet_import

with quiet_import():
    from brax.training.acme import running_statistics
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo.train import train
    from brax.training.types import UInt64

__all__ = ["UInt64", "networks", "running_statistics", "train"]
