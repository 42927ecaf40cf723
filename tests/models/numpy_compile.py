"""CompILE for one trajectory at a time, step by step in NumPy."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def rms_norm(p, x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * p["scale"]


def block_diagonal(p, x):
    parts = np.split(x, len(p["kernel"]), axis=-1)
    return np.concatenate([x @ k for x, k in zip(parts, p["kernel"], strict=True)]) + p["bias"]


def hawk_block(p, x, left):
    """`(T, n)` of one trajectory; `left (T,)` multiplies what is remembered of each step."""
    state, entered, out = np.zeros(x.shape[1]), [], []
    for x_t, keep in zip(x, left, strict=True):
        normed = rms_norm(p["temporal_norm"], x_t)
        entered.append(keep * dense(p["recurrence_input"], normed))
        taps = entered[::-1][:4]
        kernel = p["convolution"]["kernel"][::-1]
        value = p["convolution"]["bias"] + sum(
            k * tap for k, tap in zip(kernel, taps, strict=False)
        )
        gates = p["recurrence"]
        decay = np.exp(
            -8
            * np.log1p(np.exp(gates["decay"]))
            * sigmoid(block_diagonal(gates["recurrence_gate"], value))
        )
        entering = np.sqrt(1 - decay**2) * sigmoid(block_diagonal(gates["input_gate"], value))
        state = keep * (decay * state + entering * value)
        y = x_t + dense(p["temporal_output"], gelu(dense(p["gate_input"], normed)) * state)
        hidden = np.maximum(dense(p["mlp"]["hidden"], rms_norm(p["mlp_norm"], y)), 0)
        out.append(y + dense(p["mlp"]["output"], hidden))
    return np.array(out)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def segments(p, observation, config, boundary_noise, code_noise):
    """Segments of one trajectory.

    Args:
      p: parameters of the module.
      observation: `(T, d)`.
      config: of the module.
      boundary_noise: `(M, T)` Gumbel noise; None for the most probable boundaries.
      code_noise: `(M, n_z)`.

    Returns:
      A list of dictionaries: `boundary (T,)`, `log_prob (T,)`, `weight (T,)`, `left (T,)`, `code`,
      `mean` and `log_std`.
    """
    length, found = len(observation), []
    left = np.ones(length)
    for i in range(config.num_segments):
        x = dense(p["embedding"], observation)
        for name in sorted(name for name in p if name.startswith("block_")):
            x = hawk_block(p[name], x, left)
        encoding = rms_norm(p["encoding_norm"], x) * left[:, None]
        hidden = np.maximum(dense(p["boundary_hidden"], encoding), 0)
        logits = (hidden @ p["boundary_output"]["kernel"])[:, 0]
        boundary, log_prob = np.zeros(length), np.zeros(length)
        if length > 1 and i + 1 < config.num_segments:
            log_prob[1:] = np.log(softmax(logits[1:]))
            if boundary_noise is None:
                boundary[1 + np.argmax(logits[1:])] = 1
            else:
                noisy = (logits + boundary_noise[i]) / config.temperature
                boundary[1:] = softmax(noisy[1:])
        read = (1 - boundary.sum()) * encoding[-1]
        for t in range(1, length):
            read = read + boundary[t] * encoding[t - 1]
        mean, log_std = np.split(
            dense(p["code_output"], np.maximum(dense(p["code_hidden"], read), 0)), 2
        )
        log_std = np.clip(log_std + config.initial_log_std, config.min_log_std, config.max_log_std)
        not_yet_ended = np.array([1 - boundary[: t + 1].sum() for t in range(length)])
        found.append(
            {
                "boundary": boundary,
                "log_prob": log_prob,
                "left": left,
                "weight": left * not_yet_ended,
                "code": mean + np.exp(log_std) * code_noise[i],
                "mean": mean,
                "log_std": log_std,
            }
        )
        left = left * (1 - not_yet_ended)
    return found
