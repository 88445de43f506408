#!/usr/bin/env bash
# Makes dist/kintsugi-VERSION-TRIPLE.tar.gz, which needs nothing but glibc: the executable without libtorch, manual pages,
# completions and licences.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. packaging/common.sh

build_light
rm -rf "$work/dist" && mkdir -p "$work/dist/light" dist
"$python" -m zipfile -e "$work"/light/*.whl "$work/dist/light"
version=$(basename "$work"/light/*.whl | cut -d- -f2)
name=kintsugi-$version-$triple
folder=$work/dist/$name
mkdir -p "$folder/completions"
strip -o "$folder/kintsugi" "$work"/dist/light/*.data/scripts/kintsugi
chmod 755 "$folder/kintsugi"
"$folder/kintsugi" man "$folder/man/man1"
for shell in bash elvish fish zsh; do "$folder/kintsugi" completions "$shell" >"$folder/completions/kintsugi.$shell"; done
cp LICENSE CHANGELOG.md "$folder"
"$python" packaging/licences.py --no-default-features --features hub >"$folder/THIRD-PARTY-LICENSES.txt"
needed=$("$python" packaging/wheel.py glibc "$folder/kintsugi")
if [ "$(printf '%s\n' "$needed" "$glibc" | sort -V | tail -n 1)" != "$glibc" ]; then
    printf 'error: the executable needs glibc %s, and %s was meant\n' "$needed" "$glibc" >&2
    exit 1
fi
# The same files make the same archive.
tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct 2>/dev/null || echo 0)" \
    --mode=u=rwX,go=rX --directory "$work/dist" "$name" | gzip --no-name -9 >"dist/$name.tar.gz"
write_checksums
printf 'dist/%s.tar.gz: needs glibc %s\n' "$name" "$needed"
