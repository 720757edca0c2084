# A site; built in the repository's top folder (docs/deployment.md, "Containers and units").
FROM python:3.11-slim-bookworm AS build
# Debian keeps no older version that could be named; engine native is compiled here
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/ppfl
# PyTorch's own index for this machine's kind: the package that pip takes by itself brings 4 GB of CUDA
ARG TORCH_INDEX
RUN /opt/ppfl/bin/pip install --no-cache-dir \
    --index-url "${TORCH_INDEX:?give --build-arg TORCH_INDEX=..., see docs/deployment.md}" \
    "torch>=2.4" "torchvision>=0.19"
COPY . /src
RUN /opt/ppfl/bin/pip install --no-cache-dir "/src[dicom]"

FROM python:3.11-slim-bookworm
# /srv/ppfl is mounted: all keys are in it, and none in the image; so are the X-rays, read-only
RUN useradd --uid 10001 --user-group --create-home --home-dir /srv/ppfl ppfl
COPY --from=build /opt/ppfl /opt/ppfl
ENV PATH="/opt/ppfl/bin:$PATH"
USER 10001:10001
WORKDIR /srv/ppfl
ENTRYPOINT ["ppfl"]
CMD ["site", "run", "site"]
