"""The real functions of the system, and facts about it, whatever a test patches later.

The plugin imports this when pytest starts. pyfakefs, freezegun, ``mock.patch("os.open")`` and
pytest-socket then replace names in modules and in the Python socket class, but not what was taken
here, since these live in a class. Nothing else is in this module, so that a suite without tunnels
does not pay for it.
"""

import _socket
import _thread
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime

__all__ = ["Lock", "unpatched"]

Lock = _thread.LockType


class unpatched:  # noqa: N801 (it is read like a module)
    """Used as ``unpatched.mkdir(...)`` by all that runs in a pytest process."""

    is_posix = os.name == "posix"
    executable = sys.executable

    allocate_lock = staticmethod(_thread.allocate_lock)
    close = staticmethod(os.close)
    get_ident = staticmethod(_thread.get_ident)
    getpid = staticmethod(os.getpid)
    listdir = staticmethod(os.listdir)
    lstat = staticmethod(os.lstat)
    mkdir = staticmethod(os.mkdir)
    monotonic = staticmethod(time.monotonic)
    open = staticmethod(os.open)
    pipe = staticmethod(os.pipe)
    read = staticmethod(os.read)
    rename = staticmethod(os.rename)
    rmdir = staticmethod(os.rmdir)
    set_blocking = staticmethod(os.set_blocking)
    unlink = staticmethod(os.unlink)
    urandom = staticmethod(os.urandom)
    write = staticmethod(os.write)

    if sys.platform != "win32":
        getuid = staticmethod(os.getuid)
        poll = staticmethod(select.poll)
        posix_spawn = staticmethod(os.posix_spawn)
        waitpid = staticmethod(os.waitpid)

    if sys.platform == "linux":
        getsignal = staticmethod(signal.getsignal)
        kill = staticmethod(os.kill)
        pthread_sigmask = staticmethod(signal.pthread_sigmask)
        sigtimedwait = staticmethod(signal.sigtimedwait)
        waitid = staticmethod(os.waitid)

    datetime = datetime
    select = staticmethod(select.select)
    popen = subprocess.Popen
    python_socket = socket.socket
    socket = _socket.socket
    thread = threading.Thread
