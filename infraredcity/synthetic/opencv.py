"""Import OpenCV, which is an extra; without it the error says what to install."""

from typing import Any

from infraredcity.errors import MissingExtraError

try:
    import cv2 as _cv2
except ImportError as error:
    raise MissingExtraError("opencv-python-headless", extra="extract", needed_for="infraredcity sample") from error

cv2: Any = _cv2
"""OpenCV; untyped on purpose, since its stubs lack half of the shapes that its functions accept."""
