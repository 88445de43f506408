# For the scripts beside it: where things are, their tools, and the executable without libtorch.

# The oldest glibc that the executable without libtorch runs with: that of Debian 10 and RHEL 8.
glibc=2.28

python=${PYTHON:-python3}
target=${CARGO_TARGET_DIR:-target}
work=$target/packaging
tools=$work/tools/bin
triple=$(rustc -vV | sed -n 's/^host: //p')

set_up_tools() {
    if ! cmp -s packaging/requirements.txt "$work/tools/requirements.txt"; then
        "$python" -m venv --clear "$work/tools"
        "$tools/python" -m pip install --quiet --disable-pip-version-check --requirement packaging/requirements.txt
        cp packaging/requirements.txt "$work/tools/requirements.txt"
    fi
    PATH=$(cd "$tools" && pwd):$PATH
}

# Leaves maturin's wheel, which has the executable without libtorch alone, in $work/light.
build_light() {
    set_up_tools
    rm -rf "$work/light"
    maturin build --release --locked --zig --target "$triple" --compatibility "manylinux_${glibc/./_}" --out "$work/light"
}

write_checksums() {
    (cd dist && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum >SHA256SUMS)
}
