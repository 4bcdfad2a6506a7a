#!/usr/bin/env python3
"""Makes tests/vectors/own.json: for every provider that tests/vectors/webhooks.json has no vectors of (or too few), one
that is to be accepted and three that are not. Written from the vendors' pages, in another language than the node and
with other libraries, so that a mistake in one is seen. Run it from anywhere: python3 tests/vectors/make_own.py"""
import base64, binascii, datetime, hashlib, hmac, json, pathlib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

HERE = pathlib.Path(__file__).resolve().parent
NOW = 1_795_366_065
SECRET = "a secret of tests only"
KNOWN = json.loads((HERE / "webhooks.json").read_text())
OLD = json.loads((HERE / "own.json").read_text()) if (HERE / "own.json").exists() else []
out = []


def mac(alg, key, base):
    return hmac.new(key, base, getattr(hashlib, alg)).digest()


def hexed(raw):
    return raw.hex()


def b64(raw):
    return base64.b64encode(raw).decode()


def flip(text):
    """The same text with its first letter or digit changed."""
    for at, char in enumerate(text):
        if char.isalnum():
            return text[:at] + ("1" if char != "1" else "2") + text[at + 1:]
    raise ValueError(text)


def put(provider, scheme, headers, body, secret=SECRET, expected="accept", reason=None, now=NOW, **more):
    number = 1 + sum(entry["provider"] == provider and entry["scheme"] == scheme for entry in out)
    entry = {"id": f"own-{provider}-{scheme}-{number:02}", "provider": provider, "scheme": scheme, "secret": secret,
             "headers": headers, "body": body, "expected": expected}
    if now is not None:
        entry["now_unix"] = now
    if reason:
        entry["reason"] = reason
    entry.update(more)
    entry.update({"origin": "own", "source": "tests/vectors/make_own.py"})
    out.append(entry)


def four(provider, scheme, headers, body, signature, wrong_key=None, **more):
    """Accepted as it is; refused with another body, with another key, and without its signature."""
    put(provider, scheme, headers, body, **more)
    put(provider, scheme, headers, flip(body), expected="reject", reason="SIGNATURE_MISMATCH", **more)
    other = dict(more)
    other["secret"] = wrong_key or "another secret"
    put(provider, scheme, headers, body, expected="reject", reason="SIGNATURE_MISMATCH", **other)
    bare = {name: value for name, value in headers.items() if name != signature}
    put(provider, scheme, bare, body, expected="reject", reason="MISSING_HEADER", **more)


def stale(provider, scheme, headers, body, by, **more):
    put(provider, scheme, headers, body, expected="reject", reason="STALE", now=NOW + by, **more)


def over_body(provider, header, alg, encode, body, prefix="", scheme="hmac_body", key=None, secret=SECRET, **more):
    raw = secret.encode() if key is None else key
    headers = {header: prefix + encode(mac(alg, raw, body.encode()))}
    four(provider, scheme, headers, body, header, secret=secret, **more)


EVENT = '{"id":"evt_1","event_id":"evt_1","event":"thing.done","type":"thing.done"}'
K = SECRET.encode()

# One signature over the body.
over_body("bitbucket", "X-Hub-Signature", "sha256", hexed, EVENT, "sha256=")
over_body("jira", "X-Hub-Signature", "sha256", hexed, '{"webhookEvent":"jira:issue_created"}', "sha256=")
over_body("dropbox", "X-Dropbox-Signature", "sha256", hexed, '{"delta":{"users":[1]}}')
over_body("intercom", "X-Hub-Signature", "sha1", hexed, '{"id":"n_1","topic":"user.created"}', "sha1=")
over_body("typeform", "Typeform-Signature", "sha256", b64, EVENT, "sha256=")
over_body("meta", "X-Hub-Signature-256", "sha256", hexed, '{"object":"page","entry":[]}', "sha256=")
over_body("coinbase_commerce", "X-CC-Webhook-Signature", "sha256", hexed, '{"event":{"id":"e1","type":"charge:created"}}')
over_body("vercel", "x-vercel-signature", "sha1", hexed, EVENT)
over_body("sentry", "Sentry-Hook-Signature", "sha256", hexed, '{"action":"created"}')
over_body("shopify", "X-Shopify-Hmac-Sha256", "sha256", b64, '{"id":1}')
over_body("gocardless", "Webhook-Signature", "sha256", hexed,
          '{"events":[{"id":"EV1","resource_type":"payments"}],"meta":{"webhook_id":"WB1"}}')
over_body("razorpay", "X-Razorpay-Signature", "sha256", hexed, '{"event":"payment.captured"}')
over_body("line", "X-Line-Signature", "sha256", b64,
          '{"destination":"U1","events":[{"type":"message","webhookEventId":"01H"}]}')
over_body("x_twitter", "x-twitter-webhooks-signature", "sha256", b64, '{"for_user_id":"1"}', "sha256=")
over_body("woocommerce", "X-WC-Webhook-Signature", "sha256", b64, '{"id":7}')
over_body("hookdeck", "x-hookdeck-signature", "sha256", b64, EVENT)
second = {"x-hookdeck-signature": b64(mac("sha256", b"old", EVENT.encode())),
          "x-hookdeck-signature-2": b64(mac("sha256", K, EVENT.encode()))}
put("hookdeck", "hmac_body", second, EVENT)
over_body("generic", "X-Signature", "sha512", hexed, EVENT, "sha512=", profile="generic_sha512")
for alg in ("sha256", "sha512"):
    for name, encode in (("hex", hexed), ("b64", b64)):
        over_body("convoy", "X-Convoy-Signature", alg, encode, EVENT, profile=f"convoy_simple_{alg}_{name}")
over_body("github", "X-Hub-Signature", "sha1", hexed, EVENT, "sha1=", profile="github_sha1_legacy")
HEXKEY = "00112233445566778899aabbccddeeff"
over_body("adyen", "HmacSignature", "sha256", b64, EVENT, scheme="adyen_banking", secret=HEXKEY,
          key=bytes.fromhex(HEXKEY), wrong_key="ff" * 16)
over_body("docusign", "X-DocuSign-Signature-1", "sha256", b64, '{"event":"envelope-sent"}', scheme="docusign")
put("docusign", "docusign", {"X-DocuSign-Signature-1": b64(mac("sha256", b"old", EVENT.encode())),
                             "X-DocuSign-Signature-3": b64(mac("sha256", K, EVENT.encode()))}, EVENT)

# A time in the body.
body = json.dumps({"type": "Issue", "webhookTimestamp": NOW * 1000}, separators=(",", ":"))
headers = {"Linear-Signature": hexed(mac("sha256", K, body.encode()))}
four("linear", "hmac_body", headers, body, "Linear-Signature")
stale("linear", "hmac_body", headers, body, 61)

# A time in a header, or in the signature's own.
T = str(NOW)


def timed(provider, header, stamp_name, stamp, text, encode, base, body, scheme, late, prefix=""):
    headers = {stamp_name: stamp, header: prefix + encode(mac("sha256", K, base))}
    four(provider, scheme, headers, text, header)
    stale(provider, scheme, headers, text, late)


timed("zoom", "x-zm-signature", "x-zm-request-timestamp", T, EVENT, hexed, f"v0:{T}:{EVENT}".encode(), EVENT, "zoom_v0", 301, "v0=")
iso = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
timed("zendesk", "X-Zendesk-Webhook-Signature", "X-Zendesk-Webhook-Signature-Timestamp", iso, EVENT, b64,
      (iso + EVENT).encode(), EVENT, "zendesk", 301)
ms = str(NOW * 1000)
timed("webflow", "x-webflow-signature", "x-webflow-timestamp", ms, EVENT, hexed, f"{ms}:{EVENT}".encode(), EVENT, "webflow", 301)
LISTED = [("calendly", "Calendly-Webhook-Signature", "v1", ".", 181), ("elevenlabs", "ElevenLabs-Signature", "v0", ".", 1801)]
for provider, header, key, between, late in LISTED:
    signature = hexed(mac("sha256", K, f"{T}{between}{EVENT}".encode()))
    headers = {header: f"t={T},{key}={signature}"}
    four(provider, provider, headers, EVENT, header)
    stale(provider, provider, headers, EVENT, late)
headers = {"Paddle-Signature": f"ts={T};h1=" + hexed(mac("sha256", K, f"{T}:{EVENT}".encode()))}
four("paddle", "paddle_h1", headers, EVENT, "Paddle-Signature")
headers = {"X-PagerDuty-Signature": "v1=" + hexed(mac("sha256", K, EVENT.encode()))}
four("pagerduty", "pagerduty_v3", headers, EVENT, "X-PagerDuty-Signature")

# Standard Webhooks under other names.
RAW = bytes(range(32))
WHSEC = "whsec_" + b64(RAW)
for provider, prefix, scheme in [("clerk", "svix-", "clerk"), ("resend", "svix-", "resend"),
                                 ("openai", "webhook-", "openai"), ("gitlab", "webhook-", "standard_webhooks")]:
    headers = {prefix + "id": "msg_1", prefix + "timestamp": T,
               prefix + "signature": "v1," + b64(mac("sha256", RAW, f"msg_1.{T}.{EVENT}".encode()))}
    four(provider, scheme, headers, EVENT, prefix + "signature", secret=WHSEC, wrong_key="whsec_" + b64(b"x" * 32))
    stale(provider, scheme, headers, EVENT, 301, secret=WHSEC)

# Hook0 and who sends with it.
for provider, scheme, id_name in [("hook0", "hook0", "X-Event-Id"), ("coinbase_cdp", "coinbase_cdp", "X-Hook0-Id")]:
    names = [id_name.lower(), "x-event-type"]
    base = f"{T}.{' '.join(names)}.e1.thing.done.{EVENT}".encode()
    headers = {id_name: "e1", "X-Event-Type": "thing.done",
               "X-Hook0-Signature": f"t={T},h={' '.join(names)},v1={hexed(mac('sha256', K, base))}"}
    four(provider, scheme, headers, EVENT, "X-Hook0-Signature")
    forged = dict(headers, **{"X-Event-Type": "other.thing"})
    put(provider, scheme, forged, EVENT, expected="reject", reason="SIGNATURE_MISMATCH")

# Tokens.
for provider, header, scheme in [("okta", "Authorization", "shared_token"), ("auth0", "Authorization", "shared_token"),
                                 ("telegram", "X-Telegram-Bot-Api-Secret-Token", "shared_token"),
                                 ("gitlab", "X-Gitlab-Token", "shared_token")]:
    put(provider, scheme, {header: SECRET}, EVENT)
    put(provider, scheme, {header: SECRET + "x"}, EVENT, expected="reject", reason="SIGNATURE_MISMATCH")
    put(provider, scheme, {header: SECRET[:-1]}, EVENT, expected="reject", reason="SIGNATURE_MISMATCH")
    put(provider, scheme, {}, EVENT, expected="reject", reason="MISSING_HEADER")

# URL-signed.
URL = "https://node.example/webhooks/sample"
headers = {"x-square-hmacsha256-signature": b64(mac("sha256", K, (URL + EVENT).encode()))}
four("square", "square", headers, EVENT, "x-square-hmacsha256-signature", url=URL)
put("square", "square", headers, EVENT, expected="reject", reason="SIGNATURE_MISMATCH", url=URL + "?more=1")
for scheme, base, header, encode, how in [
    ("hubspot_v1", EVENT, "X-HubSpot-Signature", hexed, "v1"),
    ("hubspot_v2", "POST" + URL + EVENT, "X-HubSpot-Signature", hexed, "v2"),
]:
    headers = {header: hashlib.sha256((SECRET + base).encode()).hexdigest(), "X-HubSpot-Signature-Version": how}
    four("hubspot", scheme, headers, EVENT, header, method="POST", url=URL)
    put("hubspot", scheme, dict(headers, **{"X-HubSpot-Signature-Version": "v9"}), EVENT, expected="reject",
        reason="UNSUPPORTED_ALG", method="POST", url=URL)
query = "?a=b%2Fc%3A%20d"
base = ("POST" + URL + "?a=b/c:%20d" + EVENT + ms).encode()
headers = {"X-HubSpot-Signature-v3": b64(mac("sha256", K, base)), "X-HubSpot-Request-Timestamp": ms}
four("hubspot", "hubspot_v3", headers, EVENT, "X-HubSpot-Signature-v3", method="POST", url=URL + query)
nonce = "05429567804466091622"
headers = {"X-Plivo-Signature-V2-Nonce": nonce, "X-Plivo-Signature-V2": b64(mac("sha256", K, (URL + nonce).encode()))}
put("plivo", "plivo_v2", headers, EVENT, url=URL + "?not=signed")
put("plivo", "plivo_v2", headers, flip(EVENT), url=URL)
put("plivo", "plivo_v2", headers, EVENT, expected="reject", reason="SIGNATURE_MISMATCH", url=URL + "x")
put("plivo", "plivo_v2", dict(headers, **{"X-Plivo-Signature-V2-Nonce": "1"}), EVENT, expected="reject",
    reason="SIGNATURE_MISMATCH", url=URL)
put("plivo", "plivo_v2", {"X-Plivo-Signature-V2": headers["X-Plivo-Signature-V2"]}, EVENT, expected="reject",
    reason="MISSING_HEADER", url=URL)
base = f"{T}\na=1&b=2\n".encode() + hashlib.sha256(EVENT.encode()).digest()
headers = {"MessageBird-Signature": b64(mac("sha256", K, base)), "MessageBird-Request-Timestamp": T}
four("messagebird", "messagebird_legacy", headers, EVENT, "MessageBird-Signature", url=URL + "?b=2&a=1")
stale("messagebird", "messagebird_legacy", headers, EVENT, 301, url=URL + "?b=2&a=1")

# Signatures in the body.
token = "50fdb4f1cb0a3c6b24d8e2b7a9f0d3c1e5a7b9c8d6e4f2a1b0"
mailgun = {"timestamp": T, "token": token, "signature": hexed(mac("sha256", K, (T + token).encode()))}
body = json.dumps({"signature": mailgun, "event-data": {"event": "opened"}})
put("mailgun", "mailgun", {}, body)
put("mailgun", "mailgun", {}, body.replace(token, flip(token)), expected="reject", reason="SIGNATURE_MISMATCH")
stale("mailgun", "mailgun", {}, body, 301)
put("mailgun", "mailgun", {}, json.dumps({"event-data": {"event": "opened"}}), expected="reject", reason="MISSING_FIELD")
put("mailgun", "mailgun", {}, body.replace('"token"', '"token": "x", "token"'), expected="reject", reason="MISSING_FIELD")


def adyen(signature=None, items=1, **fields):
    item = {"pspReference": "7914073381342284", "originalReference": "", "merchantAccountCode": "Account",
            "merchantReference": "ref:1", "amount": {"value": 1130, "currency": "EUR"}, "eventCode": "AUTHORISATION",
            "success": "true"}
    item.update(fields)
    base = ":".join([item["pspReference"], item["originalReference"], item["merchantAccountCode"],
                     item["merchantReference"], str(item["amount"]["value"]), item["amount"]["currency"],
                     item["eventCode"], item["success"]])
    made = b64(mac("sha256", bytes.fromhex(HEXKEY), base.encode()))
    item["additionalData"] = {"hmacSignature": signature or made}
    return json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}] * items}), made


body, made = adyen()
put("adyen", "adyen_payments", {}, body, secret=HEXKEY, now=None)
put("adyen", "adyen_payments", {}, adyen(made, pspReference="7914073381342285")[0], secret=HEXKEY, expected="reject",
    reason="SIGNATURE_MISMATCH", now=None)
shifted = adyen(made, merchantAccountCode="Account:ref", merchantReference="1")[0]
put("adyen", "adyen_payments", {}, shifted, secret=HEXKEY, expected="reject", reason="MISSING_FIELD", now=None)
put("adyen", "adyen_payments", {}, adyen(items=2)[0], secret=HEXKEY, expected="reject", reason="MISSING_FIELD", now=None)

# Tokens that are signed (JSON Web Tokens).


def b64url(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwt(claims, sign, alg):
    head = b64url(json.dumps({"alg": alg, "typ": "JWT"}).encode()) + "." + b64url(json.dumps(claims).encode())
    return head + "." + b64url(sign(head.encode()))


for alg, name in (("HS256", "sha256"), ("HS512", "sha512")):
    claims = {"request_body_sha256": b64(hashlib.sha256(EVENT.encode()).digest())}
    header = "X-FusionAuth-Signature-JWT"
    headers = {header: jwt(claims, lambda base: mac(name, K, base), alg)}
    put("fusionauth", "fusionauth", headers, EVENT)
    put("fusionauth", "fusionauth", headers, flip(EVENT), expected="reject", reason="BODY_HASH_MISMATCH")
    put("fusionauth", "fusionauth", headers, EVENT, secret="other", expected="reject", reason="SIGNATURE_MISMATCH")
put("fusionauth", "fusionauth", {header: jwt(claims, lambda base: b"", "none")}, EVENT, expected="reject", reason="UNSUPPORTED_ALG")
put("fusionauth", "fusionauth", {}, EVENT, expected="reject", reason="MISSING_HEADER")

# Public keys. ECDSA signs differently each time, so what was made once stays.
old = {entry["id"]: entry for entry in OLD}
keys = HERE / "keys"
pem = lambda name: serialization.load_pem_private_key((keys / name).read_bytes(), None)
rsa_key, ec_key = pem("rsa.pem"), pem("p256.pem")
other_rsa = pem("other_rsa.pem")
spki = lambda key: b64(key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
pub = lambda key: key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
seed = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
raw_public = lambda key: key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
telnyx = '{"data":{"id":"d1","event_type":"message.received"}}'
headers = {"telnyx-timestamp": T, "telnyx-signature-ed25519": b64(seed.sign(f"{T}|{telnyx}".encode()))}
other = b64(raw_public(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))))
four("telnyx", "telnyx", headers, telnyx, "telnyx-signature-ed25519", secret=b64(raw_public(seed)), wrong_key=other)
stale("telnyx", "telnyx", headers, telnyx, 301, secret=b64(raw_public(seed)))
discord = '{"id":"1","type":2}'
headers = {"X-Signature-Timestamp": T, "X-Signature-Ed25519": hexed(seed.sign((T + discord).encode()))}
four("discord", "discord_ed25519", headers, discord, "X-Signature-Ed25519", secret=hexed(raw_public(seed)),
     wrong_key=hexed(raw_public(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))))

batch = '[{"sg_event_id":"e1","event":"delivered"}]\r\n'
kept = old.get("own-sendgrid-sendgrid_ecdsa-01", {}).get("headers", {}).get("X-Twilio-Email-Event-Webhook-Signature")
signature = kept or b64(ec_key.sign((T + batch).encode(), ec.ECDSA(hashes.SHA256())))
headers = {"X-Twilio-Email-Event-Webhook-Timestamp": T, "X-Twilio-Email-Event-Webhook-Signature": signature}
put("sendgrid", "sendgrid_ecdsa", headers, batch, secret=spki(ec_key))
put("sendgrid", "sendgrid_ecdsa", headers, batch.rstrip(), secret=spki(ec_key), expected="reject", reason="SIGNATURE_MISMATCH")
stale("sendgrid", "sendgrid_ecdsa", headers, batch, 301, secret=spki(ec_key))


def rs(key, base, hash_=None):
    return key.sign(base, padding.PKCS1v15(), hash_ or hashes.SHA256())


subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "messageverificationcerts.paypal.example")])
certificate = old.get("own-paypal-paypal-01", {}).get("secret")
if not certificate:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(rsa_key.public_key())
    made = made.serial_number(1).not_valid_before(datetime.datetime(2026, 1, 1)).not_valid_after(datetime.datetime(2046, 1, 1))
    certificate = made.sign(rsa_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
paypal = '{"event_type":"PAYMENT.SALE.COMPLETED","id":"WH-1"}'
WEBHOOK = "1JE4291016473214C"
base = f"tid-1|{iso}|{WEBHOOK}|{binascii.crc32(paypal.encode())}".encode()
headers = {"PAYPAL-TRANSMISSION-ID": "tid-1", "PAYPAL-TRANSMISSION-TIME": iso, "PAYPAL-AUTH-ALGO": "SHA256withRSA",
           "PAYPAL-CERT-URL": "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1d93a270",
           "PAYPAL-TRANSMISSION-SIG": b64(rs(rsa_key, base))}
more = {"secret": certificate, "webhook_id": WEBHOOK}
four("paypal", "paypal", headers, paypal, "PAYPAL-TRANSMISSION-SIG", wrong_key=pub(other_rsa), **more)
evil = dict(headers, **{"PAYPAL-CERT-URL": "https://api.paypal.com.evil.example/cert"})
put("paypal", "paypal", evil, paypal, expected="reject", reason="CERT_URL_DENIED", **more)
put("paypal", "paypal", dict(headers, **{"PAYPAL-AUTH-ALGO": "SHA1withRSA"}), paypal, expected="reject",
    reason="UNSUPPORTED_ALG", **more)
put("paypal", "paypal", headers, paypal, expected="reject", reason="SIGNATURE_MISMATCH", secret=certificate, webhook_id="another")
put("paypal", "paypal", headers, paypal, expected="reject", reason="CANNOT_VERIFY", secret=certificate)


def sns(version="2", key=rsa_key, **fields):
    entry = {"Type": "Notification", "MessageId": "22b80b92", "TopicArn": "arn:aws:sns:us-west-2:123456789012:T",
             "Subject": "S", "Message": "line one\nMessageId\nforged", "Timestamp": "2026-11-23T00:00:00.000Z"}
    entry.update(fields)
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    base = "".join(f"{name}\n{entry[name]}\n" for name in names if entry.get(name) is not None).encode()
    hash_ = hashes.SHA1() if version == "1" else hashes.SHA256()
    entry.update({"SignatureVersion": version, "Signature": b64(rs(key, base, hash_)),
                  "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-1.pem"})
    return entry


for entry in (sns(), sns("1"), sns(Subject=None)):
    put("aws_sns", "aws_sns", {}, json.dumps(entry), secret=pub(rsa_key), now=None)
for changed in ({"Message": "other"}, {"TopicArn": "arn:aws:sns:us-west-2:666:T"}, {"SignatureVersion": "1"}):
    put("aws_sns", "aws_sns", {}, json.dumps(dict(sns(), **changed)), secret=pub(rsa_key), now=None, expected="reject",
        reason="SIGNATURE_MISMATCH")
put("aws_sns", "aws_sns", {}, json.dumps(sns(key=other_rsa)), secret=pub(rsa_key), now=None, expected="reject",
    reason="SIGNATURE_MISMATCH")
put("aws_sns", "aws_sns", {}, json.dumps(dict(sns(), SignatureVersion="3")), secret=pub(rsa_key), now=None,
    expected="reject", reason="UNSUPPORTED_ALG")

(HERE / "own.json").write_text(json.dumps(out, indent=1) + "\n")
print(f"{len(out)} vectors")
