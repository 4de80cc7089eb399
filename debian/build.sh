#!/bin/sh
# A Debian package of this tree in OUT, built from a copy, with wheels that are fetched once. Run it in the tree:
# debian/build.sh OUT [VERSION]
set -eu
out=$(realpath -m "$1")
version=${2:-}
name=$(dpkg-parsechangelog -S Source)-$(dpkg-parsechangelog -S Version)
wheels="$out/wheels-$(cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)"

mkdir -p "$out"
exec 9>"$out/.lock" && flock 9
work=$(mktemp -d "$out/.building-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/$name"
if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files -z -- . ':!tests'
else
    find . -type f -not -path './build/*' -not -path './tests/*' -print0
fi | xargs -0 sh -c 'for path; do [ ! -e "$path" ] || printf "%s\0" "$path"; done' sh |
    tar --create --null --files-from=- | tar --extract --directory "$work/$name"
cd "$work/$name"
if [ ! -d "$wheels" ]; then
    rm -rf "$out"/wheels-*
    /usr/bin/python3 -m venv "$work/tools"
    "$work/tools/bin/pip" wheel --quiet --disable-pip-version-check --wheel-dir "$work/wheels" \
        -c constraints.txt . tftpy 'setuptools>=68' wheel
    rm "$work"/wheels/bootd-*
    mv "$work/wheels" "$wheels"
fi
BOOTD_WHEELS="$wheels" BOOTD_VERSION="$version" dpkg-buildpackage --build=binary --no-sign -d >"$work/log" 2>&1 ||
    { tail -40 "$work/log" >&2; exit 1; }
mv "$work"/*.deb "$out"
ls "$out"/bootd_"${version:-$(dpkg-parsechangelog -S Version)}"_*.deb
