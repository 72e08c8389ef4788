"""Writing files so that nobody ever meets half of one.

Chapter: 01_cost.
"""

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
