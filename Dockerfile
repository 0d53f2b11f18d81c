# Image of a GPU node: Ray, vLLM, DeepSpeed and this repository. Not yet run on real hardware.
# docker build -t rlhf .
# A CUDA 13 driver is needed on the host. The devel image has nvcc, which DeepSpeed compiles its CPU Adam with.
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04

# python3-dev: kernels are compiled against it. wget: KubeRay's probes call it. rsync: `ray up` copies files with it.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.12-dev python3.12-venv git rsync wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 rlhf
USER rlhf
WORKDIR /home/rlhf/src

# First on PATH: a Ray job's `python` is looked up there.
ENV PATH=/home/rlhf/venv/bin:$PATH \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    OMP_NUM_THREADS=1
RUN python3.12 -m venv /home/rlhf/venv
COPY --chown=rlhf pyproject.toml README.md LICENSE ./
COPY --chown=rlhf requirements/gpu.lock requirements/gpu.lock
# Without build isolation source packages (deepspeed) are built with the locked setuptools; it has to be there first.
RUN pip install --no-cache-dir --no-deps $(grep '^setuptools==' requirements/gpu.lock) \
 && pip install --no-cache-dir --no-deps $(grep '^torch==' requirements/gpu.lock) \
 && pip install --no-cache-dir --no-deps --no-build-isolation --use-pep517 -r requirements/gpu.lock
COPY --chown=rlhf rlhf rlhf
COPY --chown=rlhf serve serve
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
COPY --chown=rlhf conf conf
COPY --chown=rlhf launch launch
# launch/check.py asks them.
COPY --chown=rlhf requirements/check_platform.py requirements/check_gpu.py requirements/
