# SPDX-License-Identifier: Apache-2.0
"""The few calls of the platform's API that a job needs, on the standard library.

Everything is given by the environment that the platform injects: the API's URL,
the organization, and a token that is good for this job only.
"""
import json
import os
import urllib.request

API = os.environ["ABEJA_API_URL"]
ORG = os.environ["ABEJA_ORGANIZATION_ID"]
TOKEN = os.environ["PLATFORM_AUTH_TOKEN"]
DEFINITION = os.environ["TRAINING_JOB_DEFINITION_NAME"]
JOB = os.environ["TRAINING_JOB_ID"]


def call(method, path, body=None):
    """Calls the API and returns the decoded JSON answer."""
    request = urllib.request.Request(API + path, method=method)
    request.add_header("Authorization", "Bearer " + TOKEN)
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, data, timeout=30) as response:
        return json.load(response)


def fetch(uri):
    """Returns the bytes behind datalake://<channel>/<file>."""
    channel, file_id = uri.removeprefix("datalake://").split("/", 1)
    info = call("GET", f"/channels/{channel}/{file_id}")
    with urllib.request.urlopen(info["download_uri"], timeout=30) as response:
        return response.read()


def items(dataset_id):
    """Yields the items of a dataset, page by page, until the empty page."""
    base, token = f"/organizations/{ORG}/datasets/{dataset_id}/items", None
    while True:
        page = call("GET", base + "?limit=500" + (f"&next_page_token={token}" if token else ""))
        if not page["items"]:
            return
        yield from page["items"]
        token = page["next_page_token"]


def report(**statistics):
    """Shows progress: each call replaces what the job reported before."""
    try:
        call("POST", f"/organizations/{ORG}/training/definitions/{DEFINITION}/jobs/{JOB}/statistics", {"statistics": statistics})
    except OSError as err:
        # The platform may be restarting. Training does not depend on it.
        print(f"progress not reported ({err}); going on")
