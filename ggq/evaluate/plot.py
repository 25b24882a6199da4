"""Pictures, with matplotlib where it is installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ggq.errors import UnsupportedError, UsageError
from ggq.format.paths import check_place, os_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> Any:
    """The module `matplotlib.pyplot`, set to draw without a screen.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UnsupportedError("plots need matplotlib", fix="install it: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse a picture that cannot be drawn, before anything is computed.

    Raises:
        UnsupportedError: matplotlib is not installed.
        UsageError: Its name has an ending that matplotlib does not know, or it has no place (`check_place`).
    """
    pyplot = require_matplotlib()
    name = os.fspath(path)
    known = sorted(pyplot.gcf().canvas.get_supported_filetypes())
    pyplot.close()
    if os.path.splitext(name)[1].lstrip(".").lower() not in known:
        raise UsageError(f"the name of a picture must end in {', '.join(known)}", path=name)
    check_place(path, force=True)


def save_picture(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure.

    Raises:
        GGQError: The file cannot be written.
    """
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise os_error(error, os.fspath(path), "write") from None
