"""Plain generation, one region after another with a KV cache, as in the original demo: the engines' reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from osprey_torch.model import Osprey


@torch.inference_mode()
def generate_region(
    model: Osprey,
    prompt: Sequence[int],
    image_tokens: torch.Tensor,
    mask_token: torch.Tensor,
    position_token: torch.Tensor,
    max_new_tokens: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the greedy answer to one prompt about one region.

    Args:
        prompt: token ids and placeholders (`osprey_ros.decoding.prompt`).
        image_tokens: [T, H]; mask_token, position_token: [H].
        max_new_tokens: the answer is cut there if it has not ended.

    Returns:
        (tokens int32 [n], natural-log probabilities float32 [n]); the end-of-sequence token is included when reached.
    """
    embeds = model.embed_prompt(prompt, image_tokens, mask_token, position_token)[None]
    cache = None
    tokens: list[int] = []
    logprobs: list[float] = []
    for _ in range(max_new_tokens):
        output = model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        scores = torch.log_softmax(model.lm_head(output.last_hidden_state[0, -1]).float(), -1)
        token = int(scores.argmax())
        tokens.append(token)
        logprobs.append(float(scores[token]))
        if token == model.config.eos_id:
            break
        embeds = model.model.embed_tokens.weight[token][None, None]
    return np.asarray(tokens, np.int32), np.asarray(logprobs, np.float32)
