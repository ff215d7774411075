"""The one Jupyter kernel that lessons and pages run in: that of this Python.

A kernel spec of the user's called `python3` comes before it in Jupyter's own search, and may run another Python with
another copy of this package.
"""

from __future__ import annotations

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default


class ThisPython(KernelSpecManager):
    """Knows one kernel: that of the Python which runs this, whatever else is installed."""

    @default("kernel_dirs")
    def _no_folders(self) -> list[str]:
        return []


class ThisKernel(AsyncKernelManager):
    """Starts that kernel."""

    @default("kernel_spec_manager")
    def _this_python(self) -> ThisPython:
        return ThisPython(parent=self)
