# SPDX-License-Identifier: Apache-2.0
"""Answers piece by piece: the request's words, each as a line of JSON as soon as it is ready.

Put a model that makes tokens in the place of words().
"""
import time


def words(text):
    for n, word in enumerate(text.split(), 1):
        time.sleep(0.05)  # the work
        yield {"n": n, "word": word}


def handler(request, context):
    try:
        text = request.read().decode("utf-8", "replace")
    except ValueError:  # there is no body
        text = ""
    return {"content_type": "application/x-ndjson", "content": words(text)}
