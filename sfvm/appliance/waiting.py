"""Python runs signal handlers only between calls of the main thread, and a call of libguestfs may last for hours."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import guestfs

Result = TypeVar("Result")


def interruptible(call: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """What *call* returns or raises. In the main thread it runs in a thread of its own, so that a signal handler's
    exception ends it; *stop* must then make *call* return, which is waited for."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []

    go = threading.Event()  # an exception before this is set means that the call never began
    over = threading.Event()  # not join(): Python 3.11 takes a thread for ended when an exception comes to join()

    def work() -> None:
        go.wait()
        try:
            results.append(call())
        except BaseException as error:  # raised again where the call was made
            errors.append(error)
        over.set()

    worker = threading.Thread(target=work, name="libguestfs call", daemon=True)
    worker.start()
    try:
        go.set()
        over.wait()
    except BaseException:
        if go.is_set():
            stop()
            over.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]


def quiet(handle: guestfs.GuestFS) -> None:
    """Keep libguestfs from printing its errors, which are raised as exceptions, to stderr from this thread as well: it
    has one error handler per handle and thread, and the binding takes away only that of the thread that makes the
    handle (guestfs(3), "ERROR HANDLING")."""
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.argtypes, address.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    set_handler = ctypes.CDLL("libguestfs.so.0").guestfs_set_error_handler
    set_handler.argtypes, set_handler.restype = (ctypes.c_void_p,) * 3, None
    set_handler(address(handle._o, b"guestfs_h"), None, None)
