"""The metacontroller's encoder and gate for one trajectory at a time, step by step in NumPy."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(w, x):
    return x @ w["kernel"] + w.get("bias", 0.0)


def layer_norm(w, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return centred / deviation * w["scale"] + w["bias"]


def embedding(weights, residual, depth):
    """`(n,)` what gated layers of the sequence embedding make of `(T, n_e)`."""

    def recurrence(w, x):
        states, h = [], 0.0
        for x_t in x:
            log_a = -8 * sigmoid(dense(w["recurrence_gate"], x_t))
            log_a = log_a * np.log1p(np.exp(-w["slowness"]))
            a = np.exp(log_a)
            u = sigmoid(dense(w["input_gate"], x_t)) * dense(w["input"], x_t)
            h = a * h * bool(states) + np.sqrt(1 - a**2 + 1e-6) * u
            states.append(h)
        return np.stack(states)

    x = residual
    for i in range(1, depth + 1):
        forward = recurrence(weights[f"forward_{i}"], x)
        backward = recurrence(weights[f"backward_{i}"], x[::-1])[::-1]
        if i < depth:
            joined = np.concatenate([x, forward, backward], axis=-1)
            mixed = dense(weights[f"mix_{i}"], gelu(joined))
            x = np.concatenate([residual, mixed], axis=-1)
    return dense(weights["summary"], np.concatenate([forward[-1], backward[0]]))


def histories(weights, residual):
    """`(T, n_h)` states of the GRU before every step of `(T, n_e)`."""
    w, found = weights["history_cell"], []
    h = np.zeros(len(w["hn"]["bias"]))
    for x in layer_norm(weights["input_norm"], residual):
        found.append(h)
        reset = sigmoid(dense(w["ir"], x) + dense(w["hr"], h))
        update = sigmoid(dense(w["iz"], x) + dense(w["hz"], h))
        candidate = np.tanh(dense(w["in"], x) + reset * dense(w["hn"], h))
        h = (1 - update) * candidate + update * h
    return np.stack(found)


def posterior(weights, residual, config):
    """Mean and log standard deviation, each `(T, n_z)`, of one embedding per trajectory."""
    normed = layer_norm(weights["input_norm"], residual)
    whole = embedding(weights["summary"], normed, config.embedding_depth)
    read = [normed, histories(weights, residual), np.tile(whole, (len(residual), 1))]
    hidden = gelu(dense(weights["encoder"]["hidden"], np.concatenate(read, axis=-1)))
    mean, log_std = np.split(dense(weights["encoder"]["output"], hidden), 2, axis=-1)
    log_std = log_std + config.initial_log_std
    return mean, np.clip(log_std, config.min_log_std, config.max_log_std)


def gate_logit(weights, residual, history, code):
    """`()` of one step `(n_e,)`, with history and code as they are before it."""
    read = np.concatenate([layer_norm(weights["input_norm"], residual), history])
    hidden = dense(weights["switch_context"], read) + dense(weights["switch_code"], code)
    return dense(weights["switch_output"], gelu(hidden))[0]
