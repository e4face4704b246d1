"""docker/Dockerfile built and run without Docker: the file's own steps, in roots made of overlays.

In place of the base image stands this machine's own root, with the Python of the tests at /usr/local, where
Python's images have it. Each stage writes a layer of its own over that. RUN is run in it by root, as Docker
does; a container runs in it read-only, as the user, without capabilities or a way to more rights, and sees
neither the tests' folders nor anybody's home. So this proves the steps, not the base image. Needs root.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct, field

from support.dockerfile import Instruction, context_files, expanded, pairs, stages, words

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
PYTHON = Path(sys.base_prefix)
IS_IN_USR = Path("/usr") == PYTHON
PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
HIDDEN = ("/root", "/home", "/tmp", "/mnt", "/var/tmp", "/run", "/dev")  # noqa: S108  # hidden, not used
DEVICES = ("null", "zero", "random", "urandom")
FROM_OUTSIDE = (
    "PIP_",
    "SSL_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)


def why_not() -> str:
    """Why images cannot be built here; empty where they can."""
    if os.geteuid() != 0:
        return "images are built by root"
    missing = [name for name in ("unshare", "nsenter", "setpriv", "chroot") if shutil.which(name) is None]
    return f"images are built with {', '.join(missing)}" if missing else ""


class Image(Struct):
    """A built stage: its layer, and what it says of how to run it."""

    layer: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    labels: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """The place in the layer of an absolute path, or of one below the working directory."""
        return self.layer / os.path.normpath(f"{self.workdir}/{path}" if path[0] != "/" else path).lstrip("/")


def build(folder: Path, **arguments: str) -> Image:
    """Builds docker/Dockerfile (half a minute); packages come by pip from where this machine gets them."""
    built: dict[str, Image] = {}
    for stage in stages(DOCKERFILE.read_text("utf-8")):
        image = built[stage.name] = Image(folder / f"stage-{stage.name}")
        _stand_in(image)
        for instruction in stage.instructions:
            _carry_out(instruction, image, built, arguments)
    return image


def _stand_in(image: Image) -> None:
    """What the base image has beside this machine's root: `python` at /usr/local, and its shared library."""
    image.layer.mkdir(parents=True)
    if IS_IN_USR:
        image.inside("/usr/local/bin").mkdir(parents=True)
        image.inside("/usr/local/bin/python").symlink_to("/usr/bin/python3")
    else:
        _run(image, ["/sbin/ldconfig"])


def _carry_out(step: Instruction, image: Image, built: dict[str, Image], arguments: dict[str, str]) -> None:
    known = image.arguments | image.env
    match step.name:
        case "COPY":
            _copy(step, image, built)
        case "RUN":
            _run(image, words(step.rest))
        case "ARG":
            name, _, default = step.rest.partition("=")
            image.arguments[name] = arguments.get(name, default)
        case "ENV":
            image.env |= pairs(step.rest, known)
        case "LABEL":
            image.labels |= pairs(step.rest, known)
        case "WORKDIR":
            image.workdir = expanded(step.rest, known)
            image.inside(image.workdir).mkdir(parents=True, exist_ok=True)
        case _:
            _note(step, image)


def _note(step: Instruction, image: Image) -> None:
    match step.name:
        case "USER":
            image.user = step.rest
        case "VOLUME":
            image.volumes.append(step.rest)
        case "ENTRYPOINT":
            image.entrypoint = words(step.rest)
        case "CMD":
            image.command = words(step.rest)
        case "HEALTHCHECK":
            image.healthcheck = words(step.rest.removeprefix("CMD").strip())
        case _:
            raise AssertionError(f"{step.name} is not known here")


def _copy(step: Instruction, image: Image, built: dict[str, Image]) -> None:
    assert set(step.flags) <= {"from"}, step
    *sources, target = step.rest.split()
    for source in sources:
        to = image.inside(target)
        if stage := step.flags.get("from"):
            shutil.copytree(built[stage].inside(source), to, symlinks=True, dirs_exist_ok=True)
        else:
            files = [file for file in context_files(ROOT) if file.is_relative_to(source)]
            assert files, f"{source}: not in the build context"
            if files == [Path(source)] and target.endswith("/"):
                to /= files[0].name
            for file in files:
                end = to / file.relative_to(source)
                end.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, end)
        for path in (to, *to.rglob("*")):
            os.chown(path, 0, 0, follow_symlinks=False)


def _run(image: Image, command: Sequence[str]) -> None:
    """RUN: as root, into the image's layer."""
    outside = {name: value for name, value in os.environ.items() if name.startswith(FROM_OUTSIDE)}
    step = ["env", "-i", "-C", image.workdir, *_set(outside | image.env | image.arguments), *command]
    done = subprocess.run(_rooted(image, [], step), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def _set(env: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]


def _rooted(image: Image, volumes: Sequence[tuple[Path, str]], command: Sequence[str]) -> list[str]:
    """The command in mounts of its own, with the image as its root; with volumes, they alone can be written.

    Several may be there at once: index=off, or the kernel would want each to have a layer of its own.
    """
    work, root = (image.layer.with_name(f"{image.layer.name}.{name}") for name in ("work", "root"))
    for folder in (work, root):
        folder.mkdir(exist_ok=True)
    hidden = [folder for folder in HIDDEN if Path(folder).is_dir()]
    if not any(ROOT.is_relative_to(folder) for folder in hidden):
        hidden.append(str(ROOT))
    lines = [
        f"mount -t overlay overlay -o lowerdir=/,upperdir={image.layer},workdir={work},index=off {root}",
        f"mount -t proc proc {root}/proc",
        *(f"mount -t tmpfs -o mode=1777 tmpfs {root}{folder}" for folder in hidden),
    ]
    for device in DEVICES:
        lines += [f"touch {root}/dev/{device}", f"mount --bind /dev/{device} {root}/dev/{device}"]
    if not IS_IN_USR:
        lines.append(f"mount -o bind,ro {PYTHON} {root}/usr/local")
    if volumes:
        lines += [f"mount -o remount,ro {root}{folder}" for folder in ("", *hidden)]
    lines += [f"mount --bind {folder} {root}{place}" for folder, place in volumes]
    lines.append(f"exec chroot {root} {shlex.join(command)}")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", "\n".join(lines)]


class Pod(Struct):
    """Containers that share a loopback of their own, as in a Kubernetes pod, or by network_mode."""

    image: Image
    process: "subprocess.Popen[bytes]"

    def sharing(self, command: Sequence[str]) -> list[str]:
        """The command, on the pod's loopback."""
        return ["nsenter", "--net", "--target", str(self.process.pid), "--", *command]

    def container(
        self, volume: Path, command: Sequence[str], *, entrypoint: Sequence[str] | None = None, **env: str
    ) -> list[str]:
        """Runs the image: read-only, but for the volume; as its user, without rights."""
        image = self.image
        user, _, group = image.user.partition(":")
        confined = [
            *("setpriv", "--reuid", user, "--regid", group, "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"),
            *("env", "-i", "-C", image.workdir, *_set(image.env | env)),
            *(image.entrypoint if entrypoint is None else entrypoint),
            *command,
        ]
        (place,) = image.volumes
        return self.sharing(_rooted(image, [(volume, place)], confined))

    def volume(self, folder: Path) -> Path:
        """A new volume, as Docker makes it: with the content and owner of the image's folder in its place."""
        (place,) = self.image.volumes
        model = self.image.inside(place)
        shutil.copytree(model, folder)
        shutil.copystat(model, folder)
        os.chown(folder, model.stat().st_uid, model.stat().st_gid)
        return folder


_HOLD = """
import fcntl, socket, struct
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
print(flush=True)
input()
"""


@contextmanager
def pod(image: Image) -> Iterator[Pod]:
    """A pod of containers of the image; whoever still runs in it is to be ended before."""
    hold = ["unshare", "--net", sys.executable, "-c", _HOLD]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"\n"  # its loopback is up
        try:
            yield Pod(image, process)
        finally:
            process.communicate(b"\n")
