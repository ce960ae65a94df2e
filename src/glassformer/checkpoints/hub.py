"""Where the files of a checkpoint come from: a folder, a model inside this package, or the Hugging Face hub.

Everything that reads a checkpoint asks a `Repository` for its files by name. Only a name that is neither a folder nor a
bundled model reaches the hub, and only then is `huggingface_hub` imported: a local folder never opens a socket.
"""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from glassformer.errors import BrokenFileError, MissingFileError

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
NAMESPACE = "glassformer/"
JSON_LIMIT = 128 * 2**20  # bytes; the largest tokenizer.json in use are around 40 MB


@dataclass(frozen=True)
class Repository:
    """The files of one checkpoint, found by name.

    Within one `Repository` every file comes from one commit of the hub, that of the first file, even if the repository
    is updated meanwhile.

    Args:
        name: A folder, a bundled model such as `"glassformer/tiny-bert"`, or a repository of the hub.
        revision: Branch, tag or commit on the hub; `None` is its main branch.
        token: The hub's access token, `True` for the one stored on this machine, `False` for none.
        cache_dir: Where downloads are kept; `None` is the hub library's own place (`HF_HOME`, `HF_HUB_CACHE`).
        local_files_only: Take files from the cache alone.
        force_download: Download again what is in the cache.
        subfolder: The folder inside the repository that holds the files.

    Raises:
        BrokenFileError: `subfolder` leads out of the repository.

    Example:
        >>> Repository("glassformer/tiny-bert").require("config.json", "the configuration").name
        'config.json'
    """

    name: str | os.PathLike[str]
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""
    _session: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.subfolder:
            _check_inside(self.subfolder)

    @classmethod
    def take(cls, name: str | os.PathLike[str], kwargs: dict[str, Any]) -> Repository:
        """The repository that a `from_pretrained` call names; its keywords are removed from `kwargs`."""
        for ignored in ("proxies", "resume_download"):
            if kwargs.pop(ignored, None) is not None:
                advice = "set HTTPS_PROXY instead" if ignored == "proxies" else "leave it out"
                warnings.warn(f"`{ignored}` has no effect in this version of the hub: {advice}.", stacklevel=3)
        return cls(
            name,
            revision=kwargs.pop("revision", None),
            token=kwargs.pop("token", None),
            cache_dir=kwargs.pop("cache_dir", None),
            local_files_only=bool(kwargs.pop("local_files_only", False)),
            force_download=bool(kwargs.pop("force_download", False)),
            subfolder=kwargs.pop("subfolder", None) or "",
        )

    @cached_property
    def folder(self) -> Path | None:
        """The folder that holds the files, `subfolder` included; `None` for a repository of the hub."""
        root = self._root
        return root / self.subfolder if root is not None else None

    @property
    def is_local(self) -> bool:
        """Whether the files are in a folder or in this package, so that no socket is ever opened."""
        return self._root is not None

    def find(self, filename: str) -> Path | None:
        """The path of a file, downloaded if need be, or `None` if the repository (offline: the cache) lacks it.

        Raises:
            MissingFileError: There is no such folder, repository or revision, or it may not be read.
            BrokenFileError: `filename`, or the link that it is, leads out of the folder.
        """
        found = self._locate(filename)
        return found if isinstance(found, Path) else None

    def require(self, filename: str, purpose: str) -> Path:
        """Like `find`, for a file that a call cannot do without.

        Args:
            filename: The file's name.
            purpose: What it is needed for, as a noun: "the configuration".

        Raises:
            MissingFileError: The file is not there; the message says what is.
            BrokenFileError: As in `find`.
        """
        found = self._locate(filename)
        if isinstance(found, Path):
            return found
        raise MissingFileError(f"{filename} (for {purpose}) {found}")

    def list(self) -> list[str] | None:
        """The names of the files in a local folder, sorted; `None` on the hub, which would have to be asked."""
        if self.folder is None:
            return None
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_file()) if self.folder.is_dir() else []

    @cached_property
    def _root(self) -> Path | None:
        name = os.fspath(self.name)
        if os.path.isdir(name):
            return Path(name)
        if name.startswith(NAMESPACE) and name.removeprefix(NAMESPACE) in _bundled_names():
            return BUNDLED / name.removeprefix(NAMESPACE)
        return None

    def _locate(self, filename: str) -> Path | str:
        """The path of a file, or the end of a sentence that says why it is absent."""
        _check_inside(filename)
        if self._root is None:
            return self._locate_on_hub(f"{self.subfolder}/{filename}" if self.subfolder else filename)
        path = self._root / self.subfolder / filename
        if path.is_file():
            _check_link(path, self._root)
            return path
        return f"is not in {path.parent}, {_contents(path.parent)}"

    def _locate_on_hub(self, filename: str) -> Path | str:
        name, revision = os.fspath(self.name), self.revision or "main"
        if os.path.isfile(name):
            raise MissingFileError(f"{name} is a file: pass the folder it is in, {os.path.dirname(name) or '.'!r}.")

        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
        from huggingface_hub import errors as hub

        here = f"{name} (revision {revision})" if self.revision else name
        cache = os.path.expanduser(self.cache_dir or constants.HF_HUB_CACHE)
        commit = self._session.get("commit") or (revision if re.fullmatch("[0-9a-f]{40}", revision) else None)
        local_only = self.local_files_only or self._session.get("unreachable", False)
        absent = f"is not in {here} on {constants.ENDPOINT}: choose a repository or revision that has it."
        try:
            if commit and not self.force_download:
                # A commit never changes: what the cache knows of it, absence included, needs no question to the hub.
                known = try_to_load_from_cache(name, filename, cache_dir=cache, revision=commit)
                if known is not None:
                    return Path(known) if isinstance(known, str) else absent
            path = hf_hub_download(
                name,
                filename,
                revision=commit or revision,
                token=self.token,
                cache_dir=cache,
                local_files_only=local_only,
                force_download=self.force_download,
                library_name="glassformer",
            )
        except hub.HFValidationError:
            raise MissingFileError(
                f"{name!r} is neither a folder that exists nor the name of a repository ('name' or 'owner/name'): "
                "pass the path of a folder that save_pretrained wrote, or a repository's name."
            ) from None
        except hub.GatedRepoError as error:
            raise MissingFileError(
                f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then log in with `hf auth login` "
                "or pass token=... of an account that has access."
            ) from error
        except hub.RepositoryNotFoundError as error:
            raise MissingFileError(
                f"{name!r} is neither a folder here nor a repository on {constants.ENDPOINT} that can be seen with "
                f"{_token_words(self.token)}: check the name, or pass token=... if it is private.{_bundled_hint(name)}"
            ) from error
        except hub.RevisionNotFoundError as error:
            raise MissingFileError(
                f"{name} has no revision {revision!r}: pass revision= with a branch, tag or full commit id that is "
                f"listed at {constants.ENDPOINT}/{name}."
            ) from error
        except hub.LocalEntryNotFoundError:
            self._session["unreachable"] = True  # asking again for every optional file would wait each time
            if self.local_files_only or constants.HF_HUB_OFFLINE:
                why = "downloads are off (local_files_only or HF_HUB_OFFLINE)"
            else:
                why = f"{constants.ENDPOINT} could not be reached"
            return (
                f"of {here} was not in the cache at {cache}, and {why}: run this once with network, or pass a local "
                f"folder.{_bundled_hint(name)}"
            )
        except hub.EntryNotFoundError:
            return absent
        except Exception as error:
            # The network broke while downloading: an earlier copy serves as well, unless a fresh one was demanded.
            known = try_to_load_from_cache(name, filename, cache_dir=cache, revision=commit or revision)
            if isinstance(known, str) and not self.force_download:
                return Path(known)
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise MissingFileError(f"The cache at {cache} cannot be written ({error}): pass cache_dir=.") from error
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MissingFileError(
                f"{filename} could not be downloaded from {name} on {constants.ENDPOINT} ({reason}): try again, or "
                "pass a local folder."
            ) from error
        snapshot = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", path)
        if snapshot:
            self._session["commit"] = snapshot[1]
        return Path(path)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        MissingFileError: The file cannot be read.
        BrokenFileError: It is larger than 128 MiB, is not JSON in UTF-8, or holds something else than an object.

    Example:
        >>> read_json("config.json")["model_type"]
        'bert'
    """
    try:
        size = os.path.getsize(path)
        if size > JSON_LIMIT:
            raise BrokenFileError(f"{path} has {size} bytes, more than the {JSON_LIMIT} allowed: is it JSON at all?")
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except BrokenFileError:
        raise
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror}): check path and permissions.") from error
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(f"{path} is not valid JSON ({error}): fetch or write it again.") from error
    if not isinstance(content, dict):
        raise BrokenFileError(f"{path} holds a {type(content).__name__}, not an object: fetch or write it again.")
    return content


def _check_inside(name: str) -> None:
    """Refuse a file name that leads out of its folder, by the rules of either kind of system."""
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or ".." in parts or PurePosixPath(name).anchor or PureWindowsPath(name).anchor:
        raise BrokenFileError(f"{name!r} is not the name of a file inside the checkpoint: it may not lead out of it.")


def _check_link(path: Path, root: Path) -> None:
    """Refuse a link that leaves `root`; a snapshot in the hub's cache is made of links into the cache's blobs."""
    real, root = path.resolve(), root.resolve()
    allowed = [root]
    for parent in root.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            allowed += [parent.parent / "blobs", parent.parent.parent / "blobs"]
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise BrokenFileError(f"{path} is a link out of its folder, to {real}: put the file itself there.")


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "which is no folder: check subfolder=."
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if not names:
        return "which is empty: pass the folder that holds the checkpoint."
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"which holds {', '.join(names[:12])}{more}: pass the folder that has it."


def _bundled_names() -> list[str]:
    return sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir()) if BUNDLED.is_dir() else []


def _bundled_hint(name: str) -> str:
    names = [NAMESPACE + bundled for bundled in _bundled_names()]
    return f" (In this package are {', '.join(names)}.)" if name.startswith(NAMESPACE) and names else ""


def _token_words(token: str | bool | None) -> str:
    return "the token given" if isinstance(token, str) else "no token" if token is False else "the token stored, if any"
