"""The door to OpenCV, which is an extra: without it the sample says what to install."""

from typing import Any

from infraredcity.errors import MissingExtraError

try:
    import cv2 as _cv2
except ImportError as error:
    raise MissingExtraError("opencv-python-headless", extra="extract", needed_for="infraredcity sample") from error

cv2: Any = _cv2
"""OpenCV; untyped on purpose, its stubs know only half of the shapes that its functions take."""
