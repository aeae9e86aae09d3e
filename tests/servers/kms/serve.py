"""AWS KMS on loopback: moto's, with signatures of requests checked, and faults on demand.

usage: serve.py PORT FAULT

Prints a line of JSON once it listens: the keys of two users, of whom only `publisher` may use KMS, and
the ids of some keys. FAULT is a file that tests write; while it holds a word, answers to Sign are bent:

    other      a genuine signature by another key of the same kind
    cut        half of the signature
    high       the other S that verifies
    disabled   the keys are disabled after they were opened
    denied     the user may no longer sign
    drip       one byte a second, for ever
    down       503
    busy N     N times "slow down", then as usual
    gone DIR   DIR is moved away, then as usual: what a key elsewhere lies in is lost between two signatures
    moved      a redirect to another address
    page       a web page
    long       an answer of a megabyte
"""

import base64
import io
import json
import os
import re
import sys
import time

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.kms.models import kms_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "eu-central-1"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


class Json:
    """Says who may not do what as KMS does; moto says it in XML, as IAM does."""

    NAMES = {
        "AccessDenied": "AccessDeniedException",
        "InvalidClientTokenId": "UnrecognizedClientException",
        "SignatureDoesNotMatch": "InvalidSignatureException",
    }

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        started = []
        answer = b"".join(self.app(environ, lambda *line: started.append(line)))
        code = re.search(rb"<Code>(\w+)</Code>", answer)
        if code is None:
            start_response(*started[0])
            return [answer]
        message = re.search(rb"<Message>(.*?)</Message>", answer, re.S)
        body = {"__type": self.NAMES[code[1].decode()], "Message": message[1].decode()}
        start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(body).encode()]


class Bent:
    """Passes requests on, and bends what comes back as FAULT says."""

    def __init__(self, app, fault, keys, allow):
        self.app, self.fault, self.keys, self.allow = app, fault, keys, allow

    def word(self):
        try:
            with open(self.fault) as file:
                return file.read().split()
        except FileNotFoundError:
            return []

    def __call__(self, environ, start_response):
        fault = self.word()
        if not fault or environ.get("HTTP_X_AMZ_TARGET") != "TrentService.Sign":
            return self.app(environ, start_response)
        json_type = [("Content-Type", "application/x-amz-json-1.1")]
        kind = fault[0]
        if kind == "gone":
            os.rename(fault[1], fault[1] + ".away")
            return self.app(environ, start_response)
        if kind == "down":
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"no\n"]
        if kind == "moved":
            start_response("307 Temporary Redirect", [("Location", "http://127.0.0.1:1/")])
            return [b""]
        if kind == "page":
            start_response("200 OK", [("Content-Type", "text/html")])
            return [b"<!DOCTYPE html><html>Log in</html>"]
        if kind == "long":
            start_response("200 OK", json_type)
            return [b" " * (1 << 20)]
        if kind == "drip":
            start_response("200 OK", json_type)
            return self.drip()
        if kind == "busy" and int(fault[1]) > 0:
            with open(self.fault, "w") as file:
                file.write(f"busy {int(fault[1]) - 1}")
            return self.refused(start_response, "ThrottlingException", "You have exceeded the rate of calls to KMS.")
        if kind == "disabled":
            # As KMS says it; moto signs with disabled keys.
            return self.refused(start_response, "DisabledException", f"{self.keys['head'].arn} is disabled.")
        if kind == "denied":
            self.allow(False)
            answer = b"".join(self.app(environ, start_response))
            self.allow(True)
            return [answer]
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        status = []
        answer = json.loads(b"".join(self.app(environ, lambda line, *_: status.append(line))))
        if "Signature" in answer:
            bent = self.bent(kind, body, base64.b64decode(answer["Signature"]))
            answer["Signature"] = base64.b64encode(bent).decode()
        start_response(status[0], json_type)
        return [json.dumps(answer).encode()]

    def refused(self, start_response, name, message):
        start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps({"__type": name, "message": message}).encode()]

    def bent(self, kind, body, signature):
        if kind == "other":
            message = base64.b64decode(json.loads(body)["Message"])
            return self.keys["other"].private_key.sign(message, "ECDSA_SHA_256")
        if kind == "cut":
            return signature[: len(signature) // 2]
        if kind == "high":
            r, s = decode_dss_signature(signature)
            return encode_dss_signature(r, max(s, ORDER - s))
        return signature

    def drip(self):
        while True:
            yield b" "
            time.sleep(1)


def main():
    port, fault = int(sys.argv[1]), sys.argv[2]
    kms = kms_backends[DEFAULT_ACCOUNT_ID][REGION]

    def key(spec="ECC_NIST_P256", usage="SIGN_VERIFY", origin="AWS_KMS"):
        return kms.create_key(None, usage, spec, "", None, False, origin)

    keys = {name: key() for name in ("head", "release", "disabled", "other")}
    keys["imported"] = key(origin="EXTERNAL")
    keys["p384"] = key("ECC_NIST_P384")
    keys["symmetric"] = key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    kms.disable_key(keys["disabled"].id)
    for name in ("head", "release"):
        kms.create_alias(keys[name].id, f"alias/test-{name}")
    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    users = {}

    def allow(name, action):
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
        iam.put_user_policy(name, "all", json.dumps(policy))

    for name, action in (("publisher", "kms:*"), ("guest", "s3:*")):
        iam.create_user(REGION, name)
        allow(name, action)
        access = iam.create_access_key(name)
        users[name] = {"id": access.access_key_id, "secret": access.secret_access_key}
    app = Json(DomainDispatcherApplication(create_backend_app))
    app = Bent(app, fault, keys, lambda yes: allow("publisher", "kms:*" if yes else "s3:*"))
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=Quiet)
    print(json.dumps({"users": users, "keys": {name: one.arn for name, one in keys.items()}}), flush=True)
    server.serve_forever()


main()
