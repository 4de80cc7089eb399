"""What a node must know of a file before it fetches it: size, SHA-256 of the whole and of each block."""

import hashlib
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes; nodes check and hand on block by block


def describe(path: Path) -> dict[str, Any]:
    """``size``, ``sha256``, ``block`` and ``blocks`` of the file, for stage2.json and its like."""
    whole, blocks, size = hashlib.sha256(), [], 0
    with path.open("rb") as stream:
        while piece := stream.read(BLOCK):
            whole.update(piece)
            blocks.append(hashlib.sha256(piece).hexdigest())
            size += len(piece)
    return {"size": size, "sha256": whole.hexdigest(), "block": BLOCK, "blocks": blocks}
