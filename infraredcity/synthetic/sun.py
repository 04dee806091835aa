"""The position of the sun: the same in every world, behind the camera and to its left."""

import math

_LEFT, _UP, _BEHIND = 0.52, 0.72, 0.46
_LENGTH = math.sqrt(_LEFT**2 + _UP**2 + _BEHIND**2)

SUN = (-_LEFT / _LENGTH, _UP / _LENGTH, -_BEHIND / _LENGTH)
"""Direction from the ground to the sun, of length 1."""

SHADOW_SLOPE = (_LEFT / _UP, _BEHIND / _UP)
"""Length of an object's shadow in x and z, per metre of its height."""
