"""Texts of the published evaluation: the prompt that the model reads, and what is kept of its answer.

Source: the scripts in osprey/eval of CircleRadon/Osprey, commit deb0e57.
"""

from __future__ import annotations

from osprey_ros.decoding.prompt import IMAGE_TEXT, OPENINGS, OSPREY_V1

_STOP = "</s>"


def prompt_text(question: str, opening: str) -> str:
    """Return the text of the whole prompt, with ``<image>`` where the image stands.

    The published code deletes every ``<image>`` of the question, and white space at the end of it. White space at its
    beginning stays where the opening has words.

    Args:
        question: The question.
        opening: A key of `OPENINGS`.
    """
    begin = OPENINGS[opening].removeprefix(IMAGE_TEXT + "\n")
    words = f"{begin}{question}".replace(IMAGE_TEXT, "")
    words = words.rstrip() if begin.strip() else words.strip()
    return f"{OSPREY_V1.system} {OSPREY_V1.user}: {IMAGE_TEXT}\n{words} {OSPREY_V1.assistant}:"


def stripped(answer: str) -> str:
    """Return a decoded answer without outer white space and without one end-of-sequence marker at its end."""
    return answer.strip().removesuffix(_STOP).strip()


def between_colons(text: str) -> str:
    """Return what stands between the first and the second colon; the text itself if it has none."""
    return text.split(":")[1] if ":" in text else text
