"""Publish a checkpoint on the Hugging Face Hub.

    python -m deepfake_detector.hub push FOLDER USER/NAME [--private]

The token comes from HF_TOKEN or from `hf auth login`, and is shown nowhere.
"""

import argparse
import json
import sys
from pathlib import Path

import httpx2
import yaml
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from .card import published, with_results
from .model import CONFIG_FILE, WEIGHTS_FILE, CheckpointError, SpoofClassifier

# What the page loads, the card, and what the card shows; nothing else of the folder leaves this machine.
FILES = (CONFIG_FILE, WEIGHTS_FILE, "README.md", "metrics.json")
FIGURE = "figure.png"  # goes along if there is one
EXIT_OK, EXIT_FAILED = 0, 2


class HubError(ValueError):
    """A checkpoint that could not be published; the message is one sentence written for the user."""


def push(folder: str | Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Publish a checkpoint folder as the Hub model `repo_id` in one commit; returns its address.

    Makes the model if there is none and deletes nothing, so that a failed push can be repeated. `private` makes a private
    one, and refuses one that is public already. Raises HubError, or CheckpointError if the folder is not a checkpoint
    that loads.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    token = checked_token(token)
    _check_folder(folder)
    SpoofClassifier.load(folder)
    names = [*FILES, FIGURE] if (folder / FIGURE).is_file() else FILES
    operations = [CommitOperationAdd(name, _content(folder, name, repo_id)) for name in names]
    api = HfApi(token=token)
    # No message of the Hub is passed on: one may quote the header that carries the token.
    try:
        address = api.create_repo(repo_id, private=private or None, exist_ok=True)
        would_be_public = private and not api.model_info(repo_id).private
        if not would_be_public:
            api.create_commit(repo_id, operations, commit_message="Push a checkpoint")
    except HfHubHTTPError as error:
        raise HubError(_refusal(error.response.status_code, repo_id)) from None
    except (OSError, httpx2.HTTPError):
        raise HubError("The Hub cannot be reached; go online and push again.") from None
    except ValueError:  # what the Hub's check of the front matter says
        raise HubError(f"The Hub did not accept the front matter of {folder / 'README.md'}, or its answer was damaged.") from None  # fmt: skip
    except RuntimeError:  # what the library makes of every fault while it uploads a large file
        raise HubError(f"The upload to {repo_id} broke off; push again.") from None
    if would_be_public:
        raise HubError(f"{repo_id} is public already; choose another name, or make it private on the Hub first.")
    return str(address)


def check_repo_id(repo_id: str) -> None:
    """Raises HubError unless the name has the form user/name with the Hub's letters."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        well_formed = False
    else:
        well_formed = repo_id.count("/") == 1
    if not well_formed:
        raise HubError(
            f"{repo_id!r} is no name of a Hub model; it has the form user/name, of letters, digits, - _ and ."
        )


def checked_token(token: str | None = None) -> str:
    """The given token or this machine's; raises HubError if there is none or it cannot be one."""
    token = token or get_token()
    if not token:
        raise HubError("There is no token for the Hub; set HF_TOKEN, or log in with: hf auth login")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise HubError("The token for the Hub has a character that no token has; copy it again from your settings.")
    return token


def _check_folder(folder: Path) -> None:
    try:
        if not folder.is_dir():
            raise HubError(f"There is no folder {folder}.")
        missing = [name for name in FILES if not (folder / name).is_file()]
    except OSError:
        raise HubError(f"The folder {folder} may not be read.") from None
    if missing:
        raise HubError(f"{folder} lacks {' and '.join(missing)}; push the folder `best` of a finished run.")


def _content(folder: Path, name: str, repo_id: str) -> Path | bytes:
    """A file to upload; the card gets the figures of metrics.json into its front matter, and what it is called there."""
    if name != "README.md":
        return folder / name
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return published(with_results((folder / name).read_text(encoding="utf-8"), figures), repo_id).encode()
    except (ValueError, AttributeError, TypeError, yaml.YAMLError):
        raise HubError(f"README.md or metrics.json in {folder} is damaged.") from None
    except OSError:
        raise HubError(f"The files of {folder} may not be read.") from None


def _refusal(status: int, repo_id: str) -> str:
    if status in (401, 403):
        return f"The Hub refused the token for {repo_id}; it needs a valid one that may write there."
    if status == 404:
        return f"The Hub does not know {repo_id}, or the token may not see it."
    return f"The Hub answered with an error (HTTP {status}); push again later."


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 if the checkpoint could not be published."""
    parser = argparse.ArgumentParser(
        "deepfake_detector.hub", description="Publish a checkpoint on the Hugging Face Hub."
    )
    push_parser = parser.add_subparsers(required=True, metavar="push").add_parser("push", help="upload a checkpoint")
    push_parser.add_argument("folder", type=Path, help="checkpoint folder, e.g. runs/mine/best")
    push_parser.add_argument("repo_id", metavar="USER/NAME")
    push_parser.add_argument("--private", action="store_true", help="make a model that only you see")
    args = parser.parse_args(arguments)
    try:
        print(push(args.folder, args.repo_id, args.private))
    except (HubError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
