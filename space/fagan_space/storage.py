"""The private folder of this process: made before Gradio and torch are imported, which make folders as they are.

Nothing remains of it when the process ends, whether normally, by Ctrl-C or by SIGTERM.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_PREFIX = "fagan-"


def open_storage() -> Path:
    """Make a private folder for all files of this process, in GRADIO_TEMP_DIR or the system's folder for such."""
    given = os.environ.get("GRADIO_TEMP_DIR")
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=given)).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio's own files go there as well
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torch"))
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # of the last 10,000, Gradio makes statistics after each event
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
    owner = os.getpid()

    def clear() -> None:
        if os.getpid() == owner:  # not in a forked process, whose end is not the page's
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)
    return folder
