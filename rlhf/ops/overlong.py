"""Penalty for long completions. Imports nothing, since processes of rewards load it."""


def soft_overlong_penalty(num_tokens: int, *, max_tokens: int, buffer_tokens: int) -> float:
    """Return DAPO's penalty for a long completion (Yu et al. 2025, eq. 13).

    0 up to `max_tokens - buffer_tokens` tokens, then linearly down to -1 at `max_tokens` and beyond. A buffer of 0
    makes it a step.
    """
    excess = num_tokens - (max_tokens - buffer_tokens)
    if excess <= 0:
        return 0.0
    return -1.0 if num_tokens > max_tokens else -excess / buffer_tokens
