# SPDX-License-Identifier: Apache-2.0
"""What the service and training scripts share. Standard library only.

The scripts are started as `python3 SCRIPT SETTINGS` with the code directory as
working directory; SETTINGS is JSON: site (a directory of installed packages or
null), reason (a file that takes one sentence when user code can't go on).
"""
import importlib
import json
import os
import site
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
IMPORTLIB = os.path.dirname(importlib.__file__)


def prepare(settings):
    """Makes user code importable: working directory first, then its packages."""
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != HERE]
    sys.argv = [os.environ.get("HANDLER", "main:handler")]
    if settings.get("site"):
        before = list(sys.path)
        site.addsitedir(settings["site"])
        added = [p for p in sys.path if p not in before]
        at = next((i for i, p in enumerate(before) if p.endswith(("site-packages", "dist-packages"))), len(before))
        sys.path[:] = before[:at] + added + before[at:]
    sys.path.insert(0, os.getcwd())


def say(settings, text):
    """Leaves the reason for the agent: one line, bounded."""
    try:
        with open(settings["reason"], "w", encoding="utf-8", errors="replace") as f:
            f.write(" ".join(text.split())[:1000])
    except OSError:
        pass


def fail(settings, text):
    """Ends the process: traceback for the log, reason for the agent, which logs it."""
    if sys.exc_info()[0] is not None:
        print_exc()
    say(settings, text)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def theirs(filename):
    """Tells whether a frame is neither ours nor the import system's."""
    return not filename.startswith("<frozen importlib") and os.path.dirname(filename) not in (HERE, IMPORTLIB)


def print_exc():
    """traceback.print_exc without the frames that user code has no part in. They stay
    when there are no others, unless the error itself says where it is."""
    error = traceback.TracebackException.from_exception(sys.exc_info()[1])
    todo, seen = [error], set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__cause__, one.__context__] + list(getattr(one, "exceptions", None) or ())
        frames = [f for f in one.stack or () if theirs(f.filename)]
        if frames or hasattr(one, "lineno"):  # of a SyntaxError
            one.stack[:] = frames
    print("".join(error.format()), end="", file=sys.stderr)


def error_line(err):
    """The last line of a traceback."""
    return "".join(traceback.format_exception_only(type(err), err)).strip().splitlines()[-1]


def load_handler(settings, default):
    """Imports HANDLER (module:function) and returns the function."""
    name = os.environ.get("HANDLER") or default
    if not name:
        fail(settings, "HANDLER is not set")
    module, colon, function = name.partition(":")
    if not module or not function or ":" in function:
        fail(settings, "HANDLER is %r; write it as module:function" % name)
    try:
        loaded = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as err:  # also SystemExit: a service that ends itself on import never was one
        fail(settings, "the handler %s could not be imported: %s" % (name, error_line(err)))
    handler = getattr(loaded, function, None)
    if not callable(handler):
        fail(settings, "the module %s has no function %s" % (module, function))
    return handler


def load_context(settings):
    """The JSON object in CONTEXT."""
    try:
        context = json.loads(os.environ.get("CONTEXT") or "{}")
        if not isinstance(context, dict):
            raise ValueError("it is no object")
        return context
    except ValueError as err:
        fail(settings, "CONTEXT is not a JSON object: %s" % err)
