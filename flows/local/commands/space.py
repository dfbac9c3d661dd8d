"""The command that makes a Hugging Face Space of the current release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecg_lib.operations.settings import read_settings


def space(
    directory: Annotated[Path, typer.Argument(help="The folder to make; it must be empty.")],
) -> None:
    """Make the folder of a Hugging Face Space (sdk: docker, port 7860) from the current release."""
    from flows.local.space.make_space import make_space

    release = make_space(read_settings(), directory.absolute())
    typer.echo(f"{directory} serves {release.bento_tag} of model {release.model_version}")
    typer.echo(
        "push it to the Space with git lfs, and set its secret SPACE_API_KEY_HASHES to the line "
        "that `ecg api-key` prints"
    )
