# SPDX-License-Identifier: Apache-2.0
"""Answers a picture with its class. The model is loaded once, at import."""
import json
import os
import pathlib
import pickle

from images import vector

_ROOT = pathlib.Path(os.environ["ABEJA_TRAINING_RESULT_DIR"])
MODEL = pickle.loads((_ROOT / "model.pkl").read_bytes())
ABOUT = json.loads((_ROOT / "model.json").read_text())
SERVICE = os.environ.get("ABEJA_SERVICE_ID", "")
print(f"model ready: {ABOUT['kernel']} C={ABOUT['C']:.3g}")


def handler(request, context):
    label = MODEL.predict([vector(request.read())])[0]
    return {
        "status_code": 200,
        "content_type": "application/json",
        "metadata": {"x-service": SERVICE},
        "content": {"label": str(label), "kernel": ABOUT["kernel"], "service": SERVICE},
    }
