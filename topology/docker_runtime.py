"""The Docker daemon behind the port `topology.engine.Engine`: the one file that imports docker.

Docker's client is not thread-safe, so each worker thread has its own, with the API version negotiated. What to create
or to remove is decided elsewhere. Files go in between creation and start, so that a remote daemon serves as well.
"""

import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimeIsUp
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.types import IPAMConfig, IPAMPool
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from topology.docker_host import daemon_address, is_remote, why_unreachable
from topology.engine import ContainerWish, EngineFacts, Finished, Found, FoundContainer, FoundNetwork, OutputSink
from topology.errors import EngineError, NotThere
from topology.images import BuildStopped
from topology.naming import LABEL_TESTBED
from topology.plan import Attachment, NetworkPlan

REQUEST_TIMEOUT_S = 60
IMAGE_PREFIX = "kmstn/"
# A small file that is read from a container is never larger than this.
READ_LIMIT_BYTES = 1 << 20


class DockerEngine:
    """Implements `topology.engine.Engine`; raises `EngineUnreachable` at the first call when no daemon answers."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def _api(self) -> Any:
        """This thread's client."""
        return self._client("brisk", REQUEST_TIMEOUT_S)

    def _client(self, manner: str, timeout_s: float | None) -> Any:
        if not hasattr(self._local, manner):
            try:
                settings = {"base_url": daemon_address(), **kwargs_from_env()}
                setattr(self._local, manner, docker.APIClient(version="auto", timeout=timeout_s, **settings))
            except (DockerException, RequestException) as error:
                raise why_unreachable(error) from error
        return getattr(self._local, manner)

    def _ask(self, method: str, *arguments: Any, patient: bool = False, **options: Any) -> Any:
        """Call the daemon; `patient` is for answers that come when a container or a build step has got so far."""
        api = self._client("patient", None) if patient else self._api
        try:
            return getattr(api, method)(*arguments, **options)
        except NotFound as error:
            raise NotThere(str(error.explanation or error).strip()) from error
        except APIError as error:
            raise EngineError(str(error.explanation or error).strip()) from error
        except (DockerException, RequestException) as error:
            raise EngineError(f"the Docker daemon does not answer: {error}") from error

    def facts(self) -> EngineFacts:
        """Ask the daemon about itself."""
        info, version = self._ask("info"), self._ask("version")
        return EngineFacts(
            server_version=str(version["Version"]),
            api_version=str(self._api.api_version),
            operating_system=str(info.get("OperatingSystem", "")),
            kernel=str(info.get("KernelVersion", "")),
            cpus=int(info.get("NCPU", 0)),
            memory_mib=int(info.get("MemTotal", 0)) >> 20,
            storage_path=str(info.get("DockerRootDir", "")),
            remote=is_remote(),
        )

    def containers(self, testbed: str | None = None) -> list[FoundContainer]:
        """List a testbed's containers, running or not; without a name, those of all testbeds."""
        found = self._ask("containers", all=True, filters={"label": _label(testbed)})
        return [_found_container(entry) for entry in found]

    def networks(self, testbed: str | None = None) -> list[FoundNetwork]:
        """List a testbed's networks; without a name, all networks that the daemon has."""
        filters = {"label": _label(testbed)} if testbed else None
        return [_found_network(entry) for entry in self._ask("networks", filters=filters)]

    def volumes(self, testbed: str | None = None) -> list[Found]:
        """List a testbed's named volumes; without a name, those of all testbeds."""
        found = self._ask("volumes", filters={"label": _label(testbed)})["Volumes"]
        return [Found(entry["Name"], entry["Labels"] or {}) for entry in found or ()]

    def create_network(self, plan: NetworkPlan) -> None:
        """Create a network as planned."""
        pool = IPAMPool(
            subnet=str(plan.subnet),
            gateway=str(plan.gateway) if plan.gateway else None,
            iprange=str(plan.dynamic_range) if plan.dynamic_range else None,
        )
        self._ask(
            "create_network",
            plan.name,
            driver="bridge",
            ipam=IPAMConfig(pool_configs=[pool]),
            options=dict(plan.options),
            labels=plan.labels,
            check_duplicate=True,
        )

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Create a named volume."""
        self._ask("create_volume", name, labels=dict(labels))

    def create_container(self, wish: ContainerWish) -> None:
        """Create a container, put its files and connect its networks; does not start it."""
        first, *others = wish.networks or (None,)
        networking = None
        if first:
            networking = self._api.create_networking_config({first.network: self._leg(first, wish.hostname)})
        self._ask(
            "create_container",
            wish.image,
            name=wish.name,
            hostname=wish.hostname,
            command=list(wish.command) if wish.command else None,
            environment=dict(wish.environment),
            labels=dict(wish.labels),
            user=wish.user,
            working_dir=wish.working_dir,
            ports=sorted({port.container_port for port in wish.ports}),
            host_config=self._host_config(wish),
            networking_config=networking,
        )
        if wish.files:
            self._ask("put_archive", wish.name, "/", _files_tar(wish))
        for attachment in others:
            if attachment:
                leg: dict[str, Any] = {"ipv4_address": str(attachment.address), "aliases": [wish.hostname]}
                self._ask("connect_container_to_network", wish.name, attachment.network, **leg)

    def _leg(self, attachment: Attachment, alias: str) -> Any:
        return self._api.create_endpoint_config(ipv4_address=str(attachment.address), aliases=[alias])

    def _host_config(self, wish: ContainerWish) -> Any:
        bindings: dict[int, list[tuple[str, int | None]]] = {}
        for port in wish.ports:
            bindings.setdefault(port.container_port, []).append((port.host_ip, port.host_port))
        return self._api.create_host_config(
            binds={mount.volume: {"bind": mount.path, "mode": "rw"} for mount in wish.volumes} or None,
            port_bindings=bindings,
            cap_drop=["ALL"],
            cap_add=list(wish.capabilities),
            security_opt=["no-new-privileges"],
            sysctls=dict(wish.sysctls),
            extra_hosts=dict(wish.extra_hosts),
            mem_limit=f"{wish.memory_mib}m" if wish.memory_mib else None,
            network_mode=wish.networks[0].network if wish.networks else "none",
        )

    def start(self, name: str) -> None:
        """Start a container; one that runs is left alone, a paused one goes on."""
        if self._ask("inspect_container", name)["State"]["Paused"]:
            self._ask("unpause", name)
        self._ask("start", name)

    def restart(self, name: str) -> None:
        """Stop and start a container."""
        self._ask("restart", name)

    def remove_container(self, name: str) -> None:
        """Kill and remove a container with its anonymous volumes; nothing happens if there is none."""
        with suppress(NotThere):
            self._ask("remove_container", name, force=True, v=True)

    def remove_network(self, name: str) -> None:
        """Remove a network after detaching whatever is still on it."""
        with suppress(NotThere):
            for container in self._ask("inspect_network", name)["Containers"] or {}:
                with suppress(NotThere):
                    self._ask("disconnect_container_from_network", container, name, force=True)
            self._ask("remove_network", name)

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; nothing happens if there is none."""
        with suppress(NotThere):
            self._ask("remove_volume", name)

    def attach(self, container: str, network: str, aliases: tuple[str, ...] = ()) -> str:
        """Give a container a further leg, and return its address there."""
        if network not in self._ask("inspect_container", container)["NetworkSettings"]["Networks"]:
            self._ask("connect_container_to_network", container, network, aliases=list(aliases))
        legs = self._ask("inspect_container", container)["NetworkSettings"]["Networks"]
        return str(legs[network]["IPAddress"] or legs[network]["IPAMConfig"].get("IPv4Address", ""))

    def log_tail(self, name: str, lines: int) -> list[str]:
        """Read the last lines a container wrote; none when there is no such container."""
        try:
            output: bytes = self._ask("logs", name, tail=lines)
        except NotThere:
            return []
        return output.decode(errors="replace").splitlines()

    def follow_log(self, name: str, lines: int) -> Iterator[str]:
        """Yield the last lines and then every new one until the container ends."""
        yield from _lines(self._ask("logs", name, tail=lines, stream=True, follow=True, patient=True))

    def read_file(self, name: str, path: str) -> bytes | None:
        """Read one small file of a container; None when it is not there."""
        try:
            chunks, _ = self._ask("get_archive", name, path)
        except EngineError:
            return None
        packed = b"".join(chunks)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            entry = archive.extractfile(archive.getmembers()[0])
            return entry.read(READ_LIMIT_BYTES) if entry else None

    def memory_mib(self, name: str) -> float | None:
        """Measure a running container's memory without the page cache that could be dropped; None when not running."""
        try:
            usage = self._ask("stats", name, stream=False, one_shot=True)["memory_stats"]
        except NotThere:
            return None
        if "usage" not in usage:
            return None
        detail = usage.get("stats", {})
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        return round(float(usage["usage"] - cache) / 2**20, 1)

    def run(self, wish: ContainerWish, tell: OutputSink) -> Finished:
        """Run a container to its end and remove it: stderr goes to `tell`, stdout is returned."""
        self._remove_finished(wish.name)
        try:
            self.create_container(wish)
            self._ask("start", wish.name)
            streams = {"stdout": False, "stderr": True, "stream": True, "follow": True}
            for line in _lines(self._ask("logs", wish.name, patient=True, **streams)):
                tell(line)
            exit_code = int(self._ask("wait", wish.name, patient=True)["StatusCode"])
            output: bytes = self._ask("logs", wish.name, stdout=True, stderr=False)
            return Finished(exit_code, output.decode(errors="replace"))
        finally:
            self.remove_container(wish.name)

    def _remove_finished(self, name: str) -> None:
        """Clear what a killed run left behind; one that still runs stays, and its name cannot be had."""
        with suppress(NotThere):
            if self._ask("inspect_container", name)["State"]["Running"]:
                raise EngineError(f"{name} is running already; wait for its end, or remove it: `docker rm -f {name}`")
            self.remove_container(name)

    def image_sizes(self) -> dict[str, int]:
        """Map every tag of this project's images to its size in bytes."""
        images = self._ask("images")
        tags = {tag: int(image["Size"]) for image in images for tag in image["RepoTags"] or ()}
        return {tag: size for tag, size in tags.items() if tag.startswith(IMAGE_PREFIX)}

    def has_image(self, tag: str) -> bool:
        """Whether the daemon holds an image of this name."""
        try:
            self._ask("inspect_image", tag)
        except NotThere:
            return False
        return True

    def build(self, context_tar: bytes, tag: str, build_args: Mapping[str, str]) -> Iterator[str]:
        """Build and tag the Dockerfile at the context's root, yielding output lines; raises `BuildStopped`."""
        stream = self._ask(
            "build",
            fileobj=io.BytesIO(context_tar),
            custom_context=True,
            tag=tag,
            buildargs=dict(build_args),
            rm=True,
            forcerm=True,
            decode=True,
            patient=True,
        )
        for event in stream:
            if "error" in event:
                raise BuildStopped(str(event["error"]).strip())
            yield from str(event.get("stream", "")).splitlines()

    def import_base(self, tar_path: Path, tag: str) -> None:
        """Make an image of a root file system, a tar file of this host."""
        repository, _, version = tag.partition(":")
        self._ask("import_image_from_file", str(tar_path), repository=repository, tag=version)
        if not self.has_image(tag):
            raise EngineError(f"the daemon did not import {tar_path.name} as {tag}")

    def pull(self, name: str, timeout_s: float) -> bool:
        """Fetch an image from its registry; false if that does not succeed in time."""
        repository, _, version = name.partition(":")
        worker = ThreadPoolExecutor(1)
        try:
            worker.submit(self._ask, "pull", repository, tag=version or "latest", patient=True).result(timeout_s)
        except (TimeIsUp, EngineError):
            return self.has_image(name)
        finally:
            worker.shutdown(wait=False)
        return self.has_image(name)

    def tag(self, name: str, new_tag: str) -> None:
        """Give an image of the daemon a further name."""
        repository, _, version = new_tag.partition(":")
        self._ask("tag", name, repository, version)


def _label(testbed: str | None) -> str:
    return f"{LABEL_TESTBED}={testbed}" if testbed else LABEL_TESTBED


def _found_container(entry: Mapping[str, Any]) -> FoundContainer:
    legs = entry["NetworkSettings"]["Networks"] or {}
    return FoundContainer(
        name=entry["Names"][0].lstrip("/"),
        labels=entry["Labels"] or {},
        state=entry["State"],
        image=entry["Image"],
        networks={name: leg["NetworkID"] for name, leg in legs.items()},
    )


def _found_network(entry: Mapping[str, Any]) -> FoundNetwork:
    pools = (entry.get("IPAM") or {}).get("Config") or ()
    subnets = tuple(IPv4Network(pool["Subnet"]) for pool in pools if ":" not in pool.get("Subnet", ":"))
    return FoundNetwork(entry["Name"], entry["Labels"] or {}, entry["Id"], subnets)


def _files_tar(wish: ContainerWish) -> bytes:
    """Pack the files with the folders they need; folders directly under the root are the image's own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = {folder for file in wish.files for folder in list(PurePosixPath(file.path).parents)[:-2]}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(str(folder).lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for file in wish.files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode, entry.uid = len(file.content), file.mode, file.uid
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")
