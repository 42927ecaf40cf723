"""A trained agent in a notebook: its world and its steered model, and what one does with them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from internal_rl.acting.controls import InjectedCode
from internal_rl.acting.episodes import KEPT, SHOWN, Control, Episodes, NoControl, play
from internal_rl.arguments import checked_integer, checked_names
from internal_rl.envs.world import kept_by_first, switch_tolerance
from internal_rl.inference import found_in, residuals_of
from internal_rl.models.code_controller import CodeController
from internal_rl.models.steered_model import SteeredModel
from internal_rl.training_data import TrainingData
from internal_rl.types import DataSource, World


@struct.dataclass
class Found:
    """What the metacontroller infers about `B` episodes; zeros behind an episode's end.

    Attributes:
      code: `(B, T, n_z)` active code `z_t`.
      beta: `(B, T)` switching gate in [0, 1].
      mean: `(B, T, n_z)` posterior mean.
      kl: `(B, T)` KL to the prior, nats.
      active: `(B, T)` bool, the episode was running.
      subgoal: `(B, T)` int32 subgoal that the task asked for, in free-running episodes always the
        first; None where the world does not tell.
      visit: `(B, T)` int32 place entered by the step; None where the world does not tell.
      observation: `(B, T, d)`.
      last_observation: `(B, d)` after the last step; None where it was not kept.
    """

    code: chex.Array
    beta: chex.Array
    mean: chex.Array
    kl: chex.Array
    active: chex.Array
    subgoal: chex.Array | None
    visit: chex.Array | None
    observation: chex.Array
    last_observation: chex.Array | None = None


@struct.dataclass
class Agent:
    """A world and a model that acts in it.

    Attributes:
      world: the world.
      model: base model, metacontroller and the layer between them.
      policy: control that acts unless a rollout is given another one; None for the base model
        alone.
      task: of episodes that are given no other one; None for the post-training task.
      data: what the model was trained on; None where that is not known.
    """

    world: World = struct.field(pytree_node=False)
    model: SteeredModel
    policy: Control | None = None
    task: Any = None
    data: TrainingData | None = struct.field(pytree_node=False, default=None)

    def rollout(
        self,
        num_episodes: int,
        key: chex.PRNGKey,
        *,
        inject: chex.Array | None = None,
        at_step: int = 0,
        control: Control | None = None,
        task: Any = None,
        **options,
    ) -> Episodes:
        """Runs episodes of the policy, or of the base model, alone or under another control.

        Args:
          num_episodes: how many, `B`.
          key: randomness; the same key starts the same episodes, whatever is injected.
          inject: `(n_z,)` code that is put in force at step `at_step` and held until the gate asks
            for another one; the base model acts alone before and afterwards, without any policy.
          at_step: see `inject`.
          control: any other control of `internal_rl.acting`, such as `NoControl()`; not together
            with `inject`. None for the policy of the agent, if it has one.
          task: of all episodes; None for that of the agent.
          **options: those of `acting.episodes.act`, such as `deterministic` and `free_running`;
            kept is what `acting.episodes.SHOWN` names, unless `keep` says otherwise.

        Raises:
          ValueError: the model cannot act in the world, both a code and a control are given, or an
            argument is of another kind or outside of its range.
        """
        self.model.base.check_world(self.world)
        num_episodes = checked_integer("num_episodes", num_episodes, 1)
        _check_key(key)
        if inject is not None and control is not None:
            raise ValueError("inject and control are both given, allowed is one of them")
        if inject is not None:
            control = self._injection(inject, at_step)
        elif isinstance(at_step, jax.core.Tracer) or at_step != 0:
            raise ValueError(f"at_step is {at_step!r} without inject, allowed is both or none")
        control = _checked_control(self.policy if control is None else control)
        options = {"keep": SHOWN} | options
        options["keep"] = checked_names("keep", options["keep"], KEPT)
        for name in options.keys() & {"deterministic", "free_running"}:
            if not isinstance(options[name], bool | np.bool_):
                raise ValueError(f"{name} is {options[name]!r}, allowed are True and False")
            options[name] = bool(options[name])
        run = _compiled_play(self.world, num_episodes, tuple(sorted(options.items())))
        return run(self.model, control, key, self._checked_task(task))

    def _injection(self, inject: chex.Array, at_step: int) -> InjectedCode:
        size = self._metacontroller().config.code_size
        if not isinstance(at_step, jax.core.Tracer):
            last = self.world.time_limit - 1
            at_step = checked_integer("at_step", at_step, 0, last, what=", a step of an episode")
        try:
            code = jnp.asarray(inject, jnp.float32)
        except (TypeError, ValueError):
            raise ValueError(f"inject is {inject!r}, allowed is an array ({size},)") from None
        if code.shape != (size,):
            raise ValueError(f"inject has the shape {code.shape}, allowed is ({size},), one code")
        if not isinstance(code, jax.core.Tracer) and not np.isfinite(code).all():
            raise ValueError("inject holds NaN or infinity, allowed are finite numbers")
        return InjectedCode.of_code(code, at_step, num_keys=InjectedCode.keys_for(self.model))

    def _checked_task(self, task: Any) -> Any:
        """The task of all episodes; a world that has `checked_task` tells what it allows."""
        if task is None:
            return self.world.post_training_task if self.task is None else self.task
        check = getattr(self.world, "checked_task", None)
        return task if check is None else check(task)

    def _metacontroller(self) -> CodeController:
        if self.model.metacontroller is None:
            raise ValueError("this agent has no metacontroller, allowed is one that has")
        return self.model.metacontroller

    def residuals(self, episodes: Episodes, layer: int | None = None) -> chex.Array:
        """Residual stream `e_{t,l}` on what was observed, `(B, T, n_e)`; zero behind the end.

        It is that of the base model alone. Of episodes under a control (`inject`, a policy) that is
        what happened up to the controlled layer, before the control adds to it, but not above: so
        higher layers are refused where the episodes' record shows a control. One that records
        nothing, such as `SupervisedControl`, does not show.

        Args:
          episodes: as `rollout` gives them.
          layer: which one, 0 (embedding) to `L`; None for the controlled one.

        Raises:
          ValueError: there is no such layer, or it lies above the control of the episodes; or these
            have no observations or others than the model reads.
        """
        model = self.model if layer is None else self.model.at_layer(layer)
        if episodes.record and model.layer > self.model.layer:
            raise ValueError(
                f"layer is {layer} for episodes under a control, which recorded"
                f" {', '.join(sorted(episodes.record))}, allowed is 0 to {self.model.layer}, the"
                " controlled layer: above it the stream was another one"
            )
        return residuals_of(model.alone(), self._observed(episodes), episodes.active)

    def _observed(self, episodes: Episodes) -> chex.Array:
        observation, size = episodes.kept("observation"), self.model.base.observation_spec.size
        if observation.shape[-1] != size:
            raise ValueError(
                f"these episodes have observations of size {observation.shape[-1]}, allowed is"
                f" {size}, that of the model"
            )
        return observation

    def discover(self, episodes: Episodes, key: chex.PRNGKey | None = None) -> Found:
        """Gates and codes that the metacontroller infers, with all of each episode in view.

        What the last step led to is in view too, as in training, if the episodes have kept it.

        Args:
          episodes: as `rollout` gives them.
          key: noise of the codes; None takes a fixed one.

        Raises:
          ValueError: the agent has no metacontroller, the key is none, or the episodes have no
            observations or others than the model reads.
        """
        self._metacontroller()
        key = jax.random.key(0) if key is None else key
        _check_key(key)
        observation, last = self._observed(episodes), episodes.last_observation
        found = found_in(self.model, observation, last, episodes.active, key)
        return Found(
            code=found.code,
            beta=found.beta,
            mean=found.mean,
            kl=found.kl,
            active=episodes.active,
            subgoal=episodes.subgoal,
            visit=episodes.visit,
            observation=episodes.observation,
            last_observation=episodes.last_observation,
        )

    def make_data(
        self,
        role: str = "pretraining",
        *,
        include_terminal: bool = False,
        tasks: str = "",
        **settings,
    ) -> DataSource:
        """Trajectories such as the model was trained on, from the same expert in the same rows.

        `irl.make_data` begins with the defaults of the section `data` in their place, which are
        those of the paper.

        Args:
          role: `"pretraining"`, `"clean"` or `"curriculum"`, see `DataRequest`.
          include_terminal: whether each trajectory ends with a token for its last observation, as
            those do that metacontrollers and CompILE learnt from.
          tasks: of a curriculum; empty for other roles.
          **settings: fields of `DataSection` that are to be others.

        Raises:
          ValueError: it is not known what the model was trained on, an argument is not allowed, or
            the trajectories lie on disk, where the stage `collect` has left them.
        """
        if self.data is None:
            raise ValueError(
                "data of this agent is None, allowed is an agent that irl.load gives, which knows"
                " what its model was trained on"
            )
        options = {"include_terminal": include_terminal, "tasks": tasks}
        return self.data.make(self.world, role, **options, **settings)

    @property
    def switch_tolerance(self) -> int:
        """Steps by which a switch may miss a change of subgoal and still count as close."""
        return switch_tolerance(self.world)


def _check_key(key: Any) -> None:
    """Raises ValueError unless it is one random key, as `jax.random.key` or `PRNGKey` makes it."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    of_default = jax.eval_shape(jax.random.PRNGKey, 0).shape
    if not (shape == () if typed else dtype == jnp.uint32 and shape == of_default):
        given = repr(key) if dtype is None else f"an array {shape} of {dtype}"
        raise ValueError(f"key is {given}, allowed is one key, as jax.random.key(0)")


def _checked_control(control: Any) -> Control:
    if control is None:
        return NoControl()
    missing = [name for name in ("num_keys", "init", "step") if not hasattr(control, name)]
    if missing:
        raise ValueError(
            f"control is {control!r}, which has no {missing[0]}, allowed is a control of"
            " internal_rl.acting"
        )
    return control


@kept_by_first(32)
def _compiled_play(world: World, num_episodes: int, options: tuple):
    """One program for each kind of rollout, so that a second call compiles nothing."""

    def run(model, control, key, task):
        return play(world, model, control, key, num_episodes, task=task, **dict(options))

    return jax.jit(run)
