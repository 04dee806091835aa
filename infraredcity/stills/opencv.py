"""Load OpenCV only when it is used; reading and loading jpgs works without it."""

from typing import Any

from infraredcity.errors import MissingExtraError


def load_cv2(needed_for: str) -> Any:
    """Import OpenCV.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("OpenCV", extra="extract", needed_for=needed_for) from error
    return cv2


def use_one_thread() -> None:
    """Keep OpenCV from starting its own threads, in a process that already has one per core."""
    load_cv2("extraction").setNumThreads(1)
