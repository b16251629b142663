# SPDX-License-Identifier: Apache-2.0
"""A model server that speaks the Open Inference Protocol v2 over REST, with
Python's standard library alone. Its one model, "scale", multiplies a tensor by
$FACTOR (default 2).

    eval "$(panal env)"  # where the server runs; --data DIR names its data directory
    panal deployment create scaler  # its ID is the one of the URL below
    panal deployment version create scaler . --label 1 \
        --command 'exec python3 server.py' --health /v2/health/ready
    panal service create scaler 1 --env FACTOR=3 --wait  # its ID is for the next line
    panal endpoint create scaler ser-…
    curl -H "Authorization: Bearer $ABEJA_PLATFORM_PERSONAL_ACCESS_TOKEN" \
        "$ABEJA_API_URL/deployments/ID/default/v2/models/scale/infer" \
        -d '{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP64","data":[1,2,3]}]}'
"""
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FACTOR = float(os.environ.get("FACTOR", "2"))
MODEL = "scale"
METADATA = {
    "name": MODEL, "versions": ["1"], "platform": "python",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, -1]}],
    "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1, -1]}],
}


class Failure(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def flat(data):
    """Tensor data may be nested or flat; the protocol allows both."""
    if isinstance(data, list):
        for item in data:
            yield from flat(item)
    else:
        yield float(data)


def infer(request):
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Failure(400, "inputs: at least one tensor is needed")
    outputs = []
    for tensor in inputs:
        try:
            shape, data = [int(n) for n in tensor["shape"]], list(flat(tensor["data"]))
        except (KeyError, TypeError, ValueError) as e:
            raise Failure(400, "inputs: a tensor has name, shape, datatype and data (%s)" % e)
        size = 1
        for n in shape:
            size *= n
        if size != len(data):
            raise Failure(400, "inputs: the shape says %d elements, there are %d" % (size, len(data)))
        outputs.append({"name": "y", "shape": shape, "datatype": "FP64", "data": [v * FACTOR for v in data]})
    answer = {"model_name": MODEL, "model_version": "1", "outputs": outputs}
    if "id" in request:
        answer["id"] = request["id"]
    return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    # Head and body are two writes: on a kept connection the second would wait
    # for the first one's acknowledgement, some 40 ms.
    disable_nagle_algorithm = True

    def do_GET(self):
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/v2/health/live":
            self.reply(200, {"live": True})
        elif path == "/v2/health/ready":
            self.reply(200, {"ready": True})
        elif path == "/v2":
            self.reply(200, {"name": "panal-example", "version": "1", "extensions": []})
        elif path in ("/v2/models/" + MODEL, "/v2/models/%s/versions/1" % MODEL):
            self.reply(200, METADATA)
        elif path in ("/v2/models/%s/ready" % MODEL, "/v2/models/%s/versions/1/ready" % MODEL):
            self.reply(200, {"name": MODEL, "ready": True})
        else:
            self.reply(404, {"error": "unknown model or path %s" % path})

    def do_POST(self):
        body = self.body()
        if self.path not in ("/v2/models/%s/infer" % MODEL, "/v2/models/%s/versions/1/infer" % MODEL):
            self.reply(404, {"error": "unknown model or path %s" % self.path})
            return
        try:
            request = json.loads(body)
            if not isinstance(request, dict):
                raise Failure(400, "the body must be a JSON object")
            self.reply(200, infer(request))
        except Failure as e:
            self.reply(e.status, {"error": str(e)})
        except ValueError:
            self.reply(400, {"error": "the body is no JSON"})

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if size == 0:
                return b"".join(parts)

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code="-", size="-"):
        pass  # the gateway counts requests


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("ready to multiply by", FACTOR, flush=True)
server.serve_forever()
