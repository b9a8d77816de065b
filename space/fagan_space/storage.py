"""The private folder of this process, made before Gradio and torch are imported, which create folders on import.

It is removed when the process ends, whether normally, by Ctrl-C or by SIGTERM.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_PREFIX = "fagan-"


def open_storage() -> Path:
    """Make a private folder for all files of this process, in GRADIO_TEMP_DIR or the system's temporary folder."""
    given = os.environ.get("GRADIO_TEMP_DIR")
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=given)).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio's own files go there as well
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torch"))
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # Gradio summarizes this many after each event
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
    owner = os.getpid()

    def clear() -> None:
        if os.getpid() == owner:  # not in forked processes, which end before the page does
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)
    return folder
