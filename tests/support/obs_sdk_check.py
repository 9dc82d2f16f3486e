"""Drives the OBS emulator on loopback with Huawei's SDK (esdk-obs-python): obs_sdk_check.py PORT AK SK"""

import hashlib
import socket
import sys

from obs import CompleteMultipartUploadRequest, CompletePart, GetObjectHeader, ListMultipartUploadsRequest
from obs import ObsClient, PutObjectHeader

port, ak, sk = sys.argv[1:4]
# The bucket is part of the host name, and all these names are the emulator.
getaddrinfo = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: getaddrinfo("127.0.0.1", *rest, **more)
BUCKET, KEY = "sdk-check", "dcps/film/name with space+ü%41.bin"


def client(ak, sk):
    server = f"http://obs.test.myhuaweicloud.com:{port}"
    return ObsClient(access_key_id=ak, secret_access_key=sk, server=server, signature="obs", max_retry_count=0)


def want(what, response, status):
    if response.status != status:
        sys.exit(f"{what}: status {response.status} {response.errorCode}, expected {status}")
    print(f"{what}: {status}")
    return response


obs = client(ak, sk)
data = b"0123456789" * 1000
headers = PutObjectHeader(contentType="application/mxf")
headers.md5 = None

want("create bucket", obs.createBucket(BUCKET), 200)
want("head bucket", obs.headBucket(BUCKET), 200)
put = want("put", obs.putContent(BUCKET, KEY, data, metadata={"sha1": hashlib.sha1(data).hexdigest()}, headers=headers), 200)
assert put.body.etag.strip('"') == hashlib.md5(data).hexdigest()

meta = want("head", obs.getObjectMetadata(BUCKET, KEY), 200)
assert meta.body.contentLength == len(data), meta.body
assert dict(meta.header).get("sha1") == hashlib.sha1(data).hexdigest(), meta.header

got = want("get", obs.getObject(BUCKET, KEY, loadStreamInMemory=True), 200)
assert got.body.buffer == data
part = want("get a range", obs.getObject(BUCKET, KEY, loadStreamInMemory=True, headers=GetObjectHeader(range="5-14")), 206)
assert part.body.buffer == data[5:15]
want("get of another version", obs.getObject(BUCKET, KEY, headers=GetObjectHeader(if_match="nonsense")), 412)
want("get of nothing", obs.getObject(BUCKET, "nothing"), 404)

want("copy", obs.copyObject(BUCKET, "plain", BUCKET, "copy"), 404)
want("put two", obs.putContent(BUCKET, "dcps/other", b"x"), 200)
want("copy", obs.copyObject(BUCKET, "dcps/other", BUCKET, "dcps/third"), 200)
listed = want("list", obs.listObjects(BUCKET, prefix="dcps/", delimiter="/", max_keys=2), 200)
assert listed.body.is_truncated and listed.body.next_marker, listed.body
rest = want("list on", obs.listObjects(BUCKET, prefix="dcps/", delimiter="/", marker=listed.body.next_marker), 200)
names = [c.key for l in (listed, rest) for c in l.body.contents]
assert names == ["dcps/other", "dcps/third"], names

pieces = [bytes([n]) * 200_000 for n in range(1, 7)]
begun = want("initiate", obs.initiateMultipartUpload(BUCKET, "big", metadata={"sha1": "abc"}), 200)
upload = begun.body.uploadId
parts = []
for n, piece in enumerate(pieces, 1):
    sent = want(f"part {n}", obs.uploadPart(BUCKET, "big", n, upload, object=piece, isFile=False), 200)
    parts.append(CompletePart(n, sent.body.etag))
page = want("list parts", obs.listParts(BUCKET, "big", upload), 200)
assert [p.partNumber for p in page.body.parts] == [1, 2, 3, 4] and page.body.isTruncated, page.body
page = want("list more parts", obs.listParts(BUCKET, "big", upload, partNumberMarker=4), 200)
assert [p.partNumber for p in page.body.parts] == [5, 6], page.body
listed = want("list uploads", obs.listMultipartUploads(BUCKET, ListMultipartUploadsRequest(prefix="bi")), 200)
assert [(u.key, u.uploadId) for u in listed.body.upload] == [("big", upload)] and listed.body.upload[0].initiated, listed.body
listed = want("list other uploads", obs.listMultipartUploads(BUCKET, ListMultipartUploadsRequest(prefix="bo")), 200)
assert not listed.body.upload, listed.body
want("complete", obs.completeMultipartUpload(BUCKET, "big", upload, CompleteMultipartUploadRequest(parts)), 200)
big = want("get big", obs.getObject(BUCKET, "big", loadStreamInMemory=True), 200)
assert big.body.buffer == b"".join(pieces)
assert dict(obs.getObjectMetadata(BUCKET, "big").header).get("sha1") == "abc"
want("complete again", obs.completeMultipartUpload(BUCKET, "big", upload, CompleteMultipartUploadRequest(parts)), 404)

begun = want("initiate", obs.initiateMultipartUpload(BUCKET, "gone"), 200)
want("abort", obs.abortMultipartUpload(BUCKET, "gone", begun.body.uploadId), 204)
want("list parts of an aborted upload", obs.listParts(BUCKET, "gone", begun.body.uploadId), 404)

want("delete", obs.deleteObject(BUCKET, KEY), 204)
want("head of a deleted object", obs.getObjectMetadata(BUCKET, KEY), 404)

refused = want("a wrong secret", client(ak, sk + "x").putContent(BUCKET, "no", b"x"), 403)
assert refused.errorCode == "SignatureDoesNotMatch", refused.errorCode
refused = want("a wrong key", client(ak + "x", sk).getObject(BUCKET, "big"), 403)
assert refused.errorCode == "InvalidAccessKeyId", refused.errorCode
assert obs.getObject(BUCKET, "no").status == 404

print("every step passed")
