# SPDX-License-Identifier: Apache-2.0
"""Answers the agent's requests over the socket ABEJA_IPC_PATH, one at a time.

Frames, both ways: AB E9 A0, version 01, length (uint32, big endian), JSON. The
socket appears once the handler is imported. SIGINT and SIGTERM end with 0.
"""
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import panal_common as common  # noqa: E402
import panal_request as request  # noqa: E402

MAGIC = b"\xab\xe9\xa0\x01"
MAX_FRAME = 16 << 20


class Stop(KeyboardInterrupt):
    """Raised by a signal, wherever the program is."""


def stop(signum, frame):
    raise Stop


def read_exactly(conn, size):
    data = bytearray()
    while len(data) < size:
        piece = conn.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def read_frame(conn):
    head = read_exactly(conn, 8)
    if head is None:
        return None
    (size,) = struct.unpack(">I", head[4:])
    if head[:4] != MAGIC or size > MAX_FRAME:
        raise ValueError("bad frame")
    body = read_exactly(conn, size)
    return None if body is None else json.loads(body)


def write_frame(conn, value):
    body = json.dumps(value).encode("utf-8")
    conn.sendall(MAGIC + struct.pack(">I", len(body)) + body)


def write_body(directory, pieces):
    """Writes the pieces to a new file and returns its path; None when there are none."""
    out = path = None
    try:
        for piece in pieces:
            if piece and out is None:
                fd, path = tempfile.mkstemp(dir=directory, prefix="out-")
                out = os.fdopen(fd, "wb")
            if piece:
                out.write(piece)
        if out is not None:
            out.close()
        return path
    except BaseException:
        if out is not None:
            out.close()
            os.unlink(path)
        raise


def answer(handler, context, directory, raw):
    req = request.Request(raw)
    try:
        result = handler(req, context)
        code, kind, metadata, content = request.check(result)
        path = write_body(directory, request.encode(content, kind))
        return {"status_code": code, "content_type": kind, "metadata": metadata, "path": path}
    except Stop:
        raise
    except request.BadResult as err:
        print("bad answer: %s" % err, file=sys.stderr)
        message = str(err)
    except BaseException as err:  # also SystemExit: a request does not end the service
        traceback.print_exc()
        message = common.error_line(err)
    finally:
        req.close()
    return {"status_code": 500, "content_type": "application/json", "error_message": message[:4000]}


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # user code may have closed or replaced it


def main():
    settings = json.loads(sys.argv[1])
    path = os.environ["ABEJA_IPC_PATH"]
    directory = os.path.dirname(path)
    # A socket path is at most some 100 bytes; a long one goes by an open directory.
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    common.prepare(settings)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    handler = common.load_handler(settings, "main:handler")
    context = common.load_context(settings)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound under another name and renamed: whoever sees it can connect.
    name = os.path.basename(path)
    server.bind("/proc/self/fd/%d/%s.new" % (at, name) if len(path) > 90 else path + ".new")
    server.listen(1)
    os.rename(path + ".new", path)
    flush()
    while True:
        conn, _ = server.accept()
        with conn:
            while True:
                raw = read_frame(conn)
                if raw is None:
                    break
                reply = answer(handler, context, directory, raw)
                flush()
                write_frame(conn, reply)


try:
    main()
except Stop:
    try:
        os.unlink(os.environ["ABEJA_IPC_PATH"])
    except OSError:
        pass
    sys.exit(0)
