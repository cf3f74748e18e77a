#!/usr/bin/env bash
# Build everything for 64-bit ARM (aarch64) and run tests of it under emulation. For an x86-64 machine with Debian or Ubuntu; needs root where
# something must be installed. Half an hour or more, most of it compiling.
#   scripts/aarch64.sh
# The standard library comes from `rustup target add`. Where rustup can't fetch it, Debian's own Rust is installed into a folder and runs there with
# this machine's crates. Everything it writes is in $AARCH64_DIR (default /tmp/panscreen-aarch64), packages and rustup's target aside.
set -euo pipefail
cd "$(dirname "$0")/.."
triple=aarch64-unknown-linux-gnu
dir=${AARCH64_DIR:-/tmp/panscreen-aarch64}
suite=trixie # its backports have a Rust that is new enough
emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cross=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)

fail() {
    echo "error: $*" >&2
    exit 2
}

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Install what this machine lacks.
ensure() {
    dpkg -s "$@" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] || fail "these packages are needed: $*; install them, or start this as root"
    apt-get update -qq >&2 && install "$@" || fail "apt-get can't install $*"
}

# Whether the Rust that is here compiles for aarch64; rustup is asked for it once.
has_target() {
    command -v cargo >/dev/null || return
    [ -d "$(rustc --print target-libdir --target $triple)" ] || timeout 300 rustup target add $triple >&2
}

# A folder with Debian's Rust for both architectures.
chroot_make() {
    [ "$(id -u)" = 0 ] || fail "rustup can't fetch $triple; start this as root for Debian's Rust"
    ensure debootstrap
    local mirror
    # This machine's own mirror where it is a Debian, else debootstrap's default.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | sed -n 1p)
    rm -rf "$dir/root"
    mkdir -p "$dir"
    debootstrap --variant=minbase $suite "$dir/root" ${mirror:+"$mirror"} >&2
    sed -n "s/ $suite / $suite-backports /p" "$dir/root/etc/apt/sources.list" >"$dir/root/etc/apt/sources.list.d/backports.list"
    chroot "$dir/root" dpkg --add-architecture arm64
    chroot "$dir/root" apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive chroot "$dir/root" apt-get install -y -qq --no-install-recommends -t $suite-backports \
        ca-certificates cargo gcc libc6-dev libstd-rust-dev:arm64 rust-clippy rustc "${cross[@]}" >&2
    touch "$dir/root/made"
}

# This script inside that folder. The mounts end with the process; the sources are read-only.
chroot_run() {
    # Of cargo's folder only the crates: its programs are rustup's, and cargo would prefer them.
    local crates=${CARGO_HOME:-$HOME/.cargo}/registry
    mkdir -p "$crates" "$dir/target" "$dir/root"/{source,target,cargo/registry}
    unshare --mount sh -euc '
        mount --bind "$PWD" "$1/source"
        mount -o remount,bind,ro "$1/source"
        mount --bind "$2" "$1/target"
        mount --bind "$3" "$1/cargo/registry"
        mount --rbind /dev "$1/dev"
        mount -t proc proc "$1/proc"
        cp /etc/resolv.conf "$1/etc"
        exec chroot "$1" env PATH=/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/cargo CARGO_TARGET_DIR=/target /source/scripts/aarch64.sh steps
    ' sh "$dir/root" "$dir/target" "$crates"
}

# Run a command and keep its name, time and end for the summary.
step() {
    local start=$SECONDS code=0
    echo "+ $*"
    "$@" || code=$?
    summary+=("$([ $code = 0 ] && echo passed || echo "FAILED, exit code $code"), $((SECONDS - start)) s: $*")
    [ $code = 0 ] || failed=1
}

steps() {
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$emulator
    export CARGO_TERM_COLOR=never
    local cargo=(--release --locked --target $triple)
    summary=() failed=0
    rustc --version
    qemu-aarch64 --version | sed -n 1p
    # Always the whole workspace where Burn is needed: another choice of packages has other features and builds it once more.
    step cargo clippy "${cargo[@]}" --workspace --all-targets -- -D warnings
    step cargo build "${cargo[@]}" --workspace
    step $emulator "$CARGO_TARGET_DIR/$triple/release/panscreen" --version
    # NEON and plain Rust are both held against naive loops; then whole networks on each, against numbers of MONAI and PyTorch.
    step cargo test "${cargo[@]}" --workspace --lib -- kernels golden
    step env PANSCREEN_ISA=portable cargo test "${cargo[@]}" --workspace --lib -- kernels golden
    step cargo test "${cargo[@]}" -p panscreen-envs
    printf '\n'
    printf '%s\n' "${summary[@]}"
    return $failed
}

case ${1:-} in
    steps) steps ;;
    '')
        [ "$(uname -m)" = x86_64 ] && command -v apt-get >/dev/null || fail "this is for an x86-64 machine with Debian or Ubuntu"
        if has_target; then
            ensure "${cross[@]}"
            export CARGO_TARGET_DIR=$dir/target
            steps
        else
            [ -e "$dir/root/made" ] || chroot_make
            chroot_run
        fi
        ;;
    *) fail "usage: $0" ;;
esac
