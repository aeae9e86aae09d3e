"""An S3 server on loopback: moto's, with signatures checked and one request at a time.

usage: serve.py PORT BUCKET LOG

Prints the keys of the one user who may write, as a line of JSON, once it listens. Anybody may
read BUCKET: hosts and web servers do. Each request is a line `METHOD PATH STATUS BYTES` of LOG,
where BYTES is what the client sent. One at a time, because moto looks at a condition and writes
in two steps; a real S3 does both at once.
"""

import json
import os
import sys
import threading

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"

from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import get_canned_acl, s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    """Keeps connections open, as S3 does, and its log to itself."""

    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


class OneAtATime:
    """Answers requests in turn; lets anybody read the bucket."""

    def __init__(self, app, bucket, log):
        self.app, self.log = app, log
        self.readable = f"/{bucket}/"
        self.turn = threading.Lock()

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        anonymous = (
            "HTTP_AUTHORIZATION" not in environ
            and method in ("GET", "HEAD")
            and path.startswith(self.readable)
            and path != self.readable
        )
        status = []

        def started(line, headers, *rest):
            status.append(line.split(" ")[0])
            return start_response(line, headers, *rest)

        with self.turn:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf") if anonymous else 0
            ActionAuthenticatorMixin.request_count = 0
            body = b"".join(self.app(environ, started))
            size = environ.get("CONTENT_LENGTH") or "0"
            print(method, path, status[0], size, file=self.log, flush=True)
        return [body]


def main():
    port, bucket, log = int(sys.argv[1]), sys.argv[2], open(sys.argv[3], "w")
    s3 = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    s3.create_bucket(bucket, "us-east-1")
    s3.put_bucket_acl(bucket, get_canned_acl("public-read"))
    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user("us-east-1", "publisher")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy("publisher", "all", json.dumps(policy))
    key = iam.create_access_key("publisher")
    app = OneAtATime(DomainDispatcherApplication(create_backend_app), bucket, log)
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=Quiet)
    print(json.dumps({"id": key.access_key_id, "secret": key.secret_access_key}), flush=True)
    server.serve_forever()


main()
