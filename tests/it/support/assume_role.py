"""Asks an S3 server for temporary keys that may do only what a policy says, and prints them, one a line.

Standard library only: SigV4 for one request. Arguments: endpoint; policy on standard input; keys of who asks in the
environment (USER_KEY, USER_SECRET).
"""
import datetime
import hashlib
import hmac
import os
import re
import sys
import urllib.parse
import urllib.request

endpoint, policy = sys.argv[1], sys.stdin.read()
body = urllib.parse.urlencode({
    "Action": "AssumeRole", "Version": "2011-06-15", "DurationSeconds": "3600", "Policy": policy}).encode()
now = datetime.datetime.now(datetime.timezone.utc)
stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
host = urllib.parse.urlsplit(endpoint).netloc
digest = hashlib.sha256(body).hexdigest()
kind = "application/x-www-form-urlencoded"
names = "content-type;host;x-amz-content-sha256;x-amz-date"
canonical = "\n".join([
    "POST", "/", "", f"content-type:{kind}", f"host:{host}", f"x-amz-content-sha256:{digest}", f"x-amz-date:{stamp}",
    "", names, digest])
scope = f"{day}/us-east-1/sts/aws4_request"
to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
key = ("AWS4" + os.environ["USER_SECRET"]).encode()
for part in [*scope.split("/"), to_sign]:
    signature = hmac.new(key, part.encode(), hashlib.sha256)
    key = signature.digest()
authorization = (f"AWS4-HMAC-SHA256 Credential={os.environ['USER_KEY']}/{scope}, SignedHeaders={names}, "
                 f"Signature={signature.hexdigest()}")
request = urllib.request.Request(endpoint + "/", data=body, headers={
    "Content-Type": kind, "X-Amz-Content-Sha256": digest, "X-Amz-Date": stamp, "Authorization": authorization})
with urllib.request.urlopen(request, timeout=30) as answer:
    text = answer.read().decode()
for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"):
    print(re.search(f"<{name}>(.*?)</{name}>", text).group(1))
