"""A finished run's model to the Hub: what may go there, the card, the upload, and the check of what arrived.

Nothing is sent before all of it has been looked at: only files that stock tools load as data, all tensors
checked, a card with the numbers and the recipe, and a licence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, RepoFile, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from niwaki.errors import HubError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.pipelines.product import product_folder, source_folder
from niwaki.reporting.card import card_licence, write_card

_PUBLISHED = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md", ".svg", ".png")
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
_LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_BYTES_AT_ONCE = 2**22
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Publication:
    """What would be sent: `files` maps a name to its size in bytes, `licence` is the card's."""

    repository: str
    folder: Path
    files: dict[str, int]
    licence: str
    is_private: bool

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(self.files.values())


def prepare(run: Path, repository: str, *, licence: str | None, is_private: bool) -> Publication:
    """Look at everything that would be sent, and write the card. The network is not touched.

    Raises:
        RunError: `run` is no finished run of one model.
        HubError: a name that the Hub does not take, a file that must not be published, or no licence.
        CheckpointError: damaged weights.
    """
    _check_name(repository)
    folder = product_folder(run)
    source = source_folder(run)
    carried = None if source is None else card_licence(source).get("license")
    if licence is not None and not _LICENCE_NAME.fullmatch(licence):
        raise HubError(
            f"--license {licence!r} is no licence identifier.", "Give one of the Hub's, such as apache-2.0."
        )
    if carried is None and licence is None:
        raise HubError(
            f"{source or run}: no card names a licence that could be carried over.",
            "Find out the terms of the model it was made from, then state a licence with --license.",
        )
    if carried is not None and licence not in (None, carried):
        raise HubError(
            f"--license {licence}: the model was made from one under {carried}, and that is carried over.",
            "Leave --license out.",
        )
    write_card(run, folder, source_dir=source, stated_licence=licence)
    Checkpoint(folder)  # every header and size of its shards
    return Publication(repository, folder, _files(folder), str(carried or licence), is_private)


def push(publication: Publication, *, is_update: bool = False, api: HfApi | None = None) -> str:
    """Send it, look at what arrived, and return the address. The same call goes on after an interruption.

    A repository that holds files already is left alone unless `is_update`; then a commit is added to it.

    Raises:
        HubError: the Hub refuses, cannot be reached, or has something else than was sent.
    """
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is sent.", "Unset it to publish.")
    api = api or HfApi()
    name = publication.repository
    if _ask(name, lambda: api.repo_exists(name)) and not is_update:
        held = [f for f in _ask(name, lambda: api.list_repo_files(name)) if f != ".gitattributes"]
        if held and not set(held) <= set(publication.files):
            raise HubError(
                f"{name} is on the Hub already and holds other files ({', '.join(sorted(held)[:3])}).",
                "Give another name, or --update to add a commit to it.",
            )
        if held and not _same(api, publication, held):
            raise HubError(
                f"{name} is on the Hub already.", "Give another name, or --update to add a commit."
            )
    _ask(name, lambda: api.create_repo(name, private=publication.is_private, exist_ok=True))
    _ask(
        name,
        lambda: api.upload_folder(
            repo_id=name,
            folder_path=publication.folder,
            allow_patterns=list(publication.files),
            commit_message="A model made with niwaki",
        ),
    )
    if not _same(api, publication, list(publication.files)):
        raise HubError(
            f"{name}: what the Hub holds is not what was sent.",
            "Give the same command again with --update; it sends what is missing.",
        )
    return f"{api.endpoint}/{name}"


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise HubError(f"{repository!r}: {error}", "Give user/name.") from None
    if "/" not in repository:
        raise HubError(f"{repository!r} is no name of a repository on the Hub.", "Give user/name.")


def _files(folder: Path) -> dict[str, int]:
    """Every file of the folder with its size; any that is not plain data is refused by name."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise HubError(f"{path} is a link, and what it leads to was not looked at.", "Remove it first.")
        if path.is_dir():
            continue
        if path.suffix not in _PUBLISHED and not path.name.startswith(_LICENCES):
            raise HubError(
                f"{path} is nothing that niwaki wrote, and stock tools may run it.", "Move it away first."
            )
        files[name] = path.stat().st_size
    return files


def _same(api: HfApi, publication: Publication, names: Sequence[str]) -> bool:
    """Whether the Hub's files of these names are, by their hashes, those that lie here."""
    name = publication.repository
    found = _ask(name, lambda: api.get_paths_info(name, list(names)))
    there = {info.path: info for info in found if isinstance(info, RepoFile)}
    return all(each in there and _is_same(publication.folder / each, there[each]) for each in names)


def _is_same(path: Path, there: RepoFile) -> bool:
    if there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == _digest(path, hashlib.sha256())
    return there.blob_id == _digest(path, hashlib.sha1(f"blob {there.size}\0".encode()))


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_BYTES_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()


def _ask(repository: str, call: Callable[[], _Answer]) -> _Answer:
    """The answer of the Hub, or what it says against the request in words."""
    try:
        return call()
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = str(getattr(error, "server_message", None) or error).strip().splitlines()[0]
        remedy = (
            "Log in with `hf auth login`, or set HF_TOKEN to a token that may write there."
            if status in (401, 403, 404)
            else "Try again later; the same command goes on."
        )
        raise HubError(f"{repository}: the Hub refuses ({status}): {said}", remedy) from error
    except (OSError, RuntimeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise HubError(
            f"{repository}: the upload failed: {said}", "Check the network; the same command goes on."
        ) from error
