# SPDX-License-Identifier: Apache-2.0
"""Answers the agent's requests over the socket ABEJA_IPC_PATH, one at a time.

Frames, both ways: AB E9 A0, version 01, length (uint32, big endian), JSON. The
socket appears once the handler is imported. SIGINT and SIGTERM end with 0.

The body of a request is a file, or follows the frame: "inline" of its content is its
length. The body of an answer is a file (path), or follows the frame: "inline" is its
length; after "stream" come pieces, each with its length (uint32) before it, until
one of length 0 (the end) or 0xFFFFFFFF (the generator raised). A frame that comes
meanwhile asks to stop: nobody wants the rest. A "ping" is answered by the same.
"""
import json
import os
import signal
import socket
import struct
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import panal_common as common  # noqa: E402
import panal_old as old  # noqa: E402
import panal_request as request  # noqa: E402

MAGIC = b"\xab\xe9\xa0\x01"
MAX_FRAME = 16 << 20
INLINE = 64 << 10  # a body up to this follows its frame
MAX_PIECE = 1 << 20
FAILED = 0xFFFFFFFF


class Stop(KeyboardInterrupt):
    """Raised by a signal, wherever the program is."""


def stop(signum, frame):
    raise Stop


def read_exactly(source, size):
    data = source.read(size)
    return data if len(data) == size else None


def read_frame(source):
    head = read_exactly(source, 8)
    if head is None:
        return None
    (size,) = struct.unpack(">I", head[4:])
    if head[:4] != MAGIC or size > MAX_FRAME:
        raise ValueError("bad frame")
    body = read_exactly(source, size)
    if body is None:
        return None
    raw = json.loads(body)
    for content in raw.get("contents") or ():
        if "inline" in content:
            content["data"] = read_exactly(source, content["inline"])
            if content["data"] is None:
                return None
    return raw


def write_frame(conn, value, after=b""):
    body = json.dumps(value).encode("utf-8")
    conn.sendall(b"".join((MAGIC, struct.pack(">I", len(body)), body, after)))


def write_body(directory, pieces):
    """Returns the body: (bytes, None) when it is small, else (b"", path of a new file)."""
    small = bytearray()
    for piece in pieces:
        small += piece
        if len(small) > INLINE:
            break
    else:
        return bytes(small), None
    fd, path = tempfile.mkstemp(dir=directory, prefix="out-")
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(small)
            for piece in pieces:
                out.write(piece)
    except BaseException:
        os.unlink(path)
        raise
    return b"", path


def stop_asked(conn):
    """Tells whether the agent has sent something while it gets an answer, or is gone."""
    try:
        conn.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return True
    except BlockingIOError:
        return False


def stream(conn, content, pieces):
    """Sends the pieces as they come. Sending waits while nobody reads, so that the
    generator is never far ahead of whoever called."""
    end = 0
    while not stop_asked(conn):
        try:
            piece = next(pieces)
        except StopIteration:
            break
        except Stop:
            raise
        except BaseException:  # as of the handler itself
            common.print_exc()
            end = FAILED
            break
        for at in range(0, len(piece), MAX_PIECE):
            part = piece[at:at + MAX_PIECE]
            conn.sendall(struct.pack(">I", len(part)) + part)
    try:
        pieces.close()
        if hasattr(content, "close"):
            content.close()
    except Stop:
        raise
    except BaseException:
        common.print_exc()
    flush()
    conn.sendall(struct.pack(">I", end))


def answer(handler, context, directory, raw, conn):
    req = request.Request(raw)
    body, pieces = b"", None
    try:
        result = handler(req, context)
        code, kind, metadata, content = request.check(result)
        reply = {"status_code": code, "content_type": kind, "metadata": metadata}
        encoded = request.encode(content, kind)
        if hasattr(content, "__next__"):
            reply["stream"], pieces = True, encoded
        else:
            body, reply["path"] = write_body(directory, encoded)
            reply["inline"] = len(body)
    except Stop:
        raise
    except request.BadResult as err:
        print("bad answer: %s" % err, file=sys.stderr)
        reply = failure(str(err))
    except BaseException as err:  # also SystemExit: a request does not end the service
        common.print_exc()
        reply = failure(common.error_line(err))
    flush()
    write_frame(conn, reply, body)
    if pieces is not None:
        stream(conn, content, pieces)
    req.close()


def failure(message):
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
    if os.environ.get("PANAL_HANDLER_STYLE") == "old":
        handler, context = old.adapt(handler), old.Context(context)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound under another name and renamed: whoever sees it can connect.
    name = os.path.basename(path)
    server.bind("/proc/self/fd/%d/%s.new" % (at, name) if len(path) > 90 else path + ".new")
    server.listen(1)
    os.rename(path + ".new", path)
    flush()
    while True:
        conn, _ = server.accept()
        # Nothing stays in its buffer: the agent sends one request at a time.
        with conn, conn.makefile("rb") as source:
            # What is under way to the agent is what a generator may be ahead.
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, INLINE)
            while True:
                raw = read_frame(source)
                if raw is None:
                    break
                if "ping" in raw:
                    write_frame(conn, {"ping": True})
                elif "stop" not in raw:  # of an answer that had ended already
                    answer(handler, context, directory, raw, conn)


try:
    main()
except Stop:
    try:
        os.unlink(os.environ["ABEJA_IPC_PATH"])
    except OSError:
        pass
    sys.exit(0)
