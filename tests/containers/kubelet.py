"""What a node of Kubernetes does with a pod: its network, volumes, containers, probes and end.

Each pod has a network namespace of its own on one bridge, with the host as its gateway and name
server. There is no scheduler, and no restart after a failed probe.
"""

import base64
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import httpx
from containers.kuberay import Object, quantity
from containers.names import NameServer
from containers.podman import Container, call, podman, wait_for


def run(*command: str) -> str:
    """Return what a command of the host prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class Network:
    """A bridge with a network namespace for each pod, while it is entered."""

    def __init__(self) -> None:
        self.id = f"dti{secrets.token_hex(3)}"
        self._subnet = f"10.231.{os.getpid() % 250}"
        self._pods = 0
        self._lock = threading.Lock()
        self.gateway = f"{self._subnet}.1"
        """The address of the host, where the tests listen."""

    def __enter__(self) -> "Network":
        run("ip", "link", "add", self.id, "type", "bridge")
        run("ip", "addr", "add", f"{self.gateway}/24", "dev", self.id)
        run("ip", "link", "set", self.id, "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in range(self._pods):
            subprocess.run(["ip", "netns", "delete", f"{self.id}-{number}"], check=False)
        run("ip", "link", "delete", self.id)

    def add(self) -> tuple[str, str]:
        """Return the name and the address of a new namespace."""
        with self._lock:
            number = self._pods
            self._pods += 1
        name, address = f"{self.id}-{number}", f"{self._subnet}.{number + 10}"
        veth = f"{self.id}v{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", veth, "master", self.id, "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "route", "add", "default", "via", self.gateway)
        return name, address


class Node:
    """A node: the network, the Secrets and ConfigMaps of a namespace, and the pods on it."""

    def __init__(self, folder: Path, images: Mapping[str, str]) -> None:
        """Prepare a node.

        folder: for volumes.
        images: the id of each image that pods name.
        """
        self.network = Network()
        self.hosts: dict[str, str] = {}
        """Names of services, with their addresses."""
        self.secrets: dict[str, dict[str, str]] = {}
        self.role: dict[str, str] = {}
        """Variables that stand for the credentials of the node or of a service account."""
        self.folder = folder
        self.images = images
        self._stack = ExitStack()

    def __enter__(self) -> "Node":
        self._stack.enter_context(self.network)
        self._stack.enter_context(closing(NameServer(self.network.gateway, self.hosts)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def apply(self, objects: list[Object]) -> None:
        """Store the Secrets and ConfigMaps among rendered objects; running pods see the change."""
        for each in objects:
            name = each["metadata"]["name"]
            if each["kind"] == "Secret":
                data = each.get("data", {})
                decoded = {key: base64.b64decode(value).decode() for key, value in data.items()}
                self.secrets[name] = decoded | each.get("stringData", {})
            elif each["kind"] == "ConfigMap":
                self._write(name, each["data"])

    def _write(self, name: str, data: Mapping[str, str]) -> None:
        """Write a ConfigMap as the kubelet does: a link to the newest folder is replaced."""
        folder = self.configmap(name)
        folder.mkdir(parents=True, exist_ok=True)
        version = folder / f"..{time.time_ns()}"
        version.mkdir()
        for key, text in data.items():
            (version / key).write_text(text)
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(f"..data/{key}")
        (folder / "..data.new").symlink_to(version.name)
        (folder / "..data.new").replace(folder / "..data")

    def configmap(self, name: str) -> Path:
        return self.folder / "configmaps" / name

    def start(
        self, name: str, template: Object, service: str = "", ports: Mapping[int, int] | None = None
    ) -> "Pod":
        """Start a pod.

        service: the host name of a Service that has this pod alone.
        ports: ports of the Service, with those of the pod.
        """
        namespace, address = self.network.add()
        if service:
            self.hosts[service] = address
        for port, target in (ports or {}).items():
            redirect = ("--dport", str(port), "-j", "REDIRECT", "--to-ports", str(target))
            rule = ("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", *redirect)
            run("ip", "netns", "exec", namespace, *rule)
        pod = Pod(self, name, template, namespace, address)
        self._stack.callback(pod.remove)
        pod.start()
        return pod


class Pod:
    """A pod of a node."""

    def __init__(
        self, node: Node, name: str, template: Object, namespace: str, address: str
    ) -> None:
        self.name, self.address = name, address
        self.spec: Object = template["spec"]
        self._node, self._namespace = node, namespace
        self._id = f"{namespace}-{name}"
        self._names: list[str] = []

    def start(self) -> None:
        """Start the containers in the order of a kubelet: sidecars, then all others."""
        assert self.spec["enableServiceLinks"] is False
        # Heads that scale have an account of their own, with a token for the autoscaler.
        scales = self.spec["serviceAccountName"].endswith("-head")
        assert self.spec["automountServiceAccountToken"] is scales
        # It holds the namespaces that the containers share, as Kubernetes' own pause container.
        pause = [f"--network=ns:/run/netns/{self._namespace}", "--read-only", "--ipc=shareable"]
        pause += [f"--dns={self._node.network.gateway}", "--dns-search=."]
        if memory := self._memory_volume():
            pause.append(f"--shm-size={int(quantity(memory['emptyDir']['sizeLimit']))}")
        self._run("pause", self.spec["containers"][0]["image"], ["sleep", "infinity"], pause)
        for container in self.spec.get("initContainers", []):
            is_sidecar = container.get("restartPolicy") == "Always"
            self._start(container, restarts=is_sidecar, waits=not is_sidecar)
        for container in self.spec["containers"]:
            self._start(container, restarts=self.spec.get("restartPolicy", "Always") == "Always")

    def container(self, name: str) -> Container:
        return Container(f"{self._id}-{name}")

    @property
    def logs(self) -> str:
        """The logs of all containers."""
        names = [name for name in self._names if name != "pause"]
        return "\n".join(f"{name}: {self.container(name).log[-3000:]}" for name in names)

    def probe(self, container: str, kind: str) -> bool:
        """Return whether a probe of a container succeeds once."""
        (spec,) = [each for each in self._containers() if each["name"] == container]
        probe = spec[kind]
        if "exec" in probe:
            return self.container(container).succeeds(*probe["exec"]["command"])
        port = probe["httpGet"]["port"]
        for named in spec.get("ports", []):
            port = named["containerPort"] if named.get("name") == port else port
        url = f"http://{self.address}:{port}{probe['httpGet']['path']}"
        try:
            return httpx.get(url, timeout=probe.get("timeoutSeconds", 1)).status_code < 400
        except httpx.TransportError:
            return False

    def wait_for(self, container: str, kind: str, timeout_s: float = 300) -> None:
        """Wait until a probe succeeds."""
        wait_for(lambda: self.probe(container, kind), lambda: self.logs, timeout_s)

    def wait_until_ended(self, container: str, timeout_s: float = 300) -> int:
        """Return the exit code of a container."""
        wait_for(lambda: not self._is_running(container), lambda: self.logs, timeout_s)
        return int(self.container(container).state["ExitCode"])

    def _is_running(self, container: str) -> bool:
        return bool(self.container(container).state["Running"])

    def terminate(self) -> float:
        """End the pod as a kubelet does, and return the seconds that its containers took.

        The containers get SIGTERM after their preStop, and SIGKILL after the grace period;
        sidecars come after them.
        """
        began = time.monotonic()
        grace_s = self.spec.get("terminationGracePeriodSeconds", 30)
        with ThreadPoolExecutor() as threads:
            names = [each["name"] for each in self.spec["containers"]]
            list(threads.map(lambda name: self._stop(name, grace_s), names))
        seconds = time.monotonic() - began
        for each in self.spec.get("initContainers", []):
            self._stop(each["name"], 10)
        return seconds

    def _stop(self, name: str, grace_s: float) -> None:
        podman("stop", f"--time={grace_s}", f"{self._id}-{name}", timeout_s=grace_s + 60)

    def remove(self) -> None:
        """Kill all containers."""
        # The others depend on the one that holds the namespaces.
        call("rm", "--force", "--depend", "--time=0", f"{self._id}-pause")

    def _containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def _start(self, container: Object, *, restarts: bool, waits: bool = False) -> None:
        options = [
            f"--network=container:{self._id}-pause",
            *self._rights(container),
            *self._environment(container),
            *self._mounts(container),
            *(["--restart=always"] if restarts else []),
        ]
        if self.spec.get("shareProcessNamespace"):
            options.append(f"--pid=container:{self._id}-pause")
        if memory := container.get("resources", {}).get("limits", {}).get("memory"):
            options.append(f"--memory={int(quantity(memory))}")
        # `command` of Kubernetes replaces an entry point, and `args` the arguments of the image.
        command = [*container.get("command", []), *container.get("args", [])]
        self._run(container["name"], container["image"], command, options)
        if waits:
            assert self.wait_until_ended(container["name"]) == 0, self.logs

    def _run(self, name: str, image: str, command: list[str], options: list[str]) -> None:
        self._names.append(name)
        podman(
            *("run", "--detach", "--pull=never", f"--name={self._id}-{name}", *options),
            *(self._node.images[image], *command),
        )

    def _rights(self, container: Object) -> list[str]:
        context = self.spec.get("securityContext", {}) | container.get("securityContext", {})
        assert context["runAsNonRoot"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        return [
            *("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"),
            *("--security-opt=no-new-privileges", f"--group-add={context['fsGroup']}"),
            f"--user={context['runAsUser']}:{context['runAsGroup']}",
        ]

    def _environment(self, container: Object) -> list[str]:
        variables = dict(self._node.role)
        for each in container.get("envFrom", []):
            folder = self._node.configmap(each["configMapRef"]["name"])
            variables |= {path.name: path.read_text() for path in _keys(folder)}
        variables |= {each["name"]: self._value(each) for each in container.get("env", [])}
        return [f"--env={name}={value}" for name, value in variables.items()]

    def _value(self, variable: Object) -> str:
        if "valueFrom" not in variable:
            return str(variable.get("value", ""))
        reference = variable["valueFrom"]["secretKeyRef"]
        return self._node.secrets[reference["name"]][reference["key"]]

    def _memory_volume(self) -> Object | None:
        """Return the volume in memory; podman shares its like with the namespace for IPC."""
        volumes = [each for each in self.spec.get("volumes", []) if "emptyDir" in each]
        memory = [each for each in volumes if each["emptyDir"].get("medium") == "Memory"]
        assert len(memory) <= 1
        return memory[0] if memory else None

    def _mounts(self, container: Object) -> list[str]:
        options: list[str] = []
        volumes = {each["name"]: each for each in self.spec.get("volumes", [])}
        memory = self._memory_volume()
        for mount in container.get("volumeMounts", []):
            if memory and mount["name"] == memory["name"]:
                assert mount["mountPath"] == "/dev/shm"
                options.append(f"--ipc=container:{self._id}-pause")
                continue
            source = self._source(volumes[mount["name"]])
            mode = "ro" if mount.get("readOnly") else "rw"
            options.append(f"--volume={source}:{mount['mountPath']}:{mode}")
        return options

    def _source(self, volume: Object) -> str:
        if "configMap" in volume:
            return str(self._node.configmap(volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            folder = self._node.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
        elif "hostPath" in volume:
            folder = self._node.folder / "host" / volume["hostPath"]["path"].lstrip("/")
        else:
            assert "emptyDir" in volume
            folder = self._node.folder / self._id / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return str(folder)


def _keys(folder: Path) -> Iterator[Path]:
    """Yield the files of a ConfigMap, apart from the links by which a kubelet replaces them."""
    return (path for path in folder.iterdir() if not path.name.startswith(".."))
