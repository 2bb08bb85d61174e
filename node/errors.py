"""Every error of a node, by whose fault it is. One table per server turns them into status and body.

KmstnError
├── RequestRefusedError            the caller's fault: nothing of the request was kept
│   ├── BadRequestError            400
│   └── NotAuthorisedError         401
├── CannotServeError               503: the request was right, this node cannot meet it now
│   ├── InsufficientKeyMaterialError
│   ├── NoRouteError
│   ├── UnsupportedExtensionError
│   └── ReplayedTransferError      503 and not 400: what came first may have been kept
├── OutcomeUnknownError            408: synchronous mode, and the keys may have been kept
├── PeerError                      a neighbouring node
│   ├── PeerRefusedError           answered 400 or 401: it kept nothing
│   │   └── PeerUnauthorisedError  401
│   └── PeerUncertainError         anything else: it may have kept the keys
├── DeviceError                    the QKD device beside this node
├── StoreError                     this node's own disk
│   ├── StoreMissingError          there is a data key, but not the store it belongs to
│   ├── StoreForeignError          the store was written under another data key
│   └── StoreDamagedError          what is in it is not what was put in
└── SealingError                   no data key, or a store that may not be served: `sealing/errors.py`
"""

from collections.abc import Mapping


class KmstnError(Exception):
    """Anything a node reports; the text never holds key bytes."""


class RequestRefusedError(KmstnError):
    """The caller asked for something it should not have; `details` names what, as {name: reason}."""

    def __init__(self, message: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})


class BadRequestError(RequestRefusedError):
    """The request's form or content is wrong; `slug` is the problem type of ETSI GS QKD 020."""

    def __init__(
        self, message: str, details: Mapping[str, str] | None = None, *, slug: str = "invalid-parameter"
    ) -> None:
        super().__init__(message, details)
        self.slug = slug


class NotAuthorisedError(RequestRefusedError):
    """The caller's certificate does not entitle it to this."""


class CannotServeError(KmstnError):
    """The node cannot meet a correct request now."""

    slug = "server-side-general-error"
    reason = "cannot_serve"


class InsufficientKeyMaterialError(CannotServeError):
    """Not enough link keys or pool blocks."""

    slug = "insufficient-key-material"
    reason = "insufficient_key_material"


class NoRouteError(CannotServeError):
    """No neighbour leads to the destination, or nobody advertises the SAE."""

    reason = "no_known_route"


class UnsupportedExtensionError(CannotServeError):
    """A member of `extension_mandatory` that this node does not implement."""

    slug = "unsupported-mandatory-extension"
    reason = "unsupported_mandatory_extension"


class ReplayedTransferError(CannotServeError):
    """A transfer ID that was accepted before."""

    reason = "replayed_transfer"


class OutcomeUnknownError(KmstnError):
    """What became of the keys is not known in the time that a neighbour is kept waiting."""


class PeerError(KmstnError):
    """A neighbouring node did not do what was asked."""


class PeerRefusedError(PeerError):
    """400 or 401: the neighbour kept no association with any key of the request."""


class PeerUnauthorisedError(PeerRefusedError):
    """401: it kept nothing, and may do what was asked once certificates are put right."""


class PeerUncertainError(PeerError):
    """No answer, or any other answer: the neighbour may have kept the keys."""


class DeviceError(KmstnError):
    """The QKD device is down, slow, empty, or answered nonsense."""


class StoreError(KmstnError):
    """The node's database cannot be opened, read or written."""


class StoreMissingError(StoreError):
    """No store, or an empty one, where there must be one: a new one would lose the keys in silence."""


class StoreForeignError(StoreError):
    """The store does not open under this data key."""


class StoreDamagedError(StoreError):
    """The store holds something else than was put in."""


def printable(text: str, limit: int = 300) -> str:
    """Make what others say fit for a line of the log and for JSON: no control characters, no lone surrogates."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:limit])
