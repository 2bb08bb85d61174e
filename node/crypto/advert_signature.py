"""Signatures of adverts: ECDSA over the serialised body, with the key of the node's own certificate."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from node.wire.federation import SignedAdvert

_LABEL = b"kmstn advert v1\0"


class AdvertSigner:
    """Signs what this node says of itself."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey, certificate_der: bytes) -> None:
        self._private_key = private_key
        self._certificate_der = certificate_der

    def sign(self, body: bytes) -> SignedAdvert:
        """Return the body with signature and certificate."""
        signature = self._private_key.sign(_LABEL + body, ec.ECDSA(hashes.SHA256()))
        return SignedAdvert(body=body, signature=signature, certificate=self._certificate_der)


def signature_is_valid(advert: SignedAdvert) -> bool:
    """Tell whether the certificate's key signed the body; who the certificate belongs to is checked elsewhere."""
    try:
        public_key = x509.load_der_x509_certificate(advert.certificate).public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            return False
        public_key.verify(advert.signature, _LABEL + advert.body, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True
