# SPDX-License-Identifier: Apache-2.0
"""Predicts pictures without the platform, to compare with what it served.

Usage: offline.py MODEL.zip < paths, one per line; prints one label per line.
"""
import io
import pathlib
import pickle
import sys
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / "predict"))
from images import vector  # noqa: E402

with zipfile.ZipFile(io.BytesIO(pathlib.Path(sys.argv[1]).read_bytes())) as archive:
    model = pickle.loads(archive.read("model.pkl"))
paths = [line.strip() for line in sys.stdin if line.strip()]
for label in model.predict([vector(pathlib.Path(p).read_bytes()) for p in paths]):
    print(label)
