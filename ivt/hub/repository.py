"""Folders -> repositories of the Hub; what pushing a corpus and publishing a model have in common."""

from pathlib import Path

from huggingface_hub import HfApi, metadata_load
from huggingface_hub.errors import HTTPError


def check_name(repo_id: str) -> None:
    """Raise ValueError if a name on the Hub is not of the form ORG/NAME."""
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"{repo_id!r} is no name on the Hub, expected ORG/NAME")


def upload_repository(
    folder: Path,
    repo_id: str,
    repo_type: str,
    message: str,
    *,
    private: bool = False,
    tag: str | None = None,
) -> str:
    """Make a repository hold the files of a folder and no others, in one commit, or in several if they are hundreds.

    Args:
        folder: what to upload; a Space's README.md names its `sdk`.
        repo_id: ORG/NAME; the repository is created if it is missing.
        repo_type: "model", "dataset" or "space".
        message: of the commit.
        private: nobody else may see it.
        tag: name of this version.

    Returns:
        The address of the repository.

    Raises:
        ValueError: before anything is uploaded, if the tag exists already, or if the repository is public although
            `private` is asked for.
        OSError: if the Hub cannot be reached or refuses.
    """
    api = HfApi()
    sdk = (metadata_load(folder / "README.md") or {}).get("sdk") if repo_type == "space" else None
    try:
        url = api.create_repo(repo_id, repo_type=repo_type, private=private or None, space_sdk=sdk, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(f"{repo_id} exists and is public; make it private in its settings, or drop --private")
        if tag in {reference.name for reference in api.list_repo_refs(repo_id, repo_type=repo_type).tags}:
            raise ValueError(f"{repo_id} has a version {tag} already; give this one another name with --tag")
        commit = api.upload_folder(
            repo_id=repo_id, repo_type=repo_type, folder_path=folder, commit_message=message, delete_patterns="*"
        )
        if tag:
            api.create_tag(repo_id, repo_type=repo_type, tag=tag, revision=commit.oid)
    except (HTTPError, RuntimeError) as error:  # no connection at all, which is no OSError; an upload that broke off
        raise OSError(f"the Hub, {api.endpoint}, cannot be reached or refuses: {error}") from error
    return str(url)
