"""Finding the files of a checkpoint: folders, bundled models, and a hub that runs on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import FakeHub

from glassformer.checkpoints import hub as hub_module
from glassformer.checkpoints.hub import Repository, read_json
from glassformer.errors import BrokenFileError, MissingFileError

WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "inner" / "config.json").write_text('{"model_type": "gpt2"}')
    return folder


def sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, which has to be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


# Folders and bundled models


def test_local_folder_opens_no_socket(folder: Path, no_network: None) -> None:
    """A folder's files are found, absent ones are None, and no connection is tried, whatever keywords are given."""
    repository = Repository.take(str(folder), {"revision": "v9", "token": "hf_x", "force_download": True})
    assert repository.is_local
    assert repository.find("config.json") == folder / "config.json"
    assert repository.find("absent.json") is None
    assert repository.list() == ["config.json"]
    assert repository.require("config.json", "the configuration") == folder / "config.json"


def test_local_folder_does_not_import_the_hub(folder: Path) -> None:
    """Neither the hub's library nor torch is imported for a folder."""
    program = (
        "import sys; from glassformer.checkpoints.hub import Repository, read_json\n"
        "print(read_json(Repository(sys.argv[1]).require('config.json', 'x')))\n"
        "assert not {'huggingface_hub', 'torch'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert run.stdout == "{'model_type': 'bert'}\n"


def test_subfolder(folder: Path) -> None:
    """`subfolder` is where the files are looked for; None means none."""
    repository = Repository(folder, subfolder="inner")
    assert repository.require("config.json", "x") == folder / "inner" / "config.json"
    assert repository.folder == folder / "inner"
    assert Repository.take(folder, {"subfolder": None}).find("config.json") == folder / "config.json"
    with pytest.raises(MissingFileError, match="is no folder: check subfolder"):
        Repository(folder, subfolder="nowhere").require("config.json", "x")


def test_bundled_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    """A bundled name is found in the package, but a folder of that name comes first."""
    (tmp_path / "wheel" / "tiny-bert").mkdir(parents=True)
    (tmp_path / "wheel" / "tiny-bert" / "config.json").write_text("{}")
    monkeypatch.setattr(hub_module, "BUNDLED", tmp_path / "wheel")
    monkeypatch.chdir(tmp_path)
    repository = Repository("glassformer/tiny-bert")
    assert repository.is_local
    assert repository.require("config.json", "x") == tmp_path / "wheel" / "tiny-bert" / "config.json"
    for name in ("glassformer/tiny", "glassformer/..", "glassformer/", "other/tiny-bert"):
        assert not Repository(name).is_local
    (tmp_path / "glassformer" / "tiny-bert").mkdir(parents=True)
    assert Repository("glassformer/tiny-bert").find("config.json") is None


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "C:x", "\\\\host\\x", "", "a\0b"]
)
def test_no_name_leaves_the_folder(folder: Path, name: str) -> None:
    """Names that would lead out, by the rules of any system, are refused as file and as subfolder."""
    with pytest.raises(BrokenFileError, match="inside the checkpoint"):
        Repository(folder).find(name)
    with pytest.raises(BrokenFileError, match="inside the checkpoint"):
        Repository("acme/tiny").find(name)
    if name:
        with pytest.raises(BrokenFileError, match="inside the checkpoint"):
            Repository(folder, subfolder=name)


def test_links(folder: Path, tmp_path: Path) -> None:
    """A link may lead around inside the folder, and the folder may be a link, but no file may lead out of it."""
    (tmp_path / "secret.json").write_text("{}")
    (folder / "out.json").symlink_to(tmp_path / "secret.json")
    (folder / "in.json").symlink_to("inner/config.json")
    (folder / "dir").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to(folder)
    for name in ("out.json", "dir/secret.json"):
        with pytest.raises(BrokenFileError, match="link out of its folder"):
            Repository(folder).find(name)
    assert Repository(folder).find("in.json") == folder / "in.json"
    assert Repository(tmp_path / "alias").find("config.json") is not None


def test_absent_in_folder_lists_what_is_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as error:
        Repository(folder).require("vocab.txt", "the vocabulary")
    assert "vocab.txt (for the vocabulary) is not in" in sentence(error)
    assert "config.json, inner/" in sentence(error)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="empty"):
        Repository(tmp_path / "empty").require("config.json", "x")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "a b", "x--y", ""])
def test_neither_folder_nor_repository(name: str, no_network: None) -> None:
    """What can be no repository is not looked for on the network."""
    with pytest.raises(MissingFileError, match="neither a folder that exists nor the name of a repository"):
        Repository(name).find("config.json")


def test_a_file_instead_of_a_folder(folder: Path, no_network: None) -> None:
    with pytest.raises(MissingFileError, match="is a file: pass the folder it is in"):
        Repository(folder / "config.json").find("config.json")


def test_take_removes_its_keywords() -> None:
    """Only the keywords of the hub are taken; ones without effect are, with a warning."""
    kwargs = {"revision": "v1", "token": "secret", "num_labels": 3, "cache_dir": "/c", "local_files_only": True}
    repository = Repository.take("acme/tiny", kwargs)
    assert kwargs == {"num_labels": 3}
    assert (repository.revision, repository.cache_dir, repository.local_files_only) == ("v1", "/c", True)
    assert "secret" not in repr(repository)
    with pytest.warns(UserWarning, match="HTTPS_PROXY"):
        Repository.take("acme/tiny", {"proxies": {"https": "x"}})


# JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "holds a list"),
        (b"null", "holds a NoneType"),
    ],
)
def test_broken_json(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(BrokenFileError, match=message):
        read_json(tmp_path / "x.json")


def test_json_size_is_checked_before_reading(tmp_path: Path) -> None:
    """A sparse file of 10 GB is refused at once; a missing one is named."""
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(BrokenFileError, match="10737418240 bytes"):
        read_json(tmp_path / "huge.json")
    with pytest.raises(MissingFileError, match="cannot be read"):
        read_json(tmp_path / "absent.json")


# The hub


def test_download_then_cache(fake_hub: FakeHub) -> None:
    """The first call downloads, a second one takes the same content from the cache."""
    fake_hub.commit("acme/tiny", {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS})
    first = Repository("acme/tiny")
    assert not first.is_local
    assert first.list() is None
    assert read_json(first.require("config.json", "x")) == {"a": 1}
    weights = first.require("model.safetensors", "x")
    assert weights.read_bytes() == WEIGHTS
    assert fake_hub.files_sent() == ["config.json", "model.safetensors"]
    assert Repository("acme/tiny").require("model.safetensors", "x") == weights
    assert fake_hub.files_sent() == ["config.json", "model.safetensors"]
    Repository("acme/tiny", force_download=True).require("config.json", "x")
    assert fake_hub.files_sent()[2:] == ["config.json"]


def test_repository_without_owner_and_subfolder(fake_hub: FakeHub, tmp_path: Path) -> None:
    """Names without owner work, subfolders are part of the path, and `cache_dir` is where files go."""
    fake_hub.commit("gpt9", {"onnx/config.json": b"{}"})
    repository = Repository("gpt9", subfolder="onnx", cache_dir=tmp_path / "mine")
    assert repository.require("config.json", "x").is_relative_to(tmp_path / "mine")


def test_revisions(fake_hub: FakeHub) -> None:
    """Branch, tag and commit each give their own content."""
    old = fake_hub.commit("acme/tiny", {"config.json": b'{"v": 1}'}, tags=["v1"])
    fake_hub.commit("acme/tiny", {"config.json": b'{"v": 2}'})
    fake_hub.commit("acme/tiny", {"config.json": b'{"v": 3}'}, branch="dev")
    for revision, version in ((None, 2), ("main", 2), ("v1", 1), (old, 1), ("dev", 3)):
        assert read_json(Repository("acme/tiny", revision=revision).require("config.json", "x")) == {"v": version}


def test_all_files_from_one_commit(fake_hub: FakeHub) -> None:
    """A repository that is updated between two files still gives both of the first commit; a new one sees the new."""
    fake_hub.commit("acme/tiny", {"config.json": b"1", "vocab.txt": b"1"})
    repository = Repository("acme/tiny")
    repository.require("config.json", "x")
    fake_hub.commit("acme/tiny", {"config.json": b"2", "vocab.txt": b"2"})
    assert repository.require("vocab.txt", "x").read_bytes() == b"1"
    assert Repository("acme/tiny").require("vocab.txt", "x").read_bytes() == b"2"


def test_absent_file_is_remembered(fake_hub: FakeHub) -> None:
    """A file the commit lacks is None, and is not asked for again within the commit."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}"})
    repository = Repository("acme/tiny")
    repository.require("config.json", "x")
    assert repository.find("vocab.txt") is None
    asked = len(fake_hub.requests)
    assert repository.find("vocab.txt") is None
    assert len(fake_hub.requests) == asked
    with pytest.raises(MissingFileError) as error:
        repository.require("vocab.txt", "the vocabulary")
    assert "vocab.txt (for the vocabulary) is not in acme/tiny" in sentence(error)


def test_broken_transfer_is_resumed(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut goes on where it stopped, and the file is whole."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)  # what a cut may lose at most
    fake_hub.commit("acme/tiny", {"model.safetensors": WEIGHTS})
    fake_hub.breaks = [100_000, 200_000]
    assert Repository("acme/tiny").require("model.safetensors", "x").read_bytes() == WEIGHTS
    ranges = [request.range for request in fake_hub.requests if "/storage/" in request.path]
    assert ranges[0] is None
    assert ranges[1:] == ["bytes=100000-", "bytes=300000-"]


def test_half_a_file_is_never_taken_for_whole(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails for good is one sentence and leaves nothing; the next try gets the whole file."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fake_hub.commit("acme/tiny", {"model.safetensors": WEIGHTS})
    fake_hub.breaks = [100_000] + [0] * 6
    with pytest.raises(MissingFileError, match="could not be downloaded") as error:
        Repository("acme/tiny").require("model.safetensors", "x")
    sentence(error)
    with pytest.raises(MissingFileError, match="not in the cache"):
        Repository("acme/tiny", local_files_only=True).require("model.safetensors", "x")
    assert Repository("acme/tiny").require("model.safetensors", "x").read_bytes() == WEIGHTS


def test_missing_repository_revision_and_gate(fake_hub: FakeHub) -> None:
    """Each is one sentence that names the way out, for optional files as well."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}"})
    fake_hub.commit("acme/gated", {"config.json": b"{}"}, token="hf_right", gated=True)
    for name, kwargs, message in (
        ("acme/none", {}, "neither a folder here nor a repository .* or pass token=... if it is private"),
        ("acme/none", {"token": "hf_wrong"}, "seen with the token given"),
        ("acme/tiny", {"revision": "v7"}, "acme/tiny has no revision 'v7'"),
        ("acme/gated", {}, "acme/gated is gated: accept its terms"),
        ("acme/gated", {"token": "hf_wrong"}, "acme/gated is gated"),
    ):
        with pytest.raises(MissingFileError, match=message) as error:
            Repository(name, **kwargs).find("config.json")
        sentence(error)
        assert isinstance(error.value, OSError)
    assert Repository("acme/gated", token="hf_right").find("config.json") is not None


def test_token_goes_only_where_it_belongs(fake_hub: FakeHub) -> None:
    """No token is sent unless given, and none reaches the storage that large files are redirected to."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}"})
    Repository("acme/tiny").find("config.json")
    assert all(request.token is None for request in fake_hub.requests)
    fake_hub.commit("acme/private", {"model.safetensors": WEIGHTS}, token="hf_right")
    assert Repository("acme/private", token="hf_right").require("model.safetensors", "x").read_bytes() == WEIGHTS
    sent = {request.path.split("/")[1]: request.token for request in fake_hub.requests[2:]}
    assert sent == {"acme": "hf_right", "storage": None}


def test_no_network(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub gone, what was downloaded is used without a word, and what was not is one sentence, asked once."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}", "vocab.txt": b"a"})
    Repository("acme/tiny").require("config.json", "x")
    fake_hub.close()
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    repository = Repository("acme/tiny")
    assert repository.require("config.json", "x").read_bytes() == b"{}"
    assert not waits
    assert repository.find("vocab.txt") is None
    waited = len(waits)
    with pytest.raises(MissingFileError) as error:
        repository.require("vocab.txt", "the vocabulary")
    assert len(waits) == waited  # the hub is not tried again for each file
    assert f"{fake_hub.url} could not be reached: run this once with network" in sentence(error)
    assert "hub-cache" in sentence(error)
    with pytest.raises(MissingFileError, match="could not be reached"):
        Repository("acme/other").require("config.json", "x")


def test_local_files_only_opens_no_socket(fake_hub: FakeHub, request: pytest.FixtureRequest) -> None:
    """Cached files are found and others are absent, without a connection."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}"})
    Repository("acme/tiny").require("config.json", "x")
    request.getfixturevalue("no_network")
    repository = Repository("acme/tiny", local_files_only=True)
    assert repository.require("config.json", "x").read_bytes() == b"{}"
    assert repository.find("vocab.txt") is None
    for name in ("acme/tiny", "acme/never-seen"):
        with pytest.raises(MissingFileError, match="local_files_only or HF_HUB_OFFLINE") as error:
            Repository(name, local_files_only=True).require("vocab.txt", "x")
        sentence(error)


def test_snapshot_of_the_cache_is_a_folder_too(fake_hub: FakeHub, request: pytest.FixtureRequest) -> None:
    """The path of a snapshot, whose files are links to the cache's blobs, loads as any local folder."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}"})
    snapshot = Repository("acme/tiny").require("config.json", "x").parent
    request.getfixturevalue("no_network")
    assert Repository(snapshot).require("config.json", "x").read_bytes() == b"{}"


def test_environment(fake_hub: FakeHub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean to the hub's own library."""
    fake_hub.commit("acme/tiny", {"config.json": b"{}"})
    program = (
        "from glassformer.checkpoints.hub import Repository\n"
        "repository = Repository('acme/tiny')\n"
        "print(repository.require('config.json', 'x'), repository.find('vocab.txt'))"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": fake_hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    for offline in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.startswith(str(tmp_path / "home" / "hub" / "models--acme--tiny"))
        assert run.stdout.endswith("config.json None\n")
        assert run.stderr == ""
        asked = len(fake_hub.requests)
    assert asked == len(fake_hub.requests)
    assert all(json.dumps(request.token) == "null" for request in fake_hub.requests)


def test_a_model_from_the_hub(fake_hub: FakeHub, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A model loads by its name, and once more without any network; what its repository lacks is never downloaded."""
    import torch
    import transformers

    from glassformer import AutoModel

    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    peer = transformers.BertModel(config).eval()
    peer.save_pretrained(tmp_path / "peer")
    files = {file.name: file.read_bytes() for file in (tmp_path / "peer").iterdir()}
    fake_hub.commit("acme/tiny", {**files, "README.md": b"not needed"}, tags=["v1"])
    model = AutoModel.from_pretrained("acme/tiny", revision="v1")
    assert sorted(fake_hub.files_sent()) == ["config.json", "model.safetensors"]
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(model(ids).last_hidden_state, peer(ids).last_hidden_state)
    request.getfixturevalue("no_network")
    again = AutoModel.from_pretrained("acme/tiny", revision="v1", local_files_only=True)
    assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)
    with pytest.raises(OSError, match=r"config.json .* was not in the cache"):
        AutoModel.from_pretrained("acme/other", local_files_only=True)
