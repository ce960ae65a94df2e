"""Runs the examples of the documents anew and puts what they print under them; for after a bundled model has changed.

Run it with `make outputs`, then read the difference: a test holds the documents against what the examples print.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import test_docs


def main() -> None:
    """Rewrite every output block that no longer says what its example prints."""
    for path in test_docs.ALONE:
        text = path.read_text(encoding="utf-8")
        for code, shown in test_docs.examples(path):
            if shown is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                printed = test_docs.run(code, Path(folder))
            if printed != shown:
                print(f"{path.name}: {code.splitlines()[-1]}")
                before, after = text.split(code, 1)
                text = before + code + after.replace(f"```text\n{shown}```", f"```text\n{printed}```", 1)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
