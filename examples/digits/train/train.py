# SPDX-License-Identifier: Apache-2.0
"""Trains a support-vector classifier on a dataset of the platform.

KERNEL chooses linear or rbf; GRID is how many (C, gamma) pairs are tried, each
reported as progress; PAUSE is a rest in seconds after each pair, which makes a
small problem last as long as a big one.
"""
import concurrent.futures
import json
import os
import pathlib
import pickle
import time

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import SVC

import platform_api
from images import vector


def load(dataset_id):
    rows = list(platform_api.items(dataset_id))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        x = np.array(list(pool.map(lambda item: vector(platform_api.fetch(item["source_data"][0]["data_uri"])), rows)))
    y = np.array([item["attributes"]["classification"][0]["label"] for item in rows])
    return x, y


def grid(kernel, count):
    """The pairs to try: a few for the linear kernel, which has no gamma."""
    costs = np.logspace(-1, 2, count) if kernel == "linear" else np.logspace(0, 2, count)
    gammas = [0.001] if kernel == "linear" else np.logspace(-4, -2, count)
    return [(float(c), float(gammas[i % len(gammas)])) for i, c in enumerate(costs)]


def handler(context):
    kernel = os.environ.get("KERNEL", "rbf")
    pairs = grid(kernel, int(os.environ.get("GRID", "4")))
    pause = float(os.environ.get("PAUSE", "0"))
    start = time.time()
    x, y = load(context["datasets"]["train"])
    print(f"loaded {len(y)} images of {len(set(y))} classes in {time.time() - start:.1f} s")

    folds = StratifiedKFold(3, shuffle=True, random_state=7)
    best = (-1.0, None)
    for step, (cost, gamma) in enumerate(pairs, 1):
        accuracy = float(cross_val_score(SVC(kernel=kernel, C=cost, gamma=gamma), x, y, cv=folds).mean())
        best = max(best, (accuracy, (cost, gamma)))
        print(f"step {step}/{len(pairs)}: {kernel} C={cost:.3g} gamma={gamma:.3g} accuracy={accuracy:.4f}")
        platform_api.report(
            num_epochs=len(pairs), epoch=step, progress_percentage=step / len(pairs),
            stages={"validation": {"accuracy": accuracy, "loss": 1 - accuracy}},
            best_accuracy=best[0],
        )
        time.sleep(pause)

    cost, gamma = best[1]
    model = SVC(kernel=kernel, C=cost, gamma=gamma).fit(x, y)
    result = pathlib.Path(os.environ["ABEJA_TRAINING_RESULT_DIR"])
    (result / "model.pkl").write_bytes(pickle.dumps(model))
    (result / "model.json").write_text(json.dumps({"kernel": kernel, "C": cost, "gamma": gamma, "accuracy": best[0], "classes": sorted(set(y))}))
    print(f"best: C={cost:.3g} gamma={gamma:.3g} accuracy={best[0]:.4f}")
