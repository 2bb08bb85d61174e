"""What one emulated QKD device is told at its start: a JSON file that the testbed plans and puts in place."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SETTINGS_PATH = Path("/etc/qkd-device/settings.json")


class ProfileSettings(BaseModel):
    """How a vendor's device behaves; the defaults are the generic profile. Sizes in bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "generic"
    secret_key_rate_bps: float = Field(default=2500.0, ge=0, description="of the whole link, both directions together")
    key_size: int = Field(default=256, ge=8, multiple_of=8)
    storage_keys: int = Field(default=2000, ge=1, description="per direction; production pauses when full")
    initial_keys: int = Field(default=500, ge=0, description="per direction, as after some hours of operation")
    max_keys_per_request: int = Field(default=128, ge=1)
    api_latency_ms: float = Field(default=5.0, ge=0, description="added to each ETSI 014 answer")
    api_latency_per_key_ms: float = Field(default=0.2, ge=0)


class EmulatedDeviceSettings(BaseModel):
    """Everything one end of a QKD link is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    domain: str
    link: str
    end: Literal["a", "b"]
    node: str = Field(description="SAE ID of the node beside this device")
    peer_device: str
    peer_node: str = Field(description="SAE ID of the node at the link's other end")
    lit_at: float = Field(description="Unix time at which the fibre went into operation, the same at both ends")
    profile: ProfileSettings = ProfileSettings()
    fibre_seed_path: Path = Path("/etc/qkd-device/fibre.seed")
    state_dir: Path = Path("/var/lib/qkd-device")
    identity_dir: Path = Path("/etc/qkd-device/identity")
    bind: str = "0.0.0.0"  # noqa: S104 - a container listens on its site network and nowhere else.
    port: int = 8443
