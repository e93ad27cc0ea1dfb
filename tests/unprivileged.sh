#!/usr/bin/env bash
# As root: a small tree, built and bundled by an ordinary user, over a libvirt session and directly. Afterwards nothing
# of that user may be left: no process, no socket, no temporary file.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
user=sfvm-nox-$$
home=$(mktemp -d /tmp/sfvm-nox-XXXXXX)

finish() {
    status=$?
    pkill -KILL -u "$user" 2>/dev/null || :
    while pgrep -u "$user" >/dev/null; do sleep 0.1; done
    userdel "$user" 2>/dev/null || :
    rm -rf "$home"
    exit "$status"
}
useradd --home-dir "$home" --no-create-home --shell /bin/bash "$user"
trap finish EXIT
# The checkout may lie where the user cannot look: a wheel is what they would install anyway.
"$here/.venv/bin/python" -m pip wheel -q --no-deps --wheel-dir "$home/wheel" "$here"
/usr/bin/python3 -m venv --system-site-packages "$home/venv"
"$home/venv/bin/python" -m pip install -q --disable-pip-version-check "$home"/wheel/*.whl
mkdir -m 700 "$home/run" "$home/tmp"
chown -R "$user" "$home"
chmod 755 "$home"

as_user() {
    runuser -u "$user" -- env -i HOME="$home" PATH="$home/venv/bin:/usr/bin:/bin:/usr/sbin" XDG_RUNTIME_DIR="$home/run" \
        TMPDIR="$home/tmp" SFVM_MEMORY=768 LANG=C.UTF-8 bash -c 'cd && "$@"' bash "$@"
}
expect() { [ "$1" = "$2" ] || { echo "expected $2, got $1" >&2; exit 1; }; }

as_user sfvm doctor
for connection in direct qemu:///session; do
    export_home=repository-${connection//[^a-z]/}
    options=(--repository "$home/$export_home" --connection "$connection")
    echo "== $connection"
    as_user sfvm "${options[@]}" build hello
    again=$(as_user sfvm "${options[@]}" build hello 2>&1)
    case $again in *"nothing to do"*) ;; *) echo "the second build did something: $again" >&2; exit 1 ;; esac
    greeting=$(as_user sfvm "${options[@]}" run hello -- cat /etc/motd)
    expect "$greeting" "Hello from a snapshot, world."
    as_user sfvm "${options[@]}" bundle hello qcow2 raw --set boot=none --output "$home/out-$export_home"
    as_user sfvm "${options[@]}" bundle hello tar --output "$home/out-$export_home"
    for bundle in "$home/out-$export_home"/*/; do (cd "$bundle" && sha256sum --quiet --check SHA256SUMS); done
    as_user sfvm "${options[@]}" verify
done

# libvirt's session daemon stays for a while after its last client; everything else must be gone.
left=$(pgrep -u "$user" -a | grep -v -E 'libvirtd|virtqemud|virtlogd|dbus' || :)
expect "$left" ""
expect "$(ls -A "$home/tmp")" ""
expect "$(find /tmp -maxdepth 1 -user "$user" -not -path "$home")" ""
echo "1 passed, 0 failed"
