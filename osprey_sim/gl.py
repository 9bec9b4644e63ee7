"""OpenGL without a display: picks a library that works on this machine and opens a context for MuJoCo with it."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from types import ModuleType
from typing import Any

_REMEDY = "install libegl1 and libgl1-mesa-dri (or libosmesa6), or set MUJOCO_GL to egl, osmesa or glfw"


def open_context(width: int, height: int) -> tuple[ModuleType, Any]:
    """The mujoco module and a GL context of at least this size, made current.

    Both MuJoCo's Python and its C library read MUJOCO_GL. If it is unset on Linux, it is set here for this process: to
    egl where a device answers, else to osmesa. RuntimeError says what is missing.
    """
    if sys.platform == "linux" and not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = _choose()
    chosen = os.environ.get("MUJOCO_GL", "the system's own")
    try:
        import mujoco

        # By name, because mujoco.GLContext keeps what the variable said when mujoco was first imported.
        binding = importlib.import_module(f"mujoco.{chosen}") if chosen in ("egl", "osmesa") else mujoco
        context = binding.GLContext(width, height)
        context.make_current()
    except Exception as error:  # a missing library shows as another type of error in each binding
        raise RuntimeError(f"cannot draw without a display: GL through {chosen} failed ({error}); {_REMEDY}") from error
    return mujoco, context


def _choose() -> str:
    if _egl_devices() > 0:
        return "egl"
    for name in ("libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6"):
        if _load(name) is not None:
            return "osmesa"
    raise RuntimeError(f"neither EGL nor OSMesa works on this machine; {_REMEDY}")


def _egl_devices() -> int:
    """How many EGL devices there are; Mesa's software renderer counts as one."""
    egl = _load("libEGL.so.1")
    if egl is None:
        return 0
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return 0
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    count = ctypes.c_int(0)
    return count.value if query(0, None, ctypes.byref(count)) else 0


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
