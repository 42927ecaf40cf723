"""Attention of one packed row, inside of a TPU kernel; see `internal_rl.models.tpu_block`.

Heads stand side by side in queries, keys and values, and are read 128 numbers at a time: a mask
picks a head out of these, which costs nothing, as the matrix unit is 128 wide anyway.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from internal_rl.backend import LANES

MASKED = -1e9


def dot(left, right, left_axis, right_axis):
    """Product over one axis of each, summed in float32."""
    axes = (((left_axis,), (right_axis,)), ((), ()))
    # Those of bfloat16 numbers are the same in any precision, and kernels have no other.
    precision = jax.lax.Precision.DEFAULT if left.dtype == jnp.bfloat16 else None
    return jax.lax.dot_general(left, right, axes, precision, jnp.float32)


def _weights_of(query, key, bias, visible):
    """Exponentials of the scores `(Q, K)` and their inverse sums `(Q, 1)`, float32."""
    scores = jnp.where(visible, dot(query, key, 1, 1) + bias, MASKED)
    weight = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return weight, 1.0 / jnp.sum(weight, axis=1, keepdims=True)


def _blocks(length: int):
    """Blocks of queries, and the keys up to the last of them: nothing behind is computed."""
    for start in range(0, length, LANES):
        yield slice(start, start + LANES), slice(0, start + LANES)


def _visible(segment_ref, queries: slice, keys: slice):
    """`(Q, K)` bool: the key lies in the query's segment and not behind it."""
    of_queries = jnp.broadcast_to(segment_ref[0, :1, queries], (LANES, LANES)).T
    together = jnp.tile(of_queries, (1, keys.stop // LANES)) == segment_ref[0, :1, keys]
    query = jax.lax.broadcasted_iota(jnp.int32, together.shape, 0) + queries.start
    key = jax.lax.broadcasted_iota(jnp.int32, together.shape, 1)
    return together & (key <= query)


def _groups(num_heads: int, head_size: int):
    """Groups of 128 lanes with their heads, each as its number and a mask `(1, 128)`."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    per_group = LANES // head_size
    for group in range(num_heads // per_group):
        heads = []
        for place in range(per_group):
            first = place * head_size
            own = (lane >= first) & (lane < first + head_size)
            heads.append((group * per_group + place, own))
        yield group, heads


def _lanes(part: int, group: int, size: int) -> slice:
    """Place of a group of heads among queries (part 0), keys (1) and values (2)."""
    first = part * size + group * LANES
    return slice(first, first + LANES)


class AttentionRow(NamedTuple):
    """What attention of a row reads: segments, bias and the projections `(S, 3 H dh)`.

    The bias is that of `tpu_bias.bias_of_pairs`.
    """

    segment: jax.Array
    bias: jax.Array
    qkv: jax.Array
    head_size: int

    @property
    def size(self) -> int:
        """`H dh`."""
        return self.qkv.shape[1] // 3

    def to(self, x):
        return x.astype(self.qkv.dtype)

    def groups(self):
        return _groups(self.bias.shape[0], self.head_size)

    def visible(self, queries, keys):
        return _visible(self.segment, queries, keys)

    def bias_of(self, head, keys):
        """Bias of the block of queries that ends with these keys."""
        return self.bias[head, :, self.bias_place(keys)]

    def bias_place(self, keys: slice) -> slice:
        """Keys as the last queries see them: what is as far from these as `keys` from theirs."""
        length = self.qkv.shape[0]
        return slice(length - keys.stop, length)

    def part(self, part: int, place: slice, group: int):
        return self.qkv[place, _lanes(part, group, self.size)]


def attend(row: AttentionRow):
    """`(S, H dh)`, of the type of the projections."""
    to = row.to
    rows = []
    for queries, keys in _blocks(row.qkv.shape[0]):
        visible = row.visible(queries, keys)
        attended = []
        for group, heads in row.groups():
            query = row.part(0, queries, group) * row.head_size**-0.5
            key, value = (row.part(part, keys, group) for part in (1, 2))
            read = jnp.zeros(query.shape, jnp.float32)
            for head, own in heads:
                chosen = to(jnp.where(own, query, 0))
                weight, inverse = _weights_of(chosen, key, row.bias_of(head, keys), visible)
                read += jnp.where(own, dot(to(weight), value, 1, 0) * inverse, 0.0)
            attended.append(to(read))
        rows.append(jnp.concatenate(attended, axis=1))
    return jnp.concatenate(rows, axis=0)


def attend_backward(row: AttentionRow, out_bar, bias_bar_ref):
    """Gradient of the projections, `(S, 3 H dh)`, of their type; that of the bias is added up."""
    to = row.to
    blocks = list(_blocks(row.qkv.shape[0]))
    parts = [[], [], []]
    for group, heads in row.groups():
        # Sums over the blocks of queries, by block of keys.
        query_bars, key_bars, value_bars = [], [0.0] * len(blocks), [0.0] * len(blocks)
        for queries, keys in blocks:
            visible = row.visible(queries, keys)
            query = row.part(0, queries, group) * row.head_size**-0.5
            key, value = (row.part(part, keys, group) for part in (1, 2))
            query_bar = jnp.zeros(query.shape, jnp.float32)
            for head, own in heads:
                chosen = to(jnp.where(own, query, 0))
                wanted = jnp.where(own, out_bar[queries, _lanes(0, group, row.size)], 0.0)
                weight, inverse = _weights_of(chosen, key, row.bias_of(head, keys), visible)
                weight_bar = dot(to(wanted), value, 1, 1)
                mean = jnp.sum(weight * weight_bar, axis=1, keepdims=True) * inverse
                scores_bar = weight * ((weight_bar - mean) * inverse)
                if bias_bar_ref is not None:
                    bias_bar_ref[head, :, row.bias_place(keys)] += scores_bar
                scores_bar = to(scores_bar)
                query_bar += jnp.where(own, dot(scores_bar, key, 1, 0), 0.0)
                from_keys = dot(scores_bar, chosen, 0, 0)
                from_values = dot(to(weight), to(wanted * inverse), 0, 0)
                for number in range(keys.stop // LANES):
                    block = slice(number * LANES, (number + 1) * LANES)
                    key_bars[number] += from_keys[block]
                    value_bars[number] += from_values[block]
            query_bars.append(query_bar * row.head_size**-0.5)
        for part, bars in zip(parts, (query_bars, key_bars, value_bars), strict=True):
            part.append(jnp.concatenate([to(bar) for bar in bars], axis=0))
    return jnp.concatenate([bar for part in parts for bar in part], axis=1)
