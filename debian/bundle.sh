#!/bin/sh
# The program and the Python packages that it needs, in a virtual environment below ROOT/usr/lib/bootd.
# BOOTD_WHEELS: a folder of wheels, for a build without a network. BOOTD_PIP: a Python that has pip.
set -eu
root=$1
home=/usr/lib/bootd
tools=debian/tools

rm -rf "$tools" "$root$home"
if [ -z "${BOOTD_PIP:-}" ]; then
    /usr/bin/python3 -m venv "$tools"
    BOOTD_PIP=$tools/bin/python3
fi
/usr/bin/python3 -m venv --without-pip --symlinks "$root$home"
if [ -n "${BOOTD_WHEELS:-}" ]; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="$BOOTD_WHEELS"
fi
"$BOOTD_PIP" -m pip --python "$root$home/bin/python3" install --quiet --disable-pip-version-check \
    --no-compile --only-binary :all: --no-binary bootd -c constraints.txt . tftpy

# Nothing may tell where it was built, nor need that place.
site=$(echo "$root$home"/lib/python3.*/site-packages)
rm -f "$root$home"/bin/* "$site"/bootd-*.dist-info/direct_url.json
ln -s /usr/bin/python3 "$root$home/bin/python3"
ln -s python3 "$root$home/bin/python"
printf '#!%s/bin/python3\nimport sys\n\nfrom bootd.cli.main import main\n\nsys.exit(main())\n' "$home" >"$root$home/bin/bootd"
chmod 755 "$root$home/bin/bootd"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$root$home/pyvenv.cfg"
# Last in the search: what Debian has and this package only recommends (scapy, for `bootd doctor`).
echo /usr/lib/python3/dist-packages >"$site/debian.pth"
find "$root$home" -name __pycache__ -prune -exec rm -rf {} +
find "$root$home" -type f -name '*.so' -exec chmod 644 {} +
mkdir -p "$root/usr/bin"
ln -s ../lib/bootd/bin/bootd "$root/usr/bin/bootd"
rm -rf "$tools"
