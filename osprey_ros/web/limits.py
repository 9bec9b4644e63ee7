"""Bounds of what the web page accepts, keeps and computes. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    Attributes:
        upload_bytes: Largest image file.
        request_bytes: Largest JSON text of a request.
        pixels: Most pixels of an image. The header of a file is checked before anything is decoded.
        images: Most images that are kept; the one that was used least recently is dropped first.
        image_bytes: Most bytes of the pixels of all images that are kept; the latest one is always kept.
        regions: Most regions of an image.
        answers: Most answers to questions that are kept for an image; the oldest is dropped first.
        name_length: Characters of an image's name; longer names are cut.
        question_length: Most characters of a question.
        waiting: Most calls that wait for the engines or run; most images that are decoded or encoded, and that arrive.
        seconds: Longest time of a call from its arrival to its answer.
        upload_seconds: Longest time in which the body of a request must arrive.
    """

    upload_bytes: int = 20 << 20
    request_bytes: int = 64 << 10
    pixels: int = 25_000_000
    images: int = 16
    image_bytes: int = 512 << 20
    regions: int = 256
    answers: int = 64
    name_length: int = 100
    question_length: int = 500
    waiting: int = 8
    seconds: float = 120.0
    upload_seconds: float = 60.0
