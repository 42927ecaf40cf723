"""Settings of the paper's tests of codes, which the stages that find codes share (method §5)."""

import dataclasses

from internal_rl.section import Section, at_least, setting, within


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeTestSettings(Section):
    """How codes from unconditioned rollouts are collected, and when they are injected.

    Attributes:
      source_layouts: starts, each in a layout of its own, from which codes are collected; "a
        handful" in the paper (open). Rollouts of one differ in codes and actions alone.
      source_steps: steps of a rollout over which it has to visit one colour and no other; 0 for a
        fifth of the time limit (open).
      injection_step: step at which a code is injected; a third of the time limit where that is
        earlier.
    """

    source_layouts: int = setting(8, within(1, 10_000))
    source_steps: int = setting(0, at_least(0))
    injection_step: int = setting(30, at_least(0))

    def source_length(self, time_limit: int) -> int:
        """Steps of a rollout that count, in a world with this time limit."""
        return min(self.source_steps or max(time_limit // 5, 1), time_limit)

    def injection_moment(self, time_limit: int) -> int:
        """Step of injection in a world with this time limit."""
        return min(self.injection_step, time_limit // 3)
