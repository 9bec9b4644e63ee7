"""From prompts to answers: prompts, the decoder engine with its KV cache, the decode loop, sampling and constraints."""
