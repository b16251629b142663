# SPDX-License-Identifier: Apache-2.0
"""Runs one training handler and ends with 0, or with 1 after its traceback."""
import json
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import panal_common as common  # noqa: E402


class Context(dict):
    """A dict whose keys can be read as attributes, too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self[name] = value


def load_datasets(settings):
    """DATASETS: alias to dataset id; ids are digits, returned as strings."""
    try:
        raw = json.loads(os.environ.get("DATASETS") or "{}")
        if not isinstance(raw, dict):
            raise ValueError("it is no object")
        out = Context()
        for alias, value in raw.items():
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                raise ValueError("the id of %s is not an integer" % alias)
            out[alias] = str(int(value))
        return out
    except ValueError as err:
        common.fail(settings, "DATASETS is not an object of alias to dataset id: %s" % err)


def main():
    settings = json.loads(sys.argv[1])
    common.prepare(settings)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        handler = common.load_handler(settings, "")
        context = Context(common.load_context(settings))
        context["datasets"] = load_datasets(settings)
        handler(context)
    except SystemExit as err:
        if err.code not in (None, 0, 120):
            common.say(settings, "the handler ended the process with %s" % err.code)
        raise
    except KeyboardInterrupt:
        common.print_exc()
        common.say(settings, "interrupted")
        sys.exit(1)
    except BaseException as err:
        common.print_exc()
        common.say(settings, "the handler raised %s" % common.error_line(err))
        sys.exit(1)


main()
