"""Writing files so that nobody ever meets half of one, and reading none that was changed.

Chapter: 01_cost.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_whole(folder: str | Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of `contents` (name -> bytes) into an existing `folder`.

    All are written under temporary names on the same disk first and renamed one by one when the
    last is complete: where writing fails (OSError, say a full disk), old files stay as they were.
    """
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
        for name, content in contents.items():
            (Path(temporary) / name).write_bytes(content)
        for name in contents:
            (Path(temporary) / name).replace(Path(folder) / name)


def read_checked(path: Path, sha256: str) -> bytes:
    """The content of a file whose sha256 is known; ValueError naming the file if it is another."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: damaged, its sha256 is {found}, expected {sha256}")
    return content
