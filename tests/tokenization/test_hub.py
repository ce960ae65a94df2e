"""A tokenizer by its name on a hub: downloaded once, from then on without a network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from glassformer.tokenization import AutoTokenizer

PROGRAM = """
import sys
from glassformer.tokenization import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("acme/tiny", revision="v1", local_files_only="offline" in sys.argv)
print(type(tokenizer).__name__, tokenizer("Hello world")["input_ids"], tokenizer.chat_template)
assert "torch" not in sys.modules
"""


def fake_hub():
    path = Path(__file__).parents[1] / "checkpoints" / "fake_hub.py"
    spec = importlib.util.spec_from_file_location("fake_hub_of_checkpoints", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.FakeHub()


def test_a_tokenizer_from_the_hub(folders, tmp_path):
    """Old files and new, with the template beside them; the second load asks for nothing."""
    for name in ("bert", "llama-old"):
        files = {path.name: path.read_bytes() for path in folders[name].iterdir()} | {"chat_template.jinja": b"{{ x }}"}
        local = AutoTokenizer.from_pretrained(folders[name])
        expected = f"{type(local).__name__} {local('Hello world')['input_ids']} {{{{ x }}}}\n"
        with fake_hub() as hub:
            hub.commit("acme/tiny", files, tags=["v1"])
            environment = {
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / name),
                "NO_PROXY": "127.0.0.1",
            }
            environment.pop("HF_HUB_OFFLINE", None)
            first = run(environment)
            assert first.stdout == expected, first.stderr
            sent = len(hub.files_sent())
        assert sent == len(set(hub.files_sent())), "no file is sent twice"
        assert run(environment, "offline").stdout == expected


def run(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
