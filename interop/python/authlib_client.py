"""Authlib gets, refreshes and revokes tokens; PyJWT verifies them."""

import json
import sys
import time

import jwt
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT

scene = json.load(sys.stdin)
issuer = scene["issuer"]
token_endpoint = issuer + "/oauth/token"
keys = jwt.PyJWKClient(issuer + "/.well-known/jwks.json")


def verify(token, subject, scope):
    claims = jwt.decode(
        token, keys.get_signing_key_from_jwt(token).key, algorithms=["ES256"], audience=scene["audience"], issuer=issuer,
        options={"require": ["exp", "iat", "iss", "sub", "aud", "jti"]},
    )
    assert claims["sub"] == subject and claims["scope"] == scope, claims
    return claims


def own(session, client_id):
    token = session.fetch_token(token_endpoint, grant_type="client_credentials", scope="read")
    assert "refresh_token" not in token
    verify(token["access_token"], "client:" + client_id, "read")


def refused(code, call):
    try:
        call()
    except OAuthError as e:
        assert e.error == code, e
    else:
        raise AssertionError("not refused")


# Authlib puts id and secret into the header as they are; RFC 6749, section
# 2.3.1, has them form-encoded, so those of this client are encoded before.
own(OAuth2Session(scene["post_id"], scene["post_secret"], token_endpoint_auth_method="client_secret_post"), scene["post_id"])

# Its assertions are for the endpoint and an hour, where nothing else is said,
# and name no key.
robot = OAuth2Session(scene["robot_id"], scene["robot_key"], token_endpoint_auth_method="private_key_jwt")
robot.register_client_auth_method(
    PrivateKeyJWT(token_endpoint, claims={"aud": issuer, "exp": int(time.time()) + 60}, alg="ES256")
)
own(robot, scene["robot_id"])

shop_id = scene["id"].replace("%", "%25").replace(":", "%3A").replace("+", "%2B").replace("/", "%2F")
shop = OAuth2Session(shop_id, scene["secret"])
own(shop, scene["id"])
first = shop.refresh_token(token_endpoint, scene["refresh_token"])
assert verify(first["access_token"], scene["subject"], "read write")["sid"] == scene["session"]
second = shop.refresh_token(token_endpoint, first["refresh_token"], scope="read")
verify(second["access_token"], scene["subject"], "read")


def active(token):
    return shop.introspect_token(issuer + "/oauth/introspect", token=token).json()


assert active(second["access_token"])["active"] is True
answer = shop.revoke_token(issuer + "/oauth/revoke", token=second["refresh_token"], token_type_hint="refresh_token")
assert answer.status_code == 200 and answer.text == "", answer.text
assert active(second["access_token"]) == {"active": False}
refused("invalid_grant", lambda: shop.refresh_token(token_endpoint, second["refresh_token"]))
refused("invalid_client", lambda: OAuth2Session(scene["post_id"], "wrong").fetch_token(token_endpoint, grant_type="client_credentials"))
