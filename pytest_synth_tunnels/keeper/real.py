"""The real functions of the operating system, whatever a test patches later.

The plugin imports this when pytest starts. pyfakefs, ``mock.patch("os.open")`` and pytest-socket
then replace names in modules and in the Python socket class, but not what was taken here, since
these live in a class. Nothing else is in this module, so that a suite without tunnels does not
pay for it.
"""

import _socket
import os
import select
import socket
import subprocess
import sys

__all__ = ["Real"]


class Real:
    """Used as ``Real.mkdir(...)`` by all that runs in a pytest process."""

    close = staticmethod(os.close)
    getpid = staticmethod(os.getpid)
    listdir = staticmethod(os.listdir)
    lstat = staticmethod(os.lstat)
    mkdir = staticmethod(os.mkdir)
    open = staticmethod(os.open)
    pipe = staticmethod(os.pipe)
    read = staticmethod(os.read)
    rmdir = staticmethod(os.rmdir)
    set_blocking = staticmethod(os.set_blocking)
    unlink = staticmethod(os.unlink)
    write = staticmethod(os.write)

    if sys.platform != "win32":
        getuid = staticmethod(os.getuid)
        poll = staticmethod(select.poll)
        posix_spawn = staticmethod(os.posix_spawn)
        waitpid = staticmethod(os.waitpid)

    select = staticmethod(select.select)
    popen = subprocess.Popen
    python_socket = socket.socket
    socket = _socket.socket
