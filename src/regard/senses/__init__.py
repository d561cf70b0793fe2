"""Bricks of what sees and hears: front-ends for images, video and sound, and heads for boxes, maps and pairs.

They stand on `regard.nn` as models do, and name no family either; letters in shapes are those of `regard.nn`.
"""

from regard.senses import audio, pyramid, vision  # noqa: F401  registers the builders
