# The command `lungadv` in a container. Not for clinical use.
#
#   docker build -t lungadv .                                                             on the CPU or a GPU
#   docker build -t lungadv --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 .        NVIDIA's own base, for a GPU
#   docker build -t lungadv --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .      smaller, on the CPU alone
#   docker run --rm -v "$PWD:/work" lungadv detect scan.mhd --out findings.csv            with --gpus all on a GPU

ARG BASE=python:3.11-slim
FROM ${BASE}
ARG PIP_EXTRA_INDEX_URL=

RUN command -v python3 >/dev/null || \
    (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)
WORKDIR /opt/lungadv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lungadv lungadv
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt '.[sr]'
ENV PATH=/opt/venv/bin:$PATH PYTHONUTF8=1
WORKDIR /work
ENTRYPOINT ["lungadv"]
