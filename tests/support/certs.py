"""Contexts around the test certificate: self-signed, for localhost, good for a hundred years.

It is its own authority, so the same file is certificate, key, and what the other side trusts.
"""

from __future__ import annotations

import ssl
from pathlib import Path

LOCALHOST = Path(__file__).with_name("localhost.pem")

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(version: str | None = None, *, ask_client: bool = False) -> ssl.SSLContext:
    """A server's context; `version` is "1.2" or "1.3", `ask_client` demands a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(LOCALHOST)
    if ask_client:
        context.load_verify_locations(LOCALHOST)
        context.verify_mode = ssl.CERT_REQUIRED
    return _only(context, version)


def client_context(
    version: str | None = None, *, trusting: bool = True, with_certificate: bool = False
) -> ssl.SSLContext:
    """A client's context, which checks the name; without `trusting` it knows no authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusting:
        context.load_verify_locations(LOCALHOST)
    if with_certificate:
        context.load_cert_chain(LOCALHOST)
    return _only(context, version)


def _only(context: ssl.SSLContext, version: str | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context
