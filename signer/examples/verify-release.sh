#!/bin/sh
# A simple client of an mcpfs site, with openssl and python3's json alone:
#   verify-release.sh SITE REGISTRY NAME PUBLIC_KEY.pem
# SITE: https://… or a folder; REGISTRY: the name in trust.json, since one key may sign for several.
# It believes one release key; see verify-release.mjs for what it does not check.
set -eu
[ $# -eq 4 ] || { echo "usage: verify-release.sh SITE REGISTRY NAME PUBLIC_KEY.pem" >&2; exit 2; }
site=${1%/} registry=$2 name=$3 key=$4
case $name in *[!a-z0-9._-]* | [!a-z0-9]* | '') echo "not a server name: $name" >&2; exit 2 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
get() { case $site in http://* | https://*) curl -fsS "$site/$1" ;; *) cat "$site/$1" ;; esac; }

get "servers/$name.json" >"$work/entry.json"
# Writes the signed bytes (DSSE PAE), each signature, and prints what is signed: platform and digest.
python3 - "$work" "$registry" "$name" >"$work/artefacts" <<'PYTHON'
import base64, json, sys
work, registry, name = sys.argv[1:]
entry = json.load(open(f"{work}/entry.json"))
envelope = entry["signature"]
kind, body = envelope["payloadType"], base64.b64decode(envelope["payload"])
open(f"{work}/pae", "wb").write(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body))
for index, one in enumerate(envelope["signatures"]):
    open(f"{work}/sig.{index}", "wb").write(base64.b64decode(one["sig"]))
statement = json.loads(body)
if statement["predicateType"] != "urn:mcpfs:release:v1" or statement["predicate"]["name"] != name:
    sys.exit("refused: another statement")
if statement["predicate"]["registry"] != registry:
    sys.exit(f"refused: signed for the registry {statement['predicate']['registry']!a}")
if entry["status"] != "active":
    sys.exit(f"refused: {entry['status']}: {entry.get('reason')}")
for subject in statement["subject"]:
    if subject["name"].startswith("artefact/"):
        print(subject["name"].removeprefix("artefact/"), statement["predicate"]["version"], subject["digest"]["sha256"])
PYTHON

verified=no
for sig in "$work"/sig.*; do
  openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$work/pae" -sigfile "$sig" >/dev/null 2>&1 && verified=yes
done
[ $verified = yes ] || { echo "refused: no signature by this key" >&2; exit 1; }
while read -r platform version sha256; do
  case $sha256 in *[!0-9a-f]*) echo "refused: not a digest" >&2; exit 1 ;; esac
  get "artefacts/$sha256" >"$work/artefact"
  found=$(openssl dgst -sha256 -r "$work/artefact" | cut -d' ' -f1)
  [ "$found" = "$sha256" ] || { echo "refused: artefact $platform is $found, signed is $sha256" >&2; exit 1; }
  echo "ok $name $version $platform sha256:$found"
done <"$work/artefacts"
