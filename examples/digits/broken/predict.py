# SPDX-License-Identifier: Apache-2.0
"""A planted bad version: it raises on import, as real ones sometimes do."""

raise RuntimeError("planted: the weights file of this version is missing")


def handler(request, context):
    return {"content": "never reached"}
