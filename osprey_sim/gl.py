"""Open an OpenGL context for MuJoCo without a display, with a library that works on this machine."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
import warnings
from types import ModuleType
from typing import Any

from osprey_ros.errors import InputError

_REMEDY = "install libegl1 and libgl1-mesa-dri (or libosmesa6)"
_BINDINGS = ("egl", "osmesa", "glfw")
_LOGGER = logging.getLogger(__name__)


def open_context(width: int, height: int) -> tuple[ModuleType, Any]:
    """Return the mujoco module and a current GL context of at least this size in pixels.

    MuJoCo's Python package and its C library both read MUJOCO_GL. If it is unset on Linux, this function sets it for
    this process: to egl if there is an EGL device, else to osmesa.

    Raises:
        ModuleNotFoundError: mujoco or PyOpenGL is not installed.
        InputError: No GL library works, or not the one that MUJOCO_GL names.
    """
    given = os.environ.get("MUJOCO_GL", "").strip().lower()  # as MuJoCo reads it
    if given and given not in _BINDINGS:
        raise InputError(f"MUJOCO_GL is {given!r}; unset it, or set it to {', '.join(_BINDINGS)}")
    if sys.platform == "linux" and not given:
        os.environ["MUJOCO_GL"] = _choose()
    chosen = given or os.environ.get("MUJOCO_GL", "")
    try:
        import mujoco

        # Import by name, because mujoco.GLContext depends on the variable when mujoco was first imported.
        binding = importlib.import_module(f"mujoco.{chosen}") if chosen else mujoco
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glfw warns, and then has no context
            context = binding.GLContext(width, height)
            context.make_current()
            if chosen == "glfw" and not importlib.import_module("glfw").get_current_context():
                raise InputError("there is no display")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each binding raises another type for a missing library
        _LOGGER.debug("GL through %s failed: %s", chosen or "the system's own library", error)
        what = f"MUJOCO_GL is {chosen!r}, which" if given else f"GL through {chosen or 'the library of the system'}"
        remedy = f"unset MUJOCO_GL, or {_REMEDY}" if given else _REMEDY
        raise InputError(f"cannot draw without a display: {what} does not work on this machine; {remedy}") from error
    return mujoco, context


def _choose() -> str:
    if _egl_devices() > 0:
        return "egl"
    for name in ("libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6"):
        if _load(name) is not None:
            return "osmesa"
    raise InputError(f"neither EGL nor OSMesa works on this machine; {_REMEDY}")


def _egl_devices() -> int:
    """Return the number of EGL devices. Mesa's software renderer counts as one."""
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
