"""The BentoML service."""

from typing import Final

VERSION: Final = "0.1.0"
"""Version of the project; a bento has no package metadata to read it from."""
