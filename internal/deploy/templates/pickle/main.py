# SPDX-License-Identifier: Apache-2.0
"""Predicts with a pickled model that has a method predict, as scikit-learn's have.

The model is the file $MODEL_FILE (default model.pkl) of the training model that the
service is given under any alias. A request is JSON, {"instances": [[1, 2], [3, 4]]}: rows
of features. The answer is {"predictions": [...]}, one for each row.

A pickle runs code when it is loaded: serve models that you trust.
"""
import json
import os
import pathlib
import pickle


def _load():
    name = os.environ.get("MODEL_FILE", "model.pkl")
    root = pathlib.Path(os.environ.get("ABEJA_TRAINING_RESULT_DIR", "."))
    found = sorted(root.rglob(name))
    if not found:
        raise FileNotFoundError(f"the model has no file {name!r}: create the service with a model, or set MODEL_FILE")
    with found[0].open("rb") as file:
        return pickle.load(file)


MODEL = _load()


def _refused(message):
    return {"status_code": 400, "content_type": "application/json", "content": {"error": "bad_request", "error_description": message}}


def _plain(value):
    return value.item() if hasattr(value, "item") else value  # of NumPy


def handler(request, context):
    try:
        rows = json.loads(request.read())["instances"]
    except (ValueError, KeyError, TypeError):
        return _refused('send JSON such as {"instances": [[1, 2], [3, 4]]}')
    if not isinstance(rows, list) or not rows:
        return _refused("instances must be rows of features")
    try:
        answers = MODEL.predict(rows)
    except (ValueError, TypeError) as e:  # rows of a wrong length, text for numbers
        return _refused(f"the model can't take these instances: {e}")
    return {"content_type": "application/json", "content": {"predictions": [_plain(a) for a in answers]}}
