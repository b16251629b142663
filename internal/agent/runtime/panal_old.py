# SPDX-License-Identifier: Apache-2.0
"""Handlers of the old style: handler(input_iter, context) yields its results.

input_iter has one item: the value of a JSON body, an image as an RGB array, the
bytes of anything else.
"""
import io
import itertools
import json
import types


class InvalidInput(Exception):
    """Raised by a handler that can't work with what it was given."""


class Context(dict):
    """A dict whose keys can be read as attributes, with the names that handlers use."""

    exceptions = types.SimpleNamespace(InvalidInput=InvalidInput)
    datatypes = types.SimpleNamespace()

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def decode(request):
    data = request.read()
    kind = (request["content_type"] or "").split(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(data)
        except ValueError as err:
            raise InvalidInput("the body is not JSON: %s" % err) from None
    return rgb(data) if kind.startswith("image/") else data


def rgb(data):
    try:
        import numpy
        from PIL import Image
    except ImportError as err:
        raise RuntimeError("images need numpy and Pillow; add them to requirements.txt (%s)" % err) from None
    try:
        return numpy.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except MemoryError:
        raise
    except Exception as err:  # of many kinds: broken data, too many pixels; its text may name objects
        raise InvalidInput("the body is no image that can be read (%s)" % type(err).__name__) from None


def adapt(handler):
    """Returns a handler of the new style."""

    def run(request, context):
        try:
            results = handler(iter((decode(request),)), context)
            if not hasattr(results, "__next__"):
                results = iter((results,))
            first = list(itertools.islice(results, 1))  # here, so that it can refuse
        except InvalidInput as err:
            return {"status_code": 400, "content_type": "application/json", "content": {"error": "invalid_input", "error_description": str(err)}}
        return {"content_type": "application/json", "content": chain(first, results)}

    return run


def chain(first, rest):
    # A generator, so that closing it closes the handler's own.
    try:
        yield from first
        yield from rest
    finally:
        close = getattr(rest, "close", None)
        if close:
            close()
