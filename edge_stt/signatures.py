"""Signatures of model packages, as minisign makes them: Ed25519 over ``model.json``, which holds all hashes.

The file ``model.json.minisig`` lies in the package. Format: https://jedisct1.github.io/minisign/ (signatures of both
kinds, of the file itself and of its BLAKE2b-512 hash). The curve's arithmetic is that of the library ``cryptography``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

from .errors import EdgeSttError, PackageError, RuntimeMissingError, reason
from .package import INFO_FILE, ModelPackage

SIGNATURE_FILE = INFO_FILE + ".minisig"
_TRUSTED = "trusted comment: "


def read_public_key(given: str) -> str:
    """A public key's text, where the key itself or its file is given; raises `EdgeSttError` without that file."""
    if not given or given.startswith(("RW", "untrusted comment:")):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no possible path
        raise EdgeSttError(f"cannot read the public key {given}: {reason(error)}") from error


def verify_signature(package: ModelPackage, public_key: str) -> str:
    """The signed ("trusted") comment; raises `PackageError` when the signature is missing, wrong or another's.

    ``public_key`` is as for `read_public_key`.
    """
    key_id, key = _parse_key(read_public_key(public_key))
    try:
        lines = package.read(SIGNATURE_FILE).decode("utf-8").splitlines()
    except PackageError as error:
        raise PackageError(f"{package.path} is not signed, and models.require_signature asks for it") from error
    except UnicodeDecodeError as error:
        raise PackageError(f"{package.path}: {SIGNATURE_FILE} is no signature of minisign") from error
    if len(lines) < 4 or not lines[2].startswith(_TRUSTED):
        raise PackageError(f"{package.path}: {SIGNATURE_FILE} is no signature of minisign")
    signature, comment = _decode(lines[1], 74, SIGNATURE_FILE), lines[2].removeprefix(_TRUSTED)
    kind, signer, signature = signature[:2], signature[2:10], signature[10:]
    if kind not in (b"Ed", b"ED"):
        raise PackageError(f"{package.path}: {SIGNATURE_FILE} is of a kind that is not known")
    if signer != key_id:
        raise PackageError(f"{package.path} is signed with another key than models.public_key")
    content = package.read(INFO_FILE)
    signed = hashlib.blake2b(content).digest() if kind == b"ED" else content
    overall = _decode(lines[3], 64, SIGNATURE_FILE)
    if not (_valid(key, signature, signed) and _valid(key, overall, signature + comment.encode())):
        raise PackageError(f"{package.path}: the signature does not fit the package; get it again from its maker")
    return comment


def _parse_key(text: str) -> tuple[bytes, Any]:
    """Number and key of a line of minisign's public key file, or of the whole file."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("untrusted comment:")]
    if not lines:
        raise PackageError(
            "signatures are required, but models.public_key names no key: set it to the line RW… of minisign"
        )
    content = _decode(lines[-1], 42, "models.public_key")
    if content[:2] != b"Ed":
        raise PackageError("models.public_key is not a public key of minisign")
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise RuntimeMissingError(
            "signatures need cryptography: pip install 'edge-stt[sign]', or apt-get install python3-cryptography"
        ) from error
    return content[2:10], Ed25519PublicKey.from_public_bytes(content[10:])


def _decode(line: str, length: int, what: str) -> bytes:
    try:
        content = base64.b64decode(line.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackageError(f"{what} is not in minisign's form") from error
    if len(content) != length:
        raise PackageError(f"{what} is not in minisign's form")
    return content


def _valid(key: Any, signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
