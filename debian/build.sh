#!/bin/sh
# A Debian package of this tree in OUT, built from a copy, with wheels that are fetched once. Run it in the tree:
# debian/build.sh OUT [VERSION]
set -eu
out=$(realpath -m "$1")
version=${2:-}
name=$(dpkg-parsechangelog -S Source)-$(dpkg-parsechangelog -S Version)
fetched=$(realpath -m "build/wheels/$(cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)")

mkdir -p "$out" build/wheels
work=$(mktemp -d "$out/.building-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/$name"
if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files -z -- . ':!tests'
else
    find . -type f -not -path './build/*' -not -path './tests/*' -print0
fi | xargs -0 sh -c 'for path; do [ ! -e "$path" ] || printf "%s\0" "$path"; done' sh |
    tar --create --null --files-from=- | tar --extract --directory "$work/$name"

# The packages of constraints.txt, and the pip that puts them in their place.
exec 9>build/wheels/.lock && flock 9
if [ ! -d "$fetched" ]; then
    rm -rf build/wheels/* "$work/fetched"
    /usr/bin/python3 -m venv --symlinks "$work/fetched/pip"
    (cd "$work/$name" && "$work/fetched/pip/bin/python3" -m pip wheel --quiet --disable-pip-version-check \
        --wheel-dir "$work/fetched" -c constraints.txt . tftpy 'setuptools>=68' wheel)
    rm -rf "$work"/fetched/bootd-* "$work/$name/build" "$work/$name"/*.egg-info
    mv "$work/fetched" "$fetched"
fi
flock --unlock 9

cd "$work/$name"
BOOTD_WHEELS="$fetched" BOOTD_PIP="$fetched/pip/bin/python3" BOOTD_VERSION="$version" \
    dpkg-buildpackage --build=binary --no-sign -d >"$work/log" 2>&1 || { tail -40 "$work/log" >&2; exit 1; }
mv "$work"/*.deb "$out"
ls "$out"/bootd_"${version:-$(dpkg-parsechangelog -S Version)}"_*.deb
