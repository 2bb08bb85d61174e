"""Putting one emulated device together; the only place that knows the real clock and the real files."""

import asyncio
import logging
import signal
import time
from pathlib import Path

from fastapi import FastAPI

from emulators.device import Device, first_position
from emulators.etsi014_api import Etsi014Api, make_application
from emulators.fibre import Fibre
from emulators.settings import EmulatedDeviceSettings
from emulators.store import Store
from node.mutual_tls.client_certificate_protocol import serve
from node.mutual_tls.contexts import AUTHORITIES_FOLDER, server_context
from node.mutual_tls.identity import TrustAnchors

logger = logging.getLogger("qkd-device")


def make_device_application(settings: EmulatedDeviceSettings, store: Store) -> FastAPI:
    """Build the ASGI application of a device on its files; raises OSError, ValueError for an unusable one."""
    fibre = Fibre(settings.link, settings.fibre_seed_path.read_bytes())
    device = Device(settings, fibre, store.position() or first_position(settings), store.fetched())
    anchors = TrustAnchors.load(settings.identity_dir / AUTHORITIES_FOLDER, [settings.domain])
    return make_application(Etsi014Api(device, store, anchors, settings.profile, time.time))


async def run(settings: EmulatedDeviceSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    store = Store(settings.state_dir)
    application = make_device_application(settings, store)
    context = server_context(settings.identity_dir, [settings.domain], peer_plane=False)
    server = await serve(application, context, settings.bind, settings.port)
    logger.info("%s serves end %s of link %s on port %d", settings.device, settings.end, settings.link, server.port)
    await stopping.wait()
    await server.stop()
    store.close()


def load_settings(path: Path) -> EmulatedDeviceSettings:
    """Read a settings file; raises OSError, pydantic.ValidationError."""
    return EmulatedDeviceSettings.model_validate_json(path.read_bytes())
