"""OpenCV, loaded when it is used: reading and the loader of jpgs do without it."""

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
    """Keep OpenCV from starting threads of its own, in a process that has as many as there are cores."""
    load_cv2("extraction").setNumThreads(1)
