"""Uploading an export to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

from spatial_ssrl.core.errors import ConfigError


def check_can_push(repository: str) -> None:
    """Find out whether an upload can work, before there is anything to upload.

    Args:
        repository: Hub id, such as "me/my-model".

    Raises:
        ConfigError: If the name is not one, there is no token or no connection, or the hub does
            not accept the token.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"push: {_first_line(error)}") from error
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("push: HF_HUB_OFFLINE is set; unset it, or leave push out.")
    if get_token() is None:
        raise ConfigError(
            "push: there is no token; log in with `hf auth login`, set HF_TOKEN, or leave push out."
        )
    try:
        HfApi().whoami()
    except Exception as error:  # The hub client's errors have no common base of their own.
        raise ConfigError(
            f"push: {constants.ENDPOINT} cannot be used ({type(error).__name__}: "
            f"{_first_line(error)}); check the connection and the token, or leave push out."
        ) from error


def push(folder: Path, repository: str) -> str:
    """Upload a folder, to a private repository if it has to be made.

    Returns:
        Address of the upload.

    Raises:
        ConfigError: If the hub refuses; the folder stays where it is.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export of spatial-ssrl"
        )
    except Exception as error:  # As above.
        raise ConfigError(
            f"push: the upload to {repository!r} failed ({type(error).__name__}: "
            f"{_first_line(error)}); the export is whole in {str(folder)!r}, and "
            f"`hf upload {repository} {folder}` sends it again."
        ) from error
    return str(commit.commit_url)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
