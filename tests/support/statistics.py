"""How far two rows of logits are apart."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def mean_kl(wanted: np.ndarray, found: np.ndarray) -> float:
    """Mean over positions of KL(wanted || found), in nats; both [positions, vocabulary]."""
    p, q = log_softmax(wanted), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
