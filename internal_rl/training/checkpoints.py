"""Checkpoints of several seeds that advance together.

Orbax writes them to file systems and to `gs://`; to other stores they are copied.
"""

import contextlib
import logging as python_logging
from collections.abc import Iterator, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from internal_rl import hosts
from internal_rl.errors import StorageError, UserError
from internal_rl.paths import AnyPath
from internal_rl.training.checkpoint_copies import CheckpointCopies, needs_copies
from internal_rl.training.identity import DamagedError, Identity
from internal_rl.training.randomness import with_keys, without_keys

NUM_KEPT = 2
# Names of the sums of metrics beside the leaves of the state.
_SUM = "metrics since the last line: "
_IDENTITY = "what it belongs to"
# Where checkpoints go that cannot be read, beside `checkpoints`.
_ASIDE = "damaged_checkpoints"


_OTHER_CODE = "it is of another stage or of other code: allowed is another --workdir"


def _names(tree: chex.ArrayTree) -> list[str]:
    """One name a leaf, from its path; distinct."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator=".") or "state" for path in paths]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps what libraries log about a damaged file, at length, from the one line that tells it."""
    before = python_logging.root.manager.disable
    python_logging.disable(python_logging.CRITICAL)
    try:
        yield
    finally:
        python_logging.disable(before)


@contextlib.contextmanager
def _faults(directory: AnyPath) -> Iterator[None]:
    """Turns whatever Orbax and its storage raise while they write into one line.

    The writing happens in other threads and in C++, so that a full disk arrives here as any of
    several exceptions.

    Raises:
      StorageError: in place of any exception of the body.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise StorageError(
            f"{directory}: checkpoint cannot be written ({_reason(error)}); --workdir must be a"
            " writable folder with free space"
        ) from error


def _reason(error: Exception, most: int = 300) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


class Checkpoints:
    """Atomic, asynchronous Orbax checkpoints, one manager for each seed.

    The state of every seed is stored as a flat dictionary of arrays, so a checkpoint can be read
    without the code that made it. A new round of saves begins only when every seed has finished the
    last one; with two checkpoints kept there is therefore always a step that all seeds share,
    whatever the moment of a kill. What only some of them have is moved aside when a run goes on:
    Orbax saves no step behind which there is another one.
    """

    def __init__(
        self,
        directories: Sequence[AnyPath],
        identities: Sequence[Identity],
        batched: bool,
        sharding: jax.sharding.Sharding | None = None,
    ):
        """Opens the checkpoints.

        Args:
          directories: one for each seed.
          identities: what the checkpoints of each seed belong to.
          batched: the leaves of the state have a leading seed axis.
          sharding: where the leaves of one seed go before they are saved; None for where they are.
        """
        # Orbax takes half a second to import, which finished stages need not pay.
        import orbax.checkpoint as ocp

        self._orbax = ocp
        self._batched = batched
        self._directories = directories
        self._identities = identities
        self._copies = []
        for path in directories:
            with _faults(path):
                self._copies.append(CheckpointCopies(path) if needs_copies(path) else None)
        self._managers = []
        for path, copies in zip(directories, self._copies, strict=True):
            with _faults(path):
                self._managers.append(self._manager(path, copies.local if copies else path))
        self._slice = jax.jit(self._slices, out_shardings=sharding)

    def _manager(self, path: AnyPath, written: AnyPath):
        """The manager of one seed, whose checkpoints are written to another folder or the same."""
        ocp = self._orbax
        if path.exists() and not path.is_dir():
            raise StorageError(
                f"{path}: is no folder; remove it and run the same command again, which trains from"
                " the beginning"
            )
        # Several processes wait for each other by this name, at every seed on its own.
        together = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix="_".join(path.parts[-3:])
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=NUM_KEPT, cleanup_tmp_directories=True, multiprocessing_options=together
        )
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=together)
        return ocp.CheckpointManager(written, options=options, item_handlers=handler)

    def _slices(self, state: chex.ArrayTree) -> list[dict[str, jax.Array]]:
        """The state of each seed in buffers of its own, safe from the donation of `state`."""

        def take(leaf, index):
            leaf = without_keys(leaf)
            return jnp.copy(leaf[index] if self._batched else leaf)

        names, leaves = _names(state), jax.tree.leaves(state)
        return [
            {name: take(leaf, index) for name, leaf in zip(names, leaves, strict=True)}
            for index in range(len(self._managers))
        ]

    def _steps(self) -> list[int]:
        """Steps that every seed has, the newest one last."""
        steps = [set(manager.all_steps()) for manager in self._managers]
        return sorted(set.intersection(*steps))

    def latest_step(self) -> int:
        """Newest step that every seed has; 0 where there is none."""
        return max(self._steps(), default=0)

    def save(
        self, step: int, state: chex.ArrayTree, sums: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Starts to save; a later round of saves of the same step replaces nothing.

        Args:
          step: updates done.
          state: state of all seeds.
          sums: of the metrics since their last line, by name `(seeds,)` float64.

        Raises:
          StorageError: this save or the last one cannot be written, or a later one is there.
        """
        self.wait()
        for index, (manager, leaves) in enumerate(
            zip(self._managers, self._slice(state), strict=True)
        ):
            leaves |= {_SUM + name: np.array(x[index]) for name, x in (sums or {}).items()}
            leaves[_IDENTITY] = self._identities[index].written(step, leaves)
            with _faults(self._directories[index]):
                if step not in manager.all_steps() and not manager.save(
                    step, args=self._orbax.args.StandardSave(leaves)
                ):
                    raise StorageError(
                        f"{self._directories[index]}: the checkpoint of step {step} is not written,"
                        f" as there is one of step {max(manager.all_steps())}; remove that, and run"
                        " the same command again"
                    )
                if self._copies[index] is not None:
                    manager.wait_until_finished()
                    manager.check_for_errors()
                    self._copies[index].copy()

    def _read(self, index: int, step: int) -> dict[str, np.ndarray]:
        """Everything that a checkpoint of one seed holds, on the host, and no more than that.

        The devices that it was saved from may be others than those that there are now. One without
        an identity, from before there were any, is not compared.

        Raises:
          DamagedError: it cannot be read, or is not what was written.
          StageConflictError: it belongs to something else.
        """
        manager, directory = self._managers[index], self._directories[index]
        try:
            with _silence():
                found = manager.item_metadata(step)
                target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in found.items()}
                stored = manager.restore(step, args=self._orbax.args.StandardRestore(target))
        except Exception as error:
            raise DamagedError(
                f"{directory}/{step}: step {step} cannot be read, {_reason(error, 100)}"
            ) from error
        identity = stored.pop(_IDENTITY, None)
        if identity is not None:
            self._identities[index].check(step, stored, identity, directory)
        return stored

    def restore_newest(
        self, template: chex.ArrayTree
    ) -> tuple[int, chex.ArrayTree | None, dict[str, np.ndarray]]:
        """Reads the newest checkpoint that is intact.

        Damaged ones are moved aside, and those behind it that only some seeds have.

        Returns:
          Its step, and what `restore` gives; 0, None and nothing where there is no checkpoint.

        Raises:
          StorageError: there are checkpoints and none can be gone on from.
          StageConflictError: one belongs to something else.
        """
        faults = {}
        for step in reversed(self._steps()):
            state, sums, fault = None, {}, None
            try:
                state, sums = self.restore(step, template)
            except DamagedError as error:
                fault = error
            # All processes go on from the same step: from one that each of them can read.
            if hosts.any_of_all(fault is not None):
                faults[step] = fault or DamagedError(
                    f"{self._directories[0]}/{step}: another process cannot read it"
                )
                continue
            for error in faults.values():
                logging.warning(
                    "a checkpoint is damaged (%s) and moved to %s; goes on from step %d",
                    *(error, _ASIDE, step),
                )
            self._set_aside_behind(step)
            return step, state, sums
        if faults:
            raise self._none_intact(faults)
        self._set_aside_behind(0)
        return 0, None, {}

    def _none_intact(self, faults: Mapping[int, Exception]) -> StorageError:
        error = next(iter(faults.values()))
        folders = " and ".join(str(path.parent) for path in self._directories)
        return StorageError(
            f"{self._directories[0]}: no checkpoint is intact ({error}); remove {folders} and run"
            " the same command again, which trains from the beginning, or choose another --workdir"
        )

    def _set_aside_behind(self, step: int) -> None:
        """Moves all checkpoints behind a step away, so that later ones can be saved.

        Of several processes the first one moves them; all of them read what is there then.
        """
        later = [[x for x in manager.all_steps() if x > step] for manager in self._managers]
        if not any(later):
            return
        if hosts.is_first():
            for path, copies, steps in zip(self._directories, self._copies, later, strict=True):
                for moved in steps:
                    with _faults(path):
                        self._move(path, copies, moved)
        hosts.wait_for_all(f"{self._directories[0]}: steps behind {step} are moved")
        for path, manager in zip(self._directories, self._managers, strict=True):
            with _faults(path):
                manager.reload()

    def _move(self, path: AnyPath, copies: CheckpointCopies | None, step: int) -> None:
        target = path.parent / _ASIDE
        target.mkdir(exist_ok=True)
        # On a store a folder is there with what is in it.
        number = len(list(target.iterdir())) if target.is_dir() else 0
        name = f"{step}_{number}"
        if copies is None:
            (path / str(step)).rename(target / name)
        else:
            copies.set_aside(step, target / name)

    def restore(
        self, step: int, template: chex.ArrayTree
    ) -> tuple[chex.ArrayTree, dict[str, np.ndarray]]:
        """Reads the state of all seeds back, bit for bit.

        Args:
          step: a step that every seed has.
          template: shapes and dtypes of the state, as `jax.eval_shape` gives them.

        Returns:
          The state, on the host but for keys, and the sums that were saved with it.

        Raises:
          DamagedError: a checkpoint is damaged.
          StorageError: it has another structure.
          StageConflictError: it belongs to something else.
        """
        names, (leaves, structure) = _names(template), jax.tree.flatten(template)
        seeds, stored_sums = [], []
        for index, directory in enumerate(self._directories):
            stored = self._read(index, step)
            for name in names:
                if name not in stored:
                    raise StorageError(f"{directory}/{step}: {name} is missing; {_OTHER_CODE}")
            seeds.append([np.asarray(stored[name]) for name in names])
            stored_sums.append({k: x for k, x in stored.items() if k.startswith(_SUM)})
        restored = []
        for name, leaf, copies in zip(names, leaves, zip(*seeds, strict=True), strict=True):
            array = np.stack(copies) if self._batched else copies[0]
            array = with_keys(array, leaf)
            if array.shape != leaf.shape or array.dtype != leaf.dtype:
                raise StorageError(
                    f"{self._directories[0]}/{step}: {name} is {array.dtype}{list(array.shape)},"
                    f" expected {leaf.dtype}{list(leaf.shape)}; {_OTHER_CODE}"
                )
            restored.append(array)
        sums = {
            name.removeprefix(_SUM): np.stack([found[name] for found in stored_sums])
            for name in stored_sums[0]
        }
        return structure.unflatten(restored), sums

    def wait(self) -> None:
        """Waits for saves under way.

        Raises:
          StorageError: one of them failed.
        """
        for directory, manager in zip(self._directories, self._managers, strict=True):
            with _faults(directory):
                manager.wait_until_finished()
                manager.check_for_errors()

    def close(self) -> None:
        """Waits for saves under way and gives the threads back."""
        for directory, manager in zip(self._directories, self._managers, strict=True):
            with _faults(directory):
                manager.close()
        for copies in filter(None, self._copies):
            copies.close()
