# SPDX-License-Identifier: Apache-2.0
"""The request that a handler sees, and how its answer becomes bytes."""
import collections
import csv
import functools
import http
import io
import json
from collections.abc import Mapping


class Headers(Mapping):
    """Case-insensitive: [name] is the last value or None, get_all(name) all."""

    def __init__(self, headers):
        self._values = {h["key"].lower(): list(h["values"]) for h in headers or []}

    def __getitem__(self, name):
        values = self.get_all(name)
        return values[-1] if values else None

    def get(self, name, default=None):
        values = self.get_all(name)
        return values[-1] if values else default

    def get_all(self, name):
        return list(self._values.get(str(name).lower(), ()))

    def __contains__(self, name):
        return str(name).lower() in self._values

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


class Content(Mapping):
    """One body or one part of a multipart body; its file is opened when read."""

    _KEYS = ("content_type", "metadata", "file_name", "form_name")

    def __init__(self, raw):
        self._values = {k: raw.get(k) for k in self._KEYS}
        if self._values["metadata"] is None:
            self._values["metadata"] = {}
        self._path = raw["path"]
        data = raw.get("data")
        self._file = None if data is None else io.BytesIO(data)

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def _open(self):
        if self._file is None:
            self._file = open(self._path, "rb")
        return self._file

    def read(self, size=-1):
        return self._open().read(-1 if size is None else size)

    def readline(self, size=-1):
        return self._open().readline(size)

    def seek(self, offset, whence=0):
        return self._open().seek(offset, whence)

    def tell(self):
        return self._open().tell()

    def close(self):
        if self._file is not None:
            self._file.close()


class Request(Mapping):
    """Read-only mapping and file: reading it reads its first content."""

    def __init__(self, raw):
        self._contents = [Content(c) for c in raw.get("contents") or []]
        self._values = {
            "http_method": raw.get("method"),
            "content_type": raw.get("content_type"),
            "headers": raw.get("headers") or [],
            "http_headers": Headers(raw.get("headers")),
            "contents": self._contents,
        }

    def __getitem__(self, key):
        if key == "metadata":
            if not self._contents:
                raise KeyError("metadata: the request has no body")
            return self._contents[0]["metadata"]
        return self._values[key]

    def __iter__(self):
        yield from self._values
        if self._contents:
            yield "metadata"

    def __len__(self):
        return len(self._values) + bool(self._contents)

    def _first(self):
        if not self._contents:
            raise ValueError("the request has no body")
        return self._contents[0]

    def read(self, size=-1):
        return self._first().read(size)

    def readline(self, size=-1):
        return self._first().readline(size)

    def seek(self, offset, whence=0):
        return self._first().seek(offset, whence)

    def tell(self):
        return self._first().tell()

    def close(self):
        for c in self._contents:
            c.close()


class BadResult(Exception):
    """The handler returned something that is no answer."""


def check(result):
    """Returns status code, content type, metadata and content, or BadResult."""
    if not isinstance(result, dict):
        raise BadResult("the handler returned %s, not a dict" % type(result).__name__)
    code = result.get("status_code", http.HTTPStatus.OK)
    if isinstance(code, bool) or not isinstance(code, int) or not 200 <= code <= 599:
        raise BadResult("status_code is %r, not a number from 200 to 599" % (code,))
    kind = result.get("content_type", "text/plain")
    if not isinstance(kind, str):
        raise BadResult("content_type is %r, not a string" % (kind,))
    metadata = result.get("metadata")
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
        raise BadResult("metadata is not a dict of strings")
    return int(code), kind or "text/plain", dict(metadata), result.get("content")


def _json_default(value):
    # numpy scalars and arrays, and whatever else converts itself to plain values.
    for name in ("tolist", "item"):
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    raise TypeError("%s can't be written as JSON" % type(value).__name__)


def _is_pairs(item):
    return (
        isinstance(item, list)
        and len(item) > 0
        and all(isinstance(p, (list, tuple)) and len(p) == 2 and isinstance(p[0], str) for p in item)
    )


def _csv_row(values, columns=None):
    text = io.StringIO()
    if columns is None:
        csv.writer(text).writerow(values)
    else:
        csv.DictWriter(text, columns).writerow(values)
    return text.getvalue().encode("utf-8")


def encode(content, content_type):
    """Yields the body in pieces, item by item."""
    if content is None:
        return
    if isinstance(content, (str, dict, bytes, bytearray, memoryview)):
        content = (content,)
    elif isinstance(content, (io.RawIOBase, io.BufferedIOBase)):
        content = iter(functools.partial(content.read, 64 << 10), b"")  # the same bytes as its lines
    else:
        try:
            content = iter(content)
        except TypeError:
            content = (content,)
    is_csv = content_type.split(";")[0].strip().lower() == "text/csv"
    columns = None
    after_json = False
    for item in content:
        if isinstance(item, (bytes, bytearray, memoryview)):
            yield bytes(item)
        elif isinstance(item, str):
            yield item.encode("utf-8")
        else:
            if _is_pairs(item):
                item = collections.OrderedDict(item)
            if is_csv and isinstance(item, dict):
                if columns is None:
                    columns = list(item)
                    yield _csv_row(columns)
                yield _csv_row(item, columns)
            else:
                if after_json:
                    yield b"\n"
                yield json.dumps(item, default=_json_default).encode("utf-8")
                after_json = True
                continue
        after_json = False
