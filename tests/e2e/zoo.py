"""Hostile archives, by Python's own tarfile and zipfile and by raw bytes: a second opinion on both formats.

usage: zoo.py DIR    writes one file for each animal
"""

import gzip
import io
import os
import stat
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib

warnings.simplefilter("ignore")
out = sys.argv[1]


def save(name, data):
    with open(os.path.join(out, name), "wb") as file:
        file.write(data)


def member(name, data=b"", kind=tarfile.REGTYPE, link="", mode=0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def tar(*members, format=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


good = member("README", b"read me")
link = tarfile.SYMTYPE

save("climbs.tar", tar(good, member("../../evil", b"x")))
save("climbs-in-the-middle.tar", tar(good, member("a/../../evil", b"x")))
save("absolute.tar", tar(good, member("/etc/cron.d/evil", b"x")))
save("link-out.tar", tar(good, member("out", kind=link, link="../../etc")))
save("link-chain.tar", tar(member("d/up", kind=link, link=".."), member("e", kind=link, link="d/up"), member("out", kind=link, link="e/../etc")))
save("link-loop.tar", tar(member("a", kind=link, link="b"), member("b", kind=link, link="a")))
save("through-a-link.tar", tar(member("up", kind=link, link="/tmp"), member("up/evil", b"x")))
save("hard-link-out.tar", tar(good, member("shadow", kind=tarfile.LNKTYPE, link="../../etc/shadow")))
save("hard-link-to-nothing.tar", tar(member("a", kind=tarfile.LNKTYPE, link="later"), member("later", b"x")))
save("device.tar", tar(good, member("sda", kind=tarfile.BLKTYPE)))
save("null.tar", tar(good, member("null", kind=tarfile.CHRTYPE)))
save("pipe.tar", tar(good, member("pipe", kind=tarfile.FIFOTYPE)))
save("twice.tar", tar(member("run.sh", b"#!/bin/sh\n"), member("run.sh", b"#!/bin/sh\nrm -rf /\n")))
save("file-and-folder.tar", tar(member("a", b"x"), member("a/b", b"y")))
save("not-utf-8.tar", tar(good, member(b"caf\xe9".decode("utf-8", "surrogateescape"), b"x")))
save("newline.tar", tar(good, member("a\nb", b"x")))
save("deep.tar", tar(good, member("/".join("d" * 200), b"x")))
save("long.tar", tar(good, member("n" * 300, b"x")))
save("unknown-kind.tar", tar(good, member("odd", kind=b"Z")))
save("case.tar", tar(member("Readme", b"a"), member("README", b"b")))
save("unicode.tar", tar(member("caf\u00e9", b"a"), member("cafe\u0301", b"b")))
save("reversed.tar", tar(good, member("gpj.\u202eexe", b"x")))
save("special-bits.tar", tar(good, member("su", b"x", mode=0o6755)))
save("dangling.tar", tar(good, member("to-nothing", kind=link, link="nothing")))
save("pax-climbs.tar", tar(good, member("x" * 120 + "/../../evil", b"x"), format=tarfile.PAX_FORMAT))

sparse, _ = member("hole", b"")
sparse.type = b"S"
save("gnu-sparse.tar", tar(good, (sparse, b"")))
sparse, _ = member("GNUSparseFile.0/hole", b"1\n0\n4\n" + b"\0" * 506 + b"data")
sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole", "GNU.sparse.realsize": "1099511627776"}
save("pax-sparse.tar", tar(good, (sparse, b"1\n0\n4\n" + b"\0" * 506 + b"data"), format=tarfile.PAX_FORMAT))


def patched(data, at, field):
    """A header with another field, and the checksum that fits it."""
    data = bytearray(data)
    data[at : at + len(field)] = field
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


one = tar(member("a", b"x" * 600))
save("absurd-mode.tar", patched(one, 100, b"\x80\xff\xff\xff\xff\xff\xff\xff"))
save("all-mode-bits.tar", patched(one, 100, b"7777777\0"))
save("negative-size.tar", patched(one, 124, b"\xff" * 12))
save("announces-8-gib.tar", patched(one, 124, b"77777777777\0"))
save("second-archive.tar", tar(good) + tar(member("hidden", b"x")))
save("cut.tar", one[:700])
save("size-twice.tar", tar(good, (lambda m: (setattr(m[0], "pax_headers", {"size": "0"}), m)[1])(member("a", b"x" * 600)), format=tarfile.PAX_FORMAT))

zeros = io.BytesIO()
with gzip.GzipFile(fileobj=zeros, mode="wb", compresslevel=9, mtime=0) as stream:
    size = 600 << 20
    info = tarfile.TarInfo("zeros")
    info.size = size
    stream.write(info.tobuf(format=tarfile.GNU_FORMAT))
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        stream.write(block)
    stream.write(bytes(1024))
save("bomb.tar.gz", zeros.getvalue())
save("bomb-in-bomb.tar.gz", gzip.compress(gzip.compress(bytes(64 << 20), mtime=0), mtime=0))
save("html.tar", b"<!DOCTYPE html><title>Sign in</title>" + b" " * 600)
save("empty.tar", b"")


def zipped(*entries, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.create_system, info.external_attr, info.compress_type = 3, mode << 16, method
            archive.writestr(info, data)
    return buffer.getvalue()


regular, readme = stat.S_IFREG | 0o644, ("README", b"read me", stat.S_IFREG | 0o644)
save("climbs.zip", zipped(readme, ("../../evil", b"x", regular)))
save("absolute.zip", zipped(readme, ("/etc/evil", b"x", regular)))
save("backslash.zip", zipped(readme, ("..\\evil", b"x", regular)))
save("link-out.zip", zipped(readme, ("out", b"../../etc", stat.S_IFLNK | 0o777)))
save("link-chain.zip", zipped(("d/up", b"..", stat.S_IFLNK | 0o777), ("out", b"d/up/../etc", stat.S_IFLNK | 0o777)))
save("through-a-link.zip", zipped(("up", b"/tmp", stat.S_IFLNK | 0o777), ("up/evil", b"x", regular)))
save("twice.zip", zipped(readme, readme))
save("case.zip", zipped(readme, ("readme", b"other", regular)))
save("device.zip", zipped(readme, ("sda", b"", stat.S_IFBLK | 0o644)))
save("pipe.zip", zipped(readme, ("pipe", b"", stat.S_IFIFO | 0o644)))
save("special-bits.zip", zipped(readme, ("su", b"x", stat.S_IFREG | 0o4755)))
save("absurd-mode.zip", zipped(readme, ("odd", b"x", 0o177777)))
save("bomb.zip", zipped(("zeros", bytes(300 << 20), regular)))

plain = zipped(readme, ("evil", b"payload", regular), method=zipfile.ZIP_STORED)
local, central = plain.find(b"PK\x03\x04", 4), plain.rfind(b"PK\x01\x02")


def changed(at, value):
    data = bytearray(plain)
    data[at : at + len(value)] = value
    return bytes(data)


save("two-names.zip", changed(local + 30, b"good"))
save("two-sizes.zip", changed(local + 22, struct.pack("<I", 3)))
save("two-sums.zip", changed(central + 16, struct.pack("<I", 7)))
save("two-methods.zip", changed(local + 8, struct.pack("<H", 8)))
save("encrypted.zip", changed(central + 8, struct.pack("<H", 1)))
save("overlapping.zip", changed(central + 42, struct.pack("<I", 0)))
save("not-utf-8.zip", changed(central + 46, b"ev\xff\xfe").replace(b"PK\x03\x04" + plain[local + 4 : local + 30] + b"evil", b"PK\x03\x04" + plain[local + 4 : local + 30] + b"ev\xff\xfe"))
save("unlisted.zip", (lambda end: plain[:central] + plain[end:end + 8] + struct.pack("<HHII", 1, 1, central - plain.find(b"PK\x01\x02"), plain.find(b"PK\x01\x02")) + b"\0\0")(plain.rfind(b"PK\x05\x06")))
save("wrong-count.zip", changed(plain.rfind(b"PK\x05\x06") + 10, struct.pack("<H", 9)))
save("trailing.zip", plain + b"#!/bin/sh\n")
save("in-front.zip", b"#!/bin/sh\n" + plain)
save("cut.zip", plain[:-10])
# A bundle whose manifest nests without end, and one whose keys stand twice.
save("deep-manifest.zip", zipped(("manifest.json", b'{"server":' * 20_000, regular)))
save("two-manifests.zip", zipped(("manifest.json", b'{"manifest_version":"0.3","manifest_version":"0.4","name":"x","version":"1","server":{"type":"node","entry_point":"a.js"}}', regular), ("a.js", b"", regular)))
