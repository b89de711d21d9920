"""TLS of the service: a certificate and its key in PEM files, tried before the service starts."""

from __future__ import annotations

import logging
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from segwright.core.errors import SegwrightError, UsageError

logger = logging.getLogger("segwright.serve")

SOON_DAYS = 14
EXPIRED, NOT_YET = 10, 9  # of OpenSSL: X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID


@dataclass(frozen=True)
class TlsFiles:
    """The certificate, with the chain to its authority behind it, and its private key, both as PEM."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A context for a server, proven by a handshake with itself; UsageError for files that cannot be used, do not
        belong together, or a certificate that is not valid now."""
        for path, what in ((self.certificate, "the TLS certificate"), (self.key, "the TLS key")):
            _check_readable(path, what)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        days = _try_handshake(context, self.certificate)
        if days < SOON_DAYS:
            logger.warning("the TLS certificate expires in %d days", days)
        return context

    def reload(self, context: ssl.SSLContext) -> bool:
        """Take renewed files for new connections; if anything is wrong with them, the old ones stay in use."""
        try:
            self.context()
            self._load(context)
        except SegwrightError as error:
            logger.error("the TLS certificate stays as it was: %s", error)
            return False
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        def refuse_password() -> str:
            raise UsageError(
                "the TLS key is encrypted", expected="a key without a password", where=self.key,
                fix="openssl pkey -in KEY -out PLAIN",
            )  # fmt: skip

        try:
            context.load_cert_chain(self.certificate, self.key, refuse_password)
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            if reason == "KEY_VALUES_MISMATCH":
                raise UsageError(
                    "the TLS key does not belong to the certificate", expected=f"the key of {self.certificate}",
                    found="another key", where=self.key,
                ) from error  # fmt: skip
            raise UsageError(
                "the TLS certificate and key cannot be used", expected="a PEM certificate and its PEM private key",
                found=reason.lower().replace("_", " "), where=f"{self.certificate}, {self.key}",
            ) from error  # fmt: skip
        except OSError as error:
            raise UsageError(
                "the TLS files cannot be read", found=error.strerror or str(error), where=self.certificate
            ) from error


def tls_files(certificate: str | Path | None, key: str | Path | None) -> TlsFiles | None:
    """The files of the two options, None without both; UsageError if one is missing."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise UsageError("TLS needs a certificate and its key", found=f"{given} alone", fix=f"add {missing} FILE")
    return TlsFiles(Path(certificate), Path(key))


def _check_readable(path: Path, what: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        if not path.is_file():
            raise UsageError(f"{what} is not a file", expected="a PEM file", where=path)
    except OSError as error:
        raise UsageError(
            f"{what} cannot be read", expected="a PEM file", found=error.strerror or str(error), where=path
        ) from error


def _try_handshake(server: ssl.SSLContext, certificate: Path) -> float:
    """The days for which the certificate is still valid; UsageError if a client that trusts it would refuse it."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate is its own anchor, whoever signed it
    try:
        client.load_verify_locations(certificate)
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
        waiting = list(ends)
        for _ in range(8):  # TLS 1.2 takes two round trips
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    continue
        found = ends[0].getpeercert()
    except ssl.SSLCertVerificationError as error:
        late, early = error.verify_code == EXPIRED, error.verify_code == NOT_YET
        message = "has expired" if late else "is not valid yet" if early else "is not one for a server"
        raise UsageError(
            f"the TLS certificate {message}", expected="a certificate that is valid now", found=error.verify_message,
            where=certificate, fix="renew it" if late else "check the clock of this machine" if early else None,
        ) from error  # fmt: skip
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            "a TLS handshake with the certificate fails", found=str(getattr(error, "reason", None) or error)[:200],
            where=certificate,
        ) from error  # fmt: skip
    until = ssl.cert_time_to_seconds(str((found or {}).get("notAfter", "Jan  1 00:00:00 1970 GMT")))
    return (until - time.time()) / 86_400
