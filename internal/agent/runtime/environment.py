# SPDX-License-Identifier: Apache-2.0
"""Describes this interpreter, and tells which of the requirements it lacks.

Started as `python3 environment.py FILE` (or without a file); prints JSON. Only
plain requirements are judged ("name[>=1.0][; marker]"); anything else (options,
URLs, paths, extras) counts as missing, so that the installer decides.
"""
import json
import sys
import sysconfig


def missing(lines):
    try:
        from importlib import metadata

        from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return list(lines)
    out = []
    for line in lines:
        try:
            want = Requirement(line)
            if want.marker is not None and not want.marker.evaluate():
                continue
            if want.url or want.extras:
                out.append(line)
            elif not want.specifier.contains(metadata.version(want.name), prereleases=True):
                out.append(line)
        except (InvalidRequirement, metadata.PackageNotFoundError):
            out.append(line)
    return out


def requirements(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read().replace("\\\n", " ")
    for line in text.splitlines():
        line = line.split(" #")[0].strip()
        if line and not line.startswith("#"):
            yield line


def pip_version():
    try:
        import pip

        return pip.__version__
    except ImportError:
        return ""


print(json.dumps({
    "version": sys.version,
    "platform": sysconfig.get_platform(),
    "prefix": sys.prefix,
    "pip": pip_version(),
    "missing": missing(requirements(sys.argv[1])) if len(sys.argv) > 1 else [],
}))
