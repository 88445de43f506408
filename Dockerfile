# kintsugi for a CPU, or with CUDA:
#
#   docker build -t kintsugi .
#   docker build -t kintsugi:cuda --build-arg LIBTORCH_KIND=cuda .
#   docker run --rm -v "$PWD:/data" kintsugi demo --output-dir /data/demo
#   docker run --rm --gpus all -v "$PWD:/data" -v ~/.cache/huggingface:/cache kintsugi:cuda \
#       compare /data/checkpoint --output-dir /data/out
#
# The CUDA image needs a driver for CUDA 13 on the host and no CUDA base image: the runtime libraries come with the torch wheel.
ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-${DEBIAN} AS build
ARG LIBTORCH_KIND=cpu
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/kintsugi
# libtorch first: it is the largest layer and changes least.
COPY .cargo .cargo
RUN LIBTORCH_KIND=${LIBTORCH_KIND} .cargo/setup-libtorch.sh
COPY . .
# Only libraries go into the image, under their current paths: the binary's RUNPATH points there, and torch's libraries find
# NVIDIA's beside them.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/opt/kintsugi/target \
    cargo build --release --locked && cp target/release/kintsugi /usr/local/bin/kintsugi
RUN site=$(echo .venv/lib/python3*/site-packages) \
    && mkdir -p "/image/opt/kintsugi/$site/torch" "/image/usr/local/bin" \
    && cp -a "$site/torch/lib" "$site/torch/version.py" "/image/opt/kintsugi/$site/torch/" \
    && cp -a "$site/nvidia" "/image/opt/kintsugi/$site/" \
    && cp /usr/local/bin/kintsugi /image/usr/local/bin/

FROM debian:${DEBIAN}-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=build /image/ /
# Mount a volume at /cache to keep downloaded data and tokenizers.
ENV HF_HOME=/cache
WORKDIR /data
RUN kintsugi doctor
ENTRYPOINT ["kintsugi"]
CMD ["--help"]
