# SPDX-License-Identifier: Apache-2.0
"""Answers each request with what arrived: a first service, and a probe of what is in front."""
import os


def handler(request, context):
    try:
        body = request.read().decode("utf-8", "replace")
    except ValueError:  # there is none
        body = ""
    return {
        "content_type": "application/json",
        "content": {
            "method": request["http_method"],
            "content_type": request["content_type"],
            "body": body,
            "service_id": os.environ.get("ABEJA_SERVICE_ID", ""),
        },
    }
